"""The client's end of HTTP/1.1 without a socket: bytes of a request, and what the bytes of an answer say. Pure."""

from __future__ import annotations

import re

import h11

from .parser import MAX_HEAD, ChunkedBody, HeadBuffer, SizedBody
from .request import RawHeaders, RequestHeaders

# An answer before the answer (1xx), and no change of the protocol.
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d[ \r\n]")


class H11Parser:
    """HTTP/1.1 by h11, but for bodies that say where they end: there it takes longer than all else in a call."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, MAX_HEAD)
        self._head = HeadBuffer()
        self._body: list[bytes] = []
        self._reader: ChunkedBody | SizedBody | None = None  # of our own
        self._bodyless = self._last = False  # no body follows; no other answer will
        self.status, self.finished = 0, False
        self.fields: RawHeaders = []

    def request(self, method: str, target: bytes, headers: RequestHeaders | RawHeaders, body: bytes | None) -> bytes:
        """The bytes to send."""
        if self._reader is not None:
            self._connection, self._reader = h11.Connection(h11.CLIENT, MAX_HEAD), None
        elif self._connection.our_state is h11.DONE:
            self._connection.start_next_cycle()
        self.status, self.finished, self._bodyless = 0, False, method == "HEAD"
        fields = headers.fields if isinstance(headers, RequestHeaders) else headers
        sized = fields if body is None else [*fields, (b"content-length", b"%d" % len(body))]
        head = h11.Request(method=method, target=target, headers=sized)
        events = (head, h11.Data(data=body or b""), h11.EndOfMessage())
        return b"".join(self._connection.send(event) or b"" for event in events)

    def feed(self, data: bytes) -> None:
        """What has arrived."""
        if self._reader is not None:
            self.finished = self._reader.feed(data, self._body)
            return
        if self.status:  # the body ends with the connection
            self._connection.receive_data(data)
            self._read_on()
            return
        if not data:
            raise EOFError("the server closed the connection before it answered")
        end = 0
        while end < len(data) and (found := self._head.add(data, end)) is not None:
            data, begin, end = found
            if _INTERIM.match(data, begin):  # it says nothing that is wanted here, and there may be thousands
                continue
            self._connection.receive_data(data[begin:end])
            event = self._next_event()
            if isinstance(event, h11.Response):
                self._begin(event, data[end:])
                return
            raise EOFError("the server left without an answer")

    def _begin(self, event: h11.Response, data: bytes) -> None:
        """The answer's head has come, and `data` after it."""
        self.status, self.fields = event.status_code, list(event.headers)
        known = dict(self.fields)  # h11 has checked them: one length at most, and no coding but chunked
        length, chunked = known.get(b"content-length"), b"transfer-encoding" in known
        if (length is not None or chunked) and not self._bodyless and self.status not in (204, 304):
            self._reader = ChunkedBody() if chunked else SizedBody(int(length or 0))
            # An old server, or one that says two lengths (RFC 9112, section 6.1), is not asked again.
            self._last = event.http_version < b"1.1" or (chunked and length is not None)
            self.finished = self._reader.feed(data, self._body) if data else not chunked and not int(length or 0)
            return
        if data:
            self._connection.receive_data(data)
        self._read_on()

    def _read_on(self) -> None:
        while not self.finished:
            event = self._next_event()
            if isinstance(event, h11.Data):
                self._body.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.finished = True
            else:
                return

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise ConnectionError(f"the answer is no HTTP: {error}") from None

    def take_body(self) -> bytes:
        """The body since the last time."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        h = self._connection
        if self._reader is not None:
            closing = self._last or any(
                name == b"connection" and b"close" in value.lower() for name, value in self.fields
            )
            return self.finished and not self._reader.rest and not closing
        return h.our_state is h.their_state is h11.DONE and not h.trailing_data[0]
