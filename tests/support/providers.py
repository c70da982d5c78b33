"""Providers for tests: a server with scripted responses, and recorded responses of Anthropic and Cohere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dbllm.local.http.server import WebServer, listen


@dataclass
class Received:
    """A request that a provider received."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any


class Provider:
    """A server on loopback whose response a test sets; it records its requests."""

    def __init__(self) -> None:
        self.got: list[Received] = []
        self.answer: Callable[[Request], Response | Awaitable[Response]] = lambda _request: JSONResponse({})
        sock = listen("127.0.0.1", 0, hint="")
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._server = WebServer(self, sock)
        self._server.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        body = await request.body()
        path, query = scope["raw_path"].decode().split("?")[0], scope["query_string"].decode()
        self.got.append(Received(request.method, path, query, dict(request.headers), json.loads(body or b"null")))
        answer = self.answer(request)
        response = answer if isinstance(answer, Response) else await answer
        await response(scope, request.receive, send)

    def says(self, told: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Answer every request with some JSON."""
        self.answer = lambda _request: JSONResponse(told, status, dict(headers or {}))

    def streams(self, *events: str) -> None:
        """Answer every request with an event stream, and end."""

        async def body() -> AsyncIterator[bytes]:
            for event in events:
                yield event.encode()

        self.answer = lambda _request: StreamingResponse(body(), media_type="text/event-stream")

    def close(self) -> None:
        self._server.stop()


def typed(*events: dict[str, Any]) -> tuple[str, ...]:
    """Events that name their kind twice, as Anthropic and Cohere send them."""
    return tuple(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


CLAUDE = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-3-5-haiku-20241022",
    "content": [{"type": "text", "text": "Hello there."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1, "output_tokens": 6},
}
CLAUDE_CALLS = CLAUDE | {
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
    ],
    "stop_reason": "tool_use",
}
CLAUDE_STREAM = typed(
    {
        "type": "message_start",
        "message": {
            "id": "msg_02",
            "model": "claude-3-5-haiku-20241022",
            "usage": {"input_tokens": 9, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I look."}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    },
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ' "Oslo"}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
)
COMMAND = {
    "id": "c-1",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Hello there."}]},
    "usage": {
        "billed_units": {"input_tokens": 5, "output_tokens": 3},
        "tokens": {"input_tokens": 71, "output_tokens": 5},
    },
}
COMMAND_STREAM = typed(
    {"type": "message-start", "id": "c-2", "delta": {"message": {"role": "assistant", "content": []}}},
    {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hello"}}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": " there."}}}},
    {"type": "content-end", "index": 0},
    {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will look."}}},
    {
        "type": "tool-call-start",
        "index": 0,
        "delta": {
            "message": {
                "tool_calls": {"id": "w_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            }
        },
    },
    {
        "type": "tool-call-delta",
        "index": 0,
        "delta": {"message": {"tool_calls": {"function": {"arguments": '{"city": "Oslo"}'}}}},
    },
    {"type": "tool-call-end", "index": 0},
    {
        "type": "message-end",
        "delta": {"finish_reason": "TOOL_CALL", "usage": {"tokens": {"input_tokens": 7, "output_tokens": 9}}},
    },
)
EMBED = {
    "id": "e-1",
    "embeddings": {"float": [[0.1, 0.2], [0.3, 0.4]]},
    "texts": ["a", "b"],
    "meta": {"billed_units": {"input_tokens": 2}},
}
