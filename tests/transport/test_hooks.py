"""Hooks and middleware, three ways: what is told, in which order, and that nothing of theirs breaks a call."""

from __future__ import annotations

import dataclasses
import gc
import logging
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.loopback import Peer, head
from support.samples import HELLO, LOOK_UP, chat_answer, piece, route, sse, vectors_answer

import dbllm
from dbllm import Hooks
from dbllm._auth.refresh import ExpiringHeaders, RefreshingAuth
from dbllm._transport import observers
from dbllm._transport.call import tracers

PATH = "/serving-endpoints/ep/invocations"
NAMES = [item.name for item in dataclasses.fields(Hooks) if item.name != "middleware"]


class Told:
    """What hooks were told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def hooks(self, **more: Any) -> Hooks:
        def note(name: str) -> Callable[[Any], None]:
            return lambda value: self.events.append((name.removeprefix("on_"), value))

        return Hooks(**{name: note(name) for name in NAMES}, **more)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def of(self, name: str) -> list[Any]:
        return [value for each, value in self.events if each == name]


@pytest.fixture
def told() -> Told:
    return Told()


# --- what is told of a call


async def test_a_call_is_told_of_from_its_beginning_over_its_retries_to_its_end(make, wire, clock, told):
    refusal = httpx.Response(429, headers={"retry-after": "3"}, json={"error_code": "REQUEST_LIMIT_EXCEEDED"})
    route(wire).mock(side_effect=[refusal, httpx.Response(200, json=chat_answer(), headers={"x-request-id": "r"})])
    async with make(hooks=told.hooks()) as client:
        reply = await clock.on(client).endpoint("ep").chat("hi", temperature=0.5)
    assert told.names == ["request", "attempt", "retry", "attempt", "response"]
    (request,), (response,) = told.of("request"), told.of("response")
    assert (request.operation, request.name, request.host) == ("chat", "ep", client.host)
    assert (request.stream, request.body["temperature"]) == (False, 0.5)
    assert response.request is request
    assert response.reply is reply
    assert (response.outcome, response.attempts, response.raw.request_id) == ("ok", 2, "r")
    assert (response.usage.total_tokens, response.finish_reason) == (5, "stop")
    first, second = told.of("attempt")
    (retry,) = told.of("retry")
    assert retry is first
    assert (first.number, second.number, first.status, second.status) == (1, 2, 429, 200)
    assert first.wait >= 3
    assert first.wait == clock.waits[0]
    assert response.seconds == pytest.approx(first.wait)
    assert all(attempt.request is request for attempt in (first, second))


async def test_what_a_call_looks_up_or_sends_in_several_parts_is_part_of_it(make, wire, told):
    wire.get(LOOK_UP + "ep").respond(json={"name": "ep", "task": "llm/v1/chat"})
    route(wire).respond(json=chat_answer())
    route(wire, "vectors").respond(json=vectors_answer([1.0]))
    route(wire, "away").respond(429, json={})
    route(wire, "there").respond(json=chat_answer())
    async with make(hooks=told.hooks(), retry=dbllm.Retry(attempts=1)) as client:
        assert await client.endpoint("ep").complete("hi") == "Hi there"
        await client.endpoint("vectors").embed(["a", "b", "c"], batch_size=1)
        await client.endpoint("away", fallback=["there"]).chat("hi")
    assert [request.operation for request in told.of("request")] == ["complete", "embed", "chat"]
    assert [len([each for each in told.of("attempt") if each.request is one]) for one in told.of("request")] == [
        2,
        3,
        2,
    ]
    assert [response.outcome for response in told.of("response")] == ["ok"] * 3
    assert told.of("response")[1].usage.prompt_tokens == 6


async def test_requests_beside_the_verbs_are_calls_of_their_own_without_query_and_body(make, wire, told):
    wire.get(path="/api/x").respond(json=1)
    wire.post("/api/2.0/secrets/put").respond(json={})
    async with make(hooks=told.hooks()) as client:
        await client.request("GET", "/api/x", params={"token": "query-secret"})
        await client.secrets.put("s", "k", "value-secret")
    requests = told.of("request")
    assert [(one.operation, one.name, one.body) for one in requests] == [
        ("request", "GET /api/x", None),
        ("request", "POST /api/2.0/secrets/put", None),
    ]
    assert "secret-" not in repr(told.events)
    assert "-secret" not in repr(told.events)


FAILURES: dict[str, tuple[Any, type[Exception]]] = {
    "a refusal": (httpx.Response(400, json={"message": "no"}), dbllm.BadRequestError),
    "an outage": (httpx.Response(503), dbllm.InternalServerError),
    "a broken connection": (httpx.ReadError("reset"), dbllm.APIConnectionError),
    "an answer that is none": (httpx.Response(200, json={"choices": "?"}), dbllm.APIResponseError),
    "a page": (httpx.Response(200, html="<p>Sign in</p>"), dbllm.APIResponseError),
}


async def test_each_failure_is_told_once_and_is_the_error_that_the_call_raises(make, wire, told):
    wire.get(LOOK_UP + "ep").respond(json={"name": "ep", "task": "llm/v1/chat"})
    wrong = {}
    for name, (answer, kind) in FAILURES.items():
        told.events.clear()
        route(wire).mock(side_effect=[answer])
        async with make(hooks=told.hooks(), retry=dbllm.Retry(attempts=1)) as client:
            with pytest.raises(kind) as caught:
                await client.endpoint("ep", task="chat").chat("hi")
        (response,) = told.of("response")
        if (response.outcome, response.error is caught.value, told.names[0]) != ("error", True, "request"):
            wrong[name] = told.names
    assert wrong == {}


async def test_a_cancelled_call_is_told_as_cancelled_also_to_an_async_hook(make, serve, mode, told):
    if mode == "sync":
        pytest.skip("plain code has no cancellation")
    seen: list[str] = []

    def stalled(peer: Peer) -> None:
        while peer.request():
            peer.wait()

    async def late(response: dbllm.ResponseInfo) -> None:
        seen.append(response.outcome)
        await anyio.lowlevel.checkpoint()  # nothing is awaited any more
        seen.append("never")

    server = serve(stalled)
    for hooks in (told.hooks(), Hooks(on_response=late)):
        async with make(server.host, hooks=hooks) as client, anyio.create_task_group() as group:
            group.start_soon(client.endpoint("ep", task="chat").chat, "hi")
            await anyio.to_thread.run_sync(server.wait_arrived)
            group.cancel_scope.cancel()
    server.go.set()
    assert told.names == ["request", "response"]
    assert (told.of("response")[0].outcome, seen) == ("cancelled", ["cancelled"])


def test_an_interrupt_is_told_as_cancelled(serve, told) -> None:
    def interrupted(attempt: dbllm.AttemptRequest, send: Any) -> Any:
        raise KeyboardInterrupt

    client = dbllm.Client(serve().host, "t", hooks=told.hooks(middleware=interrupted))
    with client, pytest.raises(KeyboardInterrupt):
        client.request("GET", "/x")
    assert [response.outcome for response in told.of("response")] == ["cancelled"]


# --- streams


async def test_each_piece_of_a_stream_is_told_and_its_end_once(make, wire, told):
    route(wire).mock(return_value=sse(*HELLO))
    async with make(hooks=told.hooks()) as client, client.endpoint("ep").stream_chat("hi") as stream:
        assert "response" not in told.names
        chunks = [chunk async for chunk in stream]
        await stream.aclose()
    assert told.names == ["request", "attempt", "stream_event", "stream_event", "response"]
    assert [event.chunk.text for event in told.of("stream_event")] == [chunk.text for chunk in chunks] == ["Hel", "lo"]
    assert [event.number for event in told.of("stream_event")] == [1, 2]
    (response,) = told.of("response")
    assert (response.request.stream, response.outcome, response.events) == (True, "ok", 2)
    assert (response.usage.completion_tokens, response.finish_reason, response.reply.text) == (2, "stop", "Hello")
    assert 0 <= response.first_event <= response.seconds


async def whole(stream: Any) -> None:
    await stream.final()


async def one_then_close(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            return


async def all_but_done(stream: Any) -> None:
    async with stream:
        async for chunk in stream:
            if chunk.finish_reason:
                return


async def opened_alone(stream: Any) -> None:
    async with stream:
        pass


async def one_then_forget(stream: Any) -> None:
    async for _ in stream:
        return


ENDS: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...], str]] = {
    "read to its end": (whole, HELLO, "ok"),
    "closed early": (one_then_close, HELLO, "abandoned"),
    "closed when it is complete": (all_but_done, HELLO, "ok"),
    "opened and closed": (opened_alone, HELLO, "abandoned"),
    "cut": (whole, HELLO[:1], "error"),
    "with an error in it": (whole, (HELLO[0], {"error": {"message": "no"}}), "error"),
    "with an error first": (whole, ({"error": {"message": "no"}},), "error"),
    "with a piece that is none": (whole, (HELLO[0], "7"), "error"),
}


@pytest.mark.parametrize("listens", [True, False])
async def test_a_stream_ends_once_however_it_ends(make, wire, told, listens):
    wrong = {}
    hooks = told.hooks() if listens else dataclasses.replace(told.hooks(), on_stream_event=None)
    for name, (read, events, outcome) in ENDS.items():
        told.events.clear()
        route(wire).mock(return_value=sse(*events))
        async with make(hooks=hooks, retry=dbllm.Retry(attempts=1)) as client:
            try:
                await read(client.endpoint("ep").stream_chat("hi"))
            except dbllm.APIError:
                pass
            gc.collect()
            said = [response.outcome for response in told.of("response")]
            if (said, len(told.of("request"))) != ([outcome], 1):
                wrong[name] = said
    assert wrong == {}


async def test_a_stream_that_is_dropped_ends_once_too(make, serve, told):
    def streams(peer: Peer) -> None:
        while peer.request():
            body = sse(*HELLO).content
            peer.send(head(length=len(body), content_type="text/event-stream") + body)

    async with make(serve(streams).host, hooks=told.hooks()) as client:
        await one_then_forget(client.endpoint("ep").stream_chat("hi"))
        gc.collect()
        assert [response.outcome for response in told.of("response")] == ["abandoned"]


async def test_a_stream_that_was_never_opened_is_no_call(make, wire, told):
    async with make(hooks=told.hooks()) as client:
        client.endpoint("ep").stream_chat("hi")
    assert told.events == []


async def test_a_whole_answer_instead_of_a_stream_is_one_piece(make, wire, told):
    route(wire).respond(json=chat_answer())
    async with make(hooks=told.hooks()) as client:
        stream = client.endpoint("ep").stream_chat("hi")
        assert (await stream.final()).text == "Hi there"
        assert told.names == ["request", "attempt", "stream_event", "response"]  # though it is neither closed nor gone
        await stream.aclose()
    assert told.names == ["request", "attempt", "stream_event", "response"]
    assert told.of("response")[0].outcome == "ok"


async def test_a_stream_whose_connection_breaks_is_told_with_its_error(make, serve, told):
    def broken(peer: Peer) -> None:
        peer.request()
        peer.send(head(length=1000, content_type="text/event-stream") + sse(piece("a")).content)
        peer.reset()

    async with make(serve(broken).host, hooks=told.hooks()) as client:
        with pytest.raises(dbllm.StreamInterruptedError) as caught:
            await client.endpoint("ep").stream_chat("hi").final()
    (response,) = told.of("response")
    assert response.error is caught.value
    assert (response.outcome, response.events) == ("error", 1)


# --- tokens


async def test_a_token_that_is_fetched_or_cannot_be_is_told(make, wire, clock, told):
    wire.get("/x").respond(json=1)
    answers: list[Any] = [100.0, dbllm.APIConnectionError("the token endpoint is away"), 100.0]

    async def fetch(backend: Any, deadline: float) -> ExpiringHeaders:
        if isinstance(said := answers.pop(0), Exception):
            raise said
        return ExpiringHeaders({"authorization": "Bearer secret-token"}, backend.clock() + said, said)

    async with make(hooks=told.hooks()) as client:
        clock.on(client)
        core = getattr(getattr(client, "plain", client), "_core", client)
        core._transport._auths[client.host] = RefreshingAuth(fetch)
        for _ in range(3):
            await client.request("GET", "/x")
            clock.time += 85
    assert [(one.lifetime, type(one.error)) for one in told.of("token_refresh")] == [
        (100.0, type(None)),
        (None, dbllm.APIConnectionError),
        (100.0, type(None)),
    ]
    assert "secret-token" not in repr(told.events)
    assert [response.outcome for response in told.of("response")] == ["ok"] * 3


# --- the functions


async def test_hooks_may_be_async_where_the_client_is_and_are_waited_for(make, wire, mode):
    seen: list[str] = []

    def hook(name: str) -> Any:
        async def told(value: Any) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(name)

        return told

    hooks = Hooks(**{name: hook(name) for name in NAMES})
    route(wire).mock(return_value=sse(*HELLO))
    if mode == "sync":
        with pytest.raises(dbllm.ConfigError, match=r"no event loop for on_request, an async function"):
            make(hooks=hooks)
        return
    async with make(hooks=hooks) as client:
        await client.endpoint("ep").stream_chat("hi").final()
    assert seen == ["on_request", "on_attempt", "on_stream_event", "on_stream_event", "on_response"]


def test_a_plain_client_refuses_every_async_function_it_is_given() -> None:
    class Callable_:
        async def __call__(self, *_: Any) -> None: ...

    async def function(*_: Any) -> None: ...

    for hook in (function, Callable_()):
        for name in (*NAMES, "middleware"):
            with pytest.raises(dbllm.ConfigError, match=name):
                dbllm.Client("https://h", "t", hooks=Hooks(**{name: hook}))


def test_a_plain_client_logs_a_hook_that_returns_a_coroutine_which_waits(wire, caplog) -> None:
    class Never:
        def __await__(self) -> Any:
            yield

    async def waits() -> None:
        await Never()

    wire.get("/x").respond(json=1)
    with dbllm.Client("https://workspace.example.com", "t", hooks=Hooks(on_request=lambda _: waits())) as client:
        assert client.request("GET", "/x") == 1
    assert "on_request raised an exception" in caplog.text
    assert "no time or loop to wait" in caplog.text


@pytest.mark.parametrize("wrong", [{"on_retry": 5}, {"middleware": "x"}])
def test_what_is_no_function_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(dbllm.ConfigError, match="must be a function"):
        dbllm.Client("https://h", "t", hooks=Hooks(**wrong))
    with pytest.raises(dbllm.ConfigError, match="hooks must be a Hooks"):
        dbllm.Client("https://h", "t", hooks=wrong)  # type: ignore[arg-type]


async def test_hooks_that_fail_break_no_call_and_are_logged_once_each(make, wire, clock, caplog):
    def broken(value: Any) -> None:
        raise ZeroDivisionError("a bug of the hook's")

    route(wire).mock(side_effect=[httpx.Response(503), sse(*HELLO)] * 2)
    hooks = Hooks(**dict.fromkeys(NAMES, broken))
    async with make(hooks=hooks) as client:
        with caplog.at_level(logging.DEBUG, "dbllm.hooks"):
            for _ in range(2):
                assert (await clock.on(client).endpoint("ep").stream_chat("hi").final()).text == "Hello"
    said = [record for record in caplog.records if record.name == "dbllm.hooks"]
    warned = [record.getMessage().split()[0] for record in said if record.levelname == "WARNING"]
    assert sorted(warned) == sorted(set(NAMES) - {"on_token_refresh"})
    assert len(said) == 2 * (5 + 2)  # two attempts and two pieces a call


async def test_what_a_hook_sends_is_not_told(make, wire, mode, told):
    wire.get("/x").respond(json=1)
    wire.get("/y").respond(json=2)
    clients: list[Any] = []

    def call(response: Any) -> Any:
        return clients[0].request("GET", "/y")

    if mode == "sync":

        def call(response: Any) -> Any:
            return clients[0].plain.request("GET", "/y")

    hooks = dataclasses.replace(told.hooks(), on_response=call)
    async with make(hooks=hooks) as client:
        clients.append(client)
        assert await client.request("GET", "/x") == 1
    assert [request.name for request in told.of("request")] == ["GET /x"]
    assert [attempt.path for attempt in told.of("attempt")] == ["/x"]
    assert wire.calls.call_count == 2


class Counting:
    """Telemetry that counts what it is told, and fails where it is told to."""

    def __init__(self, told: list[str], fails: str = "") -> None:
        self.told, self._fails = told, fails

    def __getattr__(self, step: str) -> Callable[..., Any]:
        def note(*said: Any) -> Any:
            self.told.append(step)
            if step == self._fails:
                raise ZeroDivisionError("a bug of telemetry's")
            return self if step == "begin" else ("a mark", said[0]) if step == "begin_attempt" else None

        return note


async def test_telemetry_is_told_of_clients_made_before_and_its_failures_break_nothing(make, wire, caplog):
    wire.get("/x").respond(json=1)
    steps = ["begin", "begin_attempt", "end_attempt", "end"]
    for fails in ("", *steps):
        told: list[str] = []
        caplog.clear()
        async with make() as client:
            tracers.append(telemetry := Counting(told, fails))
            try:
                assert await client.request("GET", "/x") == 1
                assert await client.request("GET", "/x") == 1
            finally:
                tracers.remove(telemetry)
            await client.request("GET", "/x")
        assert told == (["begin"] * 2 if fails == "begin" else steps * 2), fails
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warned == (["telemetry raised an exception; the call goes on"] if fails else []), fails


async def test_on_attempt_beside_hooks_is_told_too(make, wire, told):
    wire.get("/x").respond(json=1)
    alone: list[dbllm.Attempt] = []
    async with make(on_attempt=alone.append, hooks=told.hooks()) as client:
        await client.request("GET", "/x")
    assert alone == told.of("attempt")


async def test_what_hooks_get_has_no_text_of_the_user_in_its_repr_and_can_be_pickled(make, wire, told):
    route(wire).respond(json=chat_answer("an answer"))
    async with make(hooks=told.hooks()) as client:
        await client.endpoint("ep").chat("a prompt")
    assert "prompt" not in repr(told.of("request"))
    assert "an answer" not in repr(told.of("response"))
    for _, value in told.events:
        again = pickle.loads(pickle.dumps(value))
        assert type(again) is type(value)


# --- functions that never end


@pytest.mark.parametrize(
    ("left", "seconds"), [(None, 5), (float("inf"), 5), (300, 5), (10, 5), (4, 2), (0.5, 0.25), (0, 0), (-3, 0)]
)
def test_a_hook_has_a_while_and_leaves_the_call_at_least_as_long(left, seconds) -> None:
    assert observers.hook_seconds(left) == seconds


def never_ends(ended: list[str], name: str) -> Callable[[Any], Any]:
    async def hangs(value: Any) -> None:
        try:
            await anyio.sleep_forever()
        except GeneratorExit:
            ended.append(f"{name}, at once")
            raise
        except anyio.get_cancelled_exc_class():
            ended.append(name)
            raise

    return hangs


async def test_an_async_hook_that_never_ends_is_cancelled_and_told_once(make, wire, clock, mode, caplog, monkeypatch):
    if mode == "sync":
        pytest.skip("a plain client takes no async hooks")
    monkeypatch.setattr(observers, "HOOK_SECONDS", 0.001)
    route(wire).mock(side_effect=[httpx.Response(503), sse(*HELLO)] * 2)
    ended: list[str] = []
    hooks = Hooks(**{name: never_ends(ended, name) for name in NAMES})
    async with make(hooks=hooks) as client:
        for _ in range(2):
            assert (await clock.on(client).endpoint("ep").stream_chat("hi").final()).text == "Hello"
    once = sorted({name for name in NAMES if name != "on_token_refresh"})
    again = ["on_attempt, at once", "on_stream_event, at once"]  # it is not waited for twice in a call
    assert sorted(ended) == sorted([*once, *again] * 2)
    told = [record for record in caplog.records if record.name == "dbllm.hooks" and record.levelname == "WARNING"]
    assert sorted(record.getMessage().split()[0] for record in told) == once
    why = [str(record.exc_info[1]) for record in told if record.exc_info]
    assert sorted(why) == [f"{name} had not ended after 0.001 s, and was cancelled" for name in once]


async def test_a_hook_that_never_ends_takes_half_of_the_calls_time_where_that_is_short(make, wire, clock, mode, caplog):
    if mode == "sync":
        pytest.skip("a plain client takes no async hooks")
    route(wire).respond(json=chat_answer())
    async with make(hooks=Hooks(on_request=never_ends([], "")), timeout=0.002) as client:
        reply = await clock.on(client).endpoint("ep", task="chat").chat("hi")  # on this clock no time passes
    assert reply.text == "Hi there"
    assert "on_request had not ended after 0.001 s, and was cancelled" in caplog.text


async def test_a_hook_that_is_cancelled_with_its_call_is_no_failure_of_its_own(make, wire, mode, caplog):
    if mode == "sync":
        pytest.skip("plain code has no cancellation")
    begun, ended = anyio.Event(), []

    async def hangs(value: Any) -> None:
        begun.set()
        await never_ends(ended, "on_request")(value)

    wire.get("/x").respond(json=1)
    async with make(hooks=Hooks(on_request=hangs)) as client, anyio.create_task_group() as group:
        group.start_soon(client.request, "GET", "/x")
        await begun.wait()
        group.cancel_scope.cancel()
    assert ended == ["on_request"]
    assert wire.calls.call_count == 0
    assert caplog.records == []


async def test_a_plain_hook_that_blocks_holds_up_its_call_also_beyond_its_deadline(make, wire, clock):
    def blocks(value: Any) -> None:
        clock.time += 400

    route(wire).respond(json=chat_answer())
    async with make(hooks=Hooks(on_response=blocks)) as client:
        assert (await clock.on(client).endpoint("ep", task="chat").chat("hi")).text == "Hi there"
    async with make(hooks=Hooks(on_request=blocks)) as client:
        with pytest.raises(dbllm.APITimeoutError, match=r"time was up before it could be sent.*a hook"):
            await clock.on(client).endpoint("ep", task="chat").chat("hi")


async def test_middleware_that_never_returns_ends_with_the_calls_time(make, wire, clock, mode, told, monkeypatch):
    if mode == "sync":
        pytest.skip("plain code cannot be cancelled")
    monkeypatch.setattr(observers, "LATE_SECONDS", 0)
    ended: list[str] = []

    async def before(request: dbllm.AttemptRequest, send: Any) -> Any:
        await never_ends(ended, "before")(request)

    async def after(request: dbllm.AttemptRequest, send: Any) -> Any:
        await send(request)
        await never_ends(ended, "after")(request)

    for number, hangs in enumerate([before, after]):
        route(wire).respond(json=chat_answer())
        async with make(hooks=told.hooks(middleware=hangs), timeout=0.001) as client:
            with pytest.raises(dbllm.APITimeoutError, match="the middleware had not returned at the call's deadline"):
                await clock.on(client).endpoint("ep", task="chat").chat("hi")
        assert wire.calls.call_count == number
    assert ended == ["before", "after"]
    assert [response.outcome for response in told.of("response")] == ["error", "error"]
    assert [type(attempt.error) for attempt in told.of("attempt")] == [dbllm.APITimeoutError] * 2


async def test_where_the_answer_is_late_within_middleware_the_error_is_that_of_the_answer(make, serve, mode):
    def stalled(peer: Peer) -> None:
        while peer.request():
            peer.wait()

    server = serve(stalled)
    around = middleware(mode, lambda request: request, lambda answer: answer)
    async with make(server.host, hooks=Hooks(middleware=around), timeout=0.05) as client:
        with pytest.raises(dbllm.APITimeoutError) as caught:
            await client.endpoint("ep", task="chat").chat("hi")
    server.go.set()
    assert "middleware" not in str(caught.value)


# --- limits


async def test_an_attempt_says_how_long_it_waited_for_the_limits(make, wire, clock, told):
    route(wire).respond(json=chat_answer())
    limits = dbllm.Limits(requests_per_minute=60, concurrency="adaptive")
    async with make(hooks=told.hooks(), limits=limits) as client:
        endpoint = clock.on(client).endpoint("ep")
        for _ in range(70):
            await endpoint.chat("hi")
    attempts = told.of("attempt")
    assert attempts[0].waited == 0
    assert sum(attempt.waited for attempt in attempts) == pytest.approx(sum(clock.waits))
    assert sum(clock.waits) > 0
    assert all(attempt.limit >= 1 for attempt in attempts)


# --- middleware


def middleware(mode: str, around: Callable[[dbllm.AttemptRequest], Any], after: Callable[[Any], Any]) -> Any:
    """A middleware of the mode: `around` makes the request to send, `after` sees the answer."""

    def plain(request: dbllm.AttemptRequest, send: Any) -> Any:
        return after(send(around(request)))

    async def waits(request: dbllm.AttemptRequest, send: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return after(await send(around(request)))

    return plain if mode == "sync" else waits


async def test_middleware_runs_around_each_attempt_and_may_change_the_headers(make, wire, clock, mode):
    seen: list[Any] = []

    def around(request: dbllm.AttemptRequest) -> dbllm.AttemptRequest:
        seen.append((request.method, request.path, request.number, request.request.operation))
        assert "authorization" not in request.headers
        return dataclasses.replace(request, headers={**request.headers, "X-Attempt": str(request.number)})

    def after(answer: Any) -> Any:
        seen.append((answer.raw.status, answer.request_id))
        return answer

    route(wire).mock(side_effect=[httpx.Response(503), sse(*HELLO)])
    async with make(hooks=Hooks(middleware=middleware(mode, around, after)), headers={"x-own": "1"}) as client:
        assert (await clock.on(client).endpoint("ep").stream_chat("hi").final()).text == "Hello"
    assert seen == [("POST", PATH, 1, "chat"), ("POST", PATH, 2, "chat"), (200, "req-1")]
    assert [call.request.headers["x-attempt"] for call in wire.calls] == ["1", "2"]
    assert all(call.request.headers["x-own"] == "1" for call in wire.calls)
    assert all(call.request.headers["authorization"].startswith("Bearer") for call in wire.calls)


async def test_what_middleware_raises_is_the_attempts_failure(make, wire, clock, mode):
    route(wire).respond(json=chat_answer())
    failures: list[Exception] = [dbllm.RateLimitError("mine", status=429), ZeroDivisionError("a bug")]

    def fails_once(request: dbllm.AttemptRequest) -> dbllm.AttemptRequest:
        if request.number == 1:
            raise failures.pop(0)
        return request

    async with make(hooks=Hooks(middleware=middleware(mode, fails_once, lambda answer: answer))) as client:
        chat = clock.on(client).endpoint("ep", task="chat").chat
        assert (await chat("hi")).attempts == 2
        with pytest.raises(ZeroDivisionError, match="a bug"):
            await chat("hi")
    assert len(wire.calls) == 1


async def test_middleware_that_returns_no_answer_is_told_so(make, wire, mode):
    route(wire).respond(json=chat_answer())
    nothing = Hooks(middleware=middleware(mode, lambda request: request, lambda answer: None))
    async with make(hooks=nothing) as client:
        with pytest.raises(TypeError, match=r"must return what send\(\) gave, got NoneType"):
            await client.endpoint("ep").chat("hi")


async def test_middleware_sends_once_where_a_token_has_expired(make, wire, mode):
    tokens = iter(["old", "new"])
    seen: list[int] = []
    wire.get("/x").mock(
        side_effect=lambda request: (
            httpx.Response(200, json=1)
            if request.headers["authorization"] == "Bearer new"
            else httpx.Response(401, json={"message": "token expired"})
        )
    )

    async def fetch(backend: Any, deadline: float) -> ExpiringHeaders:
        return ExpiringHeaders({"authorization": f"Bearer {next(tokens)}"}, backend.clock() + 100, 100)

    def around(request: dbllm.AttemptRequest) -> dbllm.AttemptRequest:
        seen.append(request.number)
        return request

    async with make(hooks=Hooks(middleware=middleware(mode, around, lambda answer: answer))) as client:
        core = getattr(getattr(client, "plain", client), "_core", client)
        core._transport._auths[client.host] = RefreshingAuth(fetch)
        assert await client.request("GET", "/x") == 1
    assert seen == [1]
