"""The driver proxy: HTTP through the workspace to a port on the (pretended) driver node, which is this machine.

Databricks: `/driver-proxy-api/o/{org}/{cluster_id}/{port}[/path]` with a Bearer token; ports 3000 to 8000; with
nothing listening on the port the answer is an HTML page with status 502.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dbllm.local.driver.cluster import PORTS, Cluster
from dbllm.local.errors import Problem, bad_request
from dbllm.local.http.asgi import ClientGoneError, until_gone

logger = logging.getLogger("dbllm.local")

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_FORWARDED = HOP_BY_HOP | {"authorization", "cookie", "expect", "host"}
"""Request headers that concern this hop or the workspace alone."""

NOT_RETURNED = HOP_BY_HOP | {"date", "server"}
"""Answer headers that the workspace sets itself."""

BAD_GATEWAY = (
    "<html>\n<head><title>502 Bad Gateway</title></head>\n"
    "<body>\n<center><h1>502 Bad Gateway</h1></center>\n</body>\n</html>\n"
)


class DriverProxy:
    """Forwards to the driver apps whose ports are registered, for who may attach to the cluster."""

    def __init__(self, cluster: Cluster, workspace_id: str) -> None:
        self._cluster = cluster
        self._orgs = {"0", workspace_id}
        # An app may think for long, so there is no read timeout; the client's own ends the wait.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=5.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,
        )

    async def forward(self, request: Request) -> Response:
        """The app's answer to `request`.

        Raises:
            Problem: 404 for another cluster or workspace, 403 for who may not attach to the cluster.
        """
        path = request.path_params
        if path["org"] not in self._orgs:
            raise Problem(404, "RESOURCE_DOES_NOT_EXIST", f"Workspace {path['org']} does not exist.")
        if path["cluster_id"] != self._cluster.id:
            raise Problem(404, "RESOURCE_DOES_NOT_EXIST", f"Cluster {path['cluster_id']} does not exist.")
        self._cluster.need(request.scope["dbllm.caller"], "CAN_ATTACH_TO")
        port, own = path["port"], (request.scope.get("server") or ("", None))[1]
        known = port.isascii() and port.isdigit() and len(port) < 6 and int(port) in self._cluster.ports
        if not known or int(port) not in PORTS or int(port) == own:
            return bad_gateway()
        return _Forwarded(self._http, request, f"http://127.0.0.1:{int(port)}{_sub_path(request)}")

    async def close(self) -> None:
        """Close the connections to the apps."""
        await self._http.aclose()


def bad_gateway() -> Response:
    """What the proxy answers when there is no app behind the port."""
    return Response(BAD_GATEWAY, status_code=502, media_type="text/html")


def _sub_path(request: Request) -> str:
    """What follows the port, undecoded, with the query; "/" when there is nothing."""
    raw = request.scope.get("raw_path") or request.url.path.encode()
    # /driver-proxy-api/o/{org}/{cluster_id}/{port}/rest
    parts = raw.decode("latin-1").split("?", 1)[0].split("/", 6)
    path = f"/{parts[6]}" if len(parts) > 6 else "/"
    query = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


class _Forwarded(Response):
    """An answer that arrives from the app piece by piece and leaves the same way."""

    def __init__(self, http: httpx.AsyncClient, request: Request, url: str) -> None:
        super().__init__()
        self._http = http
        self._request = request
        self._url = url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        upload = _Upload(self._request)
        try:
            await until_gone(upload.receive_after, self._exchange(upload, scope, send))
        except ClientDisconnect:
            raise ClientGoneError from None

    async def _exchange(self, upload: _Upload, scope: Scope, send: Send) -> None:
        named = {name.strip().lower() for name in self._request.headers.get("connection", "").split(",")}
        headers = [
            (name, value) for name, value in self._request.headers.raw if name.decode() not in NOT_FORWARDED | named
        ]
        content = upload.parts() if upload.expected else None
        try:
            outgoing = httpx.Request(self._request.method, self._url, headers=headers, content=content)
            upstream = await self._http.send(outgoing, stream=True)
        except httpx.InvalidURL as error:
            raise bad_request(f"the path cannot be forwarded: {error}") from error
        except httpx.TransportError:
            await bad_gateway()(scope, self._request.receive, send)
            return
        try:
            await _relay(upstream, scope, self._request.receive, send)
        finally:
            await upstream.aclose()


class _Upload:
    """The request's body on its way to the app; the client is watched for going away once the body is through."""

    def __init__(self, request: Request) -> None:
        self.expected = "content-length" in request.headers or "transfer-encoding" in request.headers
        self._request = request
        self._through = asyncio.Event()
        if not self.expected:
            self._through.set()

    async def parts(self) -> AsyncIterator[bytes]:
        async for part in self._request.stream():
            if part:
                yield part
        self._through.set()

    async def receive_after(self) -> Message:
        await self._through.wait()
        return await self._request.receive()


async def _relay(upstream: httpx.Response, scope: Scope, receive: Receive, send: Send) -> None:
    chunks = upstream.aiter_raw()
    first = b""
    if not upstream.headers.get("content-type", "").startswith("text/event-stream"):
        # Nothing is sent yet, so an app that drops here can still be told from one that answered.
        try:
            first = await anext(chunks, b"")
        except httpx.TransportError:
            await bad_gateway()(scope, receive, send)
            return
    await send(
        {"type": "http.response.start", "status": upstream.status_code, "headers": _response_headers(upstream.headers)}
    )
    await send({"type": "http.response.body", "body": first, "more_body": True})
    try:
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.TransportError as error:
        # Left unfinished, the answer's connection is cut: the client must not take what it has for the whole.
        logger.warning("a driver app dropped its answer: %s", error)
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _response_headers(headers: httpx.Headers) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers.raw if name.decode("latin-1").lower() not in NOT_RETURNED]
