"""The workspace as an ASGI app: which path goes where."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from dbllm.local.access.authentication import AuthMiddleware
from dbllm.local.access.oauth import Oidc
from dbllm.local.access.permissions import Caller, need, only_admins
from dbllm.local.access.principals import Principals
from dbllm.local.apps.agent_app import AgentApp
from dbllm.local.apps.listing import AppsApi
from dbllm.local.driver.cluster import Cluster
from dbllm.local.driver.proxy import DriverProxy
from dbllm.local.errors import (
    Problem,
    bad_invocation_path,
    bad_request,
    never_ready,
    no_credential,
    no_such_api,
    not_ready,
)
from dbllm.local.gateway import providers
from dbllm.local.gateway.gateway import Gateway
from dbllm.local.gateway.messages import read_messages
from dbllm.local.gateway.own_upstream import UPSTREAM_PATH as UPSTREAM
from dbllm.local.gateway.own_upstream import Upstream
from dbllm.local.gateway.reach import read_reach
from dbllm.local.http import operations
from dbllm.local.http.asgi import decode_json, read_body
from dbllm.local.http.error_details import with_details
from dbllm.local.http.operations import OBJECT, TEXT, Operation
from dbllm.local.http.origins import ByPort, Origins
from dbllm.local.invocation import documented
from dbllm.local.invocation.ai_gateway import AI_GATEWAY, AiGateway, feature_disabled
from dbllm.local.invocation.custom_models import Customs
from dbllm.local.invocation.data_plane import DataPlane
from dbllm.local.invocation.dispatch import Dispatch
from dbllm.local.invocation.faults import Faults
from dbllm.local.invocation.limits import FOUNDATION_BODY, max_body
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.messages_wire import MESSAGES, MessagesResponse
from dbllm.local.invocation.request_tags import REQUEST_TAGS, read_request_tags
from dbllm.local.json_values import Json
from dbllm.local.management import catalog, endpoint_config, endpoint_record, model_services
from dbllm.local.management.endpoint_record import Record
from dbllm.local.management.endpoints import Endpoints, ManagementHooks, no_such_served
from dbllm.local.management.metrics import Metrics
from dbllm.local.management.model_services import ModelServiceRules
from dbllm.local.management.provider_services import ProviderServiceRules
from dbllm.local.management.rate_limits import Rates
from dbllm.local.management.secrets import Scopes
from dbllm.local.management.served_entity import CustomModels, Entity, ExternalModels
from dbllm.local.management.services import UNITY_CATALOG, GrantsApi, Services
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine
from dbllm.local.options import Options
from dbllm.local.storage.identity import Identity
from dbllm.local.storage.store import Change, Store

CHAT = "llm/v1/chat"
OPENAI_TASKS = {
    "chat/completions": CHAT,
    "completions": "llm/v1/completions",
    "embeddings": "llm/v1/embeddings",
    "responses": "agent/v1/responses",
    "open-responses": "agent/v1/responses",
}
CHAT_AND_RESPONSES = (CHAT, "agent/v1/responses")
"""The task of a chat model and the further one that it can be called for by `model`."""
ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
DOCUMENT = "/api/local/openapi.json"
TAGS = "/api/local/request-tags"
AGENT = "smollm2-agent"
"""The name of the agent's app."""


def create_workspace_app(
    engine: Engine,
    vectors: Vectors,
    identity: Identity,
    drivers: Iterable[int] = (),
    oidc: Oidc | None = None,
    *,
    customs: Customs | None = None,
    store: Store | None = None,
    options: Options | None = None,
    origins: Origins | None = None,
) -> ASGIApp:
    """A workspace around a loaded model.

    Args:
        engine: makes the text; its owner closes it.
        vectors: makes the embeddings.
        identity: token, cluster id and workspace id.
        drivers: ports of driver apps that are known from the start.
        oidc: its service principals; none by default.
        customs: the custom models of the options, loaded; loaded here when left out.
        store: remembers what is made; in memory by default. The app closes it when it ends.
        options: what else can be chosen.
        origins: of the agent's app and of route-optimized endpoints, whose ports are served, too; none by default.
    """
    oidc = oidc or Oidc()
    options = options or Options()
    if customs is None:
        customs = Customs(options.customs)
        customs.load()
    origins = origins or Origins()
    workspace = _Workspace(
        LocalModels(engine, vectors), identity, drivers, customs, store or Store(), options, oidc, origins
    )
    principals = workspace.principals
    oidc.accept_also(principals.service)
    # A bare router: Starlette's own middleware would answer errors in its own way.
    app = Router([*oidc.routes(), *workspace.routes()], redirect_slashes=False, lifespan=workspace.lifespan)

    def guarded(app: ASGIApp, callers: Callable[[str], Caller | None], *open_paths: str) -> ASGIApp:
        return AuthMiddleware(
            app,
            callers=callers,
            workspace_id=identity.workspace_id,
            open_paths=open_paths,
            allowed_hosts=options.allowed_hosts,
        )

    def by_oauth(callers: Callable[[str], Caller | None]) -> Callable[[str], Caller | None]:
        def caller(token: str) -> Caller | None:
            if principals.caller(token) is not None:  # it is good for the workspace alone (Databricks docs)
                raise no_credential()
            return callers(token)

        return caller

    return ByPort(
        guarded(app, lambda token: principals.caller(token) or oidc.caller(token), f"{UPSTREAM}/"),
        {
            origins.agent_app: guarded(workspace.agent_app.app(), by_oauth(oidc.caller)),
            origins.data_plane: guarded(workspace.data_plane.app(), by_oauth(oidc.any_caller)),
        },
    )


class _Workspace:
    """The parts of a workspace, and the routes that are not in the table of operations."""

    def __init__(
        self,
        models: LocalModels,
        identity: Identity,
        drivers: Iterable[int],
        customs: CustomModels,
        store: Store,
        options: Options,
        oidc: Oidc,
        origins: Origins,
    ) -> None:
        self._identity = identity
        self._store = store
        self._thread = ThreadPoolExecutor(1, "dbllm-state")
        self._cluster = Cluster(store, identity.cluster_id, drivers)
        self._proxy = DriverProxy(self._cluster, identity.workspace_id)
        self._metrics = Metrics()
        self._rates = Rates(store, options.now)
        scopes = Scopes(store, options.now)
        owner = Caller(catalog.CREATOR, admin=True)
        self.principals = Principals(store, owner, identity.token, options.now)
        own = {one.entity_name: one for one in catalog.ready_endpoints(models.engine.name).values()}
        ready = [catalog.ready_record(one, name, identity.created_ms) for name, one in own.items()]
        for name in filter(endpoint_config.ENDPOINT_NAME.fullmatch, options.customs):
            ready.append(catalog.ready_record(catalog.custom_endpoint(name), name, identity.created_ms))
        reach = read_reach(options.allowed_upstreams, options.upstreams.values())
        check_external = partial(providers.check, reach=reach)
        self._gateway: ExternalModels = Gateway(scopes.value, options.upstreams, reach=reach)
        self._upstream = Upstream(models, options.upstream_key or secrets.token_hex(16))
        self._customs: CustomModels = customs
        self._faults = Faults(options.faults)
        self.agent_app = AgentApp(AGENT, models, self._faults)
        self.data_plane = DataPlane(
            origins.data_plane, identity.workspace_id, self._queried, oidc.details, self._answer_whole
        )
        hooks = ManagementHooks(
            may_read=scopes.may_read,
            check_external=check_external,
            custom=frozenset(options.customs),
            metrics=self._metrics.text,
            logs=self._metrics.log,
            forget=self._forget,
            data_plane=self.data_plane.described,
            route_optimization=bool(origins.data_plane),
        )
        self._endpoints = Endpoints(store, ready, own, hooks, options.now, options.deploy_seconds)
        self._dispatch = Dispatch(
            models,
            own,
            self._gateway,
            self._customs,
            self._metrics,
            self._rates.spend,
            self._remember,
            seed=options.seed,
            at_once=options.at_once,
        )
        provider_rules = ProviderServiceRules(scopes.may_read, check_external)
        provider_services = Services(store, provider_rules, options.now)
        rules = ModelServiceRules(own, provider_services, self._endpoints.find)
        ready_services = model_services.ready_services(own.values(), identity.created_ms)
        services = Services(store, rules, options.now, ready_services, self._forget)
        self._unity_catalog = [
            *services.operations(),
            *provider_services.operations(),
            *GrantsApi(services, provider_services).operations(),
        ]
        self._ai_gateway = AiGateway(services, rules, self._dispatch.draw, self._answer) if options.ai_gateway else None
        self._operations = [
            *self._endpoints.operations(),
            *scopes.operations(),
            *self.principals.operations(),
            *self._faults.operations(),
            *AppsApi(AGENT, origins.agent_app, identity.created_ms).operations(),
            *self._cluster.operations(),
            *self._more_operations(),
        ]

    def routes(self) -> list[Route]:
        served = "/serving-endpoints/{name}/served-models/{served}/invocations"
        app_path = "/driver-proxy-api/o/{org}/{cluster_id}/{port}"
        return [
            Route("/.well-known/databricks-config", self.host_metadata),
            Route(DOCUMENT, self.document),
            *operations.routes(self._operations, self._thread),
            *self._upstream.routes(),
            Route("/serving-endpoints/{name}/invocations", self.invocations, methods=["POST"]),
            Route(served, self.invocations, methods=["POST"]),
            *(Route(f"/serving-endpoints/{path}", self.by_model, methods=["POST"]) for path in OPENAI_TASKS),
            Route(f"/serving-endpoints/{MESSAGES}", self.messages, methods=["POST"]),
            *self._gateway_routes(),
            Route(app_path, self.driver_proxy, methods=ANY_METHOD),
            Route(f"{app_path}/{{rest:path}}", self.driver_proxy, methods=ANY_METHOD),
            Route("/{rest:path}", _no_route, methods=ANY_METHOD),  # also a known path with another method
        ]

    def _gateway_routes(self) -> list[Route]:
        if self._ai_gateway is not None:
            catalog_routes = operations.routes(self._unity_catalog, self._thread)
            return with_details([*catalog_routes, *self._ai_gateway.routes()])
        paths = [f"{AI_GATEWAY}/{{rest:path}}"]
        for kind in ("model-services", "model-provider-services"):
            paths += [f"{UNITY_CATALOG}/{kind}", f"{UNITY_CATALOG}/{kind}/{{rest:path}}"]
        return with_details([Route(path, feature_disabled, methods=ANY_METHOD) for path in paths])

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.agent_app.close()
            await self._proxy.close()
            await self._gateway.close()
            await self._customs.close()
            self._thread.submit(self._store.close)
            self._thread.shutdown()

    # -- about the workspace

    async def host_metadata(self, request: Request) -> Response:
        """What a client learns about the host before it has a credential (databricks-sdk: get_host_metadata)."""
        return JSONResponse(
            {
                "oidc_endpoint": f"{request.url.scheme}://{request.url.netloc}/oidc",
                "workspace_id": self._identity.workspace_id,
                "cloud": "AWS",
            }
        )

    async def document(self, _request: Request) -> Response:
        """The OpenAPI document of the table of operations."""
        listed = [*self._operations, *documented.INVOCATIONS]
        if self._ai_gateway is not None:
            listed += [*self._unity_catalog, *documented.GATEWAY_CALLS]
        return JSONResponse(operations.document(listed, "dbllm's local workspace"))

    def _more_operations(self) -> list[Operation]:
        connection = operations.object_schema(
            "connection_name", connection_name=TEXT, method=TEXT, path=TEXT, json=OBJECT
        )
        return [
            Operation("GET", "/api/2.0/preview/scim/v2/Me", self._me, "Who calls"),
            Operation("POST", "/api/2.0/external-function", _no_connection, "Call a connection", connection),
            Operation("GET", TAGS, self._tags, "How many requests had which tags"),
        ]

    def _me(self, call: operations.ApiCall) -> Json:
        """Who the token belongs to (SCIM)."""
        name = call.caller.name
        return {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "id": self._identity.workspace_id,
            "userName": name,
            "displayName": name.partition("@")[0],
            "active": True,
            **({} if call.caller.service else {"emails": [{"value": name, "primary": True, "type": "work"}]}),
            "groups": [{"display": "users", "type": "direct", "value": "1"}],
        }

    def _tags(self, call: operations.ApiCall) -> Json:
        """Local only, not a Databricks API: the tags of requests, by endpoint or model service."""
        only_admins(call.caller)
        return {
            "endpoints": [
                {"name": name, "tags": [{"key": key, "value": value, "requests": n} for (key, value), n in tags]}
                for name, tags in self._metrics.tags().items()
            ]
        }

    # -- calls of models

    async def invocations(self, request: Request) -> Response:
        """Databricks REST: POST /serving-endpoints/{name}[/served-models/{served}]/invocations."""
        record = self._queried(request, request.path_params["name"])
        self.data_plane.refuse_elsewhere(record)
        served = request.path_params.get("served")
        if served is not None and served not in {entity.name for entity in endpoint_record.entities(record)}:
            raise no_such_served(served, record.name)
        return await self._answer_whole(request, record, served)

    async def _answer_whole(self, request: Request, record: Record, served: str | None = None) -> Response:
        body = await read_body(request, max_body(record.task))
        return await self._answer(request, record, self._dispatch.chosen(record, served), body)

    async def by_model(self, request: Request) -> Response:
        """The paths of OpenAI clients, where `model` in the body names the endpoint."""
        body = await read_body(request, FOUNDATION_BODY)
        task = OPENAI_TASKS[request.url.path.removeprefix("/serving-endpoints/")]
        return await self._answer_by_model(request, decode_json(body), task, body)

    async def messages(self, request: Request) -> Response:
        """Anthropic's wire, where `model` in the body names a chat endpoint."""
        chat = read_messages(decode_json(await read_body(request, FOUNDATION_BODY)))
        return MessagesResponse(await self._answer_by_model(request, chat, CHAT, json.dumps(chat).encode()))

    async def _answer_by_model(self, request: Request, decoded: object, task: str, body: bytes) -> Response:
        name = decoded.get("model") if isinstance(decoded, dict) else None
        if not isinstance(name, str):
            raise bad_request("missing required field 'model': the name of a serving endpoint")
        record = self._queried(request, name)
        self.data_plane.refuse_elsewhere(record)
        if record.task != task and (record.task, task) != CHAT_AND_RESPONSES:
            raise bad_request(f"endpoint '{name}' has the task {record.task or 'of a custom model'}, not {task}")
        chosen = [replace(entity, task=task) for entity in self._dispatch.chosen(record, None)]
        return await self._answer(request, record, chosen, body)

    def _queried(self, request: Request, name: str) -> Record:
        """An endpoint that the caller may query and that can answer."""
        record = self._endpoints.find(name)
        need(record.settings.acl, request.scope["dbllm.caller"], "CAN_QUERY", record.name)
        if record.config is None:
            raise never_ready(name) if record.failures else not_ready(name)
        return record

    async def _answer(self, request: Request, record: Record, chosen: Sequence[Entity], body: bytes) -> Response:
        tags = read_request_tags(request.headers.get(REQUEST_TAGS))
        counters = self._rates.take(record, request.scope["dbllm.caller"])
        self._metrics.tagged(record.name, tags)
        await self._remember(counters)

        async def answer() -> Response:
            return self._dispatch.answer(request, record, chosen, body, counters)

        return await self._faults.around(record.name, request, answer)

    async def _remember(self, counters: Sequence[str]) -> None:
        """Keep counters over the end of the process; over a power cut, each call would cost a write to the disk."""
        if changes := self._rates.changes(counters):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, lambda: self._store.commit(*changes, durable=False))

    def _forget(self, name: str) -> list[Change]:
        self._metrics.forget(name)
        return self._rates.forget(name)

    async def driver_proxy(self, request: Request) -> Response:
        """Databricks: /driver-proxy-api/o/{org}/{cluster_id}/{port}[/path]."""
        return await self._proxy.forward(request)


def _no_connection(call: operations.ApiCall) -> object:
    name = call.body.get("connection_name")
    raise Problem(404, "RESOURCE_DOES_NOT_EXIST", f"Connection '{name}' does not exist: a local workspace has none.")


async def _no_route(request: Request) -> Response:
    path = request.url.path
    raise bad_invocation_path() if path.startswith("/serving-endpoints") else no_such_api(request.method, path)
