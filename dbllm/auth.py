"""Who is calling. Every kind of auth yields a *set* of headers: some clouds need more than `Authorization`."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol
from urllib.parse import unquote_plus

from .errors import ConfigError, DbllmError, Raw
from .io import Leaf

Token = str | Callable[[], "str | Awaitable[str]"]
"""A token, or a function (sync or async) that returns the one to use now; it is called for every attempt."""

TOKEN_SECONDS = 20.0  # what one token request may take at most, within its call's deadline
REST = 10.0  # seconds without another try after a refresh failed while the old token still served
SECRETS = frozenset({"token", "password", "client_secret", "azure_client_secret", "google_credentials"})
ADDRESSES = frozenset({"host", "discovery_url", "metadata_service_url"})
_SHORTEST = 8  # characters; shorter header values are no secrets, and would be found everywhere
_TELLING = re.compile(r"token|secret|passw|api_?key|signature|credential|assertion|^(sig|code)$", re.IGNORECASE)
_EXPIRED = re.compile(r"expir|invalid_token", re.IGNORECASE)


# --- what must not be seen --------------------------------------------------------------------------------------------


class _Unseen:
    """Not in a repr, not in a traceback with locals, not in a pickle; a copy is the thing itself."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "dbllm's credentials are not pickled: make the client where it is used, from the environment or a profile."
        )

    def __copy__(self) -> _Unseen:
        return self

    def __deepcopy__(self, memo: object) -> _Unseen:
        return self


class Secret(_Unseen):
    """A text that only `reveal` shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"


def hide(host: Any, token: Any, client_secret: Any) -> tuple[Any, Any, Any]:
    """A client's arguments with their secrets as `Secret`, also a host with a password in it, which is then refused."""
    return kept("host", host), kept("token", token), kept("client_secret", client_secret)


def kept(attribute: str, value: Any) -> Any:
    """A configured value, as a `Secret` where it is or holds one: `user:password@` in an address."""
    secret = attribute in SECRETS or (attribute in ADDRESSES and "@" in str(value))
    return Secret(value) if secret and isinstance(value, str) else value


class Hidden(_Unseen, Mapping[str, str]):
    """A mapping whose repr shows names only: headers, the environment. No dict, for rich shows what is in any dict."""

    __slots__ = ("_items",)

    def __init__(self, *parts: Mapping[str, str]) -> None:
        self._items = {name: value for part in parts for name, value in part.items()}

    def __getitem__(self, name: str) -> str:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Hidden({', '.join(self._items)})"


def scrubbed(raw: Raw, sent: Mapping[str, str], path: str = "") -> Raw:
    """An answer without the credential that was sent, in case the server repeats it, nor one in the path's query."""
    values = {piece for value in sent.values() for piece in (value, value.rpartition(" ")[2])}
    for name, _, value in (pair.partition("=") for pair in path.partition("?")[2].split("&")):
        values |= {value, unquote_plus(value)} if _TELLING.search(name) else set()
    body, headers = raw.body, dict(raw.headers)
    for value in sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True):
        body = body.replace(value.encode(), b"***")
        headers = {name: shown.replace(value, "***") for name, shown in headers.items()}
    return Raw(raw.status, headers, body)


# --- what a client asks -----------------------------------------------------------------------------------------------


class Auth(Protocol):
    """One kind of auth."""

    async def headers(self, leaf: Leaf, deadline: float) -> Mapping[str, str]:
        """The headers to send now, names in lower case; had before `deadline`, on the leaf's clock."""
        ...

    def refused(self, sent: Mapping[str, str], now: float) -> bool:
        """The workspace says that these headers have expired: whether asking again may bring others."""
        return False


def says_expired(raw: Raw) -> bool:
    """Whether an answer refuses the credential for its age.

    Databricks has no one wording: "Token is expiring within 30 seconds", "Access token expired"; RFC 6750 says
    `invalid_token` in `www-authenticate`.
    """
    if raw.status not in (401, 403):
        return False
    return bool(_EXPIRED.search(raw.text[:2000]) or _EXPIRED.search(raw.headers.get("www-authenticate", "")))


def auth_for(token: Token | Secret) -> Auth:
    """The auth of a token or a token function."""
    return _Asked(token) if callable(token) else fixed(bearer(token))


def bearer(token: object) -> Hidden:
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
    return Hidden({"authorization": f"Bearer {text()}"})


def basic(name: str, password: Secret) -> Hidden:
    """`Authorization: Basic …`: of a user, or of a service principal at the token endpoint (RFC 7617)."""
    return Hidden({"authorization": f"Basic {base64.b64encode(f'{name}:{password.reveal()}'.encode()).decode()}"})


def fixed(headers: Mapping[str, str]) -> Auth:
    """The same headers on every request."""
    return Told(lambda: headers)


class Told(Auth):
    """Headers that something of this process has at hand (a notebook's context), asked for every attempt."""

    def __init__(self, ask: Callable[[], Mapping[str, str]]) -> None:
        self._ask = ask

    async def headers(self, leaf: Leaf, deadline: float) -> Mapping[str, str]:
        return self._ask()


# The token functions that are running in this task or thread.
_running: ContextVar[tuple[object, ...]] = ContextVar("dbllm_token_functions", default=())


class _Asked(Auth):
    """A user's function, asked before every attempt: it caches, if it wants to."""

    def __init__(self, function: Callable[[], str | Awaitable[str]]) -> None:
        self._function = function

    async def headers(self, leaf: Leaf, deadline: float) -> Mapping[str, str]:
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


# --- tokens that end --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """Headers, and until when they are good (on the leaf's clock); `life` is how long they are good in all."""

    headers: Mapping[str, str] = field(repr=False)
    ends: float
    life: float

    @property
    def stale(self) -> float:
        """From when on a new one should be had: 40 s before the end, or the last fifth of a short life."""
        return self.ends - min(40.0, 0.2 * self.life)


Fetch = Callable[[Leaf, float], Awaitable[Lease]]
"""Gets a new lease before a deadline."""


class Renewed(Auth):
    """Headers that end and are fetched again; at most one fetch at a time.

    The first caller in the stale window fetches inside its own call, while the others go on with what there is; only
    when nothing valid is left do they wait. If the fetching caller is cancelled, its lock opens and the next one
    fetches. While the old headers serve, a failed fetch costs nobody a call: it is tried again a little later.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._lease: Lease | None = None
        self._resting = float("-inf")  # no new try before

    async def headers(self, leaf: Leaf, deadline: float) -> Mapping[str, str]:
        lease, now = self._lease, leaf.now()
        if lease is not None and now < max(lease.stale, min(self._resting, lease.ends)):
            return lease.headers
        serves = lease is not None and now < lease.ends
        async with leaf.lock("token", deadline, wait=not serves) as ours:
            current = self._lease
            if current is not None and (not ours or current is not lease) and leaf.now() < current.ends:
                return current.headers
            if not ours:  # it ended this very moment
                return await self.headers(leaf, deadline)
            try:
                fresh = await self._fetch(leaf, min(deadline, leaf.now() + TOKEN_SECONDS))
            except DbllmError:
                if lease is None or leaf.now() >= lease.ends or self._lease is None:
                    raise
                self._resting = leaf.now() + min(REST, (lease.ends - leaf.now()) / 4)
                return lease.headers
            self._lease = fresh
            return fresh.headers

    def refused(self, sent: Mapping[str, str], now: float) -> bool:
        lease = self._lease
        # What somebody has fetched meanwhile serves if it is young: this call has just shown how long it takes to
        # arrive, and it is made again only once.
        if lease is not None and (lease.headers is sent or now > lease.ends - 0.8 * lease.life):
            self._lease = None
        return True
