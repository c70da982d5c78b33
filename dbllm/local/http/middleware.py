"""Whatever goes wrong behind a route becomes an answer, in Databricks' shape."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbllm.local.errors import Problem
from dbllm.local.http.asgi import ClientGoneError

logger = logging.getLogger("dbllm.local")


class ErrorMiddleware:
    """ASGI middleware: whatever goes wrong behind it becomes an answer, never a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("dbllm.request_id", str(uuid.uuid4()))
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting_start)
        except ClientGoneError:
            logger.debug("the client of %s %s went away", scope["method"], scope["path"])
        except Problem as problem:
            if started:
                raise
            await _answer(send, with_request_id(problem, request_id))
        except Exception:
            logger.exception("%s %s failed (request %s)", scope["method"], scope["path"], request_id)
            # Once an answer has begun, raising cuts its connection: it must not look whole.
            if started:
                raise
            await _answer(send, Problem(500, "INTERNAL_ERROR", f"Internal error. [ReqId: {request_id}]"))


def with_request_id(problem: Problem, request_id: str) -> Problem:
    """The refusal of a credential (its code is an integer) names the request, in its text and in a header."""
    if not isinstance(problem.error_code, int):
        return problem
    headers = {**problem.headers, "x-databricks-reason-phrase": problem.message}
    return replace(problem, message=f"{problem.message} [ReqId: {request_id}]", headers=headers)


async def _answer(send: Send, problem: Problem) -> None:
    body = json.dumps(problem.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
