"""One HTTP request, ready to send, and header fields in both directions. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import httpx

from ..errors import ConfigError

RawHeaders = list[tuple[bytes, bytes]]
T_co = TypeVar("T_co", covariant=True)

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
TOKEN, _VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[\t -~\x80-\xff]*")


class NamesOnly(Mapping[str, T_co]):
    """A mapping whose repr shows its names only. No dict, of which rich prints all."""

    __slots__ = ("_items",)

    def __init__(self, *parts: Mapping[str, T_co]) -> None:
        self._items = {name: value for part in parts for name, value in part.items()}

    def __getitem__(self, name: str) -> T_co:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._items)})"


class RequestHeaders(NamesOnly[str]):
    """The header fields of a request, also in the forms in which they are sent. Immutable.

    A value serves many requests: what is made of it is made once.
    """

    __slots__ = ("_fields", "_lines")

    def __init__(self, url: str, *parts: Mapping[str, str]) -> None:
        """`url` is that of the request or its origin: field `host` is its name and port."""
        super().__init__({"host": request_target(url)[0].decode()}, *parts)
        self._fields: RawHeaders | None = None
        self._lines = b""

    def __reduce__(self) -> NoReturn:
        raise TypeError("dbllm's credentials are not pickled.")

    @property
    def fields(self) -> RawHeaders:
        """The fields as bytes, without the body's length.

        Raises:
            ConfigError: one that cannot be sent.
        """
        if self._fields is None:
            if (unfit := next((name for name in self if not _is_sendable(name, self[name])), None)) is not None:
                raise ConfigError(f"the header {unfit!r} cannot be sent: {_header_flaw(unfit, self[unfit])}.")
            self._fields = [(name.encode(), value.strip().encode("latin-1")) for name, value in self._items.items()]
            self._lines = header_lines(self._fields)
        return self._fields

    @property
    def lines(self) -> bytes:
        """The fields as lines of HTTP/1.1; raises as `fields` does."""
        return self._lines if self.fields else b""


def header_lines(fields: RawHeaders) -> bytes:
    """Fields as lines of HTTP/1.1."""
    return b"".join([b"%s: %s\r\n" % field for field in fields])


@dataclass(slots=True, eq=False)  # not frozen: to make one would take three times as long
class HttpRequest:
    """One HTTP request, ready to send. `deadline` is on the backend's clock, the others are seconds.

    `redactor` makes what takes its secrets out of a text. That is made late, for most requests never need it.
    """

    method: str
    url: str = field(repr=False)  # its query may hold what is secret
    headers: RequestHeaders = field(repr=False)
    body: bytes | None = field(repr=False)
    deadline: float
    connect: float | None = None
    queue: float | None = None
    fresh: bool = False  # not over a connection that was kept alive
    redactor: Callable[..., Any] = field(default=lambda path, body: str, repr=False)
    _redaction: Any = field(default=None, repr=False)
    queued: float = 0.0  # how long it waited for a connection

    @property
    def redaction(self) -> Any:
        """What takes the request's secrets out of a text."""
        if self._redaction is None:
            self._redaction = self.redactor(path=self.url, body=self.body)
        return self._redaction


@lru_cache(maxsize=64)
def request_target(url: str) -> tuple[bytes, bytes]:
    """The value of field `host`, and the target of the request's first line.

    Raises:
        ConfigError: the URL has a control character in it, or is too long.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = None
    del url  # its query may hold what is secret, and a traceback may show local variables
    if parsed is None:
        raise ConfigError("the path cannot be sent: it has a control character in it, or is too long.")
    return parsed.netloc, parsed.raw_path


def require_sendable(out: HttpRequest) -> None:
    """Look at a request before anything is dialled, and before a library quotes what it refuses.

    Raises:
        ConfigError: HTTP has no form for its method, path or headers.
    """
    if out.method not in _METHODS and not TOKEN.fullmatch(out.method):
        raise ConfigError(f"{out.method[:50]!r} is no HTTP method.")
    request_target(out.url)
    out.headers.fields  # noqa: B018 - it raises


def _header_flaw(name: str, value: object) -> str:
    if name in ("content-length", "transfer-encoding"):
        return "dbllm writes it itself, so leave it out"
    if not isinstance(value, str):
        return f"its value must be a str, got {type(value).__name__}"
    return "its name, or its value, has a line break or another character for which HTTP has no form; take that out"


def _is_sendable(name: str, value: str) -> bool:
    ours = name in ("content-length", "transfer-encoding")
    return (
        not ours
        and TOKEN.fullmatch(name) is not None
        and isinstance(value, str)
        and _VALUE.fullmatch(value) is not None
    )


def decode_headers(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    headers.pop("set-cookie", None)  # a session is a secret, and nobody needs it here
    return headers
