"""The workspace's own models, as the tasks use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from dbllm.local.errors import Problem, bad_request
from dbllm.local.invocation.requests import TextRequest
from dbllm.local.invocation.responses import Accumulator, Head
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine, EngineRefused, EngineStopped, Generation, Job
from dbllm.local.model.tool_choice import ToolChooser


class LocalModels:
    """The models that answer for all endpoints: one for text, one for embeddings."""

    def __init__(self, engine: Engine, vectors: Vectors) -> None:
        self.engine = engine
        self.vectors = vectors
        self._chooser = ToolChooser(engine)

    @asynccontextmanager
    async def generate(self, jobs: Sequence[Job]) -> AsyncIterator[Generation]:
        """The pieces of the jobs, as `Engine.generate`.

        Raises (also inside the block):
            Problem: 400, the model cannot take a job; 503, the workspace is stopping.
        """
        with _engine_errors():
            async with self.engine.generate(jobs) as pieces:
                yield pieces

    async def accumulate(self, jobs: Sequence[Job], choices_per_prompt: int = 1) -> Accumulator:
        """All that the jobs make.

        Raises:
            Problem: as `generate`.
        """
        accumulator = Accumulator(len(jobs), choices_per_prompt)
        async with self.generate(jobs) as pieces:
            async for piece in pieces:
                accumulator.add(piece)
        return accumulator

    async def decide_call(self, head: Head, request: TextRequest) -> tuple[Head, TextRequest]:
        """Decide whether the answer calls a tool, and which: both arguments come back adjusted to that.

        Raises:
            Problem: 400, a schema cannot be enforced; otherwise as `generate`.
        """
        with _engine_errors():
            for grammar in {str(job.request["grammar"]) for job in request.jobs if "grammar" in job.request}:
                await self._chooser.check(grammar)
            tool = await self._chooser.choose(request.offer, request.question) if request.offer else None
            if tool is None:
                return head, request
            await self._chooser.check(tool.grammar)
        return replace(head, tool=tool.name), request.calling(tool)


@contextmanager
def _engine_errors() -> Iterator[None]:
    """The engine's errors as answers."""
    try:
        yield
    except EngineStopped as error:
        raise Problem(503, "TEMPORARILY_UNAVAILABLE", "The workspace is shutting down.") from error
    except EngineRefused as error:
        raise bad_request(str(error)) from error
