"""What h11, aiohttp and requests read of odd servers, every engine reads; and no second answer passes through it."""

from __future__ import annotations

import traceback

import pytest
from support.loopback import Peer, head
from support.modes import permits

import dbllm
from dbllm._http.h11_parser import H11Parser
from dbllm._http.parser import Parser
from dbllm._http.request import RequestHeaders

ONCE = dbllm.Retry(attempts=1)
OK = b"HTTP/1.1 200 OK\r\n"
SIZED = b'content-length: 6\r\n\r\n"mine"'
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

ODD: dict[str, bytes] = {
    "LF alone ends the head's lines": b'HTTP/1.1 200 OK\ncontent-length: 6\n\n"mine"',
    "LF and CRLF in one head": b'HTTP/1.1 200 OK\r\nx: y\ncontent-length: 6\n\r\n"mine"',
    "a folded value": OK + b"x: a\r\n b\r\n\tc\r\n" + SIZED,
    "a folded value, with LF alone": b'HTTP/1.1 200 OK\nx: a\n b\ncontent-length: 6\n\n"mine"',
    "control characters in a value": OK + b"x: a\x01b\x7f\r\n" + SIZED,
    "bytes over 127 in a value": OK + b"x: \xe4\xff\r\n" + SIZED,
    "an empty value": OK + b"x:\r\n" + SIZED,
    "the same length twice": OK + b"content-length: 6\r\n" + SIZED,
    "the same length in a list": OK + b'content-length: 6, 6\r\n\r\n"mine"',
    "no reason": b"HTTP/1.1 200\r\n" + SIZED,
    "a reason in another script": b"HTTP/1.1 200 \xc3\xa4\xff\r\n" + SIZED,
    "another minor version": b"HTTP/1.2 200 OK\r\n" + SIZED,
    "a line break before the head": b"\r\n" + OK + SIZED,
    "a space after a chunk's size": CHUNKED + b'6 \r\n"mine"\r\n0\r\n\r\n',
    "tabs after a chunk's size": CHUNKED + b'6\t\t\r\n"mine"\r\n0 \r\n\r\n',
    "zeros before a chunk's size": CHUNKED + b'0006\r\n"mine"\r\n000\r\n\r\n',
    "a chunk's extension": CHUNKED + b'6;a=b\r\n"mine"\r\n0\r\n\r\n',
    "odd interim answers": b"HTTP/1.1 103 Hints\nlink: x\n\n" + OK + b"x: a\r\n b\r\n" + SIZED,
}
REFUSED: dict[str, bytes] = {
    "two lengths": OK + b"content-length: 5\r\n" + SIZED,
    "a length that is none": OK + b'content-length: +6\r\n\r\n"mine"',
    "a space before the colon": OK + b"x : y\r\n" + SIZED,
    "a NUL in a value": OK + b"x: a\0b\r\n" + SIZED,
    "a line without a colon": OK + b"xyz\r\n" + SIZED,
    "no version": b"HTTP/2 200 OK\r\n" + SIZED,
    "two codings": OK + b'transfer-encoding: chunked, chunked\r\n\r\n6\r\n"mine"\r\n0\r\n\r\n',
    "a chunk's size that is none": CHUNKED + b'6x\r\n"mine"\r\n0\r\n\r\n',
    "a chunk that is longer than it says": CHUNKED + b'5\r\n"mine"\r\n0\r\n\r\n',
}


def parsers() -> list[Parser]:
    made: list[Parser] = [H11Parser()]
    try:
        from dbllm._http.llhttp_parser import LlhttpParser
    except ImportError:
        return made
    return [*made, LlhttpParser()]


def fed(parser: Parser, data: bytes, size: int) -> tuple[int, bytes, bool]:
    parser.request("GET", b"/", RequestHeaders("http://x"), None)
    for at in range(0, len(data), size):
        parser.feed(data[at : at + size])
    return parser.status, parser.take_body(), parser.finished


@pytest.mark.parametrize("size", [1, 3, 10**6])
def test_odd_answers_are_read_alike_whatever_their_pieces(size: int) -> None:
    for name, data in ODD.items():
        for parser in parsers():
            assert fed(parser, data, size) == (200, b'"mine"', True), (name, type(parser))


@pytest.mark.parametrize("size", [1, 10**6])
def test_what_leaves_the_answers_end_in_doubt_is_refused_alike(size: int) -> None:
    for name, data in REFUSED.items():
        for parser in parsers():
            with pytest.raises((ConnectionError, EOFError)):
                pytest.fail(f"{name}, {type(parser).__name__}: {fed(parser, data, size)}")


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_no_second_answer_passes_through_what_is_lenient(make, serve, own):
    """The second one lies behind the first, in the same piece and in one that comes later."""
    wrong: list[str] = []
    for name, data in ODD.items():
        if own is not None and name == "a line break before the head":  # httpx does not take it
            continue

        def doubled(peer: Peer, data: bytes = data) -> None:
            while peer.request():
                peer.send(data + head(length=10) + b'"smuggled"')

        async with make(serve(doubled).host, retry=ONCE, engine=own, timeout=5) as client:
            for _ in range(3):
                try:
                    if (said := await client.request("GET", "/x")) != "mine":
                        wrong.append(f"{name}: {said!r}")
                except dbllm.APIError as error:
                    wrong.append(f"{name}: {error}")
            assert permits(client) == 0
    assert wrong == []


async def test_a_head_that_only_h11_reads_ends_its_connection(make, serve):
    """Where two parsers differ about a head, they may differ about the next one's beginning."""
    server = serve(lambda peer: [peer.send(ODD["a folded value"]) for _ in iter(peer.request, None)])
    async with make(server.host) as client:
        for _ in range(3):
            assert await client.request("GET", "/x") == "mine"
    assert server.connections in (1, 3)  # h11 itself takes it for what HTTP once allowed


async def test_what_is_no_http_is_said_without_the_bytes_that_came(make, serve):
    """A server may repeat the token in them; `error.raw` has them, without it."""
    for junk in (b"%s\r\n\r\n", b"HTTP/1.1 200 OK\r\n%s\r\n\r\n", b"HTTP/1.1 200 OK\r\nx : %s\r\n\r\n"):

        def echo(peer: Peer, junk: bytes = junk) -> None:
            request = peer.request()
            assert request is not None
            peer.send(junk % f"no: {request.headers['authorization']}\0".encode())

        async with make(serve(echo).host, token="dapi-canary-0123456789", retry=ONCE) as client:
            with pytest.raises(dbllm.APIConnectionError) as caught:
                await client.request("POST", "/x", json={})
        error = caught.value
        assert "canary" not in "".join(traceback.format_exception(error))
        assert (error.status, error.raw.status) == (None, 0)
        assert b"no: ***" in error.raw.body
        assert b"canary" not in error.raw.body


async def test_bytes_that_are_surely_no_http_are_not_waited_for(make, serve):
    """Such as a TLS alert: no end of a head will come."""

    def other(peer: Peer) -> None:
        peer.request()
        peer.send(b"\x15\x03\x01\x00\x02\x02\x46")
        peer.wait_gone()

    async with make(serve(other).host, retry=ONCE) as client:
        with pytest.raises(dbllm.APIConnectionError, match="no HTTP"):
            await client.request("GET", "/x")
