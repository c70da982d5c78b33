"""Several calls side by side in an event loop, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

T = TypeVar("T")


async def gather(thunks: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """The results in order; at most `limit` thunks run at once. The first failure cancels the others, and is raised."""
    if len(thunks) == 1:
        return [await thunks[0]()]
    results: dict[int, T] = {}
    failures: list[Exception] = []
    waiting = iter(enumerate(thunks))

    async def work() -> None:
        try:
            for place, thunk in waiting:
                results[place] = await thunk()
        except Exception as error:  # noqa: BLE001 - raised below, as itself and not inside a group
            failures.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(thunks))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(thunks))]
