"""`ChatDatabricks`: settings, streams, tools and structured output at the wire."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError
from recorded import USAGE, Recorded, answering

from dbllm import BadRequestError, StreamInterruptedError
from dbllm.langchain import ChatDatabricks


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def summed(chunks: Any) -> AIMessageChunk:
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole, AIMessageChunk)
    return whole


def test_only_what_was_set_is_sent(recorded: Recorded) -> None:
    ChatDatabricks(model="ep", **recorded.params()).invoke("hi")
    assert recorded.bodies == [{"messages": [{"role": "user", "content": "hi"}]}]
    assert recorded.endpoints == ["ep"]


def test_the_settings_are_sent_and_a_call_s_own_go_before_them(recorded: Recorded) -> None:
    chat = ChatDatabricks(
        endpoint="ep", temperature=0.1, max_tokens=5, n=2, stop=["a"], extra_params={"top_p": 0.3}, **recorded.params()
    )
    chat.invoke("hi")
    chat.invoke("hi", stop=["b"], temperature=0.9, n=1, max_tokens=None, model="other")
    sent = [{name: value for name, value in body.items() if name != "messages"} for body in recorded.bodies]
    assert sent == [
        {"temperature": 0.1, "max_tokens": 5, "n": 2, "stop": ["a"], "top_p": 0.3},
        {"temperature": 0.9, "n": 1, "stop": ["b"], "top_p": 0.3},
    ]
    assert recorded.endpoints == ["ep", "other"]


def test_an_answer_tells_where_it_comes_from(recorded: Recorded) -> None:
    told = ChatDatabricks(model="ep", **recorded.params()).invoke("hi")
    metadata = told.response_metadata
    assert metadata["model_name"] == "ep"
    assert metadata["model"] == "ep-0613"
    assert metadata["request_id"] == "req-1"
    assert metadata["finish_reason"] == "stop"
    assert metadata["prompt_tokens"] == 21
    assert metadata["usage"] == USAGE
    assert metadata["id"] == "chatcmpl-1"
    assert str(told.id).startswith("lc_run-")  # servers repeat theirs, and a memory would take it for the same message
    assert (metadata["normalized_finish_reason"], metadata["finish_state"]) == ("stop", "complete")
    assert told.usage_metadata == {
        "input_tokens": 21, "output_tokens": 9, "total_tokens": 30, "input_token_details": {"cache_read": 4},
    }  # fmt: skip


def test_all_of_n_answers_are_generations(recorded: Recorded) -> None:
    result = ChatDatabricks(model="ep", n=3, **recorded.params()).generate([[HumanMessage("hi")]])
    assert len(result.generations[0]) == 3
    assert sum(1 for generation in result.generations[0] if generation.message.usage_metadata) == 1  # type: ignore[union-attr]


def test_the_tokens_of_several_answers_are_added_up(recorded: Recorded) -> None:
    result = ChatDatabricks(model="ep", **recorded.params()).generate([[HumanMessage("hi")], [HumanMessage("ho")]])
    assert isinstance(result, LLMResult)
    assert result.llm_output is not None
    assert result.llm_output["total_tokens"] == 60
    assert result.llm_output["usage"] == {"prompt_tokens": 42, "completion_tokens": 18, "total_tokens": 60}
    assert result.llm_output["model_name"] == "ep"


def test_usage_that_comes_on_every_chunk_is_counted_once(recorded: Recorded) -> None:
    whole = summed(ChatDatabricks(model="ep", **recorded.params()).stream("hi"))
    assert whole.text == "Hello! How can I help you today?"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] == 21
    assert whole.usage_metadata["output_tokens"] == 8  # what the last chunk said
    assert whole.usage_metadata["total_tokens"] == 29
    assert whole.response_metadata["model_name"] == "ep"
    assert whole.response_metadata["model"] == "ep-0613"
    assert whole.response_metadata["finish_reason"] == "stop"
    assert recorded.bodies[0]["stream_options"] == {"include_usage": True}


async def test_usage_is_asked_for_unless_that_is_turned_off(recorded: Recorded) -> None:
    chat = ChatDatabricks(model="ep", stream_usage=False, **recorded.params())
    [chunk async for chunk in chat.astream("hi")]
    [chunk async for chunk in chat.astream("hi", stream_usage=True)]
    chat.invoke("hi", stream_usage=True)
    assert ["stream_options" in body for body in recorded.bodies] == [False, True, False]


def refuses_stream_options(seen: list[dict[str, Any]]) -> dict[str, Any]:
    inner = Recorded()

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or "{}")
        if body:
            seen.append(body)
        if "stream_options" in body:
            message = 'Bad request: json: unknown field "stream_options"'
            return httpx.Response(400, json={"error_code": "BAD_REQUEST", "message": message})
        return inner._answer(request)

    return answering(answer)


async def test_an_endpoint_that_does_not_know_stream_options_is_asked_once() -> None:
    seen: list[dict[str, Any]] = []
    chat = ChatDatabricks(model="ep", **refuses_stream_options(seen))
    assert summed(chat.stream("hi")).text
    assert summed([chunk async for chunk in chat.astream("hi")]).text
    assert ["stream_options" in body for body in seen] == [True, False, False]


def test_another_refusal_of_a_stream_is_an_error(recorded: Recorded) -> None:
    chat = ChatDatabricks(model="ep", **recorded.params())
    with pytest.raises(BadRequestError, match="seed"):
        list(chat.stream("hi", seed=1))
    assert len(recorded.bodies) == 1


def test_a_stream_that_breaks_raises_and_keeps_what_came() -> None:
    first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]}
    broken = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=f"data: {json.dumps(first)}\n\n")
    chat = ChatDatabricks(model="ep", **answering(lambda request: broken))
    chunks = []
    stream = chat.stream("hi")
    chunks.append(next(stream))
    with pytest.raises(StreamInterruptedError) as caught:
        next(stream)
    assert summed(chunks).text == "Hel"
    assert caught.value.partial_text == "Hel"


def test_a_stream_is_one_answer(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="would lose the others"):
        list(ChatDatabricks(model="ep", n=2, **recorded.params()).stream("hi"))


def test_streaming_makes_invoke_stream_underneath(recorded: Recorded) -> None:
    told = ChatDatabricks(model="ep", streaming=True, **recorded.params()).invoke("hi")
    assert told.text == "Hello! How can I help you today?"
    assert recorded.bodies[0]["stream"] is True


def test_custom_inputs_go_to_the_top_of_the_body_and_custom_outputs_come_back() -> None:
    seen: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        message = {"message": {"role": "assistant", "content": "Done."}}
        return httpx.Response(200, json={"choices": [message], "custom_outputs": {"trace": 7}})

    told = ChatDatabricks(model="agent", **answering(answer)).invoke("hi", custom_inputs={"user": 3})
    assert seen[0]["custom_inputs"] == {"user": 3}
    assert told.custom_outputs == {"trace": 7}  # type: ignore[attr-defined]


def test_the_model_can_be_called(recorded: Recorded) -> None:
    chat = ChatDatabricks(target_uri="databricks", endpoint="ep", temperature=0.1, **recorded.params())
    assert chat([HumanMessage(content="hello")]).content == "Hello! How can I help you today?"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "model"),
        ({"model": "m", "temprature": 1}, "Did you mean 'temperature'"),
        ({"model": "m", "top_p": 1}, "extra_params"),
        ({"model": "m", "target_uri": "sqlite://x"}, "Invalid target_uri"),
        ({"model": "m", "target_uri": "databricks", "workspace_client": object()}, "Cannot specify both"),
        ({"model": "m", "client": object()}, "takes a dbllm.Client"),
        ({"model": "m", "max_retries": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ChatDatabricks(**fields)


def test_an_argument_that_fails_does_not_show_the_token() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatDatabricks(model="m", api_key="dapi-secret", max_retries=-1)
    assert "dapi-secret" not in str(caught.value)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        (False, None),
        (True, "required"),
        ("any", "required"),
        ("required", "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("add", {"type": "function", "function": {"name": "add"}}),
        ({"type": "function", "function": {"name": "add"}}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_every_form_of_tool_choice(recorded: Recorded, choice: Any, sent: Any) -> None:
    ChatDatabricks(model="ep", **recorded.params()).bind_tools([add], tool_choice=choice).invoke("1 and 2")
    assert recorded.bodies[0].get("tool_choice") == sent
    assert recorded.bodies[0]["tools"][0]["function"]["name"] == "add"


@pytest.mark.parametrize("choice", ["subtract", {"type": "function", "function": {"name": "subtract"}}, 3])
def test_a_choice_of_no_tool_is_refused(choice: Any) -> None:
    with pytest.raises(ValueError, match=r"Tool choice|Unrecognized"):
        ChatDatabricks(model="ep").bind_tools([add], tool_choice=choice)


def test_strict_and_parallel_tool_calls_are_passed_on(recorded: Recorded) -> None:
    chat = ChatDatabricks(model="ep", **recorded.params())
    chat.bind_tools([add], strict=True, parallel_tool_calls=False).invoke("1 and 2")
    assert recorded.bodies[0]["parallel_tool_calls"] is False
    assert recorded.bodies[0]["tools"][0]["function"]["strict"] is True
    chat.bind_tools([add]).invoke("1 and 2")
    assert "strict" not in recorded.bodies[1]["tools"][0]["function"]


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


@pytest.mark.parametrize("strict", [None, True, False])
def test_a_schema_is_sent_as_response_format(recorded: Recorded, strict: bool | None) -> None:
    chat = ChatDatabricks(model="ep", **recorded.params())
    joke = chat.with_structured_output(Joke, method="json_schema", strict=strict).invoke("A joke!")
    assert isinstance(joke, Joke)
    form = recorded.bodies[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "Joke"
    assert form["json_schema"]["strict"] is (strict is not False)
    assert set(form["json_schema"]["schema"]["required"]) == {"setup", "punchline"}
    assert "ls_structured_output_format" not in recorded.bodies[0]


def test_parameters_beside_the_schema_reach_the_call(recorded: Recorded) -> None:
    chat = ChatDatabricks(model="ep", **recorded.params())
    chat.with_structured_output(Joke, method="json_mode", temperature=0.7).invoke("A joke, in JSON!")
    assert recorded.bodies[0]["temperature"] == 0.7
    assert recorded.bodies[0]["response_format"] == {"type": "json_object"}


def test_an_answer_that_does_not_fit_is_kept_beside_its_error() -> None:
    wrong = {"choices": [{"message": {"role": "assistant", "content": "no JSON"}}]}
    chat = ChatDatabricks(model="ep", **answering(lambda request: httpx.Response(200, json=wrong)))
    found = chat.with_structured_output(Joke, method="json_schema", include_raw=True).invoke("A joke!")
    assert isinstance(found, dict)
    assert found["raw"].text == "no JSON"
    assert found["parsed"] is None
    assert found["parsing_error"] is not None


def test_structured_output_after_reasoning() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A cat.", "signature": "s"}]}
    text = {"type": "text", "text": '{"setup": "a", "punchline": "b"}'}
    answer = {"choices": [{"message": {"role": "assistant", "content": [thought, text]}}]}
    chat = ChatDatabricks(model="ep", **answering(lambda request: httpx.Response(200, json=answer)))
    assert chat.with_structured_output(Joke, method="json_schema").invoke("A joke!") == Joke(setup="a", punchline="b")


def test_a_method_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Unrecognized method"):
        ChatDatabricks(model="ep").with_structured_output(Joke, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="schema must be specified"):
        ChatDatabricks(model="ep").with_structured_output(None, method="json_schema")


def test_the_older_name_of_the_endpoint_still_works() -> None:
    chat = ChatDatabricks(endpoint="a")
    assert (chat.model, chat.endpoint) == ("a", "a")
    chat.endpoint = "b"
    assert chat.model == "b"
