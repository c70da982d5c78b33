"""What is taken out of a recording: credentials, by their value, their form, or the name they stand under. Pure."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

HIDDEN = "[hidden]"
_SHORTEST = 6  # characters of a value that is looked for: shorter ones occur in plain text

_FORMS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\bd(?:api|ose|kea|ptn|osc)[0-9a-f]{12,}(?:-\d+)?",  # Databricks' tokens and OAuth secrets
        r"\bsk-[\w-]{16,}",
        r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
        r"\bA(?:KIA|SIA)[0-9A-Z]{16}\b",
        r"\bAIza[\w-]{30,}",
        r"\bgh[pousr]_\w{20,}",
        r"\bgithub_pat_\w{20,}",
        r"\bhf_[A-Za-z0-9]{20,}",
        r"\bxox[abprs]-[\w-]{10,}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)",
        r"(?i:(?<=bearer ))(?=\S*\d)[\w.~+/=-]{8,}",
        r"(?i:(?<=basic ))(?=\S*\d)[\w+/=]{12,}",
        r"(?i:(?<=[?&]sig=)|(?<=[?&]token=)|(?<=[?&]key=)|(?<=[?&]access_token=)|(?<=[?&]client_secret=)"
        r"|(?<=[?&]api_key=)|(?<=[?&]password=))[^&\s\"']+",
    )
)
_NAME = (
    r"(?:[\w.-]*(?:password|passwd|secret|api[_-]?key|private[_-]?key|access[_-]?key|authorization|credentials?|cookie)"
    r"|(?:[\w.-]*[_-])?token)(?:[_-]?(?:plaintext|value))?|bytes_value|string_value|databricks_token"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_IN_JSON_TEXT = re.compile(rf'(?<=")({_NAME})("\s*:\s*")((?:[^"\\]|\\.)*)', re.IGNORECASE)
_REFERENCE = re.compile(r"\{\{secrets/[^{}]*\}\}")
_NAMES_OF_VARIABLES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)


def secrets_in_environment(environment: Mapping[str, str]) -> set[str]:
    """Values of variables whose names say that they are secret."""
    return {value for name, value in environment.items() if _NAMES_OF_VARIABLES.search(name)}


class SecretRemover:
    """Takes out secrets whose values are known, and what looks like one.

    Args:
        known: values of secrets; more are added as requests with credentials arrive.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        for secret in known:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Look for a value from now on: as it is, quoted for a URL, and in Base64."""
        secret = secret.strip()
        if len(secret) >= _SHORTEST:
            coded = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode().rstrip("=")
            self._known |= {secret, quote(secret, safe=""), coded}

    def add_authorization(self, header: str) -> None:
        """Look for the credential in an Authorization header; of the kind Basic, also for its password."""
        kind, _, value = header.partition(" ")
        self.add(value or header)
        if kind.lower() == "basic":
            try:
                self.add(base64.b64decode(value).decode().partition(":")[2])
            except ValueError:
                return

    def text(self, text: str) -> str:
        """A text without secrets."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        for form in _FORMS:
            text = form.sub(HIDDEN, text)
        return _IN_JSON_TEXT.sub(rf"\1\2{HIDDEN}", text) if '"' in text else text

    def value(self, value: Any, name: str = "") -> Any:
        """Decoded JSON without secrets: in texts, in names, and whatever stands under a name that says so."""
        if isinstance(value, str):
            hide = _SECRET_NAME.fullmatch(name) and value and not _REFERENCE.fullmatch(value)
            return HIDDEN if hide else self.text(value)
        if isinstance(value, list):
            return [self.value(one, name) for one in value]
        if isinstance(value, dict):
            logprob = "logprob" in value  # there, `token` is a piece of the answer
            return {self.text(key): self.value(one, "" if logprob else key) for key, one in value.items()}
        return value

    def values(self, values: list[Any]) -> list[Any]:
        """The events of a stream without secrets, also without those that several events have in pieces.

        Where the texts at one place of all events make a secret together, the first gets the whole text without it, and
        the others none.
        """
        cleaned = [self.value(value) for value in values]
        places: dict[tuple[str | int, ...], list[tuple[Any, str | int]]] = defaultdict(list)
        for value in cleaned:
            for path, holder, key in _texts(value, ()):
                places[path].append((holder, key))
        for found in places.values():
            whole = "".join(holder[key] for holder, key in found)
            if len(found) > 1 and (clean := self.text(whole)) != whole:
                for number, (holder, key) in enumerate(found):
                    holder[key] = "" if number else clean
        return cleaned


def _texts(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any, str | int]]:
    """Each text in decoded JSON: its place, what holds it, and under which key."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, MutableMapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, one in list(items):
        if isinstance(one, str):
            yield (*path, key), value, key
        else:
            yield from _texts(one, (*path, key))
