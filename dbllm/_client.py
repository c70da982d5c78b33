"""`AsyncClient`: one workspace, its endpoints and driver proxy apps."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ._auth.auth import Token
from ._auth.config import Config, resolve
from ._auth.redaction import hide_arguments, hide_headers
from ._backends.aio import AsyncBackend
from ._backends.blocking import SyncBackend
from ._http.tls import Cert, Network, ProxyLike, Verify
from ._inference.driver_app import AsyncDriverApp
from ._inference.endpoint import AsyncEndpoint
from ._inference.prompt import PromptSignature
from ._lazy import WholeImport
from ._misnomers import Fixed, OnlyAsync, explain_keywords
from ._protocol.paths import app_name, app_path, request_path
from ._protocol.routes import EndpointRef, Gateway, Learned, Route, endpoint_ref, fallback_refs
from ._protocol.tasks import parse_task
from ._transport.options import Options
from ._transport.retry import Retry, Timeout
from ._transport.transport import Transport
from .errors import ConfigError

if TYPE_CHECKING:  # what most programs do not use is loaded when it is
    from ._inference.agent import AgentPlace, AsyncAgent
    from ._management.endpoints import AsyncEndpoints
    from ._management.model_services import AsyncModelProviders, AsyncModelServices
    from ._management.secrets import AsyncSecrets
    from ._transport.hooks import Hooks, OnAttempt
    from ._transport.limited import CallLimiter
    from ._transport.limits import Limits
    from ._transport.stats import Stats

ClientT = TypeVar("ClientT", bound="AsyncClient")

MAX_CONNECTIONS = 1000


class AsyncClient(Fixed, OnlyAsync):
    """Calls the models of one Databricks workspace; for asyncio and trio.

    Creating a client sends nothing. It may serve several event loops, at once or one after another: each loop has its
    own connections, which close with it. In plain code use `Client`, which has the same methods.

    Args:
        host: the workspace, as https://name; default DATABRICKS_HOST, then the profile's.
        token: a token, or a function (sync or async) that returns one, called before every attempt; default
            DATABRICKS_TOKEN, then the profile's. A token goes only to the host it was configured with.
        profile: a profile of ~/.databrickscfg; the environment's credentials are then not used.
        client_id: the id of a service principal (OAuth M2M); needs `client_secret`.
        client_secret: the service principal's secret.
        auth_type: the one kind of auth to use, as Databricks' tools name it ("pat", "oauth-m2m", "databricks-cli",
            "azure-cli" …); default: the first that is configured.
        retry: the policy for calls that do not pass their own.
        timeout: seconds for a whole call, or a `Timeout`.
        max_connections: how many calls may run at once; further calls wait.
        transport: your own `AsyncBaseTransport` to send with, httpx's or httpx2's. Closing the client does not close
            it.
        http_client: your own `AsyncClient` to send with, httpx's or httpx2's. Its headers, proxies and TLS settings
            apply; its auth and redirects do not. Closing the client does not close it.
        engine: "httptools" (the extra `fast`; asyncio only), "h11", or "httpx", which is slower; default: DBLLM_ENGINE,
            else the first that is installed. Calls with a proxy, `transport` or `http_client` use httpx in any case,
            and so do all calls while respx or a similar library has patched httpx.
        headers: headers to send with every call.
        tags: names and values for the workspace's usage tables, such as {"project": "x"}, with every call.
        verify: as in httpx: True, a file or folder of CA certificates, an `ssl.SSLContext`, or False (then any server
            that answers gets the token); "system" is the system's trust store (extra `truststore`).
        cert: a client certificate: a file, (certificate, key) or (certificate, key, password).
        proxy: a proxy's URL; default: what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say.
        trust_env: False ignores proxies and CA bundles from the environment.
        on_attempt: a function, sync or (in `AsyncClient`) async, that is called with an `Attempt` after each attempt of
            each call. An exception that it raises is logged, and the call goes on.
        hooks: further functions to call, and middleware: see `Hooks`.
        limits: what each endpoint and driver app may be sent by this client; further calls wait, and their timeout
            covers the wait. A stream holds its place until its first event.

    Without arguments the client looks for credentials in the environment, in the profile, in the notebook or model
    serving container this runs in, and in the login of the Databricks CLI, in this order; `config` says what it found.

    Raises:
        ConfigError: there is no host or no token, or a setting cannot be used.
    """

    _backend: ClassVar[type[AsyncBackend] | type[SyncBackend]] = AsyncBackend
    _names = "client"

    @explain_keywords
    def __init__(
        self,
        host: str | None = None,
        token: Token | None = None,
        *,
        profile: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        auth_type: str | None = None,
        retry: Retry | None = None,
        timeout: float | Timeout | None = None,
        max_connections: int = MAX_CONNECTIONS,
        transport: Any = None,
        http_client: Any = None,
        engine: str | None = None,
        headers: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        proxy: ProxyLike | None = None,
        trust_env: bool = True,
        on_attempt: OnAttempt | None = None,
        hooks: Hooks | None = None,
        limits: Limits | None = None,
    ) -> None:
        # From here on, no traceback with local variables shows a credential, nor one in the wrong place.
        host, token, profile, client_id, client_secret, auth_type = hide_arguments(
            host=host,
            token=token,
            profile=profile,
            client_id=client_id,
            client_secret=client_secret,
            auth_type=auth_type,
        )
        network, headers = Network(verify, cert, proxy, trust_env), hide_headers(headers)
        del cert, proxy
        config = resolve(
            host, token, profile, env=os.environ, client_id=client_id, client_secret=client_secret, auth_type=auth_type
        )
        backend = self._backend(config.host, max_connections, transport, http_client, engine, config.network(network))
        self._transport = Transport(config.host, config.auth, backend, hooks, on_attempt)
        self._options = Options().merged_with(timeout, retry, headers, tags=tags)
        self._limiters: dict[tuple[str, Limits], CallLimiter] = {}
        self._known: dict[str, Learned] = {}  # what has been learned of each endpoint
        self._cooling: dict[str, float] = {}  # until when an endpoint is passed over, where there is another
        self._agents: dict[str, AgentPlace] = {}  # and of each agent
        self._config, self._limits, self._owns_connections = config, limits, True
        self._limited("", limits, self._options)  # what are no limits is said here, not with the first handle

    @classmethod
    def local(cls: type[ClientT], port: int | None = None, **options: Any) -> ClientT:
        """A client of the workspace that `dbllm up` runs on this machine; no variable need be set.

        Args:
            port: which one, if several run; default: as `dbllm env`, the one that DATABRICKS_HOST names if it runs,
                otherwise the one that was started last.
            **options: as for the class, without host and credentials.

        Raises:
            ConfigError: no such workspace runs.
        """
        with WholeImport():
            from ._auth.local_workspace import find_local_workspace

        found = find_local_workspace(port, options)
        client = cls(found.host, found.token, **options)
        client._config = replace(client._config, cluster_id=found.cluster_id)
        return client

    @property
    def host(self) -> str:
        """The workspace, as scheme://name[:port]."""
        return self._config.host

    @property
    def config(self) -> Config:
        """What was found and where, without secrets; its str() is a sentence."""
        return self._config

    def __repr__(self) -> str:
        config: Config | None = self.__dict__.get("_config")  # missing in the traceback of an `__init__` that failed
        if config is None:
            return f"{type(self).__name__}(host=None)"
        engine, closed = self._transport.backend.engine, self._transport.closed
        return f"{type(self).__name__}(host={config.host!r}, engine={engine!r}, closed={closed})"

    @explain_keywords
    def with_options(
        self: ClientT,
        *,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ClientT:
        """The same client with other defaults. It shares the connections; closing it does not close them."""
        headers = hide_headers(headers)
        other = copy(self)
        other._options = self._options.merged_with(timeout, retry, headers, tags=tags)
        other._owns_connections = False
        return other

    @explain_keywords
    def endpoint(
        self,
        name: str,
        *,
        task: str | None = None,
        params: Mapping[str, Any] | None = None,
        transform_input: Callable[..., Any] | None = None,
        transform_output: Callable[[Any], str] | None = None,
        served_model: str | None = None,
        gateway: Gateway | None = None,
        tags: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> AsyncEndpoint:
        """A handle for a serving endpoint or a model service. Making one sends nothing.

        Args:
            name: the name of a serving endpoint, or of a model service (`catalog.schema.name`: two dots), which is
                called through the AI Gateway.
            task: its task ("llm/v1/chat" or "chat", "completions", "embeddings", "custom" …), so that `complete` need
                not look it up.
            params: parameters for every call.
            transform_input: called with the request as keywords (prompt, stop if given, parameters); returns the
                request to send, or a whole body (with messages, input, inputs, instances or dataframe_*).
            transform_output: called with the response (`predictions[0]` of a custom model, otherwise the whole JSON);
                returns the text.
            served_model: one served entity behind the endpoint.
            gateway: call through this interface of the AI Gateway whatever the name: "mlflow" (what model services use
                by default), or "openai" (OpenAI's own fields, for OpenAI's models).
            tags: names and values for the workspace's usage tables, with every call.
            fallback: further endpoints or model services, which are called in turn when this one does not answer: after
                its last attempt, and only where a call may be sent again. `reply.answered_by` says which answered. One
                that has failed is passed over for a while.
            limits: what this endpoint, and each of `fallback`, may be sent; default: the client's.

        Raises:
            ConfigError: the name is empty or has one dot, there is no such task, or `fallback` names an endpoint twice.
        """
        signature = PromptSignature(params or {}, transform_input, transform_output)
        options = self._options.merged_with(tags=tags)
        ref = endpoint_ref(name, parse_task(task), served_model, gateway)
        refs = [ref, *fallback_refs(ref, fallback, gateway)]
        limited = [self._limited(each.name, limits, options) for each in refs]
        handles = [
            AsyncEndpoint(self._transport, own, signature, each, self._known)
            for own, each in zip(limited, refs, strict=True)
        ]
        if len(refs) > 1:
            with WholeImport():
                from ._inference.fallback import Fallback

            handles[0]._fallback = Fallback(tuple(handles), self._cooling)
        return handles[0]

    @explain_keywords
    def driver_app(
        self,
        port: int | str,
        cluster_id: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        transform_input: Callable[..., Any] | None = None,
        transform_output: Callable[[Any], str] | None = None,
    ) -> AsyncDriverApp:
        """A handle for a small HTTP server on a cluster's driver node, reached through the driver proxy.

        Making one sends nothing.

        Args:
            port: the app's port, 3000 to 8000.
            cluster_id: its cluster; default: the one this notebook runs on, or DATABRICKS_CLUSTER_ID.
            params, transform_input, transform_output: as for `endpoint`; the output is the app's JSON.

        Raises:
            ConfigError: the port is outside 3000 to 8000, or no cluster is known.
        """
        cluster = cluster_id or notebook_cluster() or self._config.cluster_id
        if not cluster:
            raise ConfigError(
                "no cluster is known: pass cluster_id=, or set DATABRICKS_CLUSTER_ID (not needed in a notebook on the "
                "cluster)."
            )
        signature = PromptSignature(params or {}, transform_input, transform_output)
        ref = EndpointRef(f"{cluster}:{port}", "app", Route(app_path(port, cluster)))
        return AsyncDriverApp(
            self._transport, self._limited(ref.name, None, self._options), signature, ref, self._known
        )

    def _limited(self, name: str, limits: Limits | None, options: Options) -> Options:
        """The options of a model's calls. All handles of one name and the same limits share what these count."""
        if (limits := limits or self._limits) is None:
            return options
        with WholeImport():
            from ._transport.limited import CallLimiter

        return replace(options, limiter=CallLimiter.among(self._limiters, name, limits))

    @explain_keywords
    def agent(self, name: str | None = None, *, url: str | None = None) -> AsyncAgent:
        """A handle for an agent on Databricks Apps. Making one sends nothing.

        The app has a host of its own, and takes OAuth tokens only: use a service principal (`client_id`), a login of
        the Databricks CLI or the notebook's, and no personal access token.

        Args:
            name: the app's name; its address is looked up in the workspace.
            url: its address, as https://my-agent-123.aws.databricksapps.com.

        Raises:
            ConfigError: neither or both are given, or `url` is no address of Databricks Apps.
        """
        if (name is None) == (url is None):
            raise ConfigError("an agent is named by its app: pass either its name or its url=.")
        origin = self._transport.add_app(url) if url is not None else None
        key = origin or app_name(name)
        with WholeImport():
            from ._inference.agent import AgentPlace, AsyncAgent

        place = self._agents.setdefault(key, AgentPlace(str(name or origin), origin))
        return AsyncAgent(self._transport, self._options, place)

    @property
    def endpoints(self) -> AsyncEndpoints:
        """The workspace's serving endpoints: create, update, watch and delete them."""
        with WholeImport():
            from ._management.endpoints import AsyncEndpoints  # most programs only call models

        return AsyncEndpoints(self._transport, self._options)

    @property
    def model_services(self) -> AsyncModelServices:
        """The model services in Unity Catalog: create, change, delete and grant them."""
        with WholeImport():
            from ._management.model_services import AsyncModelServices

        return AsyncModelServices(self._transport, self._options)

    @property
    def model_providers(self) -> AsyncModelProviders:
        """The model provider services, which hold the keys of providers outside of Databricks by reference."""
        with WholeImport():
            from ._management.model_services import AsyncModelProviders

        return AsyncModelProviders(self._transport, self._options)

    @property
    def secrets(self) -> AsyncSecrets:
        """The workspace's secrets and their scopes."""
        with WholeImport():
            from ._management.secrets import AsyncSecrets

        return AsyncSecrets(self._transport, self._options)

    @explain_keywords
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Call any REST path of the workspace.

        Args:
            method: GET, POST, ...
            path: begins with "/" and has no host: the token goes to this workspace only.
            params: the query; None values are left out, booleans are true/false.
            json: the body.
            timeout, retry, headers: as for `AsyncEndpoint.complete`.

        Returns:
            The response's JSON; its text if it is not JSON; None if it is empty.

        Raises:
            ConfigError: `path` does not begin with "/", or begins with "//".
            TypeError: an argument is of another kind.
            APIError: the call failed.
        """
        headers = hide_headers(headers)
        options = self._options.merged_with(timeout, retry, headers)
        whole = request_path(path, params, self.host)
        deadline = options.deadline(self._transport.backend.clock)
        call = options.call(deadline, whole, json, method=str(method).upper())
        del path, params, json, headers, whole  # what may be secret, no traceback with locals shall show
        answer = await self._transport.call(call)
        try:
            return json_module.loads(answer.raw.body) if answer.raw.body.strip() else None
        except (ValueError, RecursionError):
            return answer.raw.text

    def stats(self) -> Stats:
        """What has been counted since the client was made, and its connections now. It sends nothing.

        Clients that `with_options` made of one client count together.
        """
        return self._transport.stats()

    async def aclose(self) -> None:
        """Close the connections. Later calls raise RuntimeError."""
        if self._owns_connections:
            await self._transport.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def notebook_cluster() -> str | None:
    """The cluster of the notebook this runs in, or None."""
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        return None
    try:
        context = import_module("dbruntime.databricks_repl_context").get_context()
    except ImportError:
        return None
    return getattr(context, "clusterId", None)
