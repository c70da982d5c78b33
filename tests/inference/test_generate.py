"""`generate`: a `Completion` from every kind of endpoint, three ways."""

from __future__ import annotations

import pickle

import pytest
from support.samples import chat_answer, completion_answer, responses_answer, route, sent, speaks

import dbllm

ONE_TOKEN = dbllm.Usage(prompt_tokens=1)
CHAT_USAGE = dbllm.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)


@pytest.mark.parametrize(
    ("task", "answer", "usage", "finish_reason"),
    [
        ("llm/v1/chat", chat_answer(), CHAT_USAGE, "stop"),
        ("llm/v1/completions", {**completion_answer(), "usage": {"prompt_tokens": 1}}, ONE_TOKEN, "stop"),
        (None, {"predictions": ["Hi there"]}, None, None),
        (
            "agent/v1/responses",
            {**responses_answer(), "status": "incomplete", "usage": {"input_tokens": 4, "output_tokens": 1}},
            dbllm.Usage(prompt_tokens=4, completion_tokens=1),
            "length",
        ),
        ("agent/v2/chat", {"messages": [{"role": "assistant", "content": "Hi there"}]}, None, None),
    ],
)  # fmt: skip
async def test_generate_tells_of_every_kind_of_endpoint_what_is_known(make, wire, task, answer, usage, finish_reason):
    speaks(wire, task)
    headers = {"x-request-id": "req-1", "served-model-name": "small-1"}
    called = route(wire).respond(json=answer, headers=headers)
    async with make() as client:
        stop = None if task == "agent/v1/responses" else ["."]  # that wire has none
        reply = await client.endpoint("ep").generate("How are you?", stop=stop, temperature=0.1)
    assert isinstance(reply, dbllm.Completion)
    assert (reply.text, reply.usage, reply.finish_reason) == ("Hi there", usage, finish_reason)
    assert (reply.request_id, reply.served_model, reply.attempts) == ("req-1", "small-1", 1)
    assert reply.raw.status == 200
    assert pickle.loads(pickle.dumps(reply)) == reply
    assert "temperature" in str(sent(called))


async def test_generate_on_a_driver_app_has_the_text_and_no_more(make, wire):
    wire.post("/driver-proxy-api/o/0/c-1/7777").respond(json="Hi there")
    async with make() as client:
        reply = await client.driver_app(7777, "c-1").generate("How are you?")
    assert (reply.text, reply.usage, reply.finish_reason, reply.served_model) == ("Hi there", None, None, None)


async def test_generate_uses_the_transforms(make, wire):
    speaks(wire, "llm/v1/chat")
    route(wire).respond(json=chat_answer("hi there"))
    async with make() as client:
        endpoint = client.endpoint(
            "ep", transform_output=lambda answer: answer["choices"][0]["message"]["content"].upper()
        )
        reply = await endpoint.generate("How are you?")
    assert (reply.text, reply.usage) == ("HI THERE", CHAT_USAGE)


async def test_generate_refuses_what_complete_refuses(make):
    async with make() as client:
        with pytest.raises(TypeError, match="bulk"):
            await client.endpoint("ep").generate(["one", "two"])
        with pytest.raises(ValueError, match="n=2"):
            await client.endpoint("ep").generate("one", n=2)


async def test_generate_says_that_an_answer_holds_no_text(make, wire):
    speaks(wire, "llm/v1/chat")
    route(wire).respond(json={"something": "else"})
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="no text"):
            await client.endpoint("ep").generate("one")
