"""Anthropic's own client on its own wire: serving endpoints, and model services of the AI gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")

from place import Up
from pydantic import BaseModel

NAMES = ("anthropic", "anthropic async")
WEATHER: Any = {
    "name": "weather",
    "description": "Get the current weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
HELLO: Any = [{"role": "user", "content": "hello"}]
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


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


@pytest.fixture(params=["serving endpoint", "model service"])
def place(request: pytest.FixtureRequest, here: Up) -> tuple[dict[str, Any], str]:
    """The arguments of a client, and the name of a model there."""
    service = request.param == "model service"
    path, model = ("ai-gateway", "system.ai.smollm2-chat") if service else ("serving-endpoints", "smollm2-chat")
    return {"base_url": f"{here.host}/{path}/anthropic", "auth_token": here.token, "max_retries": 0}, model


@pytest.fixture
def client(place: tuple[dict[str, Any], str]) -> Any:
    return anthropic.Anthropic(**place[0])


@does("chat")
def test_a_message_is_answered(place: tuple[dict[str, Any], str], client: Any) -> None:
    asked: Any = {"model": place[1], "max_tokens": 12, "messages": HELLO, "system": "Be kind."}
    reply = client.messages.create(**asked)
    assert reply.content[0].text
    assert reply.stop_reason in ("end_turn", "max_tokens")
    assert reply.usage.input_tokens + reply.usage.cache_read_input_tokens > 0
    stopped = client.messages.create(**asked, stop_sequences=[" "])
    assert " " not in "".join(block.text for block in stopped.content)

    async def ask() -> Any:
        async with anthropic.AsyncAnthropic(**place[0]) as other:
            return await other.messages.create(**asked)

    assert asyncio.run(ask()).content[0].text


@does("chat, streamed")
def test_a_message_is_streamed(place: tuple[dict[str, Any], str], client: Any) -> None:
    asked: Any = {"model": place[1], "max_tokens": 12, "messages": HELLO}
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        whole = stream.get_final_message()
    assert text == whole.content[0].text
    assert whole.usage.output_tokens > 1

    async def ask() -> Any:
        async with anthropic.AsyncAnthropic(**place[0]) as other, other.messages.stream(**asked) as streamed:
            return "".join([piece async for piece in streamed.text_stream])

    assert asyncio.run(ask())


@does("tools")
def test_a_tool_is_called_and_its_result_answered(place: tuple[dict[str, Any], str], client: Any) -> None:
    asked: Any = {"model": place[1], "max_tokens": 60, "tools": [WEATHER]}
    called = client.messages.create(**asked, messages=QUESTION, tool_choice={"type": "any"})
    (use,) = called.content
    assert (called.stop_reason, use.type, use.name) == ("tool_use", "tool_use", "weather")
    with client.messages.stream(**asked, messages=QUESTION, tool_choice={"type": "tool", "name": "weather"}) as stream:
        assert "city" in stream.get_final_message().content[0].input
    read = []
    for content in ("It is 18 degrees in Paris.", "?"):
        result = {"type": "tool_result", "tool_use_id": use.id, "content": content}
        turns = [*QUESTION, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        answered = client.messages.create(**asked, messages=turns)
        assert answered.content[0].text
        read.append(answered.usage.input_tokens + (answered.usage.cache_read_input_tokens or 0))
    assert read[0] > read[1]  # the model has read the result; what it makes of it is up to so small a one


@does("structured output", "anthropic")
def test_an_answer_fits_a_class(place: tuple[dict[str, Any], str], client: Any) -> None:
    asked: Any = {"model": place[1], "max_tokens": 60, "messages": [{"role": "user", "content": "Name a city."}]}
    assert isinstance(client.messages.parse(**asked, output_format=City).parsed_output, City)


@does("errors are the client's own", "anthropic")
def test_refusals_are_its_own_errors(place: tuple[dict[str, Any], str], client: Any) -> None:
    asked: Any = {"model": place[1], "max_tokens": 3, "messages": HELLO}
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        client.messages.create(**{**asked, "model": "main.default.none"})
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(**{**asked, "max_tokens": 0})
    stranger = client.with_options(auth_token="nobody")
    with pytest.raises(anthropic.PermissionDeniedError):
        stranger.messages.create(**asked)
