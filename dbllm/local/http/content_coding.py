"""A request's body without its Content-Encoding: gzip and deflate, however large the sender made it. All pure."""

from __future__ import annotations

import zlib

from dbllm.local.errors import bad_request, too_large, unsupported_coding

CODINGS = ("gzip", "deflate")
OTHERS = ("br", "zstd", "compress", "dcb", "dcz")
"""Codings that clients know and this workspace does not. Any other word, such as utf-8, is no coding of the bytes."""

STEP = 1 << 16
MAX_MEMBERS = 1000
"""Parts of one gzip body: each costs the same, however little is in it."""
MAX_CODINGS = 3
"""Codings on top of each other. A body of gzip can be made that is its own content, so somewhere it has to end."""

GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def decode_content(body: bytes, codings: str, limit: int) -> bytes:
    """The body that was sent with the header `Content-Encoding: {codings}`, of at most `limit` bytes.

    Raises:
        Problem: 400, it is not of this coding; 413, it is larger; 415, a coding that is not known here.
    """
    names = [name for name in (word.strip().lower().removeprefix("x-") for word in codings.split(",")) if name]
    for name in names:
        if name in OTHERS:
            raise unsupported_coding(name, CODINGS)
    known = [name for name in names if name in CODINGS]
    if len(known) > MAX_CODINGS:
        raise bad_request(f"the header 'Content-Encoding' names {len(known)} codings, {MAX_CODINGS} are the most")
    for name in reversed(known):
        body = _inflate(body, name, limit)
    return body


def _inflate(body: bytes, name: str, limit: int) -> bytes:
    window = GZIP if name == "gzip" else ZLIB if _has_zlib_header(body) else RAW
    stream, members, decoded = zlib.decompressobj(window), 1, bytearray()
    try:
        for at in range(0, len(body), STEP):
            data = body[at : at + STEP]
            while data:
                if stream.eof:
                    data = data.lstrip(b"\0")  # the padding that gzip allows
                    if not data:
                        break
                    members += 1
                    if name != "gzip" or members > MAX_MEMBERS:
                        raise zlib.error("more follows its end")
                    stream = zlib.decompressobj(window)
                decoded += stream.decompress(data, limit + 1 - len(decoded))
                if len(decoded) > limit:
                    raise too_large(limit)
                data = stream.unused_data
    except zlib.error as error:
        raise bad_request(f"the body is not {name}, as the header 'Content-Encoding' says: {error}") from error
    if not stream.eof and body:
        raise bad_request(f"the body is not {name}, as the header 'Content-Encoding' says: it ends too early")
    return bytes(decoded)


def _has_zlib_header(body: bytes) -> bool:
    """Whether `deflate` means zlib's format, as it should (RFC 9110), or the bare stream that some clients send."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
