"""A stranger's first hour: from a clone to an answered cell of the notebook, by copying the README's lines in order.

    python tests/notebook/stranger.py

It copies what a clone would have, makes a new virtual environment there, and needs the package index that pip uses, and
port 8765. It types nothing that the README does not say. Of the two ways to run the notebook it takes the one without
a browser.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
LAST_SECTION = "## A notebook"
FIRST_FILE = "first.py"  # as the README calls it
WORKSPACE = "dbllm up"
NEEDS_A_BROWSER = "jupyter lab"
PATIENCE = 300.0  # seconds for one line
MOST_SECONDS = 600.0  # for all of it; it takes less than two minutes on a machine that does nothing else


class Stuck(Exception):
    """What a stranger would be stuck with."""


class Terminal:
    """A shell that stays; lines are pasted into it."""

    def __init__(self, folder: Path) -> None:
        names = ("VIRTUAL_ENV", "PYTHONPATH", "DATABRICKS_", "DBLLM_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the window: all that runs in it ends."""
        os.killpg(self._bash.pid, 15)
        self._bash.communicate()

    def run(self, line: str) -> str:
        """Paste a line and wait until it has ended; what it printed."""
        said = self.start(f'{line}\necho; echo "=== $?"', until=r"^=== \d+\n")
        shown, _, status = said.rpartition("\n=== ")
        if int(status) != 0:
            raise Stuck(f"`{line}` ended with status {int(status)}:\n{shown[-3000:]}")
        return shown

    def start(self, text: str, until: str) -> str:
        """Paste a text and wait until something is shown; what was shown up to then."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{text}\n".encode())
        self._bash.stdin.flush()
        shown, deadline = b"", time.monotonic() + PATIENCE
        while not re.search(until, shown.decode(errors="replace"), re.M):
            if time.monotonic() > deadline:
                raise Stuck(f"after {PATIENCE:.0f} s `{text}` has shown:\n{shown.decode(errors='replace')[-3000:]}")
            if select.select([self._bash.stdout], [], [], 1.0)[0]:
                piece = os.read(self._bash.stdout.fileno(), 65536)
                if not piece:
                    raise Stuck(f"`{text}` ended the shell:\n{shown.decode(errors='replace')[-3000:]}")
                shown += piece
        return shown.decode(errors="replace")


def clone(folder: Path) -> None:
    """What is or would be committed, without the history."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():  # and not deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def steps(readme: str) -> list[tuple[str, str]]:
    """The blocks of code from the top to the end of the section on the notebook: language and text."""
    begin = readme.index(LAST_SECTION)
    end = readme.index("\n## ", begin + 1)
    return re.findall(r"^```(bash|python)\n(.*?)^```$", readme[:end], re.S | re.M)


def follow(folder: Path) -> None:
    """Copy and run block after block.

    Raises:
        Stuck: with what was shown last.
    """
    with Terminal(folder) as first, Terminal(folder) as second:
        terminal, scripts = first, 0
        for language, text in steps((folder / "README.md").read_text("utf-8")):
            if NEEDS_A_BROWSER in text:
                continue
            if language == "python":
                (folder / FIRST_FILE).write_text(text)
                scripts += 1
                lines = [f"python {FIRST_FILE}"]
            else:
                lines = text.splitlines()
            for line in lines:
                began = time.monotonic()
                if line == WORKSPACE:
                    said = terminal.start(line, until="# ready|rror")
                    if "rror" in said:
                        raise Stuck(said)
                    terminal = second
                else:
                    said = terminal.run(line)
                if language == "python" and not said.strip():
                    raise Stuck(f"this prints nothing:\n{text}")
                print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
        if terminal is first or scripts < 4:
            raise Stuck("the README does not start a workspace and call it")


def answers(folder: Path) -> list[str]:
    """What the notebook's cells show.

    Raises:
        Stuck: one of them failed.
    """
    cells = json.loads((folder / "examples" / "answers.ipynb").read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    failed = [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    if failed:
        raise Stuck(f"a cell of the notebook shows: {failed[0]}")
    return ["".join(output["data"]["text/plain"]) for output in outputs if output["output_type"] == "execute_result"]


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "dbllm")
        clone(folder)
        try:
            follow(folder)
            shown = answers(folder)
        except Stuck as error:
            print(f"A stranger is stuck: {error}", file=sys.stderr)
            return 1
    took = time.monotonic() - began
    print(f"From the clone to {len(shown)} answered cells in {took:.0f} s; the first: {shown[0][:60]}…")
    if not shown or took > MOST_SECONDS:
        print("That is too few, or too long.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
