"""What is measured, exporters that hang, and that no credential is in spans, metrics or logs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from support.loopback import Peer
from support.samples import HELLO, LOOK_UP, chat_answer, route, sse, vectors_answer

import dbllm
from dbllm.otel import names


def sums(points: list[Any]) -> Any:
    return sum(getattr(point, "sum", getattr(point, "value", 0)) for point in points)


async def test_duration_tokens_and_time_to_first_chunk_are_measured_by_call(make, wire, clock, seen):
    wire.get(LOOK_UP + "ep").respond(403)
    route(wire).mock(side_effect=[
        httpx.Response(429), httpx.Response(200, json=chat_answer()), sse(*HELLO), httpx.Response(400),
        httpx.Response(200, json=vectors_answer([1.0])),
    ])  # fmt: skip
    async with make() as client:
        endpoint = clock.on(client).endpoint("ep", task="chat")
        await endpoint.chat("hi")
        await endpoint.stream_chat("hi").final()
        with pytest.raises(dbllm.BadRequestError):
            await endpoint.chat("hi")
        await endpoint.embed("hi")
    found = seen.metrics()
    durations = found["gen_ai.client.inference.duration"]
    assert sum(point.count for point in durations) == 3
    assert {point.attributes.get("error.type") for point in durations} == {None, "BadRequestError"}
    assert sums(found["gen_ai.client.inference.usage.input_tokens"]) == 3 + 11
    assert sums(found["gen_ai.client.inference.usage.output_tokens"]) == 2 + 2
    assert [point.count for point in found["gen_ai.client.inference.time_to_first_chunk"]] == [1]
    assert [point.count for point in found["gen_ai.client.embeddings.duration"]] == [1]
    assert sums(found["gen_ai.client.embeddings.operation.input_tokens"]) == 2
    assert [(point.value, point.attributes["error.type"]) for point in found[names.RETRIES]] == [(1, "RateLimitError")]
    known = {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model",
             "server.address", "server.port", "error.type", "http.request.method"}  # fmt: skip
    used = {name for points in found.values() for point in points for name in point.attributes}
    assert used <= known  # few values each: no ids, no paths


async def test_waiting_for_the_limits_and_limits_that_change_are_measured(make, wire, clock, seen):
    answers = [httpx.Response(503), *[httpx.Response(200, json=chat_answer())] * 70]
    route(wire).mock(side_effect=answers)
    limits = dbllm.Limits(requests_per_minute=60, concurrency="adaptive")
    async with make(limits=limits) as client:
        endpoint = clock.on(client).endpoint("ep")
        for _ in range(65):
            await endpoint.chat("hi")
    found = seen.metrics()
    (waited,) = found[names.LIMITS_WAIT]
    assert waited.count >= 1
    assert waited.sum > 0
    assert sums(found[names.LIMITS_CHANGES]) >= 1
    (allowed,) = found[names.LIMITS_CONCURRENCY]
    assert allowed.value >= 1


async def test_waiting_for_a_connection_is_measured_also_where_none_came_free(make, serve, mode, seen):
    if mode == "sync":
        pytest.skip(
            "plain code has one call at a time in a thread; its threads share the limiter that is looked at here"
        )
    let_go = threading.Event()

    def slow(peer: Peer) -> None:
        while peer.request():
            let_go.wait(60)
            peer.answer(chat_answer())

    told: list[dbllm.Attempt] = []
    server = serve(slow)
    async with make(server.host, max_connections=1, on_attempt=told.append) as client:
        chat = client.endpoint("ep", task="chat").chat
        async with anyio.create_task_group() as group:
            group.start_soon(chat, "first")
            await anyio.to_thread.run_sync(server.wait_arrived)
            with pytest.raises(dbllm.APITimeoutError, match="no free connection within"):
                await chat("in vain", timeout=dbllm.Timeout(queue=0.01), retry=dbllm.Retry(attempts=1))
            group.start_soon(chat, "second")
            while client.stats().waiting == 0:
                await anyio.lowlevel.checkpoint()
            let_go.set()
        await chat("third")
    (in_vain,) = [attempt for attempt in told if attempt.error]
    others = [attempt.queued for attempt in told if not attempt.error]
    assert in_vain.queued >= 0.009
    assert (sorted(others)[:2], max(others) > 0) == ([0, 0], True)
    points = seen.metrics()[names.CONNECTION_WAIT]
    assert sum(point.count for point in points) == 2
    events = [dict(event.attributes) for span in seen.spans for event in span.events]
    assert sum("queued" in event for event in events) == 2


class Hanging(SpanExporter):
    """Exports nothing until it is let go."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.began.set()
        self.go.wait(60)
        return SpanExportResult.SUCCESS


def test_an_exporter_that_hangs_holds_up_no_call(wire, make_seen) -> None:
    wire.get("/x").respond(json=1)
    seen, exporter = make_seen(), Hanging()
    batches = BatchSpanProcessor(exporter, max_queue_size=8, max_export_batch_size=2, schedule_delay_millis=1)
    seen.tracer_provider.add_span_processor(batches)
    seen.instrument()
    try:
        with dbllm.Client("https://workspace.example.com", "t") as client:
            client.request("GET", "/x")
            client.request("GET", "/x")
            assert exporter.began.wait(30)
            for _ in range(50):  # more than its queue takes
                client.request("GET", "/x")
        assert not exporter.go.is_set()
        assert len(seen.spans) == 52
    finally:
        exporter.go.set()


class Broken(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise OSError("the collector is away")


async def test_an_exporter_that_fails_breaks_no_call(make, wire, make_seen, caplog):
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    route(wire).mock(side_effect=[httpx.Response(200, json=chat_answer()), sse(*HELLO)])
    seen = make_seen()
    seen.tracer_provider.add_span_processor(SimpleSpanProcessor(Broken()))
    seen.instrument()
    with caplog.at_level(logging.CRITICAL):
        async with make() as client:
            assert (await client.endpoint("ep").chat("hi")).text == "Hi there"
            assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"
    assert len(seen.spans) == 2


class BrokenTracer:
    """A provider whose spans cannot be used."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        return self

    def start_span(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug of the tracer's")


async def test_a_tracer_that_fails_breaks_no_call_and_is_told_once(make, wire, make_seen, caplog):
    from dbllm import otel

    make_seen()
    otel.instrument(tracer_provider=BrokenTracer())
    wire.get("/x").respond(json=1)
    async with make() as client:
        for _ in range(3):
            assert await client.request("GET", "/x") == 1
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warned] == ["telemetry raised an exception; the call goes on"]


# --- no credential anywhere

TOKEN, HEADER, QUERY, BODY = "dapi-canary-token-1", "canary-header-2", "canary-query-3", "canary-body-4"
CANARY = "canary"


def echoing(peer: Peer) -> None:
    """Refuses each request, and repeats all of it: in its message, its headers, its ids."""
    while request := peer.request():
        everything = " ".join([request.line, *request.headers.values(), request.body.decode("utf-8", "replace")])
        flat = everything.replace("\r", " ").replace("\n", " ")
        status = 503 if "retry" in request.line else 400
        peer.answer(
            {"error_code": flat, "message": flat},
            status,
            **{"x-request-id": flat[:2000], "served-model-name": flat[:2000]},
        )


async def test_no_credential_is_in_spans_metrics_or_logs(make, serve, make_seen, caplog):
    seen = make_seen()
    seen.instrument(content=True, propagate=True)
    caplog.set_level(logging.DEBUG)
    server = serve(echoing)
    headers = {"x-api-key": HEADER}
    async with make(server.host, TOKEN, headers=headers, retry=dbllm.Retry(attempts=3, backoff=0)) as client:
        calls = [
            lambda: client.endpoint("ep", task="chat").chat("hi", extra_body={"api_key": BODY}),
            lambda: client.endpoint("ep").stream_chat("hi", extra_body={"api_key": BODY}).final(),
            lambda: client.endpoint("ep", task="chat").complete("hi", extra_body={"api_key": BODY}),
            lambda: client.endpoint("ep").embed("hi"),
            lambda: client.request("POST", f"/api/retry?token={QUERY}", json={"password": BODY}),
            lambda: client.request("GET", f"/api/x?token={QUERY}"),
            lambda: client.secrets.put("scope", "key", BODY),
        ]
        for call in calls:
            with pytest.raises(dbllm.APIError):
                await call()
    assert len([span for span in seen.spans if span.instrumentation_scope.name == "dbllm"]) == len(calls)
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert CANARY not in seen.everything()
    assert CANARY not in logged
    assert CANARY in server.requests[0].headers["authorization"]  # it was planted


# --- what it costs


@pytest.mark.speed
def test_it_costs_little(wire, make_seen) -> None:
    """The figures are in tests/bench; this is a wide bound on one process."""
    answer = httpx.MockTransport(lambda request: httpx.Response(200, json=chat_answer()))
    client = dbllm.Client("https://h", "t", transport=answer)
    chat = client.endpoint("ep", task="chat").chat

    def seconds() -> float:
        began = time.thread_time()
        for _ in range(300):
            chat("hi")
        return time.thread_time() - began

    seen = make_seen()
    off = min(seconds() for _ in range(3))
    seen.instrument()
    on = min(seconds() for _ in range(3))
    client.close()
    assert (on - off) / 300 < 500e-6
