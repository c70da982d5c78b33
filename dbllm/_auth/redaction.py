"""Secrets: values that no repr, traceback, pickle or message shows."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus, unquote_plus

from .._http.request import NamesOnly
from .._urls import LOOKS_LIKE, parse_host
from ..errors import APIError, Raw

SECRETS = frozenset({"token", "password", "client_secret", "azure_client_secret", "google_credentials"})
ADDRESSES = frozenset({"host", "discovery_url", "metadata_service_url"})
_SHORTEST = 8  # characters; shorter header values are no secrets, and would be found everywhere
_CREDENTIAL = (
    "token|secret|passw|passphrase|passcode|signature|credential|assertion|authori[sz]ation|bearer|cookie|^(sig|code)$"
    "|(^|[^a-z])(auth|pwd|pin|jwt|sas|otp|pat|psk|csrf|sid)([^a-z]|$)|session_?id"
    "|(api|access|account|auth|encryption|license|master|private|service|shared|signing|storage|subscription)[-_. ]?key"
)

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
        return Misplaced("", _wrong_type(attribute, value))
    if attribute in SECRETS:
        return Secret(value)
    return Misplaced(value, flaw) if (flaw := _flaw(attribute, value.strip())) else value


def _wrong_type(attribute: str, value: object) -> str:
    if attribute == "token" and isinstance(value, Coroutine):
        value.close()  # it is never awaited, and needs no warning
        return "is a coroutine: pass the async function itself, without calling it"
    wanted = "a str or a function that returns one" if attribute == "token" else "a str"
    return f"must be {wanted}, got {type(value).__name__}" + (f": {LOOKS_LIKE}" if attribute == "host" else "")


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


class RedactedMapping(_Redacted, NamesOnly[Any]):
    """Headers, the environment, a body with secrets: the repr shows names only."""

    __slots__ = ()


def hide_headers(headers: Mapping[str, Any] | None) -> Any:
    """A caller's headers as no traceback shows them, names in lower case; what is no mapping as a `Misplaced`."""
    if headers is None or isinstance(headers, (RedactedMapping, Secret)):
        return headers
    if not isinstance(headers, Mapping):
        return Misplaced("", f"headers must be a mapping of names to values, got {type(headers).__name__}.")
    return RedactedMapping({str(name).lower(): headers[name] for name in headers})


def hide_fields(fields: Any) -> Any:
    """A caller's further fields of a body as no traceback shows them; what is no mapping as it is."""
    return RedactedMapping(fields) if isinstance(fields, Mapping) else fields


class Redaction(_Redacted):
    """What was sent with a call and may be secret: called with a text, it returns it without that.

    That is every value of the auth's headers, every value of the caller's own headers but those in `_HARMLESS`, and
    what the path's query and the JSON body have under a name of credentials. A server may repeat it as it was, or
    encoded. User names and passwords inside URLs (of a redirect, say) go, too, though nobody here sent them.
    """

    __slots__ = ("_body", "_forms", "_parts", "_path")

    def __init__(self, *parts: Mapping[str, str], path: str = "", body: bytes | None = None) -> None:
        self._parts, self._path, self._body = parts, path, body
        self._forms: list[str] | None = None  # made when they are needed: most calls succeed

    def __call__(self, text: str) -> str:
        for form in self._all_forms():
            text = text.replace(form, "***")
        return _USER_INFO.sub("//***@", text)

    def raw(self, raw: Raw) -> Raw:
        """An answer without it."""
        body, wide = raw.body, b"\0" in raw.body
        for form in self._all_forms():
            body = body.replace(form.encode("utf-8", "replace"), b"***")
            if not form.isascii():
                body = body.replace(form.encode("latin-1", "replace"), b"***")
            for encoding in _WIDE if wide else ():
                body = body.replace(form.encode(encoding, "replace"), "***".encode(encoding))
        body = re.sub(_USER_INFO.pattern.encode(), b"//***@", body)
        return Raw(raw.status, {name: self(value) for name, value in raw.headers.items()}, body)

    def error(self, error: APIError) -> None:
        """Take it out of an error: out of its texts, and out of the answer that it keeps."""
        error.raw = error.raw and self.raw(error.raw)
        for name in ("detail", "hint", "error_code", "request_id", "partial_text"):
            if isinstance(text := getattr(error, name, None), str) and (shown := self(text)) != text:
                setattr(error, name, shown)
        for link in _chain(error):
            if any(isinstance(part, str) and self(part) != part for part in link.args):
                link.args = tuple(self(part) if isinstance(part, str) else part for part in link.args)

    def _all_forms(self) -> list[str]:
        if self._forms is None:
            secrets = {word for part in self._parts for name in part for word in _secret_words(name, part[name])}
            for name, _, value in (pair.partition("=") for pair in self._path.partition("?")[2].split("&")):
                secrets |= {value, unquote_plus(value)} if re.search(f"(?i){_CREDENTIAL}", name) else set()
            with suppress(ValueError, RecursionError):
                secrets |= set(_secret_fields(json.loads(self._body or b"null")))
            forms = {form for secret in secrets if len(secret) >= _SHORTEST for form in _encodings(secret)}
            self._forms = sorted(forms, key=len, reverse=True)
        return self._forms


_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_USER_INFO = re.compile(r"//[^\s/@\"'<>\\]{1,512}@")
_HARMLESS = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "host"})
_HARMLESS |= {"connection", "content-language", "content-type", "traceparent", "user-agent", "x-request-id"}


def _secret_words(name: str, value: str) -> set[str]:
    """What of a header may be secret: the value, its words, what stands after "=" in them, a Basic password."""
    if name in _HARMLESS or not isinstance(value, str):
        return set()
    words = re.split(r"[\s;,]+", value)
    found = {value, *words, *(word.partition("=")[2].strip("\"'") for word in words)}
    if words[0].lower() == "basic":
        with suppress(ValueError):  # it is no base64
            login = base64.b64decode(words[-1] + "==").decode("latin-1")
            found |= {login, login.partition(":")[2]}
    return found


def _secret_fields(value: Any, name: str = "", grouped: bool = False) -> Iterator[str]:
    """The texts that a JSON body has under names of credentials; not references such as `{{secrets/scope/key}}`.

    Headers (those of a tool's server, say) are `grouped`: their values may be secret whatever their names are. A pair
    of fields, name and value, counts as one field of this name.
    """
    if isinstance(value, (dict, list)):
        grouped = grouped or bool(re.search(_GROUP, name))
        if isinstance(value, dict) and isinstance(said := value.get("name", value.get("key")), str):
            yield from _secret_fields(value.get("value"), said, grouped)
        for key, item in value.items() if isinstance(value, dict) else ((name, item) for item in value):
            yield from _secret_fields(item, key, grouped)
    elif not isinstance(value, str) or value.startswith("{{secrets/"):
        return
    elif re.search(_SECRET_FIELD, name) or (grouped and name.lower() not in {*_HARMLESS, "name", "key", "type"}):
        yield from (value, *value.split())
        if name == "bytes_value":
            with suppress(ValueError):
                yield base64.b64decode(value).decode("latin-1")


_SECRET_FIELD = rf"(?i){_CREDENTIAL}|_plaintext$|^(string|bytes)_value$"  # compiled once it is asked for
_GROUP = r"(?i)(^|[-_])(headers|auth|credentials)$"


def _encodings(secret: str) -> set[str]:
    """How a text may look in a URL, in JSON, in HTML, in Python's words, or in base64 with something around it."""
    data = secret.encode("utf-8", "replace")
    pairs = [f"{byte:02x}" for byte in data]
    tags = secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    entities = tags.replace('"', "&quot;")
    found = {
        secret,
        tags,
        entities,
        entities.replace("'", "&#x27;"),
        entities.replace("'", "&#39;"),
        repr(secret)[1:-1],
    }
    found |= {
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret))[3:-3],
        json.dumps(json.dumps(json.dumps(secret)))[7:-7],
    }
    found |= {quote(secret), quote(secret, safe=""), quote_plus(secret), "".join(f"%{pair}" for pair in pairs)}
    found |= {quote(quote(secret, safe=""), safe=""), "".join(pairs), "".join(pairs).upper()}
    found |= {"".join(shown % ord(one) for one in secret) for shown in _CHARACTERS}
    found |= {form.replace("/", "\\/") for form in tuple(found)}
    found |= {_HEX.sub(lambda pair: pair[0].lower(), form) for form in tuple(found)}
    found |= {_HEX.sub(lambda pair: pair[0].upper(), form) for form in tuple(found)}
    for before in range(3):  # bytes of the group of three that it may begin in the middle of
        code = base64.b64encode(b"\0" * before + data).decode()[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]
        found |= {code, code.replace("+", "-").replace("/", "_")}
    return {form for form in found if len(form) >= _SHORTEST}


_HEX = re.compile("%[0-9A-Fa-f]{2}")
_CHARACTERS = ("&#%d;", "&#x%x;", "&#x%X;", "\\u%04x", "\\u%04X", "\\x%02x")
# The HTTP stack, and what of dbllm and the standard library stands between it and the caller.
_INSIDE = frozenset({"anyio", "asyncio", "dbllm", "h11", "h2", "httpcore", "httptools", "httpx", "httpx2", "socket"})
_INSIDE |= {"pydantic", "ssl", "trio", "urllib3", "uvloop"}


def hide_frames(error: BaseException) -> None:
    """Drop the frames of dbllm and of the HTTP stack from the tracebacks of an error and of those before it.

    Their local variables hold what was sent, and tools show them (rich, sentry). Frames of the user's own functions
    stay.
    """
    for link in _chain(error):
        kept, frame = [], link.__traceback__
        while frame is not None:
            if frame.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _INSIDE:
                kept.append(frame)
            frame = frame.tb_next
        link.__traceback__ = None
        for one in reversed(kept):
            link.__traceback__ = TracebackType(link.__traceback__, one.tb_frame, one.tb_lasti, one.tb_lineno)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    link: BaseException | None = error
    seen: set[int] = set()  # an error that is raised again can be part of its own context
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
