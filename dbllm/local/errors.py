"""What can go wrong: before a workspace runs (LocalError) and while it answers (Problem).

The bodies are Databricks' own: `{"error_code": ..., "message": ...}`, with an integer error_code where the gate in
front of the workspace refuses a credential (Databricks REST: 401 and 403 answers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dbllm import ConfigError


class LocalError(ConfigError):
    """The workspace or driver app cannot run; the text says why and what to do."""


@dataclass
class Problem(Exception):
    """An answer that is not a success.

    Attributes:
        status: HTTP status.
        error_code: Databricks' word for it, or the status as an integer where the gate refuses.
        message: what is wrong, for the caller to read.
        headers: further response headers.
    """

    status: int
    error_code: str | int
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """The JSON body of the answer."""
        return {"error_code": self.error_code, "message": self.message}


def bad_request(reason: str) -> Problem:
    """400: the request does not fit the endpoint (Databricks REST: `Bad request: ...`)."""
    return Problem(400, "BAD_REQUEST", f"Bad request: {reason}")


def invalid(reason: str) -> Problem:
    """400: a field of a control-plane request is missing or has a wrong value."""
    return Problem(400, "INVALID_PARAMETER_VALUE", f"{reason}.")


def malformed(reason: str) -> Problem:
    """400: the request has no form that the API knows."""
    return Problem(400, "MALFORMED_REQUEST", f"{reason}.")


def denied(reason: str) -> Problem:
    """403: the credential is good, but does not open this."""
    return Problem(403, "PERMISSION_DENIED", f"PERMISSION_DENIED: {reason}.")


def missing(reason: str) -> Problem:
    """404: what the request names does not exist."""
    return Problem(404, "RESOURCE_DOES_NOT_EXIST", f"{reason}.")


def taken(reason: str, status: int = 409) -> Problem:
    """409, or 400 where Databricks says so: the name is in use."""
    return Problem(status, "RESOURCE_ALREADY_EXISTS", f"{reason}.")


def unknown_field(name: str) -> Problem:
    """400 of a foundation model endpoint, which decodes its request strictly."""
    return bad_request(f'json: unknown field "{name}"')


def no_such_endpoint(name: str) -> Problem:
    """404 for a serving endpoint that does not exist."""
    return Problem(404, "RESOURCE_DOES_NOT_EXIST", f"Endpoint with name '{name}' does not exist.")


def bad_invocation_path() -> Problem:
    """404 for a path under /serving-endpoints that names no invocation."""
    return Problem(
        404,
        "ENDPOINT_NOT_FOUND",
        "Path must be of form /serving-endpoints/<endpoint_name>/invocations or "
        "/serving-endpoints/<endpoint_name>/served-models/<served_model_name>/invocations",
    )


def no_such_api(method: str, path: str) -> Problem:
    """404 for any other path."""
    return Problem(404, "ENDPOINT_NOT_FOUND", f"No API found for '{method} {path}'")


def too_large(limit: int) -> Problem:
    """413: the body is over the limit of the endpoint, in bytes."""
    return Problem(413, "BAD_REQUEST", f"Exceeded max request size of {limit} bytes.")


def unsupported_coding(name: str, known: Sequence[str]) -> Problem:
    """415: the body is compressed in a way that is not known here (RFC 9110: the answer says which are)."""
    words = ", ".join(known)
    return Problem(
        415,
        "BAD_REQUEST",
        f"The Content-Encoding '{name}' is not supported. Send the body as it is, or in one of: {words}.",
        {"accept-encoding": words},
    )


def no_credential() -> Problem:
    """401: no credential, or one of a kind that is not taken."""
    return Problem(
        401,
        401,
        "Credential was not sent or was of an unsupported type for this API.",
        {"www-authenticate": 'Bearer realm="DatabricksRealm"'},
    )


def wrong_token() -> Problem:
    """403: a token, but not one of this workspace (Databricks answers 403 here, not 401)."""
    return Problem(403, 403, "Invalid access token.")


def expired_token() -> Problem:
    """403: a token of this workspace that has ended. (Databricks' exact words for that are not documented.)"""
    return Problem(403, 403, "Access token has expired.")


def headers_too_large(limit: int) -> Problem:
    """431: path and headers are over the limit, in bytes."""
    return Problem(431, "BAD_REQUEST", f"The path and the headers have more than {limit} bytes.")


def not_ready(name: str) -> Problem:
    """503: the endpoint is being deployed for the first time."""
    message = f"Endpoint '{name}' is not ready yet: it is being deployed."
    return Problem(503, "TEMPORARILY_UNAVAILABLE", message, {"retry-after": "1"})


def never_ready(name: str) -> Problem:
    """400: the endpoint's only deployment failed."""
    return Problem(400, "INVALID_STATE", f"Endpoint '{name}' cannot be queried: its deployment failed.")
