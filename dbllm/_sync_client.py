"""`Client` for plain code: the same verbs, one line each. The core's coroutines are driven over a blocking backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ._backends.blocking import SyncBackend
from ._backends.sync_facade import SyncFacade, sync_factory, sync_method
from ._client import AsyncClient, ClientCore, as_a
from ._inference.endpoint import AsyncEndpoint
from ._inference.handle import AsyncDriverApp
from ._inference.stream import AsyncStream, C, R, Stream

if TYPE_CHECKING:
    from ._management.endpoints import Endpoints
    from ._management.secrets import Secrets

Handle = TypeVar("Handle", bound=AsyncDriverApp, covariant=True)


def _stream(core: AsyncStream[C, R]) -> Stream[C, R]:
    """The same stream, not opened yet, to read with `for`."""
    return as_a(Stream, core)


class _Handle(SyncFacade[Handle]):
    def __init__(self, core: Handle) -> None:
        super().__init__(core)
        self.name = core.name


class DriverApp(_Handle[AsyncDriverApp]):
    """A driver proxy app in plain code; see `AsyncDriverApp`."""

    complete = sync_method(AsyncDriverApp.complete)
    stream_complete = sync_factory(AsyncDriverApp.stream_complete, _stream)


class Endpoint(_Handle[AsyncEndpoint]):
    """A serving endpoint in plain code; see `AsyncEndpoint`."""

    complete = sync_method(AsyncEndpoint.complete)
    stream_complete = sync_factory(AsyncEndpoint.stream_complete, _stream)
    chat = sync_method(AsyncEndpoint.chat)
    stream_chat = sync_factory(AsyncEndpoint.stream_chat, _stream)
    respond = sync_method(AsyncEndpoint.respond)
    stream_respond = sync_factory(AsyncEndpoint.stream_respond, _stream)
    embed = sync_method(AsyncEndpoint.embed)
    predict = sync_method(AsyncEndpoint.predict)


class Client(ClientCore):
    """Calls the models of one Databricks workspace from plain code: scripts, notebooks, threads.

    The same names and arguments as `AsyncClient`, without await; `transport` and `http_client` are httpx's sync kinds.
    It may be shared by threads, and works inside a running event loop (which waits meanwhile) and in a forked child.
    """

    _backend = SyncBackend

    @property
    def _core(self) -> AsyncClient:
        """The same workspace, with the coroutines that are driven here."""
        return as_a(AsyncClient, self)

    @property
    def endpoints(self) -> Endpoints:
        """The workspace's serving endpoints: make, change, watch and delete them."""
        from ._management.endpoints import Endpoints  # most programs only call models

        return Endpoints(self._core.endpoints)

    @property
    def secrets(self) -> Secrets:
        """The workspace's secrets and their scopes."""
        from ._management.secrets import Secrets

        return Secrets(self._core.secrets)

    endpoint = sync_factory(AsyncClient.endpoint, Endpoint)
    driver_app = sync_factory(AsyncClient.driver_app, DriverApp)
    request = sync_method(AsyncClient.request)
    close = sync_method(AsyncClient.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
