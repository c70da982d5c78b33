"""One span for each call in every outcome, its names, its parents and children; three ways."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, StatusCode
from support.loopback import Peer, head
from support.samples import HELLO, LOOK_UP, chat_answer, piece, route, sse, vectors_answer

import dbllm
from dbllm import otel
from dbllm.otel import names


def said(span: Any) -> dict[str, Any]:
    return dict(span.attributes)


# --- one span, whatever happens


async def chat(client: Any) -> None:
    await client.endpoint("ep", task="chat").chat("hi")


async def read(client: Any) -> None:
    await client.endpoint("ep").stream_chat("hi").final()


async def close_early(client: Any) -> None:
    async with client.endpoint("ep").stream_chat("hi") as stream:
        async for _ in stream:
            return


async def forget(client: Any) -> None:
    async for _ in client.endpoint("ep").stream_chat("hi"):
        return


async def forget_in_a_circle(client: Any) -> None:
    stream = client.endpoint("ep").stream_chat("hi")
    async for _ in stream:
        break
    circle: list[Any] = [stream]
    circle.append(circle)


async def request(client: Any) -> None:
    await client.request("POST", "/serving-endpoints/ep/invocations", json={})


ANSWER = httpx.Response(200, json=chat_answer())
WAYS: dict[str, tuple[Callable[[Any], Any], list[Any], str]] = {
    "a value": (chat, [ANSWER], "ok"),
    "a refusal": (chat, [httpx.Response(400, json={"message": "no"})], "error"),
    "not found, and a look at what there is": (chat, [httpx.Response(404, json={"message": "no"})], "error"),
    "a retry, then a value": (chat, [httpx.Response(503), httpx.Response(429), ANSWER], "ok"),
    "retries in vain": (chat, [httpx.Response(503)] * 4, "error"),
    "no answer": (chat, [httpx.ReadTimeout("late")], "error"),
    "an answer that is none": (chat, [httpx.Response(200, json={"choices": 5})], "error"),
    "a stream read": (read, [sse(*HELLO)], "ok"),
    "a stream after a retry": (read, [httpx.Response(503), sse(*HELLO)], "ok"),
    "a stream refused": (read, [httpx.Response(400, json={"message": "no"})], "error"),
    "a stream cut": (read, [sse(HELLO[0])], "error"),
    "a stream closed early": (close_early, [sse(*HELLO)], "abandoned"),
    "another request": (request, [ANSWER], "ok"),
    "another request, refused": (request, [httpx.Response(404)], "error"),
}


async def test_a_call_has_one_span_in_every_outcome(make, wire, clock, seen):
    wire.get(LOOK_UP.rstrip("/")).respond(json={"endpoints": [{"name": "other"}]})
    wire.get(LOOK_UP + "ep").respond(json={"name": "ep", "task": "llm/v1/chat"})
    wire.get(path__startswith="/api/2.1/unity-catalog/").respond(404)
    wrong: dict[str, Any] = {}
    for name, (way, answers, outcome) in WAYS.items():
        route(wire).mock(side_effect=list(answers))
        async with make() as client:
            try:
                await way(clock.on(client))
            except dbllm.APIError:
                pass
        spans = seen.take()
        told = [(said(span)[names.OUTCOME], span.status.status_code, span.kind) for span in spans]
        status = StatusCode.ERROR if outcome == "error" else StatusCode.UNSET
        if told != [(outcome, status, SpanKind.CLIENT)]:
            wrong[name] = told
    assert wrong == {}


def streams(peer: Peer) -> None:
    while peer.request():
        body = sse(*HELLO).content
        peer.send(head(length=len(body), content_type="text/event-stream") + body)


@pytest.mark.parametrize("way", [forget, forget_in_a_circle])
async def test_a_stream_that_is_dropped_or_collected_has_one_span(make, serve, seen, way):
    async with make(serve(streams).host) as client:
        await way(client)
        gc.collect()
        assert seen.exporter.arrived.acquire(timeout=30)  # of one that was collected: in a thread
    (span,) = seen.spans
    assert said(span)[names.OUTCOME] == "abandoned"
    assert said(span)[names.EVENTS] == 1


async def test_a_cancelled_call_and_a_cancelled_stream_have_one_span_each(make, serve, mode, seen):
    if mode == "sync":
        pytest.skip("plain code has no cancellation")

    def stalled(peer: Peer) -> None:
        while request := peer.request():
            if b'"stream"' in request.body:
                peer.send(head(length=10_000, content_type="text/event-stream") + sse(HELLO[0]).content)
            peer.wait()

    async def read_on(client: Any, begun: anyio.Event) -> None:
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for _ in stream:
                begun.set()

    server = serve(stalled)
    async with make(server.host) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.endpoint("ep", task="chat").chat, "hi")
            await anyio.to_thread.run_sync(server.wait_arrived)
            group.cancel_scope.cancel()
        begun = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(read_on, client, begun)
            await begun.wait()
            group.cancel_scope.cancel()
    server.go.set()
    assert [said(span)[names.OUTCOME] for span in seen.spans] == ["cancelled", "cancelled"]
    assert {span.status.status_code for span in seen.spans} == {StatusCode.UNSET}
    assert said(seen.spans[1])[names.EVENTS] == 1


async def test_a_call_that_is_closed_from_elsewhere_has_one_span_and_logs_nothing(make, wire, mode, seen, caplog):
    if mode == "sync":
        pytest.skip("plain code has no coroutines to close")

    class Never:
        def __await__(self) -> Any:
            yield

    async def hangs(request: dbllm.AttemptRequest, send: Any) -> Any:
        await Never()

    async with make(hooks=dbllm.Hooks(middleware=hangs)) as client:
        calling = client.endpoint("ep", task="chat").chat("hi")
        copy_context().run(calling.send, None)
        calling.close()
    assert [said(span)[names.OUTCOME] for span in seen.spans] == ["cancelled"]
    assert caplog.records == []
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_stream_that_is_never_opened_has_no_span(make, seen):
    async with make() as client:
        client.endpoint("ep").stream_chat("hi")
    assert seen.spans == []


# --- what it says


async def test_the_span_of_a_chat_says_what_was_asked_and_answered_but_not_the_texts(make, wire, clock, seen):
    answer = chat_answer("an answer", usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9,
                                             "prompt_tokens_details": {"cached_tokens": 4}})  # fmt: skip
    headers = {"x-request-id": "r-1", "served-model-name": "served"}
    route(wire).mock(side_effect=[httpx.Response(429), httpx.Response(200, json=answer, headers=headers)])
    async with make() as client:
        await clock.on(client).endpoint("ep").chat("a prompt", temperature=0.5, max_tokens=9, stop=["."], top_k=3)
    (span,) = seen.spans
    assert (span.name, span.kind) == ("chat ep", SpanKind.CLIENT)
    assert said(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "databricks",
        "gen_ai.request.model": "ep",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.stop_sequences": (".",),
        "gen_ai.response.model": "m",
        "gen_ai.response.id": "c1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "server.address": "workspace.example.com",
        "server.port": 443,
        "http.response.status_code": 200,
        "dbllm.outcome": "ok",
        "dbllm.attempts": 2,
        "dbllm.request_id": "r-1",
        "dbllm.served_model": "served",
    }
    first, second = span.events
    assert (first.name, first.attributes["error.type"], first.attributes["number"]) == (
        "dbllm.attempt",
        "RateLimitError",
        1,
    )
    assert first.attributes["wait"] == clock.waits[0]
    assert (second.attributes["number"], second.attributes["http.response.status_code"]) == (2, 200)
    assert "a prompt" not in seen.everything()
    assert "an answer" not in seen.everything()


async def test_a_request_that_is_answered_at_once_is_no_event_and_all_are_where_there_are_several(make, wire, seen):
    wire.get(LOOK_UP + "ep").respond(json={"name": "ep", "task": "llm/v1/chat"})
    route(wire).mock(side_effect=[ANSWER, ANSWER, httpx.Response(400, json={}), sse(*HELLO)])
    async with make() as client:
        await client.endpoint("ep", task="chat").chat("hi")
        await client.endpoint("ep").complete("hi")  # looks the endpoint up first
        with pytest.raises(dbllm.BadRequestError):
            await client.endpoint("ep", task="chat").chat("hi")
        await client.endpoint("ep", task="chat").stream_chat("hi").final()
    alone, looked_up, refused, streamed = seen.spans
    assert [alone.events, streamed.events] == [(), ()]
    path = "/serving-endpoints/ep/invocations"
    assert (said(alone)["url.path"], said(streamed)["url.path"]) == (path, path)
    assert [event.attributes["url.path"] for event in looked_up.events] == [LOOK_UP + "ep", path]
    assert {(event.attributes["number"], event.attributes[names.STATUS]) for event in looked_up.events} == {(1, 200)}
    first, second = looked_up.events
    assert looked_up.start_time <= first.timestamp <= second.timestamp <= looked_up.end_time
    assert all(event.attributes["seconds"] >= 0 for event in looked_up.events)
    assert [event.attributes["error.type"] for event in refused.events] == ["BadRequestError"]


async def test_each_verb_has_its_operation(make, wire, seen):
    route(wire).mock(side_effect=[
        httpx.Response(200, json=chat_answer()),
        httpx.Response(200, json=vectors_answer([1.0])),
        httpx.Response(200, json={"predictions": ["a"]}),
        httpx.Response(200, json={"id": "r", "output": [], "status": "completed"}),
        sse(*HELLO),
    ])  # fmt: skip
    wire.get("/api/x").respond(json=1)
    async with make() as client:
        await client.endpoint("ep", task="chat").complete("hi")
        await client.endpoint("ep").embed("hi")
        await client.endpoint("ep").predict(inputs=[1])
        await client.endpoint("ep").respond("hi")
        await client.endpoint("ep").stream_chat("hi").final()
        await client.request("GET", "/api/x", params={"a": "b"})
    told = [span.name for span in seen.spans]
    assert told == ["text_completion ep", "embeddings ep", "predict ep", "invoke_agent ep", "chat ep", "GET"]
    completed, embedded, *_, streamed, got = seen.spans
    assert said(completed)["gen_ai.response.model"] == "m"
    assert said(completed)["gen_ai.usage.output_tokens"] == 2
    assert said(embedded)["gen_ai.usage.input_tokens"] == 2
    assert said(streamed)["gen_ai.request.stream"] is True
    assert said(streamed)["gen_ai.response.time_to_first_chunk"] >= 0
    assert said(streamed)["gen_ai.usage.output_tokens"] == 2
    assert (said(streamed)["gen_ai.response.id"], said(streamed)[names.EVENTS]) == ("c1", 2)
    assert (said(got)["url.path"], said(got)["http.request.method"]) == ("/api/x", "GET")


async def test_an_error_is_told_by_its_kind_and_not_by_its_words(make, wire, seen):
    route(wire).respond(400, json={"error_code": "BAD", "message": "your prompt was: a prompt"})
    wire.get(LOOK_UP + "ep").respond(403)
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError):
            await client.endpoint("ep").chat("a prompt")
    (span,) = seen.spans
    assert said(span)["error.type"] == "BadRequestError"
    assert said(span)["http.response.status_code"] == 400
    assert "a prompt" not in seen.everything()


async def test_texts_are_there_only_where_asked_for_and_no_longer_than_allowed(make, wire, make_seen):
    seen = make_seen()
    seen.instrument(content=True, content_limit=100)
    route(wire).mock(side_effect=[httpx.Response(200, json=chat_answer("an answer")), sse(*HELLO)])
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "s" * 10_000},
        {"role": "user", "content": [{"type": "text", "text": "look"}, picture]},
    ]
    async with make() as client:
        await client.endpoint("ep").chat(messages)
        await client.endpoint("ep").stream_chat("u" * 10_000).final()
    first, second = map(said, seen.spans)
    given = json.loads(first["gen_ai.input.messages"])
    assert given[1] == {"role": "user", "parts": [{"type": "text", "content": "look"}, {"type": "image_url"}]}
    assert given[0]["parts"][0]["content"] == "s" * 96 + "… (10000 characters)"
    assert json.loads(first["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "an answer"}], "finish_reason": "stop"}
    ]
    assert "AAAA" not in seen.everything()
    assert len(second["gen_ai.input.messages"]) < 300
    assert json.loads(second["gen_ai.output.messages"])[0]["parts"][0]["content"] == "Hello"


@pytest.mark.parametrize(("value", "there"), [("true", True), ("SPAN_ONLY", True), ("event_only", False), ("", False)])
def test_the_conventions_variable_asks_for_texts_too(wire, make_seen, monkeypatch, value, there) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", value)
    seen = make_seen()
    seen.instrument()
    route(wire).respond(json=chat_answer())
    with dbllm.Client("https://workspace.example.com", "t") as client:
        client.endpoint("ep").chat("a prompt")
    assert ("a prompt" in seen.everything()) is there


# --- above and below


async def test_its_parent_is_the_span_it_is_called_in_and_http_spans_are_its_children(make, serve, seen, mode):
    httpx_instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    instrumentor = httpx_instrumentation.HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=seen.tracer_provider)
    try:
        tracer = seen.tracer_provider.get_tracer("a service")
        async with make(serve().host, engine="httpx") as client:
            with tracer.start_as_current_span("outer"):
                await client.request("GET", "/x")
    finally:
        instrumentor.uninstrument()
    spans = {span.instrumentation_scope.name: span for span in seen.spans}
    ours, outer, below = spans["dbllm"], spans["a service"], spans["opentelemetry.instrumentation.httpx"]
    assert len(seen.spans) == 3
    assert ours.parent.span_id == outer.context.span_id
    assert below.parent.span_id == ours.context.span_id


async def test_what_a_user_does_while_a_stream_is_open_is_no_child_of_it(make, wire, seen):
    route(wire).mock(return_value=sse(*HELLO))
    tracer = seen.tracer_provider.get_tracer("a service")
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        async for _ in stream:
            with tracer.start_as_current_span("a step"):
                pass
    steps = [span for span in seen.spans if span.name == "a step"]
    assert len(steps) == 2
    assert all(step.parent is None for step in steps)
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_the_traces_context_is_sent_where_asked_for(make, wire, clock, make_seen):
    route(wire).mock(side_effect=lambda _: httpx.Response(503) if len(wire.calls) % 2 == 0 else ANSWER)
    for propagate in (False, True):
        seen = make_seen()
        seen.instrument(propagate=propagate)
        async with make() as client:
            await clock.on(client).endpoint("ep").chat("hi")
        (span,) = seen.spans
        sent = [call.request.headers.get("traceparent", "") for call in [*wire.calls][-2:]]
        assert [f"{span.context.span_id:016x}" in each for each in sent] == [propagate] * 2


@pytest.mark.parametrize("key", [names.INFERENCE_CONTEXT, names.EMBEDDING_CONTEXT])
async def test_a_call_that_another_instrumentation_counts_is_not_counted_twice(make, wire, seen, key):
    class Data:
        response_model = usage_input_tokens = usage_output_tokens = response_finish_reasons = request_model = None

    route(wire).mock(side_effect=[httpx.Response(200, json=chat_answer()), sse(*HELLO)] if "inference" in key else [
        httpx.Response(200, json=vectors_answer([1.0]))] * 2)  # fmt: skip
    data = Data()
    token = context.attach(context.set_value(key, data))
    try:
        async with make() as client:
            for _ in range(2):
                if key == names.EMBEDDING_CONTEXT:
                    await client.endpoint("ep").embed("hi")
                elif data.response_model is None:
                    await client.endpoint("ep").chat("hi")
                else:
                    await client.endpoint("ep").stream_chat("hi").final()
    finally:
        context.detach(token)
    assert seen.spans == []
    assert seen.metrics() == {}
    assert (data.request_model, data.response_model) == ("ep", "m")
    assert data.usage_input_tokens == (11 if "inference" in key else 2)


async def test_the_key_is_that_of_util_genai(make, wire, seen):
    handlers = pytest.importorskip("opentelemetry.util.genai.handler")
    route(wire).respond(json=chat_answer())
    handler = handlers.TelemetryHandler(tracer_provider=seen.tracer_provider, meter_provider=seen.meter_provider)
    async with make() as client:
        with handler.inference("langchain", request_model="ep"):
            await client.endpoint("ep").chat("hi")
    (span,) = seen.spans
    assert span.instrumentation_scope.name != "dbllm"
    assert said(span)["gen_ai.usage.input_tokens"] == 3
    assert said(span)["gen_ai.response.model"] == "m"


async def test_where_instrumentation_is_suppressed_there_is_none(make, wire, seen):
    wire.get("/x").respond(json=1)
    token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        async with make() as client:
            await client.request("GET", "/x")
    finally:
        context.detach(token)
    assert seen.spans == []
    assert seen.metrics() == {}


# --- turned on and off


async def test_turned_on_twice_the_last_one_counts_alone(make, wire, make_seen):
    wire.get("/x").respond(json=1)
    first, second = make_seen(), make_seen()
    async with make() as client:
        first.instrument()
        second.instrument()
        await client.request("GET", "/x")
        assert (len(first.spans), len(second.spans)) == (0, 1)
        otel.uninstrument()
        otel.uninstrument()
        await client.request("GET", "/x")
    assert (len(first.spans), len(second.spans)) == (0, 1)


async def test_an_argument_of_the_wrong_kind_changes_nothing(make, wire, seen):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tracer_provider": 5}, "tracer_provider must have a method get_tracer"),
        ({"meter_provider": "here"}, "meter_provider must have a method get_meter"),
        ({"content": "yes"}, "content must be True or False, got 'yes'"),
        ({"propagate": 1}, "propagate must be True or False, got 1"),
        ({"content_limit": "many"}, "content_limit must be a number of characters"),
    ]
    for options, match in wrong:
        with pytest.raises(TypeError, match=match):
            otel.instrument(**options)
    wire.get("/x").respond(json=1)
    async with make() as client:
        await client.request("GET", "/x")
    assert len(seen.spans) == 1


async def test_a_call_that_is_under_way_when_it_is_turned_off_or_on_disturbs_nothing(make, wire, seen):
    route(wire).mock(side_effect=lambda _: sse(*HELLO))
    async with make() as client:
        async with client.endpoint("ep").stream_chat("hi") as stream:
            otel.uninstrument()
            assert (await stream.final()).text == "Hello"
        async with client.endpoint("ep").stream_chat("hi") as stream:
            seen.instrument()
            assert (await stream.final()).text == "Hello"
    assert len(seen.spans) <= 1
    assert piece  # the second began before it was turned on


def test_nothing_of_opentelemetry_is_imported_while_it_is_off(script: Callable[..., str]) -> None:
    program = """
import sys, httpx, dbllm
answer = httpx.MockTransport(lambda request: httpx.Response(200, json=1))
with dbllm.Client("https://h", "t", transport=answer) as client:
    client.request("GET", "/x")
print([name for name in sys.modules if name.startswith(("opentelemetry", "dbllm.otel"))])
"""
    assert script(program).strip() == "[]"


def test_without_the_package_it_says_what_to_install(script: Callable[..., str]) -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
try:
    import dbllm.otel
except ImportError as error:
    print(error)
"""
    assert script(program).strip() == "dbllm.otel needs the extra otel: pip install 'dbllm[otel]'"
