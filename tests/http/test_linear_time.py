"""What a server may send in any amount is read in linear time: doubled, it takes about twice as long.

A ratio and no figure, of CPU time, and the best of several runs: how fast the machine is, does not count.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from dbllm._http.decompression import decompressor
from dbllm._http.h11_parser import H11Parser
from dbllm._http.parser import MAX_INTERIM, ChunkedBody, HeadBuffer, has_final_head
from dbllm._protocol.error_responses import read_error, status_error
from dbllm._protocol.responses import json_or_none
from dbllm._protocol.sse import Decoder
from dbllm.errors import Raw

MOST = 3.2  # times as long for twice as much; what is quadratic takes four times
K = 1024
OK = b"HTTP/1.1 200 OK\r\n"


def fed(pieces: list[bytes], parser: Any) -> None:
    parser.request("GET", b"/", [(b"host", b"x")], None)
    feed_all(pieces, parser)


def feed_all(pieces: list[bytes], parser: Any) -> None:
    for piece in pieces:
        parser.feed(piece)


def body_of(pieces: list[bytes]) -> None:
    body, reader = [], ChunkedBody()
    for piece in pieces:
        reader.feed(piece, body)


def events_of(pieces: list[bytes]) -> None:
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)


def inflated(data: bytes) -> None:
    decoder = decompressor("gzip")
    assert decoder is not None
    decoder.feed(data)
    while decoder.take():
        pass


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def page(text: str, size: int) -> Callable[[], object]:
    body = b"<html>" + (text * (size // len(text))).encode()
    return lambda: status_error(Raw(500, {}, body), wall=0)


Work = Callable[[int], Callable[[], object]]


def of_parser(kind: Any) -> dict[str, Work]:
    name = kind.__name__
    return {
        f"{name}: a head in 1-byte reads": lambda n: lambda: fed([OK, *[b"x"] * n], kind()),
        f"{name}: header lines": lambda n: lambda: fed([OK + b"a: b\r\n" * (n // 6)], kind()),
        f"{name}: folded lines": lambda n: lambda: fed([OK + b"a: b\r\n" + b" c\r\n" * (n // 5) + b"\r\n"], kind()),
        f"{name}: interim answers": lambda n: lambda: fed([b"HTTP/1.1 102 P\r\n\r\n" * (n // 18)], kind()),
        f"{name}: interim answers bytewise": lambda n: (
            lambda: fed(bytewise(b"HTTP/1.1 102 P\r\n\r\n" * (n // 18)), kind())
        ),
        f"{name}: line breaks before a head": lambda n: lambda: fed([b"\r\n" * (n // 2)], kind()),
        f"{name}: a body to the end": lambda n: lambda: fed([OK + b"\r\n", *[b"x"] * n], kind()),
    }


def parsers() -> list[Any]:
    try:
        from dbllm._http.llhttp_parser import LlhttpParser
    except ImportError:
        return [H11Parser]
    return [H11Parser, LlhttpParser]


CASES: dict[str, Work] = {
    **{name: work for kind in parsers() for name, work in of_parser(kind).items()},
    "chunks of one byte": lambda n: lambda: body_of([b"1\r\nx\r\n" * (n // 6)]),
    "chunks of one byte, bytewise": lambda n: lambda: body_of(bytewise(b"1\r\nx\r\n" * (n // 6))),
    "chunk extensions": lambda n: lambda: body_of([b"1;a=b;c=d\r\nx\r\n" * (n // 14)]),
    "trailers, bytewise": lambda n: lambda: body_of(bytewise(b"0\r\n" + b"a: b\r\n" * (n // 6))),
    "a chunk that comes bytewise": lambda n: lambda: body_of([b"%x\r\n" % (n * 2), *[b"x"] * n]),
    "empty data lines": lambda n: lambda: events_of([b"data:\n\n" * (n // 7)]),
    "data lines of one event": lambda n: lambda: events_of([b"data: a\n" * (n // 8)]),
    "comments": lambda n: lambda: events_of([b":\n" * (n // 2)]),
    "a line in 1-byte reads": lambda n: lambda: events_of([b"data: ", *[b"x"] * n]),
    "carriage returns, bytewise": lambda n: lambda: events_of([b"\r"] * n),
    "[DONE] again and again": lambda n: lambda: events_of([b"data: [DONE]\n" * (n // 13)]),
    "members of gzip": lambda n: (lambda data: lambda: inflated(data))(gzip.compress(b"") * (n // 20)),
    "a page of tags": lambda n: page("<", n),
    "a page of titles": lambda n: page("<title>", n),
    "a page of open titles": lambda n: page("<title", n),
    "a page of scripts": lambda n: page("<script>", n),
    "a page of ends of styles": lambda n: page("<style></script ", n),
    "a page of entities": lambda n: page("&amp;&#x;", n),
    "a page of blanks": lambda n: page(" \n", n),
    "request ids": lambda n: lambda: read_error(json.dumps({"message": "[ReqId: " * (n // 8)}).encode()),
    "words of an overflow": lambda n: (
        lambda: read_error(json.dumps({"message": "exceeds input " * (n // 14)}).encode())
    ),
    "a deep list": lambda n: lambda: json_or_none(b"[" * n),
    "deep JSON": lambda n: lambda: json_or_none(b"[" * 900 + b"[]," * (n // 3) + b"]" * 901),
    "wide JSON": lambda n: lambda: json_or_none(b"[" + b"[]," * (n // 3) + b"1]"),
}


def seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    try:
        work()
    except Exception:  # noqa: S110 - what comes of it is the matter of other tests
        pass
    return time.thread_time() - began


def growth(work: Work) -> float:
    """How many times as long twice as much takes; of sizes that take some milliseconds, at the least."""
    size = 16 * K
    while seconds(work(size)) < 0.004 and size < 512 * K:
        size *= 2
    less, more = work(size), work(2 * size)
    return min(seconds(more) for _ in range(4)) / max(1e-4, min(seconds(less) for _ in range(4)))


@pytest.mark.speed
def test_twice_as_much_takes_about_twice_as_long() -> None:
    slow = {name: first for name, work in CASES.items() if (first := growth(work)) > MOST}
    slow = {name: again for name in slow if (again := growth(CASES[name])) > MOST}  # a busy machine, once
    assert not slow


@pytest.mark.speed
def test_what_is_quadratic_is_seen() -> None:
    def quadratic(size: int) -> Callable[[], object]:
        def work() -> None:
            kept = b""
            for _ in range(size // 8):
                kept = (kept + b"x" * 8)[:]
                kept.find(b"y")

        return work

    assert growth(quadratic) > MOST


@pytest.mark.parametrize("kind", parsers())
@pytest.mark.parametrize("endless", ["0\r\nx: ", "0\r\nx: y\r\n", "2;", "2;x="])
def test_a_body_with_something_endless_inside_is_an_error(kind: Any, endless: str) -> None:
    """A trailer, many of them, or a chunk's extension: no part of the body, so no bound of the body's size ends it."""
    parser = kind()
    parser.request("GET", b"/", [(b"host", b"x")], None)
    parser.feed(OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n" + endless.encode())
    assert parser.take_body() == b"{}"
    more = b"x: yyyyyyyyyyyyyyyy\r\n" * 50 if endless.endswith("\n") else b"a" * 1000
    with pytest.raises(ConnectionError):
        feed_all([more] * 200, parser)


@pytest.mark.parametrize("kind", parsers())
def test_a_long_body_in_small_pieces_is_none(kind: Any) -> None:
    parser = kind()
    parser.request("GET", b"/", [(b"host", b"x")], None)
    parser.feed(OK + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(30_000):
        parser.feed(b"1")
        parser.feed(b";a=b\r\n")
        parser.feed(b"x\r\n")
    parser.feed(b"0\r\nx: y\r\n\r\n")
    assert parser.finished
    assert parser.take_body() == b"x" * 30_000


@pytest.mark.parametrize("kind", parsers())
def test_interim_answers_without_end_are_an_error(kind: Any) -> None:
    """A server that sends them for ever costs no memory, and no more than the parsing of a MiB."""
    parser = kind()
    parser.request("GET", b"/", [(b"host", b"x")], None)
    flood = b"HTTP/1.1 102 P\r\n\r\n" * 1000
    for _ in range(MAX_INTERIM // len(flood)):
        parser.feed(flood)
    with pytest.raises(ConnectionError, match="interim"):
        parser.feed(flood)


def test_an_interim_answer_is_no_answer_in_whatever_pieces_it_comes() -> None:
    data = b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 H\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    for size in (1, 2, 7, 20, len(data)):
        head = HeadBuffer()
        seen = [has_final_head(head, data[at : at + size]) for at in range(0, len(data), size)]
        assert seen == [False] * (len(seen) - 1) + [True], size
