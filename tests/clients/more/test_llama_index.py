"""LlamaIndex: its class for OpenAI-like servers, and its own ones for Databricks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from asking import WEATHER, City
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.databricks import DatabricksEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.databricks import Databricks
from llama_index.llms.openai_like import OpenAILike
from place import Up

NAME = "LlamaIndex"
HELLO = [ChatMessage(role="user", content="hello")]


def like(up: Up, **options: Any) -> Any:
    about = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 4096, "max_retries": 0}
    asked = {"model": "smollm2-chat", "max_tokens": 60, "temperature": 0, **about, **options}
    return OpenAILike(api_base=up.base_url, api_key=up.token, **asked)


@pytest.fixture(params=["OpenAILike", "Databricks"])
def llm(request: pytest.FixtureRequest, here: Up) -> Any:
    if request.param == "OpenAILike":
        return like(here)
    return Databricks(model="smollm2-chat", api_base=here.base_url, api_key=here.token, max_tokens=60, temperature=0)


@pytest.mark.does(NAME, "chat")
def test_a_model_answers(llm: Any) -> None:
    text = llm.chat(HELLO).message.content
    assert text
    assert llm.complete("hello").text == text
    assert asyncio.run(llm.achat(HELLO)).message.content == text


@pytest.mark.does(NAME, "chat, streamed")
def test_a_model_streams_what_it_answers(llm: Any) -> None:
    pieces = [piece.delta for piece in llm.stream_chat(HELLO)]
    assert len(pieces) > 2
    assert "".join(pieces) == llm.chat(HELLO).message.content


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"It is 18 degrees in {city}."


@pytest.mark.does(NAME, "tools")
def test_a_tool_is_called(here: Up) -> None:
    llm, tool = like(here), FunctionTool.from_defaults(get_weather)
    (call,) = llm.get_tool_calls_from_response(llm.chat_with_tools([tool], user_msg=WEATHER))
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Paris"})
    assert "18 degrees in Paris" in str(llm.predict_and_call([tool], user_msg=WEATHER))


@pytest.mark.does(NAME, "an agent with tools")
def test_an_agent_answers_with_the_result_of_its_tool(here: Up) -> None:
    async def ask() -> str:
        agent = FunctionAgent(tools=[FunctionTool.from_defaults(get_weather)], llm=like(here), streaming=True)
        return str(await agent.run(WEATHER))

    assert "18" in asyncio.run(ask())


@pytest.mark.does(NAME, "structured output")
def test_an_answer_is_an_object(here: Up) -> None:
    assert isinstance(like(here).as_structured_llm(City).complete("Name a city.").raw, City)
    strict = like(here, should_use_structured_outputs=True)
    assert isinstance(strict.as_structured_llm(City).complete("Name a city.").raw, City)


@pytest.mark.does(NAME, "completions")
def test_a_prompt_is_completed(here: Up) -> None:
    assert like(here, model="smollm2-completions", is_chat_model=False).complete("Rivers are").text


@pytest.mark.does(NAME, "embeddings")
def test_texts_are_embedded(here: Up) -> None:
    name = "databricks-bge-large-en"
    for embedding in (
        OpenAILikeEmbedding(model_name=name, api_base=here.base_url, api_key=here.token),
        DatabricksEmbedding(model=name, endpoint=here.base_url, api_key=here.token),
    ):
        texts = ["hello", "good morning"]
        assert [len(vector) for vector in embedding.get_text_embedding_batch(texts)] == [256, 256]
        assert embedding.get_query_embedding("hello") == embedding.get_text_embedding_batch(texts)[0]
        assert len(asyncio.run(embedding.aget_text_embedding("hello"))) == 256


@pytest.mark.does(NAME, "errors are the client's own")
def test_a_refusal_is_told(here: Up) -> None:
    with pytest.raises(Exception, match="nowhere"):
        like(here, model="nowhere").chat(HELLO)
