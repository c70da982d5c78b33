"""Tool calls, structured output and agents, over HTTP against the real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

CHAT = "/serving-endpoints/smollm2-chat/invocations"
COMPLETIONS = "/serving-endpoints/smollm2-completions/invocations"
AGENT = "/serving-endpoints/smollm2-agent/invocations"
WEATHER_SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
ADD_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
WEATHER: dict[str, Any] = {
    "name": "get_weather", "description": "Get the current weather in a given location", "parameters": WEATHER_SCHEMA
}  # fmt: skip
ADD: dict[str, Any] = {"name": "add", "description": "Add two integers", "parameters": ADD_SCHEMA}
TOOLS = [{"type": "function", "function": function} for function in (WEATHER, ADD)]
QUESTION = {"role": "user", "content": "What is the weather in San Francisco, CA?"}


def post(http: httpx.Client, path: str, status: int = 200, **body: object) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def stream(http: httpx.Client, path: str, **body: object) -> list[Any]:
    def frames(answer: httpx.Response) -> Iterator[str]:
        for line in answer.iter_lines():
            if line:
                assert line.startswith("data: ")
                yield line.removeprefix("data: ")

    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        got = list(frames(answer))
    assert got[-1] == "[DONE]"
    return [json.loads(frame) for frame in got[:-1]]


# --- tools


def test_the_model_calls_the_tool_that_the_message_asks_for(http: httpx.Client) -> None:
    (choice,) = post(http, CHAT, messages=[QUESTION], tools=TOOLS)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"location": "San Francisco, CA"}


def test_small_talk_gets_a_text_although_there_are_tools(http: httpx.Client) -> None:
    (choice,) = post(http, CHAT, messages=[{"role": "user", "content": "Hello!"}], tools=TOOLS, max_tokens=5)["choices"]
    assert choice["message"]["content"]
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
@pytest.mark.parametrize("temperature", [0, 2])
def test_a_call_that_must_be_made_has_arguments_that_fit(http: httpx.Client, choice: Any, temperature: int) -> None:
    body = {"messages": [{"role": "user", "content": "Blue."}], "tools": TOOLS, "tool_choice": choice}
    reply = post(http, CHAT, **body, temperature=temperature, n=2)
    calls = [one["message"]["tool_calls"][0] for one in reply["choices"]]
    assert len({call["id"] for call in calls}) == 2
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "add":
            assert {type(arguments[name]) for name in ("a", "b")} == {int}
        else:
            assert choice == "required"
            assert isinstance(arguments["location"], str)


def test_a_tool_without_arguments_is_called_with_none(http: httpx.Client) -> None:
    now = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    (choice,) = post(http, CHAT, messages=[QUESTION], tools=[now], tool_choice="required")["choices"]
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {}


def test_a_call_comes_in_deltas_that_add_up_to_the_unary_one(http: httpx.Client) -> None:
    chunks = stream(http, CHAT, messages=[QUESTION], tools=TOOLS, stream_options={"include_usage": True})
    *deltas, usage = chunks
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in deltas]
    assert {call["index"] for call in calls} == {0}
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"]["name"] == "get_weather"
    assert not any("id" in call or "name" in call["function"] for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"location": "San Francisco, CA"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in deltas][-1] == "tool_calls"
    assert len(deltas) > 2
    assert all(chunk["usage"] is None for chunk in deltas)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 3


def test_a_call_that_is_cut_says_so(http: httpx.Client) -> None:
    (choice,) = post(http, CHAT, messages=[QUESTION], tools=TOOLS, tool_choice="required", max_tokens=2)["choices"]
    assert choice["finish_reason"] == "length"


def test_with_the_result_of_the_tool_the_answer_is_a_text(http: httpx.Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Paris"}'}}
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny, 21 degrees"},
    ]
    (choice,) = post(http, CHAT, messages=messages, tools=TOOLS, temperature=0, max_tokens=30)["choices"]
    assert "sunny" in choice["message"]["content"]


# --- structured output


def test_an_answer_that_is_cut_by_max_tokens_says_so(http: httpx.Client) -> None:
    body = {"messages": [QUESTION], "response_format": {"type": "json_object"}, "max_tokens": 3}
    (choice,) = post(http, CHAT, **body)["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_schema_that_cannot_be_enforced_is_400_before_the_first_byte(http: httpx.Client, streamed: bool) -> None:
    wanted = {"name": "x", "schema": {"type": "string", "pattern": "(?<=a)b"}}
    body = {"messages": [QUESTION], "response_format": {"type": "json_schema", "json_schema": wanted}}
    assert "cannot be enforced" in post(http, CHAT, 400, **body, stream=streamed)["message"]


# --- agents


def test_an_agent_answers_in_items_and_gives_custom_inputs_back(http: httpx.Client) -> None:
    reply = post(
        http, AGENT, input="Where is the Eiffel Tower?", temperature=0, max_output_tokens=12, custom_inputs={"a": 1}
    )
    (item,) = reply["output"]
    assert (item["type"], item["role"]) == ("message", "assistant")
    assert "Paris" in item["content"][0]["text"]
    assert reply["custom_outputs"] == {"a": 1}
    assert reply["usage"]["total_tokens"] == reply["usage"]["input_tokens"] + reply["usage"]["output_tokens"]
    assert reply["object"] == "response"


def test_an_agent_calls_a_tool_and_answers_with_its_result(http: httpx.Client) -> None:
    tools = [{"type": "function", **WEATHER}]
    question = {"role": "user", "content": [{"type": "input_text", "text": QUESTION["content"]}]}
    (call,) = post(http, AGENT, input=[question], tools=tools)["output"]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert json.loads(call["arguments"]) == {"location": "San Francisco, CA"}
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny, 21 degrees"}
    (item,) = post(http, AGENT, input=[question, call, result], tools=tools, temperature=0, max_output_tokens=40)[
        "output"
    ]
    assert "sunny" in item["content"][0]["text"]


@pytest.mark.parametrize("tools", [[], [{"type": "function", **WEATHER}]], ids=["text", "call"])
def test_the_events_of_an_agent_are_numbered_and_end_with_the_whole_response(http: httpx.Client, tools: Any) -> None:
    events = stream(http, AGENT, input=QUESTION["content"], tools=tools, temperature=0, max_output_tokens=30)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-2:] in (["response.output_item.done", f"response.{word}"] for word in ("completed", "incomplete"))
    delta = "response.function_call_arguments.delta" if tools else "response.output_text.delta"
    text = "".join(event["delta"] for event in events if event["type"] == delta)
    whole = events[-1]["response"]
    item = whole["output"][0]
    assert text == (item["arguments"] if tools else item["content"][0]["text"])
    assert text
    assert whole["usage"]["output_tokens"] > 0
    assert events[0]["response"]["status"] == "in_progress"


def test_an_agent_answers_in_a_schema(http: httpx.Client) -> None:
    wanted = {
        "type": "json_schema",
        "name": "x",
        "schema": {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]},
    }
    (item,) = post(http, AGENT, input="Pick a number.", text={"format": wanted})["output"]
    assert json.loads(item["content"][0]["text"]) == {"n": 7}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "missing required field 'input'"),
        ({"messages": []}, "takes 'input', not 'messages'"),
        ({"input": []}, "'input' must be a string or a list of items"),
        ({"input": [1]}, "'input[0]' must be an item"),
        ({"input": [{"role": "robot", "content": "x"}], "instructions": "y"}, "'input[0].role' must be one of"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "takes no images or files"),
        ({"input": [{"type": "mcp_call"}]}, "'input[0].type' must be message"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "'tools[0].type' must be function"),
        ({"input": "x", "max_output_tokens": 0}, "'max_output_tokens' must be an integer"),
        ({"input": "x", "custom_inputs": 1}, "'custom_inputs' must be an object"),
        ({"input": "x", "instructions": 1}, "'instructions' must be a string"),
        ({"input": "x", "previous_response_id": "r"}, "'previous_response_id' is not supported"),
        ({"input": "x", "colour": "red"}, 'unknown field "colour"'),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "'text.format"),
    ],
)
def test_an_agents_request_is_refused_in_the_names_it_used(http: httpx.Client, body: Any, reason: str) -> None:
    assert reason in post(http, AGENT, 400, **body)["message"]


def test_the_path_of_openai_clients_reaches_the_agent(http: httpx.Client) -> None:
    reply = post(http, "/serving-endpoints/responses", model="smollm2-agent", input="hello", max_output_tokens=1)
    assert reply["status"] == "incomplete"
    assert reply["incomplete_details"] == {"reason": "max_output_tokens"}
