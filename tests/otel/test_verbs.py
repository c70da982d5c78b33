"""Each verb, in each outcome, has one span without a credential; three ways, on the wire of each kind of endpoint."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

import dbllm
from dbllm import bulk
from dbllm.otel import names
from dbllm.testing import Scripted

RETRY = dbllm.Retry(backoff=0, budget=False)
TOKEN = "a-token-that-must-not-be-seen"


@pytest.fixture
def models() -> Iterator[Scripted]:
    made = Scripted()
    made.start()
    made.task("text", "completions")
    made.task("custom", "custom")
    yield made
    made.close()
    assert made.flaws == []


def app(client: Any) -> Any:
    return client.driver_app(7777, "cluster")


# Of verbs that are awaited: the span's name, and the call.
VERBS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "chat": ("chat m", lambda client: client.endpoint("m").chat("hi")),
    "chat with a service": ("chat system.ai.m", lambda client: client.endpoint("system.ai.m").chat("hi")),
    "complete": ("text_completion text", lambda client: client.endpoint("text").complete("hi")),  # and a look-up
    "generate": ("text_completion m", lambda client: client.endpoint("m").generate("hi")),
    "respond": ("invoke_agent a", lambda client: client.endpoint("a").respond("hi")),
    "embed": ("embeddings e", lambda client: client.endpoint("e").embed(["a", "b", "c"])),
    "embed in batches": ("embeddings e", lambda client: client.endpoint("e").embed(["a", "b", "c"], batch_size=1)),
    "predict": ("predict custom", lambda client: client.endpoint("custom").predict(inputs=[1])),
    "complete of a custom model": ("text_completion custom", lambda client: client.endpoint("custom").complete("hi")),
    "driver app": ("text_completion cluster:7777", lambda client: app(client).complete("hi")),
    "agent": ("invoke_agent my-agent", lambda client: client.agent("my-agent").respond("hi")),  # and a look-up
    "agent's text": ("invoke_agent my-agent", lambda client: client.agent("my-agent").complete("hi")),
    "agent's run": ("start_run my-agent", lambda client: client.agent("my-agent").start("hi")),
    "request": (
        "POST",
        lambda client: client.request("POST", "/serving-endpoints/m/invocations", json={"messages": []}),
    ),
    "fallback": ("chat m", lambda client: client.endpoint("m", fallback=["n"]).chat("hi")),
}
STREAMS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "stream_chat": ("chat m", lambda client: client.endpoint("m").stream_chat("hi")),
    "stream_complete": ("text_completion text", lambda client: client.endpoint("text").stream_complete("hi")),
    "stream_respond": ("invoke_agent a", lambda client: client.endpoint("a").stream_respond("hi")),
    "driver app": ("text_completion cluster:7777", lambda client: app(client).stream_complete("hi")),
    "agent": ("invoke_agent my-agent", lambda client: client.agent("my-agent").stream_respond("hi")),
}


def write_answers(models: Scripted, times: int | None = None) -> None:
    models.reply("one two three four", times=times)
    models.embed([1.0], times=times)


TRUSTING = {"agent's run, bad JSON", "request, bad JSON"}  # they read no answer: it is no failure of theirs
OUTCOMES: dict[str, tuple[str, Callable[[Scripted], None]]] = {  # of the span, and what is answered
    "value": ("ok", lambda models: None),
    "400": ("error", lambda models: models.error(400, TOKEN, times=3)),
    "retry": ("ok", lambda models: models.error(503, TOKEN)),
    "outage": ("error", lambda models: models.error(503, TOKEN, times=40)),
    "bad JSON": ("error", lambda models: models.json(b"{", times=3)),
}


async def attempted(call: Any) -> None:
    try:
        await call
    except (dbllm.APIError, dbllm.ConfigError):
        return


def judged(spans: list[Any], name: str, outcome: str) -> object:
    """What is wrong with the spans of one call."""
    told = [(span.name, span.attributes[names.OUTCOME]) for span in spans]
    if told != [(name, outcome)]:
        return told
    shown = spans[0].to_json()
    return [what for what in (TOKEN, "Bearer") if what in shown]


async def test_every_verb_has_one_span_in_every_outcome(make, models, seen, caplog):
    caplog.set_level(logging.DEBUG)
    wrong: dict[str, Any] = {}
    for outcome, (told, prepare) in OUTCOMES.items():
        for verb, (name, call) in VERBS.items():
            models._script._answers.clear()
            prepare(models)
            write_answers(models)
            async with make(models.host, TOKEN, retry=RETRY) as client:
                await attempted(call(client))
            if flaw := judged(seen.take(), name, "ok" if f"{verb}, {outcome}" in TRUSTING else told):
                wrong[f"{verb}, {outcome}"] = flaw
        for verb, (name, call) in STREAMS.items():
            models._script._answers.clear()
            prepare(models)
            write_answers(models)
            async with make(models.host, TOKEN, retry=RETRY) as client:
                stream = call(client)  # which is not closed
                await attempted(stream.final())
                if flaw := judged(seen.take(), name, told):
                    wrong[f"stream: {verb}, {outcome}"] = flaw
    assert wrong == {}
    assert TOKEN not in json.dumps([record.getMessage() for record in caplog.records])
    data = seen.reader.get_metrics_data()
    assert TOKEN not in data.to_json()


async def test_every_stream_has_one_span_however_it_ends(make, models, seen):
    async def cut(stream: Any) -> None:
        await attempted(stream.final())

    async def close_early(stream: Any) -> None:
        async with stream:
            async for _ in stream:
                return

    async def drop(stream: Any) -> None:
        async for _ in stream:
            break

    ways: dict[str, tuple[str, Callable[[Any], Any], str | None]] = {
        "cut": ("error", cut, "stream_cut"),
        "an error event": ("error", cut, "error_frame"),
        "closed early": ("abandoned", close_early, None),
        "dropped": ("abandoned", drop, None),
    }
    wrong: dict[str, Any] = {}
    for way, (told, read, fault) in ways.items():
        for verb, (name, call) in STREAMS.items():
            if fault == "error_frame" and verb == "driver app":
                continue  # its wire has no such event
            models._script._answers.clear()
            models.reply("one two three four", fault=fault)
            write_answers(models)
            async with make(models.host, TOKEN, retry=dbllm.Retry(attempts=1)) as client:
                await read(call(client))
                gc.collect()
                assert seen.exporter.arrived.acquire(timeout=30)
            if verb == "agent" and fault == "stream_cut":
                told = "ok"  # an agent's stream goes on where it broke
            if flaw := judged(seen.take(), name, told):
                wrong[f"{verb}, {way}"] = flaw
            told = ways[way][0]
    assert wrong == {}


async def test_every_verb_has_one_span_when_it_is_cancelled(make, models, mode, seen):
    if mode == "sync":
        pytest.skip("plain code has no cancellation")
    wrong: dict[str, Any] = {}
    calls = {**VERBS, **{f"stream: {verb}": (name, lambda client, call=call: call(client).final())
                         for verb, (name, call) in STREAMS.items()}}  # fmt: skip
    for verb, (name, call) in calls.items():
        models._script._answers.clear()
        models.reply("late", first_token=600, times=None)
        models.embed([1.0], times=None)
        if "embed" in verb or verb == "agent's run":
            continue  # vectors and runs come at once, perhaps before the cancellation
        async with make(models.host, TOKEN) as client:
            before = len(models.calls)
            async with anyio.create_task_group() as group:
                group.start_soon(attempted, call(client))
                while len(models.calls) == before:  # noqa: ASYNC110 - the server has no event for it
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()
        if flaw := judged(seen.take(), name, "cancelled"):
            wrong[verb] = flaw
    assert wrong == {}


async def test_an_agents_run_has_a_span_for_each_of_its_calls(make, models, seen):
    write_answers(models)
    async with make(models.host, TOKEN) as client:
        run = await client.agent("my-agent").start("hi")
        await run.status()
        assert (await run.result()).text == "one two three four"
        await run.events().final()
    told = [span.name.partition(" ")[0] for span in seen.take()]
    assert told == ["start_run", "GET", "run_result", "run_events"]


def test_each_attempt_of_a_row_of_bulk_has_one_span(models: Scripted, seen: Any) -> None:
    async def run() -> list[bulk.RowResult]:
        async with dbllm.AsyncClient(models.host, TOKEN) as client:
            return [row async for row in bulk.rows(client.endpoint("m"), ["one", "two", "three"], retry=RETRY)]

    models.error(429, retry_after=0.001)
    write_answers(models)
    assert sorted(row.output for row in asyncio.run(run())) == ["one two three four"] * 3
    spans = seen.take()
    told = sorted((span.name, span.attributes[names.OUTCOME]) for span in spans)
    looked_up, refused, *answered = told  # bulk repeats by itself, and lets other rows go first
    assert (looked_up, refused) == (("GET", "ok"), ("text_completion m", "error"))
    assert answered == [("text_completion m", "ok")] * 3
