"""Who is calling. Every kind of auth yields a *set* of headers: some clouds need more than `Authorization`."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

from .._backends.backend import Backend
from ..errors import ConfigError, Raw
from .redaction import RedactedMapping, Secret

Token = str | Callable[[], "str | Awaitable[str]"]
"""A token, or a function (sync or async) that returns the one to use now; it is called for every attempt."""
_EXPIRED = re.compile(r"expir|invalid_token", re.IGNORECASE)


class Auth(Protocol):
    """One kind of auth."""

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        """The headers to send now, names in lower case; had before `deadline`, on the backend's clock."""
        ...

    def on_rejected(self, sent: Mapping[str, str], now: float) -> bool:
        """The workspace says that these headers have expired: whether asking again may bring others."""
        return False


def is_expired_response(raw: Raw) -> bool:
    """Whether an answer refuses the credential for its age.

    Databricks has no one wording: "Token is expiring within 30 seconds", "Access token expired"; RFC 6750 says
    `invalid_token` in `www-authenticate`.
    """
    if raw.status not in (401, 403):
        return False
    return bool(_EXPIRED.search(raw.text[:2000]) or _EXPIRED.search(raw.headers.get("www-authenticate", "")))


def auth_for(token: Token | Secret) -> Auth:
    """The auth of a token or a token function."""
    return TokenFunctionAuth(token) if callable(token) else static_auth(bearer(token))


def bearer(token: object) -> RedactedMapping:
    """`Authorization: Bearer …`, for a personal access token and an OAuth token alike.

    Raises:
        ConfigError: it is no token; the message does not show it.
    """
    token = Secret(token) if isinstance(token, str) else token
    if not isinstance(token, Secret):
        raise ConfigError(f"a token is a str, not {type(token).__name__}; check what the token function returns.")
    text = token.reveal
    if not text() or not text().isascii() or not text().isprintable() or " " in text():
        raise ConfigError(
            "the token is empty or has a space, a line break or a character outside ASCII in it: it was probably "
            "pasted with something around it."
        )
    return RedactedMapping({"authorization": f"Bearer {text()}"})


def basic(name: str, password: Secret) -> RedactedMapping:
    """`Authorization: Basic …`: of a user, or of a service principal at the token endpoint (RFC 7617)."""
    return RedactedMapping(
        {"authorization": f"Basic {base64.b64encode(f'{name}:{password.reveal()}'.encode()).decode()}"}
    )


def static_auth(headers: Mapping[str, str]) -> Auth:
    """The same headers on every request."""
    return CallbackAuth(lambda: headers)


class CallbackAuth(Auth):
    """Headers that something of this process has at hand (a notebook's context), asked for every attempt."""

    def __init__(self, ask: Callable[[], Mapping[str, str]]) -> None:
        self._ask = ask

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        return self._ask()


# The token functions that are running in this task or thread.
_running: ContextVar[tuple[object, ...]] = ContextVar("dbllm_token_functions", default=())


class TokenFunctionAuth(Auth):
    """A user's function, asked before every attempt: it caches, if it wants to."""

    def __init__(self, function: Callable[[], str | Awaitable[str]]) -> None:
        self._function = function

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        running = _running.get()
        if self in running:
            raise ConfigError(
                "the token function calls the client that is asking it for a token: use another client in it."
            )
        mark = _running.set((*running, self))
        try:
            return bearer(await backend.call_user_function(self._function))
        finally:
            _running.reset(mark)
