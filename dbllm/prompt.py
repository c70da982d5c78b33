"""What the verbs share: options, the prompt/stop signature with its transforms, and the reading of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from . import target
from .retry import Retry, Timeout
from .schema import (
    ChatCompletion,
    ChatCompletionChunk,
    CompletionChunk,
    Meta,
    Predictions,
    answer_text,
    assemble_chat,
    first_flaw,
    parse,
    text_chunk,
)
from .target import Kind
from .transport import JSON, Answer, Call, Opened, Transport


@dataclass(frozen=True, slots=True)
class Options:
    """What a call is made with where the call itself does not say."""

    timeout: Timeout = field(default_factory=Timeout)
    retry: Retry = field(default_factory=Retry)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def but(
        self,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Options:
        """These options, but for what is given."""
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry takes a Retry, not {retry!r}; for one attempt: Retry(attempts=1).")
        merged = self.headers
        if headers:
            merged = {**merged, **{name.lower(): value for name, value in headers.items()}}
        return Options(self.timeout if timeout is None else Timeout.of(timeout), retry or self.retry, merged)

    def call(self, transport: Transport, method: str, path: str, body: object = None, accept: str = JSON) -> Call:
        """A call, whose time begins now."""
        total = self.timeout.total
        deadline = transport.leaf.now() + (float("inf") if total is None else total)
        encoded = None if body is None else target.encode(body)
        return Call(method, path, self.timeout, self.retry, deadline, encoded, accept, self.headers)


@dataclass(frozen=True, slots=True)
class Signature:
    """The prompt/stop signature of a handle: default parameters and the user's transforms."""

    params: Mapping[str, Any] = field(default_factory=dict)
    transform_input: Callable[..., Any] | None = None
    transform_output: Callable[[Any], str] | None = None

    def request(self, prompt: object, stop: object, params: Mapping[str, Any]) -> dict[str, Any]:
        """The flat request, transformed."""
        flat = target.flat_request(prompt, stop, target.wire_params(self.params, params))
        if self.transform_input is None:
            return flat
        changed = self.transform_input(**flat)
        if not isinstance(changed, Mapping):
            raise TypeError(f"transform_input returns the request, a dict, not {type(changed).__name__}.")
        return dict(changed)

    def text(self, kind: Kind, answer: Answer) -> str:
        """The text of an answer, transformed.

        Raises:
            APIResponseError: the answer is not JSON, or has no one place for a text.
            TypeError: `transform_output` returned something else than a str.
        """
        content = read_json(answer)
        if kind == "custom":
            content = read_predictions(content, answer).first
        if self.transform_output is None:
            text = answer_text(content)
            if text is None:
                raise answer.meta.unexpected(
                    "the answer holds no text", "Say where the text is with transform_output=."
                )
            return text
        text = self.transform_output(content)
        if not isinstance(text, str):
            raise TypeError(f"transform_output returns the text, a str, not {type(text).__name__}.")
        return text

    def refuse_streaming(self) -> None:
        """A transform of the whole answer cannot be applied to its pieces: TypeError where there is one."""
        if self.transform_output is not None:
            raise TypeError("transform_output needs the whole answer, so it cannot be combined with a stream.")


def read_json(answer: Answer) -> Any:
    """The answer's JSON; APIResponseError where it is none."""
    try:
        return json.loads(answer.raw.body)
    except (ValueError, RecursionError):
        raise answer.meta.unexpected("the answer is not JSON") from None


def read_predictions(content: Any, answer: Answer) -> Predictions:
    """`{"predictions": …}`, or the bare output of a model that leaves the wrapper out."""
    wrapped = isinstance(content, dict) and "predictions" in content
    reply = Predictions.model_validate(content if wrapped else {"predictions": content})
    reply._meta = answer.meta
    return reply


def text_piece(data: bytes, opened: Opened) -> CompletionChunk:
    """A piece of streamed text, from whatever kind of endpoint; APIResponseError where it is none."""
    try:
        return text_chunk(json.loads(data))
    except ValidationError as error:
        raise opened.meta.unexpected(f"a piece of the stream is no text chunk ({first_flaw(error)})") from error
    except (ValueError, RecursionError):
        raise opened.meta.unexpected("a piece of the stream is not JSON") from None


def chat_piece(data: bytes, opened: Opened) -> ChatCompletionChunk:
    """A piece of a streamed chat; APIResponseError where it is none."""
    try:
        if opened.exchange is not None:
            return parse(ChatCompletionChunk, data)
        whole = parse(ChatCompletion, data).model_dump(exclude_unset=True)
        for choice in whole["choices"]:
            choice["delta"] = choice.pop("message")
        return ChatCompletionChunk.model_validate(whole)
    except ValidationError as error:
        raise opened.meta.unexpected(f"a piece of the stream is no chat chunk ({first_flaw(error)})") from error


def chat_whole(chunks: list[ChatCompletionChunk], meta: Meta) -> ChatCompletion:
    """The whole answer of a streamed chat."""
    try:
        whole = assemble_chat(chunks)
    except ValidationError as error:
        raise meta.unexpected(f"the stream's pieces are no chat answer ({first_flaw(error)})") from error
    whole._meta = meta
    return whole


def joined(chunks: list[CompletionChunk], meta: object) -> str:
    """The whole text of a stream."""
    return "".join(chunk.text for chunk in chunks)
