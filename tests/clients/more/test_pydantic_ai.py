"""pydantic-ai, on the wire of chat and on that of responses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from asking import WEATHER, City
from place import Up
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

NAME = "pydantic-ai"
SHORT: Any = {"max_tokens": 12, "temperature": 0}
ROOMY: Any = {"max_tokens": 60, "temperature": 0}


def model_of(wire: str, up: Up) -> Any:
    provider = OpenAIProvider(base_url=up.base_url, api_key=up.token)
    if wire == "responses":
        return OpenAIResponsesModel("smollm2-agent", provider=provider)
    profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
    return OpenAIChatModel("smollm2-chat", provider=provider, profile=profile)


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest, here: Up) -> Any:
    return model_of(request.param, here)


@pytest.mark.does(NAME, "chat")
@pytest.mark.does(NAME, "responses")
def test_an_agent_answers(model: Any) -> None:
    result = Agent(model, instructions="Be brief.").run_sync("hello", model_settings=SHORT)
    assert result.output
    assert result.usage.output_tokens > 0


@pytest.mark.does(NAME, "chat, streamed")
@pytest.mark.does(NAME, "responses, streamed")
def test_an_agent_streams_what_it_answers(model: Any) -> None:
    agent = Agent(model)

    async def read() -> list[str]:
        async with agent.run_stream("hello", model_settings=SHORT) as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(read())
    assert len(pieces) > 2
    assert "".join(pieces) == agent.run_sync("hello", model_settings=SHORT).output


def weather_agent(model: Any, called: list[str], **options: Any) -> Any:
    agent = Agent(model, **options)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the current weather of a city."""
        called.append(city)
        return f"It is 18 degrees in {city}."

    @agent.tool_plain
    def now() -> str:
        """Tell the time."""
        called.append("now")
        return "noon"

    return agent


@pytest.mark.does(NAME, "tools")
@pytest.mark.does(NAME, "an agent with tools")
def test_an_agent_calls_a_tool_and_answers_with_its_result(model: Any) -> None:
    called: list[str] = []
    result = weather_agent(model, called).run_sync(WEATHER, model_settings=ROOMY)
    assert called == ["Paris"]
    assert "18" in result.output


@pytest.mark.does(NAME, "an agent with tools")
@pytest.mark.does(NAME, "structured output")
def test_an_agent_that_must_answer_by_a_tool_comes_to_its_end(model: Any) -> None:
    called: list[str] = []
    result = weather_agent(model, called, output_type=City).run_sync(WEATHER, model_settings=ROOMY)
    assert isinstance(result.output, City)
    assert called.count("Paris") == 1
    assert result.usage.requests <= 3


@pytest.mark.does(NAME, "structured output")
@pytest.mark.parametrize("output", [NativeOutput, ToolOutput])
def test_an_answer_has_the_type_that_is_wanted(model: Any, output: Any) -> None:
    result = Agent(model, output_type=output(City)).run_sync("Name a city.", model_settings=ROOMY)
    assert isinstance(result.output, City)


@pytest.mark.does(NAME, "embeddings")
def test_texts_are_embedded(here: Up) -> None:
    provider = OpenAIProvider(base_url=here.base_url, api_key=here.token)
    embedder = Embedder(OpenAIEmbeddingModel("databricks-bge-large-en", provider=provider))
    result = embedder.embed_documents_sync(["hello", "good morning"])
    assert [len(vector) for vector in result.embeddings] == [256, 256]


@pytest.mark.does(NAME, "errors are the client's own")
def test_a_refusal_has_its_status_and_the_workspaces_words(here: Up) -> None:
    provider = OpenAIProvider(base_url=here.base_url, api_key=here.token)
    with pytest.raises(ModelHTTPError, match="nowhere") as caught:
        Agent(OpenAIChatModel("nowhere", provider=provider)).run_sync("hello")
    assert caught.value.status_code == 404
