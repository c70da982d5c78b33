"""The HTTP engine: httpx, one connection at a time. The only room that builds httpx's objects.

A `Wire` hands requests straight to an httpx transport. What `httpx.Client` adds (merging, cookies, redirects, its own
auth) is not wanted for a model's call and costs more than the call; a user's own client is used whole.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore
import httpx

from .errors import APIConnectionError, APIError, APIResponseError, APITimeoutError, Raw
from .network import DIRECT, Network, route

# One connection a transport; the pool drops it earlier, so the engine's own expiry is only a second line.
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=5.0)
_READ_AHEAD = 20_000  # pieces in the 64 KiB that h11 may have read ahead, at the very most
_FAILURES = (httpx.TransportError, httpx.DecodingError, ssl.SSLError)  # a late TLS alert comes as it is
FOREVER = float("inf")
_UNTRUSTED = "The certificate is not trusted here: pass verify= a file with its CA, or verify='system'."


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One HTTP request, ready to send. `deadline` is on the leaf's clock, the others are seconds."""

    method: str
    url: str = field(repr=False)  # its query may hold what is secret
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    deadline: float
    connect: float | None = None
    queue: float | None = None


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


class Wire:
    """One connection, in either colour: its coroutines suspend over an async transport, and block over a sync one.

    `status` and `headers` are the answer's head, once `send` has returned (names in lower case, no cookies).
    """

    def __init__(
        self, respond: Callable[[Outgoing], Any], suspends: bool, line: _Line, hang_up: Callable[[], Any] | None = None
    ) -> None:
        self._respond = respond
        self._suspends = suspends
        self._line = line
        self._hang_up = hang_up  # None: the connection is the user's own
        self._served = False
        self._response: httpx.Response | None = None
        self._parts: Any = None
        self._decoder: Any = None
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def cut_at(self, deadline: float) -> None:
        """The deadline of the next operations."""
        self._line.until = deadline

    async def send(self, out: Outgoing) -> None:
        """Send, and wait for the answer's head.

        Raises:
            APIConnectionError, APITimeoutError: there was none.
        """
        self.status, self._line.dialled = 0, False
        _sending.set(True)
        try:
            response = self._respond(out)
            self._response = response = await response if self._suspends else response
        except _FAILURES as error:
            raise self._ours(error) from _bare(error)
        finally:
            _sending.set(False)
        self.status, self.headers = response.status_code, _plain_headers(response)
        if response.is_stream_consumed:  # a transport of the user's has answered whole, and decompressed
            whole = _Body(response.content)
            self._decoder, self._parts = None, aiter(whole) if self._suspends else iter(whole)
        else:
            self._decoder = response._get_content_decoder()
            self._parts = response.aiter_raw() if self._suspends else response.iter_raw()

    async def read(self) -> bytes:
        """The next piece of the body, decompressed; b"" at its end.

        Raises:
            APIConnectionError, APITimeoutError, APIResponseError: it did not come, or cannot be decompressed.
        """
        try:
            while self._parts is not None:
                piece: bytes = await anext(self._parts, b"") if self._suspends else next(self._parts, b"")
                if not piece:
                    self._parts = self._response = None
                    self._served = True
                if self._decoder is not None:
                    piece = self._decoder.decode(piece) if piece else self._decoder.flush()
                if piece:
                    return piece
        except _FAILURES as error:
            raise self._ours(error) from _bare(error)
        return b""

    async def close(self) -> None:
        """Give the socket up: never raises, and no cancellation cuts it short."""
        parts, response, self._parts, self._response = self._parts, self._response, None, None
        closing = "aclose" if self._suspends else "close"
        steps = [getattr(thing, closing) for thing in (response, self._line.socket) if thing is not None]
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

    def _ours(self, error: Exception) -> APIError:
        what = _told(error)
        raw = Raw(self.status, self.headers) if self.status else None
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return APITimeoutError(f"no connection in time ({what})", sent=False)
        if isinstance(error, httpx.TimeoutException):
            return APITimeoutError(f"the answer did not come in time ({what})", raw=raw)
        if isinstance(error, httpx.DecodingError):
            return APIResponseError(f"the answer cannot be decompressed ({what})", raw=raw)
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol)):
            hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in what else ""
            return APIConnectionError(f"no connection to the workspace ({what})", hint=hint, sent=False)
        # A kept-alive connection that the server had closed meanwhile never carried the request to it.
        stale = self._served and self._hang_up is not None and not self._line.dialled and not self.status
        return APIConnectionError(f"the connection broke ({what})", sent=not stale, raw=raw)


class _Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A request's body. httpx's own is an async generator, which trio misses when a broken connection drops it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._given = False

    def __iter__(self) -> Iterator[bytes]:
        return iter((self._body,))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Body(self._body)  # afresh, for a transport of the user's that sends it again

    async def __anext__(self) -> bytes:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return self._body


class _Line:
    """What is known below httpx: whether this request had to dial, and until when blocking operations may take."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.until = FOREVER
        self.dialled = True
        self.socket: Any = None  # httpcore forgets it when a TLS handshake is interrupted

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
        """Seconds that one operation may take."""
        left = self.until - self.now()
        if left <= 0:
            raise late("the deadline has passed")
        return timeout if left == FOREVER else left if timeout is None else min(left, timeout)


class _AsyncBackend(httpcore.AnyIOBackend):
    """What dials for asyncio and trio, watched; deadlines are anyio's business there."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend, line: _Line) -> None:
        self._inner, self._line = inner, line

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        self._line.dialled = True
        self._line.socket = stream = await self._inner.connect_tcp(*args, **options)
        return stream


class _BlockingBackend(httpcore.SyncBackend):
    """What dials in plain code, cut at the deadline."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any) -> Any:
        self._line.dialled = True
        left = self._line.left(timeout, httpcore.ConnectTimeout)
        self._line.socket = stream = _BlockingStream(
            super().connect_tcp(host, port, left, *rest, **options), self._line
        )
        return stream


class _BlockingStream(httpcore.NetworkStream):
    """A socket in plain code: every operation is cut at the deadline, so that a dripping server is too."""

    def __init__(self, inner: httpcore.NetworkStream, line: _Line) -> None:
        self._inner, self._line = inner, line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._line.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._line.left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._line.left(timeout, httpcore.ConnectTimeout)
        return _BlockingStream(self._inner.start_tls(ssl_context, server_hostname, left), self._line)

    def close(self) -> None:
        try:  # a thread that is blocked in recv is woken by a shutdown, never by a close
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _told(error: BaseException) -> str:
    """What an error of the HTTP stack is about; trio says it only in what lies beneath."""
    link: BaseException | None = error
    while link is not None and not str(link):
        link = link.__cause__ or link.__context__
    return f"{type(error).__name__}: {link}" if link is not None else type(error).__name__


def _bare(error: BaseException) -> BaseException:
    """An error of the HTTP stack without its frames: their locals hold the bytes that were sent, the token's too."""
    link: BaseException | None = error
    seen: set[int] = set()  # an error that is raised again can stand in its own context
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__, link = None, link.__cause__ or link.__context__
    return error


def origin(url: str) -> str:
    """Scheme, name and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


_url = lru_cache(maxsize=64)(httpx.URL)


def _plain_headers(response: httpx.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    headers.pop("set-cookie", None)  # a session is a secret, and nobody needs it here
    return headers


def wires(
    base: str, suspends: bool, now: Callable[[], float], transport: Any, client: Any, network: Network = DIRECT
) -> Callable[[], Wire]:
    """How connections to `base` are made: each on a transport of its own, or all on the user's transport or client."""

    def left(out: Outgoing) -> float | None:
        # The leaf keeps deadlines; only blocking code that is the user's own it cannot cut, so that is told.
        own = suspends or (transport is None and client is None)
        return None if own or out.deadline == FOREVER else max(0.001, out.deadline - now())

    def request(out: Outgoing) -> httpx.Request:
        timeout = {"connect": out.connect, "read": left(out), "write": left(out), "pool": None}
        headers, extensions = out.headers, {"timeout": timeout}
        built = httpx.Request(out.method, _url(out.url), headers=headers, content=out.body, extensions=extensions)
        if out.body is not None:
            built.stream = _Body(out.body)
        return built

    def by_client(out: Outgoing) -> Any:
        timeout, headers = httpx.Timeout(left(out), connect=out.connect), out.headers
        built = client.build_request(out.method, out.url, headers=headers, content=out.body, timeout=timeout)
        return client.send(built, stream=True, auth=None, follow_redirects=False)

    if client is not None:
        return lambda: Wire(by_client, suspends, _Line(now))
    if transport is not None:
        handle = transport.handle_async_request if suspends else transport.handle_request
        return lambda: Wire(lambda out: handle(request(out)), suspends, _Line(now))
    context, proxy = route(base, network)

    def own() -> Wire:
        line = _Line(now)
        if suspends:
            dialler = httpx.AsyncHTTPTransport(verify=context, limits=_ONE, proxy=proxy)
            pool: Any = dialler._pool  # httpx has no argument for httpcore's public `network_backend`
            pool._network_backend = _AsyncBackend(pool._network_backend, line)
            return Wire(lambda out: dialler.handle_async_request(request(out)), True, line, dialler.aclose)
        blocking = httpx.HTTPTransport(verify=context, limits=_ONE, proxy=proxy)
        pool = blocking._pool
        pool._network_backend = _BlockingBackend(line)
        return Wire(lambda out: blocking.handle_request(request(out)), False, line, blocking.close)

    return own
