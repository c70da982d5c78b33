"""httpx and its successor httpx2, whose classes a user may pass in. dbllm never imports the second by itself."""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import httpx

_HTTPX2 = "httpx2"


def library_of(own: object) -> Any:
    """The library that a transport or client of the user's is of; httpx for what is of neither."""
    homes = {kind.__module__.partition(".")[0] for kind in type(own).__mro__}
    return sys.modules.get(_HTTPX2, httpx) if _HTTPX2 in homes else httpx


def errors_named(*names: str) -> tuple[type[Exception], ...]:
    """The errors of these names of both libraries, as far as they are loaded: a transport may wrap one of the other."""
    loaded = [library for name in ("httpx", _HTTPX2) if (library := sys.modules.get(name)) is not None]
    found = (getattr(library, name, None) for library in loaded for name in names)
    return tuple(kind for kind in found if isinstance(kind, type))


def failures() -> tuple[type[Exception], ...]:
    """Whatever a failed request may raise. A late TLS alert comes as it is.

    A client looks at a redirect's Location, though it is not to follow it.
    """
    return *errors_named("RequestError", "InvalidURL"), ssl.SSLError, TimeoutError


class OwnSecrets(Mapping[str, str]):
    """What a client of the user's adds to each request, as it is now, and may be secret: a server may repeat it."""

    def __init__(self, own: object) -> None:
        self._own = own  # a transport adds nothing

    def __getitem__(self, name: str) -> str:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> dict[str, str]:
        own, found = self._own, dict[str, str]()
        for place in ("headers", "cookies", "params"):
            with suppress(Exception):  # what looks like a client of httpx's or httpx2's need not have all of them
                given = getattr(own, place, {})
                found |= {f"{name}".lower(): f"{value}" for name, value in getattr(given, "multi_items", given.items)()}
        return found


class _Body:
    """A request's body. httpx's own is an async generator, which trio misses when a broken connection drops it."""

    def __init__(self, body: bytes) -> None:
        self._left = [body]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._left)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return type(self)(self._left[0])  # afresh, for a transport of the user's that sends it again

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@lru_cache
def body_stream(library: Any) -> Any:
    """The class of a request's body, as the library's transports want it."""
    return type("_Body", (_Body, library.AsyncByteStream, library.SyncByteStream), {})
