"""The backend of plain code: blocking HTTP, `time` and `threading`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from .._http.pool import ConnectionLimiter, Pool
from .backend import Backend, Context, T, _left, _of_parent_processes, _too_late, run_without_loop


class _ProcessContext(Context):
    """The owner of the pools of one process."""

    def __init__(self, backend: SyncBackend) -> None:
        super().__init__(backend, threading.Event)

    async def wait(self, event: Any, timeout: float | None) -> bool:
        return bool(event.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX)))

    def call_soon(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.pid == os.getpid():
            run_without_loop(call())
            return
        for pool in tuple(self.pools.values()):  # the finalizers of a forked child leave its parent's connections alone
            pool.detach()


class _Holder:
    """Whoever holds a lock."""


class SyncBackend(Backend):
    """The backend of plain code: blocking HTTP, `time` and `threading`.

    Every socket operation ends at its deadline. A name look-up (DNS) cannot be ended: the operating system makes it.
    """

    name, kind, method, closing = "Client", "sync", "handle_request", "close"

    def _context(self) -> _ProcessContext:
        pid = os.getpid()  # a forked child never touches its parent's sockets
        if (context := self._contexts.get(pid)) is None:
            context = self._contexts.setdefault(pid, _ProcessContext(self))
        return cast("_ProcessContext", context)

    async def pool(self, origin: str) -> Pool:
        """The connections of this process to an origin."""
        return self._context().pool(origin)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251 - this backend blocks on purpose

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """Call it directly: plain code may block."""
        return function()

    @asynccontextmanager
    async def lock(self, name: str, deadline: float, *, wait: bool = True) -> AsyncIterator[bool]:
        """A lock of that name; APITimeoutError at the deadline. Without `wait` it is False when another has it."""
        context = self._context()
        lock = context.locks.setdefault(name, ConnectionLimiter(1, context))
        holder = _Holder()  # who holds it is known by name, so Ctrl-C right after `acquire` leaves nothing held
        try:
            try:
                held = await lock.acquire(holder, _left(deadline, self.clock()) if wait else 0)
                if wait and not held:
                    raise _too_late()
                yield held
            finally:
                lock.release(holder)
        finally:
            lock.release(holder)  # once more, which is harmless: an interrupt may have come as the first began

    async def run_bounded(self, calls: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
        """The results in order, one after another."""
        return [await call() for call in calls]

    def close_when_possible(self) -> None:
        """Close the connections of this process, and leave those of a parent process open."""
        run_without_loop(self.aclose())
        for context in self._contexts.values():  # of a parent process
            for pool in context.pools.values():
                pool.detach()
            _of_parent_processes.append(context)

    async def aclose(self) -> None:
        """Close all connections of this process."""
        if (context := self._contexts.pop(os.getpid(), None)) is not None:
            await context.aclose()
