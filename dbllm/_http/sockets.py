"""One socket, in the three ways of waiting: asyncio's, trio's, and plain code's. All have the same methods.

`connect`, `write` and `read` (b"" when the other end has closed) raise OSError or an error of anyio's; `close` gives
the socket up at once; `is_idle` says that nothing has come, not even an end, and that nothing waits to be sent.

asyncio's is a protocol of its own: a byte stream on top of one (its locks, its turns of the loop for each operation)
costs more than the rest of a call.

Each operation ends at the deadline `until`, on the backend's clock, by TimeoutError: a dripping server is cut off too,
and so is one that takes a request slowly.

A server may answer before it has read the whole request (413, say): what the kernel does not take of a request at once
is sent while the answer is awaited. `arrived` takes what comes meanwhile where `write` itself has to wait (trio): it
says whether that is an answer. A socket whose request was not sent whole is not idle ever after.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import anyio

from .._deadline import FOREVER, seconds_left
from .._lazy import WholeImport
from .blocking_socket import PIECE, BlockingSocket, no_answer, poller
from .dialling import RACE, dial

if TYPE_CHECKING:
    import asyncio
_SMALL = 16384  # bytes that a kernel takes at once, however slow the receiver is
_AHEAD = 4 * PIECE  # bytes that wait for a slow reader before asyncio stops reading for it


class AsyncioSocket:
    """A socket of an asyncio loop (or uvloop's): an `asyncio.Protocol` by its methods."""

    in_asyncio = True

    def __init__(self, now: Callable[[], float]) -> None:
        import asyncio  # here: plain code never needs it

        self.until = FOREVER
        self.arrived = no_answer
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._plain: Any = None  # the transport beneath TLS; without TLS, the same
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._poll: Callable[[float], object] | None = None
        self._ended: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # it outlives many reads: to set one costs more than to read
        self._timer_at = self._read_deadline = FOREVER  # when it does; when the reading ends. Both on the loop's clock

    async def connect(self, host: str, port: int, tls: ssl.SSLContext | None, timeout: float | None) -> None:
        loop, protocol = self._loop, cast("Any", self)
        with anyio.fail_after(seconds_left(self.until, self._now, timeout)):
            if _numeric(host):
                await loop.create_connection(lambda: protocol, host, port)
            else:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                sock = await dial(found, loop.sock_connect)
                await loop.create_connection(lambda: protocol, sock=sock)
            if tls is not None:
                self._transport = await loop.start_tls(self._transport, protocol, tls, server_hostname=host)
                if self._pieces:  # uvloop reads at once; who is on the way could forge an answer like that
                    raise ConnectionError("something came before the connection was secured")

    async def write(self, data: memoryview) -> None:
        if self._ended is not None:
            raise self._ended
        self._transport.write(data)  # what the kernel does not take at once is sent while the answer is awaited

    async def read(self) -> bytes:
        if not self._pieces:
            if self._ended is None:
                if (left := self.until - self._now()) <= 0:
                    raise TimeoutError("the deadline has passed")
                self._read_deadline = self._loop.time() + left
                if self._read_deadline < self._timer_at:
                    self._set_alarm()
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            if not self._pieces:
                if isinstance(self._ended, EOFError):
                    return b""
                raise self._ended or EOFError()
        if self._held > _AHEAD:
            self._transport.resume_reading()
        piece = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        return piece

    async def close(self) -> None:
        self._end(ConnectionAbortedError("closed here"))
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_idle(self) -> bool:
        if self._ended is not None or self._pieces:
            return False
        if self._transport.get_write_buffer_size() or self._plain.get_write_buffer_size():
            return False
        if self._poll is None:
            self._poll = poller(self._transport.get_extra_info("socket"))
        return not self._poll(0)  # what the kernel has, and the loop has not had a turn to read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._plain = transport

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        before, self._held = self._held, self._held + len(data)
        if before <= _AHEAD < self._held:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._end(EOFError())

    def pause_writing(self) -> None:
        """Never mind: a request is in memory anyway."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or EOFError())

    def _end(self, reason: Exception) -> None:
        self._ended = self._ended or reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(self._read_deadline, self._ring), self._read_deadline

    def _ring(self) -> None:
        late, self._timer, self._timer_at = self._timer_at >= self._read_deadline, None, FOREVER
        if self._waiter is not None and not self._waiter.done():
            if late:
                self._waiter.set_exception(TimeoutError())
            elif self._read_deadline < FOREVER:
                self._set_alarm()


class TrioSocket:
    """A socket of trio's, through anyio."""

    in_asyncio = False

    def __init__(self, now: Callable[[], float]) -> None:
        self.until = FOREVER
        self.arrived = no_answer
        self._now = now
        self._stream: Any = None
        self._secured: ssl.SSLObject | None = None
        self._plain: Any = None  # the socket itself
        self._unsent = False

    async def connect(self, host: str, port: int, tls: ssl.SSLContext | None, timeout: float | None) -> None:
        with anyio.fail_after(seconds_left(self.until, self._now, timeout)):
            self._stream = await anyio.connect_tcp(host, port, happy_eyeballs_delay=RACE)
            self._plain = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
            if tls is not None:
                with WholeImport():
                    from anyio.streams.tls import TLSAttribute, TLSStream

                wrap = TLSStream.wrap(self._stream, hostname=host, ssl_context=tls, standard_compatible=False)
                self._stream = await wrap
                self._secured = self._stream.extra(TLSAttribute.ssl_object)

    async def write(self, data: memoryview) -> None:
        with anyio.fail_after(seconds_left(self.until, self._now)):
            if len(data) <= _SMALL:
                await self._stream.send(data)
                return
            self._unsent = True
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, group.cancel_scope)
                with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):  # reading says it, too
                    await self._stream.send(data)
                    self._unsent = False
                group.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Cancel the sending once an answer has come."""
        with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while not self.arrived(bytes(await self._stream.receive(PIECE))):
                pass
            scope.cancel()

    async def read(self) -> bytes:
        try:
            with anyio.fail_after(seconds_left(self.until, self._now)):
                return bytes(await self._stream.receive(PIECE))
        except anyio.EndOfStream:
            return b""

    async def close(self) -> None:
        if self._stream is not None:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)

    @property
    def is_idle(self) -> bool:
        if self._unsent:
            return False
        if self._secured is not None:  # it may hold records that the socket does not show any more
            try:
                self._secured.read(1)
                return False
            except ssl.SSLWantReadError:
                pass
            except OSError:
                return False
        return not poller(self._plain)(0)


Socket = AsyncioSocket | TrioSocket | BlockingSocket


def new_socket(suspends: bool, now: Callable[[], float]) -> Socket:
    """A socket for where this is called, not connected yet."""
    if not suspends:
        return BlockingSocket(now)
    trio = sys.modules.get("trio")  # under asyncio it is never imported by us
    return TrioSocket(now) if trio is not None and trio.lowlevel.in_trio_run() else AsyncioSocket(now)


def _numeric(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False
