"""In front of every route: the credential, the ids every answer carries, and errors in Databricks' shape."""

from __future__ import annotations

import hmac
import json
import logging
import uuid
from dataclasses import replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbllm.local.oidc import PATHS, Oidc
from dbllm.local.problems import Problem, no_credential, wrong_token
from dbllm.local.wire import ClientGoneError

logger = logging.getLogger("dbllm.local")

OPEN_PATHS = frozenset({"/.well-known/databricks-config"}) | PATHS
"""Databricks answers these without a credential."""


class Guard:
    """ASGI middleware: whatever goes wrong behind it becomes an answer, never a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("dbllm.request_id", str(uuid.uuid4()))
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
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


class Gate:
    """ASGI middleware around the whole workspace: admits by token, and stamps every answer with its ids."""

    def __init__(self, app: ASGIApp, *, token: str, workspace_id: str, oidc: Oidc | None = None) -> None:
        self._app = app
        self._guarded = Guard(self._admit)
        self._token = token.encode()
        self._workspace_id = workspace_id
        self._oidc = oidc or Oidc()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-databricks-org-id"] = self._workspace_id
            await send(message)

        await self._guarded({**scope, "dbllm.request_id": request_id}, receive, stamped)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            self._check(Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise no_credential()
        given = credential.strip()
        if not hmac.compare_digest(given.encode("latin-1"), self._token) and not self._oidc.admits(given):
            raise wrong_token()


def with_request_id(problem: Problem, request_id: str) -> Problem:
    """The refusal of a credential names the request, in the text and as a header (Databricks REST)."""
    if problem.status not in (401, 403):
        return problem
    headers = {**problem.headers, "x-databricks-reason-phrase": problem.message}
    return replace(problem, message=f"{problem.message} [ReqId: {request_id}]", headers=headers)


async def _answer(send: Send, problem: Problem) -> None:
    body = json.dumps(problem.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
