"""OpenAI's client from version 3 on: serving endpoints, and model services of the AI gateway by both of its APIs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

openai = pytest.importorskip("openai", minversion="3")

from place import Up
from pydantic import BaseModel

NAMES = ("openai 3", "openai 3 async")
HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PLACES = {  # path: names of a chat model and of an embedding model there
    "serving-endpoints": ("smollm2-chat", "databricks-bge-large-en"),
    "ai-gateway/mlflow/v1": ("system.ai.smollm2-chat", "system.ai.bge-large-en"),
    "ai-gateway/openai/v1": ("system.ai.smollm2-chat", "system.ai.bge-large-en"),
}


class City(BaseModel):
    """A city."""

    name: str


def does(operation: str, *names: str) -> Any:
    """Marks a test as cells of the table."""

    def mark(test: Any) -> Any:
        for name in names or NAMES:
            test = pytest.mark.does(name, operation)(test)
        return test

    return mark


@pytest.fixture(params=PLACES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def options(path: str, here: Up) -> dict[str, Any]:
    return {"base_url": f"{here.host}/{path}", "api_key": here.token, "max_retries": 0}


@pytest.fixture
def client(options: dict[str, Any]) -> Any:
    return openai.OpenAI(**options)


@pytest.fixture
def asked(path: str) -> dict[str, Any]:
    return {"model": PLACES[path][0], "messages": HELLO, "max_tokens": 10, "temperature": 0}


@does("chat")
@does("chat, streamed")
def test_a_model_answers_whole_and_streamed(client: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole
    assert len(pieces) > 3

    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(**options) as other:
            answer = await other.chat.completions.create(**asked)
            stream = await other.chat.completions.create(**asked, stream=True)
            streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return answer.choices[0].message.content, "".join(streamed)

    assert asyncio.run(ask()) == (whole, whole)


@does("tools", "openai 3")
@does("structured output", "openai 3")
def test_tools_and_classes(client: Any, asked: dict[str, Any]) -> None:
    function = {"type": "function", "function": {name: one for name, one in WEATHER.items() if name != "type"}}
    made = client.chat.completions.create(**{**asked, "max_tokens": 60}, tools=[function], tool_choice="required")
    assert "city" in json.loads(made.choices[0].message.tool_calls[0].function.arguments)
    parsed = client.chat.completions.parse(**{**asked, "max_tokens": 60}, response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City)


@does("responses")
@does("responses, streamed")
def test_a_chat_model_answers_responses(client: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
    question: Any = {"model": asked["model"], "input": "hello", "max_output_tokens": 10, "temperature": 0}
    text = client.responses.create(**question).output_text
    with client.responses.stream(**question) as stream:
        events = [event.type for event in stream]
        assert stream.get_final_response().output_text == text
    assert events.count("response.output_text.delta") > 2
    (call,) = client.responses.create(
        **{**question, "max_output_tokens": 60}, tools=[WEATHER], tool_choice="required"
    ).output
    assert "city" in json.loads(call.arguments)

    async def ask() -> str:
        async with openai.AsyncOpenAI(**options) as other:
            stream = await other.responses.create(**question, stream=True)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(ask()) == text


@does("embeddings")
def test_texts_are_embedded(client: Any, options: dict[str, Any], path: str) -> None:
    vectors = client.embeddings.create(model=PLACES[path][1], input=["a", "b"]).data
    assert [len(one.embedding) for one in vectors] == [256, 256]

    async def ask() -> Any:
        async with openai.AsyncOpenAI(**options) as other:
            return (await other.embeddings.create(model=PLACES[path][1], input="a")).data[0].embedding

    assert asyncio.run(ask()) == pytest.approx(vectors[0].embedding, abs=1e-6)


@does("errors are the client's own", "openai 3")
def test_refusals_are_its_own_errors(client: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(**{**asked, "model": "main.default.none"})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**{**asked, "temperature": 7})
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key="nobody").chat.completions.create(**asked)
