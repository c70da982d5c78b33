"""Hosts and URLs: which of them is this machine, and the parts of a URL. Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

import httpx

PORTS = {"http": 80, "https": 443}
"""The default port of each scheme."""
LOOKS_LIKE = "a host looks like https://my-workspace.cloud.databricks.com"
_NAME = re.compile(r"[\w.-]+")
_SCHEME = re.compile(r"https?(:/*|/+)", re.IGNORECASE)
_ENDPOINT = re.compile(r"/serving-endpoints/([\w.-]+)")


def is_loopback(name: str) -> bool:
    """Whether a host name is this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def parse_host(host: str) -> tuple[str, str]:
    """(`scheme://name[:port]` of a workspace, ""), or ("", why it is none) without showing what may be secret in it.

    Without a scheme it is https, on a loopback address http. Refused: a path, a query, user info, another scheme, and
    http to anywhere but this machine.
    """
    text = host.strip()
    if not text:
        return "", f"is empty: {LOOKS_LIKE}"
    if "@" in text:
        return "", (
            "has a user name or password in it (before an @): give the address alone, and the credentials as token= "
            "or DATABRICKS_TOKEN"
        )
    if (begins := _SCHEME.match(text)) and not begins[1].startswith("://"):
        return "", f"is no address, for it begins with {begins[0]} in place of https://: {LOOKS_LIKE}"
    bare = "://" not in text
    try:
        parts = urlsplit(f"//{text}" if bare else text)
        name, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", f"is no address (its name or port cannot be read): {LOOKS_LIKE}"
    scheme = ("http" if is_loopback(name) else "https") if bare else parts.scheme.lower()
    if scheme not in PORTS and scheme.isalpha() and _NAME.fullmatch(name):
        return "", f"is no workspace address, for it begins with {scheme}:// in place of https://: {LOOKS_LIKE}"
    if scheme not in PORTS or not (":" in name or _NAME.fullmatch(name)) or not text.isprintable():
        return "", f"is no workspace address: {LOOKS_LIKE}"
    address = (f"[{name}]" if ":" in name else name) + (f":{port}" if port not in (None, PORTS[scheme]) else "")
    # A URL copied from the browser ends with ?o=<workspace id>, which is dropped.
    if parts.path not in ("", "/") or not set(parse_qs(parts.query, keep_blank_values=True)) <= {"o"}:
        endpoint = _ENDPOINT.search(parts.path)
        call = f" and call client.endpoint({endpoint[1]!r})" if endpoint else ""
        return "", f"has a path or a query; give only the part before it: {scheme}://{address}{call}"
    if scheme == "http" and not is_loopback(name):
        return "", f"is an http address, where the token could be read on the way; use https://{address}"
    return f"{scheme}://{address}", ""


def origin(url: str) -> str:
    """Scheme, name and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


parse_url = lru_cache(maxsize=64)(httpx.URL)
