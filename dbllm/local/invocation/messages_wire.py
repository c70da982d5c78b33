"""A chat answer that leaves on Anthropic's Messages wire: translated while it is sent."""

from __future__ import annotations

import json

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dbllm.local.gateway.messages import MessageStream, whole_message
from dbllm.local.json_values import Json

MESSAGES = "anthropic/v1/messages"
"""Where that wire is spoken, below the paths of serving endpoints and of the AI gateway."""


class MessagesResponse(Response):
    """The answer of a chat endpoint as a message. What is no success leaves as it is.

    Args:
        response: the chat answer, whole or streamed.
    """

    def __init__(self, response: Response) -> None:
        super().__init__()
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        translation: _Whole | _Streamed | None = None

        async def send_translated(message: Message) -> None:
            nonlocal translation
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if message["status"] == 200:
                    streams = headers.get("content-type", "").startswith("text/event-stream")
                    translation = _Streamed() if streams else _Whole()
                    del headers["content-length"]
            elif translation is not None:
                body = translation.read(message.get("body", b""), last=not message.get("more_body", False))
                message = {**message, "body": body}
            await send(message)

        await self._response(scope, receive, send_translated)


class _Whole:
    """Collects a JSON answer and translates it at its end."""

    def __init__(self) -> None:
        self._body = b""

    def read(self, part: bytes, *, last: bool) -> bytes:
        self._body += part
        return json.dumps(whole_message(json.loads(self._body)), ensure_ascii=False).encode() if last else b""


class _Streamed:
    """Translates the frames of a stream as they are complete."""

    def __init__(self) -> None:
        self._unread = b""
        self._events = MessageStream()

    def read(self, part: bytes, *, last: bool) -> bytes:
        *frames, self._unread = (self._unread + part).split(b"\n\n")
        return b"".join(self._translated(frame.removeprefix(b"data:").strip()) for frame in frames)

    def _translated(self, data: bytes) -> bytes:
        events = self._events.end() if data == b"[DONE]" else self._events.feed(json.loads(data))
        return b"".join(_frame(event) for event in events)


def _frame(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
