"""`Client` for plain code: the same verbs, one line each. The core's coroutines are driven over a blocking leaf."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from .auth import Token, hidden
from .client import MAX_CONNECTIONS, AsyncClient
from .config import Config, resolve
from .endpoints import AsyncDriverApp, AsyncEndpoint
from .io import BlockingLeaf, drive
from .network import Cert, Network, ProxyLike, Verify
from .prompt import Options
from .retry import Retry, Timeout
from .stream import AsyncStream, C, R, Stream

if TYPE_CHECKING:
    from .secrets import Secrets
    from .serving import Endpoints

P = ParamSpec("P")
T = TypeVar("T")
Made = TypeVar("Made")
Out = TypeVar("Out")
Core = TypeVar("Core")
Core_co = TypeVar("Core_co", covariant=True)


class _Plain(Generic[Core_co]):
    """What drives a core object."""

    _core: Core_co

    def __repr__(self) -> str:
        return repr(self._core).removeprefix("Async")


def _now(verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[_Plain[Core], P], T]:
    """A verb of the core without await: same arguments, same result, same errors."""

    @wraps(verb)
    def plain(self: _Plain[Core], /, *args: P.args, **options: P.kwargs) -> T:
        return drive(verb(self._core, *args, **options))

    return plain


def _made(
    verb: Callable[Concatenate[Core, P], Made], into: Callable[[Made], Out]
) -> Callable[Concatenate[_Plain[Core], P], Out]:
    """A method of the core that makes an object, made into the one for plain code."""

    @wraps(verb)
    def plain(self: _Plain[Core], /, *args: P.args, **options: P.kwargs) -> Out:
        return into(verb(self._core, *args, **options))

    return plain


def _stream(core: AsyncStream[C, R]) -> Stream[C, R]:
    """The same stream, not opened yet, to read with `for`."""
    stream: Stream[C, R] = Stream.__new__(Stream)
    stream.__dict__.update(core.__dict__)
    return stream


class DriverApp(_Plain[AsyncDriverApp]):
    """A driver proxy app in plain code; see `AsyncDriverApp`."""

    def __init__(self, core: AsyncDriverApp) -> None:
        self._core = core
        self.name = core.name

    complete = _now(AsyncDriverApp.complete)
    stream_complete = _made(AsyncDriverApp.stream_complete, _stream)


class Endpoint(_Plain[AsyncEndpoint]):
    """A serving endpoint in plain code; see `AsyncEndpoint`."""

    def __init__(self, core: AsyncEndpoint) -> None:
        self._core = core
        self.name = core.name

    complete = _now(AsyncEndpoint.complete)
    stream_complete = _made(AsyncEndpoint.stream_complete, _stream)
    chat = _now(AsyncEndpoint.chat)
    stream_chat = _made(AsyncEndpoint.stream_chat, _stream)
    embed = _now(AsyncEndpoint.embed)
    predict = _now(AsyncEndpoint.predict)


class Client(_Plain[AsyncClient]):
    """Calls the models of one Databricks workspace from plain code: scripts, notebooks, threads.

    The same names and arguments as `AsyncClient`, without await; `transport` and `http_client` are httpx's sync kinds.
    It may be shared by threads, and works inside a running event loop (which waits meanwhile) and in a forked child.
    """

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
        verify: Verify = True,
        cert: Cert | None = None,
        proxy: ProxyLike | None = None,
        trust_env: bool = True,
    ) -> None:
        self._core = AsyncClient.__new__(AsyncClient)
        token, client_secret = hidden(token), hidden(client_secret)  # from here on no traceback shows them
        network, proxy = Network(verify, cert, proxy, trust_env), None
        config = resolve(
            host, token, profile, env=os.environ, client_id=client_id, client_secret=client_secret, auth_type=auth_type
        )
        leaf = BlockingLeaf(config.host, max_connections, transport, http_client, engine, config.network(network))
        self._core._begin(config, leaf, Options().but(timeout, retry, headers))

    @property
    def host(self) -> str:
        """The workspace, as scheme://name[:port]."""
        return self._core.host

    @property
    def config(self) -> Config:
        """What was found and where, without secrets: str() of it is a sentence."""
        return self._core.config

    @property
    def endpoints(self) -> Endpoints:
        """The workspace's serving endpoints: make, change, watch and delete them."""
        from .serving import Endpoints  # most programs only call models

        return Endpoints(self._core.endpoints)

    @property
    def secrets(self) -> Secrets:
        """The workspace's secrets and their scopes."""
        from .secrets import Secrets

        return Secrets(self._core.secrets)

    @classmethod
    def _around(cls, core: AsyncClient) -> Client:
        client = cls.__new__(cls)
        client._core = core
        return client

    endpoint = _made(AsyncClient.endpoint, Endpoint)
    driver_app = _made(AsyncClient.driver_app, DriverApp)
    with_options = _made(AsyncClient.with_options, lambda core: Client._around(core))
    request = _now(AsyncClient.request)
    close = _now(AsyncClient.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
