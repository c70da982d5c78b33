"""A socket of plain code; see `sockets`, whose other sockets have the same methods."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._deadline import FOREVER, seconds_left

PIECE = 65536  # bytes read at once


class BlockingSocket:
    """A socket of plain code."""

    in_asyncio = False

    def __init__(self, now: Callable[[], float]) -> None:
        self.until = FOREVER
        self.arrived = no_answer
        self._now = now
        self._socket: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._broken = False  # the request cannot be sent on

    async def connect(self, host: str, port: int, tls: ssl.SSLContext | None, timeout: float | None) -> None:
        whole, self.until = self.until, self._now() + (seconds_left(self.until, self._now, timeout) or FOREVER)
        self._socket = sock = self._dialled(host, port)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:  # the handshake comes second, so that `close` has something to close meanwhile
            self._socket = secured = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            secured.settimeout(self._left())
            secured.do_handshake()
        self.until = whole

    async def write(self, data: memoryview) -> None:
        self._unsent = data
        self._send_on(self._ready(0))

    async def read(self) -> bytes:
        while self._unsent:
            sock = self._ready(0)
            left = self._left()
            if not poller(sock, writing=True)(None if left is None else left * 1000):
                raise TimeoutError("the deadline has passed")
            with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return sock.recv(PIECE)
            self._send_on(sock)
        return self._ready(self._left()).recv(PIECE)

    def _send_on(self, sock: socket.socket) -> None:
        """Send what the kernel takes at once."""
        try:
            while self._unsent:
                self._unsent = self._unsent[sock.send(self._unsent) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._unsent, self._broken = memoryview(b""), True  # an answer may be there all the same

    async def close(self) -> None:
        if self._socket is not None:
            try:  # a thread that is blocked in recv is woken by a shutdown, never by a close
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            finally:  # an interrupt, too
                self._socket.close()

    def detach(self) -> None:
        """Leave the socket open and to its owner: a forked child has only a copy of its parent's."""
        if self._socket is not None:
            self._socket.detach()

    @property
    def is_idle(self) -> bool:
        return not (self._unsent or self._broken or poller(self._socket)(0))

    def _dialled(self, host: str, port: int) -> socket.socket:
        """Connected to the first of the name's addresses that takes it; each has its share of the time left."""
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        flaw = OSError("the name has no address")
        for remaining, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            sock = socket.socket(family, kind, protocol)
            try:
                left = self._left()
                sock.settimeout(None if left is None else left / remaining)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                flaw = error
            except BaseException:
                sock.close()
                raise
        raise flaw

    def _ready(self, timeout: float | None) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("the socket is closed")
        self._socket.settimeout(timeout)
        return self._socket

    def _left(self) -> float | None:
        return seconds_left(self.until, self._now)


def no_answer(data: bytes) -> bool:
    """What a socket's `arrived` is until a connection sets it."""
    return False


def poller(sock: Any, writing: bool = False) -> Callable[[float | None], object]:
    """What waits so many milliseconds until a socket can be read, also at its end (or written as well)."""
    if sock is None or sock.fileno() < 0:
        return lambda _: True
    if not hasattr(select, "poll"):  # Windows
        ready = [sock] if writing else []
        return lambda left: any(select.select([sock], ready, [], None if left is None else left / 1000))
    poll = select.poll()  # `select` refuses numbers from 1024 up
    poll.register(sock, select.POLLIN | (select.POLLOUT if writing else 0))
    return poll.poll
