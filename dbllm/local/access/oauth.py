"""OAuth of the local workspace: service principals get tokens that end.

As Databricks serves it (databricks-sdk: oauth.py): RFC 8414 metadata below /oidc, and a token endpoint that takes
`client_credentials` (HTTP Basic, or id and secret in the body), token exchange (federation: RFC 8693) and, for tokens
of route-optimized endpoints, `authorization_details` or a JWT bearer assertion (RFC 9396, RFC 7523). Errors are
RFC 6749's. Tokens are opaque and live in memory: a restart ends them.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dbllm.local.access.permissions import Caller
from dbllm.local.errors import Problem, expired_token
from dbllm.local.http.asgi import read_body

TOKEN_SECONDS = 3600.0
METADATA = "/oidc/.well-known/oauth-authorization-server"
TOKEN = "/oidc/v1/token"  # noqa: S105 - a path
PATHS = frozenset({METADATA, TOKEN})
"""Databricks answers these without a credential in the header's usual form."""
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MAX_TOKEN_BODY = 2**20  # bytes of a token request


class Oidc:
    """Issues tokens to service principals, and knows whom each belongs to.

    Args:
        principals: client id → secret of service principals, which are admins of the workspace.
        token_seconds: how long a token lives.
        subjects: tokens of another identity provider that may be exchanged.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        principals: Mapping[str, str] | None = None,
        token_seconds: float = TOKEN_SECONDS,
        subjects: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._principals = dict(principals or {})
        self._seconds = token_seconds
        self._subjects = subjects
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._callers: dict[str, Caller] = {}
        self._details: dict[str, str] = {}
        self._others: Callable[[str, str], Caller | None] = lambda _name, _secret: None

    def accept_also(self, others: Callable[[str, str], Caller | None]) -> None:
        """Issue tokens to further service principals; `others` finds one by its client id and secret."""
        self._others = others

    def routes(self) -> list[Route]:
        """The two paths."""
        return [Route(METADATA, self.metadata), Route(TOKEN, self.token, methods=["POST"])]

    def caller(self, token: str) -> Caller | None:
        """Whose token it is; None if it is none of these, or one for certain objects alone.

        Raises:
            Problem: 403, it is, and has ended.
        """
        return None if self.details(token) else self.any_caller(token)

    def details(self, token: str) -> str:
        """The `authorization_details` that a token was issued for; "" if for all APIs."""
        return self._details.get(token, "")

    def any_caller(self, token: str) -> Caller | None:
        """Whose token it is, whatever it was issued for.

        Raises:
            Problem: 403, it has ended.
        """
        ends = self._ends.get(token)
        if ends is None:
            return None
        if self._clock() >= ends:
            raise expired_token()
        return self._callers[token]

    async def metadata(self, request: Request) -> Response:
        """RFC 8414."""
        base = f"{request.url.scheme}://{request.url.netloc}/oidc"
        return JSONResponse(
            {
                "issuer": base,
                "authorization_endpoint": f"{base}/v1/authorize",
                "token_endpoint": f"{base}/v1/token",
                "grant_types_supported": ["client_credentials", EXCHANGE, JWT_BEARER],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            }
        )

    async def token(self, request: Request) -> Response:
        """RFC 6749 §4.4 and RFC 8693 §2."""
        form = {
            name: values[0]
            for name, values in parse_qs((await read_body(request, MAX_TOKEN_BODY)).decode("utf-8", "replace")).items()
        }
        grant = form.get("grant_type")
        if grant == "client_credentials":
            name, secret = _client(request.headers.get("authorization", ""), form)
            caller = self._principal(name, secret)
            if caller is None:
                return _refusal(401, "invalid_client", "Client authentication failed")
        elif grant == JWT_BEARER:
            return self._narrowed(form)
        elif grant == EXCHANGE:
            if form.get("subject_token", "") not in self._subjects:
                return _refusal(400, "invalid_grant", "The subject token is not trusted by a federation policy")
            caller = Caller(form.get("client_id", "federated"), service=True, admin=True)
        else:
            return _refusal(400, "unsupported_grant_type", f"grant_type {grant!r} is not supported")
        if not form.get("scope"):
            return _refusal(400, "invalid_scope", "scope is missing")
        return self._issued(caller, form["scope"], form.get("authorization_details", ""))

    def _narrowed(self, form: Mapping[str, str]) -> Response:
        """RFC 7523 §2.1, as databricks-sdk's data_plane.py asks: for any token of the caller one of certain objects."""
        try:
            caller = self.caller(form.get("assertion", ""))
        except Problem as problem:
            return _refusal(400, "invalid_grant", problem.message)
        if caller is None:
            return _refusal(400, "invalid_grant", "The assertion is not an OAuth token of this workspace")
        if not form.get("authorization_details"):
            return _refusal(400, "invalid_request", "authorization_details is missing")
        return self._issued(caller, form.get("scope", "all-apis"), form["authorization_details"])

    def _principal(self, name: str, secret: str) -> Caller | None:
        known = self._principals.get(name, "")
        if known and hmac.compare_digest(known.encode(), secret.encode()):
            return Caller(name, service=True, admin=True)
        return self._others(name, secret)

    def _issued(self, caller: Caller, scope: str, details: str) -> Response:
        if details and not is_details(details):
            return _refusal(
                400, "invalid_authorization_details", "authorization_details must be a JSON list of objects"
            )
        now = self._clock()
        self._ends = {token: ends for token, ends in self._ends.items() if ends > now - 60}
        self._callers = {token: self._callers[token] for token in self._ends}
        self._details = {token: kept for token, kept in self._details.items() if token in self._ends}
        token = f"local-oauth-{secrets.token_urlsafe(32)}"
        self._callers[token] = caller
        if details:
            self._details[token] = details
        self._ends[token] = now + self._seconds
        life = int(self._seconds) if self._seconds == int(self._seconds) else self._seconds
        content = {"access_token": token, "token_type": "Bearer", "expires_in": life, "scope": scope}
        return JSONResponse(content, headers={"cache-control": "no-store"})


def is_details(text: str) -> bool:
    """Whether a text is the `authorization_details` of RFC 9396: a JSON list of objects with a type."""
    try:
        listed = json.loads(text)
    except ValueError:
        return False
    return isinstance(listed, list) and all(isinstance(one, dict) and "type" in one for one in listed)


def _client(authorization: str, form: Mapping[str, str]) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        name, _, secret = b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return name, secret


def _refusal(status: int, error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status)
