"""Several calls at once, a bounded number at a time; the first failure ends the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import TypeVar

from langchain_core.runnables.config import ContextThreadPoolExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")


async def gather(call: Callable[[Item], Awaitable[Result]], items: Sequence[Item], limit: int) -> list[Result]:
    """The results in the order of the items. What still runs when one fails is cancelled: nobody would get it."""
    if len(items) == 1:
        return [await call(items[0])]
    permits = asyncio.Semaphore(limit)

    async def one(item: Item) -> Result:
        async with permits:
            try:
                return await call(item)
            except BaseException:  # before the permit is free: no further call begins
                for task in tasks:
                    if task is not asyncio.current_task():
                        task.cancel()
                raise

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def in_threads(call: Callable[[Item], Result], items: Sequence[Item], limit: int) -> list[Result]:
    """The results in the order of the items. What has not begun when one fails is not begun."""
    if len(items) <= 1 or limit == 1:
        return [call(item) for item in items]
    with ContextThreadPoolExecutor(max_workers=min(limit, len(items))) as executor:
        futures = [executor.submit(call, item) for item in items]
        try:
            done = wait(futures, return_when=FIRST_EXCEPTION).done
        finally:
            for future in futures:
                future.cancel()
        for future in done:
            future.result()  # raises the failure rather than the cancelling that it led to
        return [future.result() for future in futures]
