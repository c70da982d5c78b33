"""The hook `on_attempt`, and calls to other origins than the workspace, three ways."""

from __future__ import annotations

import logging

import anyio.lowlevel
import httpx
import pytest
from support.loopback import Peer
from support.samples import HELLO, chat_answer, route, sse

import dbllm
from dbllm._auth.auth import auth_for
from dbllm._transport.call import Call


async def test_the_hook_is_told_of_each_attempt(make, wire, clock):
    told: list[dbllm.Attempt] = []
    refusal = httpx.Response(429, headers={"x-request-id": "one"}, json={"error_code": "REQUEST_LIMIT_EXCEEDED"})
    route(wire).mock(side_effect=[refusal, httpx.Response(200, json=chat_answer()), sse(*HELLO)])
    async with make(on_attempt=told.append) as client:
        clock.on(client)
        await client.endpoint("ep").chat("hi")
        await client.endpoint("ep").stream_chat("hi").final()
    assert [(one.number, one.status) for one in told] == [(1, 429), (2, 200), (1, 200)]
    assert {(one.method, one.path) for one in told} == {("POST", "/serving-endpoints/ep/invocations")}
    assert isinstance(told[0].error, dbllm.RateLimitError)
    assert (told[0].request_id, told[1].error) == ("one", None)
    assert all(one.seconds >= 0 for one in told)


async def test_the_hook_may_be_async_where_the_client_is(make, wire, mode):
    told: list[dbllm.Attempt] = []

    async def tell(attempt: dbllm.Attempt) -> None:
        if mode != "sync":
            await anyio.lowlevel.checkpoint()
        told.append(attempt)

    wire.get("/x").respond(json={})
    if mode == "sync":
        with pytest.raises(dbllm.ConfigError, match=r"Client has no event loop for on_attempt.*AsyncClient"):
            make(on_attempt=tell)
        return
    async with make(on_attempt=tell) as client:
        await client.request("GET", "/x?token=secret")
    assert [one.path for one in told] == ["/x"]


async def test_a_hook_that_fails_breaks_no_call(make, wire, caplog):
    def broken(attempt: dbllm.Attempt) -> None:
        raise ZeroDivisionError("a bug of the hook's")

    wire.get("/x").mock(side_effect=[httpx.Response(200, json=1), httpx.Response(404)])
    async with make(on_attempt=broken) as client:
        with caplog.at_level(logging.WARNING, "dbllm"):
            assert await client.request("GET", "/x") == 1
            with pytest.raises(dbllm.NotFoundError):
                await client.request("GET", "/x")
    (said,) = [record for record in caplog.records if "on_attempt raised" in record.getMessage()]  # once is enough
    assert (said.name, said.levelname) == ("dbllm.hooks", "WARNING")
    assert "a bug of the hook's" in caplog.text


def core_of(client):
    """The `AsyncClient` of a client of either mode."""
    plain = getattr(client, "plain", client)
    return getattr(plain, "_core", plain)


async def test_a_call_to_another_origin_has_its_own_credentials_and_connections_and_no_others(make, serve, mode):
    def echoing(peer: Peer) -> None:
        while request := peer.request():
            peer.answer({"authorization": request.headers["authorization"]})

    here, there, nowhere = serve(echoing), serve(echoing), serve(echoing)
    async with make(here.host, "dapi-of-here") as client:
        transport = core_of(client)._transport
        transport.add_origin(there.host, auth_for("dapi-of-there"))
        deadline = transport.backend.clock() + 30

        def call(origin: str | None) -> Call:
            return Call("GET", "/x", dbllm.Timeout(), dbllm.Retry(attempts=1), deadline, origin=origin)

        for origin, token in ((there.host, "dapi-of-there"), (None, "dapi-of-here"), (there.host, "dapi-of-there")):
            answer = await transport.call(call(origin))
            assert answer.raw.body.decode() == '{"authorization": "Bearer ' + token + '"}'
        with pytest.raises(dbllm.ConfigError, match="no credentials for"):
            await transport.call(call(nowhere.host))
    assert (here.connections, there.connections, nowhere.connections) == (1, 1, 0)
