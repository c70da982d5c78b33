"""The command on a terminal of its own, as a person sees it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

DBLLM = [sys.executable, "-m", "dbllm"]
PATIENCE = 60.0  # seconds


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, arguments: Sequence[str], environ: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*DBLLM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"TERM": "xterm", **environ},
            start_new_session=True,
        )
        os.close(slave)
        self.seen = b""

    def read_until(self, wanted: Callable[[bytes], bool]) -> bytes:
        """All that was shown, up to where it is enough."""
        deadline = time.monotonic() + PATIENCE
        while not wanted(self.seen):
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()  # no other test is to hear of it
                raise AssertionError(f"it did not come: {self.seen!r}")
            if select.select([self._master], [], [], 1.0)[0]:
                self.seen += os.read(self._master, 4096)
        return self.seen

    def type(self, text: bytes) -> None:
        """What a person types."""
        os.write(self._master, text)

    def end(self) -> int:
        """Read what remains, and the exit status."""
        try:
            while piece := os.read(self._master, 4096):
                self.seen += piece
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
        os.close(self._master)
        return self.process.wait(PATIENCE)
