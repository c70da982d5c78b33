"""What both backends share, and what runs the core without an event loop. All waiting happens here and in `_http`.

The core is written once, as coroutines that wait only through their backend. `AsyncBackend` waits with anyio (asyncio
and trio). The methods of `SyncBackend` block and never suspend, so one `send(None)` runs a coroutine to its end. There
is no thread and no hidden loop: this works inside a running loop, from many threads, and after a fork.
"""

from __future__ import annotations

import inspect
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from .._deadline import FOREVER
from .._http.factory import checked_engine, connection_factory
from .._http.pool import ConnectionLimiter, Pool
from .._http.request import HttpRequest
from .._http.tls import DEFAULT_NETWORK, Network, proxy_headers, tls_and_proxy
from .._lazy import WholeImport
from .._urls import origin
from ..errors import APITimeoutError, ConfigError, Raw

if TYPE_CHECKING:
    from .._http.factory import Connection

T = TypeVar("T")


def run_without_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of the core over a blocking backend.

    Raises:
        RuntimeError: the coroutine suspended, so something in it does not wait through the backend (for example a
            user's async function in a sync client); the message names it.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    error = RuntimeError(
        f"{_waiting_in(coroutine)} waits for an event loop, and Client has none: give Client plain functions only, or "
        "use AsyncClient."
    )
    try:
        coroutine.throw(error)  # so that its finally blocks release what it holds
    except (RuntimeError, StopIteration) as raised:
        if isinstance(raised, RuntimeError) and raised is not error:
            raise
    finally:
        coroutine.close()
    raise error


def _waiting_in(coroutine: Any) -> str:
    """The innermost function of the user's, who knows no other; else the innermost one."""
    name, its_own = "a coroutine", False
    others = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__)))
    while coroutine is not None:
        if (code := getattr(coroutine, "cr_code", None)) is not None:
            file = code.co_filename
            is_users = not file.startswith(others) and "site-packages" not in file
            if is_users or not its_own:
                name = f"{getattr(code, 'co_qualname', code.co_name)} ({os.path.basename(file)})"
            its_own = its_own or is_users
        coroutine = getattr(coroutine, "cr_await", None)
    return name


class Context(ABC):
    """A process or one of its event loops: the owner of pools; see `pool.LoopContext`."""

    def __init__(self, backend: Backend, event: Callable[[], Any]) -> None:
        self.clock, self.event, self.pid = backend.clock, event, os.getpid()
        self.locks: dict[str, Any] = {}
        self.limiter = ConnectionLimiter(backend.limit, self, backend.waits)
        self.pools: dict[str, Pool] = {}
        self._connections_to = backend.connections_to

    @abstractmethod
    async def wait(self, event: Any, timeout: float | None) -> bool:
        """Wait for an event; whether it was set in time."""

    @abstractmethod
    def call_soon(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it here, from any thread."""

    def pool(self, origin: str) -> Pool:
        """The connections to an origin; all origins share one limit."""
        if (pool := self.pools.get(origin)) is None:
            pool = self.pools.setdefault(origin, Pool(self, self.limiter, self._connections_to(origin)))
        return pool

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in tuple(self.pools.values()):
            await pool.aclose()


class Backend(ABC):
    """Everything the core waits with, in one mode. Tests replace its clocks."""

    name: str  # of the client, for messages
    kind: str  # what httpx's classes of this mode are
    method: str  # a transport of this mode has this method
    closing: str  # a client of this mode has this method
    refreshed: Callable[..., Awaitable[None]] | None = None  # is called with the fields of a `TokenRefresh`

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
            if isinstance(given, type):
                called = f"{given.__module__.partition('.')[0]}.{given.__name__}"
                raise ConfigError(f"{argument}= is the class {called}: pass an object of it, {called}(…).")
            if given is not None and not callable(getattr(given, needed, None)):  # duck-typed: forks of httpx fit
                raise ConfigError(
                    f"{self.name}: {argument} must have a method {needed}(), got {type(given).__name__}: pass one of "
                    f"httpx's {self.kind} classes."
                )
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"max_connections must be an integer, 1 or more, got {limit!r:.80}.")
        if transport is not None and client is not None:
            raise ConfigError("pass either transport= or http_client=, not both.")
        engine = checked_engine(engine or os.environ.get("DBLLM_ENGINE") or None)
        suspends = self.closing == "aclose"
        if network != DEFAULT_NETWORK and (transport is not None or client is not None):
            own = "transport=" if client is None else "http_client="
            raise ConfigError(f"verify=, cert=, proxy= and trust_env= have no effect on your {own}: set them there.")
        self.limit = limit
        others = transport is not None or client is not None or tls_and_proxy(base, network)[1] is not None
        self.engine = "httpx" if others else engine if suspends or engine == "httpx" else "h11"  # what calls go over

        def connections_to(to: str) -> Callable[[], Connection]:
            # The clock is looked up at each call, because tests replace it.
            return connection_factory(to, suspends, lambda: self.clock(), transport, client, network, engine)

        self.connections_to = lru_cache(maxsize=64)(connections_to)
        self.proxy_headers: Mapping[str, str] = proxy_headers(base, network)
        if transport is not None or client is not None:
            with WholeImport():
                from .._http.libraries import OwnSecrets  # here: most clients have no transport of the user's

            self.proxy_headers = OwnSecrets(client or transport)
        connections_to(base)  # so that settings which cannot be used fail now, and not in the first call
        self.waits = [0]  # how often a call had to wait for a connection
        self._contexts: dict[Any, Any] = {}  # the owners of pools: processes, or event loops

    clock = staticmethod(time.monotonic)
    """Seconds of a clock that never goes back; deadlines use it."""

    wall_clock = staticmethod(time.time)
    """Epoch seconds."""

    @abstractmethod
    async def pool(self, origin: str) -> Pool:
        """The connections to an origin, for the event loop or process that calls this."""

    def connections(self) -> tuple[int, int, int, int]:
        """Of this process: connections in use, idle ones, calls that wait for one, and how often one had to wait."""
        pid = os.getpid()
        contexts = [context for context in list(self._contexts.values()) if context.pid == pid]
        in_use = sum(context.limiter.in_use for context in contexts)
        idle = sum(pool.idle for context in contexts for pool in list(context.pools.values()))
        return in_use, idle, sum(context.limiter.waiting for context in contexts), self.waits[0]

    async def send_unpooled(self, out: HttpRequest) -> Raw:
        """Send one request on a new connection, to any host, outside `max_connections`: for tokens."""
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

    async def within(self, seconds: float, waiting: Awaitable[T], late: Exception) -> T:
        """What a user's function gives; `late` where it takes longer: it is cancelled then. Plain code cannot."""
        return await waiting

    @abstractmethod
    def lock(self, name: str, deadline: float, *, wait: bool = True) -> AbstractAsyncContextManager[bool]:
        """A lock of that name; APITimeoutError at the deadline. Without `wait` it is False when another has it."""

    @abstractmethod
    async def run_bounded(self, calls: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
        """Run the calls; the results in order. The first failure ends the others, and is raised."""

    async def first_success(
        self,
        first: Callable[[], Awaitable[T]],
        second: Callable[[], Awaitable[T]],
        delay: float,
        may_start: Callable[[], bool],
    ) -> T:
        """The result of `first`, or of `second`, which starts `delay` seconds later; plain code runs `first` only."""
        return await first()

    @abstractmethod
    def close_when_possible(self) -> None:
        """Close all connections, when no client uses them any more and none was closed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections of the event loop or process that calls this."""

    @abstractmethod
    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """Call a function that blocks (a program, a file, another library's HTTP) without blocking an event loop."""

    async def call_user_function(
        self, function: Callable[[], T | Awaitable[T]], seconds: float = FOREVER, late: Exception | None = None
    ) -> T:
        """Call a user's function, sync or async; `late` where an async one takes longer, as `within` has it."""
        result: Any = function()
        if not inspect.isawaitable(result):
            return result  # type: ignore[no-any-return]
        try:
            return await (result if late is None else self.within(seconds, result, late))
        except RuntimeError as error:
            if "no running event loop" not in str(error):
                raise
            raise RuntimeError(
                f"{_waiting_in(result)} waits for asyncio's event loop, and none runs here: give Client plain "
                "functions only, or use AsyncClient in asyncio."
            ) from error


def _left(deadline: float, now: float) -> float | None:
    return None if deadline == FOREVER else max(0.0, deadline - now)


def _too_late() -> APITimeoutError:
    return APITimeoutError("this call waited for another call of the client, which did not end in time", sent=False)


# Kept alive after a fork on purpose: closing the parent's sockets here would break them there.
_of_parent_processes: list[object] = []
