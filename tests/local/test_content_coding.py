from __future__ import annotations

import gzip
import zlib

import pytest

from dbllm.local.errors import Problem
from dbllm.local.http.content_coding import MAX_MEMBERS, decode_content

TEXT = b'{"messages": []}' * 20_000
LIMIT = len(TEXT)


def bare(data: bytes) -> bytes:
    """deflate without zlib's header, which some clients send."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def refused(body: bytes, codings: str, limit: int = LIMIT) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        decode_content(body, codings, limit)
    return caught.value.status, caught.value.message


def test_a_body_is_decompressed_up_to_the_limit_and_no_byte_further() -> None:
    halves = gzip.compress(TEXT[: LIMIT // 2]) + gzip.compress(TEXT[LIMIT // 2 :])
    bodies = [
        ("gzip", gzip.compress(TEXT)),
        ("GZip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT, 0)),
        ("gzip", halves),
        ("gzip", gzip.compress(TEXT) + bytes(100_000)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare(TEXT)),
        ("gzip, deflate", zlib.compress(gzip.compress(TEXT))),
        ("deflate,identity, gzip", gzip.compress(zlib.compress(TEXT))),
    ]
    for codings, body in bodies:
        assert decode_content(body, codings, LIMIT) == TEXT, codings
        assert refused(body, codings, LIMIT - 1) == (413, f"Exceeded max request size of {LIMIT - 1} bytes."), codings


def test_words_that_name_no_coding_change_nothing() -> None:
    for codings in ("", "identity", "utf-8", "UTF-8, identity", "binary", " , "):
        assert decode_content(TEXT, codings, LIMIT) == TEXT, codings


def test_an_empty_body_stays_empty() -> None:
    for codings in ("gzip", "deflate", "gzip, gzip"):
        assert decode_content(b"", codings, LIMIT) == b"", codings


def test_what_cannot_be_decompressed_says_why() -> None:
    packed = gzip.compress(TEXT)
    table = [
        (TEXT, "gzip", "the body is not gzip"),
        (TEXT, "deflate", "the body is not deflate"),
        (packed[:-1], "gzip", "it ends too early"),
        (packed[:5], "gzip", "it ends too early"),
        (packed + b"more", "gzip", "the body is not gzip"),
        (packed + packed[:-9], "gzip", "it ends too early"),
        (packed[:-1] + b"!", "gzip", "the body is not gzip"),
        (zlib.compress(TEXT) + b"more", "deflate", "more follows its end"),
        (bare(TEXT)[:-1], "deflate", "it ends too early"),
        (gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip", "more follows its end"),
        (packed, "gzip, gzip, gzip, gzip", "names 4 codings"),
    ]
    for body, codings, reason in table:
        status, message = refused(body, codings, 2 * LIMIT)
        assert (status, reason in message) == (400, True), (codings, message)


def test_a_small_body_that_would_be_huge_is_stopped_at_the_limit() -> None:
    bomb = gzip.compress(gzip.compress(bytes(200_000_000), 1), 1)
    assert len(bomb) < 100_000
    assert refused(bomb, "gzip, gzip", 1 << 22)[0] == 413


def test_a_coding_that_is_not_known_here_is_415_and_names_those_that_are() -> None:
    for codings in ("br", "zstd", "gzip, BR"):
        with pytest.raises(Problem, match="is not supported") as caught:
            decode_content(b"x", codings, LIMIT)
        assert (caught.value.status, caught.value.headers) == (415, {"accept-encoding": "gzip, deflate"})
