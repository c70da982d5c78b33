"""Whether and when to try again. The decisions are pure; tenacity runs the loop.

Who may be sent twice: a failed attempt is one of these.

  class        what failed                                                   again on POST    on GET, PUT,  tokens
                                                                                              DELETE
  never sent   no connection came about                                      the first at     the first     1
                                                                             once             at once
               a kept-alive one had been closed meanwhile: no byte of an     the first at     the first     0
               answer, and its end was there within the time its own dial    once, over a     at once
               took, at least 50 ms (later counts as sent)                   new connection
  throttled    429 with a hint (Retry-After) of more than 0                  yes, after it    yes           1/3
               429 without one; 503, 529                                     yes              yes           1
  transient    500, 502: it may have run; 408: it was not received whole     yes              yes           1
  ambiguous    504, time-out, reset, a head that cannot be read, a body      no, unless       yes           1
               that breaks, once the request was sent: it may have run       retry_ambiguous
               and been paid
  final        every other answer                                            no               no            0

`x-should-retry: true | false` from the server overrules the class of a status. A stream is a POST up to its first
event; after that it is never sent again.

The retry budget (as gRPC's, A6): each endpoint of a client has 90 tokens at first, and at most 100. A failed attempt
takes some, as the last column says; a success gives half a token back. At 50 or below nothing is tried again. So it
closes where more than a third of the attempts fail, and after 40 to 50 failures: an outage gets no storm. Below that
(30 %, say) it stays open, and so it does for a script whose few calls fail several times each. A kept-alive connection
that was closed costs nothing, because it says nothing about the server; a 429 with a hint costs a third (botocore: 5 to
14), because a server that says when to come back is up, but a wall of them must close it, too. After a minute without a
call there are 90 again.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from .._lazy import WholeImport
from .._misnomers import explain_fields
from ..errors import APIConnectionError, APIError, APIStatusError, APITimeoutError, PublicPickle, StreamInterruptedError

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from .health import EndpointHealth

log = logging.getLogger("dbllm.retry")

T = TypeVar("T")
FailureClass = Literal["never sent", "throttled", "transient", "ambiguous", "final"]

_THROTTLED = frozenset({429, 503, 529})
_TRANSIENT = frozenset({408, 500, 502})
_THROTTLED_CODES = frozenset(
    {"429", "503", "529", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "TEMPORARILY_UNAVAILABLE"}
)
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value  # no NaN


@explain_fields
@dataclass(frozen=True, slots=True)
class Retry(PublicPickle):
    """How often, and after which waits, a call is tried again.

    Attributes:
        attempts: the most attempts, the first included; `Retry(attempts=1)` never tries again. If more than one is
            allowed, a first attempt that surely never reached the server does not count.
        backoff: seconds; before attempt n+1 the wait is uniform in 0 … min(max_backoff, backoff * 2**(n-1)), four times
            that for throttling.
        max_backoff: the longest wait, in seconds, without a server's hint (or with one of next to nothing).
        max_retry_after: the longest Retry-After, in seconds, that is waited for; a longer one fails the call.
        retry_ambiguous: send a POST again even if the model may have run (and been paid) already.
        budget: make no further attempt while more than a third of the recent attempts at this endpoint fail, so that an
            outage is not answered by a storm of retries. False tries again regardless of other calls.
        breaker: refuse calls to an endpoint at once, without sending them, when half or more of at least 20 attempts
            within 30 seconds failed; after 5 seconds one call is let through, and its success ends this. The refusal is
            an `APIConnectionError` whose `retry_after` is the time that is left. Final failures and a 429 with
            Retry-After do not count as failures.
        hedge: seconds after which a GET or a request for embeddings that has not been answered is sent a second time;
            the first answer counts, and the other request is ended. "p95" is the time within which 95 % of the last 100
            calls were answered. At most 5 % more requests are made, and none while the budget is closed. `AsyncClient`
            only: in plain code, which does one thing at a time, it has no effect.
    """

    attempts: int = 4
    backoff: float = 0.25
    max_backoff: float = 8.0
    max_retry_after: float = 60.0
    retry_ambiguous: bool = False
    budget: bool = True
    breaker: bool = False
    hedge: float | Literal["p95"] | None = None

    def __post_init__(self) -> None:
        if not (self.hedge in (None, "p95") or (_is_seconds(self.hedge) and cast("float", self.hedge) > 0)):
            raise ValueError(f"Retry: hedge must be more than 0 seconds, 'p95' or None, got {self.hedge!r}.")
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"Retry: attempts must be an integer, 1 or more, got {self.attempts!r}.")
        for name in ("retry_ambiguous", "budget", "breaker"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Retry: {name} must be True or False, got {getattr(self, name)!r}.")
        for name in ("backoff", "max_backoff", "max_retry_after"):
            value = getattr(self, name)
            if not _is_seconds(value) or value < 0 or (name == "backoff" and value == float("inf")):
                raise ValueError(f"Retry: {name} must be 0 seconds or more, got {value!r}.")


@explain_fields
@dataclass(frozen=True, slots=True)
class Timeout(PublicPickle):
    """How long a call may take, in seconds; None means no limit.

    Attributes:
        total: the whole call: waiting for a connection, all attempts and the waits between them. For a stream, up to
            its first event.
        connect: TCP and TLS of one connection.
        read: from one event of a stream to the next.
        queue: waiting for a free connection while `max_connections` are in use; None waits as long as `total` allows.
    """

    total: float | None = 300.0  # Databricks ends an execution after 297 s
    connect: float | None = 10.0
    read: float | None = 60.0
    queue: float | None = None

    def __post_init__(self) -> None:
        for name in ("total", "connect", "read", "queue"):
            value = getattr(self, name)
            if value is not None and not (_is_seconds(value) and value > 0):
                raise ValueError(f"Timeout: {name} must be more than 0 seconds or None (no limit), got {value!r}.")

    @classmethod
    def of(cls, value: float | Timeout) -> Timeout:
        """A `Timeout` from what users may pass: a number is the total.

        Raises:
            ValueError: it is something else, or 0 or less.
        """
        if isinstance(value, Timeout):
            return value
        if not isinstance(value, (int, float)):
            raise ValueError(f"timeout must be seconds, a number, or a dbllm.Timeout, got {value!r:.80}.")
        return cls(total=value)


def classify(error: BaseException, method: str) -> FailureClass:
    """The class of a failed attempt; what is ambiguous on a POST is transient on a method that may be repeated."""
    if isinstance(error, StreamInterruptedError):  # before the first chunk: later ones are raised to the caller
        return "throttled" if error.error_code in _THROTTLED_CODES else "ambiguous"
    ambiguous: FailureClass = "transient" if method in IDEMPOTENT else "ambiguous"
    if isinstance(error, (APIConnectionError, APITimeoutError)):
        return ambiguous if error.sent else "never sent"
    if isinstance(error, APIStatusError):
        wish = error.raw.headers.get("x-should-retry", "").lower() if error.raw else ""
        if wish == "false":
            return "final"
        if error.status in _THROTTLED:
            return "throttled"
        if error.status in _TRANSIENT or wish == "true":
            return "transient"
        if error.status == 504:  # not sent: it was a token that did not come, not the call
            return ambiguous if error.sent else "transient"
    if isinstance(error.__cause__, zlib.error):  # the body's framing was whole, but not what is compressed in it
        return ambiguous
    return "final"


def may_send_again(error: BaseException, retry: Retry, method: str = "POST") -> bool:
    """Whether a call that failed like this may be sent once more, there or to another endpoint."""
    kind = classify(error, method)
    return kind != "final" and (kind != "ambiguous" or retry.retry_ambiguous)


def retry_delay(
    error: BaseException, *, failures: int, method: str, retry: Retry, draw: Callable[[], float] = random.random
) -> float | None:
    """Seconds to wait before the next attempt, or None: this failure is the last.

    Args:
        error: the failure.
        failures: how many attempts have failed, this one included.
        method: HTTP method.
        retry: the policy.
        draw: uniform numbers in 0 … 1.
    """
    kind = classify(error, method)
    if not may_send_again(error, retry, method) or failures >= retry.attempts:
        return None
    if kind == "never sent" and failures <= 1:
        return 0.0
    hint = error.retry_after if isinstance(error, APIError) else None
    if hint is not None and hint > retry.max_retry_after:
        return None
    scale = retry.backoff * (4 if kind == "throttled" else 1)
    pause = draw() * min(retry.max_backoff, scale * 2.0 ** min(failures - 1, 60))
    if hint is None:
        return pause
    # A tenth more at random, so that all who were sent away together do not come back together. "At once" (0, or a date
    # that has passed) does not shorten the usual pause: it would be four attempts in some milliseconds.
    wait = hint * (1 + 0.1 * draw())
    return wait if hint >= scale else max(wait, pause)


def failure_cost(kind: FailureClass, error: APIError) -> float:
    """What the retry budget pays for a failed attempt, in tokens."""
    if kind == "final" or (kind == "never sent" and not error.unreachable):
        return 0.0
    return 1 / 3 if error.status == 429 and error.retry_after else 1.0


class FailedAttempts:
    """The failed attempts of one call, and whether another follows.

    Args:
        method: HTTP method.
        retry: the policy.
        deadline: when the call has to end, on `clock`.
        clock: seconds.
        health: the endpoint's counts, budget and breaker.
        began: when the call began.
        what: what is called, for the log.
    """

    def __init__(
        self,
        method: str,
        retry: Retry,
        deadline: float,
        clock: Callable[[], float],
        health: EndpointHealth,
        began: float,
        what: str = "a call",
    ) -> None:
        self.errors: list[APIError] = []
        self.pause: float | None = None
        self._method, self._retry, self._deadline, self._clock = method, retry, deadline, clock
        self._health, self._began, self._what = health, began, what

    def pause_after(self, error: APIError) -> float | None:
        """Count a failure: seconds until the next attempt, or None if this was the last. It may be asked again."""
        if self.errors and self.errors[-1] is error:
            return self.pause
        self.errors.append(error)
        kind = classify(error, self._method)
        cost = failure_cost(kind, error)
        now, retry, health = self._clock(), self._retry, self._health
        health.attempt_failed(kind, cost, now)
        if retry.breaker:
            health.watch(self._began, now, cost >= 1)
        if kind == "never sent" and len(self.errors) == 1 and retry.attempts > 1:  # one that never got there is free
            retry = self._retry = replace(retry, attempts=retry.attempts + 1)
        pause = retry_delay(error, failures=len(self.errors), method=self._method, retry=retry)
        if pause is None or now + pause >= self._deadline:
            pause = None
        elif retry.breaker and health.is_open_at(now + pause):
            error.gave_up, pause = "the circuit breaker of this endpoint is open", None
        elif retry.budget and cost and not health.may_retry:
            error.gave_up, pause = "most recent calls to this endpoint fail", None
            health.deny()
        self.pause = pause
        if pause is not None:
            self._log(error, pause, kind)
        return pause

    def _log(self, error: APIError, pause: float, kind: FailureClass) -> None:
        # What a server says of its error may repeat the prompt, and stays out.
        own = isinstance(error, (APIConnectionError, APITimeoutError))
        reason = f"{type(error).__name__}: {error.detail if own else error.error_code or error.status or kind}"[:200]
        done = len(self.errors), self._retry.attempts
        more = {"reason": reason, "attempt": done[0], "attempts": done[1], "wait": pause, "status": error.status}
        log.warning("%s: attempt %d of %d failed (%s), next in %.2f s", self._what, *done, reason, pause, extra=more)


async def retry_call(
    attempt: Callable[[], Awaitable[T]],
    failed: FailedAttempts,
    first: APIError,
    sleep: Callable[[float], Awaitable[None]],
) -> tuple[T, int]:
    """Go on after a first attempt has failed; returns the result and the number of attempts.

    A call that succeeds at once never comes here: entering tenacity costs more than such a call.

    Raises:
        APIError: the last failure; its `previous` has the earlier ones. If the next wait would end after the deadline,
            it is raised at once.
    """
    before = [first]

    async def next_attempt() -> T:
        if before:
            raise before.pop()
        return await attempt()

    def wanted(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        # An interrupt, a cancellation or a bug is never repeated.
        return isinstance(error, APIError) and failed.pause_after(error) is not None

    with WholeImport():
        from tenacity import AsyncRetrying  # imported here: a program whose calls succeed does not need it

    loop = AsyncRetrying(sleep=sleep, retry=wanted, wait=lambda _: failed.pause or 0.0, reraise=True)
    try:
        return await loop(next_attempt), len(failed.errors) + 1
    except APIError as error:
        error.attempts = len(failed.errors)
        error.previous = tuple(failed.errors[:-1])
        raise
    finally:
        failed.errors.clear()  # they have this frame in their tracebacks: a cycle would keep them
