"""A web service that awaits: FastAPI in front of an endpoint. One client serves all requests.

pip install -e '.[local]' fastapi         # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
uvicorn --app-dir examples service:app --port 8000 --timeout-graceful-shutdown 20
curl -s localhost:8000/answer -H 'content-type: application/json' -d '{"prompt": "How are you?"}'
curl -N "localhost:8000/stream?prompt=Tell%20me%20about%20rivers."

A failure is a status with a reason, and one line of log. A stream is server-sent events; what breaks one after its
first piece is its last event. When the service stops, open answers end before the client closes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from dbllm import (
    APIError,
    APITimeoutError,
    AsyncClient,
    AsyncStream,
    BadRequestError,
    ChatCompletion,
    ChatCompletionChunk,
    DbllmError,
    RateLimitError,
)

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")
PARAMS = {"max_tokens": 100}

logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
log = logging.getLogger("service")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(timeout=60) as client:  # a ConfigError here keeps the service from starting
        app.state.chat = client.endpoint(CHAT, params=PARAMS)
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    """What is asked."""

    prompt: str


class Answer(BaseModel):
    """What came back."""

    text: str
    tokens: int | None


class Failure(BaseModel):
    """Why there is no answer; support finds the call by its request id."""

    error: str
    reason: str
    request_id: str | None


def failure(error: DbllmError) -> Failure:
    """What a caller is told, and one line for the log: the reason in the workspace's words, without a credential."""
    log.warning("%s: %s", CHAT, error)
    known = isinstance(error, APIError)
    return Failure(
        error=type(error).__name__,
        reason=error.message if known else str(error),
        request_id=error.request_id if known else None,
    )


def status_of(error: DbllmError) -> int:
    """The caller's own mistake is a 400; the model's trouble is no mistake of the caller's."""
    statuses = ((RateLimitError, 429), (APITimeoutError, 504), (BadRequestError, 400))
    return next((status for kind, status in statuses if isinstance(error, kind)), 502)


@app.exception_handler(DbllmError)
async def on_failure(request: Request, error: DbllmError) -> JSONResponse:
    """Every call that fails ends here."""
    headers = {"retry-after": f"{error.retry_after or 1:.0f}"} if isinstance(error, RateLimitError) else {}
    return JSONResponse(failure(error).model_dump(), status_of(error), headers)


@app.post("/answer")
async def answer(question: Question, request: Request) -> Answer:
    """The whole answer. While the model works, the service serves others."""
    reply = await request.app.state.chat.chat(question.prompt)
    return Answer(text=reply.text, tokens=reply.usage.total_tokens if reply.usage else None)


@app.get("/stream")
async def stream(prompt: str, request: Request) -> StreamingResponse:
    """The answer as it is written. A reader who goes away stops the model."""
    reply = request.app.state.chat.stream_chat(prompt)
    await reply.__aenter__()  # makes the call: what is refused has a status of its own, as in /answer
    return StreamingResponse(events(reply), media_type="text/event-stream")


async def events(reply: AsyncStream[ChatCompletionChunk, ChatCompletion]) -> AsyncIterator[str]:
    """Server-sent events: pieces of text, and at the end `done` or `error`."""
    try:
        async for chunk in reply:
            yield event("message", {"text": chunk.text})
        yield event("done", {"tokens": reply.usage.total_tokens if reply.usage else None})
    except DbllmError as error:
        yield event("error", failure(error).model_dump())
    finally:
        await reply.aclose()


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
