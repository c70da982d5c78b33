"""httpcore's sockets for the httpx engine alone: with a deadline for each operation, an ear for answers that come
before a request is sent whole, and an owner that closes them whatever interrupts httpcore.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import httpcore

from .blocking_socket import PIECE, poller
from .parser import HeadBuffer, has_final_head

_SMALL = 16384  # bytes that a kernel takes at once, however slow the receiver is
_LATER = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


class DeadlineStream(httpcore.NetworkStream):
    """A socket of httpcore's in plain code: what is left is looked up for each operation, not once for a whole body."""

    def __init__(self, inner: httpcore.NetworkStream, left: Callable[[], float | None]) -> None:
        self._inner, self._left = inner, left
        self._early: list[bytes] = []  # what came while a request was sent,
        self._flaw: OSError | None = None  # and what came after that

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._early and self._flaw is not None:
            raise httpcore.ReadError(self._flaw) from self._flaw
        return self._early.pop(0) if self._early else self._inner.read(max_bytes, _lesser(timeout, self._left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        sock, head = self.get_extra_info("socket"), HeadBuffer()
        if getattr(sock, "_sslobj", None) is not self.get_extra_info("ssl_object"):  # TLS in TLS
            for at in range(0, len(buffer), PIECE):  # each of its own: the inner one gives each its whole timeout
                self._inner.write(buffer[at : at + PIECE], _lesser(timeout, self._left()))
            return
        unsent = memoryview(buffer)
        while unsent:
            left = _lesser(timeout, self._left())
            if not poller(sock, writing=True)(None if left is None else left * 1000):
                raise httpcore.WriteTimeout("the deadline has passed")
            try:
                sock.settimeout(0)
                with suppress(*_LATER):
                    self._early.append(sock.recv(PIECE))
                    if not self._early[-1] or has_final_head(head, self._early[-1]):
                        raise httpcore.WriteError("the answer came first")  # httpcore reads it now
                with suppress(*_LATER):
                    unsent = unsent[sock.send(unsent[:PIECE]) :]
            except OSError as error:
                self._flaw = error
                raise httpcore.WriteError(error) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> DeadlineStream:
        return DeadlineStream(
            self._inner.start_tls(ssl_context, server_hostname, _lesser(timeout, self._left())), self._left
        )

    def close(self) -> None:
        with suppress(OSError):  # a thread that is blocked in recv is woken by a shutdown, never by a close
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class DeadlineBackend(httpcore.SyncBackend):
    """Makes such sockets, and closes all of them."""

    def __init__(self, left: Callable[[], float | None]) -> None:
        self._left = left
        self._opened: list[httpcore.NetworkStream] = []

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any
    ) -> DeadlineStream:
        inner = super().connect_tcp(host, port, _lesser(timeout, self._left()), *rest, **options)
        self._opened.append(inner)
        return DeadlineStream(inner, self._left)

    def close(self) -> None:
        """Close what httpcore left open: an interrupt within a handshake makes it forget the socket."""
        while self._opened:
            self._opened.pop().close()


class AsyncEarStream(httpcore.AsyncNetworkStream):
    """A socket of httpcore's in an event loop; see the first line of this file."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._early: list[bytes] = []
        self._flaw: Exception | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._early and self._flaw is not None:
            raise self._flaw
        return self._early.pop(0) if self._early else await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if len(buffer) <= _SMALL:
            await self._inner.write(buffer, timeout)
            return
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen, group.cancel_scope, failures)
            try:
                await self._inner.write(buffer, timeout)
            except Exception as error:  # noqa: BLE001 - raised below, and not inside an exception group
                failures.append(error)
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _listen(self, scope: anyio.CancelScope, failures: list[Exception]) -> None:
        """Cancel the sending once an answer has come."""
        head = HeadBuffer()
        try:
            while piece := await self._inner.read(PIECE):
                self._early.append(piece)
                if has_final_head(head, piece):
                    break
            else:
                return
        except Exception as error:  # noqa: BLE001 - `read` raises it
            self._flaw = error
        failures.append(httpcore.WriteError("the answer came first"))  # httpcore reads it now
        scope.cancel()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncEarStream:
        return AsyncEarStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class OwningBackend(httpcore.AnyIOBackend):
    """Makes such sockets, and closes all of them."""

    def __init__(self) -> None:
        self._opened: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any
    ) -> AsyncEarStream:
        anyios: Any = super()  # httpcore has another class of that name for those who lack anyio
        inner = await anyios.connect_tcp(host, port, timeout, *rest, **options)
        self._opened.append(inner)
        return AsyncEarStream(inner)

    async def close(self) -> None:
        """Close what httpcore left open: a cancellation within a handshake makes it forget the socket."""
        while self._opened:
            with suppress(Exception):  # closed already
                await self._opened.pop().aclose()


def _lesser(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)
