"""Secrets: values that no repr, traceback, pickle or message shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_plus

from ..errors import Raw

SECRETS = frozenset({"token", "password", "client_secret", "azure_client_secret", "google_credentials"})
ADDRESSES = frozenset({"host", "discovery_url", "metadata_service_url"})
_SHORTEST = 8  # characters; shorter header values are no secrets, and would be found everywhere
_TELLING = re.compile(r"token|secret|passw|api_?key|signature|credential|assertion|^(sig|code)$", re.IGNORECASE)


class _Redacted:
    """Not in a repr, not in a traceback with locals, not in a pickle; a copy is the thing itself."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "dbllm's credentials are not pickled: make the client where it is used, from the environment or a profile."
        )

    def __copy__(self) -> _Redacted:
        return self

    def __deepcopy__(self, memo: object) -> _Redacted:
        return self


class Secret(_Redacted):
    """A text that only `reveal` shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"


def hide_arguments(host: Any, token: Any, client_secret: Any) -> tuple[Any, Any, Any]:
    """A client's arguments with their secrets as `Secret`, also a host with a password in it, which is then refused."""
    return wrap_secret("host", host), wrap_secret("token", token), wrap_secret("client_secret", client_secret)


def wrap_secret(attribute: str, value: Any) -> Any:
    """A configured value, as a `Secret` where it is or holds one: `user:password@` in an address."""
    secret = attribute in SECRETS or (attribute in ADDRESSES and "@" in str(value))
    return Secret(value) if secret and isinstance(value, str) else value


class RedactedMapping(_Redacted, Mapping[str, str]):
    """A mapping whose repr shows names only: headers, the environment. No dict, for rich shows what is in any dict."""

    __slots__ = ("_items",)

    def __init__(self, *parts: Mapping[str, str]) -> None:
        self._items = {name: value for part in parts for name, value in part.items()}

    def __getitem__(self, name: str) -> str:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Hidden({', '.join(self._items)})"


def redact(raw: Raw, sent: Mapping[str, str], path: str = "") -> Raw:
    """An answer without the credential that was sent, in case the server repeats it, nor one in the path's query."""
    values = {piece for value in sent.values() for piece in (value, value.rpartition(" ")[2])}
    for name, _, value in (pair.partition("=") for pair in path.partition("?")[2].split("&")):
        values |= {value, unquote_plus(value)} if _TELLING.search(name) else set()
    body, headers = raw.body, dict(raw.headers)
    for value in sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True):
        body = body.replace(value.encode(), b"***")
        headers = {name: shown.replace(value, "***") for name, shown in headers.items()}
    return Raw(raw.status, headers, body)
