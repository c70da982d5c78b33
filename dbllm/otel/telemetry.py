"""Spans and metrics of calls, made of what `Observers` tells."""

from __future__ import annotations

import _thread
import gc
from collections.abc import Mapping, Sequence
from functools import lru_cache
from time import time_ns
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from dbllm import AsyncStream, ChatCompletion, Completion, Embeddings, Predictions, Raw, Response, Usage, __version__
from dbllm.otel import names
from dbllm.otel.content import input_messages, output_messages
from dbllm.otel.counters import Counters, counters_of

_ANSWERS = (ChatCompletion, Completion, Embeddings, Predictions, Response, AsyncStream)
_TOKENS = [names.USAGE[field] for field in names.TOKENS]
_SUPPRESSED = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


class _Kind:
    """What all calls of an operation to an endpoint have in common; of other requests, those of a method to a host."""

    def __init__(self, operation: str, name: str, host: str, totals: Counters) -> None:
        self.operation, self.host, self.name = operation, host, name
        address, port = _address(host)
        if operation == "request":
            self.span_name = name
            self.attributes: dict[str, Any] = {names.METHOD: name}
        else:
            said = names.OPERATIONS.get(operation, operation)
            self.span_name = f"{said} {name}"
            self.attributes = {names.OPERATION: said, names.PROVIDER_NAME: names.PROVIDER, names.MODEL: name}
        self.attributes |= {names.ADDRESS: address, names.PORT: port}
        agent = {names.AGENT: name} if self.attributes.get(names.OPERATION) == "invoke_agent" else {}
        self.of_span = self.attributes | agent
        self.outer_key = names.EMBEDDING_CONTEXT if operation == "embed" else names.INFERENCE_CONTEXT
        self._totals = totals
        self._counted: dict[tuple[str | None, str | None], tuple[dict[str, Any], list[int]]] = {}

    def counted(self, model: str | None, error: str | None) -> tuple[dict[str, Any], list[int]]:
        """The attributes of the metrics of a call that ends like this, and the sums of its tokens."""
        if (found := self._counted.get((model, error))) is None:
            attributes = {**self.attributes}
            if model is not None:
                attributes[names.RESPONSE_MODEL] = model
            if error is not None:
                attributes[names.ERROR] = error
            _bounded(self._counted)[model, error] = found = attributes, self._totals.sums(attributes)
        return found


def _bounded(cache: dict[Any, Any]) -> dict[Any, Any]:
    """The same, with a place for one more."""
    if len(cache) >= 1000:
        cache.clear()
    return cache


class Telemetry:
    """Makes a span of each call, and counts: a `Tracer`, as clients call it."""

    def __init__(
        self, tracer_provider: Any, meter_provider: Any, content: bool, content_limit: int, propagates: bool
    ) -> None:
        self._tracer = trace.get_tracer("dbllm", __version__, tracer_provider)
        meter = metrics.get_meter("dbllm", __version__, meter_provider)
        self.content_limit = content_limit if content else 0
        self.propagates = propagates

        def histogram(name: str, unit: str, what: str) -> Any:
            buckets = names.SECONDS_BUCKETS if unit == "s" else names.TOKENS_BUCKETS
            return meter.create_histogram(name, unit, what, explicit_bucket_boundaries_advisory=buckets)

        self._duration = histogram(names.DURATION, "s", "Duration of a call to a model or an agent.")
        self._embeddings_duration = histogram(names.EMBEDDINGS_DURATION, "s", "Duration of a call for embeddings.")
        self._request_duration = histogram(names.REQUEST_DURATION, "s", "Duration of another request.")
        self._first_chunk = histogram(names.TIME_TO_FIRST_CHUNK, "s", "Time to the first event of a stream.")
        self.wait = histogram(names.LIMITS_WAIT, "s", "Time that an attempt waited for the client's Limits.")
        self.queue = histogram(names.CONNECTION_WAIT, "s", "Time that an attempt waited for a connection.")
        self._embeddings_tokens = histogram(
            names.EMBEDDINGS_TOKENS, "{token}", "Input tokens of a call for embeddings."
        )
        self._tokens = counters_of(meter, "{token}", *names.TOKENS.values())
        self.retries = counters_of(meter, "{retry}", names.RETRIES)
        self._changes = meter.create_counter(names.LIMITS_CHANGES, "{change}", "Changes of an adaptive limit.")
        self._concurrency = meter.create_gauge(names.LIMITS_CONCURRENCY, "{call}", "Calls at once that are allowed.")
        self._limits: dict[tuple[str, str], int] = {}
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self.collecting = False

    def start(self) -> None:
        """Begin to watch the garbage collector; see `_Trace.end`."""
        gc.callbacks.append(self._note_collection)

    def stop(self) -> None:
        """Watch it no more."""
        gc.callbacks.remove(self._note_collection)

    def _note_collection(self, phase: str, info: object) -> None:
        self.collecting = phase == "start"

    def begin(
        self, operation: str, name: str, host: str, stream: bool = False, body: Mapping[str, Any] | None = None
    ) -> _Trace | None:
        """A call begins; None where it is not to be seen."""
        around = context.get_current()
        if around and (around.get(_SUPPRESSED) or (operation != "request" and around.get(names.SUPPRESSED_FOR_MODELS))):
            return None
        name, _, path = name.partition(" ") if operation == "request" else (name, "", "")
        if (kind := self._kinds.get((operation, name, host))) is None:
            _bounded(self._kinds)[operation, name, host] = kind = _Kind(operation, name, host, self._tokens)
        said = {**kind.of_span}
        if operation == "request":
            said[names.PATH] = path
        else:
            if body:
                _add_parameters(said, body)
            if stream:
                said[names.STREAM] = True
            if around and (outer := around.get(kind.outer_key)) is not None:
                return _Trace(self, kind, None, None, said, outer)
        span = self._tracer.start_span(kind.span_name, around, SpanKind.CLIENT, said)
        if (limit := self.content_limit) and span.is_recording() and (text := input_messages(body, limit)):
            span.set_attribute(names.INPUT, text)
        return _Trace(self, kind, span, trace.set_span_in_context(span, around))

    def count(
        self,
        kind: _Kind,
        model: str | None,
        failure: str | None,
        seconds: float,
        first_event: float | None,
        tokens: Sequence[int | None],
        within: Any,
    ) -> None:
        """A call has ended: its metrics."""
        attributes, sums = kind.counted(model, failure)
        if kind.operation == "request":
            self._request_duration.record(seconds, attributes, within)
        elif kind.operation == "embed":
            self._embeddings_duration.record(seconds, attributes, within)
            if tokens and tokens[0] is not None:
                self._embeddings_tokens.record(tokens[0], attributes, within)
        else:
            self._duration.record(seconds, attributes, within)
            if first_event is not None:
                self._first_chunk.record(first_event, attributes, within)
            if tokens:
                self._tokens.add(sums, tokens)

    def note_limit(self, kind: _Kind, limit: int) -> None:
        """How many calls at once an adaptive limit allows."""
        place = kind.host, kind.name
        if (before := self._limits.get(place)) != limit:
            _bounded(self._limits)[place] = limit
            attributes = {names.MODEL: kind.name, names.ADDRESS: _address(kind.host)[0]}
            self._concurrency.set(limit, attributes)
            if before is not None:
                self._changes.add(1, attributes)

    def token_refresh(self, seconds: float, lifetime: float | None = None, error: BaseException | None = None) -> None:
        """A token was fetched, or could not be."""
        span = trace.get_current_span()
        if span.is_recording():
            said: dict[str, Any] = {"seconds": seconds}
            span.add_event(names.TOKEN_REFRESH, said if error is None else {**said, names.ERROR: _error_type(error)})


class _Trace:
    """A call: its span, and what all its metrics say of it. Without a span, another instrumentation counts it."""

    __slots__ = ("_alone", "_kind", "_outer", "_said", "_telemetry", "span", "within")

    def __init__(
        self, telemetry: Telemetry, kind: _Kind, span: Span | None, within: Any, said: Any = None, outer: Any = None
    ) -> None:
        self._telemetry, self._kind, self.span, self.within = telemetry, kind, span, within
        self._said, self._outer = said, outer  # where another instrumentation counts it
        self._alone: tuple[Any, ...] | None = ()  # the first attempt, as long as it is the only one and went well

    def begin_attempt(self, headers: Mapping[str, str]) -> tuple[Any, Mapping[str, str]]:
        """An attempt begins. Whatever makes spans below (httpx's instrumentation) makes children of this one.

        Where that is asked for, the trace's context is sent with it.
        """
        if self.within is None:
            return None, headers
        if self._telemetry.propagates:
            headers = dict(headers)
            propagate.inject(headers, self.within)
        return context.attach(self.within), headers

    def end_attempt(self, mark: Any, queued: float, *said: Any) -> None:
        """It has ended; `said` is empty if it was cancelled."""
        if mark is not None and (said or context.get_current() is self.within):
            context.detach(
                mark
            )  # not where the coroutine was closed from elsewhere: the context that it ran in is gone
        if said:
            self._attempt(queued, *said)

    def _attempt(
        self,
        queued: float,
        method: str,
        path: str,
        number: int,
        seconds: float,
        status: int | None,
        request_id: str | None,
        error: BaseException | None,
        wait: float | None,
        hedge: bool,
        waited: float,
        limit: int | None,
    ) -> None:
        """How it ended: an event of the span. An attempt that went well and stays the only one needs none."""
        telemetry, span = self._telemetry, self.span
        if limit is not None:
            telemetry.note_limit(self._kind, limit)
        if span is None:
            return
        if self._alone == () and error is None and not (waited or queued or hedge or number > 1):
            self._alone = path, seconds, status, time_ns()
            return
        if self._alone:
            span.add_event(names.ATTEMPT, _event(1, *self._alone[:3]), self._alone[3])
        self._alone, said = None, _event(number, path, seconds, status)
        if error is not None:
            said[names.ERROR] = kind = _error_type(error)
            if request_id is not None:  # of an answer the span has it
                said[names.REQUEST_ID] = request_id
            if wait is not None:
                said["wait"] = wait
                telemetry.retries.add(telemetry.retries.sums({**self._kind.attributes, names.ERROR: kind}), [1])
        if waited:
            said["waited"] = waited
            telemetry.wait.record(waited, self._kind.attributes, self.within)
        if queued:
            said["queued"] = queued
            telemetry.queue.record(queued, self._kind.attributes, self.within)
        if hedge:
            said["hedge"] = True
        if span.is_recording():
            span.add_event(names.ATTEMPT, said)

    def end(
        self,
        outcome: str,
        seconds: float,
        reply: Any,
        error: BaseException | None,
        raw: Raw | None,
        attempts: int,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        first_event: float | None = None,
        events: int = 0,
        elsewhere: bool = False,
    ) -> None:
        """How the call ended: the fields of a `ResponseInfo` after `request`."""
        kind, span = self._kind, self.span
        if outcome == "abandoned" and self._telemetry.collecting and not elsewhere:
            # The collector may have come in the middle of an exporter's or a metric's own lock, in this thread.
            said_of_it = outcome, seconds, reply, error, raw, attempts, usage, finish_reason, first_event, events
            _thread.start_new_thread(self.end, (*said_of_it, True))
            return
        try:
            failure = _error_type(error) if error is not None and outcome == "error" else None
            text = reply
            if isinstance(reply, str) and (reply := _behind(raw)) is not None:  # `complete` gives the text alone
                usage, finish_reason = reply.usage, reply.finish_reason
            last = _last_json(reply) if kind.operation != "request" else None
            model = last.get("model") if last is not None else None
            model = model if isinstance(model, str) else None
            counts: Sequence[int | None] = ()
            if usage is not None:
                counts = usage.prompt_tokens, usage.completion_tokens
                if usage.model_extra:
                    counts = *counts, usage.cached_tokens, usage.reasoning_tokens
            if span is None or span.is_recording():
                said: dict[str, Any] = {names.OUTCOME: outcome, names.ATTEMPTS: attempts}
                if failure is not None:
                    said[names.ERROR] = failure
                if raw is not None:
                    said[names.STATUS] = raw.status
                    if (request_id := raw.request_id) is not None:
                        said[names.REQUEST_ID] = request_id
                if self._alone:
                    said[names.PATH] = self._alone[0]
                if first_event is not None:
                    said[names.FIRST_CHUNK], said[names.EVENTS] = first_event, events
                if finish_reason:
                    said[names.FINISH_REASONS] = (finish_reason,)
                for name, count in zip(_TOKENS, counts, strict=False):
                    if count is not None:
                        said[name] = count
                if last is not None and reply is not None:
                    if model is not None:
                        said[names.RESPONSE_MODEL] = model
                    if isinstance(answer_id := last.get("id"), str):
                        said[names.RESPONSE_ID] = answer_id
                    served = raw.headers.get("served-model-name") if raw is not None else None
                    if served or (first_event is None and reply.model_extra and (served := reply.served_model)):
                        said[names.SERVED_MODEL] = served
                    if (answered_by := reply.answered_by) and answered_by != kind.name:
                        said[names.ANSWERED_BY] = answered_by
                if span is None:
                    _publish({**self._said, **said}, self._outer)
                    return
                limit = self._telemetry.content_limit
                if limit and (shown := output_messages(text, finish_reason, limit)):
                    said[names.OUTPUT] = shown
                span.set_attributes(said)
                if failure is not None:
                    span.set_status(Status(StatusCode.ERROR, failure))
            self._telemetry.count(kind, model, failure, seconds, first_event, counts, self.within)
        finally:
            if span is not None:
                span.end()


@lru_cache(maxsize=1000)
def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(host)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def _event(number: int, path: str, seconds: float, status: int | None) -> dict[str, Any]:
    said = {"number": number, "seconds": seconds, names.PATH: path}
    return said if status is None else {**said, names.STATUS: status}


def _add_parameters(said: dict[str, Any], body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if (known := names.REQUEST.get(name)) is not None:
            if isinstance(value, (int, float, str)):
                said[known] = value
        elif name == "stop":
            if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
                said[names.STOP] = tuple(value)
        elif name == "dimensions" and isinstance(value, int):
            said[names.DIMENSIONS] = value


def _last_json(reply: Any) -> Mapping[str, Any] | None:
    """What an answer says of itself; of a stream, its last piece."""
    if not isinstance(reply, _ANSWERS):
        return None
    last: Any = reply.last_received if isinstance(reply, AsyncStream) else vars(reply)
    return last if isinstance(last, Mapping) else {}


def _behind(raw: Raw | None) -> Completion | None:
    """What the answer behind a text says of itself; None: it is no chat, no completion."""
    try:
        return Completion.model_validate_json(raw.body if raw is not None else b"")
    except ValueError:
        return None


def _error_type(error: BaseException | None) -> str:
    """A failure by what is the same for many: never by its message, which may repeat what was sent."""
    return type(error).__name__


def _publish(said: Mapping[str, Any], outer: Any) -> None:
    """Let the instrumentation that counts this call know what only we know."""
    for name, value in said.items():
        field = name.removeprefix("gen_ai.").replace(".", "_")
        if hasattr(outer, field):
            setattr(outer, field, list(value) if isinstance(value, tuple) else value)
