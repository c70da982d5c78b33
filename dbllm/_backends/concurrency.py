"""Several calls side by side in an event loop, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

T = TypeVar("T")


async def run_bounded(calls: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """The results in order; at most `limit` calls run at once. The first failure cancels the others, and is raised."""
    if len(calls) == 1:
        return [await calls[0]()]
    results: dict[int, T] = {}
    failures: list[Exception] = []
    waiting = iter(enumerate(calls))

    async def work() -> None:
        try:
            for place, call in waiting:
                results[place] = await call()
        except Exception as error:  # noqa: BLE001 - raised below, and not inside an exception group
            failures.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(calls))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(calls))]
