"""What goes into a job, and where it is: plain values."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from .errors import TooManyErrors
from .results import RowResult

FUSE_ROWS = 200  # the share of errors is looked at over so many rows


@dataclass(slots=True)
class Item:
    """A row of the input and its place there."""

    index: int
    row: Any


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is.

    Attributes:
        read: rows taken from the input.
        done: rows with a result, error rows included.
        errors: error rows.
        errors_by_class: the same by the class of their error.
        attempts: requests that were sent.
        retries: of these, those that were not a row's first.
        throttled: requests that were turned away (429, 503, 529).
        unclear: failed requests that may have run, and been paid.
        in_flight: requests under way.
        limit: how many may be under way at once now.
        waiting: rows that failed and wait for their next attempt.
        input_tokens, output_tokens: the usage of all answers.
        seconds: since the first row was read.
    """

    read: int = 0
    done: int = 0
    errors: int = 0
    errors_by_class: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    retries: int = 0
    throttled: int = 0
    unclear: int = 0
    in_flight: int = 0
    limit: int = 0
    waiting: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Rows with a result in a second, on average."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Tally:
    """The numbers of a job, while it runs."""

    def __init__(self) -> None:
        self.read = self.done = self.errors = self.attempts = self.retries = self.throttled = self.unclear = 0
        self.input_tokens = self.output_tokens = 0
        self._by_class: Counter[str] = Counter()
        self._recent: deque[bool] = deque(maxlen=FUSE_ROWS)

    def count(self, result: RowResult) -> None:
        """Count a row's end."""
        self.done += 1
        self.input_tokens += result.input_tokens or 0
        self.output_tokens += result.output_tokens or 0
        self._recent.append(result.error is not None)
        if result.error is not None:
            self.errors += 1
            self._by_class[result.error.name] += 1

    def fuse(self, most: float | None) -> TooManyErrors | None:
        """Why the job ends, if more than this share of the last 200 rows failed."""
        share = sum(self._recent) / FUSE_ROWS if len(self._recent) == FUSE_ROWS else 0.0
        if most is None or share <= most:
            return None
        causes = ", ".join(f"{number} {name}" for name, number in self._by_class.most_common(3))
        return TooManyErrors(
            f"{share:.0%} of the last {FUSE_ROWS} rows failed ({causes}), more than max_error_rate allows; no further "
            "row was sent. Mend the cause, or allow more."
        )

    def progress(self, in_flight: int, limit: int, waiting: int, seconds: float) -> Progress:
        """The numbers now."""
        return Progress(
            *(self.read, self.done, self.errors, dict(self._by_class), self.attempts, self.retries, self.throttled),
            *(self.unclear, in_flight, limit, waiting, self.input_tokens, self.output_tokens, seconds),
        )
