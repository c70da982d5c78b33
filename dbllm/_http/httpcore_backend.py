"""httpcore's blocking sockets, with a deadline that is looked up for each operation: for the httpx engine alone."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpcore

_PIECE = 65536  # bytes


class DeadlineStream(httpcore.NetworkStream):
    """A socket of httpcore's in plain code: what is left is looked up for each operation, not once for a whole body."""

    def __init__(self, inner: httpcore.NetworkStream, left: Callable[[], float | None]) -> None:
        self._inner, self._left = inner, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _lesser(timeout, self._left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE):  # each of its own: the inner one gives each its whole timeout
            self._inner.write(buffer[at : at + _PIECE], _lesser(timeout, self._left()))

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
    """Makes such sockets."""

    def __init__(self, left: Callable[[], float | None]) -> None:
        self._left = left

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any
    ) -> DeadlineStream:
        return DeadlineStream(
            super().connect_tcp(host, port, _lesser(timeout, self._left()), *rest, **options), self._left
        )


def _lesser(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)
