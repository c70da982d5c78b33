"""OpenAI's own client, sync and async: the same calls, one body for both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from place import Up
from pydantic import BaseModel

HELLO: Any = [{"role": "user", "content": "hello"}]
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    name: str
    people: int


class Caller:
    """A client of either kind: `call` waits for the answer, `pieces` reads a stream to its end."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.client = client
        self._loop = loop

    def call(self, made: Any) -> Any:
        return made if self._loop is None else self._loop.run_until_complete(made)

    def pieces(self, made: Any) -> list[Any]:
        stream = self.call(made)
        if self._loop is None:
            return list(stream)

        async def read() -> list[Any]:
            return [piece async for piece in stream]

        return self._loop.run_until_complete(read())


@pytest.fixture(params=["openai", "openai async"])
def caller(request: pytest.FixtureRequest, up: Up) -> Iterator[Caller]:
    if request.param == "openai":
        with openai.OpenAI(base_url=up.base_url, api_key=up.token, max_retries=0) as client:
            yield Caller(client)
        return
    loop = asyncio.new_event_loop()
    client = openai.AsyncOpenAI(base_url=up.base_url, api_key=up.token, max_retries=0)
    yield Caller(client, loop)
    loop.run_until_complete(client.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def both(operation: str) -> Callable[[Any], Any]:
    """Marks a test as a cell of both columns; it runs with each of the clients."""

    def mark(test: Any) -> Any:
        return pytest.mark.does("openai", operation)(pytest.mark.does("openai async", operation)(test))

    return mark


@both("chat")
def test_chat_answers(caller: Caller) -> None:
    made = caller.client.chat.completions.create(model="smollm2-chat", messages=HELLO, max_tokens=8, n=2)
    reply = caller.call(made)
    assert len(reply.choices) == 2
    assert all(choice.message.content for choice in reply.choices)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.object == "chat.completion"


@both("chat, streamed")
def test_a_streamed_answer_is_the_whole_one(caller: Caller) -> None:
    create = caller.client.chat.completions.create
    asked: Any = {"model": "smollm2-chat", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = caller.call(create(**asked)).choices[0]
    pieces = caller.pieces(create(**asked, stream=True, stream_options={"include_usage": True}))
    choices = [piece.choices[0] for piece in pieces if piece.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.message.content
    assert len(choices) > 3
    assert choices[-1].finish_reason == whole.finish_reason
    assert pieces[-1].usage.completion_tokens > 0


@both("tools")
def test_a_tool_is_called_and_its_result_is_answered(caller: Caller) -> None:
    create = caller.client.chat.completions.create
    asked: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    forced: Any = {"type": "function", "function": {"name": "weather"}}
    options: Any = {"model": "smollm2-chat", "tools": [WEATHER], "max_tokens": 60, "temperature": 0}
    reply = caller.call(create(messages=asked, tool_choice=forced, **options)).choices[0]
    call = reply.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "weather")
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    required = caller.call(create(messages=asked, tool_choice="required", **options)).choices[0]
    assert required.finish_reason == "tool_calls"
    answered = [*asked, reply.message.model_dump(exclude_none=True)]
    answered.append({"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"})
    final = caller.call(create(messages=answered, **options)).choices[0]
    assert final.message.content
    assert not final.message.tool_calls


@both("tools")
def test_a_tool_call_is_streamed(caller: Caller) -> None:
    asked: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    made = caller.client.chat.completions.create(
        model="smollm2-chat", messages=asked, tools=[WEATHER], tool_choice="required", max_tokens=60, stream=True
    )
    deltas = [piece.choices[0].delta for piece in caller.pieces(made) if piece.choices]
    parts = [call.function for delta in deltas for call in delta.tool_calls or []]
    assert [part.name for part in parts if part.name] == ["weather"]
    assert "city" in json.loads("".join(part.arguments or "" for part in parts))


@both("JSON schema")
def test_the_answer_has_the_schemas_form(caller: Caller) -> None:
    asked: Any = [{"role": "user", "content": "Name a city."}]
    schema: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    create = caller.client.chat.completions.create
    made = create(model="smollm2-chat", messages=asked, response_format=schema, max_tokens=80, temperature=0)
    City.model_validate_json(caller.call(made).choices[0].message.content)
    parse = caller.client.chat.completions.parse
    parsed = parse(model="smollm2-chat", messages=asked, response_format=City, max_tokens=80, temperature=0)
    assert isinstance(caller.call(parsed).choices[0].message.parsed, City)


@both("completions")
@both("completions, streamed")
def test_completions_answer_whole_and_in_pieces(caller: Caller) -> None:
    create = caller.client.completions.create
    asked: Any = {"model": "smollm2-completions", "prompt": "Rivers are", "max_tokens": 12, "temperature": 0}
    whole = caller.call(create(**asked)).choices[0].text
    pieces = caller.pieces(create(**asked, stream=True))
    assert whole
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole
    assert len(pieces) > 3


@both("embeddings")
def test_embeddings_come_in_order(caller: Caller) -> None:
    create = caller.client.embeddings.create
    both_ways = caller.call(create(model="databricks-bge-large-en", input=["hello", "good morning"])).data
    alone = caller.call(create(model="databricks-bge-large-en", input="good morning", encoding_format="float")).data
    assert [one.index for one in both_ways] == [0, 1]
    assert both_ways[1].embedding == pytest.approx(alone[0].embedding, abs=1e-6)
    assert len(alone[0].embedding) == 256


@both("responses")
def test_an_agent_responds(caller: Caller) -> None:
    made = caller.client.responses.create(model="smollm2-agent", input="hello", max_output_tokens=16)
    reply = caller.call(made)
    assert reply.output_text
    assert reply.usage.output_tokens > 0
    messages: Any = [{"role": "user", "content": "hello"}]
    assert caller.call(
        caller.client.responses.create(model="smollm2-agent", input=messages, max_output_tokens=16)
    ).output_text


@both("responses, streamed")
def test_an_agents_response_is_streamed(caller: Caller) -> None:
    create = caller.client.responses.create
    events = caller.pieces(create(model="smollm2-agent", input="hello", max_output_tokens=16, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    done = [event for event in events if event.type == "response.output_item.done"]
    assert text
    assert done[-1].item.content[0].text == text


@both("errors are the client's own")
def test_refusals_are_the_errors_of_openai(caller: Caller, up: Up) -> None:
    create = caller.client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="nowhere"):
        caller.call(create(model="nowhere", messages=HELLO))
    with pytest.raises(openai.BadRequestError):
        caller.call(create(model="smollm2-chat", messages=[]))
    stranger = caller.client.with_options(api_key="dapi-wrong")
    with pytest.raises((openai.AuthenticationError, openai.PermissionDeniedError)):
        caller.call(stranger.chat.completions.create(model="smollm2-chat", messages=HELLO))
