"""What a stream's pieces belong to, where ids and indexes say little or the wrong thing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dbllm import ChatCompletionChunk, ResponseEvent
from dbllm._protocol.streams import ChatPlaces, ItemPlaces, assemble_chat, assemble_response


def chunk(delta: dict[str, Any], index: int | None = 0, finish: str | None = None) -> ChatCompletionChunk:
    return ChatCompletionChunk.model_validate(
        {"choices": [{"index": index or 0, "delta": delta, "finish_reason": finish}]}
    )


def call(text: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {**more, "function": {"name": name, "arguments": text}}


def calls_of(*pieces: Any) -> list[tuple[Any, Any, Any]]:
    """(id, name, arguments) of the calls that pieces make; each is one call, or a list of those of one chunk."""
    chunks = [chunk({"tool_calls": piece if isinstance(piece, list) else [piece]}) for piece in pieces]
    settled = [one.model_copy(deep=True) for one in chunks]
    places = ChatPlaces()
    for one in settled:
        places.settle(one)
    found = []
    for given in (chunks, settled):  # what was settled once, says the same again
        message = assemble_chat(given).message
        found.append([(one.id, one.function.name, one.function.arguments) for one in message.tool_calls or ()])
    assert found[0] == found[1]
    return found[0]


A, B, C = ("c0", "f", '{"a": 0}'), ("c1", "f", '{"a": 1}'), ("c2", "g", "{}")
TWO = [A, B]
CASES: list[tuple[str, list[Any], list[Any]]] = [
    ("one index", [call(A[2], "f", id="c0", index=0), call(B[2], "f", id="c1", index=0)], TWO),
    ("no index", [call(A[2], "f", id="c0"), call(B[2], "f", id="c1")], TWO),
    ("a null index", [call(A[2], "f", id="c0", index=None), call(B[2], "f", id="c1", index=None)], TWO),
    ("one index, in pieces", [call("", "f", id="c0", index=0), call('{"a"', index=0), call(": 0}", index=0),
      call("", "f", id="c1", index=0), call('{"a": 1}', index=0)], TWO),
    ("no index, all in one chunk", [[call(A[2], "f", id="c0"), call(B[2], "f", id="c1")]], TWO),
    ("no index, in turns by id", [call('{"a"', "f", id="c0"), call('{"a"', "f", id="c1"), call(": 0}", id="c0"),
      call(": 1}", id="c1")], TWO),
    ("no index, in turns by place", [[call('{"a"', "f", id="c0"), call('{"a"', "f", id="c1")],
      [call(": 0}"), call(": 1}")]], TWO),
    ("no ids, names alone", [call(A[2], "f", index=0), call(C[2], "g", index=0)], [(None, *A[1:]), (None, *C[1:])]),
    ("no ids, one name", [call(A[2], "f", index=0), call(B[2], "f", index=0)], [(None, *A[1:]), (None, *B[1:])]),
    ("no ids, one name, in pieces", [call("", "f"), call(A[2]), call("", "f"), call(B[2])],
     [(None, *A[1:]), (None, *B[1:])]),
    ("ids that are none", [call(A[2], "f", id="null", index=0), call(B[2], "f", id="", index=0)],
     [(None, *A[1:]), (None, *B[1:])]),
    ("one id, other indexes", [call(A[2], "f", id="c0", index=0), call(B[2], "f", id="c0", index=1)],
     [A, ("c0", *B[1:])]),
    ("one id and one index", [call(A[2], "f", id="c0", index=0), call(B[2], "f", id="c0", index=0)],
     [A, ("c0", *B[1:])]),
    ("a new id on every piece", [call('{"a"', "f", id="c0", index=0), call(": ", id="c8", index=0),
      call("0}", id="c9", index=0)], [A]),
    ("a new id and the name on every piece", [call('{"a"', "f", id="c0", index=0), call(": ", "f", id="c8", index=0),
      call("0}", "f", id="c9", index=0)], [A]),
    ("id and name on every piece", [call('{"a"', "f", id="c0", index=0), call(": 0}", "f", id="c0", index=0)], [A]),
    ("an index for every piece", [call('{"a"', "f", id="c0", index=0), call(": 0}", id="c0", index=1)], [A]),
    ("empty on later pieces", [call('{"a"', "f", id="c0", index=0), call(": 0}", "", id="", index=0)], [A]),
    ("the id comes late", [call("", "f", index=0), call('{"a": 0}', id="c0", index=0)], [A]),
    ("the whole call again at the end", [call('{"a": ', "f", id="c0", index=0), call("0}", index=0),
      call('{"a": 0}', "f", id="c0", index=0)], [A]),
    ("indexes from 5", [call(A[2], "f", id="c0", index=5), call(B[2], "f", id="c1", index=7)], TWO),
    ("cut arguments", [call('{"a": ', "f", id="c0", index=0), call("{}", "g", id="c2", index=0)],
     [("c0", "f", '{"a": '), C]),
    ("no arguments", [call("", "f", id="c0", index=0), call("", "f", id="c1", index=0)],
     [("c0", "f", ""), ("c1", "f", "")]),
]  # fmt: skip


@pytest.mark.parametrize(("pieces", "calls"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_which_call_a_piece_belongs_to(pieces: list[Any], calls: list[Any]) -> None:
    assert calls_of(*pieces) == calls


@pytest.mark.parametrize("first", [0, 1, 195])
def test_choices_are_numbered_from_0_whatever_the_server_numbers_them_from(first: int) -> None:
    places, chunks = ChatPlaces(), [chunk({"content": "Hel"}, first), chunk({"content": "lo"}, first, "stop")]
    for one in chunks:
        places.settle(one)
    assert "".join(one.text for one in chunks) == "Hello"
    assert chunks[1].finish_reason == "stop"
    several = [chunk({"content": "b"}, first + 1), chunk({"content": "a"}, first)]
    whole = assemble_chat(several)
    assert (whole.text, whole.message.text) == ("a", "a")
    assert [choice.message.text for choice in whole.choices] == ["a", "b"]


THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A "}]}


def thought(text: str, **more: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text, **more}]}


@pytest.mark.parametrize(
    ("contents", "whole"),
    [
        ([[thought("A ")], [thought("cat.")], [thought("", signature="s")], "Me", "ow."],
         [thought("A cat.", signature="s"), {"type": "text", "text": "Meow."}]),
        ([[thought("A ", signature="s")], [thought("B", signature="t")]],
         [thought("A ", signature="s"), thought("B", signature="t")]),
        ([[{**thought("A "), "index": 0}], [{**thought("B"), "index": 0}], [{"type": "text", "text": "c", "index": 1}]],
         [thought("A B"), {"type": "text", "text": "c"}]),
        ([[thought("A")], "b", [thought("C")], "d"],
         [thought("A"), {"type": "text", "text": "b"}, thought("C"), {"type": "text", "text": "d"}]),
        ([[{"type": "image", "image_url": "x"}], [{"type": "image", "image_url": "y"}]],
         [{"type": "image", "image_url": "x"}, {"type": "image", "image_url": "y"}]),
    ],
)  # fmt: skip
def test_content_blocks_are_as_many_as_the_model_wrote(contents: list[Any], whole: Any) -> None:
    message = assemble_chat([chunk({"content": content}) for content in contents]).message
    assert message.content == whole
    assert message.as_wire()["content"] == whole  # it can be sent back


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text, **more}


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **more}


def done(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item, **more}


def added(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "item": {**item, "content": []}, **more}


LONG = {"item_id": "msg_" + "0" * 188}
EVENTS: list[tuple[str, list[dict[str, Any]], list[str]]] = [
    ("another id in the deltas", [delta("a", **LONG), delta("b", **LONG), done(message("ab", id="m"))], ["ab"]),
    ("a new id in each delta", [delta("a", item_id="x"), delta("b", item_id="y"), done(message("ab", id="m"))], ["ab"]),
    ("no ids", [delta("a"), done(message("a")), delta("b"), done(message("b"))], ["a", "b"]),
    ("one id for two", [done(message("a", id="m")), done(message("b", id="m"))], ["a", "b"]),
    ("one id for two, with deltas", [delta("a", item_id="m"), done(message("a", id="m")), delta("b", item_id="m"),
      done(message("b", id="m"))], ["a", "b"]),
    ("the second without its end", [delta("a"), done(message("a")), delta("b")], ["a", "b"]),
    ("one index for all", [delta("a", output_index=0), done(message("a"), output_index=0), delta("b", output_index=0),
      done(message("b"), output_index=0)], ["a", "b"]),
    ("in turns", [delta("a", item_id="m"), delta("b", item_id="n"), done(message("a", id="m")),
      done(message("b", id="n"))], ["a", "b"]),
    ("in turns, announced", [added(message("a", id="m")), added(message("b", id="n")), delta("a", item_id="m"),
      delta("b", item_id="n"), done(message("b", id="n")), done(message("a", id="m"))], ["b", "a"]),
    ("announced and told otherwise",
     [added(message("a", id="m")), delta("a", **LONG), done(message("a", id="m"))], ["a"]),
    ("one text twice", [delta("a"), done(message("a")), delta("a"), done(message("a"))], ["a", "a"]),
]  # fmt: skip


@pytest.mark.parametrize(("events", "texts"), [case[1:] for case in EVENTS], ids=[case[0] for case in EVENTS])
def test_which_item_an_event_is_about(events: list[dict[str, Any]], texts: list[str]) -> None:
    given = [ResponseEvent.model_validate(event) for event in events]
    assert [item.text for item in assemble_response(given).output] == texts
    last = {"type": "response.completed", "response": {"id": "r", "output": [message(texts[0])]}}
    whole = assemble_response([*given, ResponseEvent.model_validate(last)])
    assert sorted(item.text for item in whole.output) == sorted(texts)
    assert whole.id == "r"


def test_an_item_that_only_the_last_event_has_is_kept() -> None:
    call_item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    last = {"type": "response.completed", "response": {"output": [message("a"), call_item]}}
    events = [ResponseEvent.model_validate(event) for event in (delta("a"), last)]
    assert [item.type for item in assemble_response(events).output] == ["message", "function_call"]


def test_events_say_which_item_they_are_about() -> None:
    places = ItemPlaces()
    events = [delta("a"), done(message("a")), delta("b"), done({"type": "reasoning", "summary": []}), delta("c")]
    found = [places.settle(event) for event in map(ResponseEvent.model_validate, events)]
    assert found == [0, 0, 1, 2, 1]
    assert places.settle(ResponseEvent(type="response.created")) == -1


def test_a_list_of_texts_reads_as_text() -> None:
    whole = assemble_chat([chunk({"content": ["a", {"type": "text", "text": "b"}]})])
    assert whole.text == "ab"
    assert json.loads(whole.model_dump_json())["choices"][0]["message"]["content"][0] == "a"
