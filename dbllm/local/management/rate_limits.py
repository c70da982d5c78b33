"""Rate limits: calls and tokens per minute or hour, of an endpoint or of each caller.

Databricks: `rate_limits`, `ai_gateway`. Minutes and hours are those of the clock. Calls are counted before they are
made, tokens when the answer says how many they were, so the call that crosses a limit of tokens is still answered. A
limit that is changed goes on with what was counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from dbllm.local.access.permissions import Caller
from dbllm.local.errors import Problem
from dbllm.local.management.endpoint_record import Record
from dbllm.local.storage.store import Change, Store

PERIODS: Mapping[str, int] = {"minute": 60, "hour": 3600}
"""Seconds of a renewal period."""
HOURLY = "/hour"
"""Ends the names of counters that begin anew every hour."""


@dataclass(frozen=True, slots=True)
class Count:
    """What was used in one minute or hour, which is a number since 1970."""

    period: int
    calls: int = 0
    tokens: int = 0


class Rates:
    """The counters of all endpoints.

    Args:
        store: remembers them.
        now: seconds since 1970.
    """

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._now = now
        stored = cast("Mapping[str, list[int]]", store.load("count"))
        self._counts = {key: Count(*values) for key, values in stored.items()}

    def take(self, record: Record, caller: Caller) -> list[str]:
        """Count one call against every limit of an endpoint that concerns the caller, and say which counters that are.

        Raises:
            Problem: 429 with Retry-After, one is used up; nothing was counted.
        """
        limits = [(counter(record, limit, caller), limit) for limit in limits_of(record) if concerns(limit, caller)]
        for key, limit in limits:
            current = self._count(key)
            for unit, used in (("calls", current.calls), ("tokens", current.tokens)):
                most = limit.get(unit)
                if isinstance(most, int) and used >= most:
                    raise self._exceeded(record, limit, unit, most)
        keys = list(dict.fromkeys(key for key, _ in limits))
        for key in keys:
            current = self._count(key)
            self._counts[key] = Count(current.period, current.calls + 1, current.tokens)
        return keys

    def spend(self, keys: Iterable[str], tokens: int) -> None:
        """Count the tokens of an answer."""
        for key in keys:
            current = self._count(key)
            self._counts[key] = Count(current.period, current.calls, current.tokens + tokens)

    def changes(self, keys: Sequence[str]) -> list[Change]:
        """The counters as changes for the store."""
        changed = [(key, self._counts[key]) for key in keys if key in self._counts]
        return [Change("count", key, [one.period, one.calls, one.tokens]) for key, one in changed]

    def forget(self, name: str) -> list[Change]:
        """The changes for the store when an endpoint is deleted."""
        gone = [key for key in self._counts if key.startswith(f"{name}/")]
        for key in gone:
            self._counts.pop(key, None)
        return [Change("count", key, None) for key in gone]

    def _count(self, key: str) -> Count:
        period = int(self._now() // (PERIODS["hour"] if key.endswith(HOURLY) else PERIODS["minute"]))
        current = self._counts.get(key)
        return current if current is not None and current.period == period else Count(period)

    def _exceeded(self, record: Record, limit: Mapping[str, object], unit: str, most: int) -> Problem:
        period = str(limit["renewal_period"])
        wait = max(1, math.ceil(PERIODS[period] - self._now() % PERIODS[period]))
        reason = f"Exceeded the {limit['key']} rate limit of {most} {unit} per {period} for endpoint '{record.name}'."
        code = "REQUEST_LIMIT_EXCEEDED"
        return Problem(429, code, f"{code}: {reason} Try again in {wait} s.", {"retry-after": str(wait)})


def limits_of(record: Record) -> list[Mapping[str, object]]:
    """The rate limits of an endpoint, of both kinds."""
    gateway = record.settings.ai_gateway or {}
    return [*record.settings.rate_limits, *cast("list[Mapping[str, object]]", gateway.get("rate_limits", []))]


def counts_tokens(record: Record) -> bool:
    """Whether the endpoint has a limit of tokens, so that answers must be counted."""
    return any("tokens" in limit for limit in limits_of(record))


def concerns(limit: Mapping[str, object], caller: Caller) -> bool:
    """Whether a limit is one for this caller."""
    if limit["key"] == "service_principal":
        return caller.service and limit.get("principal") == caller.name
    if limit["key"] == "user_group":
        everybody = limit.get("principal") in ("users", "account users")
        return everybody or (limit.get("principal") == "admins" and caller.admin)
    if limit["key"] == "user" and "principal" in limit:
        return not caller.service and limit["principal"] == caller.name
    return True


def counter(record: Record, limit: Mapping[str, object], caller: Caller) -> str:
    """The counter that a limit looks at."""
    key = str(limit["key"])
    who = {"endpoint": "", "user": caller.principal}.get(key, f"{limit.get('principal')}")
    return f"{record.name}/{key}/{who}{HOURLY if limit['renewal_period'] == 'hour' else ''}"
