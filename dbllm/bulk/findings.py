"""What the rows of a job add up to: of its output, and of its journal alone."""

from __future__ import annotations

import heapq
import json
import math
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from .inputs import RawRow
from .journal import ANSWERED, FAILED, Journal
from .plan import BAD, RowPlan
from .results import RowError, RowResult

STEPS = 50  # of a power of ten, in which latencies are counted
MISSING = (1 << 64) - 1
_SENT = re.compile(rb'"attempts":(\d+),"latency":[^,}]*,"unclear":(\d+)\},"crc":"[0-9a-f]{8}"\}\n$')


class Slow(NamedTuple):
    """One of the slowest rows."""

    latency: float
    line: int
    attempts: int
    request_id: str
    text: str


@dataclass
class Findings:
    """What the output's rows add up to.

    Attributes:
        answered, failed: rows with an answer, and error rows.
        copied: answered rows that were not sent, because an equal row was.
        errors: error rows by class.
        first: what the first of them says.
        may_be_paid: error rows that may have been paid although no answer came.
        input_tokens, output_tokens: the usage of the answers.
        attempts: how often the rows were sent.
        unclear: failed attempts that may have run and been paid, of all rows.
        latencies: how many rows took as long: counts by STEPS * log10(seconds), rounded.
        lengths: output tokens in the same steps.
        slowest: the slowest rows, in no order.
    """

    answered: int = 0
    failed: int = 0
    copied: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first: str = ""
    may_be_paid: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 0
    unclear: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    slowest: list[Slow] = field(default_factory=list)

    def add(self, result: RowResult, row: RawRow | None = None, *, copied: bool = False) -> None:
        """Count a row; without what it says it is none of the slowest."""
        if result.error is None:
            self.answered += 1
        else:
            self.failed += 1
            self.errors[result.error.name] += 1
            self.may_be_paid += result.error.may_be_paid
            if not self.first and row is not None:
                said = " ".join(result.error.message.split())
                self.first = f"the first error row is line {row.line:,}: {said:.300}{'…' * (len(said) > 300)}"
        if copied:
            self.copied += result.error is None
            return
        self.input_tokens += result.input_tokens or 0
        self.output_tokens += result.output_tokens or 0
        self.attempts += result.attempts
        self.unclear += result.unclear
        if result.output_tokens:
            self.lengths[round(STEPS * math.log10(result.output_tokens))] += 1
        if result.latency > 0:
            self.latencies[round(STEPS * math.log10(result.latency))] += 1
            if row is None:
                return
            slow = (result.latency, row.line, result.attempts, result.request_id or "")
            if len(self.slowest) < 20:
                heapq.heappush(self.slowest, Slow(*slow, _excerpt(row)))
            elif result.latency > self.slowest[0].latency:
                heapq.heapreplace(self.slowest, Slow(*slow, _excerpt(row)))


def quantile(steps: Counter[int], share: float) -> float | None:
    """What this share of the rows stayed below, to 3 percent; None without rows."""
    left = share * sum(steps.values())
    for step, count in sorted(steps.items()):
        left -= count
        if left <= 0:
            return float(10 ** (step / STEPS))
    return None


def _excerpt(row: RawRow) -> str:
    text = (
        row.content.decode("utf-8", "replace")
        if isinstance(row.content, bytes)
        else json.dumps(row.content, ensure_ascii=False, default=str)
    )
    return text[:200]


def count_rows(plan: RowPlan, journal: Journal) -> Findings:
    """What the journal's answers add up to, without the input; it has no latencies, which would take long."""
    findings, places, done = Findings(), places_of(plan, journal), journal.done
    errors: dict[int, RowError] = {}
    for row, place, line in journal.answers():
        if row >= plan.summary.rows or places[row] != place or not done[row]:
            continue  # another record of the row came later, or it is to be asked again
        if done[row] == FAILED:
            result = RowResult.from_dict({"index": row, **json.loads(line)["is"]})
            findings.add(result)
            if result.error is not None:
                errors[row] = result.error
        elif sent := _SENT.search(line, max(0, len(line) - 150)):
            findings.attempts += int(sent[1])
            findings.unclear += int(sent[2])
    findings.answered = done.count(ANSWERED)
    for number, leader in enumerate(plan.leaders):
        if leader == BAD:
            findings.add(RowResult(number, error=RowError("RowInputError", "")))
        elif leader != number and done[leader]:
            error = errors.get(leader)
            findings.add(RowResult(number, error=error), copied=True)
    return findings


def places_of(plan: RowPlan, journal: Journal) -> array[int]:
    """The place of each row's last record in the journal."""
    places = array("Q", [MISSING]) * plan.summary.rows
    for index, place, _ in journal.answers():
        if index < plan.summary.rows:
            places[index] = place
    return places
