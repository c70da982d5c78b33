"""Model services: names with two dots go through the AI Gateway, with the same verbs and the same results."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import respx
from pydantic import BaseModel
from support.samples import HELLO, LOOK_UP, chat_answer, responses_answer, route, sent, sse, vectors_answer

import dbllm

NAME = "system.ai.claude-sonnet-4-5"
DESCRIBED = "/api/2.1/unity-catalog/model-services/"
LISTED = "/api/2.1/unity-catalog/model-services"
OFF = {"error_code": "FEATURE_DISABLED", "message": "AI Gateway is not available for this workspace."}


def gateway(wire: respx.MockRouter, path: str = "chat/completions", api: str = "mlflow") -> respx.Route:
    return wire.post(f"/ai-gateway/{api}/v1/{path}")


def offers(wire: respx.MockRouter, *types: str, name: str = NAME) -> respx.Route:
    said = {"name": f"model-services/{name}", "supported_api_types": [*types]}
    return wire.get(DESCRIBED + name).respond(json=said)


class Joke(BaseModel):
    setup: str


async def test_each_verb_goes_to_its_path_with_the_name_in_the_body(make, wire):
    chat = gateway(wire).respond(json=chat_answer("Hi", databricks_output={}), headers={"served-model-name": "claude"})
    embed = gateway(wire, "embeddings").respond(json=vectors_answer([1.0]))
    respond = gateway(wire, "responses").respond(json=responses_answer())
    offers(wire, "anthropic/v1/messages", "mlflow/v1/chat/completions")
    async with make() as client:
        service = client.endpoint(NAME, params={"temperature": 0.1})
        assert (await service.chat("Hello")).served_model == "claude"
        assert sent(chat) == {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0.1, "model": NAME}
        assert await service.complete("Hello", stop=["."]) == "Hi"
        assert sent(chat)["stop"] == ["."]
        assert (await service.generate("Hello")).usage.total_tokens == 5
        assert (await service.embed(["a"])).vectors == [[1.0]]
        assert sent(embed) == {"input": ["a"], "temperature": 0.1, "model": NAME}
        assert (await service.respond("Hello")).text == "Hi there"
        assert sent(respond)["model"] == NAME


async def test_streams_and_structured_output_go_there_too(make, wire):
    chat = gateway(wire).mock(side_effect=lambda _: sse(*HELLO))
    gateway(wire, "responses").mock(return_value=sse({"type": "response.completed", "response": responses_answer()}))
    offers(wire, "mlflow/v1/chat/completions")
    async with make() as client:
        service = client.endpoint(NAME)
        async with service.stream_chat("x") as stream:
            assert (await stream.final()).text == "Hello"
        async with service.stream_complete("x") as stream:
            assert await stream.final() == "Hello"
        assert sent(chat) == {"messages": [{"role": "user", "content": "x"}], "model": NAME, "stream": True}
        async with service.stream_respond("x") as stream:
            assert (await stream.final()).text == "Hi there"
        gateway(wire).respond(json=chat_answer('{"setup": "s"}'))
        assert (await service.chat("x", response_model=Joke)).parsed == Joke(setup="s")


@pytest.mark.parametrize(
    ("types", "path"),
    [
        (("mlflow/v1/chat/completions", "mlflow/v1/responses"), "/ai-gateway/mlflow/v1/chat/completions"),
        (("openai/v1/responses", "mlflow/v1/chat/completions"), "/ai-gateway/mlflow/v1/chat/completions"),
        (("openai/v1/chat/completions",), "/ai-gateway/openai/v1/chat/completions"),
        (("mlflow/v1/responses",), "/ai-gateway/mlflow/v1/responses"),
        (("openai/v1/responses", "anthropic/v1/messages"), "/ai-gateway/openai/v1/responses"),
        ((), "/ai-gateway/mlflow/v1/chat/completions"),
    ],
)
async def test_complete_speaks_what_the_service_says_it_supports(make, wire, types, path):
    described = offers(wire, *types)
    answer = responses_answer() if path.endswith("responses") else chat_answer()
    called = wire.post(path).respond(json=answer)
    async with make() as client:
        for _ in range(2):
            assert await client.endpoint(NAME).complete("x") == "Hi there"
    assert called.call_count == 2
    assert described.call_count == 1


async def test_where_the_description_is_forbidden_the_wires_are_tried_in_turn(make, wire):
    wire.get(DESCRIBED + NAME).respond(403, json={"error_code": "PERMISSION_DENIED", "message": "no"})
    chat = gateway(wire).respond(400, json={"error_code": "BAD_REQUEST", "message": "no chat here"})
    gateway(wire, "responses").respond(json=responses_answer())
    async with make() as client:
        assert await client.endpoint(NAME).complete("x") == "Hi there"
        assert await client.endpoint(NAME).complete("x") == "Hi there"
    assert chat.call_count == 1


async def test_responses_go_to_openais_interface_where_the_other_has_none(make, wire):
    first = gateway(wire, "responses").respond(404, json={"error_code": "NOT_FOUND", "message": "no such path"})
    second = gateway(wire, "responses", "openai").respond(json=responses_answer())
    wire.get(LISTED).respond(json={"model_services": [{"name": f"model-services/{NAME}"}]})
    wire.get(LOOK_UP.rstrip("/")).respond(json={})
    async with make() as client:
        for _ in range(2):
            assert (await client.endpoint(NAME).respond("x")).text == "Hi there"
    assert (first.call_count, second.call_count) == (1, 2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, OFF),
        (501, {"error_code": "NOT_IMPLEMENTED", "message": "not here"}),
        (501, "<html><title>Not Implemented</title></html>"),
        (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "No API found for POST /ai-gateway"}),
    ],
)
@pytest.mark.parametrize("verb", ["chat", "complete", "embed", "respond"])
async def test_a_workspace_without_the_gateway_says_what_to_use_instead(make, wire, status, body, verb):
    answer = httpx.Response(status, **({"json": body} if isinstance(body, dict) else {"text": body}))
    wire.route(path__startswith="/ai-gateway/").mock(return_value=answer)
    wire.route(path__startswith=LISTED).mock(return_value=answer)
    endpoints = {"endpoints": [{"name": "databricks-claude-sonnet-4-5"}]}
    wire.get(LOOK_UP.rstrip("/")).respond(json=endpoints)
    async with make(retry=dbllm.Retry(backoff=0)) as client:
        with pytest.raises(dbllm.APIStatusError, match="does not have or has switched off") as caught:
            await getattr(client.endpoint(NAME), verb)("x")
    assert "client.endpoint('databricks-claude-sonnet-4-5')" in caught.value.hint
    assert caught.value.attempts == 1


async def test_a_service_that_is_not_there_names_those_that_are_and_the_endpoint_of_this_model(make, wire):
    gone = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model service"}
    wire.route(path__startswith="/ai-gateway/").respond(404, json=gone)
    pages = [{"next_page_token": "t1"}, {"model_services": [{"name": "model-services/system.ai.claude-sonnet-4-6"}]}]
    wire.get(LISTED).mock(
        side_effect=lambda request: httpx.Response(200, json=pages["page_token" in request.url.params])
    )
    listed = wire.get(LOOK_UP.rstrip("/")).respond(json={"endpoints": []})
    async with make() as client:
        with pytest.raises(dbllm.NotFoundError, match=r"Did you mean 'system.ai.claude-sonnet-4-6'"):
            await client.endpoint(NAME).chat("x")
        listed.respond(json={"endpoints": [{"name": "claude-sonnet-4-5"}]})
        with pytest.raises(dbllm.NotFoundError, match=r"did you mean client.endpoint\('claude-sonnet-4-5'\)"):
            await client.endpoint(NAME).chat("x")


@pytest.mark.parametrize("name", ["databricks-gpt-5", "gpt-5"])
async def test_an_endpoint_that_is_a_model_service_says_so(make, wire, name):
    wire.get(LOOK_UP.rstrip("/")).respond(json={"endpoints": [{"name": "databricks-gpt-4"}, {"name": "other"}]})
    gone = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such endpoint"}
    route(wire, name).respond(404, json=gone)
    offers(wire, name="system.ai.gpt-5")
    async with make() as client:
        with pytest.raises(dbllm.NotFoundError, match=r"did you mean client.endpoint\('system.ai.gpt-5'\)"):
            await client.endpoint(name).chat("x")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ai.claude", {}, "has one dot: a serving endpoint's name has no dot .* two"),
        ("main.", {}, "has one dot"),
        ("a..b", {}, "has an empty part"),
        (".a.b", {}, "has an empty part"),
        ("a.b. ", {}, "has an empty part"),
        (NAME, {"served_model": "m"}, "leave out served_model="),
        ("ep", {"gateway": "anthropic"}, "gateway must be 'mlflow' or 'openai'"),
        ("ep", {"gateway": "openai", "served_model": "m"}, "leave out served_model="),
    ],
)
async def test_names_that_are_neither_are_refused_before_anything_is_sent(make, wire, name, options, words):
    async with make() as client:
        with pytest.raises(dbllm.ConfigError, match=words):
            client.endpoint(name, **options)


async def test_a_verb_that_no_model_service_has_is_refused_before_anything_is_sent(make, wire):
    async with make() as client:
        with pytest.raises(dbllm.ConfigError, match="takes no custom requests: use complete"):
            await client.endpoint(NAME).predict(inputs=[1])


async def test_a_verb_that_this_service_does_not_do_names_those_it_does(make, wire):
    gateway(wire, "embeddings").respond(400, json={"error_code": "BAD_REQUEST", "message": "no embeddings"})
    offers(wire, "mlflow/v1/chat/completions", "mlflow/v1/responses")
    async with make() as client:
        with pytest.raises(
            dbllm.BadRequestError, match=r"does not do embed\(\): use complete\(\) or chat\(\) or respond"
        ):
            await client.endpoint(NAME).embed("x")


async def test_any_endpoint_may_be_called_through_a_gateway_of_its_own_choice(make, wire):
    named = {"mlflow": "databricks-claude-opus-4-6", "openai": "databricks-gpt-5"}
    async with make() as client:
        for api, name in named.items():
            called = gateway(wire, api=api).respond(json=chat_answer())
            await client.endpoint(name, gateway=api).chat("x")
            assert sent(called)["model"] == name


@pytest.mark.parametrize("api", ["mlflow", "openai"])
async def test_an_endpoint_called_through_a_gateway_that_is_not_there_says_so(make, wire, api):
    gateway(wire, api=api).respond(404, json=OFF)
    wire.get("/api/2.0/serving-endpoints").respond(json={"endpoints": [{"name": "my-gpt"}]})
    async with make() as client:
        with pytest.raises(dbllm.NotFoundError, match=r"not available.*call a serving endpoint by its name") as caught:
            await client.endpoint("my-gpt", gateway=api).chat("Hello")
        assert "lies behind it" not in str(caught.value)


async def test_names_of_lists_and_of_deeper_schemas_are_names_too(make, wire):
    called = gateway(wire).respond(json=chat_answer())
    async with make() as client:
        await client.endpoint(f"model-services/{NAME}").chat("x")
        assert sent(called)["model"] == NAME
        await client.endpoint("main.team.models.mine").chat("x")
        assert json.loads(called.calls.last.request.content)["model"] == "main.team.models.mine"


def test_deployments_call_and_show_model_services(wire: respx.MockRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbllm.deployments import get_deploy_client

    chat, embed, respond = (gateway(wire, path) for path in ("chat/completions", "embeddings", "responses"))
    chat.respond(json=chat_answer())
    embed.respond(json=vectors_answer([1.0]))
    respond.respond(json=responses_answer())
    offers(wire, "mlflow/v1/chat/completions")
    message: dict[str, Any] = {"role": "user", "content": "x"}
    with dbllm.Client("https://workspace.example.com", "dapi-test") as client:
        deploy = get_deploy_client(client=client)
        assert (
            deploy.predict(endpoint=NAME, inputs={"messages": [message]})["choices"][0]["message"]["content"]
            == "Hi there"
        )
        assert sent(chat) == {"messages": [message], "model": NAME}
        assert deploy.predict(endpoint=NAME, inputs={"input": ["x"]}).data[0]["embedding"] == [1.0]
        assert deploy.predict(endpoint=NAME, inputs={"input": [message]})["object"] == "response"
        assert deploy.get_endpoint(NAME).supported_api_types == ["mlflow/v1/chat/completions"]
        with pytest.raises(ValueError, match="'messages'"):
            deploy.predict(endpoint=NAME, inputs={"prompt": "x"})
        chat.mock(return_value=sse(*HELLO))
        pieces = [*deploy.predict_stream(endpoint=NAME, inputs={"messages": [message]})]
        assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == "Hello"
