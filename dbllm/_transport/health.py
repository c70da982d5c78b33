"""How an endpoint has been lately: its retry budget, its circuit breaker, and what is counted for `client.stats()`.

Everything here is counted without a lock. CPython switches threads, and lets an interrupt in, only at calls and at
jumps back, and no count has one between its reading and its writing: a line counts once, or not at all. (Without a GIL
a count may be lost; the budget does not depend on one.) A forked child goes on from its parent's counts.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

from .._lazy import WholeImport
from ..errors import APIConnectionError

if TYPE_CHECKING:
    from .retry import FailureClass
    from .stats import EndpointStats

# With 80 a failure rate of 30 % closes the budget now and then; with 100 it did not within 500,000 calls.
MAX_TOKENS = 100.0
FIRST_TOKENS = 90.0  # an endpoint that nothing is known of yet costs at most 40 failures
FORGET_AFTER = 60.0  # seconds without a call or a failure: retries are no storm then
MAX_ENDPOINTS = 1000  # of which a client keeps counts; paths with ids in them have no end

HEDGE_EVERY = 20  # requests: at most one in twenty is sent twice
MIN_TIMES, MAX_TIMES = 20, 100  # of the answers of which 95 % are as quick as "p95"
WINDOW, MIN_CALLS, OPEN_SECONDS = 30, 20, 5.0  # of a breaker, as `Retry.breaker` says


class Counts:
    """What has happened, at one endpoint or at all of a client's."""

    __slots__ = ("breaker_opens", "calls", "denied", "failed", "failures", "hedges", "refused", "retries")

    def __init__(self) -> None:
        self.calls = self.failed = self.retries = self.hedges = self.denied = self.refused = self.breaker_opens = 0
        kinds: tuple[FailureClass, ...] = ("never sent", "throttled", "transient", "ambiguous", "final")
        self.failures = dict.fromkeys(kinds, 0)

    def snapshot(self) -> EndpointStats:
        """The counts as a value."""
        with WholeImport():
            from .stats import EndpointStats

        return EndpointStats(
            self.calls,
            self.failed,
            self.calls - self.refused + self.retries + self.hedges,
            self.retries,
            {kind: count for kind, count in self.failures.items() if count},
            self.denied,
            self.refused,
            self.breaker_opens,
            self.hedges,
        )


class EndpointHealth(Counts):
    """One endpoint: its counts, which its client's `total` has as well; its budget and its breaker."""

    __slots__ = ("_earned", "_last_used", "_open_until", "_opened", "_seconds", "times", "tokens", "total")

    def __init__(self, total: Counts) -> None:
        super().__init__()
        self.total = total
        self.tokens = FIRST_TOKENS
        self.times: deque[float] = deque(maxlen=MAX_TIMES)  # of attempts that might have been hedged, in seconds
        self._earned = 0  # attempts that might have been hedged, less those that pay for a hedge
        self._last_used = self._opened = self._open_until = 0.0
        self._seconds: deque[list[int]] = deque(maxlen=WINDOW)  # [second, attempts, failures]

    @property
    def last_used(self) -> float:
        """When the last call began, or its last attempt failed."""
        return self._last_used

    def begin_call(self, now: float) -> None:
        """A call begins."""
        if now - self._last_used > FORGET_AFTER:
            self.tokens = FIRST_TOKENS
        self._last_used = now
        self.calls, self.total.calls = self.calls + 1, self.total.calls + 1

    def attempt_succeeded(self) -> None:
        """An attempt, or a hedge, was answered."""
        self.tokens = self.tokens + 0.5 if self.tokens < MAX_TOKENS else MAX_TOKENS

    def attempt_failed(self, kind: FailureClass, cost: float, now: float) -> None:
        """An attempt, or a hedge, failed; `cost` is what the budget pays for it."""
        self._last_used = now
        self.failures[kind], self.total.failures[kind] = self.failures[kind] + 1, self.total.failures[kind] + 1
        self.tokens = self.tokens - cost if self.tokens > cost else 0.0

    @property
    def may_retry(self) -> bool:
        """Whether the budget has anything left."""
        return self.tokens > MAX_TOKENS / 2

    def call_failed(self) -> None:
        """A call has ended in an error."""
        self.failed, self.total.failed = self.failed + 1, self.total.failed + 1

    def deny(self) -> None:
        """The budget has denied a retry."""
        self.denied, self.total.denied = self.denied + 1, self.total.denied + 1

    def begin_retry(self) -> None:
        """A further attempt begins."""
        self.retries, self.total.retries = self.retries + 1, self.total.retries + 1

    # --- hedging ---

    def hedge_delay(self, hedge: float | Literal["p95"] | None) -> float | None:
        """An attempt begins that may be hedged: after how many seconds, or None while that is not known."""
        self._earned = min(self._earned + 1, 10 * HEDGE_EVERY)  # a long quiet time is no licence for a storm
        if hedge != "p95":
            return hedge
        times = sorted(self.times)
        return times[len(times) * 95 // 100] if len(times) >= MIN_TIMES else None

    def may_hedge(self) -> bool:
        """Whether a second request may be sent now; it is counted."""
        if self._earned < HEDGE_EVERY or not self.may_retry:
            return False
        self._earned -= HEDGE_EVERY
        self.hedges, self.total.hedges = self.hedges + 1, self.total.hedges + 1
        return True

    # --- the breaker ---

    def admit(self, now: float) -> None:
        """APIConnectionError while the breaker is open; once it has been open long enough, one call is let through."""
        if now >= self._open_until:
            if self._open_until:
                self._opened, self._open_until = now, now + OPEN_SECONDS  # until this call has ended, or for as long
            return
        self.refused, self.total.refused = self.refused + 1, self.total.refused + 1
        left = self._open_until - now
        raise APIConnectionError(
            "most recent calls to this endpoint failed, so that it is called no more for a while (circuit breaker)",
            hint=f"Call again in {left:.1f} s; Retry(breaker=False) calls at once.",
            retry_after=left,
            sent=False,
        )

    def is_open_at(self, time: float) -> bool:
        """Whether the breaker will still be open."""
        return time < self._open_until

    def watch(self, began: float, now: float, failed: bool) -> None:
        """An attempt of a call with a breaker has ended."""
        if self._open_until:
            if began < self._opened:  # it began before the breaker opened, and tells nothing new
                return
            if not failed:
                self._seconds.clear()
                self._open_until = 0.0
                return
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][1] += 1
        self._seconds[-1][2] += failed
        if failed and (self._open_until or self._is_failing(second)):
            self._opened, self._open_until = now, now + OPEN_SECONDS
            self.breaker_opens += 1
            self.total.breaker_opens += 1

    def _is_failing(self, second: int) -> bool:
        recent = [entry for entry in tuple(self._seconds) if entry[0] > second - WINDOW]
        attempts = sum(entry[1] for entry in recent)
        return attempts >= MIN_CALLS and 2 * sum(entry[2] for entry in recent) >= attempts


class HealthRecords:
    """The endpoints that a client has called, by path (origin and model too, where the path does not say them)."""

    def __init__(self) -> None:
        self.total = Counts()
        self._endpoints: dict[str, EndpointHealth] = {}

    def of(self, origin: str | None, path: str, model: str | None = None) -> EndpointHealth:
        """The record of an endpoint, by its path without the query; many models share the paths of the AI Gateway."""
        key = path if "?" not in path else path.split("?", 1)[0]
        if origin is not None:
            key = origin + key
        if model is not None:
            key = f"{key} {model}"
        return self._endpoints.get(key) or self._add(key)

    def _add(self, key: str) -> EndpointHealth:
        if len(self._endpoints) >= MAX_ENDPOINTS:  # a tenth goes at once, for to find the oldest takes a while
            known = sorted(self._endpoints.items(), key=lambda item: item[1].last_used)
            for oldest, _ in known[: MAX_ENDPOINTS // 10]:
                self._endpoints.pop(oldest, None)
        return self._endpoints.setdefault(key, EndpointHealth(self.total))

    def snapshot(self) -> dict[str, EndpointStats]:
        """The counts of each endpoint."""
        return {key: health.snapshot() for key, health in list(self._endpoints.items())}
