"""The workspace's own custom model: the signature prompt/stop, row by row, on MLflow's scoring protocol."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from dbllm.local.errors import bad_request
from dbllm.local.http.asgi import Emit, decode_json
from dbllm.local.invocation import requests, scoring
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.task import Task
from dbllm.local.model.llama import Job


@dataclass(frozen=True, slots=True)
class PromptRows:
    """The rows of a request as jobs, and how the answer is wanted: inside `predictions`, piece by piece."""

    jobs: tuple[Job, ...]
    wrapped: bool
    stream: bool


class PromptRowsTask(Task[PromptRows]):
    """A custom model with the signature prompt/stop."""

    def read(self, request: Request, body: bytes) -> PromptRows:
        scoring.check_content_type(request.headers.get("content-type", ""))
        wanted = scoring.parse_scoring(decode_json(body))
        jobs = tuple(_job(row) for row in wanted.rows)
        if wanted.stream and len(jobs) != 1:
            raise bad_request(f"a stream answers one row, got {len(jobs)}")
        return PromptRows(jobs, wanted.wrapped, wanted.stream)

    async def answer(self, models: LocalModels, model: str, wanted: PromptRows) -> object:
        texts = await models.accumulate(wanted.jobs)
        predictions = [texts.text(number) for number in range(len(wanted.jobs))]
        return {"predictions": predictions} if wanted.wrapped else predictions

    async def stream(self, models: LocalModels, model: str, wanted: PromptRows, emit: Emit) -> None:
        async with models.generate(wanted.jobs) as pieces:
            async for piece in pieces:
                if piece.text:
                    await emit(piece.text)


def _job(row: scoring.Row) -> Job:
    prompt_row = scoring.read_row(row, requests.SAMPLING)
    sampling = requests.read_sampling(prompt_row.params)
    stop = {"stop": list(prompt_row.stop)} if prompt_row.stop else {}
    return requests.prompt_job(prompt_row.prompt, {**sampling, **stop})
