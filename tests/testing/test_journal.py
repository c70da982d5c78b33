"""The journal: what was sent reads well, and an assertion that fails shows the difference."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from dbllm import Client
from dbllm.testing import ModelCall, ModelCalls, Scripted
from dbllm.testing.journal import compare


def failure(check: Callable[[], None]) -> str:
    with pytest.raises(AssertionError) as caught:
        check()
    return str(caught.value)


def test_a_call_shows_its_messages_and_fields(scripted: Scripted) -> None:
    scripted.reply("ok", times=None)
    with Client() as client:
        system = {"role": "system", "content": "Be brief."}
        client.endpoint("m").chat([system, {"role": "user", "content": "hi"}], temperature=0.1)
        client.endpoint("a").respond([{"role": "user", "content": [{"type": "input_text", "text": "two parts"}]}])
        client.driver_app(7777).complete("a prompt", stop=["."])
    first, second, third = scripted.calls
    assert first.messages == [system, {"role": "user", "content": "hi"}]
    assert (first.prompt, first.body["temperature"], first.stream, first.status) == ("hi", 0.1, False, 200)
    assert (second.prompt, third.prompt, third.body["stop"]) == ("two parts", "a prompt", ["."])
    assert third.messages == [{"role": "user", "content": "a prompt"}]
    assert repr(first) == "<Call 1 chat to 'm': 'hi'>"
    assert str(scripted.calls).splitlines()[1] == "  1. chat to 'm': 'hi' → 200"
    assert "authorization" in first.headers
    assert scripted.token not in repr(first.headers)


def test_assertions_hold_for_what_was_sent(scripted: Scripted) -> None:
    scripted.assert_not_called()
    scripted.reply("ok", times=None)
    with Client() as client:
        for prompt in ("one", "two", "two"):
            client.endpoint("m").chat(prompt, max_tokens=5)
    scripted.assert_called(prompt="one", endpoint="m", kind="chat", stream=False, max_tokens=5)
    scripted.assert_called_once(prompt=re.compile("^on"))
    scripted.assert_called(times=2, prompt="two", messages=[{"role": "user", "content": "two"}])
    scripted.assert_not_called(prompt="three")


def test_an_assertion_that_fails_shows_the_nearest_call_and_the_difference(scripted: Scripted) -> None:
    scripted.reply("ok", times=None)
    with Client() as client:
        client.endpoint("m").chat("one", temperature=0.5)
        client.endpoint("n").chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "two"}])
    said = failure(lambda: scripted.assert_called(endpoint="m", prompt="uno", temperature=0.5))
    assert "expected at least one call with endpoint='m', prompt='uno', temperature=0.5, found 0." in said
    assert "The nearest is call 1, which differs in:\n  prompt: expected 'uno', found 'one'" in said
    assert "  2. chat to 'n': 'two' → 200" in said
    messages = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "two"}]
    said = failure(lambda: scripted.assert_called(endpoint="n", messages=messages))
    assert "  messages[0].content: expected 'Be long.', found 'Be brief.'" in said
    assert "expected 1 call, found 2." in failure(lambda: scripted.assert_called_once())
    assert "expected 0 calls with prompt='two', found 1." in failure(lambda: scripted.assert_not_called(prompt="two"))
    assert "top_p: expected 1, found nothing" in failure(lambda: scripted.assert_called(top_p=1))


def test_no_call_and_a_call_that_is_not_there_get_a_sentence(scripted: Scripted) -> None:
    assert "no model was called" in failure(lambda: scripted.assert_called(prompt="x"))
    with pytest.raises(IndexError, match="there is no call 0: no model was called"):
        scripted.calls[0]
    scripted.reply("unused", endpoint="m")
    scripted.reply("twice", times=2)
    said = failure(scripted.assert_all_used)
    assert said == "answers that no call has used:\n  'unused', endpoint='m'\n  'twice' (2 of them)"


def test_differences_are_told_place_by_place() -> None:
    long, other = "a" * 500 + "x" + "b" * 500, "a" * 500 + "y" + "b" * 500
    cases: list[tuple[Any, Any, list[str]]] = [
        ({"a": 1}, {"a": 1}, []),
        ({"a": [1, 2]}, {"a": [1]}, ["a[1]: expected 2, found nothing"]),
        ({}, {"b": None}, ["b: expected nothing, found None"]),
        ({"a": 1}, {"a": True}, ["a: expected 1, found True"]),
        ({"a": {"b": "c"}}, {"a": "c"}, ['a: expected {"b": "c"}, found \'c\'']),
        (re.compile("x+"), "abc", [": expected 'x+' in it, found 'abc'"]),
    ]
    wrong = [(one, two, compare(one, two)) for one, two, said in cases if compare(one, two) != said]
    assert wrong == []
    (line,) = compare(long, other)
    assert "x" in line
    assert "y" in line
    assert len(line) < 300


def test_a_slice_and_the_calls_to_one_endpoint_are_calls_again() -> None:
    calls = ModelCalls(tuple(ModelCall(n, "chat", "ab"[n % 2], "POST", "/", {}, {}) for n in range(4)))
    assert [call.number for call in calls[1:3].to("b")] == [1]
    assert len(calls) == 4
