"""LangChain's own Databricks classes: langchain-community's `Databricks`, and databricks-langchain."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these packages import is deprecated by the packages they import
    community = pytest.importorskip("langchain_community.llms.databricks")
    databricks = pytest.importorskip("databricks_langchain")

from place import Up

COMMUNITY, PARTNER = "langchain-community", "databricks-langchain"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was deprecated in LangChain"),  # langchain-community says so of its class
    pytest.mark.filterwarnings("ignore::DeprecationWarning:databricks_langchain"),
]


@pytest.mark.does(COMMUNITY, "custom model")
def test_the_communitys_class_asks_a_custom_model(here: Up) -> None:
    llm = community.Databricks(endpoint_name="shout")
    assert llm.invoke("How are you?") == "HOW ARE YOU?! I am fine. 0.5"
    assert llm.invoke("How are you?", stop=["."]) == "HOW ARE YOU?! I am fine"
    assert community.Databricks(endpoint_name="dolly").invoke("How are you?", max_tokens=8)


@pytest.mark.does(COMMUNITY, "custom model")
def test_the_communitys_class_transforms_what_goes_and_comes(here: Up) -> None:
    def shorter(**request: Any) -> Any:
        return {**request, "prompt": request["prompt"][:3], "temperature": 0.1}

    llm = community.Databricks(endpoint_name="shout", transform_input_fn=shorter, transform_output_fn=str.lower)
    assert llm.invoke("How are you?") == "how! i am fine. 0.1"


@pytest.mark.does(COMMUNITY, "completions")
def test_the_communitys_class_asks_for_a_completion(here: Up) -> None:
    assert community.Databricks(endpoint_name="smollm2-completions", max_tokens=8).invoke("Rivers are")


@pytest.fixture
def chat(here: Up) -> Any:
    return databricks.ChatDatabricks(endpoint="smollm2-chat", temperature=0, max_tokens=40)


@pytest.mark.does(PARTNER, "chat")
def test_chat_databricks_answers(chat: Any) -> None:
    reply = chat.invoke("hello")
    assert reply.content
    assert reply.usage_metadata["total_tokens"] > 0
    assert asyncio.run(chat.ainvoke("hello")).content == reply.content


@pytest.mark.does(PARTNER, "chat, streamed")
def test_chat_databricks_streams(chat: Any) -> None:
    pieces = [piece.content for piece in chat.stream("hello")]
    assert len(pieces) > 3
    assert "".join(pieces) == chat.invoke("hello").content


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.mark.does(PARTNER, "tools")
def test_chat_databricks_calls_a_tool(chat: Any) -> None:
    reply = chat.bind_tools([weather], tool_choice="required").invoke("What is the weather in Paris?")
    call = reply.tool_calls[0]
    assert call["name"] == "weather"
    assert isinstance(call["args"]["city"], str)


@pytest.mark.does(PARTNER, "JSON schema")
def test_chat_databricks_keeps_to_a_schema(chat: Any) -> None:
    schema = {
        "title": "city",
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    told = chat.with_structured_output(schema, method="json_schema").invoke("Name a city.")
    assert isinstance(told["name"], str), told


@pytest.mark.does(PARTNER, "embeddings")
def test_databricks_embeddings_make_vectors(here: Up) -> None:
    embeddings = databricks.DatabricksEmbeddings(endpoint="databricks-bge-large-en")
    vectors = embeddings.embed_documents(["hello", "good morning"])
    assert [len(vector) for vector in vectors] == [256, 256]
    assert embeddings.embed_query("hello") == pytest.approx(vectors[0], abs=1e-6)
