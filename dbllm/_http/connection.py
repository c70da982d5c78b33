"""One HTTP/1.1 connection of our own, straight over a socket.

The protocol is a parser's business: h11, or llhttp with the extra `fast`. httpx would do all this too, at three times
the cost; it stays in `engine`, for what only httpx has.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio
import httpx

from .._deadline import FOREVER
from .._lazy import WholeImport
from .._urls import origin
from ..errors import APIError, Raw
from .blocking_socket import BlockingSocket
from .decompression import Decompressor, decompressor
from .errors import broken_connection_error, connect_error, undecodable_error, without_tracebacks
from .parser import Parser
from .request import HttpRequest, RequestHeaders, decode_headers, request_target, require_sendable
from .sockets import Socket, new_socket

_BROKEN = (OSError, EOFError, anyio.BrokenResourceError, anyio.ClosedResourceError)
_SHORTEST_RACE, _LONGEST_RACE = (
    0.05,
    0.25,
)  # seconds; a round trip within one place takes less, one round the world more


@dataclass(slots=True)
class ConnectionSettings:
    """How a workspace is reached directly, and what of a request is made once for many."""

    suspends: bool
    clock: Callable[[], float]
    context: ssl.SSLContext
    is_httpx_patched: Callable[[], bool]  # whether somebody wants to see the next request elsewhere
    fast: bool


class H1Connection:
    """One connection of our own, in either colour: over a blocking socket, its coroutines never suspend.

    `finished` says that all of the answer's body has been read.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._until = FOREVER
        self._socket: Socket | None = None
        self._parser: Parser | None = None
        self._decoder: Decompressor | None = None
        self._head: list[bytes] = []  # what has come since the request
        self._race = _SHORTEST_RACE  # seconds: see `_was_sent`
        self._flaw: BaseException | None = None  # comes after what came before it
        self.finished = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def set_deadline(self, deadline: float) -> None:
        """The deadline of the next operations, where they block."""
        self._until = deadline
        if self._socket is not None:
            self._socket.until = deadline

    async def send(self, out: HttpRequest) -> tuple[int, Mapping[str, str]]:
        """Send, and wait for the answer's head: its status and headers (names in lower case, no cookies).

        Raises:
            APIConnectionError, APITimeoutError: there was none.
            ConfigError: a header cannot be sent.
        """
        self.status, self.finished = 0, False
        self._head.clear()
        require_sendable(out)
        kept = self._parser is not None
        parser = self._parser = self._parser or await self._dial(out)
        sock = self._socket
        assert sock is not None  # dialled  # noqa: S101
        began = self._settings.clock()
        try:
            try:
                await sock.write(memoryview(parser.request(*_written(out))))
            except TimeoutError:
                raise
            except _BROKEN:  # it may have been answered before it was sent whole; else reading fails as well
                pass
            while not parser.status:
                if self._flaw is not None:
                    raise self._flaw
                self._receive(await sock.read())
        except _BROKEN as error:
            raise self._ours(error, self._was_sent(kept, began)) from without_tracebacks(error)
        self.status, self.headers = parser.status, decode_headers(parser.fields)
        self._head.clear()
        coding = self.headers.get("content-encoding")
        self._decoder = decompressor(coding) if coding else None
        return self.status, self.headers

    async def read(self) -> bytes:
        """The next piece of the body, decompressed; b"" at its end, where the last piece did not tell.

        Raises:
            APIConnectionError, APITimeoutError, APIResponseError: it did not come, or cannot be decompressed.
        """
        parser, sock = self._parser, self._socket
        try:
            while parser is not None and sock is not None:
                piece = parser.take_body() if self._decoder is None else self._decompressed(self._decoder, parser)
                if piece or parser.finished:
                    self.finished = parser.finished and not (piece and self._decoder)
                    return piece
                if self._flaw is not None:
                    raise self._flaw
                self._feed(parser, await sock.read())
        except _BROKEN as error:
            raise self._ours(error, sent=True) from without_tracebacks(error)
        return b""

    def _decompressed(self, decoder: Decompressor, parser: Parser) -> bytes:
        try:
            if not (piece := decoder.take()):
                decoder.feed(parser.take_body())
                piece = decoder.take()
            if parser.finished and not piece:
                decoder.end()
            return piece
        except (zlib.error, ValueError) as error:
            undecoded = decoder.give_up()
            if self.status >= 400:  # what the status says matters more than how it was compressed
                self._decoder = None
                return undecoded
            raw = Raw(self.status, self.headers, undecoded)
            raise undecodable_error(error, raw) from without_tracebacks(error)

    async def close(self) -> None:
        """Give the socket up: never raises, and no cancellation cuts it short."""
        if self._socket is not None:
            with suppress(Exception):  # why it complains concerns nobody
                await self._socket.close()

    def detach(self) -> None:
        """Leave the socket to the process that dialled it."""
        if isinstance(self._socket, BlockingSocket):
            self._socket.detach()

    @property
    def reusable(self) -> bool:
        """Whether it may carry another request, as far as the answer said."""
        return self._parser is not None and self._parser.reusable and self._flaw is None

    @property
    def ready(self) -> bool:
        """Whether it may carry another request now: nothing lies in it that no request asked for, not even an end.

        An answer to no request that arrives after this look cannot be told from the next request's own: HTTP/1.1
        numbers neither. Who must rule that out sends `connection: close`, or one call over each client.
        """
        return (
            self.reusable
            and self._socket is not None
            and self._socket.is_idle
            and not self._settings.is_httpx_patched()
        )

    def _receive(self, data: bytes) -> bool:
        """Take what came before the answer's head was whole: whether it is now, or never will be."""
        if data:
            self._head.append(data)
        parser = self._parser
        assert parser is not None  # dialled  # noqa: S101
        self._feed(parser, data)
        return bool(parser.status) or self._flaw is not None

    def _was_sent(self, kept: bool, began: float) -> bool:
        """Whether the server may have got the request, which no answer followed.

        It surely has not where it had closed a kept-alive connection meanwhile. Then that end was on its way already,
        and is here within the time that a round trip takes, as dialling did; one that comes later may mean that the
        model ran. Nor has any byte of an answer come then.
        """
        return bool(self._head) or not kept or self._settings.clock() - began > self._race

    def _feed(self, parser: Parser, data: bytes) -> None:
        try:
            parser.feed(data)
        except _BROKEN as flaw:
            self._flaw = flaw

    async def _dial(self, out: HttpRequest) -> Parser:
        settings, place = self._settings, httpx.URL(origin(out.url))
        tls = settings.context if place.scheme == "https" else None
        self._socket = sock = new_socket(settings.suspends, settings.clock)
        sock.until, sock.arrived = self._until, self._receive
        began = settings.clock()
        try:
            await sock.connect(place.host, place.port or (80 if tls is None else 443), tls, out.connect)
        except (*_BROKEN, UnicodeError) as error:
            raise connect_error(error, isinstance(error, TimeoutError)) from without_tracebacks(error)
        self._race = min(max(_SHORTEST_RACE, settings.clock() - began), _LONGEST_RACE)  # a busy loop dials slowly, too
        with WholeImport():  # here: of two parsers, most programs need one
            if settings.fast and sock.in_asyncio:
                from .llhttp_parser import LlhttpParser

                return LlhttpParser()
            from .h11_parser import H11Parser

        return H11Parser()

    def _ours(self, error: BaseException, sent: bool) -> APIError:
        raw: Raw | None = None
        if self.status:
            raw = Raw(self.status, self.headers, self._decoder.fed if self._decoder else b"")
        elif self._head:
            raw = Raw(0, body=b"".join(self._head))
        return broken_connection_error(error, isinstance(error, TimeoutError), raw, sent)


def _written(out: HttpRequest) -> tuple[str, bytes, RequestHeaders, bytes | None]:
    """Method, target, headers and body, for a parser. Never in a local variable: a traceback may show those."""
    empty = b"" if out.method in ("POST", "PUT", "PATCH") else None
    return out.method, request_target(out.url)[1], out.headers, empty if out.body is None else out.body
