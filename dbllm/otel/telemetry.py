"""Spans and metrics of calls, made of what hooks are told."""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from dbllm import (
    AsyncStream,
    Attempt,
    AttemptRequest,
    ChatCompletion,
    Completion,
    Embeddings,
    Hooks,
    Predictions,
    Raw,
    RequestInfo,
    Response,
    ResponseInfo,
    TokenRefresh,
    __version__,
)
from dbllm.otel import names
from dbllm.otel.content import input_messages, output_messages

_ANSWERS = (AsyncStream, ChatCompletion, Completion, Embeddings, Predictions, Response)
_TOKENS = [names.USAGE[field] for field in names.TOKENS]
_SUPPRESSED = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


class _Totals:
    """Counters that are read when metrics are collected: to count costs a call little then.

    Args:
        meter: it has one of these, however often telemetry is turned on.
        names: of the counters, which have one set of attributes.
        unit: of all.
    """

    def __init__(self, meter: metrics.Meter, names: Sequence[str], unit: str) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[Any, ...], list[int]] = {}
        self._empty = [0] * len(names)
        for place, name in enumerate(names):
            meter.create_observable_counter(name, [partial(self._observe, place)], unit)

    def add(self, attributes: dict[str, Any], *counts: int | None) -> None:
        """Count, in the order of the names; None is nothing."""
        key = (*attributes, *attributes.values())
        with self._lock:
            sums = self._sums.get(key)
            if sums is None:
                sums = self._sums[key] = self._empty.copy()
            for place, count in enumerate(counts):
                if count:
                    sums[place] += count

    def _observe(self, place: int, _: metrics.CallbackOptions) -> list[metrics.Observation]:
        """What has been counted until now."""
        with self._lock:
            found = [(key, sums[place]) for key, sums in self._sums.items() if sums[place]]
        return [
            metrics.Observation(total, dict(zip(key[: len(key) // 2], key[len(key) // 2 :], strict=True)))
            for key, total in found
        ]


_by_meter: WeakKeyDictionary[Any, dict[tuple[str, ...], _Totals]] = WeakKeyDictionary()


def _totals(meter: metrics.Meter, unit: str, *names: str) -> _Totals:
    """The totals of these names: one for each meter, however often telemetry is turned on."""
    known = _by_meter.setdefault(meter, {})
    if names not in known:
        known[names] = _Totals(meter, names, unit)
    return known[names]


class _Observed:
    """A call: its span, and what all its metrics say of it. Without a span, another instrumentation counts it."""

    __slots__ = ("attributes", "outer", "span", "within")

    def __init__(self, span: Span | None, attributes: dict[str, Any], outer: Any = None) -> None:
        self.span, self.attributes, self.outer = span, attributes, outer
        self.within = trace.set_span_in_context(span) if span is not None else None


class Telemetry:
    """Makes a span of each call, and counts. Its methods are hooks."""

    def __init__(
        self, tracer_provider: Any, meter_provider: Any, content: bool, content_limit: int, propagates: bool
    ) -> None:
        self._tracer = trace.get_tracer("dbllm", __version__, tracer_provider)
        meter = metrics.get_meter("dbllm", __version__, meter_provider)
        self._content_limit = content_limit if content else 0
        self._propagates = propagates

        def histogram(name: str, unit: str, what: str) -> Any:
            buckets = names.SECONDS_BUCKETS if unit == "s" else names.TOKENS_BUCKETS
            return meter.create_histogram(name, unit, what, explicit_bucket_boundaries_advisory=buckets)

        self._duration = histogram(names.DURATION, "s", "Duration of a call to a model or an agent.")
        self._embeddings_duration = histogram(names.EMBEDDINGS_DURATION, "s", "Duration of a call for embeddings.")
        self._request_duration = histogram(names.REQUEST_DURATION, "s", "Duration of another request.")
        self._first_chunk = histogram(names.TIME_TO_FIRST_CHUNK, "s", "Time to the first event of a stream.")
        self._wait = histogram(names.LIMITS_WAIT, "s", "Time that an attempt waited for the client's Limits.")
        self._queue = histogram(names.CONNECTION_WAIT, "s", "Time that an attempt waited for a connection.")
        self._embeddings_tokens = histogram(
            names.EMBEDDINGS_TOKENS, "{token}", "Input tokens of a call for embeddings."
        )
        self._tokens = _totals(meter, "{token}", *names.TOKENS.values())
        self._retries = _totals(meter, "{retry}", names.RETRIES)
        self._changes = meter.create_counter(names.LIMITS_CHANGES, "{change}", "Changes of an adaptive limit.")
        self._concurrency = meter.create_gauge(names.LIMITS_CONCURRENCY, "{call}", "Calls at once that are allowed.")
        self._limits: dict[tuple[str, str], int] = {}
        self._collecting = False
        self.hooks = Hooks(
            on_request=self._begin,
            on_response=self._end,
            on_attempt=self._attempt,
            on_retry=self._retry,
            on_token_refresh=self._token_refresh,
            middleware=self._around,
        )

    def start(self) -> None:
        """Begin to watch the garbage collector; see `_end`."""
        gc.callbacks.append(self._note_collection)

    def stop(self) -> None:
        """Watch it no more."""
        gc.callbacks.remove(self._note_collection)

    def _note_collection(self, phase: str, info: object) -> None:
        self._collecting = phase == "start"

    def _begin(self, request: RequestInfo) -> None:
        around = context.get_current()
        if around.get(_SUPPRESSED):
            return
        address, port = _address(request.host)
        if request.operation == "request":
            method, path = request.name.split(" ", 1)
            attributes: dict[str, Any] = {names.METHOD: method, names.ADDRESS: address, names.PORT: port}
            span = self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes={**attributes, names.PATH: path})
            request.notes[self] = _Observed(span, attributes)
            return
        if around.get(names.SUPPRESSED_FOR_MODELS):
            return
        operation = names.OPERATIONS.get(request.operation, request.operation)
        attributes = {
            names.OPERATION: operation,
            names.PROVIDER_NAME: names.PROVIDER,
            names.MODEL: request.name,
            names.ADDRESS: address,
            names.PORT: port,
        }
        key = names.EMBEDDING_CONTEXT if request.operation == "embed" else names.INFERENCE_CONTEXT
        said = attributes | _parameters(request.body or {})
        if request.stream:
            said[names.STREAM] = True
        if operation == "invoke_agent":
            said[names.AGENT] = request.name
        if (outer := around.get(key)) is not None:
            request.notes[self] = _Observed(None, said, outer)
            return
        span = self._tracer.start_span(f"{operation} {request.name}", kind=SpanKind.CLIENT, attributes=said)
        if (limit := self._content_limit) and span.is_recording() and (text := input_messages(request.body, limit)):
            span.set_attribute(names.INPUT, text)
        request.notes[self] = _Observed(span, attributes)

    def _end(self, response: ResponseInfo) -> None:
        observed = response.request.notes.pop(self, None)
        if observed is None:
            return
        if self._collecting and response.outcome == "abandoned":
            # The collector may have come in the middle of an exporter's or a metric's own lock, in this thread.
            _thread.start_new_thread(self._finish, (observed, response))
        else:
            self._finish(observed, response)

    def _finish(self, observed: _Observed, response: ResponseInfo) -> None:
        span, reply = observed.span, response.reply
        try:
            if isinstance(reply, str):  # `complete` gives the text alone
                response = replace(response, **_behind(response.raw))
            said = _said_of(response)
            if span is None:
                _publish({**observed.attributes, **said}, observed.outer)
                return
            if span.is_recording():
                limit = self._content_limit
                if limit and (text := output_messages(reply, response.finish_reason, limit)):
                    said[names.OUTPUT] = text
                span.set_attributes(said)
                if response.outcome == "error":
                    span.set_status(Status(StatusCode.ERROR, said[names.ERROR]))
            self._count(response, observed.attributes, said, observed)
        finally:
            if span is not None:
                span.end()

    def _count(
        self, response: ResponseInfo, attributes: dict[str, Any], said: dict[str, Any], observed: _Observed
    ) -> None:
        for name in (names.RESPONSE_MODEL, names.ERROR):
            if name in said:
                attributes[name] = said[name]
        within, operation = observed.within, response.request.operation
        if operation == "request":
            self._request_duration.record(response.seconds, attributes, within)
            return
        usage = response.usage
        if operation == "embed":
            self._embeddings_duration.record(response.seconds, attributes, within)
            if usage is not None and usage.prompt_tokens is not None:
                self._embeddings_tokens.record(usage.prompt_tokens, attributes, within)
            return
        self._duration.record(response.seconds, attributes, within)
        if response.first_event is not None:
            self._first_chunk.record(response.first_event, attributes, within)
        if usage is not None:
            self._tokens.add(attributes, *map(said.get, _TOKENS))

    def _attempt(self, attempt: Attempt) -> None:
        observed = attempt.request.notes.get(self) if attempt.request is not None else None
        if attempt.limit is not None and attempt.request is not None:
            self._note_limit(attempt.request, attempt.limit)
        if observed is None or observed.span is None:
            return
        if attempt.waited > 0:
            self._wait.record(attempt.waited, observed.attributes, observed.within)
        if attempt.queued > 0:
            self._queue.record(attempt.queued, observed.attributes, observed.within)
        if observed.span.is_recording():
            observed.span.add_event(names.ATTEMPT, _event(attempt))

    def _note_limit(self, request: RequestInfo, limit: int) -> None:
        place = request.host, request.name
        if (before := self._limits.get(place)) != limit:
            if len(self._limits) >= 1000:
                self._limits.clear()
            self._limits[place] = limit
            attributes = {names.MODEL: request.name, names.ADDRESS: _address(request.host)[0]}
            self._concurrency.set(limit, attributes)
            if before is not None:
                self._changes.add(1, attributes)

    def _retry(self, attempt: Attempt) -> None:
        observed = attempt.request.notes.get(self) if attempt.request is not None else None
        if observed is not None and observed.span is not None:
            self._retries.add({**observed.attributes, names.ERROR: _error_type(attempt.error)}, 1)

    def _token_refresh(self, refresh: TokenRefresh) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            said = {"seconds": refresh.seconds}
            span.add_event(
                names.TOKEN_REFRESH,
                said if refresh.error is None else {**said, names.ERROR: _error_type(refresh.error)},
            )

    def _around(self, request: AttemptRequest, send: Any) -> Any:
        """An attempt within its span: whatever makes spans below (httpx's instrumentation) makes children of it."""
        observed = request.request.notes.get(self) if request.request is not None else None
        if observed is None or observed.within is None:
            return send(request)
        if self._propagates:
            headers = dict(request.headers)
            propagate.inject(headers, observed.within)
            request = AttemptRequest(request.method, request.path, request.number, headers, request.request)
        token = context.attach(observed.within)
        try:
            answer = send(request)
        finally:
            context.detach(token)
        return _within(observed.within, answer) if hasattr(answer, "__await__") else answer


async def _within(where: Any, sending: Any) -> Any:
    token = context.attach(where)
    try:
        return await sending
    finally:
        context.detach(token)


@lru_cache(maxsize=1000)
def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(host)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def _parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, value in body.items():
        if (known := names.REQUEST.get(name)) is not None:
            if isinstance(value, (int, float, str)):
                said[known] = value
        elif name == "stop":
            if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
                said[names.STOP] = tuple(value)
        elif name == "dimensions" and isinstance(value, int):
            said[names.DIMENSIONS] = value
    return said


def _said_of(response: ResponseInfo) -> dict[str, Any]:
    """What is known of a call at its end."""
    said: dict[str, Any] = {names.OUTCOME: response.outcome, names.ATTEMPTS: response.attempts}
    raw, reply, usage = response.raw, response.reply, response.usage
    if response.error is not None and response.outcome == "error":
        said[names.ERROR] = _error_type(response.error)
    if raw is not None:
        said[names.STATUS] = raw.status
        if (request_id := raw.request_id) is not None:
            said[names.REQUEST_ID] = request_id
    if response.request.operation == "request":
        return said
    if response.first_event is not None:
        said |= {names.FIRST_CHUNK: response.first_event, names.EVENTS: response.events}
    if response.finish_reason:
        said[names.FINISH_REASONS] = (response.finish_reason,)
    if usage is not None:
        for field, name in (names.USAGE if usage.model_extra else names.FEW_USAGE).items():
            if (count := getattr(usage, field)) is not None:
                said[name] = count
    if isinstance(reply, _ANSWERS):
        last = reply.last_received if isinstance(reply, AsyncStream) else vars(reply)  # of a stream, its last JSON
        for field, name in (("model", names.RESPONSE_MODEL), ("id", names.RESPONSE_ID)):
            if isinstance(last, Mapping) and isinstance(value := last.get(field), str):
                said[name] = value
        served = raw.headers.get("served-model-name") if raw is not None else None
        if served or (not isinstance(reply, AsyncStream) and (served := reply.served_model)):
            said[names.SERVED_MODEL] = served
        if (answered_by := reply.answered_by) and answered_by != response.request.name:
            said[names.ANSWERED_BY] = answered_by
    return said


def _behind(raw: Raw | None) -> dict[str, Any]:
    """What the answer behind a text says of itself, as the fields of a `ResponseInfo`."""
    try:
        completion = Completion.model_validate_json(raw.body if raw is not None else b"")
    except ValueError:  # it is no chat, no completion
        return {}
    return {"reply": completion, "usage": completion.usage, "finish_reason": completion.finish_reason}


def _event(attempt: Attempt) -> dict[str, Any]:
    said: dict[str, Any] = {"number": attempt.number, "seconds": attempt.seconds, names.PATH: attempt.path}
    if attempt.status is not None:
        said[names.STATUS] = attempt.status
    if attempt.error is not None:
        said[names.ERROR] = _error_type(attempt.error)
        if attempt.request_id is not None:  # of an answer the span has it
            said[names.REQUEST_ID] = attempt.request_id
    if attempt.wait is not None:
        said["wait"] = attempt.wait
    if attempt.waited:
        said["waited"] = attempt.waited
    if attempt.queued:
        said["queued"] = attempt.queued
    if attempt.hedge:
        said["hedge"] = True
    return said


def _error_type(error: BaseException | None) -> str:
    """A failure by what is the same for many: never by its message, which may repeat what was sent."""
    return type(error).__name__


def _publish(said: Mapping[str, Any], outer: Any) -> None:
    """Let the instrumentation that counts this call know what only we know."""
    for name, value in said.items():
        field = name.removeprefix("gen_ai.").replace(".", "_")
        if hasattr(outer, field):
            setattr(outer, field, list(value) if isinstance(value, tuple) else value)
