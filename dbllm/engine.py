"""The HTTP engine: one request at a time over one connection.

A `DirectWire` speaks HTTP/1.1 straight over a socket, through a parser: h11, or llhttp with the extra `fast`. An
`HttpxWire` is for what is httpx's: a transport or client of the user's, proxies, and calls that somebody wants to see
who has put himself in the place of httpx's own methods (respx, pytest-httpx, instrumentation).
"""

from __future__ import annotations

import logging
import re
import ssl
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import h11
import httpcore
import httpx

from .errors import APIConnectionError, APIError, APIResponseError, APITimeoutError, ConfigError, Raw
from .network import DIRECT, Network, route
from .sockets import FOREVER, AsyncioSocket, Socket, new_socket

ENGINES = ("h11", "httptools", "httpx")
MAX_HEAD = 100 * 1024  # bytes of an answer's head
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=5.0)
_READ_AHEAD = 20_000  # pieces in the 64 KiB that h11 may have read ahead, at the very most
_UNTRUSTED = "The certificate is not trusted here: pass verify= a file with its CA, or verify='system'."
_BROKEN = (OSError, EOFError, h11.RemoteProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError)
_HTTPX_BROKEN = (httpx.TransportError, httpx.DecodingError, ssl.SSLError)  # a late TLS alert comes as it is
_NAME, _VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[\t -~\x80-\xff]*")

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One HTTP request, ready to send. `deadline` is on the leaf's clock, the others are seconds.

    Nobody changes `headers` any more: what is made of them serves as long as the same object comes again.
    """

    method: str
    url: str = field(repr=False)  # its query may hold what is secret
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    deadline: float
    connect: float | None = None
    queue: float | None = None


class Parser(Protocol):
    """The client's end of HTTP/1.1, without a socket. Raises EOFError, OSError or h11.RemoteProtocolError."""

    status: int
    fields: Fields
    done: bool  # the answer has come to its end

    def request(self, method: str, target: bytes, fields: Fields, body: bytes) -> bytes: ...
    def feed(self, data: bytes) -> None: ...  # b"" at the end of the connection
    def taken(self) -> bytes: ...  # what has come of the body since
    @property
    def reusable(self) -> bool: ...  # another request may follow, and nothing came after this one's answer


class H11Parser:
    """HTTP/1.1 by h11."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, MAX_HEAD)
        self._body: list[bytes] = []
        self.status, self.done = 0, False
        self.fields: Fields = []

    def request(self, method: str, target: bytes, fields: Fields, body: bytes) -> bytes:
        """The bytes to send."""
        h = self._connection
        if h.our_state is h11.DONE:
            h.start_next_cycle()
        self.status, self.done = 0, False
        events = (h11.Request(method=method, target=target, headers=fields), h11.Data(data=body), h11.EndOfMessage())
        return b"".join(h.send(event) or b"" for event in events)

    def feed(self, data: bytes) -> None:
        """What has arrived."""
        self._connection.receive_data(data)
        while not self.done:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Data):
                self._body.append(event.data)
            elif isinstance(event, h11.Response):
                self.status, self.fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.EndOfMessage):
                self.done = True
            elif not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                raise EOFError("the server left without an answer")

    def taken(self) -> bytes:
        """The body since the last time."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        h = self._connection
        return h.our_state is h.their_state is h11.DONE and not h.trailing_data[0]


class Way:
    """How a workspace is reached directly, and what of a request is made once for many."""

    def __init__(self, suspends: bool, now: Callable[[], float], context: ssl.SSLContext, engine: str | None) -> None:
        self.suspends, self.now, self._context, self._engine = suspends, now, context, engine
        self._known: dict[int, tuple[Mapping[str, str], Fields]] = {}

    async def dial(self, sock: Socket, url: httpx.URL, timeout: float | None) -> Parser:
        """Connect."""
        tls = self._context if url.scheme == "https" else None
        await sock.connect(url.host, url.port or (80 if tls is None else 443), tls, timeout)
        if self._engine != "httptools" or not isinstance(sock, AsyncioSocket):
            return H11Parser()
        from .fast import LlhttpParser

        return LlhttpParser()

    def fields(self, headers: Mapping[str, str]) -> Fields:
        """Header fields as they go over the wire; ConfigError for one that cannot."""
        known = self._known.get(id(headers))
        if known is None:
            if len(self._known) >= 8:  # a token function brings new ones every time
                self._known.clear()
            if (
                name := next((name for name, value in headers.items() if not _sendable(name, value)), None)
            ) is not None:
                flaw = "cannot be sent: dbllm writes it itself, or HTTP has no form for it."
                raise ConfigError(f"the header {name!r} {flaw}")
            fields = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers.items()]
            known = self._known[id(headers)] = headers, fields
        return known[1]

    def written(self, out: Outgoing) -> tuple[str, bytes, Fields, bytes]:
        """Method, target, fields and body, for a parser."""
        url, body = _url(out.url), out.body or b""
        fields = [(b"host", url.netloc), *self.fields(out.headers)]
        if out.body is not None or out.method in ("POST", "PUT", "PATCH"):
            fields.append((b"content-length", b"%d" % len(body)))
        return out.method, url.raw_path, fields, body


def _sendable(name: str, value: str) -> bool:
    ours = name in ("content-length", "transfer-encoding")
    return not ours and _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


class DirectWire:
    """One connection of our own, in either colour: over a blocking socket, its coroutines never suspend.

    `status` and `headers` are the answer's head, once `send` has returned (names in lower case, no cookies).
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._until = FOREVER
        self._socket: Socket | None = None
        self._parser: Parser | None = None
        self._decoder: Any = None
        self._flaw: BaseException | None = None  # comes after what came before it
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def cut_at(self, deadline: float) -> None:
        """The deadline of the next operations, where they block."""
        self._until = deadline
        if self._socket is not None:
            self._socket.until = deadline

    async def send(self, out: Outgoing) -> None:
        """Send, and wait for the answer's head.

        Raises:
            APIConnectionError, APITimeoutError: there was none.
            ConfigError: a header cannot be sent.
        """
        self.status = 0
        self._way.fields(out.headers)  # complains before anything is dialled
        kept = self._parser is not None
        parser = self._parser = self._parser or await self._dial(out)
        sock = self._socket
        assert sock is not None  # dialled  # noqa: S101
        came = False
        try:
            try:
                # Never in a local variable: a traceback may show those.
                await sock.write(memoryview(parser.request(*self._way.written(out))))
            except TimeoutError:
                raise
            except _BROKEN:  # it may have been answered before it was sent whole; else reading fails as well
                pass
            while not parser.status:
                came = await self._more(parser, sock) or came
        except _BROKEN as error:
            # A kept-alive connection that the server had closed meanwhile never carried the request to it.
            raise self._ours(error, sent=came or not kept) from _bare(error)
        self.status, self.headers = parser.status, _plain_headers(parser.fields)
        coding = self.headers.get("content-encoding", "identity")
        self._decoder = None if coding == "identity" else zlib.decompressobj(47)  # gzip or zlib, by its first bytes

    async def read(self) -> bytes:
        """The next piece of the body, decompressed; b"" at its end.

        Raises:
            APIConnectionError, APITimeoutError, APIResponseError: it did not come, or cannot be decompressed.
        """
        parser, sock = self._parser, self._socket
        try:
            while parser is not None and sock is not None:
                piece = parser.taken()
                if piece and self._decoder is not None:
                    piece = self._decoder.decompress(piece)
                if piece or parser.done:
                    return piece
                await self._more(parser, sock)
        except zlib.error as error:
            raise APIResponseError(_NOT_DECODED.format(error), raw=Raw(self.status, self.headers)) from None
        except _BROKEN as error:
            raise self._ours(error, sent=True) from _bare(error)
        return b""

    async def close(self) -> None:
        """Give the socket up: never raises, and no cancellation cuts it short."""
        if self._socket is not None:
            with suppress(Exception):  # why it complains concerns nobody
                await self._socket.close()

    @property
    def ready(self) -> bool:
        """Whether it may carry another request."""
        parser, sock = self._parser, self._socket
        sound = parser is not None and parser.reusable and self._flaw is None
        return sound and sock is not None and sock.silent and not watched()

    async def _more(self, parser: Parser, sock: Socket) -> bool:
        """Whether something came."""
        if self._flaw is not None:
            raise self._flaw
        data = await sock.read()
        try:
            parser.feed(data)
        except _BROKEN as flaw:
            self._flaw = flaw
        return bool(data)

    async def _dial(self, out: Outgoing) -> Parser:
        self._socket = new_socket(self._way.suspends, self._way.now)
        self._socket.until = self._until
        try:
            return await self._way.dial(self._socket, _url(out.url), out.connect)
        except (*_BROKEN, UnicodeError) as error:
            raise _unreached(error, isinstance(error, TimeoutError)) from _bare(error)

    def _ours(self, error: BaseException, sent: bool) -> APIError:
        return _broke(error, isinstance(error, TimeoutError), self.status, self.headers, sent)


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
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def cut_at(self, deadline: float) -> None:
        """The deadline of the next operations, where they block."""
        self._until = deadline

    async def send(self, out: Outgoing) -> None:
        """As `DirectWire.send`."""
        self.status = 0
        _sending.set(True)
        try:
            response = self._respond(out, self._left())
            self._response = response = await response if self._suspends else response
        except _HTTPX_BROKEN as error:
            raise self._ours(error) from _bare(error)
        finally:
            _sending.set(False)
        self.status, self.headers = response.status_code, _plain_headers(response.headers.raw)
        self._parts = response.aiter_bytes() if self._suspends else response.iter_bytes()

    async def read(self) -> bytes:
        """As `DirectWire.read`."""
        try:
            while self._parts is not None:
                self._left()
                piece: bytes | None = await anext(self._parts, None) if self._suspends else next(self._parts, None)
                if piece:
                    return piece
                if piece is None:
                    self._parts = self._response = None
        except _HTTPX_BROKEN as error:
            raise self._ours(error) from _bare(error)
        return b""

    async def close(self) -> None:
        """As `DirectWire.close`."""
        parts, response, self._parts, self._response = self._parts, self._response, None, None
        steps = [] if response is None else [response.aclose if self._suspends else response.close]
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

    def _left(self) -> float | None:
        """Seconds that one operation may take; the leaf cuts those that suspend."""
        if self._suspends or self._until == FOREVER:
            return None
        if (left := self._until - self._now()) <= 0:
            raise _broke(TimeoutError(), True, self.status, self.headers, True)
        return left

    def _ours(self, error: Exception) -> APIError:
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol)):
            return _unreached(error, False)
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return _unreached(error, True)
        if isinstance(error, httpx.DecodingError):
            return APIResponseError(_NOT_DECODED.format(_told(error)), raw=Raw(self.status, self.headers))
        return _broke(error, isinstance(error, httpx.TimeoutException), self.status, self.headers, True)


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


Wire = DirectWire | HttpxWire
_NOT_DECODED = "the answer cannot be decompressed ({})"


def _unreached(error: BaseException, late: bool) -> APIError:
    what = _told(error)
    if late:
        return APITimeoutError(f"no connection in time ({what})", sent=False)
    hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in what else ""
    return APIConnectionError(f"no connection to the workspace ({what})", hint=hint, sent=False)


def _broke(error: BaseException, late: bool, status: int, headers: Mapping[str, str], sent: bool) -> APIError:
    raw = Raw(status, headers) if status else None
    if late:
        return APITimeoutError(f"the answer did not come in time ({_told(error)})", raw=raw)
    return APIConnectionError(f"the connection broke ({_told(error)})", sent=sent, raw=raw)


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


def _plain_headers(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    headers.pop("set-cookie", None)  # a session is a secret, and nobody needs it here
    return headers


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
    """The method that the package brings; a name of ours where another stands in its place already."""
    found = kind.__dict__[name]
    home = str(sys.modules[kind.__module__.split(".")[0]].__file__).removesuffix("__init__.py")
    return found if str(getattr(getattr(found, "__code__", None), "co_filename", "")).startswith(home) else name


_GENUINE = [(kind.__dict__, name, _genuine(kind, name)) for kind, name in _SEEN_AT.items()]


def watched() -> bool:
    """Whether somebody (respx, say) has taken the place of one of httpx's methods: then every call goes there."""
    for methods, name, own in _GENUINE:  # every call asks
        if methods[name] is not own:
            return True
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
        built = httpx.Request(out.method, _url(out.url), headers=out.headers, content=out.body, extensions=extensions)
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
    way = Way(suspends, now, context, engine)

    def new() -> Wire:
        if engine != "httpx" and proxy is None and not watched():
            return DirectWire(way)
        kind: Any = httpx.AsyncClient if suspends else httpx.Client
        own = kind(verify=context, proxy=proxy, limits=_ONE, trust_env=False)  # sends what it is given, unchanged

        def respond(out: Outgoing, left: float | None) -> Any:
            return own.send(request(out, left), stream=True, auth=None, follow_redirects=False)

        return HttpxWire(respond, suspends, now, own.aclose if suspends else own.close, proxy is not None)

    return new
