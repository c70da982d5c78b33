"""DSPy: language models, signatures, tools and embedders."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

dspy = pytest.importorskip("dspy")

from asking import GET_WEATHER, HELLO, WEATHER
from place import Up

NAME = "DSPy"


@pytest.fixture
def way(here: Up) -> dict[str, Any]:
    return {"api_base": here.base_url, "api_key": here.token}


@pytest.fixture
def lm(way: dict[str, Any]) -> Any:
    return dspy.LM("databricks/smollm2-chat", max_tokens=60, temperature=0, cache=False, num_retries=0, **way)


@pytest.mark.does(NAME, "chat")
def test_a_language_model_answers(lm: Any) -> None:
    (text,) = lm("hello")
    assert text
    assert lm(messages=HELLO) == [text]


@pytest.mark.does(NAME, "chat")
def test_a_signature_is_predicted(lm: Any) -> None:
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert dspy.Predict("question -> answer")(question="Where is the Eiffel Tower?").answer


@pytest.mark.does(NAME, "structured output")
def test_a_signature_with_types_is_predicted(lm: Any) -> None:
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        told = dspy.Predict("question -> answer: str, year: int")(question="When was the Eiffel Tower built?")
    assert isinstance(told.year, int)


@pytest.mark.does(NAME, "tools")
def test_a_tool_is_called(lm: Any) -> None:
    (told,) = lm(messages=[{"role": "user", "content": WEATHER}], tools=[GET_WEATHER])
    assert told["tool_calls"][0]["function"]["name"] == "get_weather"
    assert "Paris" in told["tool_calls"][0]["function"]["arguments"]


@pytest.mark.does(NAME, "chat, streamed")
def test_a_prediction_is_streamed(lm: Any) -> None:
    async def read() -> list[Any]:
        with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
            streamed = dspy.streamify(dspy.Predict("question -> answer"))
            return [piece async for piece in streamed(question="Where is the Eiffel Tower?")]

    *chunks, prediction = asyncio.run(read())
    assert len(chunks) > 2
    assert prediction.answer


@pytest.mark.does(NAME, "embeddings")
@pytest.mark.parametrize("provider", ["databricks", "openai"])
def test_texts_are_embedded(way: dict[str, Any], provider: str) -> None:
    embedder = dspy.Embedder(f"{provider}/databricks-bge-large-en", caching=False, **way)
    assert embedder(["hello", "good morning"]).shape == (2, 256)


@pytest.mark.does(NAME, "errors are the client's own")
def test_a_refusal_is_told(way: dict[str, Any]) -> None:
    lm = dspy.LM("databricks/nowhere", cache=False, num_retries=0, **way)
    with pytest.raises(Exception, match="nowhere"):
        lm("hello")
