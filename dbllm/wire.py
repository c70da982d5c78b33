"""One HTTP/1.1 connection of our own, straight over a socket.

The protocol is a parser's business: h11, or llhttp with the extra `fast`. httpx would do all this too, at three times
the cost; it stays in `engine`, for what only httpx has.
"""

from __future__ import annotations

import re
import ssl
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import anyio
import h11
import httpx

from .errors import APIConnectionError, APIError, APIResponseError, APITimeoutError, ConfigError, Raw
from .http1 import Fields, H11Parser, Parser
from .sockets import FOREVER, Socket, new_socket

_UNTRUSTED = "The certificate is not trusted here: pass verify= a file with its CA, or verify='system'."
_BROKEN = (OSError, EOFError, h11.RemoteProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError)
_GZIP_OR_ZLIB = 47  # for zlib: whichever the first bytes say
_NAME, _VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[\t -~\x80-\xff]*")


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


class Way:
    """How a workspace is reached directly, and what of a request is made once for many."""

    def __init__(
        self,
        suspends: bool,
        now: Callable[[], float],
        context: ssl.SSLContext,
        watched: Callable[[], bool],
        fast: bool = False,
    ) -> None:
        self.suspends, self.now, self.context, self.watched, self.fast = suspends, now, context, watched, fast
        self._known: dict[int, tuple[Mapping[str, str], Fields]] = {}

    def fields(self, headers: Mapping[str, str]) -> Fields:
        """Header fields as they go over the wire; ConfigError for one that cannot."""
        known = self._known.get(id(headers))
        if known is None:
            if len(self._known) >= 8:  # a token function brings new ones every time
                self._known.clear()
            if (unfit := next((name for name in headers if not _sendable(name, headers[name])), None)) is not None:
                raise ConfigError(
                    f"the header {unfit!r} cannot be sent: dbllm writes it itself, or HTTP has no form for it."
                )
            fields = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers.items()]
            known = self._known[id(headers)] = headers, fields
        return known[1]

    def written(self, out: Outgoing) -> tuple[str, bytes, Fields, bytes]:
        """Method, target, fields and body, for a parser. Never in a local variable: a traceback may show those."""
        body = out.body or b""
        host, target = _place(out.url)
        fields = [(b"host", host), *self.fields(out.headers)]
        if out.body is not None or out.method in ("POST", "PUT", "PATCH"):
            fields.append((b"content-length", b"%d" % len(body)))
        return out.method, target, fields, body


@lru_cache(maxsize=64)
def _place(url: str) -> tuple[bytes, bytes]:
    return httpx.URL(url).netloc, httpx.URL(url).raw_path


def _sendable(name: str, value: str) -> bool:
    ours = name in ("content-length", "transfer-encoding")
    return not ours and _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


class DirectWire:
    """One connection of our own, in either colour: over a blocking socket, its coroutines never suspend.

    `done` says that all of the answer's body has been read.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._until = FOREVER
        self._socket: Socket | None = None
        self._parser: Parser | None = None
        self._decoder: Any = None
        self._cut = False  # what is compressed has begun and not ended
        self._flaw: BaseException | None = None  # comes after what came before it
        self.done = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def cut_at(self, deadline: float) -> None:
        """The deadline of the next operations, where they block."""
        self._until = deadline
        if self._socket is not None:
            self._socket.until = deadline

    async def send(self, out: Outgoing) -> tuple[int, Mapping[str, str]]:
        """Send, and wait for the answer's head: its status and headers (names in lower case, no cookies).

        Raises:
            APIConnectionError, APITimeoutError: there was none.
            ConfigError: a header cannot be sent.
        """
        self.status, self.done, self._cut = 0, False, False
        if not _NAME.fullmatch(out.method):
            raise ConfigError(f"{out.method!r} is no HTTP method.")
        self._way.fields(out.headers)  # complains before anything is dialled
        kept = self._parser is not None
        parser = self._parser = self._parser or await self._dial(out)
        sock = self._socket
        assert sock is not None  # dialled  # noqa: S101
        came = False
        try:
            try:
                await sock.write(memoryview(parser.request(*self._way.written(out))))
            except TimeoutError:
                raise
            except _BROKEN:  # it may have been answered before it was sent whole; else reading fails as well
                pass
            while not parser.status:
                if self._flaw is not None:
                    raise self._flaw
                data = await sock.read()
                came = came or bool(data)
                self._feed(parser, data)
        except _BROKEN as error:
            # A kept-alive connection that the server had closed meanwhile never carried the request to it.
            raise self._ours(error, sent=came or not kept) from bare(error)
        self.status, self.headers = parser.status, plain_headers(parser.fields)
        coded = self.headers.get("content-encoding", "identity").lower() != "identity"
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB) if coded else None
        return self.status, self.headers

    async def read(self) -> bytes:
        """The next piece of the body, decompressed; b"" at its end, where the last piece did not tell.

        Raises:
            APIConnectionError, APITimeoutError, APIResponseError: it did not come, or cannot be decompressed.
        """
        parser, sock = self._parser, self._socket
        try:
            while parser is not None and sock is not None:
                piece = parser.taken()
                if piece and self._decoder is not None:
                    piece = self._decompressed(piece)
                if parser.done and not piece and self._cut:
                    raise zlib.error("it ends too early")
                if piece or parser.done:
                    self.done = parser.done and not self._cut
                    return piece
                if self._flaw is not None:
                    raise self._flaw
                self._feed(parser, await sock.read())
        except zlib.error as error:
            raise APIResponseError(NOT_DECODED.format(error), raw=Raw(self.status, self.headers)) from None
        except _BROKEN as error:
            raise self._ours(error, sent=True) from bare(error)
        return b""

    def _decompressed(self, piece: bytes) -> bytes:
        """Member after member: what is compressed by gzip may have several."""
        parts: list[bytes] = []
        while piece:
            if self._decoder.eof:
                self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
            parts.append(self._decoder.decompress(piece))
            piece = self._decoder.unused_data
        self._cut = not self._decoder.eof
        return b"".join(parts)

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
        return sound and sock is not None and sock.silent and not self._way.watched()

    def _feed(self, parser: Parser, data: bytes) -> None:
        try:
            parser.feed(data)
        except _BROKEN as flaw:
            self._flaw = flaw

    async def _dial(self, out: Outgoing) -> Parser:
        way, place = self._way, httpx.URL(origin(out.url))
        tls = way.context if place.scheme == "https" else None
        self._socket = sock = new_socket(way.suspends, way.now)
        sock.until = self._until
        try:
            await sock.connect(place.host, place.port or (80 if tls is None else 443), tls, out.connect)
        except (*_BROKEN, UnicodeError) as error:
            raise unreached(error, isinstance(error, TimeoutError)) from bare(error)
        if not way.fast or not sock.in_asyncio:
            return H11Parser()
        from .fast import LlhttpParser

        return LlhttpParser()

    def _ours(self, error: BaseException, sent: bool) -> APIError:
        return broke(error, isinstance(error, TimeoutError), self.status, self.headers, sent)


NOT_DECODED = "the answer cannot be decompressed ({})"


def unreached(error: BaseException, late: bool) -> APIError:
    what = told(error)
    if late:
        return APITimeoutError("no connection in time", sent=False)
    hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in what else ""
    return APIConnectionError(f"no connection to the workspace ({what})", hint=hint, sent=False)


def broke(error: BaseException, late: bool, status: int, headers: Mapping[str, str], sent: bool) -> APIError:
    raw = Raw(status, headers) if status else None
    if late:
        return APITimeoutError("the answer did not come in time", raw=raw)
    return APIConnectionError(f"the connection broke ({told(error)})", sent=sent, raw=raw)


def told(error: BaseException) -> str:
    """What an error of the HTTP stack is about; trio says it only in what lies beneath."""
    link: BaseException | None = error
    while link is not None and not str(link):
        link = link.__cause__ or link.__context__
    return f"{type(error).__name__}: {link}" if link is not None else type(error).__name__


def bare(error: BaseException) -> BaseException:
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


parsed = lru_cache(maxsize=64)(httpx.URL)


def plain_headers(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    headers.pop("set-cookie", None)  # a session is a secret, and nobody needs it here
    return headers
