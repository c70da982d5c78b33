"""The backend of asyncio and trio: async HTTP and anyio; each event loop has its own connections."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from .._http.pool import Pool
from .backend import Backend, Context, T, _left, _of_parent_processes, _too_late
from .concurrency import first_success, run_bounded


def _current_loop() -> Any:
    """What identifies the running loop: asyncio's loop, or trio's token."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")  # one that runs is imported already
    loop = asyncio._get_running_loop() if asyncio is not None else None
    if loop is None and trio is not None and trio.lowlevel.in_trio_run():
        loop = trio.lowlevel.current_trio_token()
    if loop is None:
        raise RuntimeError("AsyncClient needs a running event loop (asyncio or trio); in plain code use Client.")
    return loop


class _EventLoopContext(Context):
    """The owner of the pools of one event loop."""

    def __init__(self, backend: AsyncBackend, loop: Any) -> None:
        super().__init__(backend, anyio.Event)
        self._loop = loop
        self._tasks: set[Any] = set()
        self.lifetime: AsyncGenerator[None, None]

    async def wait(self, event: Any, timeout: float | None) -> bool:
        with anyio.move_on_after(timeout):
            await event.wait()
        return bool(event.is_set())

    def call_soon(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.pid != os.getpid():  # a forked child's finalizer: see `_ProcessContext`
            return
        try:
            if hasattr(self._loop, "call_soon_threadsafe"):
                self._loop.call_soon_threadsafe(self._spawn, call)
            else:
                self._loop.run_sync_soon(self._spawn_in_trio, call)
        except RuntimeError:  # the loop has ended, and its sockets with it
            pass

    def _spawn_in_trio(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            sys.modules["trio"].lowlevel.spawn_system_task(call)
        except RuntimeError:  # trio takes no more tasks: `lifetime`, which ends next, closes everything
            pass

    def _spawn(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(call())
        self._tasks.add(task)  # asyncio keeps no strong reference to it
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        await self.lifetime.aclose()

    @property
    def ended(self) -> bool:
        return bool(getattr(self._loop, "is_closed", bool)())


class AsyncBackend(Backend):
    """The backend of asyncio and trio: async HTTP and anyio. Each event loop has its own connections."""

    name, kind, method, closing = "AsyncClient", "async", "handle_async_request", "aclose"

    async def _context(self) -> _EventLoopContext:
        key = (os.getpid(), _current_loop())
        context: _EventLoopContext | None = self._contexts.get(key)
        if context is not None:
            return context
        for old, past in list(self._contexts.items()):
            if old[0] != key[0] or past.ended:
                _of_parent_processes.extend([self._contexts.pop(old)] if old[0] != key[0] else [])
                self._contexts.pop(old, None)
        context = self._contexts[key] = _EventLoopContext(self, key[1])
        context.lifetime = self._lifetime(key, context)
        await anext(context.lifetime)
        await anyio.lowlevel.checkpoint()  # loading anyio took time: other tasks of the loop run first
        return context

    def close_when_possible(self) -> None:
        """Close each loop's connections in that loop."""
        for (pid, _), context in list(self._contexts.items()):
            if pid == os.getpid() and not context.ended:
                context.call_soon(context.end)

    async def _lifetime(self, key: tuple[int, object], context: Context) -> AsyncGenerator[None, None]:
        """Closes the pools in their loop: the loop closes this generator, advanced once, when it shuts down."""
        try:
            yield
        finally:
            self._contexts.pop(key, None)
            await context.aclose()

    async def pool(self, origin: str) -> Pool:
        """The connections of this event loop to an origin."""
        context: Context | None = self._contexts.get((os.getpid(), _current_loop()))
        return (context or await self._context()).pool(origin)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def within(self, seconds: float, waiting: Awaitable[T], late: Exception) -> T:
        """What it gives; `late` where it takes longer: it is cancelled then."""
        with anyio.move_on_after(seconds):
            return await waiting
        raise late

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """Call it in a worker thread; after a cancellation its result is dropped."""
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)

    @asynccontextmanager
    async def lock(self, name: str, deadline: float, *, wait: bool = True) -> AsyncIterator[bool]:
        """A lock of that name, in this loop; APITimeoutError at the deadline.

        Without `wait` it is False when another has it.
        """
        lock = (await self._context()).locks.setdefault(name, anyio.Lock())
        if not wait and lock.locked():
            yield False
            return
        try:
            with anyio.fail_after(_left(deadline, self.clock())):
                await lock.acquire()
        except TimeoutError:
            raise _too_late() from None
        try:
            yield True
        finally:
            lock.release()

    async def run_bounded(self, calls: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
        """The results in order; at most `limit` calls run at once. The first failure cancels the others."""
        return await run_bounded(calls, limit)

    async def first_success(
        self,
        first: Callable[[], Awaitable[T]],
        second: Callable[[], Awaitable[T]],
        delay: float,
        may_start: Callable[[], bool],
    ) -> T:
        """The result of `first`, or of `second`, which starts `delay` seconds later; the other one is cancelled."""
        return await first_success(first, second, lambda: self.sleep(delay), may_start)

    async def aclose(self) -> None:
        """Close all connections of this loop; other live loops close theirs soon."""
        if (context := self._contexts.get((os.getpid(), _current_loop()))) is not None:
            await context.end()
        self.close_when_possible()
