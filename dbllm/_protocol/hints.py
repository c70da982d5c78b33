"""What to do about a status error, where its class alone cannot say. Pure."""

from __future__ import annotations

import re

from ..errors import Raw
from .paths import NO_GATEWAY

_OF_CODES = {
    "RESOURCE_ALREADY_EXISTS": "Choose another name, or change what is there.",  # Databricks sends it with 400, too
    "FEATURE_DISABLED": (
        "The workspace has this feature switched off, or does not have it: ask a workspace admin to enable it "
        "(Settings > Previews, or the AI Gateway's settings); some features need another plan or region."
    ),
}
_PROVIDER = re.compile(r"received error from|\bexternal model provider\b", re.IGNORECASE)
_REFUSED_KEY = frozenset({"invalid_api_key", "authentication_error", "invalid_authentication", "401"})
_PROVIDER_KEY = (
    "Your own token was accepted: the model's provider refused the credential of the endpoint. Its owner must put a "
    "valid key into the secret that the endpoint's configuration names."
)
_PROVIDER_MODEL = "The model's provider does not know the model or deployment that the endpoint's configuration names."
_PROXY = "A proxy on the way asks for a user name and password: check those in proxy= or HTTPS_PROXY."
_NO_GATEWAY = (
    "This workspace does not have the AI Gateway, or has it switched off: call a serving endpoint by its name instead "
    "(client.endpoints.list() has them), or ask a workspace admin to enable the gateway."
)
_GATEWAY_PATHS = ("/ai-gateway/", "/unity-catalog/model-")
_NO_WORKSPACE = (
    "{url} was asked, and the answer is none of Databricks': this is no workspace, so check the host. If another kind "
    "of server runs there (an OpenAI-compatible or MLflow one), put it behind a workspace: on this machine `dbllm up "
    "--upstream openai=URL` for an external model, or `dbllm up --custom NAME=URL` for a scoring server."
)


def status_hint(raw: Raw, code: str, detail: str, url: str) -> str:
    """The advice for an answer with an error status, or "": its class has one of its own.

    Args:
        raw: the answer.
        code, detail: the error code and the sentence in its body.
        url: what was asked, without its query; "" if unknown.
    """
    if 300 <= raw.status < 400:
        return "dbllm follows no redirect, since the token would go along: check the host."
    if raw.status == 407:
        return _PROXY
    if _PROVIDER.match(detail) or b'"external_model_message"' in raw.body:
        if raw.status in (401, 403) or code in _REFUSED_KEY:
            return _PROVIDER_KEY
        return _PROVIDER_MODEL if raw.status == 404 else ""
    if any(path in url for path in _GATEWAY_PATHS) and ({code, str(raw.status)} & NO_GATEWAY):
        return _NO_GATEWAY
    if raw.status in (404, 405, 501) and url and not is_of_databricks(raw, url):
        return _NO_WORKSPACE.format(url=url)
    return _OF_CODES.get(code, "")


def is_of_databricks(raw: Raw, url: str) -> bool:
    """Whether an answer has a mark of a workspace: its headers, its `error_code`; or comes from an app on a cluster."""
    marks = ("x-databricks-", "x-request-id")
    named = any(name.startswith(marks) for name in raw.headers) or raw.headers.get("server") == "databricks"
    return named or b'"error_code"' in raw.body or "/driver-proxy-api/" in url
