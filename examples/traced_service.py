"""A service whose calls are traced: each request and the model's call within it are spans, printed as lines.

dbllm up                                  # in another terminal
eval "$(dbllm env)"
python traced_service.py

It needs `pip install 'dbllm[otel]' opentelemetry-sdk`. In production, give OpenTelemetry your collector in place of
`Lines` (opentelemetry-exporter-otlp), and keep the one line that turns dbllm's telemetry on. Texts stay out of the
spans unless you ask for them: `otel.instrument(content=True)`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from dbllm import APIError, AsyncClient, DbllmError, Retry, otel

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")
SHOWN = ("gen_ai.usage.output_tokens", "gen_ai.response.time_to_first_chunk", "dbllm.attempts", "error.type")


class Lines(SpanExporter):
    """Prints spans: name, milliseconds, and some of what they say."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
            said = {name.rpartition(".")[2]: value for name, value in (span.attributes or {}).items() if name in SHOWN}
            print(f"{'  ' * bool(span.parent)}{span.name}: {milliseconds:.0f} ms {said}", flush=True)
        return SpanExportResult.SUCCESS


async def answer(client: AsyncClient, endpoint: str, question: str) -> str:
    """One request of the service, with a span of its own."""
    with trace.get_tracer("service").start_as_current_span("answer"):
        async with client.endpoint(endpoint).stream_chat(question, max_tokens=30) as stream:
            return (await stream.final()).text


async def main() -> None:
    """Trace three requests; the last one goes to an endpoint that does not exist."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Lines()))  # exports beside the calls, not within them
    trace.set_tracer_provider(provider)
    otel.instrument()  # the one line: before or after clients are made
    try:
        async with AsyncClient(timeout=60, retry=Retry(attempts=3)) as client:
            await asyncio.gather(*(answer(client, CHAT, f"Name a {thing}.") for thing in ("river", "colour")))
            try:
                await answer(client, "no-such-endpoint", "Name a city.")
            except APIError as error:
                print(f"an error: HTTP {error.status}")
    finally:
        provider.shutdown()  # exports what is left


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        asyncio.run(main())
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
