"""Deadlines: moments on a clock that never goes back. Pure."""

from __future__ import annotations

from collections.abc import Callable

FOREVER = float("inf")


def seconds_left(until: float, now: Callable[[], float], most: float | None = None) -> float | None:
    """Seconds that an operation may take; TimeoutError where there are none left."""
    left = until - now()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return most if left == FOREVER or (most is not None and most < left) else left
