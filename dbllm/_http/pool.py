"""The connections of one home (an event loop, or a process in plain code), and the exchanges over them.

One text for both colours: it waits only through what its `LoopContext` hands it.

Each call in flight has an engine connection to itself, taken from a LIFO stack. The engine's own pool is never asked
for a second connection, so neither its queue (quadratic in calls) nor its bookkeeping of cancelled waiters is ever
used. How many may be open at once is decided here, by permits that belong to the exchange itself: whatever interrupts
whom, the question is who still holds one, never what a counter says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet, ref

from .._deadline import FOREVER
from ..errors import APIConnectionError, APIError, APIResponseError, APITimeoutError, Raw
from .connection import H1Connection
from .request import HttpRequest

if TYPE_CHECKING:
    from .factory import Connection

IDLE_SECONDS = 4.0  # below the 5 s after which common servers (uvicorn, node) close an idle connection
MAX_BODY = 256 * 2**20  # bytes after decompression; a model's answer is far below, a compression bomb is not
MAX_KEPT = 2**20  # bytes of an answer that is an error, or failed on the way
MOST_PARTS = 4096  # pieces that are not put together yet: each takes more memory than it has bytes, if they are few


class Signal(Protocol):
    """What a waiter waits for."""

    def set(self) -> object: ...


class LoopContext(Protocol):
    """What only the backend can do for a pool."""

    def event(self) -> Signal: ...
    async def wait(self, event: Any, timeout: float | None) -> bool: ...  # whether it was set in time
    def clock(self) -> float: ...  # the clock of deadlines, in seconds
    def call_soon(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None: ...  # run it here, from any thread


class ConnectionLimiter:
    """At most `limit` holders of a permit (exchanges) at once; those that wait are served in order.

    A permit is handed over inside `release`, before its new holder wakes: no one can slip in between, and a waiter
    that is interrupted while it wakes gives back what it already holds.

    It knows its holders weakly: who is lost on the way, by an interrupt between two lines, gives back its permit as it
    is finalised. That may be in the middle of what is done here, so the lock can be taken twice.
    """

    def __init__(self, limit: int, context: LoopContext, waits: list[int] | None = None) -> None:
        self._limit = limit
        self._waits = [0] if waits is None else waits  # how often somebody had to wait: one number, shared by loops
        self._context = context
        self._lock = threading.RLock()
        self._waiting: dict[Any, Signal] = {}
        self._holders: dict[int, ref[Any]] = {}  # by identity

    async def acquire(self, holder: object, timeout: float | None, request: HttpRequest | None = None) -> bool:
        """Whether a permit came in time; `request` is told how long it had to wait."""
        try:
            with self._lock:
                if len(self._holders) < self._limit and not self._waiting:
                    self._holders[id(holder)] = ref(holder, self._lost)
                    return True
                event = self._waiting[holder] = self._context.event()
                self._waits[0] += 1
            began = self._context.clock()
            came = await self._context.wait(event, timeout)
            if request is not None:
                request.queued += self._context.clock() - began
            if came:
                return True
        except BaseException:
            self.release(holder)
            raise
        self.release(holder)
        return False

    @property
    def waiting(self) -> int:
        """How many wait for a permit."""
        return len(self._waiting)

    def resize(self, limit: int) -> None:
        """Allow more or fewer from the next release on."""
        self._limit = limit

    @property
    def in_use(self) -> int:
        """How many hold a permit."""
        return len(self._holders)

    @property
    def holders(self) -> set[Any]:
        """Who holds a permit."""
        return {holder for known in tuple(self._holders.values()) if (holder := known()) is not None}

    def release(self, holder: object) -> None:
        """Give back the permit, or the place in the queue; who has neither changes nothing."""
        with self._lock:
            self._waiting.pop(holder, None)
            self._holders.pop(id(holder), None)
            while self._waiting and len(self._holders) < self._limit:
                following, event = next(iter(self._waiting.items()))
                self._holders[id(following)] = ref(following, self._lost)
                del self._waiting[following]
                event.set()

    def _lost(self, dead: ref[Any]) -> None:
        """A holder is gone that has not released its permit."""
        for place, known in tuple(self._holders.items()):
            if known is dead:
                del self._holders[place]
        self._context.call_soon(self._hand_on)

    async def _hand_on(self) -> None:
        self.release(None)  # to those that wait, in their own loop


class Exchange:
    """One request and its answer, on a connection that is its own until the answer is read to its end."""

    __slots__ = ("__weakref__", "_pool", "connection", "headers", "status")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.connection: Connection | None = None
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def __del__(self) -> None:
        if self.connection is not None:
            self.close_soon()

    async def open(self, out: HttpRequest) -> Connection:
        """Wait for a permit, and take a connection for this request."""
        pool = self._pool
        left = out.deadline - pool.context.clock()
        patience = left if out.queue is None else min(left, out.queue)
        if left <= 0:
            hint = "What came before took it: earlier attempts, Limits, a hook, a function for tokens. Allow more."
            raise APITimeoutError("the call's time was up before it could be sent", hint=hint, sent=False)
        if not await pool.limiter.acquire(self, None if patience == FOREVER else patience, out):
            hint = "More calls are under way than max_connections allows: raise it, or send fewer at a time."
            raise APITimeoutError(f"no free connection within {patience:.1f} s", hint=hint, sent=False)
        if pool.closed:
            raise APIConnectionError("the client was closed while this call waited", sent=False)
        connection = pool.acquire_connection(self, out.fresh)
        connection.set_deadline(out.deadline)
        while pool.stale:
            await pool.stale.pop().close()
        return connection

    async def read(self, deadline: float) -> bytes:
        """The next piece of the body; b"" at its end, and ever after."""
        connection = self.connection
        if connection is None:
            return b""
        connection.set_deadline(deadline)
        piece = await connection.read()
        if connection.finished and not self._pool.release(self, connection):
            await self.aclose()
        return piece

    async def read_all(self, deadline: float, start: bytes = b"") -> bytes:
        """The body, of which `start` has been read; of an error its first 1 MiB.

        Raises:
            APIResponseError: it is over 256 MiB.
        """
        parts, size = [start] if start else [], len(start)
        try:
            while self.connection is not None:
                parts.append(await self.read(deadline))
                size += len(parts[-1])
                if size > MAX_BODY:
                    raise APIResponseError(f"the answer is over {MAX_BODY} bytes", raw=Raw(self.status, self.headers))
                if self.status >= 400 and size > MAX_KEPT:  # what an error says stands at its beginning
                    parts = [b"".join(parts)[:MAX_KEPT]]
                    await self.aclose()
                elif len(parts) > MOST_PARTS:
                    parts = [b"".join(parts)]
        except APIError as error:
            if any(parts):  # what had come
                error.raw = Raw(self.status, self.headers, b"".join(parts)[:MAX_KEPT])
            parts.clear()  # a traceback may show local variables
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def is_cut_off(self) -> bool:
        """Whether the client was closed while it was under way."""
        return self._pool.closed

    async def close_after(self, error: BaseException | None) -> None:
        """End it, for something that went wrong or for nothing."""
        if isinstance(error, GeneratorExit):  # nothing may be awaited any more
            self.close_soon()
        else:
            await self.aclose()

    async def aclose(self) -> None:
        """End it; a connection whose answer was not read to its end is never used again."""
        connection, self.connection = self.connection, None
        self._pool.limiter.release(self)
        if connection is not None:
            await connection.close()

    def close_soon(self) -> None:
        """End it from where nothing can be awaited: a finalizer, or a coroutine that is being closed."""
        self._pool.context.call_soon(self.aclose)


class Pool:
    """The open connections of one home."""

    def __init__(
        self, context: LoopContext, limiter: ConnectionLimiter, new_connection: Callable[[], Connection]
    ) -> None:
        self.context, self.limiter = context, limiter
        self._new_connection = new_connection  # a connection, not dialled yet
        # A stack: the last one used is the warmest, the first one the next to expire.
        self._idle: list[tuple[Connection, float]] = []
        self.stale: list[Connection] = []  # to be closed by whoever comes next
        self._connections: WeakSet[Connection] = WeakSet()  # all: an interrupt may fall between two who hold one
        self.closed = False

    async def send(self, out: HttpRequest) -> Raw:
        """Send a request and read the whole answer.

        Raises:
            APIConnectionError, APITimeoutError: no answer, or not all of it.
            APIResponseError: a body over 256 MiB.
        """
        exchange = Exchange(self)
        try:  # as in `open`: no step of its own, for an answer is waited for through every coroutine that is open
            connection = await exchange.open(out)
            exchange.status, exchange.headers = await connection.send(out)
            body = await exchange.read_all(out.deadline)
        except BaseException as error:
            await exchange.close_after(error)
            raise
        return Raw(exchange.status, exchange.headers, body)

    async def open(self, out: HttpRequest) -> Exchange:
        """Send a request and wait for the answer's head; the caller reads and closes."""
        exchange = Exchange(self)
        try:
            connection = await exchange.open(out)
            exchange.status, exchange.headers = await connection.send(out)
        except BaseException as error:
            await exchange.close_after(error)
            raise
        return exchange

    @property
    def idle(self) -> int:
        """How many open connections wait for the next call."""
        return len(self._idle)

    def acquire_connection(self, exchange: Exchange, fresh: bool = False) -> Connection:
        """The warmest idle connection, or a new one. It is the exchange's at once, so that an interrupt loses none.

        A `fresh` one is new, and takes the place of an idle one, so that there are no more of them than calls at once.
        """
        expired = self.context.clock() - IDLE_SECONDS
        try:
            while self._idle[0][1] < expired:
                self.stale.append(self._idle.pop(0)[0])
            exchange.connection = self._idle.pop()[0]
            while fresh or not exchange.connection.ready:
                self.stale.append(exchange.connection)
                if fresh:
                    raise IndexError
                exchange.connection = self._idle.pop()[0]
        except IndexError:  # none is left, another thread was quicker, or a new one is asked for
            exchange.connection = self._new_connection()
            self._connections.add(exchange.connection)
        return exchange.connection

    def release(self, exchange: Exchange, connection: Connection) -> bool:
        """The answer was read to its end: whether its connection may serve the next call."""
        if self.closed or not connection.reusable:
            return False
        exchange.connection = None
        self._idle.append((connection, self.context.clock()))
        self.limiter.release(exchange)
        return True

    def detach(self) -> None:
        """In a forked child: leave the parent's connections open, without a warning that they are."""
        for connection in tuple(self._connections):
            if isinstance(connection, H1Connection):
                connection.detach()

    async def aclose(self) -> None:
        """Close all connections, also those in use: their calls fail, and so do those that wait for one."""
        self.closed = True
        connections = tuple(self._connections)  # held until each is closed: the set itself is weak
        self._idle.clear()
        self.stale.clear()
        for exchange in tuple(self.limiter.holders):
            await exchange.aclose()
        for connection in connections:
            await connection.close()
