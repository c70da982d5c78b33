"""`tags=`: of the client, a handle and a call, in one header; and what replies tell beyond their text."""

from __future__ import annotations

import json

import pytest
from support.samples import HELLO, chat_answer, responses_answer, route, speaks, sse, vectors_answer

import dbllm

HEADER = "databricks-ai-gateway-request-tags"


def tags_of(called):
    return json.loads(called.calls.last.request.headers[HEADER])


async def test_tags_of_client_handle_and_call_are_one_and_the_nearer_wins(make, wire):
    called = route(wire).respond(json=chat_answer())
    async with make(tags={"project": "x", "team": "t"}) as client:
        await client.endpoint("ep").chat("hi")
        assert tags_of(called) == {"project": "x", "team": "t"}
        handle = client.endpoint("ep", tags={"project": "y"})
        await handle.chat("hi", tags={"run": "1", "team": "ü\n"})
        assert tags_of(called) == {"project": "y", "team": "ü\n", "run": "1"}
        await client.with_options(tags={"team": "z"}).endpoint("ep").chat("hi", headers={"x-a": "b"})
        assert tags_of(called) == {"project": "x", "team": "z"}
        assert called.calls.last.request.headers["x-a"] == "b"


async def test_every_verb_takes_tags_and_none_of_them_reaches_the_body(make, wire):
    speaks(wire, "llm/v1/chat")
    called = route(wire)
    verbs = {
        "chat": chat_answer(),
        "complete": chat_answer(),
        "generate": chat_answer(),
        "respond": responses_answer(),
        "embed": vectors_answer([1.0]),
    }
    async with make() as client:
        endpoint = client.endpoint("ep")
        for verb, answer in verbs.items():
            called.respond(json=answer)
            await getattr(endpoint, verb)("x", tags={"verb": verb})
            assert tags_of(called) == {"verb": verb}
            assert "tags" not in json.loads(called.calls.last.request.content)
        called.respond(json={"predictions": [1]})
        await endpoint.predict(inputs=[1], tags={"verb": "predict"})
        assert tags_of(called) == {"verb": "predict"}
        called.mock(side_effect=lambda _: sse(*HELLO))
        for verb in ("stream_chat", "stream_complete"):
            async with getattr(endpoint, verb)("x", tags={"verb": verb}) as stream:
                await stream.final()
            assert tags_of(called) == {"verb": verb}


@pytest.mark.parametrize("tags", ["project=x", "", 0, [], ["a"], {"a": 1}, {1: "a"}, {"a": None}, {"a": ["b"]}])
async def test_tags_that_are_no_strings_are_refused_before_anything_is_sent(make, wire, tags):
    async with make() as client:
        with pytest.raises(TypeError, match="tag"):
            await client.endpoint("ep").chat("x", tags=tags)
        with pytest.raises(TypeError, match="tag"):
            client.endpoint("ep", tags=tags)
        with pytest.raises(TypeError, match="argument tags= of the call"):
            await client.endpoint("ep", params={"tags": tags}).chat("x")
    with pytest.raises(TypeError, match="tag"):
        make(tags=tags)


@pytest.mark.parametrize(
    ("content", "extra", "reasoning"),
    [
        (
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {"type": "text", "text": "Hi"},
            ],
            {},
            "Hm.",
        ),
        ([{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "Hi"}], {}, "Hm."),
        ("Hi", {"reasoning_content": "Hm."}, "Hm."),
        ("Hi", {"reasoning": "Hm."}, "Hm."),
        ("Hi", {}, ""),
        ("Hi", {"reasoning": {"effort": "low"}}, ""),
    ],
)
async def test_reasoning_is_told_wherever_it_stands(make, wire, content, extra, reasoning):
    answer = chat_answer()
    answer["choices"][0]["message"] = {"role": "assistant", "content": content, **extra}
    route(wire).respond(json=answer)
    async with make() as client:
        reply = await client.endpoint("ep").chat("x")
    assert (reply.message.reasoning, reply.text) == (reasoning, "Hi")


@pytest.mark.parametrize(
    ("usage", "cached", "thought"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 4}}, 3, 4),
        ({"input_tokens_details": {"cached_tokens": 3}, "output_tokens_details": {"reasoning_tokens": 4}}, 3, 4),
        ({"cache_read_input_tokens": 3, "cache_creation_input_tokens": 9}, 3, None),
        ({"prompt_tokens_details": None, "completion_tokens_details": {}}, None, None),
        ({}, None, None),
    ],
)
def test_usage_tells_cached_and_reasoning_tokens(usage, cached, thought):
    read = dbllm.Usage.model_validate({"prompt_tokens": 10, **usage})
    assert (read.cached_tokens, read.reasoning_tokens) == (cached, thought)


async def test_the_served_model_is_told_by_the_header_or_the_body(make, wire):
    called = route(wire).respond(json=chat_answer(databricks_output={"served_model_name": "in-body"}))
    async with make() as client:
        assert (await client.endpoint("ep").chat("x")).served_model == "in-body"
        called.respond(json=chat_answer(), headers={"served-model-name": "in-header"})
        assert (await client.endpoint("ep").chat("x")).served_model == "in-header"


async def test_feature_serving_answers_with_outputs(make, wire):
    route(wire).respond(json={"outputs": [{"price": 3}], "more": 1})
    async with make() as client:
        reply = await client.endpoint("ep").predict(dataframe_records=[{"id": 1}])
    assert (reply.predictions, reply.first, reply.model_extra) == (
        [{"price": 3}],
        {"price": 3},
        {"outputs": [{"price": 3}], "more": 1},
    )
