"""Paths of the workspace's REST interface. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ..errors import ConfigError

ENDPOINTS = "/api/2.0/serving-endpoints"


def not_found_hint(name: str, listed: Any) -> str:
    """The hint for an endpoint that was not found, from the workspace's list of them."""
    from difflib import get_close_matches  # here and in `_meant`: rarely wanted, and slow to import

    items = listed.get("endpoints") if isinstance(listed, dict) else None
    names = sorted(str(item.get("name")) for item in items or () if isinstance(item, dict))
    if name in names:
        return "The endpoint exists; what was not found lies behind it."
    near = get_close_matches(name, names, 1)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return (f"Did you mean {near[0]!r}? " if near else "") + f"This workspace has: {shown or 'no endpoint at all'}."


def quoted(name: object, what: str = "an endpoint") -> str:
    """A name as one segment of a path.

    Raises:
        ConfigError: it is none ("." and ".." would leave their place in the path).
    """
    try:
        if isinstance(name, str) and name.strip().strip("."):
            return quote(name, safe="")
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"{what} needs a name, not {name!r}.")


def invocations_path(name: str, served_model: str | None = None) -> str:
    """The path that calls a serving endpoint, or one served entity behind it (Databricks REST)."""
    served = f"/served-models/{quoted(served_model, 'a served model')}" if served_model is not None else ""
    return f"/serving-endpoints/{quoted(name)}{served}/invocations"


def app_path(port: int | str, cluster_id: str, org: str = "0") -> str:
    """The path of a driver proxy app; org "0" stands for the workspace the host already names.

    Raises:
        ConfigError: the port is not a whole number from 3000 to 8000 (what Databricks forwards).
    """
    digits = str(port)
    if isinstance(port, bool) or not (digits.isascii() and digits.isdigit() and 3000 <= int(digits[:6]) <= 8000):
        raise ConfigError(f"port {digits[:20]!r}: a driver proxy app listens on a port from 3000 to 8000.")
    return f"/driver-proxy-api/o/{quoted(org)}/{quoted(cluster_id, 'a cluster')}/{int(digits)}"
