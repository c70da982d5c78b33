"""`Client` for plain code: the same verbs, one line each. The core's coroutines are driven over a blocking leaf."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from .client import AsyncClient, Workspace, as_a
from .endpoints import AsyncDriverApp, AsyncEndpoint
from .io import BlockingLeaf, drive
from .stream import AsyncStream, C, R, Stream

P = ParamSpec("P")
T = TypeVar("T")
Made = TypeVar("Made")
Out = TypeVar("Out")
Core = TypeVar("Core")
Core_co = TypeVar("Core_co", covariant=True)
Handle = TypeVar("Handle", bound=AsyncDriverApp)


class _Plain(Protocol[Core_co]):
    """What drives a core object."""

    @property
    def _core(self) -> Core_co: ...


def _now(verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[_Plain[Core], P], T]:
    """A verb of the core without await: same arguments, same result, same errors."""

    @wraps(verb)
    def plain(self: _Plain[Core], /, *args: P.args, **options: P.kwargs) -> T:
        coroutine = verb(self._core, *args, **options)
        del args, options  # the verb knows what of them may be shown in a traceback with locals
        return drive(coroutine)

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
    return as_a(Stream, core)


class _Handle(Generic[Handle]):
    def __init__(self, core: Handle) -> None:
        self._core = core
        self.name = core.name

    def __repr__(self) -> str:
        return repr(self._core).removeprefix("Async")


class DriverApp(_Handle[AsyncDriverApp]):
    """A driver proxy app in plain code; see `AsyncDriverApp`."""

    complete = _now(AsyncDriverApp.complete)
    stream_complete = _made(AsyncDriverApp.stream_complete, _stream)


class Endpoint(_Handle[AsyncEndpoint]):
    """A serving endpoint in plain code; see `AsyncEndpoint`."""

    complete = _now(AsyncEndpoint.complete)
    stream_complete = _made(AsyncEndpoint.stream_complete, _stream)
    chat = _now(AsyncEndpoint.chat)
    stream_chat = _made(AsyncEndpoint.stream_chat, _stream)
    embed = _now(AsyncEndpoint.embed)
    predict = _now(AsyncEndpoint.predict)


class Client(Workspace):
    """Calls the models of one Databricks workspace from plain code: scripts, notebooks, threads.

    The same names and arguments as `AsyncClient`, without await; `transport` and `http_client` are httpx's sync kinds.
    It may be shared by threads, and works inside a running event loop (which waits meanwhile) and in a forked child.
    """

    _leaf = BlockingLeaf

    @property
    def _core(self) -> AsyncClient:
        """The same workspace, with the coroutines that are driven here."""
        return as_a(AsyncClient, self)

    endpoint = _made(AsyncClient.endpoint, Endpoint)
    driver_app = _made(AsyncClient.driver_app, DriverApp)
    request = _now(AsyncClient.request)
    close = _now(AsyncClient.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
