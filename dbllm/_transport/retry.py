"""Whether and when to try again. The decisions are pure; tenacity runs the loop.

Who may be sent twice: a failed attempt is one of these.

  class        what failed                                                          again on POST   on GET, PUT, DELETE
  never sent   no connection came about; or a kept-alive one had been closed        the first at    the first at
               meanwhile: no byte of an answer, and its end was there within the    once            once
               time its own dial took, at least 50 ms (later counts as sent)
  throttled    429, 503, 529: after the server's hint or the throttled pause        yes             yes
  transient    500, 502: it may have run; 408: it was not received whole            yes             yes
  ambiguous    504, time-out, reset, a head that cannot be read, a body that        no, unless      yes
               breaks, once the request was sent: it may have run and been paid     retry_ambiguous
  final        every other answer                                                   no              no

`x-should-retry: true | false` from the server overrules the class of a status. A stream is a POST up to its first
event; after that it is never sent again.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from ..errors import APIConnectionError, APIError, APIStatusError, APITimeoutError, PublicPickle, StreamInterruptedError

if TYPE_CHECKING:
    from tenacity import RetryCallState

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
    """

    attempts: int = 4
    backoff: float = 0.25
    max_backoff: float = 8.0
    max_retry_after: float = 60.0
    retry_ambiguous: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"Retry: attempts must be an integer, 1 or more, got {self.attempts!r}.")
        for name in ("backoff", "max_backoff", "max_retry_after"):
            value = getattr(self, name)
            if not _is_seconds(value) or value < 0 or (name == "backoff" and value == float("inf")):
                raise ValueError(f"Retry: {name} must be 0 seconds or more, got {value!r}.")


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
        """A `Timeout` from what users may pass: a number is the total."""
        return value if isinstance(value, Timeout) else cls(total=value)


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
    if kind == "final" or (kind == "ambiguous" and not retry.retry_ambiguous) or failures >= retry.attempts:
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


async def retry_call(
    attempt: Callable[[], Awaitable[T]],
    first: APIError,
    method: str,
    retry: Retry,
    deadline: float,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> tuple[T, int]:
    """Go on after a first attempt has failed; returns the result and the number of attempts.

    A call that succeeds at once never comes here: entering tenacity costs more than such a call.

    Raises:
        APIError: the last failure; its `previous` has the earlier ones. If the next wait would end after the deadline,
            it is raised at once.
    """
    failed: list[APIError] = []
    pauses: list[float] = []
    policy = retry
    if retry.attempts > 1 and classify(first, method) == "never sent":
        policy = replace(retry, attempts=retry.attempts + 1)  # an attempt that never reached the server costs nothing

    async def next_attempt() -> T:
        if not failed:
            raise first
        return await attempt()

    def wanted(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, APIError):  # an interrupt, a cancellation or a bug: never repeated
            return False
        failed.append(error)
        pause = retry_delay(error, failures=len(failed), method=method, retry=policy)
        if pause is None or clock() + pause >= deadline:
            return False
        pauses.append(pause)
        return True

    from tenacity import AsyncRetrying  # imported here: a program whose calls succeed does not need it

    loop = AsyncRetrying(sleep=sleep, retry=wanted, wait=lambda _: pauses[-1], reraise=True)
    try:
        return await loop(next_attempt), len(failed) + 1
    except APIError as error:
        error.attempts = len(failed)
        error.previous = tuple(failed[:-1])
        raise
