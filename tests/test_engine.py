"""The HTTP engine: what goes over one real connection, byte by byte."""

from __future__ import annotations

import pytest
from colours import permits
from loopback import Peer, head, keep_answering

import dbllm

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
