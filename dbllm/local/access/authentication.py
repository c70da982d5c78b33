"""In front of every route of a workspace: the credential, and the ids that every answer carries."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbllm.local.access.oauth import PATHS
from dbllm.local.access.permissions import Caller
from dbllm.local.errors import headers_too_large, no_credential, wrong_token
from dbllm.local.http.caller import came_over_loopback, check_host, check_origin
from dbllm.local.http.middleware import ErrorMiddleware

OPEN_PATHS = frozenset({"/.well-known/databricks-config"}) | PATHS
"""Databricks answers these without a credential."""

HEADER_BYTES = 32 * 1024
"""Of all headers of a request, and its path and query."""


class AuthMiddleware:
    """ASGI middleware around the whole workspace: admits by token, and stamps every answer with its ids.

    Args:
        app: the routes; they find the caller in the scope, as `dbllm.caller`.
        callers: whose token it is, or None. Raises a Problem for one that has ended.
        workspace_id: for the answers' header.
        open_paths: starts of paths that check a credential themselves.
        allowed_hosts: names of this machine beside those of loopback.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        callers: Callable[[str], Caller | None],
        workspace_id: str,
        open_paths: tuple[str, ...] = (),
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._guarded = ErrorMiddleware(self._admit)
        self._callers = callers
        self._workspace_id = workspace_id
        self._open_paths = open_paths
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

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
            if came_over_loopback(scope):
                check_host(Headers(scope=scope), self._allowed_hosts)
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


def read_token(authorization: str) -> str | None:
    """The token of an Authorization header, or None without one.

    It comes as `Bearer TOKEN`, or as the password of a user who is called "token", which is what
    `curl -u token:$DATABRICKS_TOKEN` sends (Databricks docs: query a custom model).
    """
    scheme, _, credential = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return credential.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(credential.strip(), validate=True).decode("latin-1").partition(":")
    except ValueError:
        return None
    return password or None if user == "token" else None


def _check_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope.get("raw_path") or b"") + len(scope["query_string"]) > HEADER_BYTES:
        raise headers_too_large(HEADER_BYTES)
