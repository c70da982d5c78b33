"""`respond` on foundation models: the path is learned from the endpoint's description, once; agents keep their own."""

from __future__ import annotations

from typing import Any

import pytest
import respx
from support.samples import LOOK_UP, chat_answer, responses_answer, route, sent, speaks, sse

import dbllm

UNKNOWN = {"error_code": "BAD_REQUEST", "message": 'Bad request: json: unknown field "input"'}
NO_PATH = {"error_code": "ENDPOINT_NOT_FOUND", "message": "No API found for this path"}
USER = [{"role": "user", "content": "hi"}]


def describes(wire: respx.MockRouter, name: str, **fields: Any) -> respx.Route:
    return wire.get(LOOK_UP + name).respond(json={"name": name, "task": "llm/v1/chat", **fields})


def external(provider: str, model: str) -> dict[str, Any]:
    return {"config": {"served_entities": [{"external_model": {"provider": provider, "name": model}}]}}


def foundation(model: str) -> dict[str, Any]:
    return {"config": {"served_entities": [{"foundation_model": {"name": model}}]}}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (foundation("databricks-gpt-5-mini"), "responses"),
        (external("openai", "o3"), "responses"),
        (external("anthropic", "claude-sonnet-4-5"), "open-responses"),
        (foundation("gemini-2-5-pro"), "open-responses"),
        (
            {
                "endpoint_type": "FOUNDATION_MODEL_API",
                "config": {"served_models": [{"entity_name": "system.ai.gpt-5"}]},
            },
            "responses",
        ),
        ({"endpoint_type": "EXTERNAL_MODEL", "config": {"served_entities": [{"name": "x"}]}}, "open-responses"),
    ],
)
async def test_a_models_path_is_learned_once_from_its_description(make, wire, fields, path):
    own = route(wire).respond(400, json=UNKNOWN)
    described = describes(wire, "ep", **fields)
    called = wire.post(f"/serving-endpoints/{path}").respond(json=responses_answer())
    async with make() as client:
        for _ in range(3):
            assert (await client.endpoint("ep").respond("hi", max_output_tokens=5)).text == "Hi there"
    assert sent(called) == {"input": USER, "max_output_tokens": 5, "model": "ep"}
    assert (own.call_count, described.call_count, called.call_count) == (1, 1, 3)


async def test_a_stream_goes_there_too(make, wire):
    route(wire).respond(400, json=UNKNOWN)
    describes(wire, "ep", **foundation("gpt-5"))
    called = wire.post("/serving-endpoints/responses").mock(
        return_value=sse({"type": "response.completed", "response": responses_answer()})
    )
    async with make() as client, client.endpoint("ep").stream_respond("hi") as stream:
        assert (await stream.final()).text == "Hi there"
    assert sent(called) == {"input": USER, "model": "ep", "stream": True}


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_path_that_the_workspace_does_not_have_is_left_for_the_other(make, wire, status):
    first = wire.post("/serving-endpoints/open-responses").respond(status, json=NO_PATH)
    second = wire.post("/serving-endpoints/responses").respond(json=responses_answer())
    wire.get(LOOK_UP.rstrip("/")).respond(json={"endpoints": [{"name": "databricks-claude-sonnet-4-5"}]})
    describes(wire, "databricks-claude-sonnet-4-5", **foundation("claude-sonnet-4-5"))
    async with make() as client:
        for _ in range(2):
            assert (await client.endpoint("databricks-claude-sonnet-4-5").respond("hi")).text == "Hi there"
    assert (first.call_count, second.call_count) == (1, 2)


@pytest.mark.parametrize(
    ("name", "path"), [("databricks-gpt-5", "responses"), ("databricks-gemini-3", "open-responses")]
)
async def test_the_names_that_only_foundation_models_have_need_no_look_up(make, wire, name, path):
    called = wire.post(f"/serving-endpoints/{path}").respond(json=responses_answer())
    async with make() as client:
        assert (await client.endpoint(name).respond("hi")).text == "Hi there"
    assert sent(called)["model"] == name


async def test_what_complete_has_looked_up_serves_respond(make, wire):
    route(wire).respond(json=chat_answer())
    described = describes(wire, "ep", **foundation("gpt-5"))
    wire.post("/serving-endpoints/responses").respond(json=responses_answer())
    async with make() as client:
        assert await client.endpoint("ep").complete("hi") == "Hi there"
        assert (await client.endpoint("ep").respond("hi")).text == "Hi there"
    assert (described.call_count, route(wire).call_count) == (1, 1)


async def test_agents_are_called_at_their_own_path_without_a_look_up(make, wire):
    route(wire, "agent").respond(json=responses_answer())
    async with make() as client:
        assert (await client.endpoint("agent").respond("hi")).text == "Hi there"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (foundation("gpt-5"), True),  # both paths were tried, and are not there
        ({}, True),  # no model of a provider: no path to try
        ({"task": "llm/v1/embeddings"}, True),
        ({"task": "agent/v1/responses"}, False),
    ],
)
async def test_does_not_do_respond_is_said_only_where_it_is_true(make, wire, fields, says):
    route(wire).respond(400, json=UNKNOWN)
    describes(wire, "ep", **fields)
    wire.get(LOOK_UP.rstrip("/")).respond(json={"endpoints": [{"name": "ep"}]})
    wire.route(path__regex="/serving-endpoints/(open-)?responses").respond(404, json=NO_PATH)
    async with make() as client:
        with pytest.raises(dbllm.APIStatusError) as caught:
            await client.endpoint("ep").respond("hi")
    assert ("does not do respond()" in caught.value.message) is says


async def test_a_refusal_by_the_path_that_takes_responses_is_the_one_that_is_raised(make, wire):
    route(wire).respond(400, json=UNKNOWN)
    describes(wire, "ep", **foundation("gpt-5"))
    said = {"error_code": "INVALID_PARAMETER_VALUE", "message": "temperature is not supported by this model"}
    wire.post("/serving-endpoints/responses").respond(400, json=said)
    wire.post("/serving-endpoints/open-responses").respond(404, json=NO_PATH)
    wire.get(LOOK_UP.rstrip("/")).respond(json={"endpoints": [{"name": "ep"}]})
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError, match="temperature is not supported") as caught:
            await client.endpoint("ep").respond("hi", temperature=2)
    assert "does not do" not in caught.value.message
    assert [error.status for error in caught.value.previous] == [400, 404]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_complete_says_the_limit_of_tokens_in_the_words_of_this_wire(make, wire, limit):
    speaks(wire, "agent/v1/responses")
    called = route(wire).respond(json=responses_answer())
    async with make() as client:
        assert await client.endpoint("ep").complete("hi", temperature=0.1, **{limit: 7}) == "Hi there"
    assert sent(called) == {"input": USER, "temperature": 0.1, "max_output_tokens": 7}


async def test_complete_says_that_this_wire_has_no_stop_strings(make, wire):
    speaks(wire, "agent/v1/responses")
    called = route(wire).respond(json=responses_answer())
    async with make() as client:
        with pytest.raises(dbllm.ConfigError, match="no stop strings"):
            await client.endpoint("ep").complete("hi", stop=["."])
        assert not called.called
        await client.endpoint("ep").complete("hi", extra_body={"stop": ["."]})
    assert sent(called) == {"input": USER, "stop": ["."]}
