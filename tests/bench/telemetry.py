"""What hooks and telemetry cost a call: `python tests/bench/telemetry.py`; it needs opentelemetry-sdk.

One plain client calls an endpoint whose answer is in memory (a socket costs more than what is measured here, and varies
more), in many short rounds that go from row to row, so that what else the machine does falls on all alike. A row is CPU
time of this thread per call. What counts is the least of its rounds, less that of the row without hooks; the median of
the differences within a round stands beside it. The control is that row once more. The spans go to a BatchSpanProcessor
whose exporter drops them. The SDK's row makes the same span and records the same duration by hand, with as many
attributes: what a call takes beyond that is dbllm's own. "Off" is measured apart, for it is less than two rounds
differ: the steps that a call without hooks takes for them.
"""

from __future__ import annotations

import json
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, set_span_in_context

from dbllm import Client, Hooks, Raw, otel

ROUNDS, CALLS = 80, 50
MOST_OFF, MOST_OWN = 2.0, 30.0  # microseconds
ALONE = "OpenTelemetry's SDK alone, for the same span and duration"


class Memory:
    """In the place of a pool of connections: it has the answer."""

    body = json.dumps(
        {
            "id": "c1",
            "model": "m",
            "choices": [{"message": {"role": "assistant", "content": "Hi there."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    ).encode()

    async def send(self, _: object) -> Raw:
        return Raw(200, {"content-type": "application/json", "x-request-id": "r-1"}, self.body)


def client(**options: Any) -> Client:
    """One whose calls are answered from memory."""
    made = Client("http://127.0.0.1:9", "t", **options)

    async def pool(_: str) -> Memory:
        return Memory()

    made._core._transport.backend.pool = pool  # type: ignore[attr-defined]
    return made


class Dropping(SpanExporter):
    """Exports to nowhere."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def off(caller: Client) -> float:
    """Microseconds that a call without hooks spends on looking for some: for the verb, and for its request."""
    transport: Any = caller._core._transport  # type: ignore[attr-defined]

    async def work() -> None: ...

    def read(value: None) -> None: ...

    async def bare() -> None:
        return read(await work())

    def run(coroutine: Any) -> None:
        try:
            coroutine.send(None)
        except StopIteration:
            return

    watched = least(lambda: run(transport.watch((), work, read))) - least(lambda: run(bare()))
    return watched + least(lambda: transport.observers) - least(lambda: transport.closed)


def least(step: Callable[[], Any], number: int = 2_000, repeat: int = 150) -> float:
    """Microseconds that a step takes, the least of some measurements."""
    return min(timeit.repeat(step, number=number, repeat=repeat)) / number * 1e6


def sdk_alone(tracers: TracerProvider, meters: MeterProvider) -> Callable[[], None]:
    """What OpenTelemetry itself takes for the span and the duration of such a call."""
    tracer, duration = tracers.get_tracer("bench"), meters.get_meter("bench").create_histogram("duration", "s")
    few = {"operation": "chat", "provider": "databricks", "model": "ep", "address": "127.0.0.1", "port": 8765}
    more = {"outcome": "ok", "attempts": 1, "status": 200, "request": "r-1", "answer": "m", "id": "c1"}
    more |= {"input": 3, "output": 2, "reasons": ("stop",), "path": "/serving-endpoints/ep/invocations"}

    def once() -> None:
        span = tracer.start_span("chat ep", kind=SpanKind.CLIENT, attributes={**few, "temperature": 0.5})
        within = set_span_in_context(span)
        span.set_attributes(more)
        duration.record(0.1, {**few, "answer": "m"}, within)
        span.end()

    return once


def main() -> None:
    """Measure and print; a figure that is too high ends this with 1."""
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Dropping(), max_queue_size=1_000_000))
    meters = MeterProvider([InMemoryMetricReader()])
    hooks = Hooks(**{item.name: (lambda _: None) for item in fields(Hooks) if item.name != "middleware"})
    once = sdk_alone(tracers, meters)
    plain, hooked = client(), client(hooks=hooks)
    rows: dict[str, tuple[Client, dict[str, Any] | None]] = {
        "without": (plain, None),
        "without, once more (the control)": (plain, None),
        "six hooks that do nothing": (hooked, None),
        ALONE: (plain, None),
        "telemetry": (plain, {}),
        "telemetry with texts": (plain, {"content": True}),
    }
    found: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(ROUNDS + 1):
        for name in list(rows) if number % 2 else list(rows)[::-1]:
            caller, options = rows[name]
            if options is not None:
                otel.instrument(tracer_provider=tracers, meter_provider=meters, **options)
            chat = caller.endpoint("ep", task="chat").chat
            also = once if name == ALONE else int
            began = time.thread_time()
            for _ in range(CALLS):
                chat("hi", temperature=0.5)
                also()
            spent = (time.thread_time() - began) / CALLS * 1e6
            otel.uninstrument()
            if number:  # the first round warms up
                found[name].append(spent)
    nothing = off(plain)
    plain.close()
    hooked.close()
    base = found.pop("without")
    print("| a call | µs more, least of all rounds | median |\n|---|---|---|")
    print(f"| looking for hooks where there are none (at most {MOST_OFF:g}) | {nothing:.2f} | |")
    print(f"| (a call without hooks) | {min(base):.0f} | {median(base):.0f} |")
    more = {name: min(costs) - min(base) for name, costs in found.items()}
    for name, costs in found.items():
        middle = median(cost - bare for cost, bare in zip(costs, base, strict=True))
        print(f"| {name} | {more[name]:.1f} | {middle:.1f} |")
    tracers.shutdown()
    meters.shutdown()
    ours = more["telemetry"] - more[ALONE]
    print(f"| dbllm's own part: telemetry less the SDK alone (at most {MOST_OWN:g}) | {ours:.1f} | |")
    sys.exit(nothing > MOST_OFF or ours > MOST_OWN)


if __name__ == "__main__":
    main()
