"""The workspace's own models behind a serving endpoint: from the body of an invocation to its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dbllm.local.http.asgi import EventStream, until_gone
from dbllm.local.invocation.agent import AgentTask
from dbllm.local.invocation.chat_agent import ChatAgentTask
from dbllm.local.invocation.llm_tasks import ChatTask, CompletionsTask, EmbeddingsTask
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.prompt_rows import PromptRowsTask
from dbllm.local.invocation.task import Task
from dbllm.local.management.catalog import Endpoint

TASKS: Mapping[str | None, Task[Any]] = {
    "llm/v1/chat": ChatTask(),
    "llm/v1/completions": CompletionsTask(),
    "llm/v1/embeddings": EmbeddingsTask(),
    "agent/v1/responses": AgentTask(),
    "agent/v2/chat": ChatAgentTask(),
    None: PromptRowsTask(),
}


async def invoke(request: Request, endpoint: Endpoint, models: LocalModels, body: bytes) -> Response:
    """Answer one invocation of `endpoint`, whose body has been read.

    Raises:
        Problem: the request does not fit the endpoint, or the model cannot take it.
        ClientGoneError: the client went away; the model was stopped.
    """
    task = TASKS[endpoint.task]
    wanted = task.read(request, body)
    headers = {"served-model-name": endpoint.served}
    if wanted.stream:
        return EventStream(lambda emit: task.stream(models, endpoint.model, wanted, emit), headers)
    answer = await until_gone(request.receive, task.answer(models, endpoint.model, wanted))
    return JSONResponse(answer, headers=headers)
