"""Route-optimised endpoints are called at their own URL, with a token that is issued for them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
import respx
from support.samples import HELLO, LOOK_UP, chat_answer, route, sse

import dbllm

FAST = "https://abc.serving.cloud.databricks.com"
PATH = "/123/serving-endpoints/ep/invocations"
OAUTH = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"
DETAILS = '[{"type": "workspace_permission", "object_path": "/serving-endpoints/e1"}]'
ELSEWHERE = {"error_code": "BAD_REQUEST", "message": "this endpoint is route-optimized"}


def described(wire: respx.MockRouter, url: str = FAST + PATH) -> respx.Route:
    info = {"endpoint_url": url, "authorization_details": DETAILS}
    said = {"name": "ep", "task": "llm/v1/chat", "data_plane_info": {"query_info": info}, "route_optimized": True}
    return wire.get(LOOK_UP + "ep").respond(json=said)


def tokens(wire: respx.MockRouter) -> respx.Route:
    content = {"access_token": "narrow-token", "token_type": "Bearer", "expires_in": 3600}
    return wire.post("/oidc/v1/token").respond(json=content)


@pytest.fixture
def fast() -> Any:
    with respx.mock(base_url=FAST, assert_all_called=False) as router:
        yield router


async def test_the_url_and_the_token_are_learned_once_from_the_first_refusal(make, wire, fast):
    own, looked, issued = route(wire).respond(400, json=ELSEWHERE), described(wire), tokens(wire)
    called = fast.post(PATH).respond(json=chat_answer())
    async with make(token=OAUTH) as client:
        for _ in range(3):
            assert (await client.endpoint("ep").chat("x")).text == "Hi there"
        called.mock(return_value=sse(*HELLO))
        async with client.endpoint("ep").stream_chat("x") as stream:
            assert (await stream.final()).text == "Hello"
    assert (own.call_count, looked.call_count, issued.call_count, called.call_count) == (1, 1, 1, 4)
    form = parse_qs(issued.calls[0].request.content.decode())
    assert form == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:jwt-bearer"],
        "authorization_details": [DETAILS],
        "assertion": [OAUTH],
    }
    assert {call.request.headers["authorization"] for call in called.calls} == {"Bearer narrow-token"}


async def test_complete_goes_there_at_once_since_it_has_looked_the_endpoint_up(make, wire, fast):
    described(wire), tokens(wire)
    own, called = route(wire).respond(500), fast.post(PATH).respond(json=chat_answer())
    async with make(token=OAUTH) as client:
        assert await client.endpoint("ep").complete("x") == "Hi there"
    assert (own.call_count, called.call_count) == (0, 1)


async def test_a_token_that_has_expired_there_is_exchanged_anew(make, wire, fast):
    described(wire)
    issued = tokens(wire)
    expired = httpx.Response(401, json={"error_code": "401", "message": "token expired"})
    fast.post(PATH).mock(side_effect=[expired, httpx.Response(200, json=chat_answer())])
    async with make(token=OAUTH) as client:
        assert await client.endpoint("ep").complete("x") == "Hi there"
    assert issued.call_count == 2


async def test_a_personal_access_token_goes_neither_there_nor_to_the_token_endpoint(make, wire, fast):
    own, issued = route(wire).respond(400, json=ELSEWHERE), tokens(wire)
    described(wire)
    async with make() as client:
        for verb in ("chat", "complete"):
            with pytest.raises(
                dbllm.BadRequestError, match=r"is route-optimised: .*personal access token.*OAuth alone"
            ):
                await getattr(client.endpoint("ep"), verb)("x")
        own.respond(json=chat_answer())  # an older endpoint, which the workspace's URL reaches too
        assert await client.endpoint("ep").complete("x") == "Hi there"
    assert not issued.called
    assert not fast.calls


@pytest.mark.parametrize("url", ["http://abc.serving.example.com/x/invocations", "ftp://h/x", "http://127.0.0.1:1/x"])
async def test_no_token_goes_to_a_url_that_could_be_read_on_the_way(make, wire, url):
    described(wire, url)
    issued = tokens(wire)
    async with make(token=OAUTH) as client:
        with pytest.raises(dbllm.ConfigError, match="must be an https address"):
            await client.endpoint("ep").complete("x")
    assert not issued.called


async def test_a_refusal_of_the_exchange_says_what_to_check_and_shows_no_token(make, wire, fast):
    described(wire)
    said = {"error": "invalid_grant", "error_description": f"no permission for {OAUTH}"}
    wire.post("/oidc/v1/token").respond(400, json=said)
    async with make(token=OAUTH) as client:
        with pytest.raises(dbllm.AuthenticationError, match="Can Query") as caught:
            await client.endpoint("ep").complete("x")
    assert OAUTH not in str(caught.value)
    assert caught.value.sent is False


async def test_a_served_model_is_asked_for_by_its_path_and_never_answered_by_another(make, wire, fast):
    described(wire), tokens(wire)
    own = wire.post("/serving-endpoints/ep/served-models/m-1/invocations").respond(400, json=ELSEWHERE)
    called = fast.post(PATH).respond(json=chat_answer())
    async with make(token=OAUTH) as client:
        one = client.endpoint("ep", served_model="m-1")
        for call in (one.chat, one.complete, one.chat):
            with pytest.raises(dbllm.BadRequestError, match=r"route-optimised, .* leave out served_model="):
                await call("x")
        assert called.call_count == 0
        assert await client.endpoint("ep").complete("x") == "Hi there"
        with pytest.raises(dbllm.BadRequestError, match="leave out served_model="):
            await one.complete("x")
        own.respond(json=chat_answer("one"))  # those made before also answer at the workspace's URL
        assert await one.complete("x") == "one"
    assert called.call_count == 1
