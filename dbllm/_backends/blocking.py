"""The backend of plain code: blocking HTTP, `time` and `threading`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from .._http.pool import Pool
from .backend import Leaf, T, _left, _parents, _too_late, drive


class _Process:
    """Where the blocking pool of one process lives; see `pool.Home`."""

    def __init__(self, leaf: BlockingLeaf) -> None:
        self.now, self.event = leaf.now, threading.Event
        self.locks: dict[str, threading.Lock] = {}
        self.pool = Pool(self, leaf.limit, leaf.new_wire)

    async def wait(self, event: Any, timeout: float | None) -> bool:
        return bool(event.wait(timeout))

    def soon(self, thunk: Callable[[], Coroutine[Any, Any, None]]) -> None:
        drive(thunk())


class BlockingLeaf(Leaf):
    """The leaf of plain code: blocking HTTP, `time` and `threading`.

    Every socket operation is cut at its deadline; a name look-up (DNS) is the operating system's and cannot be cut.
    """

    name, method, closing = "Client", "handle_request", "close"

    def _home(self) -> _Process:
        pid = os.getpid()  # a forked child never touches its parent's sockets
        if (home := self._homes.get(pid)) is None:
            home = self._homes.setdefault(pid, _Process(self))
        return cast("_Process", home)

    async def pool(self) -> Pool:
        """The pool of this process."""
        return self._home().pool

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251 - to block is what this leaf is for

    async def thread(self, function: Callable[[], T]) -> T:
        """Call it here: plain code waits for what it calls."""
        return function()

    @asynccontextmanager
    async def lock(self, name: str, deadline: float, *, wait: bool = True) -> AsyncIterator[bool]:
        """A lock of that name; APITimeoutError at the deadline. Without `wait` it is False when another has it."""
        lock = self._home().locks.setdefault(name, threading.Lock())
        left = _left(deadline, self.now())
        if not wait:
            held = lock.acquire(blocking=False)
        elif not (held := lock.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX))):
            raise _too_late()
        try:
            yield held
        finally:
            if held:
                lock.release()

    async def gather(self, thunks: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
        """The results in order, one after another."""
        return [await thunk() for thunk in thunks]

    def forget(self) -> None:
        """Nobody uses it any more, and nobody closed it."""
        drive(self.aclose())
        for home in self._homes.values():  # of a parent process
            home.pool.detach()
            _parents.append(home)

    async def aclose(self) -> None:
        """Close all connections of this process."""
        if (home := self._homes.pop(os.getpid(), None)) is not None:
            await home.pool.aclose()
