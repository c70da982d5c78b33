"""The client's end of HTTP/1.1 without a socket: bytes of a request, and what the bytes of an answer say. Pure."""

from __future__ import annotations

import re
from typing import Protocol

import h11

MAX_HEAD = 100 * 1024  # bytes of an answer's head
MAX_LINE = 4096  # bytes of a chunk's first line
_CLOSED = "the server closed the connection inside the answer"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\Z")

Fields = list[tuple[bytes, bytes]]


class Parser(Protocol):
    """The client's end of HTTP/1.1, without a socket. Raises EOFError, OSError or h11.RemoteProtocolError."""

    status: int
    fields: Fields
    done: bool  # the answer has come to its end

    def request(self, method: str, target: bytes, fields: Fields, body: bytes | None) -> bytes: ...
    def feed(self, data: bytes) -> None: ...  # b"" at the end of the connection
    def taken(self) -> bytes: ...  # what has come of the body since
    @property
    def reusable(self) -> bool: ...  # another request may follow, and nothing came after this one's answer


class H11Parser:
    """HTTP/1.1 by h11, but for bodies that say where they end: there it takes longer than all else in a call."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, MAX_HEAD)
        self._body: list[bytes] = []
        self._reader: Chunks | Sized | None = None  # of our own
        self._bodyless = self._last = False  # no body follows; no other answer will
        self.status, self.done = 0, False
        self.fields: Fields = []

    def request(self, method: str, target: bytes, fields: Fields, body: bytes | None) -> bytes:
        """The bytes to send; the fields' list is the same object as long as nothing in it changes."""
        if self._reader is not None:
            self._connection, self._reader = h11.Connection(h11.CLIENT, MAX_HEAD), None
        elif self._connection.our_state is h11.DONE:
            self._connection.start_next_cycle()
        self.status, self.done, self._bodyless = 0, False, method == "HEAD"
        sized = fields if body is None else [*fields, (b"content-length", b"%d" % len(body))]
        head = h11.Request(method=method, target=target, headers=sized)
        events = (head, h11.Data(data=body or b""), h11.EndOfMessage())
        return b"".join(self._connection.send(event) or b"" for event in events)

    def feed(self, data: bytes) -> None:
        """What has arrived."""
        if self._reader is not None:
            self.done = self._reader.feed(data, self._body)
            return
        if not data and not self.status:
            raise EOFError("the server closed the connection before it answered")
        h = self._connection
        h.receive_data(data)
        while not self.done:
            event = h.next_event()
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Data):
                self._body.append(event.data)
            elif isinstance(event, h11.Response):
                self.status, self.fields = event.status_code, list(event.headers)
                known = dict(self.fields)  # h11 has checked them: one length at most, and no coding but chunked
                length, chunked = known.get(b"content-length"), b"transfer-encoding" in known
                if (length is not None or chunked) and not self._bodyless and self.status not in (204, 304):
                    self._reader = Chunks() if chunked else Sized(int(length or 0))
                    # An old server, or one that says two lengths (RFC 9112, section 6.1), is not asked again.
                    self._last = event.http_version < b"1.1" or (chunked and length is not None)
                    rest = h.trailing_data[0]
                    self.done = self._reader.feed(rest, self._body) if rest else not chunked and not int(length or 0)
                    return
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
        if self._reader is not None:
            closing = self._last or any(
                name == b"connection" and b"close" in value.lower() for name, value in self.fields
            )
            return self.done and not self._reader.rest and not closing
        return h.our_state is h.their_state is h11.DONE and not h.trailing_data[0]


class Sized:
    """A body whose length is known."""

    def __init__(self, length: int) -> None:
        self.rest = b""  # what came too much
        self._left = length

    def feed(self, data: bytes, body: list[bytes]) -> bool:
        """As `Chunks.feed`."""
        if not data:
            raise EOFError(_CLOSED)
        body.append(data[: self._left])
        self.rest = data[self._left :]
        self._left -= len(body[-1])
        return not self._left


class Chunks:
    """A body in chunks (RFC 9112, section 7.1), piece by piece, in linear time."""

    def __init__(self) -> None:
        self.rest = b""  # a line that has not ended; after the end, what came too much
        self._left = 0  # bytes of this chunk that are still to come, with the line break after it
        self._last = False

    def feed(self, data: bytes, body: list[bytes]) -> bool:
        """Add to the body what has come of it: whether this was the end of it."""
        if not data:
            raise EOFError(_CLOSED)
        data, self.rest, at = self.rest + data, b"", 0
        while at < len(data):
            while not self._left and not self._last and (whole := _CHUNK(data, at)):  # the usual case, and quick
                begin, length = whole.end(), int(whole[1], 16)
                if not length or not data.startswith(b"\r\n", begin + length):
                    break
                body.append(data[begin : begin + length])
                at = begin + length + 2
            if self._left > 2:
                body.append(data[at : at + self._left - 2])
                at += len(body[-1])
                self._left -= len(body[-1])
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_LINE:
                    raise ConnectionError("a chunk of the answer has no size")
                break
            line, at = data[at:end], end + 2
            if self._last:  # trailers, which say nothing that is wanted here, and then an empty line
                if not line:
                    self.rest = data[at:]
                    return True
            elif self._left:
                if line:
                    raise ConnectionError("a chunk of the answer is longer than it said")
                self._left = 0
            elif not (size := _SIZE.match(line)):
                raise ConnectionError("a chunk of the answer has no size")
            elif length := int(size[1], 16):
                self._left = length + 2
            else:
                self._last = True
        self.rest = data[at:]
        return False
