"""Who is calling. Every kind of auth yields a *set* of headers: some clouds need more than `Authorization`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

from .errors import ConfigError
from .io import Leaf

Token = str | Callable[[], "str | Awaitable[str]"]
"""A token, or a function (sync or async) that returns the one to use now; it is called for every attempt."""


class Auth(Protocol):
    """One kind of auth."""

    async def headers(self, leaf: Leaf) -> Mapping[str, str]:
        """The headers to send now, names in lower case."""
        ...


def auth_for(token: Token) -> Auth:
    """The auth of a token or a token function."""
    return _Asked(token) if callable(token) else _Fixed(bearer(token))


def bearer(token: object) -> dict[str, str]:
    """`Authorization: Bearer …`, for a personal access token and an OAuth token alike.

    Raises:
        ConfigError: it is no token; the message does not show it.
    """
    if not isinstance(token, str):
        raise ConfigError(f"a token is a str, not {type(token).__name__}; check what the token function returns.")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the token is empty or has a space, a line break or a character outside ASCII in it: it was probably "
            "pasted with something around it."
        )
    return {"authorization": f"Bearer {token}"}


class _Fixed:
    """The same headers on every request."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def headers(self, leaf: Leaf) -> Mapping[str, str]:
        return self._headers


# The token functions that are running in this task or thread.
_running: ContextVar[tuple[object, ...]] = ContextVar("dbllm_token_functions", default=())


class _Asked:
    """A user's function, asked before every attempt: it caches, if it wants to."""

    def __init__(self, function: Callable[[], str | Awaitable[str]]) -> None:
        self._function = function

    async def headers(self, leaf: Leaf) -> Mapping[str, str]:
        running = _running.get()
        if self in running:
            raise ConfigError(
                "the token function calls the client that is asking it for a token: use another client in it."
            )
        mark = _running.set((*running, self))
        try:
            return bearer(await leaf.call(self._function))
        finally:
            _running.reset(mark)
