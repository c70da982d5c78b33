"""Transports and clients of httpx2: their answers are read, their errors become dbllm's, and the same rules hold."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.loopback import Peer, answering, streaming
from support.samples import HELLO, chat_answer

import dbllm

httpx2 = pytest.importorskip("httpx2")

CALL = "/serving-endpoints/ep/invocations"
HOST = "https://workspace.example.com"


def library_client(mode: str, **options: Any) -> Any:
    return (httpx2.Client if mode == "sync" else httpx2.AsyncClient)(trust_env=False, **options)


def library_transport(mode: str) -> Any:
    return (httpx2.HTTPTransport if mode == "sync" else httpx2.AsyncHTTPTransport)(trust_env=False)


async def close(mode: str, own: Any) -> None:
    own.close() if mode == "sync" else await own.aclose()


class Failing:
    """A transport of httpx2 that fails some times and then answers."""

    def __new__(cls, mode: str, *failures: Exception | int) -> Any:
        left, requests = [*failures], []

        def answer(request: Any) -> Any:
            requests.append(request)
            failure = left.pop(0) if left else 200
            if isinstance(failure, Exception):
                raise failure
            return httpx2.Response(failure, json=chat_answer())

        made = httpx2.MockTransport(answer)
        made.requests = requests
        return made


@pytest.mark.parametrize("way", ["transport", "http_client"])
async def test_it_answers_and_streams_over_real_sockets(make, serve, mode, way):
    server = serve(answering({CALL: (200, chat_answer())}), streaming(*HELLO))
    other = serve(streaming(*HELLO))
    own = library_client(mode) if way == "http_client" else library_transport(mode)
    async with make(server.host, **{way: own}) as client:
        assert (await client.endpoint("ep").chat("x")).text == "Hi there"
    async with make(other.host, **{way: own}) as client, client.endpoint("ep").stream_chat("x") as stream:
        assert (await stream.final()).text == "Hello"
    await close(mode, own)
    (request,) = server.requests
    assert request.json["messages"][0]["content"] == "x"


@pytest.mark.parametrize(
    ("failure", "kind", "sent", "attempts"),
    [
        ("ConnectError", dbllm.APIConnectionError, False, 3),
        ("ConnectTimeout", dbllm.APITimeoutError, False, 3),
        ("PoolTimeout", dbllm.APITimeoutError, False, 3),
        ("ReadError", dbllm.APIConnectionError, True, 1),
        ("ReadTimeout", dbllm.APITimeoutError, True, 1),
        ("RemoteProtocolError", dbllm.APIConnectionError, True, 1),
        ("WriteError", dbllm.APIConnectionError, True, 1),
        ("ProxyError", dbllm.APIConnectionError, False, 3),
        ("UnsupportedProtocol", dbllm.APIConnectionError, False, 3),
        ("TooManyRedirects", dbllm.APIConnectionError, True, 1),
    ],
)
async def test_its_errors_become_dbllms_and_are_repeated_by_the_same_rules(make, mode, failure, kind, sent, attempts):
    errors = [getattr(httpx2, failure)("it failed") for _ in range(9)]
    transport = Failing(mode, *errors)
    async with make(transport=transport, retry=dbllm.Retry(attempts=2, backoff=0)) as client:
        with pytest.raises(kind) as caught:
            await client.endpoint("ep").chat("x")
    assert (caught.value.sent, len(transport.requests)) == (sent, attempts)


async def test_a_call_that_may_be_repeated_succeeds(make, mode):
    transport = Failing(mode, httpx2.ConnectError("refused"), 503, 500)
    async with make(transport=transport, retry=dbllm.Retry(backoff=0)) as client:
        reply = await client.endpoint("ep").chat("x")
    assert (reply.text, reply.attempts) == ("Hi there", 4)
    assert {request.headers["authorization"] for request in transport.requests} == {"Bearer dapi-test"}


@pytest.mark.parametrize("way", ["transport", "http_client"])
async def test_a_connection_that_breaks_is_an_error_of_dbllm(make, serve, mode, way):
    def hang_up(peer: Peer) -> None:
        peer.request()
        peer.reset()

    server = serve(hang_up)
    own = library_client(mode) if way == "http_client" else library_transport(mode)
    async with make(server.host, retry=dbllm.Retry(attempts=1), **{way: own}) as client:
        with pytest.raises(dbllm.APIConnectionError, match="the connection broke"):
            await client.endpoint("ep").chat("x")
    await close(mode, own)


async def test_a_transport_that_wraps_one_of_the_other_library_is_understood_too(make, mode):
    class Wrapper:
        def handle_request(self, request: Any) -> Any:
            raise httpx2.ConnectError("refused")

        async def handle_async_request(self, request: Any) -> Any:
            raise httpx2.ConnectError("refused")

    async with make(transport=Wrapper(), retry=dbllm.Retry(attempts=1)) as client:
        with pytest.raises(dbllm.APIConnectionError):
            await client.endpoint("ep").chat("x")


async def test_its_log_shows_no_query(make, mode, serve, caplog):
    server = serve(answering({"/api/x?token=dapi-secret-1234567": (200, {"a": 1})}))
    own = library_client(mode)
    caplog.set_level(logging.DEBUG)
    async with make(server.host, http_client=own) as client:
        await client.request("GET", "/api/x", params={"token": "dapi-secret-1234567"})
    await close(mode, own)
    assert "secret-1234567" not in caplog.text


async def test_the_timeouts_of_a_call_reach_it(make, mode):
    transport = Failing(mode)
    async with make(transport=transport, timeout=dbllm.Timeout(total=9, connect=3)) as client:
        await client.endpoint("ep").chat("x")
    timeout = transport.requests[0].extensions["timeout"]
    assert timeout["connect"] == 3
