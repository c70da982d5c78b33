"""A program that runs jobs which die at a given system call, each in a fork of its own.

Each line of its input is JSON: [input, output, at, how]; for each it prints [exit status, names of the system calls].
It has one thread and no loop when it forks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pydantic  # noqa: F401 - loaded once, for all forks

from dbllm import AsyncClient, bulk
from dbllm.bulk.journal import Disk

DEAD = 9


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


def run_in_fork(source: str, output: str, at: int, how: str) -> tuple[int, list[str]]:
    """Run one job; its exit status, and the system calls of one that came to its end."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(said or "[]")
    os.close(reading)
    disk = CrashingDisk(at, how)
    endpoint = AsyncClient().endpoint("m", task="chat")
    bulk.run_sync(source, output, endpoint=endpoint, prompt="Say {text}", concurrency=2, disk=disk, progress=False)
    os.write(writing, json.dumps(disk.calls).encode())
    os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run_in_fork(*json.loads(line))), flush=True)
