"""How much may be sent: requests and tokens in a time, and how many calls at once. Pure decisions, the time is passed.

Databricks reserves a request's input tokens and its `max_tokens` when the request comes, over a sliding window of 60
seconds, and gives back what the answer did not use. `RateLimiter` does the same, so that nothing is sent that would be
refused: see https://docs.databricks.com/aws/en/machine-learning/foundation-model-apis/limits.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .._misnomers import explain_fields
from ..errors import PublicPickle

BYTES_A_TOKEN = 3.6  # of English text; corrected by what the server reports
_WINDOW_MARGIN = 0.5  # seconds: the server counts from when a request arrives, which is later than when it is sent
BURST = 1 / 6  # of a quota may be used at once; the rest is spread over the window


@explain_fields
@dataclass(frozen=True, slots=True)
class Limits(PublicPickle):
    """What one endpoint may be sent. None means that there is no such limit.

    Attributes:
        requests_per_minute, requests_per_hour: how many requests, over a sliding minute and hour.
        input_tokens_per_minute: estimated before a request is sent, corrected by the usage in the answer.
        output_tokens_per_minute: reserved as `max_tokens`, and given back where the answer is shorter.
        concurrency: how many calls at once; "adaptive" finds out how many serve best.
        default_max_tokens: what is reserved for a request that does not say `max_tokens`.
    """

    requests_per_minute: float | None = None
    requests_per_hour: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    concurrency: int | Literal["adaptive"] | None = None
    default_max_tokens: int = 1000

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "requests_per_hour", "input_tokens_per_minute", "output_tokens_per_minute"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < float("inf")):
                raise ValueError(f"Limits: {name} must be a number above 0, or None (no limit), got {value!r}.")
        for name in ("concurrency", "default_max_tokens"):
            value = getattr(self, name)
            if value is None or (value == "adaptive" and name == "concurrency"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                more = ', "adaptive" or None' if name == "concurrency" else ""
                raise ValueError(f"Limits: {name} must be an integer, 1 or more{more}, got {value!r}.")

    @property
    def counts_tokens(self) -> bool:
        """Whether there is a limit of tokens."""
        return self.input_tokens_per_minute is not None or self.output_tokens_per_minute is not None


class Cost(NamedTuple):
    """What is known of a request before it is sent: the bytes of its input, and its `max_tokens`."""

    input_bytes: int
    max_tokens: int | None = None


@dataclass(slots=True, eq=False)
class Reservation:
    """What one request holds of each quota. It expires with the window, so a lost one blocks nothing for ever."""

    at: float
    estimate: float  # of input tokens, before the correction
    held: list[float]  # of the window of each quota
    expected: list[float]  # of the bucket of each quota
    counted: list[bool]  # whether the window of each quota still holds it
    open: bool = True


@dataclass(slots=True, eq=False)
class _Quota:
    """One limit: a sliding window that is never exceeded, and a bucket that spreads its use over the window."""

    name: str
    limit: float
    seconds: float
    used: float = 0.0
    level: float = field(init=False)
    at: float | None = None
    entries: deque[Reservation] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.level = self.limit * BURST

    def advance(self, now: float, place: int) -> None:
        if self.at is not None:
            self.refill(max(0.0, now - self.at) * self.limit / self.seconds)
        self.at = now
        while self.entries and self.entries[0].at <= now - self.seconds - _WINDOW_MARGIN:
            gone = self.entries.popleft()
            self.used -= gone.held[place]
            gone.counted[place] = False
        if not self.entries:
            self.used = 0.0  # no error of rounding stays

    def refill(self, amount: float) -> None:
        self.level = min(self.limit * BURST, self.level + amount)

    def wait(self, amount: float, expected: float, now: float, place: int) -> float:
        """Seconds until the amount fits. What is more than the whole quota may go when nothing else is counted."""
        need = min(expected, self.limit * BURST)
        pause = max(0.0, (need - self.level) * self.seconds / self.limit)
        excess, freed = self.used + amount - self.limit, 0.0
        if excess > 1e-9:
            for entry in self.entries:
                freed += entry.held[place]
                pause = max(pause, entry.at + self.seconds + _WINDOW_MARGIN - now)
                if freed >= excess:
                    break
        return pause


_NOTHING = Reservation(0.0, 0.0, [], [], [], open=False)  # where there is no limit


class RateLimiter:
    """Reserves what a request needs of each quota, and gives back what it did not use. Threads may share it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        quotas = (
            ("requests", limits.requests_per_minute, 60.0),
            ("requests", limits.requests_per_hour, 3600.0),
            ("input", limits.input_tokens_per_minute, 60.0),
            ("output", limits.output_tokens_per_minute, 60.0),
        )
        self._quotas = [_Quota(name, limit, seconds) for name, limit, seconds in quotas if limit is not None]
        self._lock = threading.Lock()
        self._parked_until = float("-inf")
        self._input_ratio = self._output_ratio = 1.0  # tokens that were used, of those estimated and of `max_tokens`

    def park(self, until: float) -> None:
        """Send nothing before that time: the server asked for it."""
        self._parked_until = max(self._parked_until, until)

    def reserve(self, cost: Cost, now: float) -> Reservation | float:
        """A reservation, or the seconds after which to ask again."""
        if now < self._parked_until:
            return self._parked_until - now
        if not self._quotas:
            return _NOTHING
        with self._lock:
            estimate = cost.input_bytes / BYTES_A_TOKEN
            most = cost.max_tokens or self.limits.default_max_tokens
            amounts = {"requests": 1.0, "input": estimate * self._input_ratio, "output": float(most)}
            usual = {**amounts, "output": most * self._output_ratio}
            held = [amounts[quota.name] for quota in self._quotas]
            expected = [usual[quota.name] for quota in self._quotas]
            pause = 0.0
            for place, quota in enumerate(self._quotas):
                quota.advance(now, place)
                pause = max(pause, quota.wait(held[place], expected[place], now, place))
            if pause > 1e-6:  # seconds: less is an error of rounding
                return pause
            reservation = Reservation(now, estimate, held, expected, [True] * len(held))
            for place, quota in enumerate(self._quotas):
                quota.used += held[place]
                quota.level -= expected[place]
                quota.entries.append(reservation)
            return reservation

    def settle(
        self, reservation: Reservation, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> None:
        """The answer has come: count what it used in place of what was reserved. What is unknown stays reserved."""
        if not reservation.open:
            return
        with self._lock:
            if input_tokens is not None and reservation.estimate > 0:
                self._input_ratio += 0.1 * (input_tokens / reservation.estimate - self._input_ratio)
            for place, quota in enumerate(self._quotas):
                used = {"input": input_tokens, "output": output_tokens}.get(quota.name)
                if used is None:
                    continue
                if quota.name == "output" and reservation.held[place]:
                    self._output_ratio += 0.1 * (min(1.0, used / reservation.held[place]) - self._output_ratio)
                self._correct(quota, reservation, place, float(used))
            reservation.open = False

    def release(self, reservation: Reservation) -> None:
        """Nothing was used: the request never reached the server, or was turned away."""
        with self._lock:
            if reservation.open:
                for place, quota in enumerate(self._quotas):
                    self._correct(quota, reservation, place, 0.0)
                reservation.open = False

    def _correct(self, quota: _Quota, reservation: Reservation, place: int, used: float) -> None:
        quota.refill(reservation.expected[place] - used)
        if reservation.counted[place]:
            quota.used += used - reservation.held[place]
            reservation.held[place] = used
