"""Who is calling. Every kind of auth yields a *set* of headers: some clouds need more than `Authorization`."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

from .._backends.backend import Backend
from ..errors import APITimeoutError, ConfigError, Raw
from .redaction import Misplaced, RedactedMapping, Secret, is_address, wrap_secret

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or a function (sync or async) that returns the one to use now; it is called for every attempt."""
_EXPIRED = re.compile(r"expir|invalid_token", re.IGNORECASE)
_PERSONAL = ("dapi", "dkea")  # how Databricks' personal access tokens begin
_VARIABLE = re.compile(r"[A-Z]+(_[A-Z]+)+")
_PLACEHOLDER = re.compile(r"""["'`<>{}]|^\$|^%.*%$|^\[.*\]$|^\.+$|^(dapi)?[xX*]{3,40}$""")


class Auth(Protocol):
    """One kind of auth."""

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        """The headers to send now, names in lower case; `deadline` is on the backend's clock."""
        ...

    def on_rejected(self, sent: Mapping[str, str], now: float) -> bool:
        """Called when the workspace says that these headers have expired: whether asking again may give others."""
        return False


def is_expired_response(raw: Raw) -> bool:
    """Whether the workspace refuses the credential because it has expired.

    Databricks has no one wording: "Token is expiring within 30 seconds", "Access token expired"; RFC 6750 says
    `invalid_token` in `www-authenticate`.
    """
    if raw.status not in (401, 403) or b'"external_model_message"' in raw.body:  # that one is a provider's
        return False
    return bool(_EXPIRED.search(raw.text[:2000]) or _EXPIRED.search(raw.headers.get("www-authenticate", "")))


def auth_for(token: Token | Secret, place: str = "the token") -> Auth:
    """The auth of a token or a token function; `place` is what messages call it."""
    return TokenFunctionAuth(token) if callable(token) else StaticAuth(bearer(token, place))


def bearer(token: object, place: str = "the token") -> RedactedMapping:
    """`Authorization: Bearer …`, for a personal access token and an OAuth token alike.

    Raises:
        ConfigError: it is no token; the message does not show it.
    """
    token = wrap_secret("password", token)  # no function, as a "token" may be
    if not isinstance(token, Secret):
        raise ConfigError(f"{place} must be a str, got {type(token).__name__}.")
    if flaw := token.flaw if isinstance(token, Misplaced) else token_flaw(token):
        raise ConfigError(f"{place} {flaw}.")
    return RedactedMapping({"authorization": f"Bearer {token.reveal()}"})


def token_flaw(token: Secret) -> str:
    """Why a text can be no token, nor an OAuth secret; "" where it can."""
    text = token.reveal
    if not text():
        return "is empty: leave it out (None) to have one found"
    if text()[:7].lower() == "bearer ":
        return "begins with 'Bearer ': give the token alone, for dbllm writes that itself"
    if not text().isascii() or not text().isprintable() or " " in text():
        return (
            "has a space, a line break or a character outside ASCII in it: it was probably pasted with something "
            "around it; give the bare token, such as token.strip()"
        )
    if is_address(text()):
        return "is an address: host and token are exchanged"
    if _PLACEHOLDER.search(text()):
        return "has quotes, brackets or a placeholder such as ${NAME}, <token> or ... in it: give the bare token"
    if _VARIABLE.fullmatch(text()):
        return "is the name of a variable: give its value, os.environ[…], or leave it out to have DATABRICKS_TOKEN read"
    return ""


def basic(name: str, password: Secret) -> RedactedMapping:
    """`Authorization: Basic …`: of a user, or of a service principal at the token endpoint (RFC 7617)."""
    return RedactedMapping(
        {"authorization": f"Basic {base64.b64encode(f'{name}:{password.reveal()}'.encode()).decode()}"}
    )


class StaticAuth(Auth):
    """The same headers on every request."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        return self._headers


class OAuthOnly(Auth):
    """The OAuth token of another auth, for an origin that takes nothing else: no further header, and no other kind."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        sent = await self._auth.headers(backend, deadline)
        kind, _, token = sent.get("authorization", "").partition(" ")
        personal = token.startswith(_PERSONAL)
        del token
        if personal or kind.lower() != "bearer":
            what = "a personal access token" if personal else "a user name and password"
            raise ConfigError(
                f"this client has {what}, and apps and route-optimised endpoints take OAuth alone: pass client_id= and "
                "client_secret= of a service principal, or log in with `databricks auth login`. It was not sent."
            )
        if len(sent) == 1:
            return sent
        return RedactedMapping({"authorization": sent["authorization"]})

    def on_rejected(self, sent: Mapping[str, str], now: float) -> bool:
        return self._auth.on_rejected(sent, now)


class CallbackAuth(Auth):
    """Headers that this process can compute at once (from a notebook's context), asked for every attempt."""

    def __init__(self, ask: Callable[[], Mapping[str, str]]) -> None:
        self._ask = ask

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        return self._ask()


# The token functions that are running in this task or thread, to refuse one that waits for itself.
_running: ContextVar[tuple[object, ...]] = ContextVar("dbllm_token_functions", default=())


class TokenFunctionAuth(Auth):
    """A user's function, called before every attempt; caching is up to the function."""

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
            late = APITimeoutError("the function for tokens gave none in time", sent=False)
            token = backend.call_user_function(self._function, deadline - backend.clock(), late)
            return bearer(await token, "the token that the function returned")
        finally:
            _running.reset(mark)
