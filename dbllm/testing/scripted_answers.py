"""What a scripted endpoint answers: a text, calls of tools, vectors, predictions, any JSON, or an error. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from dbllm.testing.fault_plans import FAULT_KINDS, FaultName

if TYPE_CHECKING:
    from dbllm.testing.journal import ModelCall

StreamFaultName = Literal[
    "stream_cut",
    "stream_reset",
    "stream_stall",
    "stream_ends_early",
    "bad_json",
    "error_frame",
    "slow_first_token",
    "refusal",
    "cut_tool_arguments",
]
STREAM_FAULTS: Mapping[StreamFaultName, str] = {
    "stream_cut": "the connection ends after half of the events; a whole answer, in the middle of its body",
    "stream_reset": "the same with RST",
    "stream_stall": "after half of the events nothing more comes, for `stall` seconds",
    "stream_ends_early": "half of the events, then a proper end of the body: no finish reason, no [DONE]",
    "bad_json": "an event that is not JSON; a whole answer is half of its JSON, properly framed",
    "error_frame": "an error event in the middle of the stream; a whole answer is the error with status 200",
    "slow_first_token": "`pause` seconds pass before the first event, or before the whole answer",
    "refusal": "the model refuses: no text, a `refusal`",
    "cut_tool_arguments": "the arguments of the last tool call end in the middle, with finish reason `length`",
}
"""Faults of one answer, beside those of `FAULT_KINDS`; each says what happens to a stream and to a whole answer."""

AnswerFault = FaultName | StreamFaultName
NO_PREDICTIONS = object()
"""In the place of predictions: there may be `null`."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*")
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_ALREADY_EXISTS",
    413: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True, slots=True)
class ScriptedToolCall:
    """A call of a tool that the model makes.

    Attributes:
        name: of the tool.
        arguments: JSON text.
    """

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedAnswer:
    """One answer; the methods of `Scripted` make it, and say what the fields mean."""

    text: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    vectors: tuple[tuple[float, ...], ...] | None = None
    predictions: object = NO_PREDICTIONS
    json: bytes | None = None
    status: int = 200
    message: str = ""
    error_code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    tokens_per_second: float | None = None
    first_token: float = 0.0
    fault: AnswerFault | None = None
    endpoint: str | None = None
    when: str | Callable[[ModelCall], bool] | None = None
    serial: int = 0  # of the call that it answers

    def __post_init__(self) -> None:
        if isinstance(self.status, bool) or not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ValueError(f"status is an HTTP status from 200 to 599, got {self.status!r}")
        rate, when = self.tokens_per_second, self.when
        if rate is not None and not (is_number(rate) and rate > 0):
            raise ValueError(f"tokens_per_second is more than 0, or None for at once, got {rate!r}")
        if not (is_number(self.first_token) and 0 <= self.first_token <= 3600):
            raise ValueError(f"first_token is in seconds, from 0 to 3600, got {self.first_token!r}")
        for name in ("endpoint", "finish_reason", "refusal"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ValueError(f"{name} is a text, got {value!r}")
        if when is not None and not isinstance(when, str) and not callable(when):
            raise ValueError(f"when is a text of the last message, or a function of one ModelCall, got {when!r}")
        if self.usage is not None and not isinstance(self.usage, Mapping):
            raise ValueError(f"usage is {{name: number}}, got {self.usage!r}")
        pairs = self.headers.items() if isinstance(self.headers, Mapping) else [("", None)]
        for name, text in pairs:
            if not isinstance(name, str) or not isinstance(text, str) or not _HEADER.fullmatch(f"{name}: {text}"):
                raise ValueError(f"headers are {{name: text}}, each in one line, got {self.headers!r}")
        if self.fault is not None and self.fault not in FAULT_KINDS and self.fault not in STREAM_FAULTS:
            known = ", ".join([*get_args(StreamFaultName), *FAULT_KINDS])
            raise ValueError(f"there is no fault {self.fault!r}; there are {known}")

    @property
    def form(self) -> str:
        """What it is, in a word or two."""
        if self.status >= 400:
            return "an error"
        if self.vectors is not None:
            return "vectors"
        if self.json is not None:
            return "JSON"
        return "predictions" if self.predictions is not NO_PREDICTIONS else "a text"

    def __str__(self) -> str:
        form = f"{self.form} {self.status}" if self.status >= 400 else self.form
        said = [repr(_shortened(self.text))] if self.text else [form]
        said += [f"calls {call.name}({_shortened(call.arguments)})" for call in self.tool_calls]
        said += [f"endpoint={self.endpoint!r}"] if self.endpoint is not None else []
        said += [f"when={self.when!r}"] if self.when is not None else []
        return ", ".join(said)


def is_number(value: object) -> bool:
    """Whether it is a number: not a bool, not NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def script_json(value: object, what: str, *, ascii_only: bool = True) -> str:
    """What JSON can hold, as its text.

    Raises:
        ValueError: it cannot be JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=ascii_only)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be what JSON can hold, got {_shortened(repr(value))}: {error}") from None


def answer_text_of(value: object, what: str = "the text") -> str:
    """A text as it is; a pydantic model or any other value as JSON.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise ValueError(f'{what} is None: "" is an empty one')
    dump = getattr(value, "model_dump_json", None)
    return str(dump()) if dump is not None else script_json(value, what, ascii_only=False)


def tool_calls_of(
    calls: Mapping[str, object] | Sequence[tuple[str, object]] | Sequence[ScriptedToolCall],
) -> tuple[ScriptedToolCall, ...]:
    """{name: arguments}, or pairs where a tool is called twice.

    Raises:
        ValueError: they are something else.
    """
    pairs = calls.items() if isinstance(calls, Mapping) else calls
    made = []
    for pair in (pairs,) if isinstance(pairs, str) else pairs:
        if isinstance(pair, ScriptedToolCall):
            made.append(pair)
        elif isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str):
            made.append(ScriptedToolCall(pair[0], answer_text_of(pair[1], f"what {pair[0]} is called with")))
        else:
            raise ValueError(f"tool_calls are {{name: arguments}}, or pairs (name, arguments), got {pair!r}")
    return tuple(made)


def vectors_of(vectors: object) -> tuple[tuple[float, ...], ...]:
    """One vector, or one for each text.

    Raises:
        ValueError: they are something else.
    """
    found: Any = getattr(vectors, "tolist", lambda: vectors)()  # of an array
    rows = found if isinstance(found, list | tuple) and found and isinstance(found[0], list | tuple) else [found]
    for row in rows:
        if not isinstance(row, list | tuple) or not row or not all(map(is_number, row)):
            raise ValueError(f"embed takes a vector (a list of numbers), or a list of vectors, got {vectors!r:.80}")
    return tuple(tuple(float(number) for number in row) for row in rows)


def error_code_of(status: int, code: str = "") -> str | int:
    """Databricks' word for a status: the status itself where the gate refuses a credential, or it has no word."""
    return code or (401 if status == 401 else _CODES.get(status, str(status)))


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}…"
