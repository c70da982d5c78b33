"""What model providers speak: a Databricks request (llm/v1 tasks) in their words, their answers in Databricks' words.

Databricks' own form is OpenAI's, so for providers with that wire format only the workspace's own fields are taken out.
All pure: JSON in, JSON out; who sends it, and where to, is `gateway`'s and `providers`' business.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

from dbllm.local.errors import Problem, bad_request
from dbllm.local.json_values import Json, json_type

CHAT = "llm/v1/chat"
COMPLETIONS = "llm/v1/completions"
EMBEDDINGS = "llm/v1/embeddings"
RESPONSES = "agent/v1/responses"

PATHS: Mapping[str, str] = {
    CHAT: "/chat/completions",
    COMPLETIONS: "/completions",
    EMBEDDINGS: "/embeddings",
    RESPONSES: "/responses",
}
"""Where a task is answered, below the base URL of a provider that speaks OpenAI's wire format."""
LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")
"""The events that end a stream of a response, which need not end in `[DONE]`."""

OWN_FIELDS = ("model", "client_request_id", "usage_context", "databricks_options")
"""Fields of a request that are for the workspace. The model is the served entity's."""

NO_PARAMETERS: Json = {"type": "object", "properties": {}}
"""The parameters of a function that names none (OpenAI: it takes no arguments)."""


class Reader(Protocol):
    """Turns the events of one streamed answer into chunks.

    Attributes:
        done: whether the provider has said that the answer is whole.
    """

    done: bool

    def feed(self, data: str) -> list[Json]:
        """The chunks that one event's data makes; ValueError when it is not of this wire format."""
        ...


class Dialect(Protocol):
    """A provider's wire format."""

    def path(self, task: str) -> str:
        """Where a task is answered, below the provider's base URL; Problem 400 if the provider has no such task."""
        ...

    def request(self, task: str, model: str, wanted: Json) -> Json:
        """The body to send; Problem 400 for what the provider cannot express."""
        ...

    def answer(self, task: str, model: str, response: Json) -> Json:
        """A whole answer; KeyError, TypeError or ValueError when it is not of this wire format."""
        ...

    def reader(self, task: str, model: str) -> Reader:
        """For one streamed answer."""
        ...


class OpenAI:
    """OpenAI's wire format, which is Databricks' own but for the credential and errors."""

    def path(self, task: str) -> str:
        return PATHS[task]

    def request(self, task: str, model: str, wanted: Json) -> Json:
        return {"model": model, **wanted}

    def answer(self, task: str, model: str, response: Json) -> Json:
        promised = {EMBEDDINGS: "data", RESPONSES: "output"}.get(task, "choices")
        if not isinstance(response.get(promised), list):
            raise ValueError(f"there is no list '{promised}'")
        return response

    def reader(self, task: str, model: str) -> Reader:
        return _Passing()


class _Passing:
    """Chunks are passed on as they are."""

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: str) -> list[Json]:
        if data.strip() == "[DONE]":
            self.done = True
            return []
        event = decode_object(data)
        self.done = event.get("type") in LAST_EVENTS
        return [event]


def read_request(task: str, body: object) -> Json:
    """A decoded request of `task`, as far as it must be understood here; the provider checks the rest.

    Raises:
        Problem: 400 with the reason.
    """
    if task not in PATHS:
        raise bad_request(f"an external model cannot answer the task '{task}'")
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object, got {json_type(body)}")
    wanted = {name: value for name, value in body.items() if name not in OWN_FIELDS and value is not None}
    _CHECKS[task](wanted)
    if not isinstance(wanted.get("stream", False), bool):
        raise unparsable("stream", "boolean", wanted["stream"])
    stop = wanted.get("stop", [])
    if not isinstance(stop, str) and not (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        raise bad_request("field 'stop' must be a string or a list of strings")
    return wanted


def _check_chat(wanted: Mapping[str, object]) -> None:
    messages = wanted.get("messages")
    if messages is None:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "Missing required chat parameter: 'messages'")
    if not isinstance(messages, list) or not messages:
        raise unparsable("messages", "array", messages)
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request("each of 'messages' must be an object with 'role' and 'content'")
        content = message.get("content")
        if isinstance(content, list) and not all(isinstance(part, dict) for part in content):
            raise bad_request("each part of a message's 'content' must be an object with 'type'")
        if content is not None and not isinstance(content, str | list):
            raise unparsable("messages.content", "string", content)
    for name in ("tools", "tool_calls"):
        if not isinstance(wanted.get(name, []), list):
            raise unparsable(name, "array", wanted[name])


def _check_completions(wanted: Mapping[str, object]) -> None:
    prompt = wanted.get("prompt")
    if prompt is None:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "Missing required completions parameter: 'prompt'")
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and prompt):
        raise unparsable("prompt", "string", prompt)


def _check_embeddings(wanted: Mapping[str, object]) -> None:
    texts = wanted.get("input")
    if texts is None:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "Missing required embeddings parameter: 'input'")
    if not isinstance(texts, str) and not (isinstance(texts, list) and texts):
        raise unparsable("input", "string", texts)


def _check_responses(wanted: Mapping[str, object]) -> None:
    asked = wanted.get("input")
    if asked is None:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "Missing required responses parameter: 'input'")
    if not isinstance(asked, str) and not (isinstance(asked, list) and asked):
        raise unparsable("input", "array", asked)


_CHECKS = {
    CHAT: _check_chat,
    COMPLETIONS: _check_completions,
    EMBEDDINGS: _check_embeddings,
    RESPONSES: _check_responses,
}


def unparsable(field: str, expected: str, got: object) -> Problem:
    """400 for a field of the wrong type, in Databricks' words."""
    return Problem(
        400,
        "BAD_REQUEST",
        f"Unable to parse json body for request, field '{field}' expects input with json type '{expected}' "
        f"but got '{json_type(got)}'",
    )


def decode_object(data: str) -> Json:
    """An event's JSON object; ValueError when it is something else."""
    event = json.loads(data)
    if not isinstance(event, dict):
        raise ValueError(f"an event is {json_type(event)}, not an object")
    return event


# --- what translated requests and answers are made of


def one_prompt(wanted: Json) -> str:
    """The prompt of a completions request, as a chat's only message."""
    prompt = wanted["prompt"]
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise bad_request("this provider takes one prompt, a string")
    return prompts[0]


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whether it is a string or parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def tool_call(identity: str, name: str, arguments: str) -> Json:
    """A tool call in OpenAI's form."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def whole_answer(task: str, identity: str, model: str, text: str, calls: list[Json], reason: str, usage: Json) -> Json:
    """A whole answer of one choice."""
    message: Json = {"role": "assistant", "content": text or (None if calls else "")}
    choice: Json = {"message": message | ({"tool_calls": calls} if calls else {})} if task == CHAT else {"text": text}
    return {
        "id": identity,
        "object": "chat.completion" if task == CHAT else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, **choice, "finish_reason": reason, "logprobs": None}],
        "usage": usage,
    }


class Chunks:
    """Makes the chunks of one streamed answer of one choice."""

    def __init__(self, task: str) -> None:
        self._chat = task == CHAT
        self._head: Json = {}
        self._first = True

    def begin(self, identity: str, model: str) -> None:
        """What all chunks repeat."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        self._head = {"id": identity, "object": kind, "created": int(time.time()), "model": model}

    def text(self, text: str) -> Json:
        """A chunk of text."""
        return self._chunk({"content": text}, text)

    def some_text(self, text: str | None) -> list[Json]:
        """A chunk of text, or none when there is none."""
        return [self.text(text)] if text else []

    def call(self, number: int, part: Json) -> Json:
        """A chunk of the tool call with that number."""
        return self._chunk({"tool_calls": [{"index": number, **part}]}, "")

    def end(self, reason: str, usage: Json) -> Json:
        """The last chunk."""
        return {**self._chunk({}, "", reason), "usage": usage}

    def _chunk(self, delta: Json, text: str, reason: str | None = None) -> Json:
        if self._first:
            delta, self._first = {"role": "assistant", **delta}, False
        choice: Json = {"delta": delta} if self._chat else {"text": text}
        return {**self._head, "choices": [{"index": 0, **choice, "finish_reason": reason}]}


def as_list(value: object) -> list[Any]:
    """`value`, if it is a list; Problem 400 otherwise."""
    if not isinstance(value, list):
        raise bad_request("'tools' and 'tool_calls' must be lists")
    return value
