"""The client's end of HTTP/1.1 without a socket: what a parser offers, and bodies whose end is known. Pure."""

from __future__ import annotations

import re
from typing import Protocol

from .request import RawHeaders, RequestHeaders

MAX_HEAD = 100 * 1024  # bytes of an answer's head
MAX_INTERIM = 2**20  # bytes of interim answers: at one a second, they last for half a day
MAX_LINE = 4096  # bytes of a chunk's first line
_CLOSED = "the server closed the connection inside the answer"
TOO_MUCH = f"over {MAX_HEAD} bytes came inside the answer that are no part of it"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match
_BLANK = re.compile(rb"\n\r?\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\Z")


class Parser(Protocol):
    """The client's end of HTTP/1.1, without a socket. Raises EOFError or OSError."""

    status: int
    fields: RawHeaders
    finished: bool  # the answer has come to its end

    def request(
        self, method: str, target: bytes, headers: RequestHeaders | RawHeaders, body: bytes | None
    ) -> bytes: ...
    def feed(self, data: bytes) -> None: ...  # b"" at the end of the connection
    def take_body(self) -> bytes: ...  # what has come of the body since
    @property
    def reusable(self) -> bool: ...  # another request may follow, and nothing came after this one's answer


class HeadBuffer:
    """Collects an answer's head, in linear time whatever pieces it comes in."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._interim = 0  # bytes of the interim answers (1xx) before this head

    def add(self, data: bytes, at: int = 0) -> tuple[bytes, int, int] | None:
        """What has come since the last head, once a head is whole, and where that begins and ends; None before.

        The next head begins where this one ends: give that place as `at`, with the same bytes.

        Raises:
            ConnectionError: it is no HTTP, or over `MAX_HEAD` bytes; or interim answers come without end.
        """
        before = len(self._kept)
        if before:
            self._kept += data
            if b"\n" not in data and len(self._kept) <= MAX_HEAD:
                return None  # a head ends with a line: what comes byte by byte is searched once a line
        whole: bytes | bytearray = self._kept if before else data
        while not before and at < len(whole) and whole[at] < 33:
            if whole[at] not in b"\r\n":  # a TLS alert, say
                raise ConnectionError("the answer is no HTTP")
            at += 1  # some servers end a body with a line break too many
        blank = _BLANK.search(whole, max(at, before - 2), at + MAX_HEAD)
        if blank is None:
            if len(whole) - at > MAX_HEAD:
                raise ConnectionError(f"the answer's head is over {MAX_HEAD} bytes")
            if whole is not self._kept:
                self._kept = bytearray(whole[at:])
            return None
        self._kept = bytearray()
        end = blank.end()
        self._interim = self._interim + end - at if whole.startswith(b"1", at + 9) else 0
        if self._interim > MAX_INTERIM:
            raise ConnectionError(f"over {MAX_INTERIM} bytes of interim answers came, and no other")
        return (bytes(whole) if before else data), at, end


def has_final_head(head: HeadBuffer, data: bytes) -> bool:
    """Whether an answer's head is whole with `data`, or never will be; interim answers (1xx) do not count."""
    try:
        end = 0
        while end < len(data) and (found := head.add(data, end)) is not None:
            data, begin, end = found
            if not data.startswith(b"1", begin + 9):
                return True
    except ConnectionError:
        return True
    return False


class SizedBody:
    """A body whose length is known."""

    def __init__(self, length: int) -> None:
        self.rest = b""  # what came too much
        self._left = length

    def feed(self, data: bytes, body: list[bytes]) -> bool:
        """As `ChunkedBody.feed`."""
        if not data:
            raise EOFError(_CLOSED)
        body.append(data[: self._left])
        self.rest = data[self._left :]
        self._left -= len(body[-1])
        return not self._left


class ChunkedBody:
    """A body in chunks (RFC 9112, section 7.1), piece by piece, in linear time."""

    def __init__(self) -> None:
        self.rest = b""  # a line that has not ended; after the end, what came too much
        self._left = 0  # bytes of this chunk that are still to come, with the line break after it
        self._last = False
        self._trailers = 0  # bytes

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
                self._trailers += len(line)
                if self._trailers > MAX_HEAD:
                    raise ConnectionError(TOO_MUCH)
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
