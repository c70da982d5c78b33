"""What hooks and telemetry cost a call: `python tests/bench/telemetry.py`; it needs opentelemetry-sdk.

One plain client calls a server of fixed answers, in rounds that go from row to row, so that what else the machine does
falls on all alike. A row is CPU time of this process per call, less that of the row without hooks in the same round;
the median counts. The control is that row once more. The spans go to a BatchSpanProcessor whose exporter drops them.
"Off" is measured apart, for it is less than two rounds differ: the steps that a call without hooks takes for them.
"""

from __future__ import annotations

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
from processes import server

from dbllm import Client, Hooks, otel

ROUNDS, CALLS = 9, 300
MOST_OFF, MOST_ON = 2.0, 60.0  # microseconds
ALONE = "OpenTelemetry's SDK alone, for the same span and duration"


class Dropping(SpanExporter):
    """Exports to nowhere."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def off(client: Client) -> float:
    """Microseconds that a call without hooks spends on looking for some."""
    core: Any = client._core
    endpoint, transport = core.endpoint("e", task="chat"), core._transport
    call = endpoint._options.call(transport.backend.clock() + 60, "/x", {})

    def answer(*_: Any) -> None: ...

    def cost(step: Callable[[], Any], bare: Callable[[], Any]) -> float:
        return min(timeit.repeat(step, number=20_000, repeat=7)) - min(timeit.repeat(bare, number=20_000, repeat=7))

    seconds = cost(lambda: endpoint._watched("chat", {}, None, answer, answer), lambda: answer(endpoint, answer))
    seconds += cost(lambda: transport._begin(call, answer).close(), lambda: transport._carry(call, answer).close())
    seconds += min(timeit.repeat(lambda: transport.observers, number=20_000, repeat=7))
    return seconds / 20_000 * 1e6


def sdk_alone(tracers: TracerProvider, meters: MeterProvider) -> Callable[[], None]:
    """What OpenTelemetry itself takes for the span, the event and the duration of such a call."""
    tracer, duration = tracers.get_tracer("bench"), meters.get_meter("bench").create_histogram("duration", "s")
    few = {"operation": "chat", "provider": "databricks", "model": "ep", "address": "127.0.0.1", "port": 8765}
    more = {"outcome": "ok", "attempts": 1, "status": 200, "request": "r-1", "answer": "m", "id": "c1"}
    more |= {"input": 3, "output": 2, "reasons": ("stop",)}
    event = {"number": 1, "seconds": 0.1, "path": "/serving-endpoints/ep/invocations", "status": 200}

    def once() -> None:
        span = tracer.start_span("chat ep", kind=SpanKind.CLIENT, attributes={**few, "temperature": 0.5})
        within = set_span_in_context(span)
        span.add_event("attempt", event)
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
    with server() as (host, _):
        plain, hooked = Client(host, "t"), Client(host, "t", hooks=hooks)
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
                client, options = rows[name]
                if options is not None:
                    otel.instrument(tracer_provider=tracers, meter_provider=meters, **options)
                chat = client.endpoint("ep", task="chat").chat
                also = once if name == ALONE else int
                began = time.process_time()
                for _ in range(CALLS):
                    chat("hi", temperature=0.5)
                    also()
                spent = (time.process_time() - began) / CALLS * 1e6
                otel.uninstrument()
                if number:  # the first round warms up
                    found[name].append(spent)
        nothing = off(plain)
        plain.close()
        hooked.close()
    base = found.pop("without")
    print("| a call | µs more | least | most |\n|---|---|---|---|")
    print(f"| looking for hooks where there are none (at most {MOST_OFF:g}) | {nothing:.2f} | | |")
    print(f"| (a call without hooks: {median(base):.0f} µs) | | | |")
    medians = {}
    for name, costs in found.items():
        more = [cost - bare for cost, bare in zip(costs, base, strict=True)]
        medians[name] = median(more)
        print(f"| {name} | {medians[name]:.1f} | {min(more):.1f} | {max(more):.1f} |")
    tracers.shutdown()
    meters.shutdown()
    ours = medians["telemetry"] - medians[ALONE]
    print(f"| telemetry above the SDK alone (at most {MOST_ON:g}) | {ours:.1f} | | |")
    sys.exit(nothing > MOST_OFF or ours > MOST_ON)


if __name__ == "__main__":
    main()
