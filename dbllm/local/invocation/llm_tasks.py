"""The tasks llm/v1/chat, llm/v1/completions and llm/v1/embeddings of the workspace's own models."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import ClassVar

from starlette.requests import Request

from dbllm.local.http.asgi import Emit, decode_json
from dbllm.local.invocation import requests, responses
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.requests import EmbeddingsRequest, TextRequest
from dbllm.local.invocation.task import Task
from dbllm.local.json_values import Json


class _TextTask(Task[TextRequest]):
    """What chat and completions share."""

    name: ClassVar[responses.TextTaskName]
    id_prefix: ClassVar[str]

    async def answer(self, models: LocalModels, model: str, wanted: TextRequest) -> Json:
        head, wanted = await models.decide_call(self._head(model, wanted), wanted)
        return responses.whole(head, await models.accumulate(wanted.jobs, wanted.choices_per_prompt))

    async def stream(self, models: LocalModels, model: str, wanted: TextRequest, emit: Emit) -> None:
        head, wanted = await models.decide_call(self._head(model, wanted), wanted)
        so_far = responses.Accumulator(len(wanted.jobs), wanted.choices_per_prompt)
        async with models.generate(wanted.jobs) as pieces:
            async for piece in pieces:
                first, offset = not so_far.texts[piece.job], len(so_far.text(piece.job)) if piece.logprobs else 0
                so_far.add(piece)
                usage = None if wanted.usage_apart else so_far.usage()
                await emit(responses.chunk(head, piece, usage, first=first, offset=offset))
        if wanted.usage_apart:
            await emit(responses.last_chunk(head, so_far.usage()))

    def _head(self, model: str, wanted: TextRequest) -> responses.Head:
        identity = f"{self.id_prefix}-{uuid.uuid4().hex}"
        return responses.Head(identity, int(time.time()), model, self.name, alternatives=wanted.alternatives)


class ChatTask(_TextTask):
    """llm/v1/chat."""

    name = "llm/v1/chat"
    id_prefix = "chatcmpl"

    def read(self, request: Request, body: bytes) -> TextRequest:
        return requests.read_chat(decode_json(body))


class CompletionsTask(_TextTask):
    """llm/v1/completions."""

    name = "llm/v1/completions"
    id_prefix = "cmpl"

    def read(self, request: Request, body: bytes) -> TextRequest:
        return requests.read_completions(decode_json(body))


class EmbeddingsTask(Task[EmbeddingsRequest]):
    """llm/v1/embeddings."""

    def read(self, request: Request, body: bytes) -> EmbeddingsRequest:
        return requests.read_embeddings(decode_json(body))

    async def answer(self, models: LocalModels, model: str, wanted: EmbeddingsRequest) -> Json:
        vectors, tokens = await asyncio.to_thread(models.vectors.embed, wanted.texts)
        return responses.embeddings(model, vectors, tokens, as_base64=wanted.base64)
