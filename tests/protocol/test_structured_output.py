"""`response_model`: what is asked for, what comes back as one, and what is said when it does not fit."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from support.samples import chat_answer, piece, route, sent, sse
from typing_extensions import TypedDict

import dbllm


class Part(BaseModel):
    """One part."""

    name: str
    default: int = 3


class Joke(BaseModel):
    setup: str = Field(description="how it begins")
    kind: Literal["pun", "riddle"] = "pun"
    properties: list[Part] = []


@dataclass
class Point:
    x: int
    y: int = 0
    tags: list[str] = field(default_factory=list)


class Row(TypedDict):
    a: int
    b: str


TEXT = '{"setup": "a", "kind": "pun", "properties": [{"name": "p", "default": 1}]}'


async def test_the_schema_is_sent_strict_and_the_text_comes_back_as_the_model(make, wire):
    called = route(wire).respond(json=chat_answer(TEXT), headers={"x-request-id": "r-1"})
    async with make() as client:
        reply = await client.endpoint("ep").chat("a joke", response_model=Joke, temperature=0.1)
    assert reply.parsed == Joke(setup="a", kind="pun", properties=[Part(name="p", default=1)])
    assert (reply.text, reply.request_id) == (TEXT, "r-1")
    body = sent(called)
    assert body["temperature"] == 0.1
    form = body["response_format"]
    assert (form["type"], form["json_schema"]["name"], form["json_schema"]["strict"]) == ("json_schema", "Joke", True)
    schema = form["json_schema"]["schema"]
    assert schema["required"] == ["setup", "kind", "properties"]
    assert schema["properties"]["setup"]["description"] == "how it begins"
    part = schema["$defs"]["Part"]
    for described in (schema, part):
        assert described["additionalProperties"] is False
    assert part["required"] == ["name", "default"]
    assert "additionalProperties" not in schema["properties"]["properties"]


@pytest.mark.parametrize(
    ("model", "text", "value"),
    [(Point, '{"x": 1, "y": 2, "tags": []}', Point(1, 2)), (Row, '{"a": 1, "b": "x"}', {"a": 1, "b": "x"})],
    ids=["dataclass", "TypedDict"],
)
async def test_dataclasses_and_typed_dicts_do_as_well(make, wire, model, text, value):
    called = route(wire).respond(json=chat_answer(text))
    async with make() as client:
        reply = await client.endpoint("ep").chat("x", response_model=model)
    assert reply.parsed == value
    assert sent(called)["response_format"]["json_schema"]["name"] == model.__name__


async def test_without_a_model_nothing_is_asked_and_nothing_parsed(make, wire):
    called = route(wire).respond(json=chat_answer(TEXT))
    async with make() as client:
        reply = await client.endpoint("ep").chat("x")
    assert reply.parsed is None
    assert "response_format" not in sent(called)


async def test_a_response_format_of_the_users_own_is_sent_instead(make, wire):
    called = route(wire).respond(json=chat_answer(TEXT))
    async with make() as client:
        reply = await client.endpoint("ep").chat("x", response_model=Joke, response_format={"type": "json_object"})
    assert sent(called)["response_format"] == {"type": "json_object"}
    assert reply.parsed.setup == "a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a joke, in prose", "Invalid JSON"),
        ('{"kind": "pun"}', "setup: Field required"),
        ('{"setup": "a", "kind": "limerick"}', "kind: "),
        ("[]", "no Joke"),
        ("", "there is none"),
        (None, "there is none"),
    ],
)
async def test_a_text_that_does_not_fit_is_an_error_with_the_text_and_the_reason(make, wire, text, reason):
    answer = chat_answer(text)
    route(wire).respond(json=answer)
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="the text is no Joke") as caught:
            await client.endpoint("ep").chat("x", response_model=Joke)
    assert reason in caught.value.detail
    assert (text or "") in caught.value.detail.replace("\\'", "'")
    assert json.loads(caught.value.raw.body) == answer
    assert "max_tokens" not in caught.value.message


async def test_an_answer_that_was_cut_says_so(make, wire):
    answer = chat_answer('{"setup": "a')
    answer["choices"][0]["finish_reason"] = "length"
    route(wire).respond(json=answer)
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match=r"finish_reason length.*max_tokens="):
            await client.endpoint("ep").chat("x", response_model=Joke)


async def test_a_refusal_says_so(make, wire):
    answer = chat_answer(None)
    answer["choices"][0]["message"]["refusal"] = "I cannot joke."
    route(wire).respond(json=answer)
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="the model refused: I cannot joke"):
            await client.endpoint("ep").chat("x", response_model=Joke)


async def test_a_model_that_calls_a_tool_instead_is_no_failure(make, wire):
    answer = chat_answer(None)
    answer["choices"][0]["message"]["tool_calls"] = [{"id": "t", "function": {"name": "f", "arguments": "{}"}}]
    route(wire).respond(json=answer)
    async with make() as client:
        reply = await client.endpoint("ep").chat("x", response_model=Joke)
    assert (reply.parsed, reply.message.tool_calls[0].function.name) == (None, "f")


@pytest.mark.parametrize("model", [3, "Joke", object(), int, list[Joke], [Joke], lambda: None])
async def test_what_describes_no_object_is_refused_before_anything_is_sent(make, wire, model):
    async with make() as client:
        with pytest.raises(TypeError, match="response_model"):
            await client.endpoint("ep").chat("x", response_model=model)
    assert not wire.calls


async def test_a_model_that_names_itself_is_described_by_reference(make, wire):
    called = route(wire).respond(json=chat_answer('{"name": "a", "children": [{"name": "b", "children": []}]}'))
    async with make() as client:
        reply = await client.endpoint("ep").chat("x", response_model=Tree)
    assert reply.parsed.children[0].name == "b"
    assert sent(called)["response_format"]["json_schema"]["schema"]["$defs"]["Tree"]["additionalProperties"] is False


class Tree(BaseModel):
    name: str
    children: list[Tree]


async def test_a_streamed_answer_is_parsed_by_final(make, wire):
    called = route(wire).mock(return_value=sse(piece(TEXT[:9]), piece(TEXT[9:], "stop"), "[DONE]"))
    async with make() as client:
        reply = await client.endpoint("ep").stream_chat("x", response_model=Joke).final()
    assert reply.parsed.setup == "a"
    assert sent(called)["response_format"]["type"] == "json_schema"


async def test_a_parsed_answer_pickles_and_its_dump_is_the_wires(make, wire):
    route(wire).respond(json=chat_answer(TEXT))
    async with make() as client:
        reply: Any = await client.endpoint("ep").chat("x", response_model=Joke)
    assert "parsed" not in json.dumps(reply.model_dump())
    assert pickle.loads(pickle.dumps(reply)).parsed == reply.parsed
