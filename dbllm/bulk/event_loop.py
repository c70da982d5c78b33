"""What a scheduler needs of the event loop that it runs in: asyncio's or trio's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, NamedTuple


class EventLoop(NamedTuple):
    """What differs between the two.

    Attributes:
        clock: its time.
        event: makes one of its events, without asking which loop it is.
        yield_now: lets others run; None where nothing is gained by it.
        call_soon: calls something in it, from any thread.
        start: runs a coroutine function in a task of its own; what it returns keeps the task alive.
    """

    clock: Callable[[], float]
    event: Callable[[], Any]
    yield_now: Callable[[float], Any] | None
    call_soon: Callable[[Callable[[], object]], object]
    start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


def running_loop() -> EventLoop:
    """The loop that runs the caller."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():

        def start(body: Callable[[], Coroutine[Any, Any, None]]) -> object:
            return trio.lowlevel.spawn_system_task(body, context=copy_context())

        call_soon = trio.lowlevel.current_trio_token().run_sync_soon
        return EventLoop(trio.current_time, trio.Event, None, call_soon, start)
    asyncio = sys.modules["asyncio"]
    loop = asyncio.get_running_loop()
    return EventLoop(
        loop.time, asyncio.Event, asyncio.sleep, loop.call_soon_threadsafe, lambda body: loop.create_task(body())
    )
