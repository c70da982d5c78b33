"""Agents: the Responses wire both ways, and on the local workspace's own agent."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from recorded import answering

from dbllm.langchain import ChatDatabricks
from dbllm.langchain.responses import wire_items, wire_params

THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "A cat."}]}
SAID = {
    "type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Meow."}],
}  # fmt: skip
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
GAVE = {"type": "function_call_output", "call_id": "c1", "output": "2"}
USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "input_tokens_details": {"cached_tokens": 2}}


@tool
def add(a: int) -> int:
    """Add one."""
    return a + 1


class Agent:
    """An agent that answers with these items, whole or as the events of a stream; keeps what it was sent."""

    def __init__(self, *items: dict[str, Any], deltas: bool = True, **more: Any) -> None:
        self.items, self.deltas, self.more = list(items), deltas, more
        self.bodies: list[Any] = []

    def chat(self, **fields: Any) -> ChatDatabricks:
        return ChatDatabricks(model="agent", use_responses_api=True, **answering(self._answer), **fields)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        whole = {"id": "resp_1", "object": "response", "model": "m", "status": "completed", "usage": USAGE, **self.more}
        whole["output"] = self.items
        if not body.get("stream"):
            return httpx.Response(200, headers={"x-request-id": "r1"}, json=whole)
        events: list[dict[str, Any]] = []
        for item in self.items:
            if item["type"] == "message" and self.deltas:
                for part in ("Me", "ow."):
                    events.append({"type": "response.output_text.delta", "item_id": item.get("id"), "delta": part})
            events.append({"type": "response.output_item.done", "item": item})
        events.append({"type": "response.completed", "response": whole})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return httpx.Response(200, headers={"content-type": "text/event-stream", "x-request-id": "r1"}, text=text)


def summed(chunks: Any) -> AIMessageChunk:
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole, AIMessageChunk)
    return whole


def test_an_answer_and_what_it_tells() -> None:
    agent = Agent(SAID, custom_outputs={"trace": 7})
    message = agent.chat(temperature=0.1, max_tokens=9).invoke("hi", custom_inputs={"user": 3})
    assert message.content == "Meow."
    assert message.usage_metadata == {
        "input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "input_token_details": {"cache_read": 2},
    }  # fmt: skip
    assert message.response_metadata["model_name"] == "agent"
    assert message.response_metadata["model"] == "m"
    assert message.response_metadata["status"] == "completed"
    assert message.custom_outputs == {"trace": 7}  # type: ignore[attr-defined]
    assert agent.bodies == [
        {
            "input": [{"role": "user", "content": "hi"}],
            "temperature": 0.1,
            "max_output_tokens": 9,
            "custom_inputs": {"user": 3},
        }
    ]


@pytest.mark.parametrize("deltas", [True, False], ids=["with deltas", "without deltas"])
def test_the_sum_of_a_stream_is_the_answer(deltas: bool) -> None:
    agent = Agent(THOUGHT, SAID, CALL, deltas=deltas, custom_outputs={"trace": 7})
    whole = summed(agent.chat().stream("hi"))
    message = agent.chat().invoke("hi")
    assert whole.text == message.text == "Meow."
    assert [block["type"] for block in whole.content_blocks] == ["reasoning", "text", "tool_call"]
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call"]
    assert whole.tool_calls == message.tool_calls
    assert whole.usage_metadata == message.usage_metadata
    assert whole.additional_kwargs == message.additional_kwargs == {"custom_outputs": {"trace": 7}}
    assert whole.response_metadata["model_name"] == "agent"


async def test_the_sum_of_an_awaited_stream_is_the_answer() -> None:
    agent = Agent(SAID)
    assert summed([chunk async for chunk in agent.chat().astream("hi")]).text == "Meow."
    assert (await agent.chat().ainvoke("hi")).text == "Meow."


def test_calls_that_the_agent_made_itself_are_not_asked_of_the_caller() -> None:
    for message in (Agent(CALL, GAVE, SAID).chat().invoke("hi"), summed(Agent(CALL, GAVE, SAID).chat().stream("hi"))):
        assert message.tool_calls == []
        assert message.text == "Meow."
        assert any(isinstance(block, dict) and block.get("type") == "function_call_output" for block in message.content)


def test_a_call_with_arguments_that_are_no_object_is_kept_apart() -> None:
    message = Agent({**CALL, "arguments": '{"a": '}).chat().invoke("hi")
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["args"] == '{"a": '


def test_tools_and_schemas_have_the_form_of_responses() -> None:
    agent = Agent(CALL)
    agent.chat().bind_tools([add], tool_choice="add").invoke("1")
    assert agent.bodies[0]["tools"][0]["name"] == "add"
    assert agent.bodies[0]["tools"][0]["type"] == "function"
    assert agent.bodies[0]["tool_choice"] == {"type": "function", "name": "add"}

    class Joke(BaseModel):
        """A joke."""

        setup: str

    agent = Agent({**SAID, "content": [{"type": "output_text", "text": '{"setup": "a"}'}]})
    assert agent.chat().with_structured_output(Joke, method="json_schema").invoke("!") == Joke(setup="a")
    assert agent.bodies[0]["text"]["format"]["type"] == "json_schema"
    assert agent.bodies[0]["text"]["format"]["name"] == "Joke"


def test_a_conversation_goes_back_item_by_item() -> None:
    message = Agent(THOUGHT, SAID, CALL).chat().invoke("hi")
    items = wire_items([SystemMessage("be brief"), HumanMessage("hi"), message, ToolMessage("2", tool_call_id="c1")])
    assert items == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "summary": THOUGHT["summary"], "id": "rs_1"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Meow."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        GAVE,
    ]
    own = Agent(CALL, GAVE, SAID).chat().invoke("hi")
    assert wire_items([own])[0] == GAVE


def test_long_ids_are_cut_to_what_endpoints_take_back() -> None:
    long = AIMessage([{"type": "reasoning", "summary": [], "id": "x" * 90}, {"type": "text", "text": "so"}])
    assert wire_items([long])[0]["id"] == "x" * 64


def test_pictures_and_files_have_the_form_of_responses() -> None:
    image = {"type": "image", "url": "https://x/y.png"}
    file = {"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "filename": "a.pdf"}
    (item,) = wire_items([HumanMessage(["look:", image, file])])
    assert item["content"] == [
        {"type": "input_text", "text": "look:"},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
    ]


def test_what_an_agent_has_no_form_for_is_refused() -> None:
    with pytest.raises(ValueError, match="stop"):
        wire_params({}, ["."])
    with pytest.raises(ValueError, match="n=2"):
        wire_params({"n": 2}, None)
    with pytest.raises(ValueError, match="RemoveMessage"):
        wire_items([RemoveMessage(id="1")])
    with pytest.raises(ValueError, match="stop"):
        Agent(SAID).chat(stop=["."]).invoke("hi")


# --- the workspace's own agent ----------------------------------------------------------------------------------------


@pytest.fixture
def agent(ambient: Any) -> ChatDatabricks:
    return ChatDatabricks(model="smollm2-agent", use_responses_api=True, max_tokens=20)


async def test_a_real_agent_answers_and_streams(agent: ChatDatabricks) -> None:
    message = await agent.ainvoke("hello", custom_inputs={"a": 1})
    assert message.text
    assert message.custom_outputs == {"a": 1}  # type: ignore[attr-defined]
    assert message.usage_metadata
    chunks = [chunk async for chunk in agent.astream("Tell me about rivers.")]
    whole = summed(chunks)
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert whole.usage_metadata
    assert len([block for block in whole.content_blocks if block["type"] == "text"]) == 1
    assert summed(agent.stream("Tell me about rivers.")).text


def test_a_real_agent_calls_a_tool_and_hears_what_it_gave(agent: ChatDatabricks) -> None:
    asked = HumanMessage("Use add with a=3.")
    call = agent.bind_tools([add], tool_choice="any").invoke([asked], temperature=0)
    assert call.tool_calls[0]["name"] == "add"
    streamed = summed(agent.bind_tools([add], tool_choice="any").stream([asked], temperature=0))
    assert streamed.tool_calls[0]["args"] == call.tool_calls[0]["args"]
    gave = add.invoke(call.tool_calls[0])
    assert agent.bind_tools([add]).invoke([asked, call, gave])
