"""The HTTP client for models elsewhere, and which hosts are this machine."""

from __future__ import annotations

import functools
import ipaddress
from urllib.parse import urlsplit

import httpx

CONNECT = 10.0
"""Seconds to wait for a connection."""


def http_client(timeout: float) -> httpx.AsyncClient:
    """A client for models elsewhere; no proxy of the environment is asked for what is on this machine."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(timeout, connect=min(CONNECT, timeout)),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        mounts=dict.fromkeys(("http://127.0.0.1", "http://localhost", "http://[::1]")),
    )


@functools.lru_cache(maxsize=64)  # asked for every request, about the same few hosts
def is_loopback(url: str) -> bool:
    """Whether a URL, or a bare host, names this machine."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
