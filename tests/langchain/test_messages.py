"""Messages and content, both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from dbllm import ChatCompletion, ChatCompletionChunk, Usage
from dbllm._protocol.streams import ChatPlaces
from dbllm.langchain.content import wire_content
from dbllm.langchain.messages import chat_result, usage_metadata, wire_messages
from dbllm.langchain.pieces import Pieces

SUMMARY = [{"type": "summary_text", "text": "A cat.", "signature": "s1gn"}]
CALL = {"name": "add", "args": {"a": 1, "b": "é"}, "id": "c1", "type": "tool_call"}
WIRE_CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1, "b": "é"}'}}


def wire(*messages: Any, model: str = "ep") -> list[dict[str, Any]]:
    return wire_messages(messages, model)


def test_the_roles() -> None:
    assert wire(
        SystemMessage("be brief"),
        HumanMessage("hi", name="me"),
        AIMessage("ho", id="x"),
        ToolMessage("3", tool_call_id="c1", name="add", status="error"),
        ChatMessage("well", role="developer"),
    ) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "developer", "content": "well"},
    ]


def test_calls_of_tools() -> None:
    assert wire(AIMessage("", tool_calls=[CALL])) == [{"role": "assistant", "content": None, "tool_calls": [WIRE_CALL]}]
    assert wire(AIMessage("I add.", tool_calls=[CALL]))[0]["content"] == "I add."
    assert wire(AIMessage("", tool_calls=[CALL]), model="databricks-claude-sonnet-4")[0]["content"] == " "


def test_calls_whose_arguments_were_no_json_go_back_as_they_came() -> None:
    call = {"name": "add", "args": '{"a": ', "id": "c1", "error": None, "type": "invalid_tool_call"}
    sent = wire(AIMessage("", invalid_tool_calls=[call]))[0]["tool_calls"]
    assert sent[0]["function"]["arguments"] == '{"a": '


def test_calls_in_anthropic_s_form() -> None:
    used = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1, "b": "é"}}
    text = {"type": "text", "text": "I add."}
    assert wire(AIMessage([text, used], tool_calls=[CALL])) == [
        {"role": "assistant", "content": "I add.", "tool_calls": [WIRE_CALL]}
    ]
    assert wire(AIMessage([text, used]))[0]["tool_calls"] == [WIRE_CALL]
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "3"}]}
    assert wire(HumanMessage([result, {"type": "text", "text": "and?"}])) == [
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "user", "content": "and?"},
    ]
    assert wire(HumanMessage([result])) == [{"role": "tool", "tool_call_id": "c1", "content": "3"}]


@pytest.mark.parametrize("message", [FunctionMessage("x", name="f"), RemoveMessage(id="1")])
def test_messages_that_endpoints_do_not_take(message: Any) -> None:
    with pytest.raises(ValueError, match=r"not supported|cannot be sent"):
        wire(message)


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("hi", {"type": "text", "text": "hi"}),
        (
            {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}, "index": 0, "annotations": []},
            {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
        ),
        ({"type": "text-plain", "text": "hi", "mime_type": "text/plain"}, {"type": "text", "text": "hi"}),
        ({"type": "image", "url": "https://x/y.png"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}),
        (
            {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ),
        (
            {"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ),
        (
            {"type": "image", "source_type": "url", "url": "https://x/y.png"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        ),
        (
            {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ),
        (
            {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"},
            {"type": "file", "file": {"filename": "file", "file_data": "data:application/pdf;base64,AAAA"}},
        ),
        (
            {"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "extras": {"filename": "a.pdf"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}},
        ),
        ({"type": "non_standard", "value": {"type": "own", "x": 1}}, {"type": "own", "x": 1}),
    ],
)
def test_every_block_in_its_form_on_the_wire(block: Any, part: dict[str, Any]) -> None:
    other = {"type": "text", "text": "look:", "cache_control": {"type": "ephemeral"}}
    assert wire_content([other, block], "user") == [other, part]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "file", "url": "https://x/y.pdf"},
        {"type": "audio", "url": "https://x/y.wav"},
        {"type": "video", "base64": "AAAA", "mime_type": "video/mp4"},
        {"type": "audio", "base64": "AAAA"},
    ],
)
def test_what_has_no_form_on_the_wire_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"type '{block['type']}' cannot be sent"):
        wire_content([block], "user")


def test_a_single_text_is_sent_as_a_text_and_nothing_as_an_empty_one() -> None:
    assert wire_content([{"type": "text", "text": "hi"}], "user") == "hi"
    assert wire_content([], "user") == ""
    assert wire_content([{"type": "text", "text": ""}], "assistant") == ""


# --- reasoning --------------------------------------------------------------------------------------------------------


def reply(content: Any, **message: Any) -> ChatCompletion:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return ChatCompletion.model_validate({"id": "c1", "model": "m", "choices": [choice]})


def message_of(answer: ChatCompletion) -> AIMessage:
    message = chat_result(answer, "ep").generations[0].message
    assert isinstance(message, AIMessage)
    return message


def test_reasoning_is_kept_as_blocks_and_goes_back_as_it_came() -> None:
    content = [{"type": "reasoning", "summary": SUMMARY}, {"type": "text", "text": "Meow."}]
    message = message_of(reply(content))
    assert message.content == content
    assert message.text == "Meow."
    assert message.content_blocks == [
        {"type": "reasoning", "reasoning": "A cat.", "extras": {"summary": SUMMARY}},
        {"type": "text", "text": "Meow."},
    ]
    assert wire(message)[0]["content"] == content
    standard = AIMessage(content_blocks=message.content_blocks)
    assert wire(standard)[0]["content"] == content


def test_reasoning_of_other_providers_gets_the_form_of_the_wire() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    assert wire_content([thinking, "so"], "assistant") == [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm.", "signature": "s"}]},
        {"type": "text", "text": "so"},
    ]
    assert wire_content([thinking, "so"], "user") == "so"


def test_reasoning_beside_the_content_is_kept() -> None:
    message = message_of(reply("Meow.", reasoning_content="A cat.", refusal=None))
    assert message.additional_kwargs == {"reasoning_content": "A cat."}
    assert message.content_blocks[0] == {"type": "reasoning", "reasoning": "A cat."}


def summed(*chunks: dict[str, Any]) -> AIMessageChunk:
    """What LangChain makes of a stream."""
    pieces, places, found = Pieces("ep"), ChatPlaces(), []
    for chunk in map(ChatCompletionChunk.model_validate, chunks):
        places.settle(chunk)  # as a stream does
        found.append(pieces.chunk(chunk))
    messages = [chunk.message for chunk in (*found, pieces.last("r1")) if chunk is not None]
    whole = messages[0]
    for message in messages[1:]:
        whole = whole + message  # type: ignore[assignment]
    assert isinstance(whole, AIMessageChunk)
    return whole


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def test_streamed_reasoning_is_one_block_before_one_text() -> None:
    def thought(text: str, **more: str) -> dict[str, Any]:
        return delta(content=[{"type": "reasoning", "summary": [{"type": "summary_text", "text": text, **more}]}])

    whole = summed(
        thought("A "), thought("cat.", signature="s1gn"), delta(content="Me"), delta(content="ow.", finish="stop")
    )
    assert [block["type"] for block in whole.content_blocks] == ["reasoning", "text"]
    assert whole.content_blocks[0]["reasoning"] == "A cat."  # type: ignore[typeddict-item]
    assert whole.text == "Meow."
    assert wire(whole)[0]["content"] == [{"type": "reasoning", "summary": SUMMARY}, {"type": "text", "text": "Meow."}]


# --- streams ----------------------------------------------------------------------------------------------------------


def test_streamed_calls_are_put_together_however_a_server_repeats_itself() -> None:
    def call(place: int | None, text: str, name: str | None = None, **more: Any) -> dict[str, Any]:
        at = {} if place is None else {"index": place}
        return delta(tool_calls=[{**at, "function": {"name": name, "arguments": text}, **more}])

    whole = summed(
        call(0, "", "add", id="c1", type="function"),
        call(0, '{"a": ', "add", id="c1"),  # name and id once more
        call(0, "1}"),
        call(1, "", "none", id="c2"),
        delta(finish="tool_calls"),
    )
    assert [(each["name"], each["args"], each["id"]) for each in whole.tool_calls] == [
        ("add", {"a": 1}, "c1"),
        ("none", {}, "c2"),
    ]
    without_places = summed(call(None, '{"a": ', "add", id="c1"), call(None, "1}"))
    assert without_places.tool_calls[0]["args"] == {"a": 1}
    as_object = delta(tool_calls=[{"id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}])
    assert summed(as_object).tool_calls[0]["args"] == {"a": 1}


def test_a_stream_tells_model_and_usage_once() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    final = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    whole = summed(
        {**delta(content="Hel", role="assistant"), "usage": usage},
        {**delta(content="lo", finish="stop"), "usage": final},
        {"choices": [], "model": "m"},
    )
    assert whole.text == "Hello"
    assert whole.usage_metadata == {"input_tokens": 7, "output_tokens": 4, "total_tokens": 11}
    assert whole.response_metadata["model"] == "m"
    assert whole.response_metadata["model_name"] == "ep"
    assert whole.response_metadata["request_id"] == "r1"
    assert whole.response_metadata["finish_reason"] == "stop"


def test_log_probabilities_are_kept_with_their_piece() -> None:
    pieces = Pieces("ep")
    chunk = delta(content="Hi")
    chunk["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.1}]}
    made = pieces.chunk(ChatCompletionChunk.model_validate(chunk))
    assert made is not None
    assert made.generation_info == {"logprobs": {"content": [{"token": "Hi", "logprob": -0.1}]}}


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["", None, "{}", {}])
def test_a_call_without_arguments_has_none(arguments: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    assert message_of(reply(None, tool_calls=[call])).tool_calls[0]["args"] == {}


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "3"])
def test_a_call_with_arguments_that_are_no_object_is_kept_apart(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = message_of(reply(None, tool_calls=[call]))
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["args"] == arguments
    assert "not a JSON object" in str(message.invalid_tool_calls[0]["error"])


def test_other_scripts_in_arguments_stay_readable() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"name": "你好"})}}
    message = message_of(reply(None, tool_calls=[call]))
    assert message.tool_calls[0]["args"] == {"name": "你好"}
    assert "你好" in wire(message)[0]["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("usage", "metadata"),
    [
        ({"prompt_tokens": None, "completion_tokens": None}, None),
        (
            {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": None},
            {"input_tokens": 3, "output_tokens": 0, "total_tokens": 3},
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            {
                "input_tokens": 9,
                "output_tokens": 4,
                "total_tokens": 13,
                "input_token_details": {"cache_read": 5},
                "output_token_details": {"reasoning": 2},
            },
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 1,
            },
            {
                "input_tokens": 9,
                "output_tokens": 4,
                "total_tokens": 13,
                "input_token_details": {"cache_read": 5, "cache_creation": 1},
            },
        ),
    ],
)
def test_tokens_in_langchain_s_words(usage: dict[str, Any], metadata: Any) -> None:
    assert usage_metadata(Usage.model_validate(usage)) == metadata
