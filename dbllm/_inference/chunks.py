"""The wire formats of a stream: its bytes as chunks, and its chunks as the whole answer."""

from __future__ import annotations

import json
from typing import Generic

from pydantic import ValidationError

from .._protocol.error_responses import read_error
from .._protocol.models import (
    CallInfo,
    ChatCompletion,
    ChatCompletionChunk,
    CompletionChunk,
    ParsedT,
    Response,
    ResponseEvent,
)
from .._protocol.responses import parse, text_chunk
from .._protocol.streams import ChatPlaces, ItemPlaces, assemble_chat, assemble_response
from .._protocol.structured_output import parsed
from .._transport.call import OpenStream
from .._transport.replies import decode_or_raise, reply_of


class TextWire:
    """Streamed text of any kind of endpoint; the whole is the text."""

    def chunk(self, data: bytes, info: CallInfo) -> CompletionChunk:
        """A piece of text; APIResponseError where it is none."""
        return decode_or_raise("a piece of the stream is no text chunk", info, lambda: text_chunk(json.loads(data)))

    def whole(self, chunks: list[CompletionChunk], info: CallInfo) -> str:
        """The whole text."""
        return "".join(chunk.text for chunk in chunks)


class ChatWire(Generic[ParsedT]):
    """A streamed chat; the whole is a `ChatCompletion`, read as the `response_model` where there is one."""

    def __init__(self, response_model: type[ParsedT] | None) -> None:
        self._response_model = response_model

    def chunk(self, data: bytes, stream: OpenStream) -> ChatCompletionChunk:
        """A piece of a chat; APIResponseError where it is none."""
        if stream.exchange is None:  # the whole answer, from a server that does not stream
            return ChatCompletionChunk.model_validate(reply_of(ChatCompletion, stream).model_dump(exclude_unset=True))
        try:  # as `parse` begins; a stream has many pieces, and each step more is felt
            chunk = ChatCompletionChunk.model_validate_json(data)
        except ValidationError:
            what = "a piece of the stream is no chat chunk"
            chunk = decode_or_raise(what, stream, lambda: parse(ChatCompletionChunk, data))
        if not chunk.choices and "delta" in (said := chunk.model_extra or {}):  # agent/v2/chat
            choice = {"delta": said["delta"], "finish_reason": said.get("finish_reason")}
            chunk = ChatCompletionChunk.model_validate({**chunk.model_dump(exclude_unset=True), "choices": [choice]})
        return chunk

    def whole(self, chunks: list[ChatCompletionChunk], info: CallInfo) -> ChatCompletion[ParsedT]:
        """The whole chat answer; APIResponseError where the chunks are none, or do not fit the model."""
        whole = decode_or_raise("the stream's pieces are no chat answer", info, lambda: assemble_chat(chunks))
        whole._call = info
        return parsed(self._response_model, whole)


class ResponsesWire:
    """An agent's streamed response; the whole is a `Response`."""

    def chunk(self, data: bytes, stream: OpenStream) -> ResponseEvent:
        """An event of a response; APIResponseError where it is none."""
        if stream.exchange is None:  # the whole answer, from a server that does not stream
            return ResponseEvent(type="response.completed", response=response_of(stream))
        what = "a piece of the stream is no response event"
        return decode_or_raise(what, stream, lambda: parse(ResponseEvent, data))

    def whole(self, events: list[ResponseEvent], info: CallInfo) -> Response:
        """The whole response; APIResponseError where the agent failed."""
        whole = decode_or_raise("the events are no response", info, lambda: assemble_response(events))
        whole._call = info
        return raise_if_failed(whole)


def response_of(info: CallInfo) -> Response:
    """An agent's response; APIResponseError where it is none, or tells of a failure."""
    return raise_if_failed(reply_of(Response, info))


def raise_if_failed(response: Response) -> Response:
    """The response, unless it tells of a failure: then APIResponseError."""
    if response.error:
        info = response._call
        raise info.unexpected(f"the agent failed: {read_error(info.raw.body)[1] or response.error}")
    return response
