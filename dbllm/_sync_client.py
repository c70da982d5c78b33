"""`Client` for plain code: the same methods, one line each. The core's coroutines run over a blocking backend."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from ._auth.config import Config
from ._backends.blocking import SyncBackend
from ._backends.sync_facade import SyncFacade, same_signature, sync_factory, sync_method, sync_method_into
from ._client import AsyncClient
from ._inference.agent import AsyncAgent
from ._inference.driver_app import AsyncDriverApp
from ._inference.endpoint import AsyncEndpoint
from ._inference.handle import ModelHandle
from ._inference.run import AsyncRun
from ._inference.stream import Stream
from ._lazy import WholeImport
from ._misnomers import Fixed, NamesOurs, NotAwaited, OnlyPlain, explain_keywords
from ._transport.retry import Retry, Timeout

if TYPE_CHECKING:
    from ._management.endpoints import Endpoints
    from ._management.model_services import ModelProviders, ModelServices
    from ._management.secrets import Secrets
    from ._transport.stats import Stats


HandleT = TypeVar("HandleT", bound=ModelHandle)
ClientT = TypeVar("ClientT", bound="Client")


class _Handle(Fixed, SyncFacade[HandleT]):
    _names = "endpoint"

    @property
    def name(self) -> str:
        """The endpoint's name, or the app's cluster and port."""
        return self._core.name


class DriverApp(_Handle[AsyncDriverApp]):
    """A driver proxy app in plain code; see `AsyncDriverApp`."""

    _names = "app, endpoint"

    complete = sync_method(AsyncDriverApp.complete)
    generate = sync_method(AsyncDriverApp.generate)
    stream_complete = sync_factory(AsyncDriverApp.stream_complete, Stream)


class Endpoint(_Handle[AsyncEndpoint]):
    """A serving endpoint in plain code; see `AsyncEndpoint`."""

    complete = sync_method(AsyncEndpoint.complete)
    generate = sync_method(AsyncEndpoint.generate)
    stream_complete = sync_factory(AsyncEndpoint.stream_complete, Stream)
    chat = sync_method(AsyncEndpoint.chat)
    stream_chat = sync_factory(AsyncEndpoint.stream_chat, Stream)
    respond = sync_method(AsyncEndpoint.respond)
    stream_respond = sync_factory(AsyncEndpoint.stream_respond, Stream)
    embed = sync_method(AsyncEndpoint.embed)
    predict = sync_method(AsyncEndpoint.predict)


class Run(NotAwaited, SyncFacade[AsyncRun]):
    """A run of an agent in plain code; see `AsyncRun`."""

    _names = "run"

    @property
    def id(self) -> str:
        """The run's id: a UUID that this client made, or what the app calls it."""
        return self._core.id

    status = sync_method(AsyncRun.status)
    result = sync_method(AsyncRun.result)
    events = sync_factory(AsyncRun.events, Stream)
    cancel = sync_method(AsyncRun.cancel)


class Agent(NamesOurs, SyncFacade[AsyncAgent]):
    """An agent on Databricks Apps in plain code; see `AsyncAgent`."""

    _names = "agent, endpoint"

    @property
    def name(self) -> str:
        """The app's name, or its address."""
        return self._core.name

    respond = sync_method(AsyncAgent.respond)
    stream_respond = sync_factory(AsyncAgent.stream_respond, Stream)
    complete = sync_method(AsyncAgent.complete)
    start = sync_method_into(AsyncAgent.start, Run)
    run = sync_factory(AsyncAgent.run, Run)


class _BlockingClient(AsyncClient):
    """What a `Client` runs: the same coroutines over a blocking backend."""

    _backend = SyncBackend


class Client(Fixed, OnlyPlain, SyncFacade[AsyncClient]):
    """Calls the models of one Databricks workspace from plain code: scripts, notebooks, threads.

    It has the names and arguments of `AsyncClient`, without await; `transport` and `http_client` are httpx's sync
    kinds. Threads may share it. It works inside a running event loop, which waits meanwhile, and in a forked child.
    """

    _names = "client"

    @same_signature(_BlockingClient, AsyncClient.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            core = _BlockingClient(*args, **options)
        finally:
            del args, options  # so that no traceback with local variables shows them
        super().__init__(core)

    @classmethod
    def local(cls: type[ClientT], port: int | None = None, **options: Any) -> ClientT:
        """A client of the workspace that `dbllm up` runs on this machine; as `AsyncClient.local`."""
        client = cls.__new__(cls)
        client._core = _BlockingClient.local(port, **options)
        return client

    @property
    def host(self) -> str:
        """The workspace, as scheme://name[:port]."""
        return self._core.host

    @property
    def config(self) -> Config:
        """What was found and where, without secrets; its str() is a sentence."""
        return self._core.config

    @property
    def endpoints(self) -> Endpoints:
        """The workspace's serving endpoints: create, update, watch and delete them."""
        with WholeImport():
            from ._management.endpoints import Endpoints  # most programs only call models

        return Endpoints(self._core.endpoints)

    @property
    def model_services(self) -> ModelServices:
        """The model services in Unity Catalog: create, change, delete and grant them."""
        with WholeImport():
            from ._management.model_services import ModelServices

        return ModelServices(self._core.model_services)

    @property
    def model_providers(self) -> ModelProviders:
        """The model provider services, which hold the keys of providers outside of Databricks by reference."""
        with WholeImport():
            from ._management.model_services import ModelProviders

        return ModelProviders(self._core.model_providers)

    @property
    def secrets(self) -> Secrets:
        """The workspace's secrets and their scopes."""
        with WholeImport():
            from ._management.secrets import Secrets

        return Secrets(self._core.secrets)

    def stats(self) -> Stats:
        """What has been counted since the client was made, and its connections now; see `AsyncClient.stats`."""
        return self._core.stats()

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
        other = copy(self)
        other._core = self._core.with_options(timeout=timeout, retry=retry, headers=headers, tags=tags)
        return other

    endpoint = sync_factory(AsyncClient.endpoint, Endpoint)
    driver_app = sync_factory(AsyncClient.driver_app, DriverApp)
    agent = sync_factory(AsyncClient.agent, Agent)
    request = sync_method(AsyncClient.request)
    close = sync_method(AsyncClient.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
