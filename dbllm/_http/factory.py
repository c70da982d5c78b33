"""Which connection a request gets: one of our own, or one of httpx's.

An `H1Connection` is the rule. An `HttpxConnection` is for what only httpx has: a transport or client of the user's,
proxies, and calls that somebody wants to see who has replaced httpx's own methods (respx, pytest-httpx, tracing).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .._lazy import WholeImport
from ..errors import ConfigError
from .connection import ConnectionSettings, H1Connection
from .tls import DEFAULT_NETWORK, Network, tls_and_proxy

ENGINES = ("h11", "httptools", "httpx")


if TYPE_CHECKING:
    from .httpx_connection import HttpxConnection

    Connection = H1Connection | HttpxConnection


PATCH_POINTS = {  # what others replace in order to see requests: package, class, method
    "httpx": {
        "AsyncClient": "_transport_for_url",
        "Client": "_transport_for_url",
        "AsyncHTTPTransport": "handle_async_request",
        "HTTPTransport": "handle_request",
    },
    "httpcore": {
        "AsyncConnectionPool": "handle_async_request",
        "ConnectionPool": "handle_request",
        "AsyncHTTPConnection": "handle_async_request",
        "HTTPConnection": "handle_request",
    },
}


def original_method(package: str, methods: Mapping[str, Any], name: str) -> object:
    """The package's own method, or None while another stands in its place."""
    home = str(sys.modules[package].__file__).removesuffix("__init__.py")
    found = methods[name]
    return found if str(getattr(getattr(found, "__code__", None), "co_filename", "")).startswith(home) else None


def _look() -> list[tuple[Mapping[str, Any], str, object]]:
    """The methods as they are now. httpcore is looked at once somebody has imported it: it imports trio."""
    return [
        (methods := vars(getattr(sys.modules[package], kind)), name, original_method(package, methods, name))
        for package, places in PATCH_POINTS.items()
        if all(hasattr(sys.modules.get(package), kind) for kind in places)  # another thread may be importing it
        for kind, name in places.items()
    ]


_known = _look()
_ALL = sum(map(len, PATCH_POINTS.values()))


def is_httpx_patched() -> bool:
    """Whether somebody (respx, say) has taken the place of one of httpx's methods: then every call goes there."""
    if len(_known) < _ALL and "httpcore" in sys.modules:
        _known[:] = _look()
    for methods, name, own in _known:
        if methods[name] is not own:  # or was replaced already when this was imported
            _known[:] = _look()
            return any(own is None for _, _, own in _known)
    return False


@lru_cache
def checked_engine(engine: str | None) -> str:
    """The engine to use where nothing stands against it.

    Raises:
        ConfigError: there is none of that name, or its extra is missing.
    """
    if engine is None:
        return "httptools" if find_spec("httptools") else "h11"
    if engine not in ENGINES:
        raise ConfigError(f"engine={engine!r} is not known; there are {', '.join(ENGINES)}.")
    if engine == "httptools" and not find_spec("httptools"):
        raise ConfigError("engine='httptools' needs an extra: pip install 'dbllm[fast]'.")
    return engine


def connection_factory(
    base: str,
    suspends: bool,
    now: Callable[[], float],
    transport: Any,
    client: Any,
    network: Network = DEFAULT_NETWORK,
    engine: str | None = None,
) -> Callable[[], Connection]:
    """How connections to `base` are made: directly, or over httpx."""

    if client is not None or transport is not None:
        with WholeImport():
            from .httpx_connection import by_client, by_transport

        if client is not None:
            return lambda: by_client(client, suspends, now)
        return lambda: by_transport(transport, suspends, now)
    context, proxy = tls_and_proxy(base, network)
    context.set_alpn_protocols(["http/1.1"])
    settings = ConnectionSettings(suspends, now, context, is_httpx_patched, fast=engine == "httptools")

    def new() -> Connection:
        if engine != "httpx" and proxy is None and not is_httpx_patched():
            return H1Connection(settings)
        with WholeImport():
            from .httpx_connection import by_httpx

        return by_httpx(context, proxy, suspends, now)

    return new
