"""Paths of the workspace's REST interface. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .._lazy import WholeImport
from .._urls import is_loopback, parse_host
from ..errors import ConfigError

ENDPOINTS = "/api/2.0/serving-endpoints"
MODEL_SERVICES = "/api/2.1/unity-catalog/model-services"
SERVICE = "model-services/"
NO_GATEWAY = frozenset({"FEATURE_DISABLED", "ENDPOINT_NOT_FOUND", "501", "NOT_IMPLEMENTED"})
"""What workspaces without the AI Gateway answer."""
_TWO_FORMS = "a serving endpoint's name has no dot (my-endpoint), a model service's two (system.ai.claude-sonnet-4-5)"


def endpoint_names(listed: Any) -> list[str]:
    """The names in the workspace's list of endpoints, sorted."""
    items = listed.get("endpoints") if isinstance(listed, dict) else None
    return sorted(str(item.get("name")) for item in items or () if isinstance(item, dict))


def service_names(listed: Sequence[Any]) -> list[str]:
    """The names in a list of model services, sorted, without the `model-services/` of the REST interface."""
    return sorted(str(item.get("name")).removeprefix(SERVICE) for item in listed if isinstance(item, dict))


def same_service(endpoint: str, hint: str) -> str | None:
    """The model service that may have the model of an endpoint that was not found; None if `hint` knows better."""
    if "." in endpoint or (hint.startswith("Did you mean") and not endpoint.startswith("databricks-")):
        return None
    return f"system.ai.{endpoint.removeprefix('databricks-')}"


def same_endpoint(service: str, endpoints: Sequence[str]) -> str | None:
    """The endpoint, of those there are, that has the model of a model service by its name."""
    last = service.rpartition(".")[2]
    return next((name for name in (f"databricks-{last}", last, service) if name in endpoints), None)


def not_found_hint(name: str, names: Sequence[str]) -> str:
    """The hint for an endpoint that was not found, from the names of those there are."""
    if name in names:
        return "The endpoint exists; what was not found lies behind it."
    return f"{_near_miss(name, names)}This workspace has: {_shown(names) or 'no endpoint at all'}."


def service_hint(name: str, endpoint: str | None, names: Sequence[str]) -> str:
    """The hint for a model service that was not found.

    Args:
        name: the model service's name.
        endpoint: an endpoint that has the same model, if there is one.
        names: the model services in its schema that may be seen.
    """
    if name in names:
        return "The model service exists; what was not found lies behind it."
    meant = (
        f"There is a serving endpoint {endpoint!r}: did you mean client.endpoint({endpoint!r})? " if endpoint else ""
    )
    schema = name.rpartition(".")[0]
    shown = _shown(names) or "no model service that this token may see"
    return f"{meant or _near_miss(name, names)}The schema {schema} has: {shown}."


def no_gateway_hint(name: str, endpoint: str | None) -> str:
    """The hint for a model service in a workspace without the AI Gateway; `endpoint` has the same model."""
    instead = (
        f"client.endpoint({endpoint!r}), a serving endpoint with this model,"
        if endpoint
        else "the name of a serving endpoint (client.endpoints.list() has them)"
    )
    return (
        f"The model service {name!r} is called through the AI Gateway, which this workspace does not have or has "
        f"switched off: use {instead} instead, or ask a workspace admin to enable the gateway."
    )


def _near_miss(name: str, names: Sequence[str]) -> str:
    with WholeImport():
        from difflib import get_close_matches  # here: rarely wanted, and slow to import

    near = get_close_matches(name, names, 1)
    return f"Did you mean {near[0]!r}? " if near else ""


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


_NOT_IN_NAMES = re.compile(r"[\s/:?#]")


def _name_flaw(name: str) -> str:
    """Why a text is no endpoint's name, and what was probably meant; "" where it may be a model service's."""
    shown = name.split("?")[0]  # a query may hold what is secret
    if name != name.strip() and name.strip(" .") == name.strip():
        return f"the name {shown!r} has a space at its beginning or end: write {name.strip()!r}."
    if ".databricksapps.com" in name:
        return f"{shown!r} is the address of an app: use client.agent(url=…) for it."
    if name.startswith("apps/"):
        return f"{shown!r} is an app of Databricks Apps, not a serving endpoint: use client.agent({shown[5:]!r})."
    if "/" not in name and ":" not in name and (is_service_name(name) or not name.strip()):
        return ""
    if "/" not in name and ":" not in name:
        return (
            f"{shown!r} has a space or a sign in it, as no endpoint's name has: client.endpoints.list() has the names."
        )
    meant = re.search(r"serving-endpoints/([\w.-]+)", name) or re.search(r"([\w.-]+)/*$", shown)
    return f"{shown!r} is a URL or a path: an endpoint is called by its name alone" + (
        f", {meant[1]!r}." if meant else "."
    )


def app_name(name: object) -> str:
    """The name of an app of Databricks Apps, as one segment of a path.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(name, str) and "/" in name:
        raise ConfigError(f"{name.split('?')[0]!r} is no app's name: give an address as url=, or the name alone.")
    return quoted(name, "an app")


def endpoint_name(name: str) -> str:
    """The name of a serving endpoint or model service, without the `model-services/` of the REST interface.

    Raises:
        ConfigError: it is neither's.
    """
    if isinstance(name, str):
        name = name.removeprefix(SERVICE)
        if _NOT_IN_NAMES.search(name) and (flaw := _name_flaw(name)):
            raise ConfigError(flaw)
    if isinstance(name, str) and name.strip(" .") and "." in name:
        parts = name.split(".")
        if len(parts) == 2:
            raise ConfigError(f"{name!r} has one dot: {_TWO_FORMS}.")
        if not all(part.strip() for part in parts):
            raise ConfigError(f"{name!r} has an empty part: {_TWO_FORMS}.")
    return name


def is_service_name(name: object) -> bool:
    """Whether it names a model service (`catalog.schema.name`); names of serving endpoints have no dots."""
    return isinstance(name, str) and name.count(".") >= 2


def quoted(name: object, what: str = "an endpoint") -> str:
    """A name as one segment of a path.

    Raises:
        ConfigError: it is none ("." and ".." would leave their place in the path).
    """
    try:
        if isinstance(name, str) and name.strip().strip("."):
            if name != name.strip():
                raise ConfigError(f"{what}'s name has no space at its beginning or end: write {name.strip()!r}.")
            return quote(name, safe="")
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"{what} needs a name, a str that is not empty, got {name!r:.80}.")


def invocations_path(name: str, served_model: str | None = None) -> str:
    """The path that calls a serving endpoint, or one served entity behind it (Databricks REST)."""
    served = f"/served-models/{quoted(served_model, 'a served model')}" if served_model is not None else ""
    return f"/serving-endpoints/{quoted(name)}{served}/invocations"


def app_origin(url: str, host: str) -> str:
    """The origin of an app of Databricks Apps, where `host` is the workspace.

    A token may go there: by https to a name under databricksapps.com; or to this machine, if the workspace is on it.

    Raises:
        ConfigError: it is no such address.
    """
    found, flaw = parse_host(url) if isinstance(url, str) else ("", "is no text")
    parts = urlsplit(found)
    name = parts.hostname or ""
    local = is_loopback(name) and is_loopback(urlsplit(host).hostname or "")
    is_app = parts.scheme == "https" and name.endswith(".databricksapps.com") and not parts.port
    if flaw or not (local or (is_app and all(name.split(".")))):
        why = (
            flaw.partition(": ")[0] if flaw else "is not an address of Databricks Apps, so the token is not sent there"
        )
        raise ConfigError(
            f"the agent's url {why.replace('workspace address', 'address of an app')}: it looks like "
            "https://my-agent-123.aws.databricksapps.com."
        )
    return found


def app_path(port: int | str, cluster_id: str, org: str = "0") -> str:
    """The path of a driver proxy app; org "0" stands for the workspace the host already names.

    Raises:
        ConfigError: the port is not a whole number from 3000 to 8000 (what Databricks forwards).
    """
    digits = str(port)
    if isinstance(port, bool) or not (digits.isascii() and digits.isdigit() and 3000 <= int(digits[:6]) <= 8000):
        raise ConfigError(f"port {digits[:20]!r}: a driver proxy app listens on a port from 3000 to 8000.")
    return f"/driver-proxy-api/o/{quoted(org)}/{quoted(cluster_id, 'a cluster')}/{int(digits)}"


def request_path(path: object, params: object, host: str) -> str:
    """The path of `client.request`, with its query.

    Raises:
        ConfigError: it has a host of its own, or is no path.
        TypeError: the query is no dict.
    """
    if not isinstance(path, str) or not path.startswith("/") or path.startswith("//"):
        shown = str(path).split("?")[0]
        raise ConfigError(f"path must begin with one '/', got {shown!r:.80}; the host is the client's own, {host}.")
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f'params must be a dict such as {{"limit": 10}}, got {type(params).__name__}.')
    return path + (("&" if "?" in path else "?") + query if (query := query_string(params)) else "")


def query_string(params: Mapping[str, Any] | None) -> str:
    """A query: None is left out, booleans are true and false, a list is a field for each item."""
    shown = {True: "true", False: "false"}
    pairs = ((name, value) for name, value in (params or {}).items() if value is not None)
    return urlencode([(name, shown[value] if isinstance(value, bool) else value) for name, value in pairs], doseq=True)
