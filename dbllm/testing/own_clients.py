"""dbllm's own clients of this process while a test scripts, records or replays, however they are configured.

In a recording each sends as ever, with its own host, credentials, proxy and certificates, and what passes its pool is
seen. Before a script or a replay each finds a workspace without any configuration, and what it sends goes to the test's
own server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import urlsplit

import dbllm._auth.local_workspace as local_workspace
from dbllm import APIError, AsyncClient, Client, ConfigError
from dbllm._backends.aio import AsyncBackend
from dbllm._backends.backend import Backend
from dbllm._backends.blocking import SyncBackend
from dbllm._transport.transport import Transport
from dbllm.testing.model_answers import Asked
from dbllm.testing.recordings import RecordedStream, content_of


class Seen(Protocol):
    """What a recorder does with the requests of clients."""

    def note_credential(self, name: str, value: str) -> None:
        """Take it out of what is recorded."""
        ...

    def record(self, asked: Asked, origin: str, status: int, headers: Mapping[str, str]) -> dict[str, Any]:
        """Keep an answer's head; what is returned takes its body."""
        ...


@contextmanager
def recorded_clients(recorder: Seen, own_host: str, host: str | None) -> Iterator[None]:
    """Show a recorder what dbllm's clients send, and what comes back.

    Args:
        recorder: keeps it.
        own_host: the recorder's address, which stands in DATABRICKS_HOST for clients of others.
        host: what stood there before; None where nothing did.
    """

    def pool(original: Any) -> Callable[..., Awaitable[Any]]:
        async def recorded(backend: Backend, origin: str) -> Any:
            return _SeenPool(await original(backend, origin), recorder)

        return recorded

    def send_unpooled(original: Any) -> Callable[..., Awaitable[Any]]:
        async def recorded(backend: Backend, out: Any) -> Any:  # a request for a token is not kept
            _note_credentials(recorder, out.headers)
            return await original(backend, out)

        return recorded

    def resolve(original: Any) -> Callable[..., Any]:
        def resolved(*args: Any, env: Mapping[str, str], **more: Any) -> Any:
            if host is not None and env.get("DATABRICKS_HOST") == own_host:
                env = {**env, "DATABRICKS_HOST": host}
            return original(*args, env=env, **more)

        return resolved

    with (
        _replaced(_client_module(), resolve=resolve),
        _replaced(AsyncBackend, pool=pool),
        _replaced(SyncBackend, pool=pool),
        _replaced(Backend, send_unpooled=send_unpooled),
    ):
        yield


@contextmanager
def moved_clients(
    host: str, token: str, cluster_id: str, keeps: Callable[[str], bool], app_address: Callable[[str], str | None]
) -> Iterator[None]:
    """Let dbllm's clients call this host, whatever they are configured with.

    Args:
        host, token, cluster_id: of the test's server.
        keeps: whether a client whose `host` is this address calls it.
        app_address: where an app of this address is answered; None where there is no such app.
    """
    plain: dict[type[Backend], Any] = {
        AsyncBackend: AsyncClient(host, token, trust_env=False)._transport.backend,
        SyncBackend: Client(host, token, trust_env=False)._core._transport.backend,
    }

    def pool(original: Any) -> Callable[..., Awaitable[Any]]:
        async def replayed(backend: Backend, origin: str) -> Any:
            own = plain[AsyncBackend if isinstance(backend, AsyncBackend) else SyncBackend]
            if backend is own or (keeps(origin) and backend.engine != "httpx"):
                return await original(backend, origin)
            address = origin if keeps(origin) else app_address(origin) or host
            context = (await original(backend, origin)).context
            return _MovedPool(backend, context, address, await original(own, address), own)

        return replayed

    def send_unpooled(original: Any) -> Callable[..., Awaitable[Any]]:
        async def replayed(backend: Backend, out: Any) -> Any:
            own = plain[AsyncBackend if isinstance(backend, AsyncBackend) else SyncBackend]
            return await original(own, _moved(out, backend, own, host))

        return replayed

    def resolve(original: Any) -> Callable[..., Any]:
        def resolved(given: Any, *others: Any, **more: Any) -> Any:
            if isinstance(given, str) and keeps(given.rstrip("/")):
                return original(given, *others, **more)
            return original(host, token, None, env={"DATABRICKS_CLUSTER_ID": cluster_id})

        return resolved

    def find_local_workspace(_original: Any) -> Callable[..., Any]:
        return lambda *_, **__: local_workspace.LocalWorkspace(host, token, cluster_id, os.getpid())

    def add_app(original: Any) -> Callable[..., str]:
        def added(transport: Any, url: str) -> str:
            try:
                return str(original(transport, url))
            except ConfigError:  # the workspace and the app are not both on this machine
                address = url if is_here(url) else app_address(url)
                if address is None:
                    raise
                transport.add_origin(address, transport._auths[transport.host])
                return address

        return added

    try:
        with (
            _replaced(_client_module(), resolve=resolve),
            _replaced(local_workspace, find_local_workspace=find_local_workspace),
            _replaced(Transport, add_app=add_app),
            _replaced(AsyncBackend, pool=pool),
            _replaced(SyncBackend, pool=pool),
            _replaced(Backend, send_unpooled=send_unpooled),
        ):
            yield
    finally:
        for backend in plain.values():
            backend.close_when_possible()


def _client_module() -> Any:
    """Where clients look for their configuration."""
    from dbllm import _client

    return _client


@contextmanager
def _replaced(owner: Any, **wrappers: Callable[[Any], Any]) -> Iterator[None]:
    """Put others in the place of functions until the end of the block; each is made of the one that it replaces."""
    before = {name: vars(owner)[name] for name in wrappers}
    for name, wrapper in wrappers.items():
        setattr(owner, name, wrapper(before[name]))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def _note_credentials(recorder: Seen, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        recorder.note_credential(name, value)


def _asked(out: Any) -> Asked:
    """A request of the core, as a server gets it."""
    parts = urlsplit(out.url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return Asked(out.method, path, {name.lower(): value for name, value in out.headers.items()}, out.body or b"")


def is_here(url: str) -> bool:
    """Whether an address is on this machine."""
    name = (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    return name in ("localhost", "::1") or name.startswith("127.")


def _origin_of(out: Any) -> str:
    parts = urlsplit(out.url)
    return f"{parts.scheme}://{parts.netloc}"


class _SeenPool:
    """A pool whose requests and answers are recorded."""

    def __init__(self, pool: Any, recorder: Seen) -> None:
        self.context, self._pool, self._recorder = pool.context, pool, recorder

    async def send(self, out: Any) -> Any:
        began = time.monotonic()
        _note_credentials(self._recorder, out.headers)
        try:
            raw = await self._pool.send(out)
        except APIError as error:
            if error.raw is not None and error.raw.status:  # it had begun
                raw = error.raw
                response = self._recorder.record(_asked(out), _origin_of(out), raw.status, raw.headers)
                response |= {**content_of(raw.body), "ends": "cut"}
            raise
        response = self._recorder.record(_asked(out), _origin_of(out), raw.status, raw.headers)
        response |= {"seconds": round(time.monotonic() - began, 3), **content_of(raw.body)}
        return raw

    async def open(self, out: Any) -> Any:
        began = time.monotonic()
        _note_credentials(self._recorder, out.headers)
        exchange = await self._pool.open(out)
        response = self._recorder.record(_asked(out), _origin_of(out), exchange.status, exchange.headers)
        response["seconds"] = round(time.monotonic() - began, 3)
        return _SeenExchange(exchange, response, began)


class _SeenExchange:
    """An exchange whose answer is recorded as it is read."""

    def __init__(self, exchange: Any, response: dict[str, Any], began: float) -> None:
        self._exchange, self._response = exchange, response
        self._stream = RecordedStream(response, began)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    async def read(self, deadline: float) -> bytes:
        piece: bytes = await self._exchange.read(deadline)
        if piece:
            self._stream.feed(piece)
        else:
            self._stream.end()
        return piece

    async def read_all(self, deadline: float, start: bytes = b"") -> bytes:
        """The whole answer: it is no stream of events."""
        for name in ("events", "ends"):
            self._response.pop(name, None)
        try:
            body: bytes = await self._exchange.read_all(deadline, start)
        except APIError as error:
            self._response |= {**content_of(error.raw.body if error.raw else b""), "ends": "cut"}
            raise
        self._response |= content_of(body)
        return body


class _MovedPool:
    """A pool whose requests go to another address, over connections of a plain client."""

    def __init__(self, backend: Backend, context: Any, address: str, pool: Any, plain: Any) -> None:
        self.context = context
        self._backend, self._address, self._pool, self._plain = backend, address, pool, plain

    async def send(self, out: Any) -> Any:
        return await self._pool.send(_moved(out, self._backend, self._plain, self._address))

    async def open(self, out: Any) -> Any:
        return await self._pool.open(_moved(out, self._backend, self._plain, self._address))


def _moved(out: Any, backend: Any, plain: Any, address: str) -> Any:
    """The same request to another address; its deadline is on the other backend's clock."""
    left = out.deadline - backend.clock()
    return replace(out, url=address + out.url.removeprefix(_origin_of(out)), deadline=plain.clock() + left)
