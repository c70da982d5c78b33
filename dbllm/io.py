"""The two leaves, and the driver that runs the core without a loop. Only here, and in the engine, is waited.

The core is written once, as coroutines that wait only through their leaf. `AsyncLeaf` waits with anyio (asyncio and
trio). `BlockingLeaf` has the same methods, and they block instead of suspending; so one `send(None)` runs such a
coroutine to its end. No thread, no hidden loop: it works inside a running loop, from many threads, after a fork.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from .engine import Wire, checked_engine, wires
from .errors import APITimeoutError, ConfigError, Raw
from .network import DIRECT, Network
from .pool import Pool
from .sockets import FOREVER
from .wire import Outgoing, origin

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of the core over a blocking leaf.

    Raises:
        RuntimeError: it suspended, so something in it waits elsewhere than in the leaf (a user's async function that
            really waits, in a sync client); the message names it.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    error = RuntimeError(
        f"{_waiting_in(coroutine)} waits for an event loop, and the sync Client has none: give Client plain functions "
        "only, or use AsyncClient."
    )
    try:
        coroutine.throw(error)  # what it holds is given back by its own finally blocks
    except (RuntimeError, StopIteration) as raised:
        if isinstance(raised, RuntimeError) and raised is not error:
            raise
    finally:
        coroutine.close()
    raise error


def _waiting_in(coroutine: Any) -> str:
    name = "a coroutine"
    while coroutine is not None:
        if (code := getattr(coroutine, "cr_code", None)) is not None:
            name = f"{getattr(code, 'co_qualname', code.co_name)} ({os.path.basename(code.co_filename)})"
        coroutine = getattr(coroutine, "cr_await", None)
    return name


class _Leaf(ABC):
    """All that the core waits with, in one colour; the clocks are here for tests to put others in their place."""

    name: str  # of the client, for messages
    method: str  # what a transport of this colour has
    closing: str  # what a client of this colour has

    def __init__(
        self,
        base: str,
        limit: int,
        transport: Any = None,
        client: Any = None,
        engine: str | None = None,
        network: Network = DIRECT,
    ) -> None:
        for given, argument, needed in ((transport, "transport", self.method), (client, "http_client", self.closing)):
            if given is not None and not callable(getattr(given, needed, None)):  # duck-typed: forks of httpx fit
                raise ConfigError(f"{self.name}({argument}=…) takes one with {needed}(), not {type(given).__name__}.")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"max_connections={limit!r} is a whole number from 1 up.")
        if transport is not None and client is not None:
            raise ConfigError("transport= and http_client= are two ways to say the same: pass one.")
        engine = checked_engine(engine or os.environ.get("DBLLM_ENGINE") or None)
        suspends = self.closing == "aclose"
        if network != DIRECT and (transport is not None or client is not None):
            own = "transport=" if client is None else "http_client="
            raise ConfigError(f"verify=, cert=, proxy= and trust_env= are settings of your {own}: make them there.")
        self.limit = limit

        def wires_to(to: str) -> Callable[[], Wire]:
            # `now` is looked up late, for tests put another clock in its place.
            return wires(to, suspends, lambda: self.now(), transport, client, network, engine)

        self._wires_to = wires_to
        self.new_wire = wires_to(base)
        self._homes: dict[Any, Any] = {}  # where each pool lives: a process, or one of its event loops

    now = staticmethod(time.monotonic)
    """Seconds of a clock that never goes back; deadlines are on it."""

    wall = staticmethod(time.time)
    """Epoch seconds."""

    @abstractmethod
    async def pool(self) -> Pool:
        """The pool of where this is called."""

    async def once(self, out: Outgoing) -> Raw:
        """One request on a connection of its own, to whatever host, outside `max_connections`: for tokens."""
        pool = Pool((await self.pool()).home, 1, self._wires_to(origin(out.url)))
        try:
            return await pool.send(out)
        finally:
            await pool.aclose()

    @abstractmethod
    async def thread(self, function: Callable[[], T]) -> T:
        """Call what blocks (a program, a file, somebody else's HTTP) so that no event loop waits for it."""

    async def call(self, function: Callable[[], T | Awaitable[T]]) -> T:
        """Call a user's function, sync or async."""
        result: Any = function()
        return await result if inspect.isawaitable(result) else result  # type: ignore[no-any-return]


def _left(deadline: float, now: float) -> float | None:
    return None if deadline == FOREVER else max(0.0, deadline - now)


def _too_late() -> APITimeoutError:
    return APITimeoutError("another call of this client, which this one waits for, did not end in time", sent=False)


# --- plain code -------------------------------------------------------------------------------------------------------


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


class BlockingLeaf(_Leaf):
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

    def forget(self) -> None:
        """Nobody uses it any more, and nobody closed it."""
        drive(self.aclose())
        _parents.extend(self._homes.values())

    async def aclose(self) -> None:
        """Close all connections of this process."""
        if (home := self._homes.pop(os.getpid(), None)) is not None:
            await home.pool.aclose()


_parents: list[object] = []  # homes of other processes: to close or collect their sockets would disturb the parent


# --- asyncio and trio -------------------------------------------------------------------------------------------------


def _current_loop() -> Any:
    """What the running loop is known by: asyncio's loop, or trio's token."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")  # under one, the other is never imported by us
    loop = asyncio._get_running_loop() if asyncio is not None else None
    if loop is None and trio is not None and trio.lowlevel.in_trio_run():
        loop = trio.lowlevel.current_trio_token()
    if loop is None:
        raise RuntimeError("AsyncClient needs a running event loop (asyncio or trio); in plain code use Client.")
    return loop


class _Loop:
    """Where the pool of one event loop lives; see `pool.Home`."""

    def __init__(self, leaf: AsyncLeaf, loop: Any) -> None:
        self.now, self.event = leaf.now, anyio.Event
        self._loop = loop
        self._tasks: set[Any] = set()
        self.locks: dict[str, anyio.Lock] = {}
        self.pool = Pool(self, leaf.limit, leaf.new_wire)
        self.lifetime: AsyncGenerator[None, None]

    async def wait(self, event: Any, timeout: float | None) -> bool:
        with anyio.move_on_after(timeout):
            await event.wait()
        return bool(event.is_set())

    def soon(self, thunk: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            if hasattr(self._loop, "call_soon_threadsafe"):
                self._loop.call_soon_threadsafe(self._spawn, thunk)
            else:
                self._loop.run_sync_soon(self._spawn_in_trio, thunk)
        except RuntimeError:  # the loop has ended, and its sockets with it
            pass

    def _spawn_in_trio(self, thunk: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            sys.modules["trio"].lowlevel.spawn_system_task(thunk)
        except RuntimeError:  # trio takes no tasks any more: the end of `lifetime`, just ahead, closes everything
            pass

    def _spawn(self, thunk: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(thunk())
        self._tasks.add(task)  # asyncio itself keeps no strong reference
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        await self.lifetime.aclose()

    @property
    def ended(self) -> bool:
        return bool(getattr(self._loop, "is_closed", bool)())


class AsyncLeaf(_Leaf):
    """The leaf of asyncio and trio: async HTTP and anyio. Each event loop has its own connections."""

    name, method, closing = "AsyncClient", "handle_async_request", "aclose"

    async def _home(self) -> _Loop:
        key = (os.getpid(), _current_loop())
        home: _Loop | None = self._homes.get(key)
        if home is not None:
            return home
        for old, past in list(self._homes.items()):
            if old[0] != key[0] or past.ended:
                _parents.extend([self._homes.pop(old)] if old[0] != key[0] else [])
                self._homes.pop(old, None)
        home = self._homes[key] = _Loop(self, key[1])
        home.lifetime = self._lifetime(key, home.pool)
        await anext(home.lifetime)
        await anyio.lowlevel.checkpoint()  # anyio was loaded just now: the loop gets its turn before the call goes on
        return home

    def forget(self) -> None:
        """Nobody uses it any more, and nobody closed it."""
        for (pid, _), home in list(self._homes.items()):
            if pid == os.getpid() and not home.ended:
                home.soon(home.end)

    async def _lifetime(self, key: tuple[int, object], pool: Pool) -> AsyncGenerator[None, None]:
        """Advanced once, this is closed by the loop itself when it shuts down, and closes the pool there."""
        try:
            yield
        finally:
            self._homes.pop(key, None)
            await pool.aclose()

    async def pool(self) -> Pool:
        """The pool of this event loop."""
        home = self._homes.get((os.getpid(), _current_loop()))
        return cast("Pool", (home or await self._home()).pool)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def thread(self, function: Callable[[], T]) -> T:
        """Call it in a worker thread; if this is cancelled, its result is dropped."""
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)

    @asynccontextmanager
    async def lock(self, name: str, deadline: float, *, wait: bool = True) -> AsyncIterator[bool]:
        """A lock of that name, in this loop; APITimeoutError at the deadline.

        Without `wait` it is False when another has it.
        """
        lock = (await self._home()).locks.setdefault(name, anyio.Lock())
        if not wait and lock.locked():
            yield False
            return
        try:
            with anyio.fail_after(_left(deadline, self.now())):
                await lock.acquire()
        except TimeoutError:
            raise _too_late() from None
        try:
            yield True
        finally:
            lock.release()

    async def aclose(self) -> None:
        """Close all connections of this loop; those of other live loops are closed there, soon."""
        if (home := self._homes.get((os.getpid(), _current_loop()))) is not None:
            await home.end()
        self.forget()


Leaf = AsyncLeaf | BlockingLeaf
