"""Connections through httpx: a transport or client of the user's, proxies, and patched methods (respx and its like)."""

from __future__ import annotations

import logging
import re
import ssl
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any

import anyio
import anyio.to_thread
import httpx

from .._deadline import FOREVER, seconds_left
from .._lazy import WholeImport
from .._urls import parse_url
from ..errors import APIError, Raw
from .decompression import Decompressor, decompressor
from .errors import broken_connection_error, connect_error, undecodable_error, without_tracebacks
from .libraries import body_stream, errors_named, failures, library_of
from .request import HttpRequest, decode_headers, require_sendable

_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=5.0)
_READ_AHEAD = 20_000  # pieces in the 64 KiB that h11 may have read ahead, at the very most


class HttpxConnection:
    """One connection through httpx, which may be the user's own; as `H1Connection`."""

    def __init__(
        self,
        respond: Callable[[HttpRequest, float | None], Any],
        suspends: bool,
        now: Callable[[], float],
        hang_up: Callable[[], Any] | None = None,
        ready: bool = True,
        proxy_scheme: str = "",
    ) -> None:
        self._respond, self._suspends, self._now = respond, suspends, now
        self._proxy_scheme = proxy_scheme
        self._hang_up = hang_up  # None: the connection is the user's own
        self._until = FOREVER
        self._redaction: Callable[[str], str] = str  # of the request under way
        self._response: httpx.Response | None = None
        self._parts: Any = None
        self._decoder: Decompressor | None = None
        self.reusable = self.ready = ready
        self.finished = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def set_deadline(self, deadline: float) -> None:
        """The deadline of the next operations, where they block."""
        self._until = deadline

    async def send(self, out: HttpRequest) -> tuple[int, Mapping[str, str]]:
        """As `H1Connection.send`."""
        self.status, self.finished = 0, False
        require_sendable(out)
        self._redaction = out.redaction
        _redaction.set(out.redaction)
        try:
            with self._timely():
                response = self._respond(out, None if self._suspends else self.left())
                self._response = response = await response if isawaitable(response) else response
        except failures() as error:
            raise self._ours(error) from without_tracebacks(error)
        finally:
            _redaction.set(None)
        self.status, self.headers = response.status_code, decode_headers(response.headers.raw)
        # httpx would inflate a whole piece at once, and lose all members of gzip but the first; with packages that are
        # by chance installed also zstd and br, for which nobody asked. What a mock gives has been read already.
        if response.is_stream_consumed:
            self._decoder = None
            self._parts = response.aiter_bytes() if self._suspends else response.iter_bytes()
        else:
            self._decoder = decompressor(self.headers.get("content-encoding", ""))
            self._parts = response.aiter_raw() if self._suspends else response.iter_raw()
        return self.status, self.headers

    async def read(self) -> bytes:
        """As `H1Connection.read`."""
        _redaction.set(self._redaction)
        try:
            while self._parts is not None:
                if self._decoder is not None and (made := self._decoder.take()):
                    return made
                with self._timely():
                    piece: bytes | None = await anext(self._parts, None) if self._suspends else next(self._parts, None)
                if piece is None:
                    if self._decoder is not None:
                        self._decoder.end()
                    self._parts = self._response = None
                    self.finished = True
                elif self._decoder is not None:
                    self._decoder.feed(piece)
                elif piece:
                    return piece
        except (zlib.error, ValueError) as error:
            fed = self._decoder.give_up() if self._decoder is not None else b""
            if self.status >= 400:
                self._decoder = None
                return fed
            raise undecodable_error(error, Raw(self.status, self.headers, fed)) from without_tracebacks(error)
        except failures() as error:
            raise self._ours(error) from without_tracebacks(error)
        finally:
            _redaction.set(None)
        return b""

    async def close(self) -> None:
        """As `H1Connection.close`."""
        parts, response, self._parts, self._response = self._parts, self._response, None, None
        steps: list[Any] = [self._hang_up] if self._hang_up else []  # first: a task's own cancellation knows no shield
        steps += [] if response is None else [response.aclose if self._suspends else response.close]
        with anyio.CancelScope(shield=True) if self._suspends else nullcontext():
            for step in steps:
                with suppress(Exception):  # the socket is given up; why it complains concerns nobody
                    finished = step()
                    if isawaitable(finished):
                        await finished
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
        if isinstance(error, errors_named("ConnectError", "ProxyError", "UnsupportedProtocol")):
            return connect_error(error, False, self._proxy_scheme)
        if isinstance(error, errors_named("ConnectTimeout", "PoolTimeout")):
            return connect_error(error, True)
        if isinstance(error, errors_named("DecodingError")):
            return undecodable_error(error, Raw(self.status, self.headers))
        raw = Raw(self.status, self.headers) if self.status else None
        return broken_connection_error(
            error, isinstance(error, (*errors_named("TimeoutException"), TimeoutError)), raw, True
        )


_redaction: ContextVar[Callable[[str], str] | None] = ContextVar("dbllm_redaction", default=None)


class RedactingFilter(logging.Filter):
    """httpcore logs heads of answers, errors and a proxy's password at DEBUG, httpx URLs: not with what is secret.

    Neither can be told so for one connection, and a filter is the whole process's; so it looks at no record but those
    that come about while a request of ours is under way: what others log about their own requests stays as it is.
    Of what a server or proxy sent, the names and the status remain.
    """

    _quoted = re.compile(r"""((?:, |bytearray\(|: |=)b)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")

    def filter(self, record: logging.LogRecord) -> bool:
        if (redaction := _redaction.get()) is not None:
            parts = record.args if isinstance(record.args, tuple) else ()
            words = [str(one).split("?")[0] if type(one).__name__ == "URL" else one for one in parts]
            if record.name in ("httpx", "httpx2") and len(words) == 5:
                words[4] = "***"  # the reason, which is the server's to write
            text = record.msg % tuple(words) if words else str(record.msg)
            record.msg, record.args = redaction(self._quoted.sub(r"\1'***'", text)), ()
        return True


for _version in ("", "2"):
    for _logger in ("http11", "http2", "connection", "proxy", "socks"):
        logging.getLogger(f"httpcore{_version}.{_logger}").addFilter(RedactingFilter())
    logging.getLogger(f"httpx{_version}").addFilter(RedactingFilter())


def _request(out: HttpRequest, left: float | None, library: Any = httpx) -> Any:
    timeout = {"connect": out.connect if left is None else min(left, out.connect or left), "pool": None}
    extensions = {"timeout": {**timeout, "read": left, "write": left}}
    url = parse_url(out.url) if library is httpx else out.url
    built = library.Request(out.method, url, headers=out.headers.fields, content=out.body, extensions=extensions)
    if out.body is not None:
        built.stream = body_stream(library)(out.body)
    return built


def by_client(client: Any, suspends: bool, now: Callable[[], float]) -> HttpxConnection:
    """A connection that is a client of the user's, of httpx or httpx2."""
    library = library_of(client)

    def respond(out: HttpRequest, left: float | None) -> Any:
        timeout, headers = library.Timeout(left, connect=out.connect), out.headers.fields
        built = client.build_request(out.method, out.url, headers=headers, content=out.body, timeout=timeout)
        return client.send(built, stream=True, auth=None, follow_redirects=False)

    return HttpxConnection(respond, suspends, now)


def by_transport(transport: Any, suspends: bool, now: Callable[[], float]) -> HttpxConnection:
    """A connection that is a transport of the user's, of httpx or httpx2."""
    library = library_of(transport)
    handle = transport.handle_async_request if suspends else transport.handle_request
    return HttpxConnection(lambda out, left: handle(_request(out, left, library)), suspends, now)


def _import_backends() -> Any:
    with WholeImport():
        from . import httpcore_backend
    return httpcore_backend


def by_httpx(
    context: ssl.SSLContext, proxy: httpx.Proxy | None, suspends: bool, now: Callable[[], float]
) -> HttpxConnection:
    """A connection that httpx makes, directly or through a proxy."""
    own: Any = None
    sockets: Any = None

    async def respond(out: HttpRequest, left: float | None) -> Any:
        nonlocal own, sockets
        if own is None:
            if suspends and "httpcore" not in sys.modules:  # httpx imports it now, which would hold up the loop
                await anyio.to_thread.run_sync(_import_backends)
            backends = _import_backends()
            carry: Any = httpx.AsyncHTTPTransport if suspends else httpx.HTTPTransport
            carrier = carry(verify=context, proxy=proxy, limits=_ONE, trust_env=False)
            # httpx has no argument for httpcore's public `network_backend`
            sockets = backends.OwningBackend() if suspends else backends.DeadlineBackend(connection.left)
            carrier._pool._network_backend = sockets
            kind: Any = httpx.AsyncClient if suspends else httpx.Client
            own = kind(transport=carrier, trust_env=False)  # sends what it is given, unchanged
        sent = own.send(_request(out, left), stream=True, auth=None, follow_redirects=False)
        return await sent if suspends else sent

    async def hang_up() -> None:
        for closes in () if own is None else (sockets.close, own.aclose if suspends else own.close):
            with suppress(Exception):  # the next one all the same
                closing = closes()
                if suspends:
                    await closing

    scheme = "" if proxy is None else proxy.url.scheme
    connection = HttpxConnection(respond, suspends, now, hang_up, proxy is not None, scheme)
    return connection
