"""Bodies that are compressed (header `content-encoding`), piece by piece and within limits. Pure."""

from __future__ import annotations

import zlib
from typing import Any

STEP = 2**20  # bytes that one step makes at most
_FREE, _RATIO = 16 * 2**20, 200  # over that many bytes, a body of more than 200 times its compressed size is a bomb
_GZIP = b"\x1f\x8b"


def decompressor(coding: str) -> Decompressor | None:
    """What reads a body of this `content-encoding`; None where its bytes are the body.

    That is so for every word that names no compression dbllm asks for, as requests and httpx have it: servers write
    `utf-8`, `none`, `binary`, `8bit` or nothing there.
    """
    made: Decompressor | None = None
    for word in reversed(coding.lower().split(",")):  # the last one was applied last
        if (name := word.strip()) in ("gzip", "x-gzip", "deflate"):
            made = Decompressor(name == "deflate", made)
    return made


class Decompressor:
    """gzip (any number of members), zlib, and raw deflate; `source` decompresses its input before."""

    def __init__(self, raw: bool = False, source: Decompressor | None = None) -> None:
        self._raw, self._source = raw, source  # raw: it may lack zlib's head, as old servers send deflate
        self._rest = self.fed = b""  # what is to be read yet; the last input
        self._member: Any = None
        self._members = self._size = self._made = 0
        self._is_padding = False  # what comes now, after the last member: requests and curl ignore it as well

    def feed(self, data: bytes) -> None:
        """Input; raises as `take` does."""
        self.fed = data
        if self._source is not None:
            self._source.feed(data)
            data = b"".join(iter(self._source.take, b""))
        self._rest += data
        self._size += len(data)

    def take(self) -> bytes:
        """The next bytes, `STEP` at most; b"" where that needs more input.

        Raises:
            zlib.error: this is not what was promised.
            ValueError: a compression bomb.
        """
        while self._member is not None or len(self._rest) > 1:
            if self._member is None:
                self._is_padding = self._is_padding or (self._members > 0 and not self._rest.startswith(_GZIP))
                if self._is_padding:
                    self._rest = b""
                    break
                self._member = zlib.decompressobj(self._window())
            piece: bytes = self._member.decompress(self._rest, STEP)
            ended: bool = self._member.eof
            self._rest = self._member.unused_data if ended else self._member.unconsumed_tail
            if ended:
                self._member, self._members = None, self._members + 1
            self._made += len(piece)
            if self._made > max(_FREE, _RATIO * self._size):
                raise ValueError(f"the answer is over {_RATIO} times as large as it was sent")
            if piece or not ended:
                return piece
        return b""

    def end(self) -> None:
        """There is no more input; zlib.error where that is too early."""
        if self._source is not None:
            self._source.end()
        if self._member is not None or (self._rest and not self._members):
            raise zlib.error("it ends too early")

    def give_up(self) -> bytes:
        """The last input as it came, where nothing came out of it."""
        return b"" if self._made else self.fed

    def _window(self) -> int:
        """zlib's `wbits` for what begins here."""
        first, second = self._rest[:2]
        is_zlib = first & 15 == 8 and (first << 8 | second) % 31 == 0
        return -15 if self._raw and not is_zlib and not self._rest.startswith(_GZIP) else 47
