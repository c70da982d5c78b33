"""How a test writes what models answer, and looks at what they were sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dbllm.testing.fault_plans import Mix
from dbllm.testing.journal import ModelCall, ModelCalls
from dbllm.testing.script import Script
from dbllm.testing.scripted_answers import (
    AnswerFault,
    ScriptedAnswer,
    ScriptedToolCall,
    answer_text_of,
    is_number,
    script_json,
    tool_calls_of,
    vectors_of,
)
from dbllm.testing.virtual_clock import VirtualClock

When = str | Callable[[ModelCall], bool] | None
_TASKS = {
    "chat": "llm/v1/chat",
    "completions": "llm/v1/completions",
    "embeddings": "llm/v1/embeddings",
    "responses": "agent/v1/responses",
    "agent": "agent/v2/chat",
    "custom": "",
    "agent/v1/chat": "agent/v1/chat",
    "agent/v2/responses": "agent/v2/responses",
}


class ScriptedModels:
    """Models that answer what the test has written, in that order.

    Every method that writes an answer takes `endpoint` (only for calls of this endpoint, model service, app, or driver
    app as "cluster:port"), `when` (only for calls whose last message has this text in it, or for which the function
    returns true) and `times` (how often; None: always, to every call that has no other answer). A call gets the first
    answer that is written for it, in the form that it asks for (text, vectors, predictions), and is not used up; a call
    without one gets the status 418 with a sentence, and makes the test fail.
    """

    def __init__(self) -> None:
        self._script = Script()

    def reply(
        self,
        text: object = "",
        *,
        tool_calls: Mapping[str, object] | Sequence[tuple[str, object]] | Sequence[ScriptedToolCall] = (),
        tokens_per_second: float | None = None,
        first_token: float = 0.0,
        finish_reason: str | None = None,
        refusal: str | None = None,
        usage: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        fault: AnswerFault | None = None,
        endpoint: str | None = None,
        when: When = None,
        times: int | None = 1,
    ) -> None:
        """Answer with a text: whole or streamed, in the wire format that the call asks for.

        Args:
            text: the text. A pydantic model or another value becomes JSON, as for structured output.
            tool_calls: tools that the model calls, {name: arguments}, or pairs where one is called twice.
            tokens_per_second: pace of a stream, and of the time that a whole answer takes; None: at once. A token is a
                word.
            first_token: seconds before the first token.
            finish_reason: default "stop", or "tool_calls".
            refusal: text of the model's refusal, in the place of the text.
            usage: default: words, as if each were a token.
            headers: further headers of the answer.
            fault: breaks this answer; a name of `STREAM_FAULTS` or `FAULT_KINDS`.
            endpoint, when, times: see the class.

        Raises:
            ValueError: a fault of another name, a number that cannot be, or an argument of the wrong kind.
        """
        answer = ScriptedAnswer(
            text=answer_text_of(text),
            tool_calls=tool_calls_of(tool_calls),
            tokens_per_second=tokens_per_second,
            first_token=first_token,
            finish_reason=finish_reason,
            refusal=refusal,
            usage=usage,
            headers={} if headers is None else headers,
            fault=fault,
            endpoint=endpoint,
            when=when,
        )
        self._script.add(answer, times)

    def tool_call(
        self,
        name: str,
        arguments: object = None,
        *,
        endpoint: str | None = None,
        when: When = None,
        times: int | None = 1,
    ) -> None:
        """Answer with one call of a tool; the arguments are an object, or a text as it is."""
        self.reply(
            tool_calls=[(name, {} if arguments is None else arguments)], endpoint=endpoint, when=when, times=times
        )

    def embed(
        self,
        vectors: Sequence[float] | Sequence[Sequence[float]],
        *,
        endpoint: str | None = None,
        when: When = None,
        times: int | None = 1,
    ) -> None:
        """Answer with a vector for each text of the call; a single one is the vector of every text.

        Raises:
            ValueError: it is no vector, and no list of them.
        """
        self._script.add(ScriptedAnswer(vectors=vectors_of(vectors), endpoint=endpoint, when=when), times)

    def predict(
        self, predictions: object, *, endpoint: str | None = None, when: When = None, times: int | None = 1
    ) -> None:
        """Answer as a custom model, with these predictions. (`reply` gives its text for each row.)

        Raises:
            ValueError: JSON cannot hold them.
        """
        known = json.loads(script_json(predictions, "predictions"))
        self._script.add(ScriptedAnswer(predictions=known, endpoint=endpoint, when=when), times)

    def error(
        self,
        status: int,
        message: str = "",
        *,
        error_code: str = "",
        retry_after: float | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        when: When = None,
        times: int | None = 1,
    ) -> None:
        """Answer with an error.

        Args:
            status: 400 to 599.
            message, error_code: in Databricks' envelope; an app's is {"detail": message}.
            retry_after: seconds, as the headers Retry-After and Retry-After-Ms.
            body: the whole JSON, in the place of the envelope.
            headers, endpoint, when, times: as for `reply`.

        Raises:
            ValueError: the status is no error's, or another argument is of the wrong kind.
        """
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"the status of an error is from 400 to 599, got {status!r}; json() takes any")
        hints = {}
        if retry_after is not None:
            if not (is_number(retry_after) and retry_after >= 0):
                raise ValueError(f"retry_after is in seconds, from 0 up, got {retry_after!r}")
            hints = {"retry-after": f"{retry_after:g}", "retry-after-ms": f"{1000 * retry_after:g}"}
        answer = ScriptedAnswer(
            status=status,
            message=message or f"a scripted error {status}",
            error_code=error_code,
            json=None if body is None else script_json(body, "body").encode(),
            headers=hints if headers is None else {**hints, **headers},
            endpoint=endpoint,
            when=when,
        )
        self._script.add(answer, times)

    def json(
        self,
        value: object,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        when: When = None,
        times: int | None = 1,
    ) -> None:
        """Answer with any JSON, or with bytes as they are. The `endpoint` may also be a path, as "/api/2.0/jobs/list":
        that is how requests that call no model are answered."""
        content = value if isinstance(value, bytes) else script_json(value, "json(value)").encode()
        known = {} if headers is None else headers
        answer = ScriptedAnswer(json=content, status=status, headers=known, endpoint=endpoint, when=when)
        self._script.add(answer, times)

    def faults(self, mix: Mix, *, seed: int = 0) -> None:
        """Let faults hit a share of the calls, as `fault_server` does: {fault: share}, by a seed.

        Raises:
            ValueError: the mix cannot be.
        """
        self._script.set_faults(mix, seed)

    def task(self, endpoint: str, task: str) -> None:
        """What an endpoint speaks, in the words of `client.endpoint(task=...)`: "chat", "completions", "embeddings",
        "responses", "agent", "custom"; or as a workspace says it ("llm/v1/chat" …, "" for custom).

        Without this it is guessed: chat, unless its next answer, or all answers that any endpoint may give, are vectors
        or predictions.

        Raises:
            ValueError: there is no such task.
        """
        if task not in _TASKS and task not in _TASKS.values():
            raise ValueError(f"there is no task {task!r}; there are {', '.join(_TASKS)}")
        self._script.tasks[endpoint] = _TASKS.get(task, task)

    @property
    def clock(self) -> VirtualClock | None:
        """With a `VirtualClock`, the seconds of `first_token` and `tokens_per_second` pass on it and not in reality."""
        return self._script.clock

    @clock.setter
    def clock(self, clock: VirtualClock | None) -> None:
        if not isinstance(clock, VirtualClock | None):
            raise ValueError(f"clock is a VirtualClock(), or None for real time, got {clock!r}")
        self._script.clock = clock

    @property
    def calls(self) -> ModelCalls:
        """The calls of models, in order of arrival; a call that was sent again is there again."""
        return self._script.calls

    @property
    def requests(self) -> ModelCalls:
        """All requests: the calls, and those that call no model, as looking up an endpoint's task."""
        return self._script.requests

    def assert_called(self, *, times: int | None = None, **wanted: Any) -> None:
        """Some call had all of this, or exactly as many as `times`.

        Args:
            times: how many calls; None: at least one.
            wanted: `endpoint`, `prompt`, `messages`, `tools`, `stream`, `kind`, `status`, or any field of the body, as
                `temperature=0.1`. A compiled regular expression is searched for.

        Raises:
            AssertionError: with what the nearest call has instead.
        """
        __tracebackhide__ = True
        self.calls.check(times, wanted)

    def assert_called_once(self, **wanted: Any) -> None:
        """Exactly one call had all of this; see `assert_called`."""
        __tracebackhide__ = True
        self.calls.check(1, wanted)

    def assert_not_called(self, **wanted: Any) -> None:
        """No call had all of this; without arguments, there was no call."""
        __tracebackhide__ = True
        self.calls.check(0, wanted)

    def assert_all_used(self) -> None:
        """Every answer was given, as often as it was written.

        Raises:
            AssertionError: with those that are left.
        """
        __tracebackhide__ = True
        if left := self._script.left:
            raise AssertionError("\n".join(["answers that no call has used:", *(f"  {one}" for one in left)]))

    def problem(self) -> str:
        """What makes the test fail: calls that no answer was written for. "" if there are none."""
        return "\n".join(self._script.told_problems())

    def journal(self) -> str:
        """The calls so far, as text for the report of a test that fails; "" if there were none."""
        return str(self.calls) if self.calls else ""
