"""litellm: its provider for Databricks, and the one for OpenAI's wire."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

litellm = pytest.importorskip("litellm")

from asking import GET_WEATHER, HELLO, NAME_A_CITY, WEATHER, City
from place import Up

NAME = "litellm"


@pytest.fixture(params=["databricks", "openai"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def way(here: Up) -> dict[str, Any]:
    return {"api_base": here.base_url, "api_key": here.token, "num_retries": 0}


SHORT: Any = {"messages": HELLO, "max_tokens": 12, "temperature": 0}


@pytest.mark.does(NAME, "chat")
def test_a_model_answers(provider: str, way: dict[str, Any]) -> None:
    reply = litellm.completion(f"{provider}/smollm2-chat", **SHORT, **way)
    assert reply.choices[0].message.content
    assert reply.usage.total_tokens > 0
    waited = asyncio.run(litellm.acompletion(f"{provider}/smollm2-chat", **SHORT, **way))
    assert waited.choices[0].message.content == reply.choices[0].message.content


@pytest.mark.does(NAME, "chat, streamed")
def test_a_model_streams_what_it_answers(provider: str, way: dict[str, Any]) -> None:
    model = f"{provider}/smollm2-chat"
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(model, **SHORT, **way, stream=True)]
    assert len(pieces) > 2
    assert "".join(pieces) == litellm.completion(model, **SHORT, **way).choices[0].message.content


@pytest.mark.does(NAME, "tools")
@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_is_called(provider: str, way: dict[str, Any], choice: Any) -> None:
    asked: Any = {"messages": [{"role": "user", "content": WEATHER}], "tools": [GET_WEATHER], "tool_choice": choice}
    reply = litellm.completion(f"{provider}/smollm2-chat", **asked, **way, max_tokens=60)
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert reply.choices[0].finish_reason == "tool_calls"


@pytest.mark.does(NAME, "an agent with tools")
def test_an_answer_follows_the_result_of_a_tool(provider: str, way: dict[str, Any]) -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    asked: Any = {"tools": [GET_WEATHER], "max_tokens": 60, "temperature": 0, **way}
    message = litellm.completion(f"{provider}/smollm2-chat", messages, **asked).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It is 18 degrees in Paris."}
    reply = litellm.completion(f"{provider}/smollm2-chat", [*messages, message, result], **asked)
    assert "18" in reply.choices[0].message.content


@pytest.mark.does(NAME, "structured output")
def test_an_answer_fits_a_class(provider: str, way: dict[str, Any]) -> None:
    asked: Any = {"messages": NAME_A_CITY, "response_format": City, "max_tokens": 60}
    reply = litellm.completion(f"{provider}/smollm2-chat", **asked, **way)
    assert City.model_validate_json(reply.choices[0].message.content)


@pytest.mark.does(NAME, "completions")
def test_a_prompt_is_completed(provider: str, way: dict[str, Any]) -> None:
    asked: Any = {"prompt": "Rivers are", "max_tokens": 6}
    model = "smollm2-completions" if provider == "openai" else "smollm2-chat"  # Databricks' is made of a chat
    assert litellm.text_completion(model=f"{provider}/{model}", **asked, **way).choices[0].text


@pytest.mark.does(NAME, "embeddings")
def test_texts_are_embedded(provider: str, way: dict[str, Any]) -> None:
    del way["num_retries"]
    reply = litellm.embedding(f"{provider}/databricks-bge-large-en", ["hello", "good morning"], **way)
    assert [len(one["embedding"]) for one in reply.data] == [256, 256]


@pytest.mark.does(NAME, "responses")
@pytest.mark.does(NAME, "responses, streamed")
def test_an_agent_answers(way: dict[str, Any]) -> None:
    del way["num_retries"]
    asked: Any = {"model": "openai/smollm2-agent", "input": "hello", "max_output_tokens": 12, **way}
    assert litellm.responses(**asked).output[0].content[0].text
    events = [event.type for event in litellm.responses(**asked, stream=True)]
    assert events.count("response.output_text.delta") > 2


@pytest.mark.does(NAME, "errors are the client's own")
def test_a_refusal_is_told_by_its_own_class(provider: str, way: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError, match="nowhere"):
        litellm.completion(f"{provider}/nowhere", **SHORT, **way)
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(f"{provider}/smollm2-chat", **{**SHORT, "temperature": 7}, **way)
