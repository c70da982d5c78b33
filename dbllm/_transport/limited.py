"""Holds the calls of a client to its limits: each attempt waits for a place and for its reservation."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from .._backends.backend import Backend
from .._http.pool import ConnectionLimiter
from .._protocol.reply import CallInfo
from ..errors import APIError, APITimeoutError
from .adaptive import AdaptiveConcurrency, FixedConcurrency, Outcome
from .limits import Cost, Limits, RateLimiter, Reservation
from .retry import classify

if TYPE_CHECKING:
    from .call import Call

log = logging.getLogger("dbllm.limits")

InfoT = TypeVar("InfoT", bound=CallInfo)
Attempt = Callable[["Call"], Awaitable[InfoT]]

_LONGEST_SLEEP = 1.0  # seconds: what other calls give back may let this one go earlier than it looked
_OVERLOADED = frozenset({429, 503, 529})
_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def outcome_of(error: APIError, method: str = "POST") -> Outcome:
    """Whether fewer calls at once would have helped: it was turned away, or not reached, or not answered in time."""
    unanswered = error.status is None and classify(error, method) in ("never sent", "ambiguous", "transient")
    return "lost" if error.status in _OVERLOADED or unanswered else "other"


class CallLimiter:
    """The limits of one endpoint, for all calls of a client. An attempt that waits to be repeated holds nothing."""

    @classmethod
    def among(cls, known: dict[tuple[str, Limits], CallLimiter], name: str, limits: Limits) -> CallLimiter:
        """The one of this name and these limits.

        Raises:
            TypeError: they are no `Limits`.
        """
        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be a dbllm.Limits, such as Limits(concurrency=8), got {limits!r:.80}.")
        return known.get((name, limits)) or known.setdefault((name, limits), cls(limits))

    def __init__(self, limits: Limits) -> None:
        self._limits, self._rates = limits, RateLimiter(limits)
        wanted = limits.concurrency
        self._concurrency: FixedConcurrency | None = None
        if wanted is not None:
            self._concurrency = FixedConcurrency(wanted) if isinstance(wanted, int) else AdaptiveConcurrency()
        # Each event loop has places of its own, as it has connections of its own.
        self._places: WeakKeyDictionary[Any, ConnectionLimiter] = WeakKeyDictionary()

    async def send(self, backend: Backend, origin: str, attempt: Attempt[InfoT], call: Call) -> InfoT:
        """One attempt, once the limits allow it.

        Raises:
            APITimeoutError: they do not before the call's deadline; nothing was sent.
        """
        call.waited = -backend.clock()
        if self._concurrency is None:
            return await self._send_reserved(backend, attempt, call)
        concurrency, place = self._concurrency, _Place()
        context = (await backend.pool(origin)).context
        places = self._places.setdefault(context, ConnectionLimiter(concurrency.limit(), context))
        left = call.deadline - backend.clock()
        if not await places.acquire(place, None if left == float("inf") else max(0.0, left)):
            raise _limits_error("all places of Limits(concurrency=…) are taken")
        began, outcome, call.limit = backend.clock(), "other", concurrency.limit()
        try:
            concurrency.started(began)
            info = await self._send_reserved(backend, attempt, call)
            outcome = "ok"
            return info
        except APIError as error:
            outcome = outcome_of(error, call.method)
            raise
        finally:
            now = backend.clock()
            concurrency.ended(now, places.in_use - 1, outcome, now - began)  # type: ignore[arg-type]
            if (limit := concurrency.limit()) != call.limit:
                log.debug("%s: %s calls at once instead of %s", call.logged, limit, call.limit)
            places.resize(limit)
            places.release(place)

    async def _send_reserved(self, backend: Backend, attempt: Attempt[InfoT], call: Call) -> InfoT:
        reservation = await self._reserve(backend, call)
        call.waited += backend.clock()
        try:
            info = await attempt(call)
        except APIError as error:
            if not error.sent or classify(error, call.method) == "throttled":
                self._rates.release(reservation)
            if error.status == 429 and error.retry_after:
                self._rates.park(backend.clock() + error.retry_after)
            raise
        if self._limits.counts_tokens:
            self._rates.settle(reservation, *_used_tokens(info.raw.body))
        return info

    async def _reserve(self, backend: Backend, call: Call) -> Reservation:
        cost = Cost(len(call.body or b""), _reserved_tokens(call.body) if self._limits.counts_tokens else None)
        async with backend.lock(f"limits {id(self)}", call.deadline):  # first come, first served
            while True:
                now = backend.clock()
                reserved = self._rates.reserve(cost, now)
                pause = 0.0 if self._concurrency is None else self._concurrency.pause(now)
                if isinstance(reserved, Reservation):
                    if not pause:
                        return reserved
                    self._rates.release(reserved)
                else:
                    pause = max(pause, reserved)
                if now >= call.deadline:
                    raise _limits_error("the client's Limits allow no further request now")
                await backend.sleep(min(pause, _LONGEST_SLEEP, call.deadline - now))


class _Place:
    """A place among the calls at once."""


def _limits_error(why: str) -> APITimeoutError:
    return APITimeoutError(why, hint="Allow more time with timeout=, send less, or raise the limits.", sent=False)


def _reserved_tokens(body: bytes | None) -> int | None:
    content = _json(body)
    rows = content.get("dataframe_records")
    for place in (content, content.get("params"), rows[0] if isinstance(rows, list) and rows else None):
        if isinstance(place, Mapping):
            for name in _MAX_TOKENS:
                if isinstance(value := place.get(name), int):
                    return value
    return None


def _used_tokens(body: bytes) -> tuple[int | None, int | None]:
    usage = _json(body).get("usage")
    said: Mapping[str, Any] = usage if isinstance(usage, Mapping) else {}
    given, made = (
        said.get("prompt_tokens", said.get("input_tokens")),
        said.get("completion_tokens", said.get("output_tokens")),
    )
    return given if isinstance(given, int) else None, made if isinstance(made, int) else None


def _json(body: bytes | None) -> Mapping[str, Any]:
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, Mapping) else {}
