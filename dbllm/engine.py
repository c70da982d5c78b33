"""The HTTP engine: how connections are made, by which of three engines, and all that goes through httpx itself.

A `DirectWire` is the rule. An `HttpxWire` is for what is httpx's: a transport or client of the user's, proxies, and
calls that somebody wants to see who has put himself in the place of httpx's own methods (respx, pytest-httpx, tracing).
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import anyio
import httpcore
import httpx

from .errors import APIError, APIResponseError, ConfigError, Raw
from .network import DIRECT, Network, route
from .sockets import FOREVER, seconds_left
from .wire import NOT_DECODED, DirectWire, Outgoing, Way, bare, broke, parsed, plain_headers, told, unreached

ENGINES = ("h11", "httptools", "httpx")
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=5.0)
_READ_AHEAD = 20_000  # pieces in the 64 KiB that h11 may have read ahead, at the very most
_HTTPX_BROKEN = (httpx.TransportError, httpx.DecodingError, ssl.SSLError, TimeoutError)  # a late alert comes as it is


class HttpxWire:
    """One connection through httpx, which may be the user's own; as `DirectWire`."""

    def __init__(
        self,
        respond: Callable[[Outgoing, float | None], Any],
        suspends: bool,
        now: Callable[[], float],
        hang_up: Callable[[], Any] | None = None,
        ready: bool = True,
    ) -> None:
        self._respond, self._suspends, self._now = respond, suspends, now
        self._hang_up = hang_up  # None: the connection is the user's own
        self._until = FOREVER
        self._response: httpx.Response | None = None
        self._parts: Any = None
        self.ready = ready
        self.done = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def cut_at(self, deadline: float) -> None:
        """The deadline of the next operations, where they block."""
        self._until = deadline

    async def send(self, out: Outgoing) -> tuple[int, Mapping[str, str]]:
        """As `DirectWire.send`."""
        self.status, self.done = 0, False
        _sending.set(True)
        try:
            with self._timely():
                response = self._respond(out, None if self._suspends else self.left())
                self._response = response = await response if self._suspends else response
        except _HTTPX_BROKEN as error:
            raise self._ours(error) from bare(error)
        finally:
            _sending.set(False)
        self.status, self.headers = response.status_code, plain_headers(response.headers.raw)
        self._parts = response.aiter_bytes() if self._suspends else response.iter_bytes()
        return self.status, self.headers

    async def read(self) -> bytes:
        """As `DirectWire.read`."""
        try:
            while self._parts is not None:
                with self._timely():
                    piece: bytes | None = await anext(self._parts, None) if self._suspends else next(self._parts, None)
                if piece:
                    return piece
                if piece is None:
                    self._parts = self._response = None
                    self.done = True
        except _HTTPX_BROKEN as error:
            raise self._ours(error) from bare(error)
        return b""

    async def close(self) -> None:
        """As `DirectWire.close`."""
        parts, response, self._parts, self._response = self._parts, self._response, None, None
        steps: list[Any] = [] if response is None else [response.aclose if self._suspends else response.close]
        with anyio.CancelScope(shield=True) if self._suspends else nullcontext():
            for step in (*steps, *([self._hang_up] if self._hang_up else [])):
                with suppress(Exception):  # the socket is given up; why it complains concerns nobody
                    done = step()
                    if self._suspends:
                        await done
            # The socket is gone, so what was read ahead comes and then an error; thus all the generators that httpx
            # has stacked end here, not in the garbage collector (where trio warns of them).
            with suppress(Exception):
                for _ in range(_READ_AHEAD):
                    if not self._suspends or parts is None or not await anext(parts, b""):
                        break

    def _timely(self) -> AbstractContextManager[object]:
        left = self.left()
        return anyio.fail_after(left) if self._suspends else nullcontext()

    def left(self) -> float | None:
        """Seconds that one operation may take; TimeoutError where there are none left."""
        return seconds_left(self._until, self._now)

    def _ours(self, error: Exception) -> APIError:
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol)):
            return unreached(error, False)
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return unreached(error, True)
        if isinstance(error, httpx.DecodingError):
            return APIResponseError(NOT_DECODED.format(told(error)), raw=Raw(self.status, self.headers))
        return broke(error, isinstance(error, (httpx.TimeoutException, TimeoutError)), self.status, self.headers, True)


Wire = DirectWire | HttpxWire


class _Cut(httpcore.NetworkStream):
    """A socket of httpcore's in plain code: what is left is looked up for each operation, not once for a whole body."""

    def __init__(self, inner: httpcore.NetworkStream, left: Callable[[], float | None]) -> None:
        self._inner, self._left = inner, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _lesser(timeout, self._left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _lesser(timeout, self._left()))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Cut:
        return _Cut(self._inner.start_tls(ssl_context, server_hostname, _lesser(timeout, self._left())), self._left)

    def close(self) -> None:
        with suppress(OSError):  # a thread that is blocked in recv is woken by a shutdown, never by a close
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Cutting(httpcore.SyncBackend):
    """Makes such sockets."""

    def __init__(self, left: Callable[[], float | None]) -> None:
        self._left = left

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any) -> _Cut:
        return _Cut(super().connect_tcp(host, port, _lesser(timeout, self._left()), *rest, **options), self._left)


def _lesser(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


class _Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A request's body. httpx's own is an async generator, which trio misses when a broken connection drops it."""

    def __init__(self, body: bytes) -> None:
        self._left = [body]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._left)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Body(self._left[0])  # afresh, for a transport of the user's that sends it again

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


_sending: ContextVar[bool] = ContextVar("dbllm_sending", default=False)


class _Discreet(logging.Filter):
    """httpcore logs each answer's head at DEBUG, httpx (a client of the user's) each URL: not with what is secret.

    Neither can be told so for one connection, and a filter is the whole process's; so it looks at no record but those
    that come about while a request of ours is sent: what others log about their own requests stays as it is.
    """

    _told = re.compile(r"(\(b'(?:set-cookie|location)', b)(?:'[^']*'|\"[^\"]*\")", re.IGNORECASE)

    def filter(self, record: logging.LogRecord) -> bool:
        if _sending.get():
            record.msg = self._told.sub(r"\1'***'", str(record.msg))
            if isinstance(record.args, tuple):
                record.args = tuple(
                    str(one).split("?")[0] if isinstance(one, httpx.URL) else one for one in record.args
                )
        return True


for _logger in ("httpcore.http11", "httpcore.http2", "httpx"):
    logging.getLogger(_logger).addFilter(_Discreet())


_SEEN_AT: dict[type, str] = {  # what others replace in order to see requests
    httpx.AsyncClient: "_transport_for_url",
    httpx.Client: "_transport_for_url",
    httpx.AsyncHTTPTransport: "handle_async_request",
    httpx.HTTPTransport: "handle_request",
    httpcore.AsyncConnectionPool: "handle_async_request",
    httpcore.ConnectionPool: "handle_request",
    httpcore.AsyncHTTPConnection: "handle_async_request",
    httpcore.HTTPConnection: "handle_request",
}


def _genuine(kind: type, name: str) -> object:
    """The package's own method, or None while another stands in its place."""
    found = kind.__dict__[name]
    home = str(sys.modules[kind.__module__.split(".")[0]].__file__).removesuffix("__init__.py")
    return found if str(getattr(getattr(found, "__code__", None), "co_filename", "")).startswith(home) else None


_known = [(kind.__dict__, name, _genuine(kind, name)) for kind, name in _SEEN_AT.items()]


def watched() -> bool:
    """Whether somebody (respx, say) has taken the place of one of httpx's methods: then every call goes there."""
    for methods, name, own in _known:
        if methods[name] is not own:  # or was replaced already when this was imported
            _known[:] = [(kind.__dict__, name, _genuine(kind, name)) for kind, name in _SEEN_AT.items()]
            return any(own is None for _, _, own in _known)
    return False


@lru_cache
def checked_engine(engine: str | None) -> str:
    """The engine to use where nothing stands against it.

    Raises:
        ConfigError: there is none of that name, or its extra is missing.
    """
    if engine is None:
        return "httptools" if find_spec("httptools") else "h11"
    if engine not in ENGINES:
        raise ConfigError(f"engine={engine!r} is not known; there are {', '.join(ENGINES)}.")
    if engine == "httptools" and not find_spec("httptools"):
        raise ConfigError("engine='httptools' needs an extra: pip install 'dbllm[fast]'.")
    return engine


def wires(
    base: str,
    suspends: bool,
    now: Callable[[], float],
    transport: Any,
    client: Any,
    network: Network = DIRECT,
    engine: str | None = None,
) -> Callable[[], Wire]:
    """How connections to `base` are made: directly, or over httpx."""

    def request(out: Outgoing, left: float | None) -> httpx.Request:
        timeout = {"connect": out.connect if left is None else min(left, out.connect or left), "pool": None}
        extensions = {"timeout": {**timeout, "read": left, "write": left}}
        built = httpx.Request(out.method, parsed(out.url), headers=out.headers, content=out.body, extensions=extensions)
        if out.body is not None:
            built.stream = _Body(out.body)
        return built

    def by_client(out: Outgoing, left: float | None) -> Any:
        timeout, headers = httpx.Timeout(left, connect=out.connect), out.headers
        built = client.build_request(out.method, out.url, headers=headers, content=out.body, timeout=timeout)
        return client.send(built, stream=True, auth=None, follow_redirects=False)

    if client is not None:
        return lambda: HttpxWire(by_client, suspends, now)
    if transport is not None:
        handle = transport.handle_async_request if suspends else transport.handle_request
        return lambda: HttpxWire(lambda out, left: handle(request(out, left)), suspends, now)
    context, proxy = route(base, network)
    context.set_alpn_protocols(["http/1.1"])
    way = Way(suspends, now, context, watched, fast=engine == "httptools")

    def new() -> Wire:
        if engine != "httpx" and proxy is None and not watched():
            return DirectWire(way)
        kind: Any = httpx.AsyncClient if suspends else httpx.Client
        carry: Any = httpx.AsyncHTTPTransport if suspends else httpx.HTTPTransport
        carrier = carry(verify=context, proxy=proxy, limits=_ONE, trust_env=False)
        own = kind(transport=carrier, trust_env=False)  # sends what it is given, unchanged

        def respond(out: Outgoing, left: float | None) -> Any:
            return own.send(request(out, left), stream=True, auth=None, follow_redirects=False)

        wire = HttpxWire(respond, suspends, now, own.aclose if suspends else own.close, proxy is not None)
        if not suspends:  # httpx has no argument for httpcore's public `network_backend`
            carrier._pool._network_backend = _Cutting(wire.left)
        return wire

    return new
