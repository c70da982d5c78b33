"""The AI gateway: who answers for a model service, and who may call it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.plane import ENDPOINTS, Plane, ServedPlane, config, own
from support.services import UC, endpoint_to, external_to, make_provider, own_to, service

from dbllm.local.gateway.own_upstream import UPSTREAM_PATH
from dbllm.local.model.llama import Engine

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
ASK = {"input": "hello", "max_output_tokens": 3}
UNIFIED, NATIVE = "/ai-gateway/mlflow/v1", "/ai-gateway/openai/v1"
CHAT_PATH = f"{UNIFIED}/chat/completions"
LIST = f"{UC}/model-services"
DEAD = "http://127.0.0.1:9/v1"  # nobody listens there


@pytest.fixture
def plane(engine: Engine) -> Plane:
    return Plane(engine, deploy_seconds=0.0, allowed_upstreams=["127.0.0.1"])


def make(plane: Plane, body: dict[str, Any], name: str = "mine") -> str:
    plane.do("POST", f"{LIST}?parent=schemas/main.default&model_service_id={name}", body)
    return f"main.default.{name}"


def events(answer: httpx.Response) -> list[Any]:
    frames = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


def test_the_own_models_answer_by_their_service_and_by_their_old_name(http: httpx.Client) -> None:
    for model in ("system.ai.smollm2-chat", "smollm2-chat", "databricks-smollm2-chat"):
        for api in (UNIFIED, NATIVE):
            answer = http.post(f"{api}/chat/completions", json={**CHAT, "model": model})
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == 3
            assert answer.headers["served-model-name"].startswith("smollm2-135m")
        whole = http.post(f"{api}/responses", json={**ASK, "model": model}).json()
        assert whole["output"][0]["content"][0]["text"], whole
    for model in ("system.ai.bge-large-en", "databricks-bge-large-en", "bge-large-en"):
        vectors = http.post(f"{UNIFIED}/embeddings", json={"model": model, "input": ["a", "b"]}).json()["data"]
        assert [len(one["embedding"]) for one in vectors] == [256, 256]


def test_streams_come_by_the_gateway_in_the_wire_of_the_path(http: httpx.Client) -> None:
    asked = {**CHAT, "model": "system.ai.smollm2-chat", "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(http.post(CHAT_PATH, json=asked))
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    assert last["usage"]["completion_tokens"] == 3
    for api in (UNIFIED, NATIVE):
        streamed = events(http.post(f"{api}/responses", json={**ASK, "model": "smollm2-chat", "stream": True}))
        assert [one["sequence_number"] for one in streamed] == list(range(len(streamed)))
        assert streamed[-1]["type"] == "response.incomplete"


def test_chat_models_answer_responses_by_model_and_agents_stay_what_they_are(http: httpx.Client) -> None:
    for path in ("responses", "open-responses"):
        for model in ("smollm2-chat", "smollm2-agent"):
            answer = http.post(f"/serving-endpoints/{path}", json={**ASK, "model": model})
            assert answer.json()["object"] == "response", answer.text
        refused = http.post(f"/serving-endpoints/{path}", json={**ASK, "model": "smollm2-completions"})
        assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")
    tool = {"type": "function", "name": "add", "description": "Add two integers",
            "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}  # fmt: skip
    asked = {"model": "smollm2-chat", "input": "Add 1.", "tools": [tool], "tool_choice": "required"}
    asked |= {"max_output_tokens": 20}
    (item,) = http.post("/serving-endpoints/open-responses", json=asked).json()["output"]
    assert (item["type"], item["name"], list(json.loads(item["arguments"]))) == ("function_call", "add", ["a"])
    refused = http.post("/serving-endpoints/smollm2-chat/invocations", json=ASK)
    assert refused.status_code == 400, "the name in the path asks for the endpoint's own task"


def test_what_no_service_answers_is_refused_with_what_there_is(plane: Plane) -> None:
    model = "system.ai.smollm2-chat"
    for path, body, status, words in (
        (CHAT_PATH, CHAT, 400, "missing required field 'model'"),
        (CHAT_PATH, {**CHAT, "model": 5}, 400, "missing required field 'model'"),
        (CHAT_PATH, {**CHAT, "model": "system.ai.gpt-9"}, 404, "Model service 'system.ai.gpt-9' does not exist"),
        (CHAT_PATH, {**CHAT, "model": "main.default"}, 404, "Model service 'main.default' does not exist"),
        (f"{UNIFIED}/embeddings", {"model": model, "input": "x"}, 400, "does not support the API type"),
        (CHAT_PATH, {"model": model, **CHAT, "inputs": []}, 400, 'unknown field "inputs"'),
    ):
        answer = plane.answer("POST", path, body)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["message"]
    assert plane.refused("POST", "/ai-gateway/mlflow/v1/completions", {})[:2] == (404, "ENDPOINT_NOT_FOUND")
    assert plane.refused("GET", CHAT_PATH)[:2] == (404, "ENDPOINT_NOT_FOUND")


def test_only_who_has_execute_may_call(plane: Plane) -> None:
    ada, job = plane.somebody("ada@example.com"), plane.somebody("job", service=True)
    name = make(plane, service(own_to()))
    body, grants = {**CHAT, "model": name}, f"{UC}/permissions/model_service/{name}"
    plane.do("PATCH", grants, {"changes": [{"principal": "ada@example.com", "add": ["MANAGE", "READ_METADATA"]}]})
    status, code, message = plane.refused("POST", CHAT_PATH, body, ada)
    assert (status, code) == (403, "PERMISSION_DENIED")
    assert message == f"User does not have EXECUTE on MODEL_SERVICE '{name}'."
    plane.do("PATCH", grants, {"changes": [{"principal": "job", "add": ["EXECUTE"]}]})
    plane.do("POST", CHAT_PATH, body, job)
    assert plane.refused("POST", CHAT_PATH, body, ada)[0] == 403
    everybody = f"{UC}/permissions/model_service/system.ai.smollm2-chat"
    plane.do("POST", CHAT_PATH, {**CHAT, "model": "smollm2-chat"}, ada)
    plane.do("PATCH", everybody, {"changes": [{"principal": "account users", "remove": ["EXECUTE"]}]})
    assert plane.refused("POST", CHAT_PATH, {**CHAT, "model": "smollm2-chat"}, ada)[0] == 403


def test_limits_of_a_service_count_calls_and_tokens_by_minute_and_hour(plane: Plane) -> None:
    ada = plane.somebody("ada@example.com")
    minute, hour = "RATE_LIMIT_RENEWAL_PERIOD_MINUTE", "RATE_LIMIT_RENEWAL_PERIOD_HOUR"
    limits = [
        {"key": "RATE_LIMIT_KEY_SERVICE", "renewal_period": minute, "requests": 2},
        {"key": "RATE_LIMIT_KEY_SERVICE", "renewal_period": hour, "tokens": 90},
        {"key": "RATE_LIMIT_KEY_USER", "principal": "ada@example.com", "renewal_period": hour, "requests": 0},
    ]
    body = {**CHAT, "model": make(plane, service(own_to(), rate_limits=limits))}
    grants = {"changes": [{"principal": "users", "add": ["EXECUTE"]}]}
    plane.do("PATCH", f"{UC}/permissions/model_service/main.default.mine", grants)
    assert "0 calls per hour" in plane.refused("POST", CHAT_PATH, body, ada)[2]
    for _ in range(2):
        plane.do("POST", CHAT_PATH, body)  # 34 tokens each
    refused = plane.answer("POST", CHAT_PATH, body)
    assert (refused.status_code, refused.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert "2 calls per minute" in refused.json()["message"]
    plane.at += int(refused.headers["retry-after"])
    plane.do("POST", CHAT_PATH, body)
    plane.at += 60
    refused = plane.answer("POST", CHAT_PATH, body)
    assert "90 tokens per hour" in refused.json()["message"]
    plane.at += int(refused.headers["retry-after"])
    plane.do("POST", CHAT_PATH, body)


@pytest.fixture
def served(engine: Engine) -> Iterator[ServedPlane]:
    """A workspace on a socket: its connections to providers live longer than a call."""
    with ServedPlane(engine, deploy_seconds=0.0, upstream_key="sk-1", allowed_upstreams=["127.0.0.1"]) as plane:
        yield plane


def test_a_service_routes_to_an_external_model_with_the_key_of_its_secret(served: ServedPlane) -> None:
    plane = served
    make_provider(plane, "up", plane.host + UPSTREAM_PATH)
    name = make(plane, service(external_to("main.default.up")))
    shown = plane.do("GET", f"{LIST}/{name}")
    assert {"mlflow/v1/chat/completions", "openai/v1/responses"} < set(shown["supported_api_types"])
    answer = plane.answer("POST", CHAT_PATH, {**CHAT, "model": name})
    assert answer.json()["choices"][0]["message"]["content"], answer.text
    assert answer.headers["served-model-name"] == "external"
    streamed = events(plane.answer("POST", f"{NATIVE}/responses", {**ASK, "model": name, "stream": True}))
    assert streamed[-1]["type"] == "response.incomplete"
    assert len(plane.do("POST", f"{UNIFIED}/embeddings", {"model": name, "input": "x"})["data"]) == 1
    plane.do("POST", "/api/2.0/secrets/put", {"scope": "main.default", "key": "openai", "string_value": "sk-2"})
    refused = plane.answer("POST", CHAT_PATH, {**CHAT, "model": name})
    assert refused.status_code == 401, "the secret is read at each call"
    assert "sk-" not in refused.text


def test_a_failing_destination_is_followed_by_the_fallbacks_in_their_order(served: ServedPlane) -> None:
    plane = served
    make_provider(plane, "dead", DEAD)
    plane.do("POST", ENDPOINTS, {"name": "behind", "config": config(own("inner", "system.ai.smollm2-chat"))})
    dead = external_to("main.default.dead")
    name = make(plane, service(dead, fallback=[{**dead, "name": "dead too"}, endpoint_to("behind"), own_to()]))
    answer = plane.answer("POST", CHAT_PATH, {**CHAT, "model": name})
    assert answer.headers["served-model-name"] == "endpoint", answer.text
    asked = {**CHAT, "model": name, "stream": True}
    assert plane.answer("POST", CHAT_PATH, asked).headers["served-model-name"] == "endpoint"
    assert plane.refused("POST", CHAT_PATH, {**asked, "messages": []})[0] == 400, "a bad request is nobody else's"
    plane.do("DELETE", f"{ENDPOINTS}/behind")
    assert plane.answer("POST", CHAT_PATH, {**CHAT, "model": name}).headers["served-model-name"] == "own"
    shown = plane.do("GET", f"{LIST}/{name}")["config"]["routing"]
    assert [one.get("is_deleted") for one in shown["fallback"]["destinations"]] == [None, True, None]
    alone = make(plane, service(dead), "alone")
    assert plane.refused("POST", CHAT_PATH, {**CHAT, "model": alone})[:2] == (503, "TEMPORARILY_UNAVAILABLE")


def test_traffic_is_split_between_destinations(engine: Engine) -> None:
    plane = Plane(engine, seed=7)
    name = make(plane, service(own_to("a", traffic_percentage=20), own_to("b", traffic_percentage=80)))
    one = {**CHAT, "max_tokens": 1, "model": name}
    served = [plane.answer("POST", CHAT_PATH, one).headers["served-model-name"] for _ in range(20)]
    assert 1 <= served.count("a") <= 9
    assert served.count("a") + served.count("b") == 20
