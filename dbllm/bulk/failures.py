"""What a failure means for a row: whether it is tried again, and whether it may have been paid. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dbllm import APIConnectionError, APIError, APIResponseError, Retry

from .._transport.limited import outcome_of
from .._transport.retry import classify, retry_delay
from .results import RowError, RowResult

_MAY_HAVE_RUN = frozenset({500, 502, 504})


def may_be_paid(error: BaseException) -> bool:
    """Whether the model may have run although no answer came."""
    if not isinstance(error, APIError):
        return False
    if isinstance(error, APIResponseError) or error.status in _MAY_HAVE_RUN:
        return True
    return classify(error, "POST") == "ambiguous"


def is_throttled(error: BaseException) -> bool:
    """Whether the server turned the request away, so that it did not run."""
    return classify(error, "POST") == "throttled"


def is_overload(error: BaseException) -> bool:
    """Whether fewer calls at once would help: it was turned away, or there was no connection, or no answer in time."""
    return isinstance(error, APIError) and outcome_of(error) == "lost"


def next_attempt_after(errors: Sequence[BaseException], retry: Retry) -> float | None:
    """Seconds to wait before a row is sent again; None: its last failure stands. The rules are the core's."""
    last = errors[-1]
    if isinstance(last, APIResponseError):  # paid for sure: as a connection that broke inside the answer
        last = APIConnectionError(last.detail, sent=True)
    if retry.attempts > 1 and classify(errors[0], "POST") == "never sent":  # as in the core: it does not count
        retry = replace(retry, attempts=retry.attempts + 1)
    return retry_delay(last, failures=len(errors), method="POST", retry=retry)


def failed_result(
    errors: Sequence[BaseException], index: int, key: str | None, seconds: float = 0.0, *, sent: int | None = None
) -> RowResult:
    """The error row for a row's failures, the last of which stands."""
    last = errors[-1]
    every = [*(last.previous if isinstance(last, APIError) else ()), *errors]
    attempts = sent if sent is not None else last.attempts if isinstance(last, APIError) else 0
    unclear = sum(map(may_be_paid, every))
    retryable = classify(last, "POST") != "final"
    error = RowError.of(last, attempts=attempts, retryable=retryable, may_be_paid=unclear > 0)
    return RowResult(
        index, key, request_id=error.request_id, attempts=attempts, latency=seconds, unclear=unclear, error=error
    )
