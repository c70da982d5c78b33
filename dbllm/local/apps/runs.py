"""Runs of an agent: work that goes on whether or not somebody waits for it, and a log of its events to read again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

from dbllm.local.errors import Problem
from dbllm.local.http.asgi import Emit
from dbllm.local.json_values import Json

logger = logging.getLogger("dbllm.local")

MAX_RUNS = 1000
"""Runs that are remembered; of more, the oldest that have ended are forgotten."""

Status = Literal["queued", "active", "completed", "failed", "cancelled"]
Work = Callable[[Emit], Awaitable[Json]]
"""What a run does: it hands its events on one by one, and returns its output."""


class Run:
    """One run.

    Attributes:
        id: names it.
        request: what was asked for, to compare a repeated request with.
        status: how far it is.
        events: what it has done so far, in order.
        output: what came of it, once it is completed.
        error: why it failed.
    """

    def __init__(self, identity: str, request: object) -> None:
        self.id = identity
        self.request = request
        self.status: Status = "queued"
        self.events: list[Json] = []
        self.output: Json = {}
        self.error = ""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status not in ("queued", "active")

    def start(self, work: Work) -> None:
        """Do the work, on the running event loop."""
        self._task = asyncio.ensure_future(self._do(work))

    async def follow(self, after: int) -> AsyncIterator[tuple[int, Json]]:
        """The events behind the first `after`, each with its number from 1 on, as they come, until the run ends."""
        while True:
            changed = self._changed
            for number, event in enumerate(self.events[after:], after + 1):
                yield number, event
                after = number
            if after >= len(self.events):
                if self.ended:
                    return
                await changed.wait()

    async def wait(self) -> None:
        """Wait until the run has ended."""
        while not self.ended:
            await self._changed.wait()

    def cancel(self) -> None:
        """End it, if it has not ended."""
        if not self.ended:
            self._end("cancelled")
            if self._task is not None:
                self._task.cancel()

    async def _do(self, work: Work) -> None:
        try:
            self.status = "active"
            self.output = await work(self._emit)
            self._end("completed")
        except Problem as problem:
            self.error = problem.message
            self._end("failed")
        except asyncio.CancelledError:
            self._end("cancelled")
        except Exception:
            logger.exception("run %s of an agent failed", self.id)
            self.error = "internal error"
            self._end("failed")

    async def _emit(self, event: object) -> None:
        assert isinstance(event, dict)  # noqa: S101 - the events of a response
        self.events.append(event)
        self._tell()

    def _end(self, status: Status) -> None:
        if not self.ended:
            self.status = status
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Runs:
    """The runs of one agent, by id; in memory, so a restart forgets them."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def get(self, identity: str) -> Run | None:
        """The run of that id."""
        return self._runs.get(identity)

    def start(self, identity: str, request: object, work: Work) -> Run:
        """A new run, which is on its way."""
        if len(self._runs) >= MAX_RUNS:
            ended = next((one.id for one in self._runs.values() if one.ended), None)
            if ended is None:
                raise Problem(429, "RESOURCE_LIMIT_EXCEEDED", f"The agent has {MAX_RUNS} runs that have not ended.")
            del self._runs[ended]
        run = self._runs[identity] = Run(identity, request)
        run.start(work)
        return run

    def close(self) -> None:
        """End all runs."""
        for run in self._runs.values():
            run.cancel()
