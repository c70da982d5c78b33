"""Anthropic's wire in front of the workspace: requests as chat requests, answers as messages, and both on a socket."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from dbllm.local.errors import Problem
from dbllm.local.gateway.messages import MessageStream, read_messages, whole_message

PATHS = {
    "/serving-endpoints/anthropic/v1/messages": "smollm2-chat",
    "/ai-gateway/anthropic/v1/messages": "system.ai.smollm2-chat",
}
HELLO = {"max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "Get the current weather in a city", "input_schema": SCHEMA}
WEATHER = {
    "max_tokens": 60,
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [TOOL],
}


def read(**fields: Any) -> dict[str, Any]:
    return read_messages({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **fields})


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, whose names are the types of their data."""
    read_events = []
    for frame in text.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        read_events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {read_events[-1]['type']}"
    return read_events


def test_a_request_becomes_a_chat_request_with_all_that_it_says() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I call"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no net", "is_error": True},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    chat = read(
        messages=turns,
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}],
        stop_sequences=["!"],
        temperature=0.5,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        thinking={"type": "disabled"},
        metadata={"user_id": "u"},
    )
    assert chat["messages"] == [
        {"role": "system", "content": "Be\nkind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I call"}],
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no net"},
        {"role": "user", "content": [{"type": "text", "text": "and?"}]},
    ]
    assert (chat["stop"], chat["temperature"], chat["parallel_tool_calls"]) == (["!"], 0.5, False)
    assert chat["tools"][0]["function"] == {"name": "weather", "description": TOOL["description"], "parameters": SCHEMA}
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert chat["response_format"]["json_schema"]["schema"] == SCHEMA
    choices = {kind: read(tools=[TOOL], tool_choice={"type": kind})["tool_choice"] for kind in ("auto", "any", "none")}
    assert choices == {"auto": "auto", "any": "required", "none": "none"}
    assert "tool_choice" not in read(tool_choice={"type": "any"}), "without tools there is nothing to choose"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"messages": []}, "at least one message"),
        ({"frequency_penalty": 1}, "frequency_penalty: Extra inputs are not permitted"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role: must be user or assistant"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: must be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0: must be a tool with"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"system": [{"text": 5}]}, "system: must be"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ],
)
def test_a_request_that_cannot_be_is_refused_with_the_place(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem) as caught:
        read(**fields)
    assert caught.value.status == 400
    assert words in caught.value.message


def test_an_answer_becomes_a_message_also_one_that_was_cut() -> None:
    def answer(reason: str, **message: object) -> dict[str, Any]:
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
        choice = {"message": message, "finish_reason": reason}
        return whole_message({"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": usage})

    text = answer("stop", content="Hi")
    assert (text["content"], text["stop_reason"]) == ([{"type": "text", "text": "Hi"}], "end_turn")
    assert text["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 2,
    }
    assert answer("length", content="Hi")["stop_reason"] == "max_tokens"
    cut = {"id": "c", "function": {"name": "weather", "arguments": '{"city": "Par'}}
    message = answer("length", content=None, tool_calls=[cut])
    assert message["content"] == [{"type": "tool_use", "id": "c", "name": "weather", "input": {}}]


def test_blocks_of_a_stream_start_grow_and_stop_one_after_the_other() -> None:
    stream = MessageStream()

    def chunk(reason: str | None = None, **delta: object) -> list[dict[str, Any]]:
        choice = {"delta": delta, "finish_reason": reason}
        return list(stream.feed({"id": "1", "model": "m", "choices": [choice]}))

    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": ""}}
    made = chunk(role="assistant", content="") + chunk(content="I ") + chunk(content="look") + chunk(tool_calls=[call])
    made += chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"city"'}}])
    made += chunk("tool_calls", tool_calls=[{"index": 0, "function": {"arguments": ': "Paris"}'}}]) + list(stream.end())
    assert [(event["type"], event.get("index")) for event in made] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert made[-2]["delta"]["stop_reason"] == "tool_use"
    broken = MessageStream()
    (event,) = broken.feed({"error": {"error_code": "INTERNAL_ERROR", "message": "It broke."}})
    assert event == {"type": "error", "error": {"type": "api_error", "message": "It broke."}}
    assert list(broken.end()) == []


def test_the_model_answers_on_both_paths_whole_and_streamed(http: httpx.Client) -> None:
    for path, model in PATHS.items():
        whole = http.post(path, json={**HELLO, "model": model}, headers={"anthropic-version": "2023-06-01"}).json()
        assert (whole["type"], whole["role"], whole["stop_reason"]) == ("message", "assistant", "max_tokens")
        assert whole["content"][0]["text"]
        assert whole["usage"]["output_tokens"] == 6
        streamed = events(http.post(path, json={**HELLO, "model": model, "stream": True}).text)
        assert [streamed[0]["type"], streamed[-1]["type"]] == ["message_start", "message_stop"]
        assert "".join(event["delta"]["text"] for event in streamed if event["type"] == "content_block_delta")
        assert streamed[-2]["usage"]["output_tokens"] == 6
        assert http.post(path, json={**HELLO, "model": "main.default.none"}).status_code == 404
        refused = http.post(path, json={**HELLO, "model": model, "max_tokens": 0})
        assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")


def test_a_tool_is_called_and_its_result_is_answered(http: httpx.Client) -> None:
    path, model = next(iter(PATHS.items()))
    called = http.post(path, json={**WEATHER, "model": model, "tool_choice": {"type": "any"}}).json()
    (use,) = called["content"]
    assert (called["stop_reason"], use["type"], use["name"]) == ("tool_use", "tool_use", "weather")
    assert isinstance(use["input"]["city"], str)
    asked = {**WEATHER, "model": model, "tool_choice": {"type": "tool", "name": "weather"}, "stream": True}
    streamed = events(http.post(path, json=asked).text)
    parts = (event["delta"]["partial_json"] for event in streamed if event["type"] == "content_block_delta")
    assert "city" in json.loads("".join(parts))
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "Sunny"}
    turns = [*WEATHER["messages"], {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]  # type: ignore[misc]
    answer = http.post(path, json={**WEATHER, "max_tokens": 8, "messages": turns, "model": model}).json()
    assert answer["content"][0]["text"]
