"""A web service that awaits: FastAPI in front of two endpoints. One client serves all requests.

dbllm up                                  # in another terminal; it prints the variables that clients need
uvicorn service:app --port 8000
curl -s localhost:8000/answer -H 'content-type: application/json' -d '{"prompt": "How are you?"}'
curl -N "localhost:8000/stream?prompt=Tell%20me%20about%20rivers."
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from dbllm import APIError, AsyncClient, RateLimitError

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(timeout=60) as client:
        app.state.chat = client.endpoint(CHAT, params={"max_tokens": 100})
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    """What is asked."""

    prompt: str


class Answer(BaseModel):
    """What came back."""

    text: str
    tokens: int | None


@app.post("/answer")
async def answer(question: Question, request: Request) -> Answer:
    """The whole answer. While the model works, the service serves others."""
    try:
        reply = await request.app.state.chat.chat(question.prompt)
    except RateLimitError as error:
        raise HTTPException(429, "The model is busy.", {"retry-after": str(error.retry_after or 1)}) from error
    except APIError as error:
        raise HTTPException(502, f"The model did not answer (request {error.request_id}).") from error
    return Answer(text=reply.text, tokens=reply.usage.total_tokens if reply.usage else None)


@app.get("/stream")
async def stream(prompt: str, request: Request) -> StreamingResponse:
    """The answer as it is written. A reader who goes away stops the model."""

    async def pieces() -> AsyncIterator[str]:
        async with request.app.state.chat.stream_chat(prompt) as answer:
            async for chunk in answer:
                yield chunk.text

    return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8")
