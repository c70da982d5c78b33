"""The workspace as an ASGI app: which path goes where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from dbllm.local import catalog
from dbllm.local.engine import Engine
from dbllm.local.gate import Gate
from dbllm.local.invoke import FOUNDATION_LIMIT, Models, invoke, read_limited
from dbllm.local.oidc import Oidc
from dbllm.local.problems import Problem, bad_invocation_path, bad_request, no_such_api, no_such_endpoint
from dbllm.local.proxy import PORTS, DriverProxy
from dbllm.local.state import Identity
from dbllm.local.vectors import Vectors
from dbllm.local.wire import decode_json, read_body

OPENAI_TASKS = {
    "chat/completions": "llm/v1/chat",
    "completions": "llm/v1/completions",
    "embeddings": "llm/v1/embeddings",
}
ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(
    engine: Engine, vectors: Vectors, identity: Identity, drivers: Iterable[int] = (), oidc: Oidc | None = None
) -> ASGIApp:
    """A workspace around a loaded model.

    Args:
        engine: makes the text; its owner closes it.
        vectors: makes the embeddings.
        identity: token, cluster id and workspace id.
        drivers: ports of driver apps that are known from the start.
        oidc: its service principals; none by default.
    """
    oidc = oidc or Oidc()
    workspace = _Handlers(Models(engine, vectors), identity, drivers)
    # A bare router: Starlette's own middleware would answer errors in its own way.
    app = Router([*oidc.routes(), *workspace.routes()], redirect_slashes=False, lifespan=workspace.lifespan)
    return Gate(app, token=identity.token, workspace_id=identity.workspace_id, oidc=oidc)


class _Handlers:
    """One method per route."""

    def __init__(self, models: Models, identity: Identity, drivers: Iterable[int]) -> None:
        self._models = models
        self._identity = identity
        self._endpoints: Mapping[str, catalog.Endpoint] = catalog.ready_endpoints(models.engine.name)
        self._proxy = DriverProxy(identity.cluster_id, identity.workspace_id, drivers)

    def routes(self) -> list[Route]:
        served = "/serving-endpoints/{name}/served-models/{served}/invocations"
        app_path = "/driver-proxy-api/o/{org}/{cluster_id}/{port}"
        return [
            Route("/.well-known/databricks-config", self.host_metadata),
            Route("/api/2.0/preview/scim/v2/Me", self.me),
            Route("/api/2.0/serving-endpoints", self.list_endpoints),
            Route("/api/2.0/serving-endpoints/{name}", self.get_endpoint),
            Route("/api/local/driver-apps", self.driver_apps, methods=["GET", "POST", "DELETE"]),
            Route("/serving-endpoints/{name}/invocations", self.invocations, methods=["POST"]),
            Route(served, self.invocations, methods=["POST"]),
            *(Route(f"/serving-endpoints/{path}", self.by_model, methods=["POST"]) for path in OPENAI_TASKS),
            Route(app_path, self.driver_proxy, methods=ANY_METHOD),
            Route(f"{app_path}/{{rest:path}}", self.driver_proxy, methods=ANY_METHOD),
            Route("/{rest:path}", _no_route, methods=ANY_METHOD),  # also a known path with another method
        ]

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._proxy.close()

    async def host_metadata(self, request: Request) -> Response:
        """What a client learns about the host before it has a credential (databricks-sdk: get_host_metadata)."""
        return JSONResponse(
            {
                "oidc_endpoint": f"{request.url.scheme}://{request.url.netloc}/oidc",
                "workspace_id": self._identity.workspace_id,
                "cloud": "AWS",
            }
        )

    async def me(self, _request: Request) -> Response:
        """Who the token belongs to (SCIM)."""
        return JSONResponse(
            {
                "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
                "id": self._identity.workspace_id,
                "userName": catalog.CREATOR,
                "displayName": "dbllm",
                "active": True,
                "emails": [{"value": catalog.CREATOR, "primary": True, "type": "work"}],
                "groups": [{"display": "users", "type": "direct", "value": "1"}],
            }
        )

    async def list_endpoints(self, _request: Request) -> Response:
        """Databricks REST: GET /api/2.0/serving-endpoints."""
        created = self._identity.created_ms
        return JSONResponse({"endpoints": [catalog.summary(one, created) for one in self._endpoints.values()]})

    async def get_endpoint(self, request: Request) -> Response:
        """Databricks REST: GET /api/2.0/serving-endpoints/{name}."""
        return JSONResponse(catalog.detailed(self._endpoint(request.path_params["name"]), self._identity.created_ms))

    async def invocations(self, request: Request) -> Response:
        """Databricks REST: POST /serving-endpoints/{name}[/served-models/{served}]/invocations."""
        endpoint = self._endpoint(request.path_params["name"])
        served = request.path_params.get("served", endpoint.served)
        if served != endpoint.served:
            raise Problem(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"Served model with name '{served}' does not exist in endpoint '{endpoint.name}'.",
            )
        return await invoke(request, endpoint, self._models, await read_limited(request, endpoint))

    async def by_model(self, request: Request) -> Response:
        """The paths of OpenAI clients, where `model` in the body names the endpoint."""
        body = await read_body(request, FOUNDATION_LIMIT)
        decoded = decode_json(body)
        name = decoded.get("model") if isinstance(decoded, dict) else None
        if not isinstance(name, str):
            raise bad_request("missing required field 'model': the name of a serving endpoint")
        endpoint = self._endpoint(name)
        task = OPENAI_TASKS[request.url.path.removeprefix("/serving-endpoints/")]
        if endpoint.task != task:
            raise bad_request(f"endpoint '{name}' has the task {endpoint.task or 'of a custom model'}, not {task}")
        return await invoke(request, endpoint, self._models, body)

    async def driver_proxy(self, request: Request) -> Response:
        """Databricks: /driver-proxy-api/o/{org}/{cluster_id}/{port}[/path]."""
        return await self._proxy.forward(request)

    async def driver_apps(self, request: Request) -> Response:
        """Local only, not a Databricks API: which ports of this machine the driver proxy may reach."""
        if request.method != "GET":
            body = decode_json(await read_body(request, FOUNDATION_LIMIT))
            port = body.get("port") if isinstance(body, dict) else None
            if type(port) is not int or port not in PORTS:
                raise bad_request(f"'port' must be an integer from {PORTS[0]} to {PORTS[-1]}")
            if request.method == "POST":
                self._proxy.ports.add(port)
            else:
                self._proxy.ports.discard(port)
        return JSONResponse({"cluster_id": self._identity.cluster_id, "ports": sorted(self._proxy.ports)})

    def _endpoint(self, name: str) -> catalog.Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise no_such_endpoint(name)
        return endpoint


async def _no_route(request: Request) -> Response:
    path = request.url.path
    raise bad_invocation_path() if path.startswith("/serving-endpoints") else no_such_api(request.method, path)
