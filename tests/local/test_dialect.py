"""Databricks' requests in Anthropic's and Cohere's words. Pure; the answers are tested through the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from dbllm.local.errors import Problem
from dbllm.local.gateway.anthropic import Anthropic
from dbllm.local.gateway.cohere import Cohere
from dbllm.local.gateway.dialect import CHAT, COMPLETIONS, OpenAI

CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
OTHER = {"id": "t2", "type": "function", "function": {"name": "time", "arguments": ""}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hello"}


def claude(*messages: dict[str, Any], **fields: object) -> Any:
    return Anthropic().request(CHAT, "claude", {"messages": list(messages) or [USER], **fields})


def test_a_plain_chat_has_the_system_text_beside_it_and_a_limit() -> None:
    told = claude({"role": "system", "content": "Be brief."}, USER, stop="x", temperature=1.0, top_p=0.5, stream=True)
    assert told == {
        "model": "claude",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "max_tokens": 4096,
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "top_p": 0.5,
        "stream": True,
    }


def test_results_of_parallel_calls_stand_in_one_message_of_the_user_and_empty_texts_are_left_out() -> None:
    told = claude(
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL, OTHER]},
        {"role": "tool", "tool_call_id": "t1", "content": "cold"},
        {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "noon"}]},
    )
    assert told["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "t2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "cold"},
                {"type": "tool_result", "tool_use_id": "t2", "content": "noon"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"}),
    ],
)
def test_tools_and_every_choice_of_them(choice: object, told: dict[str, Any]) -> None:
    body = claude(USER, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    assert body["tools"] == [{"name": "weather", "description": "d", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == told | {"disable_parallel_tool_use": True}


def test_images_are_sent_by_address_or_as_data() -> None:
    data, address = "data:image/png;base64,aGk=", "https://x.example.com/a.png"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (data, address)]
    told = claude({"role": "user", "content": parts})["messages"][0]["content"]
    assert [part["source"] for part in told] == [
        {"type": "base64", "media_type": "image/png", "data": "aGk="},
        {"type": "url", "url": address},
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 2}, "'n' must be 1"),
        ({"frequency_penalty": 1}, "'frequency_penalty' is not supported"),
        ({"tools": {"a": 1}}, "must be lists"),
        ({"tools": [{"type": "web_search"}]}, "must be a function with a name"),
        ({"tools": [TOOL], "tool_choice": "weather"}, "'tool_choice' must be"),
        ({"messages": [{"role": "poet", "content": "x"}]}, "the role 'poet'"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "'input_audio' cannot be sent"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "a tool call must have"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}]},
         "a tool call must have"),
    ],
)  # fmt: skip
def test_what_claude_cannot_be_told_is_400(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(Problem, match=reason) as caught:
        Anthropic().request(CHAT, "claude", {"messages": [USER], **fields})
    assert caught.value.status == 400


def test_cohere_gets_its_own_words() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    fields = {"top_k": 3, "tools": [TOOL], "tool_choice": "required", "response_format": schema, "max_tokens": 5}
    assert Cohere().request(CHAT, "command", {"messages": [USER], **fields}) == {
        "model": "command",
        "messages": [USER],
        "k": 3,
        "max_tokens": 5,
        "tools": [TOOL],
        "tool_choice": "REQUIRED",
        "response_format": {"type": "json_object", "json_schema": {"type": "object"}},
    }


def test_a_completion_for_cohere_is_a_chat_and_takes_one_prompt() -> None:
    assert Cohere().request(COMPLETIONS, "command", {"prompt": ["a"]})["messages"] == [{"role": "user", "content": "a"}]
    with pytest.raises(Problem, match="one prompt"):
        Cohere().request(COMPLETIONS, "command", {"prompt": ["a", "b"]})


def test_openais_words_are_databricks_words() -> None:
    fields = {"messages": [USER], "anything": {"new": 1}}
    assert OpenAI().request(CHAT, "gpt-4", fields) == {"model": "gpt-4", **fields}


@pytest.mark.parametrize("about", [{}, {"parameters": None}, {"parameters": {}}])
def test_a_function_without_parameters_takes_none_at_every_provider(about: dict[str, object]) -> None:
    tools = [{"type": "function", "function": {"name": "now", **about}}, TOOL]
    none = {"type": "object", "properties": {}}
    assert claude(USER, tools=tools)["tools"][0] == {"name": "now", "input_schema": none}
    asked: Any = Cohere().request(CHAT, "command", {"messages": [USER], "tools": tools})
    assert asked["tools"] == [{"type": "function", "function": {"name": "now", "parameters": none}}, TOOL]
    assert OpenAI().request(CHAT, "gpt", {"messages": [USER], "tools": tools}) == {
        "model": "gpt", "messages": [USER], "tools": tools
    }  # fmt: skip
