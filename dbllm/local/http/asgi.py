"""Between ASGI and the rest: bodies in, server-sent events out, and noticing that a client went away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dbllm.local.errors import Problem, bad_request, too_large
from dbllm.local.http.content_coding import decode_content

logger = logging.getLogger("dbllm.local")

MEGABYTE = 1 << 20
DRAIN = 64 * MEGABYTE
"""How much of a body that is too large is still read, so that its sender gets the 413 instead of a broken pipe."""

GZIP = b"\x1f\x8b"
"""How gzip begins."""

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client disconnected."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body of a request, decompressed.

    Raises:
        Problem: 413 if it has more than `limit` bytes; 400 or 415 if it cannot be decompressed.
        ClientGoneError: the client went away before all of it had come.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > limit + DRAIN:
                break
    except ClientDisconnect:
        raise ClientGoneError from None
    if size > limit:
        raise too_large(limit)
    return decode_content(b"".join(parts), ",".join(request.headers.getlist("content-encoding")), limit)


def decode_json(body: bytes) -> object:
    """A JSON body; NaN and Infinity are not JSON.

    Raises:
        Problem: 400 with the reason.
    """
    try:
        decoded: object = json.loads(body, parse_constant=_refuse_constant)
        if b"\\ud" in body.lower():
            json.dumps(decoded, ensure_ascii=False).encode()
    except UnicodeError as error:
        if body.startswith(GZIP):
            raise bad_request("the body is gzip, but there is no header 'Content-Encoding: gzip'") from error
        raise bad_request(f"the body is not valid UTF-8 text: {error}") from error
    except RecursionError as error:
        raise bad_request("the JSON is nested too deeply") from error
    except ValueError as error:
        raise bad_request(f"invalid JSON: {error}") from error
    return decoded


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client disconnects. The request's body must be read.

    Raises:
        ClientGoneError: the client went away first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Emit = Callable[[object], Awaitable[None]]
"""Sends one frame of a stream: a JSON value."""

Frames = Callable[[Emit], Coroutine[Any, Any, object]]
"""Makes the frames of a stream: it is handed `emit` and awaits it with one JSON value per frame."""


class EventStream(Response):
    """Server-sent events: `data: <JSON>` frames, then `data: [DONE]` (Databricks REST: streaming answers).

    The status line is sent with the first frame, so what goes wrong before it is an ordinary error answer. What goes
    wrong later becomes an error frame, because the 200 is out already.
    """

    def __init__(self, frames: Frames, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={"cache-control": "no-cache", **(headers or {})}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._frames = frames
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_gone(receive, self._answer(send))

    async def _answer(self, send: Send) -> None:
        async def emit(frame: object) -> None:
            await self._send(send, json.dumps(frame, ensure_ascii=False))

        try:
            await self._frames(emit)
        except Problem as problem:
            if not self._started:
                raise
            await emit({"error": problem.body()})
        except Exception:
            if not self._started:
                raise
            logger.exception("a stream broke")
            await emit({"error": {"error_code": "INTERNAL_ERROR", "message": "The stream broke."}})
        await self._send(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, data: str) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # A lone surrogate cannot be encoded; the model never makes one, a user's callable might.
        frame = f"data: {data}\n\n".encode("utf-8", "replace")
        await send({"type": "http.response.body", "body": frame, "more_body": True})
