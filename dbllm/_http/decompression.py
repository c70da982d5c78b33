"""Bodies that are compressed (header `content-encoding`), piece by piece and within limits. Pure."""

from __future__ import annotations

import zlib
from typing import Any

STEP = 2**20  # bytes that one step makes at most
_FREE, _RATIO = 16 * 2**20, 200  # over that many bytes, a body of more than 200 times the size it was sent in is a bomb
_MOST_CODINGS = 5  # one on the other, as curl and urllib3 have it
_STEP_IN = 2**14  # bytes of input in one step: zlib copies what follows the end of a member, and there may be thousands
_MEMBERS = 10_000  # of gzip are read in any case; of more, each has to have come in its own bytes
_LEAST = 16  # bytes of a member: an empty one has 20, unless it was compressed once more, for a bomb
_GZIP = b"\x1f\x8b"


def decompressor(coding: str) -> Decompressor | None:
    """What reads a body of this `content-encoding`; None where its bytes are the body.

    That is so for every word that names no compression dbllm asks for, as requests and httpx have it: servers write
    `utf-8`, `none`, `binary`, `8bit` or nothing there. Of more than five compressions, the last five are undone.
    """
    made: Decompressor | None = None
    names = [name for word in coding.lower().split(",") if (name := word.strip()) in ("gzip", "x-gzip", "deflate")]
    for name in reversed(names[-_MOST_CODINGS:]):  # the last one was applied last
        made = Decompressor(name == "deflate", made)
    return made


class Decompressor:
    """gzip (any number of members), zlib, and raw deflate; `source` decompresses its input before."""

    def __init__(self, raw: bool = False, source: Decompressor | None = None) -> None:
        self._raw, self._source = raw, source  # raw: it may lack zlib's head, as old servers send deflate
        self._rest = self.fed = b""  # from place `_at` on, what is to be read yet; the last input
        self._member: Any = None
        self._at = self._members = self._made = 0
        self._sent = 0  # bytes, as they came over the network: also where there is a source
        self._is_padding = False  # what comes now, after the last member: requests and curl ignore it as well

    def feed(self, data: bytes) -> None:
        """Input; raises as `take` does."""
        self.fed = data
        self._sent += len(data)
        if self._source is None:
            self._append(data)
        else:
            self._source.feed(data)

    def take(self) -> bytes:
        """The next bytes, `STEP` at most; b"" where that needs more input.

        Raises:
            zlib.error: this is not what was promised.
            ValueError: a compression bomb.
        """
        while self._has_input() or self._member is not None:
            if self._member is None:
                self._is_padding = self._is_padding or (
                    self._members > 0 and not self._rest.startswith(_GZIP, self._at)
                )
                if self._is_padding:
                    self._at = len(self._rest)
                    continue
                self._member = zlib.decompressobj(self._window())
            step = self._rest[self._at : self._at + _STEP_IN]
            piece: bytes = self._member.decompress(step, STEP)
            ended: bool = self._member.eof
            self._at += len(step) - len(self._member.unused_data if ended else self._member.unconsumed_tail)
            if ended:
                self._member, self._members = None, self._members + 1
            self._made += len(piece)
            if self._made > max(_FREE, _RATIO * self._sent) or self._members > _MEMBERS + self._sent // _LEAST:
                raise ValueError(f"the answer is over {_RATIO} times as large as it was sent")
            if piece or not (ended or step):
                return piece
        return b""

    def _append(self, data: bytes) -> None:
        self._rest, self._at = self._rest[self._at :] + data, 0

    def _has_input(self) -> bool:
        """Whether a member may begin or go on; what the source gives is taken when it is needed, not all at once."""
        while len(self._rest) - self._at < 2 and self._source is not None and (more := self._source.take()):
            self._append(more)
        return len(self._rest) - self._at > 1

    def end(self) -> None:
        """There is no more input; zlib.error where that is too early."""
        if self._source is not None:
            self._source.end()
        if self._member is not None or (len(self._rest) > self._at and not self._members):
            raise zlib.error("it ends too early")

    def give_up(self) -> bytes:
        """The last input as it came, where nothing came out of it."""
        return b"" if self._made else self.fed

    def _window(self) -> int:
        """zlib's `wbits` for what begins here."""
        first, second = self._rest[self._at : self._at + 2]
        is_zlib = first & 15 == 8 and (first << 8 | second) % 31 == 0
        return -15 if self._raw and not is_zlib and not self._rest.startswith(_GZIP, self._at) else 47
