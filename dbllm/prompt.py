"""What the verbs share: options, the prompt/stop signature with its transforms, and the reading of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from . import target
from .answers import answer_text, assemble_chat, assemble_response, first_flaw, parse, text_chunk
from .judge import read_error
from .retry import Retry, Timeout
from .schema import ChatCompletion, ChatCompletionChunk, CompletionChunk, Predictions, Reply, Response, ResponseEvent
from .sockets import FOREVER
from .target import Kind
from .transport import JSON, Answer, Call, Opened, Transport

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Reply)
Limit = float | Timeout | None
Fields = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Options:
    """What a call is made with where the call itself does not say."""

    timeout: Timeout = field(default_factory=Timeout)
    retry: Retry = field(default_factory=Retry)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def but(
        self, timeout: Limit = None, retry: Retry | None = None, headers: Fields = None, extra_body: Fields = None
    ) -> Options:
        """These options, but for what is given."""
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry takes a Retry, not {retry!r}; for one attempt: Retry(attempts=1).")
        if timeout is None and retry is None and not headers and not extra_body:
            return self
        merged = {**self.headers, **{name.lower(): value for name, value in (headers or {}).items()}}
        timeout = self.timeout if timeout is None else Timeout.of(timeout)
        return Options(timeout, retry or self.retry, merged, {**self.extra_body, **(extra_body or {})})

    def deadline(self, transport: Transport) -> float:
        """When what begins now is over, on the leaf's clock."""
        return FOREVER if self.timeout.total is None else transport.leaf.now() + self.timeout.total

    def call(self, deadline: float, method: str, path: str, body: object = None, accept: str = JSON) -> Call:
        """One call with these options; several may share one deadline."""
        encoded = None if body is None else target.encode(body)
        return Call(method, path, self.timeout, self.retry, deadline, encoded, accept, self.headers)


@dataclass(frozen=True, slots=True)
class Signature:
    """The prompt/stop signature of a handle: default parameters and the user's transforms."""

    params: Mapping[str, Any] = field(default_factory=dict)
    transform_input: Callable[..., Any] | None = None
    transform_output: Callable[[Any], str] | None = None

    def request(self, prompt: object, stop: object, params: Mapping[str, Any], streaming: bool = False) -> Any:
        """The flat request, transformed.

        Raises:
            TypeError: `transform_input` returned no dict; or there is a `transform_output`, which needs the whole
                answer, and the answer is streamed.
        """
        if streaming and self.transform_output is not None:
            raise TypeError("transform_output needs the whole answer, so it cannot be combined with a stream.")
        flat = target.flat_request(prompt, stop, target.wire_params(self.params, params))
        changed = flat if self.transform_input is None else self.transform_input(**flat)
        if not isinstance(changed, Mapping):
            raise TypeError(f"transform_input returns the request, a dict, not {type(changed).__name__}.")
        return changed

    def text(self, kind: Kind, answer: Answer) -> str:
        """The text of an answer, transformed.

        Raises:
            APIResponseError: the answer is not JSON, or has no one place for a text.
            TypeError: `transform_output` returned something else than a str.
        """
        content = reply_of(Predictions, answer).first if kind == "custom" else read_json(answer)
        text = (self.transform_output or answer_text)(content)
        if isinstance(text, str):
            return text
        if self.transform_output is None:
            raise answer.meta.unexpected("the answer holds no text", "Say where the text is with transform_output=.")
        raise TypeError(f"transform_output returns the text, a str, not {type(text).__name__}.")


def _promised(what: str, answer: Answer, read: Callable[[], T]) -> T:
    """What `read` makes of an answer; APIResponseError where the answer is no such thing."""
    try:
        return read()
    except ValidationError as error:
        raise answer.meta.unexpected(f"{what} ({first_flaw(error)})") from error
    except (ValueError, RecursionError):
        raise answer.meta.unexpected(f"{what} (it is not JSON)") from None


def read_json(answer: Answer) -> Any:
    """The answer's JSON; APIResponseError where it is none."""
    return _promised("the answer cannot be read", answer, lambda: json.loads(answer.raw.body))


def reply_of(model: type[ReplyT], answer: Answer) -> ReplyT:
    """The answer as a model; APIResponseError where it is none."""
    reply = _promised(f"the answer is no {model.__name__}", answer, lambda: parse(model, answer.raw.body))
    reply._meta = answer.meta
    return reply


def text_piece(data: bytes, answer: Answer) -> CompletionChunk:
    """A piece of streamed text, from whatever kind of endpoint; APIResponseError where it is none."""
    return _promised("a piece of the stream is no text chunk", answer, lambda: text_chunk(json.loads(data)))


def chat_piece(data: bytes, opened: Opened) -> ChatCompletionChunk:
    """A piece of a streamed chat; APIResponseError where it is none."""
    if opened.exchange is None:  # the whole answer, from a server that does not stream
        return ChatCompletionChunk.model_validate(reply_of(ChatCompletion, opened).model_dump(exclude_unset=True))
    try:  # as `parse` begins; a stream has many pieces, and each step more is felt
        chunk = ChatCompletionChunk.model_validate_json(data)
    except ValidationError:
        chunk = _promised("a piece of the stream is no chat chunk", opened, lambda: parse(ChatCompletionChunk, data))
    if not chunk.choices and "delta" in (said := chunk.model_extra or {}):  # agent/v2/chat
        choice = {"delta": said["delta"], "finish_reason": said.get("finish_reason")}
        chunk = ChatCompletionChunk.model_validate({**chunk.model_dump(exclude_unset=True), "choices": [choice]})
    return chunk


def chat_whole(chunks: list[ChatCompletionChunk], answer: Answer) -> ChatCompletion:
    """The whole answer of a streamed chat."""
    whole = _promised("the stream's pieces are no chat answer", answer, lambda: assemble_chat(chunks))
    whole._meta = answer.meta
    return whole


def response_of(answer: Answer) -> Response:
    """An agent's answer; APIResponseError where it is none, or tells of a failure."""
    return _sound(reply_of(Response, answer), answer)


def _sound(reply: Response, answer: Answer) -> Response:
    if reply.error:
        raise answer.meta.unexpected(f"the agent failed: {read_error(answer.raw.body)[1] or reply.error}")
    reply._meta = answer.meta
    return reply


def response_piece(data: bytes, opened: Opened) -> ResponseEvent:
    """An event of a streamed response; APIResponseError where it is none."""
    if opened.exchange is None:  # the whole answer, from a server that does not stream
        return ResponseEvent(type="response.completed", response=response_of(opened))
    return _promised("a piece of the stream is no response event", opened, lambda: parse(ResponseEvent, data))


def response_whole(events: list[ResponseEvent], opened: Opened) -> Response:
    """The whole answer of a streamed response."""
    return _sound(_promised("the events are no response", opened, lambda: assemble_response(events)), opened)


def joined(chunks: list[CompletionChunk], answer: Answer) -> str:
    """The whole text of a stream."""
    return "".join(chunk.text for chunk in chunks)
