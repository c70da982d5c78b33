"""What a failure means for a row: whether it is tried again, and whether it may have been paid. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dbllm import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    ConfigError,
    ContextOverflowError,
    Retry,
)

from .._transport.limited import outcome_of
from .._transport.retry import classify, retry_delay
from .errors import EveryRowRefused
from .results import RowError, RowResult

_MAY_HAVE_RUN = frozenset({500, 502, 504})
_REFUSE_ALL = frozenset({401, 403, 404})  # these speak of the token, its permissions and the endpoint, not of a row
_MISUSED = frozenset({400, 405, 422, 501})  # these may speak of all rows (a wrong verb, an unknown parameter) or of one
FIRST_REFUSALS, LATER_REFUSALS = 10, 50  # in succession, before the first answer and after it


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


def single_error(error: BaseException) -> BaseException:
    """The one error of a task group."""
    while isinstance(getattr(error, "exceptions", None), tuple) and len(error.exceptions) == 1:  # type: ignore[attr-defined]
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return error


class Refusals:
    """Holds back the rows that are refused for a reason which is not theirs, until it is clear whether all are.

    An answer shows that they are not: then those before it are error rows after all. So many refusals in succession
    that are the same show that the endpoint refuses every row: it ends the job, and the rows stay to be asked.

    Args:
        may_end: False never holds a row back.

    Attributes:
        is_proven: whether the endpoint has answered a row, so that a 400 is the row's own.
        ended: why the job ends, or None.
    """

    def __init__(self, *, may_end: bool = True) -> None:
        self._may_end, self.is_proven = may_end, False
        self.ended: EveryRowRefused | None = None
        self._held: list[RowResult] = []
        self._same: tuple[object, ...] = ()

    def answered(self) -> list[RowResult]:
        """A row was answered; returns the rows that are error rows now."""
        self.is_proven = True
        return self._let_go()

    def failed(self, error: BaseException, result: RowResult) -> list[RowResult]:
        """A row has failed for good; returns the rows that are error rows now."""
        if not self._may_end:
            return [result]
        same = self._reason(error)
        if self.ended is not None:
            return [] if same == self._same else [result]
        ready = [] if same == self._same or not result.attempts else self._let_go()
        if not same:
            return [*ready, result]
        self._same = same
        self._held.append(result)
        if len(self._held) >= (LATER_REFUSALS if self.is_proven else FIRST_REFUSALS):
            self._end()
        return ready

    def rest(self, *, was_stopped: bool) -> list[RowResult]:
        """No further row comes; returns the last rows that are error rows. In a job that was stopped they stay open."""
        if was_stopped:
            self._held = []
        if self._held and not self.is_proven and self._same[1] not in _MISUSED:
            self._end()
        return [] if self.ended else self._let_go()

    def _reason(self, error: BaseException) -> tuple[object, ...]:
        """What every row would be told; empty if the failure may be the row's own, or may have been paid."""
        if isinstance(error, ConfigError):
            return (type(error).__name__, None)
        if isinstance(error, APIStatusError) and error.status in _REFUSE_ALL:
            return (type(error).__name__, error.status, error.error_code)
        if isinstance(error, APIStatusError) and type(error) is not ContextOverflowError and not self.is_proven:
            return (type(error).__name__, error.status, error.detail) if error.status in _MISUSED else ()
        if isinstance(error, APIError) and classify(error, "POST") == "never sent":
            return (type(error).__name__, None)
        return ()

    def _let_go(self) -> list[RowResult]:
        ready, self._held, self._same = self._held, [], ()
        return ready

    def _end(self) -> None:
        error = self._held[-1].error
        assert error is not None  # noqa: S101
        head = f"HTTP {error.status} {error.code}".strip() + ": " if error.status else ""
        self.ended = EveryRowRefused(
            f"the endpoint refuses every row; the last {len(self._held)} were told {head}{error.message} Nothing was "
            "paid for them, and no further row was sent. Mend the cause and run the same again; --max-error-rate 1 "
            "(max_error_rate=1) makes them error rows instead."
        )
        self._held = []
