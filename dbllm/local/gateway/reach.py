"""Which addresses an external model may name: public ones, and those that the workspace's owner allows.

Who may make endpoints need not own this machine: without a limit, an endpoint's URL would read what only this one
reaches (its own ports, its network, a cloud's metadata service at 169.254.169.254). A name is looked at twice: as it
is written, and at each connection, in the addresses that it stands for then. The connection goes to an address that
was looked at, so that a name cannot stand for another one a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from dbllm.local.errors import LocalError, Problem

PORTS = {"http": 80, "https": 443}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")
IETF = ipaddress.ip_network("192.0.0.0/24")  # one cloud's metadata service is in it; older Pythons call it global


@dataclass(frozen=True, slots=True)
class Reach:
    """What external models may reach beside public addresses.

    Attributes:
        places: (name in lower case, port) of servers; None is every port.
    """

    places: frozenset[tuple[str, int | None]] = frozenset()

    def allows(self, name: str, port: int) -> bool:
        """Whether the owner allows this server."""
        name = name.strip("[]").lower()
        return (name, port) in self.places or (name, None) in self.places

    def check_url(self, url: str) -> None:
        """Look at a URL as it is written; names are looked up when they are called.

        Raises:
            Problem: 400, it names this machine or another that is not public.
        """
        parts = urlsplit(url)
        try:
            name, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _refused(url[:100]) from None
        if not self.allows(name, port) and (_is_local_name(name) or not _is_public(_written_address(name))):
            raise _refused(f"{name}:{port}")

    def checked_addresses(self, name: str, port: int, found: Iterable[str]) -> list[str]:
        """The addresses that a name stands for.

        Raises:
            Problem: 400, one of them is not public, and the owner does not allow the name.
        """
        addresses = list(found)
        if not self.allows(name, port):
            for one in addresses:
                if not _is_public(ipaddress.ip_address(one.partition("%")[0])):
                    raise _refused(f"{name}:{port}")
        return addresses


PUBLIC = Reach()
"""No server but public ones."""


def read_reach(allowed: Iterable[str], urls: Iterable[str] = ()) -> Reach:
    """What the owner allows: `name` or `name:port` of servers, and the servers of URLs.

    Raises:
        LocalError: one of them is neither.
    """
    places: set[tuple[str, int | None]] = set()
    for one in allowed:
        if (place := _read_place(one)) is None:
            raise LocalError(f"An allowed upstream is a name or name:port, such as 127.0.0.1:8000, not {one[:100]!r}.")
        places.add(place)
    for url in urls:
        parts = urlsplit(url)
        if parts.hostname:
            places.add((parts.hostname, parts.port or PORTS.get(parts.scheme)))
    return Reach(frozenset(places))


def _read_place(text: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.path not in ("", "/") or parts.username is not None:
        return None
    return name, port or PORTS.get(parts.scheme)


def guard(client: httpx.AsyncClient, reach: Reach) -> httpx.AsyncClient:
    """The client, whose direct connections keep to `reach`. Behind a proxy it is the proxy that looks names up."""
    # httpx has no argument for httpcore's public `network_backend`.
    pool = cast("Any", client._transport)._pool
    pool._network_backend = _GuardedBackend(pool._network_backend, reach)
    return client


class _GuardedBackend:
    """httpcore's network backend, which connects to addresses that were looked at."""

    def __init__(self, inner: Any, reach: Reach) -> None:
        self._inner, self._reach = inner, reach

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def connect_tcp(self, host: str, port: int, **options: Any) -> Any:
        name = host.strip("[]")
        try:
            rows = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except OSError:
            rows = []
        found = self._reach.checked_addresses(name, port, dict.fromkeys(str(row[4][0]) for row in rows))
        from httpcore import ConnectError, ConnectTimeout  # loaded by now; imported early, it would bring trio along

        failed: Exception | None = None
        for address in found:
            try:
                return await self._inner.connect_tcp(address, port, **options)
            except (ConnectError, ConnectTimeout) as error:
                failed = error
        if failed is not None:
            raise failed
        raise httpx.ConnectError(f"the name {name} stands for no address")


def _refused(place: str) -> Problem:
    return Problem(
        400,
        "INVALID_PARAMETER_VALUE",
        f"The provider's URL names {place}, which is this machine or one that is not public. The workspace's owner can "
        f"allow it: `dbllm up --allow-upstream {place}`.",
    )


def _is_local_name(name: str) -> bool:
    bare = name.rstrip(".").lower()
    return bare == "localhost" or bare.endswith((".localhost", ".local", ".internal", ".home.arpa")) or not bare


def _written_address(name: str) -> Address | None:
    """The address that a name is: also 2130706433, 0x7f.1 and 0177.0.0.1, which C libraries take for 127.0.0.1."""
    bare = name.strip("[]").partition("%")[0].rstrip(".")
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare))
    except (OSError, ValueError):
        return None


def _is_public(address: Address | None) -> bool:
    """Whether an address is one of the public internet; what is no address is a name, and looked up later."""
    if address is None:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in NAT64 or int(address) >> 32 == 0:  # IPv4 inside: NAT64, and the old compatible form
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved and address not in IETF
