"""Responses as the workspace sends them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import respx

LOOK_UP = "/api/2.0/serving-endpoints/"


def chat_answer(text: str | None = "Hi there", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage, **fields}


def completion_answer(text: str = "Hi there") -> dict[str, Any]:
    return {"id": "c1", "object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}


def responses_answer(text: str = "Hi there") -> dict[str, Any]:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {"object": "response", "output": [{"type": "reasoning", "summary": []}, item]}


def vectors_answer(*vectors: list[float]) -> dict[str, Any]:
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return {"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}


def piece(text: str | None = None, finish: str | None = None, usage: int | None = None, **delta: Any) -> dict[str, Any]:
    """One chunk of a chat stream; `usage` is its completion tokens."""
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish}
    chunk: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    if usage is not None:
        chunk["usage"] = {"prompt_tokens": 11, "completion_tokens": usage, "total_tokens": 11 + usage}
    return chunk


HELLO = (piece("Hel", usage=1, role="assistant"), piece("lo", "stop", usage=2), "[DONE]")


def sse(*events: object) -> httpx.Response:
    """A whole event stream: a str is sent as it is, bytes without a frame, anything else as JSON."""
    text = b"".join(
        event
        if isinstance(event, bytes)
        else f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
        for event in events
    )
    return httpx.Response(200, headers={"content-type": "text/event-stream", "x-request-id": "req-1"}, content=text)


def route(wire: respx.MockRouter, name: str = "ep") -> respx.Route:
    """The path of an endpoint's invocations."""
    return wire.post(f"/serving-endpoints/{name}/invocations")


def speaks(wire: respx.MockRouter, task: str | None, name: str = "ep") -> respx.Route:
    """Make the look-up of an endpoint's task succeed."""
    return wire.get(LOOK_UP + name).respond(json={"name": name, **({"task": task} if task else {})})


def sent(route: respx.Route, place: int = -1) -> Any:
    """The JSON body of a call that respx has recorded."""
    return json.loads(route.calls[place].request.content)
