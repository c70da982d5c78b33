"""`Client` is `AsyncClient` without await: the same names, arguments, results and errors."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest
from support.samples import HELLO, chat_answer, route, sse

import dbllm

PAIRS = [
    (dbllm.AsyncClient, dbllm.Client),
    (dbllm.AsyncEndpoint, dbllm.Endpoint),
    (dbllm.AsyncDriverApp, dbllm.DriverApp),
    (dbllm.AsyncStream, dbllm.Stream),
]
RENAMED = {"aclose": "close"}


def public(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("of_async", "of_sync"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_modes_have_the_same_public_names(of_async: type, of_sync: type):
    assert {RENAMED.get(name, name) for name in public(of_async)} == set(public(of_sync))


@pytest.mark.parametrize(("of_async", "of_sync"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_modes_take_the_same_arguments(of_async: type, of_sync: type):
    for name, verb in public(of_async).items():
        if callable(verb):
            theirs, ours = inspect.signature(verb), inspect.signature(getattr(of_sync, RENAMED.get(name, name)))
            assert list(ours.parameters.values()) == list(theirs.parameters.values()), name


def test_both_clients_are_made_with_the_same_arguments():
    made = [inspect.signature(kind.__init__) for kind in PAIRS[0]]
    assert list(made[0].parameters.values()) == list(made[1].parameters.values())


def test_no_verb_of_the_sync_kind_returns_something_to_await(wire):
    route(wire).respond(json=chat_answer())
    with dbllm.Client("https://workspace.example.com", "t") as client:
        reply = client.endpoint("ep").chat("hi")
        assert isinstance(reply, dbllm.ChatCompletion)
        assert client.endpoint("ep", task="chat").complete("hi") == "Hi there"


def test_a_sync_stream_is_read_with_for_and_closed_by_with(wire):
    route(wire).mock(return_value=sse(*HELLO))
    with dbllm.Client("https://workspace.example.com", "t") as client:
        with client.endpoint("ep").stream_chat("hi") as stream:
            assert isinstance(stream, dbllm.Stream)
            assert [chunk.text for chunk in stream] == ["Hel", "lo"]
            with pytest.raises(RuntimeError, match="read to its end"):
                list(stream)
        stream.close()
        assert stream.final().text == "Hello"


def test_sync_verbs_keep_their_names_and_docstrings():
    for name in ("complete", "chat", "embed", "predict"):
        verb, core = getattr(dbllm.Endpoint, name), getattr(dbllm.AsyncEndpoint, name)
        assert (verb.__name__, verb.__doc__) == (name, core.__doc__)
        assert not inspect.iscoroutinefunction(verb)


def test_help_shows_the_verbs_of_the_plain_classes_with_their_arguments():
    shown = {
        dbllm.Client: "endpoint(self, name: |fallback: |driver_app(self, port: |request(self, method: ",
        dbllm.Endpoint: "chat(self, /, messages: |response_model: |embed(self, /, input: |predict(self, ",
        dbllm.Stream: "final(self)|close(self)|__next__(self)",
        dbllm.Agent: "respond(self, /, input: |session_id: |run(self, id: ",
    }
    for kind, words in shown.items():
        text = pydoc.plain(pydoc.render_doc(kind))
        assert [word for word in words.split("|") if word not in text] == [], kind
        own = [line for line in text.splitlines() if line.startswith(" |  ") and "(self" in line]
        assert [line for line in own if "(*args" in line or "-> 'Async" in line or "AsyncStream[" in line] == []


def test_handles_show_their_kind():
    client = dbllm.Client("https://workspace.example.com", "t")
    assert repr(client) == "Client(host='https://workspace.example.com', engine='h11', closed=False)"
    assert repr(client.endpoint("ep")) == "Endpoint('ep')"
    assert repr(client.driver_app(7777, "c")) == "DriverApp('c:7777')"
    assert client.endpoint("ep").name == "ep"


def test_with_options_of_a_client_is_a_client(wire):
    route(wire).respond(json=chat_answer())
    with dbllm.Client("https://workspace.example.com", "t") as client:
        with client.with_options(timeout=3) as other:
            assert type(other) is dbllm.Client
        assert client.endpoint("ep").chat("hi").text == "Hi there"
