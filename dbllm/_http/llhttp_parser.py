"""HTTP/1.1 by llhttp, the parser of Node.js, through httptools: the engine of the extra `fast`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from .._lazy import WholeImport
from .parser import MAX_HEAD, TOO_MUCH, HeadBuffer
from .request import RawHeaders, RequestHeaders, header_lines

if TYPE_CHECKING:
    from .h11_parser import H11Parser

_ANY = [(b"host", b"any")]


class LlhttpParser:
    """The client's end of HTTP/1.1; see `parser.Parser`.

    A head that llhttp refuses is read by h11, with its body: llhttp is stricter than h11, aiohttp and requests are (it
    wants CRLF, no folded values, one Content-Length). The connection of such an answer carries no other.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)  # as h11 has it
        self._head = HeadBuffer()
        self._body: list[bytes] = []
        self._waits = False  # for an answer
        self._start("")

    def _start(self, method: str) -> None:
        self.status, self.finished, self.reusable = 0, False, False
        self.fields: RawHeaders = []
        self._method, self._framed = method, False
        self._aside = 0  # bytes since the last ones of the body
        self._by_h11: H11Parser | None = None

    def request(self, method: str, target: bytes, headers: RequestHeaders | RawHeaders, body: bytes | None) -> bytes:
        """The bytes to send."""
        self._start(method)
        self._waits = True
        length = b"" if body is None else b"content-length: %d\r\n" % len(body)
        lines = headers.lines if isinstance(headers, RequestHeaders) else header_lines(headers)
        return b"%s %s HTTP/1.1\r\n%s%s\r\n%s" % (method.encode(), target, lines, length, body or b"")

    def feed(self, data: bytes) -> None:
        """What has arrived."""
        if self._by_h11 is not None:
            self._feed_h11(self._by_h11, data)
            return
        if not data:
            self._end()
            return
        if self.status:
            self._take(data)
            self._aside = 0 if self._body else self._aside + len(data)
            if self._aside > MAX_HEAD:  # of a chunk's extension or a trailer, which httptools would collect
                raise ConnectionError(TOO_MUCH)
            return
        end = 0
        while end < len(data) and not self.status:  # whole, a head is one call of llhttp's, and its size is known
            if (found := self._head.add(data, end)) is None:
                return
            data, begin, end = found
            interim = data.startswith(b"1", begin + 9)  # then another head comes
            try:
                self._take(data[begin : end if interim else None])
            except ConnectionError:
                if self.status:
                    raise
                with WholeImport():
                    from .h11_parser import H11Parser  # here: few servers write such heads

                self.fields, self._by_h11 = [], H11Parser()
                self._by_h11.request(self._method, b"/", _ANY, None)
                self._feed_h11(self._by_h11, data[begin:])
                return
            if not interim:
                return

    def _feed_h11(self, other: H11Parser, data: bytes) -> None:
        other.feed(data)
        self.status, self.fields, self.finished = other.status, other.fields, other.finished
        self._body.append(other.take_body())

    def _take(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise EOFError("the server changed the protocol") from None
        except httptools.HttpParserError as error:
            if not self.finished:
                raise ConnectionError(f"the answer is no HTTP: {error}") from None
            self.reusable = False

    def take_body(self) -> bytes:
        """The body since the last time."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    def _end(self) -> None:
        if not self.status or self._framed:
            raise EOFError("the server closed the connection before the answer's end")
        self.finished, self._waits = True, False

    # What httptools calls:

    def on_message_begin(self) -> None:
        if not self._waits:  # an answer that nobody asked for
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._waits and not self.status:  # trailers are no header fields
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self._waits:
            return
        if 100 <= (status := self._parser.get_status_code()) < 200:
            self.fields = []
            return
        known = dict(self.fields)
        coded = b"transfer-encoding" in known
        codings = [value.lower() for name, value in self.fields if name == b"transfer-encoding"] if coded else []
        if status < 100 or codings not in ([], [b"chunked"]):  # as h11 has it
            raise ValueError("its status or its transfer coding is none that is understood")
        self.status = status
        self._framed = coded or b"content-length" in known
        if self._method == "HEAD":
            self.finished, self._waits = True, False

    def on_body(self, piece: bytes) -> None:
        if self._waits:
            self._body.append(piece)

    def on_message_complete(self) -> None:
        if self._waits and self.status:
            self.finished, self._waits = True, False
            self.reusable = self._parser.should_keep_alive()
