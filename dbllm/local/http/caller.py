"""Who sends a request: a program, or a web page of somebody else through a browser. All pure.

A browser on this machine runs pages of anyone, and sends for them what needs no permission: a POST of text/plain, say.
It names the page's origin then, and a page that came under a name of its own for 127.0.0.1 (DNS rebinding) shows in
the Host header. Programs send neither, or the truth.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import Scope

from dbllm.local.errors import denied
from dbllm.local.http.client import is_loopback

HARMLESS = ("GET", "HEAD")
ELSEWHERE = ("cross-site", "same-site")


def check_origin(method: str, headers: Headers) -> None:
    """Refuse a request that a web page of another origin made a browser send.

    Raises:
        Problem: 403; pages of this machine and of the server itself may send.
    """
    origins = headers.getlist("origin")
    for origin in origins:
        if not is_loopback(origin) and origin.partition("://")[2] != headers.get("host"):
            raise denied(f"a web page of another origin ({origin[:100]!r}) sent this request")
    if not origins and method not in HARMLESS and headers.get("sec-fetch-site") in ELSEWHERE:
        raise denied("a web page of another origin sent this request")


def check_host(headers: Headers, allowed: Collection[str] = ()) -> None:
    """Refuse a request under a name that is not this machine's, as DNS rebinding makes it.

    For connections that came over loopback. `allowed` are further names, with or without a port; those by which a
    container calls this machine are in a domain that nobody can register.

    Raises:
        Problem: 403.
    """
    for host in headers.getlist("host"):
        if (
            host
            and not is_loopback(f"//{host}")
            and not {host.lower(), _HOST_PORT.sub("", host.lower())} & {*_CONTAINERS, *allowed}
        ):
            raise denied(
                f"the header 'Host: {host[:100]}' does not name this machine; call http://127.0.0.1, or start with "
                "--allowed-host and that name"
            )


_CONTAINERS = ("host.docker.internal", "host.containers.internal")
_HOST_PORT = re.compile(r":\d*$")


def came_over_loopback(scope: Scope) -> bool:
    """Whether a request reached this machine by one of its loopback addresses."""
    name = str((scope.get("server") or ("",))[0])
    return is_loopback(f"//[{name}]" if ":" in name else name)


@functools.lru_cache(maxsize=64)
def is_json(content_type: str) -> bool:
    """Whether a Content-Type says JSON in UTF-8, which a page cannot send to another origin without being let."""
    kind, *options = (part.strip().lower() for part in content_type.split(";"))
    charsets = [
        value.strip("\"' ")
        for name, _, value in (option.partition("=") for option in options)
        if name.strip() == "charset"
    ]
    return (
        kind.startswith("application/")
        and kind.endswith(("/json", "+json"))
        and all(charset in ("utf-8", "utf8") for charset in charsets)
    )
