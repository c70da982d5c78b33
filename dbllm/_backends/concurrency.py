"""Several calls side by side in an event loop, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

T = TypeVar("T")


async def first_success(
    first: Callable[[], Awaitable[T]],
    second: Callable[[], Awaitable[T]],
    wait: Callable[[], Awaitable[None]],
    may_start: Callable[[], bool],
) -> T:
    """The result of `first`, or of `second` if that is there earlier; the other is cancelled.

    `second` starts after `wait`, if `first` has not ended by then and `may_start` says so. Where both fail, the failure
    of `first` is raised.
    """
    results: list[T] = []
    failures: list[Exception] = []
    started = False

    async def run_first() -> None:
        try:
            results.append(await first())
        except Exception as error:  # noqa: BLE001 - raised below, and not inside an exception group
            failures.append(error)
            if started:
                return
        group.cancel_scope.cancel()

    async def run_second() -> None:
        nonlocal started
        await wait()
        if not may_start():
            return
        started = True
        try:
            results.append(await second())
        except Exception:  # noqa: BLE001 - the first one decides
            return
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(run_first)
        group.start_soon(run_second)
    if results:
        return results[0]
    raise failures[0]


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
