"""Model services in LangChain's classes, and the fields that send a call through the AI Gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import respx
from support.samples import chat_answer, responses_answer, vectors_answer

from dbllm.langchain import ChatDatabricks, Databricks, DatabricksEmbeddings

NAME = "system.ai.claude-sonnet-4-5"
DESCRIBED = f"/api/2.1/unity-catalog/model-services/{NAME}"
PLACE: dict[str, Any] = {"host": "https://workspace.example.com", "api_token": "dapi-test"}


@pytest.fixture
def wire() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=PLACE["host"], assert_all_called=False) as router:
        types = {"supported_api_types": ["mlflow/v1/chat/completions"], "name": f"model-services/{NAME}"}
        router.get(DESCRIBED).respond(json={**types, "config": {"routing": {"destinations": [{"name": "gpt-4o"}]}}})
        yield router


def model_of(route: respx.Route) -> Any:
    return json.loads(route.calls.last.request.content)["model"]


def test_dotted_names_go_through_the_gateway_in_all_classes(wire: respx.MockRouter) -> None:
    chat = wire.post("/ai-gateway/mlflow/v1/chat/completions").respond(json=chat_answer())
    embed = wire.post("/ai-gateway/mlflow/v1/embeddings").respond(json=vectors_answer([1.0]))
    assert ChatDatabricks(model=NAME, **PLACE).invoke("x").content == "Hi there"
    assert model_of(chat) == NAME
    assert Databricks(endpoint_name=NAME, **PLACE).invoke("x") == "Hi there"
    assert DatabricksEmbeddings(endpoint=NAME, **PLACE).embed_query("x") == [1.0]
    assert model_of(embed) == NAME


@pytest.mark.parametrize(("field", "api"), [("use_ai_gateway", "mlflow"), ("use_ai_gateway_native_api", "openai")])
async def test_the_fields_send_any_name_through_the_gateway(wire: respx.MockRouter, field: str, api: str) -> None:
    chat = wire.post(f"/ai-gateway/{api}/v1/chat/completions").respond(json=chat_answer())
    respond = wire.post(f"/ai-gateway/{api}/v1/responses").respond(json=responses_answer())
    model = ChatDatabricks(model="databricks-gpt-5", **{field: True}, **PLACE)
    assert model.invoke("x").content == "Hi there"
    assert (await model.ainvoke("x")).content == "Hi there"
    assert (chat.call_count, model_of(chat)) == (2, "databricks-gpt-5")
    agent = ChatDatabricks(model="databricks-gpt-5", use_responses_api=True, **{field: True}, **PLACE)
    assert agent.invoke("x").text == "Hi there"
    assert respond.called
    assert model._identifying_params["gateway"] == api


def test_both_fields_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="set one of them"):
        ChatDatabricks(model="m", use_ai_gateway=True, use_ai_gateway_native_api=True, **PLACE)


def test_the_profile_of_a_service_is_that_of_what_it_routes_to(wire: respx.MockRouter) -> None:
    assert ChatDatabricks(model=NAME, **PLACE).load_profile()["name"] == "gpt-4o"
