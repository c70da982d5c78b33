"""The two backends, and the driver that runs the core without a loop. Only here, and in the engine, is waited.

The core is written once, as coroutines that wait only through their backend. `AsyncBackend` waits with anyio (asyncio
and trio). `SyncBackend` has the same methods, and they block instead of suspending; so one `send(None)` runs such a
coroutine to its end. No thread, no hidden loop: it works inside a running loop, from many threads, after a fork.
"""

from __future__ import annotations

import inspect
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from .._deadline import FOREVER
from .._http.factory import checked_engine, connection_factory
from .._http.pool import ConnectionLimiter, Pool
from .._http.request import HttpRequest
from .._http.tls import DEFAULT_NETWORK, Network
from .._urls import origin
from ..errors import APITimeoutError, ConfigError, Raw

if TYPE_CHECKING:
    from .._http.factory import Connection

T = TypeVar("T")


def run_without_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of the core over a blocking backend.

    Raises:
        RuntimeError: it suspended, so something in it waits elsewhere than in the backend (a user's async function that
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


class Context:
    """Where pools live: a process, or one of its event loops; see `pool.LoopContext`."""

    def __init__(self, backend: Backend, event: Callable[[], Any]) -> None:
        self.clock, self.event = backend.clock, event
        self.locks: dict[str, Any] = {}
        self.limiter = ConnectionLimiter(backend.limit, self)
        self.pools: dict[str, Pool] = {}
        self._connections_to = backend.connections_to

    async def wait(self, event: Any, timeout: float | None) -> bool:
        """Whether the event was set in time."""
        raise NotImplementedError

    def call_soon(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it here, from any thread."""
        raise NotImplementedError

    def pool(self, origin: str) -> Pool:
        """The connections to an origin; those to all origins share one limit."""
        if (pool := self.pools.get(origin)) is None:
            pool = self.pools.setdefault(origin, Pool(self, self.limiter, self._connections_to(origin)))
        return pool

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in tuple(self.pools.values()):
            await pool.aclose()


class Backend(ABC):
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
        network: Network = DEFAULT_NETWORK,
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
        if network != DEFAULT_NETWORK and (transport is not None or client is not None):
            own = "transport=" if client is None else "http_client="
            raise ConfigError(f"verify=, cert=, proxy= and trust_env= are settings of your {own}: make them there.")
        self.limit = limit

        def connections_to(to: str) -> Callable[[], Connection]:
            # `now` is looked up late, for tests put another clock in its place.
            return connection_factory(to, suspends, lambda: self.clock(), transport, client, network, engine)

        self.connections_to = lru_cache(maxsize=64)(connections_to)
        connections_to(base)  # settings that cannot be used are an error now, and not in the first call
        self._contexts: dict[Any, Any] = {}  # where each pool lives: a process, or one of its event loops

    clock = staticmethod(time.monotonic)
    """Seconds of a clock that never goes back; deadlines are on it."""

    wall_clock = staticmethod(time.time)
    """Epoch seconds."""

    @abstractmethod
    async def pool(self, origin: str) -> Pool:
        """The connections to an origin, of where this is called."""

    async def send_unpooled(self, out: HttpRequest) -> Raw:
        """One request on a connection of its own, to whatever host, outside `max_connections`: for tokens."""
        base = origin(out.url)
        context = (await self.pool(base)).context
        pool = Pool(context, ConnectionLimiter(1, context), self.connections_to(base))
        try:
            return await pool.send(out)
        finally:
            await pool.aclose()

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    def lock(self, name: str, deadline: float, *, wait: bool = True) -> AbstractAsyncContextManager[bool]:
        """A lock of that name; APITimeoutError at the deadline. Without `wait` it is False when another has it."""

    @abstractmethod
    async def run_bounded(self, calls: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
        """The results in order. The first failure ends the others, and is raised."""

    @abstractmethod
    def close_when_possible(self) -> None:
        """Nobody uses it any more, and nobody closed it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections of where this is called."""

    @abstractmethod
    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """Call what blocks (a program, a file, somebody else's HTTP) so that no event loop waits for it."""

    async def call_user_function(self, function: Callable[[], T | Awaitable[T]]) -> T:
        """Call a user's function, sync or async."""
        result: Any = function()
        return await result if inspect.isawaitable(result) else result  # type: ignore[no-any-return]


def _left(deadline: float, now: float) -> float | None:
    return None if deadline == FOREVER else max(0.0, deadline - now)


def _too_late() -> APITimeoutError:
    return APITimeoutError("another call of this client, which this one waits for, did not end in time", sent=False)


# Kept alive after a fork on purpose: closing the parent's sockets here would break them there.
_of_parent_processes: list[object] = []
