"""One HTTP request, ready to send, and header fields in both directions. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import httpx

_NAME, _VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[\t -~\x80-\xff]*")


@dataclass(slots=True)  # not frozen: to make one would take three times as long
class HttpRequest:
    """One HTTP request, ready to send. `deadline` is on the backend's clock, the others are seconds.

    Nobody changes one, nor its `headers`: what is made of those serves as long as the same object comes again.
    """

    method: str
    url: str = field(repr=False)  # its query may hold what is secret
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    deadline: float
    connect: float | None = None
    queue: float | None = None


@lru_cache(maxsize=64)
def _place(url: str) -> tuple[bytes, bytes]:
    return httpx.URL(url).netloc, httpx.URL(url).raw_path


def _sendable(name: str, value: str) -> bool:
    ours = name in ("content-length", "transfer-encoding")
    return not ours and _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def decode_headers(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    headers.pop("set-cookie", None)  # a session is a secret, and nobody needs it here
    return headers
