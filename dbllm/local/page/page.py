"""The page of a workspace: who may see it, and what it asks.

The page itself holds nothing and is given to every browser on this machine. What it shows comes from `/ui/…`, for a
header that carries the session of the printed link. The session lies in the link's fragment and then in the page's own
storage, which belongs to this host and port: no cookie, so a page of somebody else can neither read it nor have a
browser send it. The Host header is checked besides (DNS rebinding), and nothing answers CORS.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dbllm.local.errors import Problem, bad_request
from dbllm.local.http.caller import check_host
from dbllm.local.http.middleware import ErrorMiddleware
from dbllm.local.page.request_log import MODEL_CALLS, RequestLog

SESSION = "x-dbllm-session"
UI = "/ui/"
ICON = "/favicon.ico"
"""A browser asks for it by itself; there is none."""

CALL = f"{UI}call/"
"""What follows is a path of the workspace, which is asked for with its owner's token."""

APIS = ("/api/", "/serving-endpoints", "/ai-gateway", "/driver-proxy-api/", "/oidc", "/upstream", "/.well-known", CALL)
"""Where a program's paths begin; a browser too gets there what Databricks would say."""

_DROPPED = (SESSION.encode(), b"authorization", b"cookie", b"origin", b"referer")


class Page:
    """ASGI app around a workspace on loopback, which adds its page.

    Args:
        log: the workspace with its log; the page's own calls are among the requests.
        env: the variables by which clients find the workspace.
    """

    def __init__(self, log: RequestLog, env: Mapping[str, str]) -> None:
        self.session = secrets.token_urlsafe(24)
        self._log, self._env = log, env
        self._guarded: ASGIApp = ErrorMiddleware(self._answer)

    def url(self, host: str) -> str:
        """The link that opens the page."""
        return f"{host}/#session={self.session}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and (scope["path"].startswith(UI) or scope["path"] == ICON or _is_browser(scope))
        await (self._guarded if ours else self._log)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        check_host(headers)
        if _is_browser(scope):
            # The link's session stays in the address, for browsers keep its fragment on the way.
            leads = Response(status_code=303, headers={"location": "/", "cache-control": "no-store"})
            await (_document() if scope["path"] == "/" else leads)(scope, receive, send)
            return
        if scope["path"] == ICON:
            await Response(status_code=204)(scope, receive, send)
            return
        self._check_session(headers)
        if scope["path"].startswith(CALL):
            await self._log(self._as_owner(scope), receive, send)
        else:
            await self._view(scope)(scope, receive, send)

    def _check_session(self, headers: Headers) -> None:
        """Raises a Problem: it is not the page with the printed link's session."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and origin != f"http://{headers.get('host')}") or site != "same-origin":
            raise Problem(403, "PERMISSION_DENIED", "A web page of another origin sent this request.")
        if not hmac.compare_digest(headers.get(SESSION, "").encode(), self.session.encode()):
            raise Problem(401, "UNAUTHENTICATED", "This page's session has ended: open the link that `dbllm up` shows.")

    def _as_owner(self, scope: Scope) -> Scope:
        path = "/" + scope["path"].removeprefix(CALL)
        raw = b"/" + (scope.get("raw_path") or path.encode()).partition(CALL.encode())[2]
        kept = [(name, value) for name, value in scope["headers"] if name not in _DROPPED and name[:4] != b"sec-"]
        unlogged = {} if path.startswith(MODEL_CALLS) else {"dbllm.unlogged": True}
        token = f"Bearer {self._env['DATABRICKS_TOKEN']}".encode()
        return {**scope, **unlogged, "path": path, "raw_path": raw, "headers": [*kept, (b"authorization", token)]}

    def _view(self, scope: Scope) -> Response:
        what = scope["path"].removeprefix(UI)
        if scope["method"] != "GET":
            raise Problem(405, "BAD_REQUEST", "The page asks with GET alone.")
        if what == "env":
            return _unstored(dict(self._env))
        if what == "log":
            entries = self._log.since(
                _request_number(parse_qs(scope["query_string"].decode("latin-1")).get("after", ["0"])[0])
            )
            return _unstored({"entries": [entry.as_json() for entry in entries]})
        if what.startswith("log/") and (bodies := self._log.body(_request_number(what.removeprefix("log/")))):
            return _unstored(bodies)
        raise Problem(404, "NOT_FOUND", "The page has nothing of this name, or the request is no longer kept.")


def _is_browser(scope: Scope) -> bool:
    """Whether a person opened an address that is none of the API's: a browser asks for HTML, and has no credential."""
    path, headers = scope["path"], Headers(scope=scope)
    if scope["method"] not in ("GET", "HEAD") or path.startswith(APIS) or "authorization" in headers:
        return False
    return "text/html" in headers.get("accept", "")


def _request_number(text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text):
        raise bad_request(f"{text[:40]!r} is no number of a request")
    return int(text)


def _unstored(content: object) -> Response:
    return JSONResponse(content, headers={"cache-control": "no-store"})


@lru_cache
def _document() -> Response:
    """The page, which may load and send nothing but to its own host, and run no script but its own."""
    html = resources.files("dbllm.local.page").joinpath("page.html").read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    policy = (
        f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Response(
        html,
        media_type="text/html",
        headers={
            "content-security-policy": policy,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
        },
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
