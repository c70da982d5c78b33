"""In front of every route: the credential, the ids every answer carries, and errors in Databricks' shape."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbllm.local.access.oauth import PATHS
from dbllm.local.access.permissions import Caller
from dbllm.local.errors import Problem, headers_too_large, no_credential, wrong_token
from dbllm.local.http.asgi import ClientGoneError
from dbllm.local.http.caller import check_origin, read_token

logger = logging.getLogger("dbllm.local")

OPEN_PATHS = frozenset({"/.well-known/databricks-config"}) | PATHS
"""Databricks answers these without a credential."""

HEADER_BYTES = 32 * 1024
"""Of all headers of a request, and its path and query."""


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


class AuthMiddleware:
    """ASGI middleware around the whole workspace: admits by token, and stamps every answer with its ids.

    Args:
        app: the routes; they find the caller in the scope, as `dbllm.caller`.
        callers: whose token it is, or None. Raises a Problem for one that has ended.
        workspace_id: for the answers' header.
        open_paths: starts of paths that check a credential themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        callers: Callable[[str], Caller | None],
        workspace_id: str,
        open_paths: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._guarded = ErrorMiddleware(self._admit)
        self._callers = callers
        self._workspace_id = workspace_id
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())

        async def send_with_ids(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-databricks-org-id"] = self._workspace_id
            await send(message)

        await self._guarded({**scope, "dbllm.request_id": request_id}, receive, send_with_ids)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check_size(scope)
            check_origin(scope["method"], Headers(scope=scope))
            # mlflow lists and creates endpoints at a path with a slash at its end.
            if scope["path"].startswith("/api/"):
                scope = {**scope, "path": scope["path"].rstrip("/")}
            if scope["path"] not in OPEN_PATHS and not scope["path"].startswith(self._open_paths):
                scope = {**scope, "dbllm.caller": self._caller(Headers(scope=scope))}
        await self._app(scope, receive, send)

    def _caller(self, headers: Headers) -> Caller:
        token = read_token(headers.get("authorization", ""))
        if token is None:
            raise no_credential()
        caller = self._callers(token)
        if caller is None:
            raise wrong_token()
        return caller


def _check_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope.get("raw_path") or b"") + len(scope["query_string"]) > HEADER_BYTES:
        raise headers_too_large(HEADER_BYTES)


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
