"""Secrets: values that no repr, traceback, pickle or message shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_plus

from .._urls import LOOKS_LIKE, parse_host
from ..errors import Raw

SECRETS = frozenset({"token", "password", "client_secret", "azure_client_secret", "google_credentials"})
ADDRESSES = frozenset({"host", "discovery_url", "metadata_service_url"})
_SHORTEST = 8  # characters; shorter header values are no secrets, and would be found everywhere
_SECRET_NAME = re.compile(r"token|secret|passw|api_?key|signature|credential|assertion|^(sig|code)$", re.IGNORECASE)

# Tokens of Databricks (personal access, OAuth refresh, OAuth secret), JSON web tokens, and some of model providers.
_PREFIX = "dapi|dkea|dose|doau"
_TOKEN = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?:{_PREFIX})[\w-]{{6,}}|eyJ[\w-]{{6,}}|(?:sk-|hf_|gh[a-z]_|AKIA)[\w-]{{12,}})"
)
_TOKEN_BESIDE_DOTS = re.compile(rf"(?:{_PREFIX})[0-9a-f]{{16}}|eyJ[\w-]{{6,}}")
_TOKEN_AS_NAME = re.compile(rf"(?:{_PREFIX}|eyJ)[\w-]+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_OTHER_SETTING = re.compile(r"(?:token|secret|passw)\w*\s*(?:=|:\s)|(?:^|[\s,;])[A-Z]+(?:_[A-Z]+)+\s*=", re.IGNORECASE)
_ADDRESS = re.compile(
    r"https?://|[\w.-]+\.(?:databricks(?:apps)?\.\w+|azuredatabricks\.net)\b|(?:localhost|127\.\d+\.\d+\.\d+)(?::\d+)?$",
    re.IGNORECASE,
)
_EXCHANGED = "is no address, but the token is one: host and token are exchanged"


class _Redacted:
    """Has no repr that shows it and refuses to be pickled; a copy is the object itself."""

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


class Misplaced(Secret):
    """A value that cannot be used, and may hold a credential; `flaw` says why without showing it."""

    __slots__ = ("flaw",)

    def __init__(self, text: str, flaw: str) -> None:
        super().__init__(text)
        self.flaw = flaw


def hide_arguments(**arguments: Any) -> tuple[Any, ...]:
    """A client's arguments as `wrap_secrets` gives them, in their order."""
    return tuple(wrap_secrets(arguments).values())


def wrap_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one place: each as a str, a `Secret` or, where it cannot be used, `Misplaced`."""
    wrapped = {name: wrap_secret(name, value) for name, value in values.items()}
    host, token = wrapped.get("host"), wrapped.get("token")
    if isinstance(host, str) and isinstance(token, Secret) and is_address(token.reveal()) and not is_address(host):
        wrapped["host"] = Misplaced(host, _EXCHANGED)
    return wrapped


def wrap_secret(attribute: str, value: Any) -> Any:
    """One setting, as `wrap_secrets` does it; None and a token function are left alone."""
    if value is None or isinstance(value, Secret) or (attribute == "token" and callable(value)):
        return value
    if callable(reveal := getattr(value, "get_secret_value", None)):  # pydantic's SecretStr
        value = reveal()
    elif attribute == "host" and hasattr(value, "scheme") and hasattr(value, "host"):  # a URL of pydantic, httpx, yarl
        value = str(value)
    if not isinstance(value, str):
        return Misplaced("", f"must be a str, got {type(value).__name__}")
    if attribute in SECRETS:
        return Secret(value)
    return Misplaced(value, flaw) if (flaw := _flaw(attribute, value.strip())) else value


def is_address(text: str) -> bool:
    """Whether a text is a URL, or the host name of a workspace."""
    return bool(_ADDRESS.match(text.strip()))


def repr_or_mask(value: str) -> str:
    """A configured value as a message may show it: not where it holds, or may have swallowed, a credential."""
    return repr(value) if len(value) <= 200 and not _flaw("", value) else "(not shown: it may hold a credential)"


def hide_tokens(text: str) -> str:
    """A text of another program without what looks like a token."""
    return _TOKEN.sub("***", text)


def _flaw(attribute: str, value: str) -> str:
    """Why a setting that is no secret may hold one; "" where it does not."""
    if attribute in ADDRESSES and "@" in value:
        return (
            "has a user name or password in it (before an @): give the address alone, and the credentials as token= "
            "or DATABRICKS_TOKEN"
        )
    if not value.isprintable() or _OTHER_SETTING.search(value):
        return (
            "has another line or setting in it: write each setting on a line of its own, with no spaces before its name"
        )
    if attribute == "host":
        name, _, rest = value.partition("://")[2].partition("/") if "://" in value else value.partition("/")
        if _is_token_as_host(name.partition(":")[0]) or _TOKEN.search(rest) or any(map(_is_opaque, rest.split("/"))):
            return f"holds what looks like a token (are host and token exchanged?): {LOOKS_LIKE}"
        return parse_host(value)[1]
    if _TOKEN.search(value) or any(map(_is_opaque, value.split() if not attribute else ())):
        return "holds what looks like a token: give that as token= or DATABRICKS_TOKEN"
    return ""


def _is_token_as_host(name: str) -> bool:
    if max(map(len, name.split("."))) > 63:  # more than a label of DNS holds
        return True
    if "." in name:
        return bool(_TOKEN_BESIDE_DOTS.match(name))
    return bool(_TOKEN_AS_NAME.match(name) or _TOKEN.match(name)) or _is_opaque(name)


def _is_opaque(word: str) -> bool:
    """Whether a word is as random as a token: 32 letters and digits in a row, or 16 that no name mixes like this."""
    runs = re.findall(r"[A-Za-z0-9]{16,}", word)
    mixed = r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)|(?:\D+\d+){3}|\w{32}"
    return bool(_UUID.fullmatch(word)) or any(re.match(mixed, run) for run in runs)


class RedactedMapping(_Redacted, Mapping[str, str]):
    """Headers or the environment; the repr shows names only. Not a dict: rich prints the contents of any dict."""

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
        return f"{type(self).__name__}({', '.join(self._items)})"


def redact(raw: Raw, sent: Mapping[str, str], path: str = "") -> Raw:
    """An answer without the credential that was sent, in case the server repeats it, nor one in the path's query."""
    values = {piece for value in sent.values() for piece in (value, value.rpartition(" ")[2])}
    for name, _, value in (pair.partition("=") for pair in path.partition("?")[2].split("&")):
        values |= {value, unquote_plus(value)} if _SECRET_NAME.search(name) else set()
    body, headers = raw.body, dict(raw.headers)
    for value in sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True):
        body = body.replace(value.encode(), b"***")
        headers = {name: shown.replace(value, "***") for name, shown in headers.items()}
    return Raw(raw.status, headers, body)
