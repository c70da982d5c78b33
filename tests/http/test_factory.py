"""The HTTP engine: what goes over one real connection, byte by byte."""

from __future__ import annotations

import gzip
import sys
import types

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded
from support.loopback import STREAM_HEAD, Peer, chunk, head, keep_answering
from support.modes import permits
from support.samples import piece, sse

import dbllm
from dbllm._http import factory
from dbllm._http.h11_parser import H11Parser
from dbllm._http.parser import Parser
from dbllm._http.request import RequestHeaders

ONCE = dbllm.Retry(attempts=1)


async def test_a_request_has_the_headers_it_needs_and_no_others(make, serve):
    server = serve()
    async with make(server.host) as client:
        await client.request("POST", "/x", json={"ä": 1})
        await client.request("GET", "/x")
    post, get = server.requests
    assert set(post.headers) == {
        "host", "user-agent", "accept", "accept-encoding", "authorization", "content-type", "content-length",
    }  # fmt: skip
    assert post.body == '{"ä":1}'.encode()
    assert post.headers["content-length"] == str(len(post.body))
    assert set(get.headers) == {"host", "user-agent", "accept", "accept-encoding", "authorization"}


async def test_cookies_are_neither_kept_nor_shown(make, serve):
    def baker(peer: Peer) -> None:
        while peer.request():
            peer.answer({"predictions": [1]}, set_cookie="session=secret")

    server = serve(baker)
    async with make(server.host) as client:
        for _ in range(2):
            reply = await client.endpoint("ep").predict(inputs=[1])
    assert "set-cookie" not in reply.raw.headers
    assert "cookie" not in server.requests[1].headers


async def test_header_names_are_lower_case_and_repeated_ones_are_joined(make, serve):
    def repeating(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\n{}")

    async with make(serve(repeating).host) as client:
        reply = await client.endpoint("ep").predict(inputs=[1])
    assert reply.raw.headers == {"x-a": "1, 2", "content-length": "2"}


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\ncontent-length: 20\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_typed_error_and_its_connection_is_given_up(make, serve, answer):
    def odd(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    async with make(serve(odd, keep_answering).host, retry=ONCE) as client:
        with pytest.raises(dbllm.APIConnectionError):
            await client.request("POST", "/x", json={})
        assert permits(client) == 0
        assert await client.request("GET", "/x") == "hello"


async def test_a_body_that_is_shorter_than_promised_is_never_a_success(make, serve):
    def short(peer: Peer) -> None:
        peer.request()
        peer.send(head(length=50) + b'{"a": 1}')

    async with make(serve(short).host, retry=ONCE) as client:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/x", json={})
    assert caught.value.raw.status == 200


async def test_an_error_of_the_connection_has_the_bytes_that_came(make, serve):
    sized, chunked = head(length=50), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for sent, kept in (
        (sized + b'{"a": 1}', b'{"a": 1}'),
        (chunked + chunk(b'{"a": ') + b"zz\r\n", b'{"a": '),
        (chunked + chunk(b'{"a": ') + chunk(b"1"), b'{"a": 1'),
        (b"220 mail.example.com ESMTP\r\n", b"220 mail.example.com ESMTP\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 200 OK\r\ncontent-le"),
    ):

        def broken(peer: Peer, sent: bytes = sent) -> None:
            peer.request()
            peer.send(sent)

        async with make(serve(broken).host, retry=ONCE) as client:
            with pytest.raises(dbllm.APIConnectionError) as caught:
                await client.request("POST", "/x", json={})
        assert caught.value.raw.body == kept
        assert caught.value.status == (None if b"220" in sent or sent.endswith(b"-le") else 200)


async def test_interim_answers_are_skipped(make, serve):
    def hints(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        peer.answer()

    async with make(serve(hints).host) as client:
        assert await client.request("GET", "/x") == "hello"


async def test_an_answer_that_comes_before_the_whole_request_is_read(make, serve):
    def too_large(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.answer({"message": "too large"}, 413, connection="close")
        peer.wait_gone()

    async with make(serve(too_large).host) as client:
        with pytest.raises(dbllm.RequestTooLargeError, match="too large"):
            await client.request("POST", "/x", json={"a": "x" * 8_000_000})
        assert permits(client) == 0


async def test_bytes_after_an_answer_are_never_taken_for_the_next_one(make, serve):
    def doubled(peer: Peer) -> None:
        while peer.request():
            peer.send(head(length=6) + b'"mine"' + head(length=10) + b'"smuggled"')

    server = serve(doubled)
    async with make(server.host) as client:
        for _ in range(4):
            assert await client.request("GET", "/x") == "mine"


async def test_a_name_that_does_not_exist_was_never_sent(make):
    async with make("http://nobody.localhost:1", retry=ONCE) as client:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/x", json={})
    assert caught.value.sent is False
    assert caught.value.status is None


@pytest.mark.parametrize("fields", ["transfer-encoding: chunked", "content-length: 50"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_an_answer_that_has_no_body_is_over_at_its_head(make, serve, method, status, fields):
    def bodyless(peer: Peer) -> None:
        while peer.request():
            peer.send(f"HTTP/1.1 {status} Said\r\n{fields}\r\n\r\n".encode())

    async with make(serve(bodyless).host, timeout=1.5, retry=ONCE) as client:
        for _ in range(2):
            if status == 304:
                with pytest.raises(dbllm.APIStatusError) as caught:
                    await client.request(method, "/x")
                assert caught.value.status == 304
            else:
                assert await client.request(method, "/x") is None


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
    ids=["HTTP/1.0", "a length as well"],
)
async def test_a_connection_whose_framing_is_in_doubt_is_not_used_again(make, serve, start):
    def doubtful(peer: Peer) -> None:
        while peer.request():
            peer.send(start + b'3\r\n"a"\r\n0\r\n\r\n')

    server = serve(doubtful)
    async with make(server.host, retry=ONCE) as client:
        for _ in range(2):
            try:
                assert await client.request("GET", "/x") == "a"
            except dbllm.APIConnectionError:  # llhttp refuses the second one
                pass
    assert server.connections == 2


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked\r\ntransfer-encoding: chunked", "identity", "xchunked"])
async def test_a_transfer_coding_that_is_not_just_chunked_is_refused(make, serve, coding):
    def coded(peer: Peer) -> None:
        peer.request()
        peer.send(f'HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n3\r\n"a"\r\n0\r\n\r\n'.encode())

    async with make(serve(coded).host, retry=ONCE) as client:
        with pytest.raises(dbllm.APIConnectionError):
            await client.request("GET", "/x")
        assert permits(client) == 0


async def test_trailers_are_no_headers(make, serve):
    def trailing(peer: Peer) -> None:
        while peer.request():
            peer.send(STREAM_HEAD + b'3\r\n"a"\r\n0\r\ncontent-encoding: gzip\r\nx-request-id: forged\r\n\r\n')

    async with make(serve(trailing).host) as client:
        for _ in range(2):
            assert await client.request("GET", "/x") == "a"


def test_a_package_that_another_thread_is_importing_is_looked_at_later(monkeypatch):
    monkeypatch.setattr(factory, "_known", [])
    monkeypatch.setitem(sys.modules, "httpcore", types.ModuleType("httpcore"))
    assert factory.is_httpx_patched() is False
    monkeypatch.undo()
    assert factory.is_httpx_patched() is False


@pytest.fixture(params=["h11", "llhttp"])
def parser(request) -> Parser:
    if request.param == "h11":
        return H11Parser()
    pytest.importorskip("httptools", reason="the extra `fast` is not installed")
    from dbllm._http.llhttp_parser import LlhttpParser

    return LlhttpParser()


@pytest.mark.parametrize("at", range(1, 37, 3))
def test_an_answer_after_an_interim_one_may_be_cut_anywhere(parser, at):
    whole = b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", b"\r\nab"
    parser.request("GET", b"/", RequestHeaders("http://x"), b"")
    for part in (whole[0] + whole[1][:at], whole[1][at:], whole[2]):
        if part:
            parser.feed(part)
    assert (parser.status, parser.take_body(), parser.finished, parser.reusable) == (200, b"ab", True, True)


@pytest.mark.parametrize(
    "cut", [lambda whole: whole[:-1], lambda whole: whole[:-8], lambda whole: whole[: len(whole) // 2]]
)
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_compressed_answer_that_is_cut_is_never_a_success(make, serve, cut, chunked):
    """Its framing is whole: only the compression knows."""
    packed = cut(gzip.compress(b"12345678901234567890"))

    def short(peer: Peer) -> None:
        peer.request()
        if chunked:
            start = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
            peer.send(start + chunk(packed) + b"0\r\n\r\n")
        else:
            peer.send(head(length=len(packed), content_encoding="gzip") + packed)

    async with make(serve(short).host, retry=ONCE) as client:
        with pytest.raises(dbllm.APIResponseError, match="decompress"):
            await client.request("GET", "/x")
        assert permits(client) == 0


async def test_a_compressed_answer_in_several_members_is_read_whole(make, serve):
    members = gzip.compress(b'"one ') + gzip.compress(b"") + gzip.compress(b'two"')

    def several(peer: Peer) -> None:
        while peer.request():
            peer.send(head(length=len(members), content_encoding="GZIP"))
            for at in range(len(members)):
                peer.send(members[at : at + 1])

    async with make(serve(several).host) as client:
        for _ in range(2):
            assert await client.request("GET", "/x") == "one two"


async def test_a_method_cannot_smuggle_a_request(make, serve):
    server = serve()
    async with make(server.host) as client:
        for method in ("GET /other HTTP/1.1\r\nhost: x\r\n\r\nGET", "", "G T", "GÉT"):
            with pytest.raises(dbllm.ConfigError, match="method"):
                await client.request(method, "/x")
        assert permits(client) == 0
    assert server.requests == []


# --- HTTP/2, by httpx -------------------------------------------------------------------------------------------------


def speaking_http2(peer: Peer) -> None:
    """A server of HTTP/2 in plain text: it answers a GET with JSON, and a POST with a stream."""
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    methods: dict[int, str] = {}
    peer.send(server.data_to_send())
    while data := peer.sock.recv(65536):
        for event in server.receive_data(data):
            if isinstance(event, RequestReceived):
                methods[event.stream_id] = dict(event.headers)[b":method"].decode()
            elif isinstance(event, StreamEnded):
                streams = methods[event.stream_id] == "POST"
                kind = "text/event-stream" if streams else "application/json"
                body = sse(piece("a"), piece("b", "stop"), "[DONE]").content if streams else b'"hello"'
                server.send_headers(event.stream_id, [(":status", "200"), ("content-type", kind)])
                server.send_data(event.stream_id, body, end_stream=True)
        peer.send(server.data_to_send())


@pytest.mark.parametrize("own", ["transport", "http_client"])
async def test_http2_is_spoken_where_the_users_own_httpx_speaks_it(make, serve, mode, own):
    server = serve(speaking_http2)
    kinds = {"transport": httpx.HTTPTransport, "http_client": httpx.Client}
    if mode != "sync":
        kinds = {"transport": httpx.AsyncHTTPTransport, "http_client": httpx.AsyncClient}
    given = kinds[own](http1=False, http2=True)
    async with make(server.host, **{own: given}) as client:
        assert await client.request("GET", "/x") == "hello"
        async with client.endpoint("ep").stream_chat("hi") as stream:
            assert (await stream.final()).text == "ab"
    assert server.connections == 1
    if mode == "sync":
        given.close()
    else:
        await given.aclose()
