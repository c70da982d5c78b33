"""The endpoint of task agent/v2/chat: messages in, messages out."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

PATH = "/serving-endpoints/smollm2-chat-agent/invocations"
HELLO = {"messages": [{"role": "user", "content": "hello", "id": "1"}], "custom_inputs": {"max_tokens": 5, "k": [1]}}


def post(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post(PATH, json={**HELLO, **body})


def test_the_answer_is_a_message_with_an_id_and_repeats_the_custom_inputs(http: httpx.Client) -> None:
    answer = post(http, context={"conversation_id": "c"}, databricks_options={"return_trace": False}).json()
    (message,) = answer["messages"]
    assert message["role"] == "assistant"
    assert message["content"]
    assert message["id"]
    assert answer["custom_outputs"] == HELLO["custom_inputs"]
    assert answer["finish_reason"] in ("length", "stop")  # a model may end before its limit
    assert 1 <= answer["usage"]["completion_tokens"] <= 5
    described = http.get("/api/2.0/serving-endpoints/smollm2-chat-agent").json()
    assert described["task"] == "agent/v2/chat"


def test_chunks_carry_the_parts_of_one_message(http: httpx.Client) -> None:
    *frames, last = post(http, stream=True).text.split("\n\n")[:-1]
    assert last == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert len({chunk["delta"]["id"] for chunk in chunks}) == 1
    assert "".join(chunk["delta"]["content"] for chunk in chunks)
    reasons = [chunk.get("finish_reason") for chunk in chunks if "finish_reason" in chunk]
    assert reasons in (["length"], ["stop"])  # a model may end before its limit
    assert chunks[-1]["custom_outputs"] == HELLO["custom_inputs"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": None, "input": "hello"}, "takes 'messages', not 'input'"),
        ({"messages": None}, "missing required field 'messages'"),
        ({"messages": []}, "not empty"),
        ({"messages": ["hello"]}, "'messages[0]' must be an object"),
        ({"context": "c"}, "field 'context' must be an object"),
        ({"custom_inputs": [1]}, "field 'custom_inputs' must be an object"),
        ({"stream": "yes"}, "field 'stream' must be true or false"),
        ({"custom_inputs": {"max_tokens": -1}}, "field 'max_tokens'"),
    ],
)
def test_what_it_cannot_read_is_refused(http: httpx.Client, body: dict[str, Any], words: str) -> None:
    answer = post(http, **body)
    assert answer.status_code == 400
    assert words in answer.json()["message"]
