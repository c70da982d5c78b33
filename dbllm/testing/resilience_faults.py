"""The catalogue of `assert_resilient`: what happens to a function's calls in each of its faults. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dbllm.testing.journal import ModelCall
from dbllm.testing.scripted_answers import STREAM_FAULTS, AnswerFault, ScriptedAnswer, ScriptedToolCall

Hit = Callable[[ModelCall, ScriptedAnswer, int], "ScriptedAnswer | None"]
"""What a call gets in the place of its answer, after so many hits; None: its answer."""

TOO_EARLY = 0.9
"""A call that is sent again before this share of the server's hint has passed is sent too early."""

_HINT = 1.0


@dataclass(frozen=True, slots=True)
class ResilienceFault:
    """One fault of the catalogue.

    Attributes:
        name: as in the table.
        meaning: what happens, in one line.
        hit: what calls get in the place of their answers.
        hint: seconds that the server asks to wait; 0: it asks for none.
    """

    name: str
    meaning: str
    hit: Hit
    hint: float = 0.0


def _status_error(status: int, times: int, headers: Mapping[str, str] | None = None, message: str = "") -> Hit:
    answer = ScriptedAnswer(status=status, message=message or f"an injected error {status}", headers=headers or {})

    def hit(_call: ModelCall, _answer: ScriptedAnswer, hits: int) -> ScriptedAnswer | None:
        return answer if hits < times else None

    return hit


def _broken(fault: AnswerFault) -> Hit:
    """The first answer is broken."""

    def hit(_call: ModelCall, answer: ScriptedAnswer, hits: int) -> ScriptedAnswer | None:
        return replace(answer, fault=fault) if hits == 0 and answer.status < 400 else None

    return hit


def _cut_tool_arguments(call: ModelCall, answer: ScriptedAnswer, hits: int) -> ScriptedAnswer | None:
    """The first answer that calls a tool; where none does, the first to a call that offers tools calls one."""
    if hits or not (answer.tool_calls or call.tools):
        return None
    calls = answer.tool_calls or (ScriptedToolCall(call.tools[0], '{"query": "something"}'),)
    text = answer.text if answer.tool_calls else ""
    return replace(answer, text=text, tool_calls=calls, fault="cut_tool_arguments")


def _page(_call: ModelCall, _answer: ScriptedAnswer, hits: int) -> ScriptedAnswer | None:
    page = b"<html><body>Sign in</body></html>"
    return ScriptedAnswer(json=page, headers={"content-type": "text/html"}) if hits == 0 else None


def _fault(name: str, meaning: str, hit: Hit, hint: float = 0.0) -> tuple[str, ResilienceFault]:
    return name, ResilienceFault(name, meaning, hit, hint)


_ALWAYS = 10**9
CATALOGUE: Mapping[str, ResilienceFault] = dict(
    (
        _fault("429", "two answers 429 without a hint, then the answer", _status_error(429, 2)),
        _fault(
            "429 with hint",
            "429 with Retry-After: 1, then the answer",
            _status_error(429, 1, {"retry-after": "1"}),
            _HINT,
        ),
        _fault("500", "one answer 500, then the answer", _status_error(500, 1)),
        _fault("502", "one answer 502, then the answer", _status_error(502, 1)),
        _fault("503", "two answers 503, then the answer", _status_error(503, 2)),
        _fault("504", "one answer 504: the model may have run", _status_error(504, 1)),
        _fault("outage", "503 to every call", _status_error(503, _ALWAYS)),
        _fault(
            "400",
            "400 to every call: the prompt is too long",
            _status_error(400, _ALWAYS, message="prompt is too long"),
        ),
        _fault("403", "403 to every call", _status_error(403, _ALWAYS, message="Invalid access token.")),
        _fault("closed", "the connection ends without an answer", _broken("close_before_head")),
        _fault("reset", "the connection is reset without an answer", _broken("reset_before_head")),
        _fault("page", "200 with an HTML page, as of a proxy that wants a login", _page),
        *(
            _fault(name.replace("_", " "), meaning, _broken(name))
            for name, meaning in STREAM_FAULTS.items()
            if name != "cut_tool_arguments"
        ),
        _fault("cut tool arguments", STREAM_FAULTS["cut_tool_arguments"], _cut_tool_arguments),
    )
)
"""Fault → what it does; the names that `assert_resilient` takes."""

RESILIENCE_FAULTS: Mapping[str, str] = {name: fault.meaning for name, fault in CATALOGUE.items()}
"""Fault → what happens, in one line."""
