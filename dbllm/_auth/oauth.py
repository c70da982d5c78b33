"""Tokens from a server: OAuth for service principals, federation, and the metadata service.

Wire facts, all as in Databricks' own SDK: `GET {host}/.well-known/databricks-config` names the `oidc_endpoint`; below
it, `/.well-known/oauth-authorization-server` (RFC 8414) names the `token_endpoint`; there, `grant_type=
client_credentials&scope=all-apis` with HTTP Basic, or a token exchange (RFC 8693) without a secret.

A credential goes to the workspace's own host, or by https to a host that the workspace's discovery names; no redirect
is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from .._backends.backend import Backend
from .._http.request import HttpRequest, RequestHeaders
from .._protocol.error_responses import status_error
from .._protocol.responses import json_or_none
from .._urls import is_loopback, origin
from ..errors import APIError, APIResponseError, APIStatusError, AuthenticationError, ConfigError, Raw
from .auth import Auth, basic, bearer
from .redaction import RedactedMapping, Redaction, Secret
from .refresh import ExpiringHeaders, Fetch

CONNECT = 10.0
SCOPE = "all-apis"
FORM = "application/x-www-form-urlencoded"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT = "urn:ietf:params:oauth:token-type:jwt"
_OURS = {"accept": "application/json"}
_CLIENT_FLAWS = frozenset({"invalid_client", "invalid_grant", "unauthorized_client", "access_denied"})


@dataclass(frozen=True, slots=True)
class Issuer:
    """Where a workspace's tokens come from.

    Attributes:
        host: the workspace.
        account_id: replaces `{account_id}` in the discovery answer.
        discovery_url: the RFC 8414 document, if it is configured.
    """

    host: str
    account_id: str | None = None
    discovery_url: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A request for a token: `about` names the identity in errors, `hint` says what to check, `secret` stays hidden."""

    form: Mapping[str, str] = field(repr=False)
    about: str
    hint: str
    headers: Mapping[str, str] = field(default_factory=RedactedMapping, repr=False)
    secret: Secret | None = None


def service_principal(issuer: Issuer, client_id: str, client_secret: Secret) -> Fetch:
    """OAuth M2M: the token of a service principal, by its id and secret."""
    form = {"grant_type": "client_credentials", "scope": SCOPE}
    hint = "Check client_id and client_secret, and that the service principal belongs to this workspace."
    headers = basic(client_id, client_secret)
    grant = Grant(form, f"service principal {client_id}", hint, headers, client_secret)
    return _tokens(issuer, lambda: grant)


def federation(issuer: Issuer, place: str, read: Callable[[], str | None], client_id: str | None) -> Fetch:
    """A token in exchange for one of another identity provider, which `read` reads from `place` each time."""
    hint = "Check the federation policy of the service principal: issuer, subject and audience of the token."

    def grant() -> Grant:
        try:
            subject = Secret((read() or "").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the OIDC token of {place} cannot be read: {type(error).__name__}.") from None
        if not subject:
            raise ConfigError(f"the OIDC token of {place} is empty: set it, or choose another auth_type.")
        form = {"grant_type": EXCHANGE, "subject_token_type": JWT, "scope": SCOPE}
        form.update({"client_id": client_id} if client_id else {})
        return Grant(
            RedactedMapping(form, {"subject_token": subject.reveal()}), "the federated identity", hint, secret=subject
        )

    return _tokens(issuer, grant)


def data_plane(host: str, auth: Auth, details: str) -> Fetch:
    """A token for a route-optimised endpoint, in exchange for the workspace's: with it only what `details` says."""
    url = f"{host}/oidc/v1/token"
    hint = "Check that this identity has 'Can Query' on the endpoint."

    async def fetch(backend: Backend, deadline: float) -> ExpiringHeaders:
        sent = await auth.headers(backend, deadline)
        own = Secret(sent["authorization"].partition(" ")[2])
        grant = Grant({}, "the route-optimised endpoint", hint, secret=own)
        form = {"grant_type": JWT_BEARER, "authorization_details": details, "assertion": own.reveal()}
        body = urlencode(form).encode()
        del form
        began = backend.clock()
        out = HttpRequest("POST", url, RequestHeaders(url, _OURS, {"content-type": FORM}), body, deadline, CONNECT)
        raw = await request_token(backend, out, grant)
        return parse_token(raw, began, backend.wall_clock(), f"the token endpoint {url}")

    return fetch


def _tokens(issuer: Issuer, grant: Callable[[], Grant]) -> Fetch:
    """Fetches tokens from one issuer, whose token endpoint is looked up once.

    Raises, when it is called:
        AuthenticationError: the token endpoint refuses the identity.
        APIError: it cannot be reached, or answers something else; the call itself was not sent.
        ConfigError: no credential may be sent to its address.
    """
    endpoint: str | None = None

    async def fetch(backend: Backend, deadline: float) -> ExpiringHeaders:
        nonlocal endpoint
        ours = await backend.run_in_thread(grant)
        url = endpoint = endpoint or await token_endpoint(issuer, backend, deadline)
        began = backend.clock()  # before the request, so that a token's life is never overestimated
        headers = RequestHeaders(url, _OURS, {"content-type": FORM}, ours.headers)
        out = HttpRequest("POST", url, headers, urlencode(dict(ours.form)).encode(), deadline, CONNECT)
        return parse_token(
            await request_token(backend, out, ours), began, backend.wall_clock(), f"the token endpoint {url}"
        )

    return fetch


async def token_endpoint(issuer: Issuer, backend: Backend, deadline: float) -> str:
    """The URL of a workspace's token endpoint.

    Raises:
        APIError: the workspace does not answer.
        ConfigError: it names an address to which no credential may be sent.
    """
    document = issuer.discovery_url
    if document is None:
        metadata = await _get_json(backend, f"{issuer.host}/.well-known/databricks-config", deadline)
        base = str(metadata.get("oidc_endpoint") or f"{issuer.host}/oidc").rstrip("/")
        if "{account_id}" in base:
            if not issuer.account_id:
                raise ConfigError(f"{issuer.host} is an account's host: set DATABRICKS_ACCOUNT_ID.")
            base = base.replace("{account_id}", issuer.account_id)
        document = f"{base}/.well-known/oauth-authorization-server"
    require_trusted_url(document, issuer.host)
    found = (await _get_json(backend, document, deadline)).get("token_endpoint")
    return require_trusted_url(str(found or f"{issuer.host}/oidc/v1/token"), issuer.host)


def require_trusted_url(url: str, host: str) -> str:
    """`url`, if a credential for `host` may be sent there: the host itself, or somewhere by https.

    Raises:
        ConfigError: it may not.
    """
    parts = urlsplit(url)
    own = origin(url) == host
    odd = parts.username is not None or not parts.hostname
    http = parts.scheme == "http" and is_loopback(parts.hostname or "") and is_loopback(urlsplit(host).hostname or "")
    if odd or not (own or parts.scheme == "https" or http):
        shown = f"{parts.scheme}://{parts.hostname}"
        raise ConfigError(
            f"the tokens for {host} come from {shown}, which must be an https address: over http a credential could be "
            "read on the way."
        )
    return url


def metadata_service(url: str, host: str) -> Fetch:
    """The token of a helper on this machine, such as Databricks' VS Code extension."""
    require_trusted_url(url, "http://localhost")
    asking = RequestHeaders(url, _OURS, {"x-databricks-metadata-version": "1", "x-databricks-host": host})
    grant = Grant({}, f"the metadata service {origin(url)}", "Check that it is running and logged in to this host.")

    async def fetch(backend: Backend, deadline: float) -> ExpiringHeaders:
        began = backend.clock()
        raw = await request_token(backend, HttpRequest("GET", url, asking, None, deadline, CONNECT), grant)
        return parse_token(raw, began, backend.wall_clock(), grant.about)

    return fetch


async def request_token(backend: Backend, out: HttpRequest, grant: Grant) -> Raw:
    """The 200 answer to a request for a token.

    Raises:
        AuthenticationError: the identity is refused.
        APIError: anything else. `sent` is False: the call that needed the token was not sent.
    """
    secret = RedactedMapping({"": grant.secret.reveal()} if grant.secret else {})
    redaction = Redaction(grant.headers, secret, backend.proxy_headers)
    out.redactor = lambda **_: redaction
    try:
        raw = await backend.send_unpooled(out)
        if raw.status == 200:
            return raw
        answered = redaction.raw(raw)
        error: APIError = status_error(answered, wall=backend.wall_clock())
        if error.error_code in _CLIENT_FLAWS or raw.status in (401, 403):
            error = AuthenticationError(error.detail, error_code=error.error_code, raw=answered)
    except APIError as failed:
        error = failed
    redaction.error(error)
    error.sent = False
    error.detail = f"no token for {grant.about} from {origin(out.url)}: {error.detail}"
    if isinstance(error, APIStatusError) and error.status != 429 and not 300 <= (error.status or 0) < 400:
        error.hint = grant.hint
    raise error


def parse_token(raw: Raw, began: float, wall: float, place: str) -> ExpiringHeaders:
    """The token in an answer.

    Raises:
        APIResponseError: there is none. The answer is not shown: it may hold part of a token.
    """
    read = _token_in(raw.body, wall)
    if isinstance(read, str):
        error = APIResponseError(f"{place} answered, but {read}", raw=Raw(raw.status))
        error.sent, error.hint = False, "Ask who runs it; its answer should have access_token and expires_in."
        raise error
    token, life = read
    return ExpiringHeaders(bearer(token), began + life, life)


def _token_in(body: bytes, wall: float) -> tuple[Secret, float] | str:
    """(token, seconds of life), or what is wrong."""
    content = json_or_none(body)
    if content is None:
        return "not with JSON"
    token = content.get("access_token") if isinstance(content, dict) else None
    if not isinstance(token, str) or not token:
        return "without an access_token"
    if str(content.get("token_type") or "Bearer").lower() != "bearer":
        return "with a token of another type than Bearer"
    life = content.get("expires_in")
    try:
        seconds = float(life) if life is not None else float(content["expires_on"]) - wall
    except (KeyError, TypeError, ValueError, OverflowError):
        return "without the time at which the token expires"
    return (Secret(token), seconds) if 0 < seconds < float("inf") else "with a token that has already expired"


async def _get_json(backend: Backend, url: str, deadline: float) -> dict[str, Any]:
    """A discovery document; {} if the host has none."""
    redaction = Redaction(backend.proxy_headers)
    headers = RequestHeaders(url, _OURS)
    out = HttpRequest("GET", url, headers, None, deadline, CONNECT, redactor=lambda **_: redaction)
    try:
        raw = await backend.send_unpooled(out)
        if raw.status in (404, 405, 501):
            return {}
        if raw.status != 200:
            raise status_error(redaction.raw(raw), wall=backend.wall_clock())
    except APIError as error:
        redaction.error(error)
        error.sent, error.detail = False, f"no token endpoint from {url.split('?')[0]}: {error.detail}"
        raise
    content = json_or_none(raw.body)
    return content if isinstance(content, dict) else {}
