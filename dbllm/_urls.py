"""Hosts and URLs: which of them is this machine, and the parts of a URL. Pure."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

import httpx


def is_loopback(name: str) -> bool:
    """Whether a host name is this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def origin(url: str) -> str:
    """Scheme, name and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


parse_url = lru_cache(maxsize=64)(httpx.URL)
