"""A program that runs jobs which die at a given system call, each in a fork of its own.

Each line of its input is JSON. ["start", input, output, concurrency, at, how] begins a job and prints its process id;
["wait", id] prints its exit status. The job's system calls are in the file beside the output that ends with .calls,
if it came to its end. This program has one thread and no loop when it forks.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import anyio._backends._asyncio  # noqa: F401 - loaded once, for all forks

import dbllm._http.factory  # noqa: F401
from dbllm import AsyncClient, bulk
from dbllm.bulk.journal import Disk

DEAD = 9
ENDPOINT = AsyncClient().endpoint(os.environ.get("BULK_ENDPOINT", "m"), task="chat", params={"max_tokens": 8})


class CrashingDisk(Disk):
    """Ends the process at the n-th system call: before it, after it, or in the middle of a write."""

    def __init__(self, at: int, how: str) -> None:
        self.calls: list[str] = []
        self._at, self._how = at, how

    def _reach(self, name: str) -> bool:
        """Count a call; True if the process is to end after it."""
        self.calls.append(name)
        dies = len(self.calls) - 1 == self._at
        if dies and self._how == "before":
            os._exit(DEAD)
        return dies

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        dies = self._reach("write")
        half = len(data) // 2 if dies and self._how == "half" else len(data)
        written = super().write(handle, memoryview(data)[:half])
        if dies:
            os._exit(DEAD)
        return written

    def sync(self, handle: int) -> None:
        dies = self._reach("sync")
        super().sync(handle)
        if dies:
            os._exit(DEAD)

    def truncate(self, handle: int, size: int) -> None:
        dies = self._reach("truncate")
        super().truncate(handle, size)
        if dies:
            os._exit(DEAD)

    def replace(self, source: Path, target: Path) -> None:
        dies = self._reach("replace")
        super().replace(source, target)
        if dies:
            os._exit(DEAD)

    def sync_folder(self, folder: Path) -> None:
        dies = self._reach("sync_folder")
        super().sync_folder(folder)
        if dies:
            os._exit(DEAD)


def start(source: str, output: str, concurrency: int, at: int, how: str) -> int:
    """Run one job in a fork; its process id."""
    if child := os.fork():
        return child
    os.dup2(2, 1)  # what the parent prints is read as JSON
    disk = CrashingDisk(at, how)
    options = {"prompt": "Say {text}", "concurrency": concurrency, "keep_bad_rows": True, "progress": False}
    try:
        bulk.run_sync(source, output, endpoint=ENDPOINT, disk=disk, **options)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    Path(output + ".calls").write_text(json.dumps(disk.calls))
    os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        what, *words = json.loads(line)
        said = start(*words) if what == "start" else os.waitstatus_to_exitcode(os.waitpid(words[0], 0)[1])
        print(json.dumps(said), flush=True)
