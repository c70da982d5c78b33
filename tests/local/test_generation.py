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


@pytest.mark.parametrize(
    "about", [{"parameters": {"type": "object", "properties": {}}}, {}, {"parameters": None}, {"parameters": {}}]
)
def test_a_function_without_parameters_is_called_with_no_arguments(http: httpx.Client, about: dict[str, Any]) -> None:
    chat = {"messages": [QUESTION], "tools": [{"type": "function", "function": {"name": "now", **about}}]}
    agent = {"input": [QUESTION], "tools": [{"type": "function", "name": "now", "strict": True, **about}]}
    (choice,) = post(http, CHAT, **chat, tool_choice="required")["choices"]
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {}
    pieces = stream(http, CHAT, **chat, tool_choice="required")
    calls = [piece["choices"][0]["delta"]["tool_calls"][0]["function"] for piece in pieces]
    assert json.loads("".join(call["arguments"] for call in calls)) == {}
    (item,) = post(http, AGENT, **agent, tool_choice="required")["output"]
    assert (item["name"], json.loads(item["arguments"])) == ("now", {})
    assert json.loads(stream(http, AGENT, **agent, tool_choice="required")[-2]["item"]["arguments"]) == {}


# A loop as agents run it: a call is required each time, and one of the tools ends it.
ENDS: dict[str, Any] = {
    "name": "final_result",
    "description": "The final response which ends this conversation",
    "parameters": {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
}


def wanted_of(choice: str, wire: str) -> object:
    """A `tool_choice` that requires a call, in the form of a wire."""
    if choice == "required":
        return choice
    names = [{"name": one["name"]} for one in (WEATHER, ADD, ENDS)]
    if wire == "chat":
        listed = [{"type": "function", "function": one} for one in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": listed}}
    return {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", **one} for one in names]}


@pytest.mark.parametrize("choice", ["required", "allowed"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_chat_that_always_requires_a_call_comes_to_the_tool_that_ends_it(
    http: httpx.Client, choice: str, streamed: bool
) -> None:
    tools = [{"type": "function", "function": one} for one in (WEATHER, ADD, ENDS)]
    messages: list[dict[str, Any]] = [QUESTION]
    called: list[str] = []
    while len(called) < len(tools) and ENDS["name"] not in called:
        body = {"messages": messages, "tools": tools, "tool_choice": wanted_of(choice, "chat"), "max_tokens": 60}
        if streamed:
            deltas = [one["choices"][0]["delta"]["tool_calls"][0] for one in stream(http, CHAT, **body)]
            arguments = "".join(one["function"]["arguments"] for one in deltas)
            call = {**deltas[0], "function": {**deltas[0]["function"], "arguments": arguments}}
        else:
            call = post(http, CHAT, **body)["choices"][0]["message"]["tool_calls"][0]
        called.append(call["function"]["name"])
        result = {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "18 degrees"}]}
        messages += [{"role": "assistant", "content": None, "tool_calls": [call]}, result]
    assert (called[0], called[-1]) == ("get_weather", "final_result")
    assert len(set(called)) == len(called)


@pytest.mark.parametrize("choice", ["required", "allowed"])
def test_an_agent_that_always_has_to_call_comes_to_the_tool_that_ends_it(http: httpx.Client, choice: str) -> None:
    tools = [{"type": "function", **one} for one in (WEATHER, ADD, ENDS)]
    items: list[dict[str, Any]] = [QUESTION]
    called: list[str] = []
    while len(called) < len(tools) and ENDS["name"] not in called:
        (call,) = post(http, AGENT, input=items, tools=tools, tool_choice=wanted_of(choice, "responses"))["output"]
        called.append(call["name"])
        items += [call, {"type": "function_call_output", "call_id": call["call_id"], "output": "18 degrees"}]
    assert (called[0], called[-1]) == ("get_weather", "final_result")
    assert len(set(called)) == len(called)


def test_the_arguments_of_a_later_call_are_taken_from_earlier_results_too(http: httpx.Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Oslo"}'}}
    messages = [
        {"role": "user", "content": "How warm is it in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "The temperature is 18 degrees."},
    ]
    schema = {"type": "object", "properties": {"temperature": {"type": "integer"}}, "required": ["temperature"]}
    report = {"type": "function", "function": {"name": "report", "parameters": schema}}
    tools = [TOOLS[0], report]
    (choice,) = post(http, CHAT, messages=messages, tools=tools, tool_choice="required")["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("report", {"temperature": 18})


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


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


SAID = {"input": said("x")}


def test_an_agent_answers_in_items_and_gives_custom_inputs_back(http: httpx.Client) -> None:
    reply = post(
        http,
        AGENT,
        input=said("Where is the Eiffel Tower?"),
        temperature=0,
        max_output_tokens=12,
        custom_inputs={"a": 1},
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
    events = stream(http, AGENT, input=[QUESTION], tools=tools, temperature=0, max_output_tokens=30)
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
    wanted = {"name": "x", "schema": {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}}
    for shape in ({"type": "json_schema", **wanted}, {"type": "json_schema", "json_schema": wanted}):
        (item,) = post(http, AGENT, input=said("Pick a number."), text={"format": shape})["output"]
        assert json.loads(item["content"][0]["text"]) == {"n": 7}, shape
        events = stream(http, AGENT, input=said("Pick a number."), text={"format": shape})
        assert json.loads(events[-1]["response"]["output"][0]["content"][0]["text"]) == {"n": 7}, shape


def test_an_agent_drops_what_mlflow_drops(http: httpx.Client) -> None:
    dropped = {
        "prompt_cache_key": "x",
        "safety_identifier": "u",
        "max_tool_calls": 3,
        "previous_response_id": "resp_1",
        "include": ["reasoning.encrypted_content"],
        "mode": {"red": 1},
        "messages": "any",
        "stop": 7,
        "databricks_options": {"return_trace": True},
        "text": {"verbosity": "low", "format": None},
        "background": True,
        "store": False,
        "context": {"conversation_id": "c"},
    }
    body = {"input": said("hello"), "max_output_tokens": 1, **dropped}
    assert post(http, AGENT, **body)["status"] == "incomplete"
    assert stream(http, AGENT, **body)[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "missing required field 'input'"),
        ({"messages": []}, "takes 'input', not 'messages'"),
        ({"input": []}, "'input' must be a list of items"),
        ({"input": {"role": "user", "content": "x"}}, "'input' must be a list of items, not empty; got object"),
        ({"input": "hi"}, "Expected data of 'input' to be list, got str"),
        ({"input": [1]}, "'input[0]' must be an item"),
        ({"input": [{"role": "robot", "content": "x"}], "instructions": "y"}, "'input[0].role' must be one of"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "takes no images or files"),
        ({"input": [{"type": "mcp_call"}]}, "'input[0].type' must be message"),
        ({"tools": [{"type": "web_search"}], **SAID}, "'tools[0].type' must be function"),
        ({"max_output_tokens": 0, **SAID}, "'max_output_tokens' must be an integer"),
        ({"custom_inputs": 1, **SAID}, "'custom_inputs' must be an object"),
        ({"instructions": 1, **SAID}, "'instructions' must be a string"),
        ({"background": "yes", **SAID}, "'background' must be true or false, got string"),
        ({"store": 1, **SAID}, "'store' must be true or false, got number"),
        ({"metadata": {"a": 1}, **SAID}, "'metadata' must be an object of strings"),
        ({"user": 7, **SAID}, "'user' must be a string, got number"),
        ({"context": "c", **SAID}, "'context' must be an object, got string"),
        ({"text": {"format": {"type": "json_schema"}}, **SAID}, "'text.format"),
        ({"text": {"format": {"type": "json_schema", "json_schema": {"name": "x"}}}, **SAID}, "'text.format"),
        ({"text": "x", **SAID}, "'text' must be an object"),
    ],
)
def test_an_agents_request_is_refused_in_the_names_it_used(http: httpx.Client, body: Any, reason: str) -> None:
    assert reason in post(http, AGENT, 400, **body)["message"]


def test_a_text_is_input_on_the_path_of_openai_clients_alone(http: httpx.Client) -> None:
    served = AGENT.replace("/invocations", "/served-models/smollm2-agent-1/invocations")
    for path in (AGENT, served):
        refused = post(http, path, 400, input="hello")
        assert refused["error_code"] == "INVALID_PARAMETER_VALUE", path
        assert '"input": [{"role": "user"' in refused["message"], path


def test_the_path_of_openai_clients_reaches_the_agent(http: httpx.Client) -> None:
    reply = post(http, "/serving-endpoints/responses", model="smollm2-agent", input="hello", max_output_tokens=1)
    assert reply["status"] == "incomplete"
    assert reply["incomplete_details"] == {"reason": "max_output_tokens"}
