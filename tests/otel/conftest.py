"""What dbllm.otel makes, in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

try:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
except ImportError:  # the tests' own package is not installed
    collect_ignore_glob = ["test_*.py"]
    InMemorySpanExporter: Any = object


class Exporter(InMemorySpanExporter):
    """Keeps spans, and counts them for who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Semaphore(0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self.arrived.release(len(spans))
        return result


class Seen:
    """Spans that have ended, and what has been measured."""

    def __init__(self) -> None:
        self.exporter, self.reader = Exporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def instrument(self, **options: Any) -> None:
        """Turn dbllm's telemetry on, into this."""
        from dbllm import otel

        otel.instrument(tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def take(self) -> list[ReadableSpan]:
        """The spans since the last time."""
        spans = self.spans
        self.exporter.clear()
        return spans

    def metrics(self) -> dict[str, list[Any]]:
        """The points of each metric."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def everything(self) -> str:
        """All of it as text."""
        data = self.reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + (data.to_json() if data else "")


@pytest.fixture
def make_seen() -> Iterator[Callable[[], Seen]]:
    from dbllm import otel

    made: list[Seen] = []

    def start() -> Seen:
        made.append(Seen())
        return made[-1]

    yield start
    otel.uninstrument()
    for each in made:
        each.tracer_provider.shutdown()
        each.meter_provider.shutdown()


@pytest.fixture
def seen(make_seen: Callable[[], Seen]) -> Seen:
    made = make_seen()
    made.instrument()
    return made
