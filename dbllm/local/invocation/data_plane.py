"""Route-optimized endpoints: they answer at an origin of their own, for tokens issued for them, and nowhere else.

    {origin}/{workspace id}/serving-endpoints/{name}/invocations

Databricks docs: query route-optimized serving endpoints. The endpoint's description says where that is, and with which
`authorization_details` a token is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from dbllm.local.access.authentication import read_token
from dbllm.local.errors import Problem, bad_invocation_path, denied
from dbllm.local.json_values import Json
from dbllm.local.management.endpoint_record import Record

QUERY = "query_inference_endpoint"
"""The action that a token must be issued for."""


class DataPlane:
    """The origin of route-optimized endpoints.

    Args:
        origin: its URL; "" if the workspace has none.
        workspace_id: the first part of its paths.
        find: the endpoint of a name, or a Problem unless the caller of a request may query it and it can answer.
        details: the `authorization_details` that a token was issued for.
        answer: makes the answer of an endpoint.
    """

    def __init__(
        self,
        origin: str,
        workspace_id: str,
        find: Callable[[Request, str], Record],
        details: Callable[[str], str],
        answer: Callable[[Request, Record], Awaitable[Response]],
    ) -> None:
        self._origin = origin
        self._workspace_id = workspace_id
        self._find = find
        self._details = details
        self._answer = answer

    def app(self) -> ASGIApp:
        """The app; whose token it is has been found out in front of it."""
        path = f"/{self._workspace_id}/serving-endpoints/{{name}}/invocations"
        return Router([Route(path, self.invocations, methods=["POST"]), Route("/{rest:path}", _NoPath())])

    def described(self, record: Record) -> Json:
        """What the description of an endpoint says about its URL."""
        if not record.route_optimized:
            return {"route_optimized": False}
        url = f"{self._origin}/{self._workspace_id}/serving-endpoints/{record.name}/invocations"
        info = {"endpoint_url": url, "authorization_details": authorization_details(record)}
        return {"route_optimized": True, "endpoint_url": url, "data_plane_info": {"query_info": info}}

    async def invocations(self, request: Request) -> Response:
        """One invocation."""
        record = self._find(request, request.path_params["name"])
        if not record.route_optimized:
            raise bad_invocation_path()
        token = read_token(request.headers.get("authorization", "")) or ""
        if not covers(self._details(token), record):
            raise denied(
                f"the token was not issued for the endpoint '{record.name}': ask for one with its authorization_details"
            )
        return await self._answer(request, record)

    def refuse_elsewhere(self, record: Record) -> None:
        """Raises Problem for a route-optimized endpoint that is called at the workspace's URL."""
        if record.route_optimized:
            url = self.described(record)["endpoint_url"]
            reason = f"Endpoint '{record.name}' is route-optimized and is queried at its own URL only: {url}"
            raise Problem(400, "BAD_REQUEST", reason)


def authorization_details(record: Record) -> str:
    """What a token has to be issued for, so that it opens this endpoint."""
    wanted = {"type": "workspace_permission", "object_type": "serving-endpoints"}
    return json.dumps([{**wanted, "object_path": f"/serving-endpoints/{record.id}", "actions": [QUERY]}])


def covers(details: str, record: Record) -> bool:
    """Whether a token that was issued for `details` opens an endpoint."""
    path = f"/serving-endpoints/{record.id}"
    granted = json.loads(details) if details else []
    return any(
        one.get("object_type") == "serving-endpoints"
        and one.get("object_path") == path
        and QUERY in (one.get("actions") or ())
        for one in granted
    )


class _NoPath:
    """ASGI: 404. An instance, so that the route takes every method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise bad_invocation_path()
