"""What a program holds open: sockets, files, tasks, threads and connections of clients; and what is left after a block.

    with leaks(client):
        ...                       # AssertionError if anything that was opened here is still open afterwards

Open files and sockets are read from /proc (Linux). Elsewhere their numbers are tried one by one up to 1,024, without
their names.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_FOLDER = "/proc/self/fd"
_HIGHEST = 1024
_SHARED_THREADS = ("AnyIO worker thread", "Trio thread")  # they wait for more work, and end by themselves


@dataclass(frozen=True, slots=True)
class Census:
    """What is open. Of each kind: an identity → what it is, in words.

    Attributes:
        sockets, files: by their number and what they lead to.
        tasks: of the running event loop (asyncio or trio), apart from the one that asks.
        threads: that are alive.
        connections: by client: those in use, or waited for.
    """

    sockets: Mapping[object, str] = field(default_factory=dict)
    files: Mapping[object, str] = field(default_factory=dict)
    tasks: Mapping[object, str] = field(default_factory=dict)
    threads: Mapping[object, str] = field(default_factory=dict)
    connections: Mapping[object, int] = field(default_factory=dict)

    def leaked(self, before: Census) -> list[str]:
        """What is open here and was not open before, one line each."""
        found = []
        for kind in ("sockets", "files", "tasks", "threads"):
            earlier = getattr(before, kind)
            found += [f"{kind}: {text}" for key, text in getattr(self, kind).items() if key not in earlier]
        for key, count in self.connections.items():
            if count > before.connections.get(key, 0):
                found.append(f"connections: {count} in use, {before.connections.get(key, 0)} before")
        return found


def take_census(*clients: Any) -> Census:
    """What is open now; with clients, also which of their connections are in use."""
    sockets: dict[object, str] = {}
    files: dict[object, str] = {}
    for number, target in _descriptors():
        if target == os.devnull:  # uvloop keeps one, and opens it late
            continue
        (sockets if target.startswith("socket") else files)[number, target] = f"{number} → {target}"
    own = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not own]
    threads: dict[object, str] = {one: repr(one) for one in others if not one.name.startswith(_SHARED_THREADS)}
    counts: dict[object, int] = {}
    for client in clients:
        stats = client.stats()
        counts[id(client)] = stats.connections_in_use + stats.waiting
    return Census(sockets, files, _tasks(), threads, counts)


def descriptor_numbers() -> list[str]:
    """The numbers of open files and sockets; cheap where there is a /proc, empty elsewhere."""
    try:
        return os.listdir(_FOLDER)
    except OSError:
        return []


@contextmanager
def leaks(*clients: Any, patience: float = 2.0) -> Iterator[None]:
    """Fail if the block leaves more open than there was before.

    Args:
        clients: whose connections are counted as well.
        patience: seconds for what is still ending. Within an event loop nothing is waited for, as that would stop the
            loop: enter and leave it outside, or wait before the end of the block.

    Raises:
        AssertionError: it lists what is left.
    """
    before = take_census(*clients)
    yield
    left = wait_for_end(lambda: take_census(*clients).leaked(before), 0.0 if _in_loop() else patience)
    if left:
        raise AssertionError("left open:\n" + "\n".join(left))


def wait_for_end(look: Callable[[], list[str]], patience: float) -> list[str]:
    """What `look` still finds after so many seconds, or sooner if it finds nothing."""
    until = time.monotonic() + patience
    while (left := look()) and time.monotonic() < until:
        time.sleep(0.005)
    return left


def _descriptors() -> Iterator[tuple[int, str]]:
    try:
        numbers = [int(name) for name in os.listdir(_FOLDER)]
    except OSError:
        yield from _tried_descriptors()
        return
    for number in numbers:
        try:
            yield number, os.readlink(f"{_FOLDER}/{number}")
        except OSError:  # the folder's own, closed by now
            continue


def _tried_descriptors() -> Iterator[tuple[int, str]]:
    for number in range(_HIGHEST):
        try:
            found = os.fstat(number)
        except OSError:
            continue
        kind = "socket" if stat.S_ISSOCK(found.st_mode) else "file"
        yield number, f"{kind}:[{found.st_ino}]"


def _in_loop() -> bool:
    trio = sys.modules.get("trio")
    return asyncio._get_running_loop() is not None or (trio is not None and trio.lowlevel.in_trio_run())


def _tasks() -> dict[object, str]:
    if asyncio._get_running_loop() is not None:
        return {task: repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return {}
    found: dict[object, str] = {}
    root, own = trio.lowlevel.current_root_task(), trio.lowlevel.current_task()
    waiting: list[Any] = [root]
    while waiting:
        task = waiting.pop()
        if task not in (root, own):
            found[task] = repr(task)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found
