"""Counters of tokens and retries, which are read when metrics are collected."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics


class Counters:
    """Counters that are read when metrics are collected: to count costs a call little then.

    Args:
        meter: it has one of these, however often telemetry is turned on.
        names: of the counters, which have one set of attributes.
        unit: of all.
    """

    def __init__(self, meter: metrics.Meter, names: Sequence[str], unit: str) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[Any, ...], list[int]] = {}
        self._empty = [0] * len(names)
        for place, name in enumerate(names):
            meter.create_observable_counter(name, [partial(self._observe, place)], unit)

    def sums(self, attributes: dict[str, Any]) -> list[int]:
        """What has been counted with these attributes, in the order of the names."""
        key = (*attributes, *attributes.values())
        with self._lock:
            return self._sums.setdefault(key, self._empty.copy())

    def add(self, sums: list[int], counts: Sequence[int | None]) -> None:
        """Count, in the order of the names; None is nothing."""
        with self._lock:
            for place, count in enumerate(counts):
                if count:
                    sums[place] += count

    def _observe(self, place: int, _: metrics.CallbackOptions) -> list[metrics.Observation]:
        """What has been counted until now."""
        with self._lock:
            found = [(key, sums[place]) for key, sums in self._sums.items() if sums[place]]
        return [
            metrics.Observation(total, dict(zip(key[: len(key) // 2], key[len(key) // 2 :], strict=True)))
            for key, total in found
        ]


_by_meter: WeakKeyDictionary[Any, dict[tuple[str, ...], Counters]] = WeakKeyDictionary()


def counters_of(meter: metrics.Meter, unit: str, *names: str) -> Counters:
    """The counters of these names: one for each meter, however often telemetry is turned on."""
    known = _by_meter.setdefault(meter, {})
    if names not in known:
        known[names] = Counters(meter, names, unit)
    return known[names]
