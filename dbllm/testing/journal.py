"""What a server was sent: one `ModelCall` for each request to a model, and assertions that show the difference."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from dbllm.testing.wire_requests import WireKind, messages_of, text_of_content

_HIDDEN = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})
_LONGEST = 120  # characters of a value that are shown


@dataclass(eq=False, slots=True)
class ModelCall:
    """One request to a model.

    Attributes:
        number: from 1, in order of arrival; attempts of one call are requests of their own.
        kind: "chat", "completions", "embeddings", "responses", "messages" (Anthropic's), "agent", "custom",
            "driver_app"; "other" for requests that call no model (those are in `Scripted.requests` alone).
        endpoint: the endpoint, model service, app, or driver app as "cluster:port".
        method, path: as on the wire.
        headers: names in lower case; credentials are hidden.
        body: the JSON of the body; {} if it is no object.
        stream: whether a stream was asked for.
        at: seconds since the server started.
        status: of the answer; None until it begins.
        fault: what was done to the answer; None if nothing was.
    """

    number: int
    kind: WireKind
    endpoint: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    stream: bool = False
    at: float = 0.0
    status: int | None = None
    fault: str | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages; a prompt, or an input that is a text, is one message of the user."""
        return messages_of(self.kind, self.body)

    @property
    def prompt(self) -> str:
        """The text of the last message, or the prompt."""
        found = self.messages
        return text_of_content(found[-1].get("content")) if found and isinstance(found[-1], dict) else ""

    @property
    def tools(self) -> list[str]:
        """Names of the tools that were offered."""
        offered = self.body.get("tools")
        found = [tool.get("function", tool) for tool in offered or () if isinstance(tool, dict)]
        return [str(tool.get("name")) for tool in found if isinstance(tool, dict)]

    @property
    def outcome(self) -> str:
        """The answer's status and its fault, as text."""
        said = "no answer yet" if self.status is None else str(self.status)
        return f"{said} (fault {self.fault})" if self.fault else said

    def __str__(self) -> str:
        target = f" to {self.endpoint!r}" if self.endpoint else ""
        said = f": {_value_shown(self.prompt)}" if self.prompt else ""
        return f"{self.kind}{target}{said}" if self.kind != "other" else f"{self.method} {self.path}"

    def __repr__(self) -> str:
        return f"<Call {self.number} {self}>"


@dataclass(frozen=True)
class ModelCalls(Sequence[ModelCall]):
    """ModelCalls in order of arrival, with assertions about them."""

    _calls: tuple[ModelCall, ...] = field(default=())

    @overload
    def __getitem__(self, index: int) -> ModelCall: ...
    @overload
    def __getitem__(self, index: slice) -> ModelCalls: ...
    def __getitem__(self, index: int | slice) -> ModelCall | ModelCalls:
        if isinstance(index, slice):
            return ModelCalls(self._calls[index])
        try:
            return self._calls[index]
        except IndexError:
            raise IndexError(f"there is no call {index}: {self}") from None

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[ModelCall]:
        return iter(self._calls)

    def __str__(self) -> str:
        if not self._calls:
            return "no model was called"
        lines = [f"{len(self._calls)} call{'s' if len(self._calls) > 1 else ''}:"]
        return "\n".join([*lines, *(f"  {call.number}. {call} → {call.outcome}" for call in self)])

    __repr__ = __str__

    def to(self, endpoint: str) -> ModelCalls:
        """Those to one endpoint."""
        return ModelCalls(tuple(call for call in self if call.endpoint == endpoint))

    def check(self, times: int | None, wanted: Mapping[str, Any]) -> None:
        """Fail, with the difference to the call that is nearest, unless calls have what is wanted.

        Raises:
            AssertionError: no call, or not that many, have all of it.
        """
        __tracebackhide__ = True
        found = [call for call in self if not differences(wanted, call)]
        if len(found) == times or (times is None and found):
            return
        said = ", ".join(f"{name}={_value_shown(value)}" for name, value in wanted.items())
        expected = "at least one call" if times is None else f"{times} call{'' if times == 1 else 's'}"
        lines = [f"expected {expected}{' with ' + said if said else ''}, found {len(found)}."]
        if self._calls and not found and wanted:
            nearest = min(self._calls, key=lambda call: len(differences(wanted, call)))
            lines.append(f"The nearest is call {nearest.number}, which differs in:")
            lines += [f"  {line}" for line in differences(wanted, nearest)]
        raise AssertionError("\n".join([*lines, str(self)]))


def differences(wanted: Mapping[str, Any], call: ModelCall) -> list[str]:
    """In what a call differs from what is wanted; a name is one of the call's own attributes, or a field of its body.

    A regular expression is searched for, and anything else is compared by `==`.
    """
    found: list[str] = []
    for name, value in wanted.items():
        own = name in ("kind", "endpoint", "method", "path", "stream", "messages", "prompt", "tools", "status", "body")
        have = getattr(call, name) if own else call.body.get(name, _MISSING)
        found += compare(value, have, name)
    return found


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def compare(wanted: Any, found: Any, at: str = "", words: tuple[str, str] = ("expected", "found")) -> list[str]:
    """The places in which two values differ, one line each."""
    if isinstance(wanted, re.Pattern):
        fits = isinstance(found, str) and wanted.search(found) is not None
        return [] if fits else [f"{at}: {words[0]} {wanted.pattern!r} in it, {words[1]} {_value_shown(found)}"]
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        lines: list[str] = []
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            place = f"{at}.{key}" if at else str(key)
            lines += compare(wanted.get(key, _MISSING), found.get(key, _MISSING), place, words)
        return lines
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        lines = []
        for index in range(max(len(wanted), len(found))):
            one = wanted[index] if index < len(wanted) else _MISSING
            other = found[index] if index < len(found) else _MISSING
            lines += compare(one, other, f"{at}[{index}]", words)
        return lines
    if wanted is _MISSING or found is _MISSING:
        same = wanted is found
    else:
        same = bool(wanted == found) and isinstance(wanted, bool) == isinstance(found, bool)
    return [] if same else [f"{at}: {words[0]} {_around(wanted, found)}, {words[1]} {_around(found, wanted)}"]


def _around(value: Any, other: Any) -> str:
    """A value; of a long text, the part around the first character that differs."""
    if isinstance(value, str) and isinstance(other, str) and len(value) > _LONGEST:
        pairs = enumerate(zip(value, other, strict=False))
        place = next((index for index, (one, two) in pairs if one != two), min(len(value), len(other)))
        start = max(0, place - _LONGEST // 2)
        part = value[start : start + _LONGEST]
        return f"{'…' if start else ''}{part!r}{'…' if start + _LONGEST < len(value) else ''}"
    return _value_shown(value)


def _value_shown(value: Any) -> str:
    text = repr(value)
    if isinstance(value, dict | list):
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            pass
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def visible_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers without the credentials in them."""
    return {name: "[hidden]" if name in _HIDDEN else value for name, value in headers.items()}
