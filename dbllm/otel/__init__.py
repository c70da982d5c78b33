"""OpenTelemetry: a span for each call, and metrics, by the conventions for generative AI. It needs the extra `otel`.

`instrument()` turns it on, for all clients of the process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dbllm._misnomers import explain_keywords, missing_name
from dbllm._transport.call import tracers
from dbllm.otel.names import CONTENT_VARIABLE, CONVENTIONS

try:
    from dbllm.otel.telemetry import Telemetry
except ImportError as missing:
    if (missing.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ImportError("dbllm.otel needs the extra otel: pip install 'dbllm[otel]'") from missing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["CONVENTIONS", "instrument", "uninstrument"]

_active: list[Telemetry] = []


@explain_keywords
def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    content: bool | None = None,
    content_limit: int = 8000,
    propagate: bool = False,
) -> None:
    """Make a span of each call, and metrics, for all clients of this process, whether made before or after.

    A span covers a whole call: look-ups, attempts, pauses, batches of texts to embed, further endpoints, and a stream
    to its end. Its name is the operation and the endpoint ("chat my-endpoint"). Attempts are its events, unless one
    request was answered at once: then the span itself says all of it. An agent's run has one for each call about it
    (start, result, events); bulk and Spark repeat by themselves, so each attempt of a row has one. Called again, this
    replaces what was turned on before.

    Where an instrumentation of LangChain's counts a call already (OpenTelemetry's, which stands on util-genai, or
    OpenLLMetry's), dbllm does not: util-genai's span gets what only dbllm knows.

    Args:
        tracer_provider, meter_provider: where to; default: OpenTelemetry's global ones, also if they are set later.
            With a BatchSpanProcessor a collector that hangs holds up no call, with a SimpleSpanProcessor it does.
        content: put prompts and answers into the spans; default: False, unless the variable
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is true, span_only or span_and_event.
        content_limit: the most characters of messages in one attribute.
        propagate: send the trace's context (`traceparent`) with each attempt, so that what runs behind the endpoint
            can go on with it.

    Raises:
        ImportError: the extra `otel` is not installed.
        TypeError: an argument is of the wrong kind. What was turned on before stays so.
    """
    for name, given, method in (
        ("tracer_provider", tracer_provider, "get_tracer"),
        ("meter_provider", meter_provider, "get_meter"),
    ):
        if given is not None and not callable(getattr(given, method, None)):
            raise TypeError(f"{name} must have a method {method}, as OpenTelemetry's have, got {given!r:.80}.")
    for name, flag in (("content", content), ("propagate", propagate)):
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r:.80}.")
    if isinstance(content_limit, bool) or not isinstance(content_limit, int):
        raise TypeError(f"content_limit must be a number of characters, got {content_limit!r:.80}.")
    if content is None:
        content = os.environ.get(CONTENT_VARIABLE, "").strip().lower() in ("true", "span_only", "span_and_event")
    telemetry = Telemetry(tracer_provider, meter_provider, content, max(0, content_limit), propagate)
    uninstrument()
    telemetry.start()
    _active.append(telemetry)
    tracers.append(telemetry)


def uninstrument() -> None:
    """Turn it off. A call that is under way ends its span."""
    while _active:
        telemetry = _active.pop()
        telemetry.stop()
        tracers.remove(telemetry)


if not TYPE_CHECKING:  # a type checker finds the mistake by itself

    def __getattr__(name: str) -> object:
        raise missing_name(__name__, name, __all__)
