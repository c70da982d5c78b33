"""Agents: `respond` and its stream, and the older kinds that speak messages."""

from __future__ import annotations

from typing import Any

import pytest
from support.samples import route, sent, speaks, sse

import dbllm

USER = [{"role": "user", "content": "hi"}]
TEXT = {"type": "message", "id": "m1", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
TOOL = {"type": "function_call", "id": "f1", "call_id": "c1", "name": "now", "arguments": "{}"}
TOKENS = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5, "output_tokens_details": {"reasoning_tokens": 1}}
ANSWER: dict[str, Any] = {
    "object": "response",
    "id": "r1",
    "output": [{"type": "reasoning", "summary": []}, TOOL, TEXT],
    "usage": TOKENS,
    "error": None,
    "custom_outputs": {"steps": 2},
    "databricks_output": {"databricks_request_id": "d1"},
}


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "m1", "delta": text}


def done(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item, **more}


COMPLETED = {"type": "response.completed", "response": ANSWER}


async def test_respond_sends_a_list_of_items_and_gives_text_output_and_custom_outputs(make, wire):
    called = route(wire).respond(json=ANSWER, headers={"x-request-id": "req-7"})
    async with make() as client:
        endpoint = client.endpoint("ep", params={"temperature": 0.1})
        reply = await endpoint.respond("hi", custom_inputs={"a": 1}, max_output_tokens=9)
    assert sent(called) == {"input": USER, "custom_inputs": {"a": 1}, "temperature": 0.1, "max_output_tokens": 9}
    assert (reply.text, reply.custom_outputs, reply.request_id) == ("Hello", {"steps": 2}, "req-7")
    assert [item.type for item in reply.output] == ["reasoning", "function_call", "message"]
    assert (reply.output[1].name, reply.output[1].arguments, reply.output[1].call_id) == ("now", "{}", "c1")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 2, 5)


async def test_nothing_of_a_response_is_lost(make, wire):
    route(wire).respond(json=ANSWER)
    async with make() as client:
        reply = await client.endpoint("ep").respond("hi")
    dumped = reply.model_dump(exclude_unset=True)
    assert {key: dumped[key] for key in ANSWER if key != "usage"} == {k: v for k, v in ANSWER.items() if k != "usage"}
    assert dumped["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
    }


async def test_what_an_agent_put_out_can_be_sent_back_with_a_tools_output(make, wire):
    called = route(wire).respond(json=ANSWER)
    async with make() as client:
        endpoint = client.endpoint("ep")
        reply = await endpoint.respond([dbllm.Message(role="user", content="hi")])
        result = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
        await endpoint.respond([*USER, *reply.output, result])
    assert sent(called, 0) == {"input": USER}
    assert sent(called) == {"input": [*USER, *ANSWER["output"], result]}


@pytest.mark.parametrize("items", [3, [3], [{"content": "x"}], b"x", None])
async def test_what_is_no_item_is_refused_by_the_verbs_name(make, items):
    async with make() as client:
        with pytest.raises(TypeError, match=r"respond\(\)|messages\[0\]"):
            await client.endpoint("ep").respond(items)


async def test_a_failure_told_in_a_200_is_an_error_with_its_reason(make, wire):
    route(wire).respond(json={"output": [], "error": {"code": "tool_error", "message": "the tool broke"}})
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="the tool broke") as caught:
            await client.endpoint("ep").respond("hi")
    assert b"tool_error" in caught.value.raw.body


async def test_respond_on_a_chat_endpoint_says_chat(make, wire):
    speaks(wire, "llm/v1/chat")
    route(wire).respond(400, json={"message": "no"})
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError, match=r"complete\(\) or chat\(\)"):
            await client.endpoint("ep").respond("hi")


@pytest.mark.parametrize(
    "events",
    [
        (delta("Hel"), delta("lo"), done(TOOL), done(TEXT), COMPLETED),
        (delta("Hel"), delta("lo"), {**COMPLETED, "type": "responses.completed"}, "[DONE]"),
        (
            {"type": "response.created", "response": {"id": "r1", "output": [], "usage": None}},
            delta("Hello"),
            {"type": "response.function_call_arguments.delta", "delta": "{}"},
            COMPLETED,
        ),
    ],
    ids=["with the items", "misspelt", "from the first event on"],
)
async def test_a_streamed_response_gives_typed_events_and_the_same_answer(make, wire, events):
    called = route(wire).mock(return_value=sse(*events))
    async with make() as client, client.endpoint("ep").stream_respond("hi") as stream:
        seen = [event async for event in stream]
        reply = await stream.final()
        assert (stream.text, stream.usage.total_tokens, stream.finish_reason) == ("Hello", 5, "completed")
    assert sent(called) == {"input": USER, "stream": True}
    assert [event.type for event in seen] == [event["type"] for event in events if isinstance(event, dict)]
    assert "".join(event.text for event in seen) == "Hello"
    assert (reply.text, reply.custom_outputs, reply.usage.total_tokens) == ("Hello", {"steps": 2}, 5)
    assert reply.model_dump() == dbllm.Response.model_validate(ANSWER).model_dump()
    assert reply.request_id == "req-1"


async def test_an_agent_without_a_last_event_is_put_together_from_its_items(make, wire):
    events = (delta("Hel"), delta("lo"), done(TOOL), done(TEXT, custom_outputs={"a": 1}), "[DONE]")
    route(wire).mock(return_value=sse(*events))
    async with make() as client:
        reply = await client.endpoint("ep").stream_respond("hi").final()
    assert (reply.text, reply.custom_outputs) == ("Hello", {"a": 1})
    assert [item.model_dump(exclude_unset=True) for item in reply.output] == [TOOL, TEXT]


async def test_an_agent_that_sends_nothing_but_deltas_still_has_a_message(make, wire):
    route(wire).mock(return_value=sse(delta("Hel"), delta("lo"), "[DONE]"))
    async with make() as client:
        reply = await client.endpoint("ep").stream_respond("hi").final()
    assert (reply.text, reply.output[0].role) == ("Hello", "assistant")


async def test_an_agent_that_does_not_stream_gives_one_event(make, wire):
    route(wire).respond(json=ANSWER)
    async with make() as client, client.endpoint("ep").stream_respond("hi") as stream:
        assert [event.type async for event in stream] == ["response.completed"]
        assert (await stream.final()).text == "Hello"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "tool_error", "message": "the tool broke", "sequence_number": 3},
        {"type": "response.failed", "response": {"error": {"code": "tool_error", "message": "the tool broke"}}},
    ],
)
async def test_an_error_event_interrupts_a_response_with_what_had_come(make, wire, event):
    route(wire).mock(return_value=sse(delta("Hel"), event, "[DONE]"))
    async with make() as client:
        with pytest.raises(dbllm.StreamInterruptedError, match="the tool broke") as caught:
            await client.endpoint("ep").stream_respond("hi").final()
    assert (caught.value.partial_text, caught.value.error_code) == ("Hel", "tool_error")


async def test_a_response_cut_before_its_end_is_never_a_success(make, wire):
    route(wire).mock(return_value=sse(delta("Hel"), done(TEXT)))
    async with make() as client:
        with pytest.raises(dbllm.StreamInterruptedError) as caught:
            await client.endpoint("ep").stream_respond("hi").final()
    assert caught.value.partial_text == "Hel"


@pytest.mark.parametrize("data", ["no json", "[1]", '{"delta": "x"}'])
async def test_what_is_no_event_of_a_response_is_told(make, wire, data):
    route(wire).mock(return_value=sse(delta("a"), data))
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="no response event"):
            await client.endpoint("ep").stream_respond("hi").final()


# --- agent/v2/chat ----------------------------------------------------------------------------------------------------

SAID = {"role": "assistant", "content": "Hello", "id": "m2"}
AGENT = {"messages": [{"role": "assistant", "content": "thinking", "id": "m1"}, SAID], "custom_outputs": {"a": 1}}


async def test_chat_on_an_agent_of_messages_gives_its_last_message_and_keeps_the_others(make, wire):
    called = route(wire).respond(json=AGENT)
    async with make() as client:
        reply = await client.endpoint("ep").chat("hi", custom_inputs={"b": 2}, context={"user_id": "u"})
    assert sent(called) == {"messages": USER, "custom_inputs": {"b": 2}, "context": {"user_id": "u"}}
    assert (reply.text, reply.message.model_dump(exclude_unset=True)) == ("Hello", SAID)
    assert reply.model_extra == AGENT


async def test_a_stream_of_an_agent_of_messages_gives_its_text(make, wire):
    pieces = [{"delta": {**SAID, "content": text}} for text in ("Hel", "lo")]
    route(wire).mock(return_value=sse(*pieces, "[DONE]"))
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        assert [chunk.text async for chunk in stream] == ["Hel", "lo"]
        assert (await stream.final()).text == "Hello"


async def test_an_agent_of_messages_that_does_not_stream_gives_one_chunk(make, wire):
    route(wire).respond(json=AGENT)
    async with make() as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"
