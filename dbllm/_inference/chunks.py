"""The wire formats of a stream: bytes to chunks, and chunks to the whole reply."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from .._protocol.models import ChatCompletion, ChatCompletionChunk, CompletionChunk, ParsedT, Response, ResponseEvent
from .._protocol.reply import CallInfo
from .._protocol.responses import bounded_json, parse, text_chunk
from .._protocol.streams import ChatPlaces, ItemPlaces, assemble_chat, assemble_response, renumber
from .._protocol.structured_output import parsed
from .._transport.call import OpenStream
from .._transport.replies import decode_or_raise, reply_of, unexpected

C = TypeVar("C", bound=ChatCompletionChunk | CompletionChunk | ResponseEvent)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class StreamWire(Protocol[C, R_co]):
    """The wire format of a stream: bytes to chunks, and chunks to the whole reply."""

    choices: int  # answers that were asked for
    may_be_empty: bool  # [DONE] alone is an answer

    def again(self) -> StreamWire[C, R_co]: ...
    def chunk(self, data: bytes, stream: OpenStream, /) -> C: ...
    def whole(self, chunks: list[C], stream: OpenStream, /) -> R_co: ...


class TextWire:
    """Streamed text of any kind of endpoint; the whole is the text."""

    choices = 1
    may_be_empty = True

    def __init__(self) -> None:
        self._first: int | None = None  # the number of the one choice there is, as the server counts

    def again(self) -> TextWire:
        """The format for the same stream, from its beginning."""
        return TextWire()

    def chunk(self, data: bytes, info: CallInfo) -> CompletionChunk:
        """A piece of text; APIResponseError if the event is not one."""
        chunk = decode_or_raise("a piece of the stream is no text chunk", info, lambda: text_chunk(bounded_json(data)))
        self._first = renumber(chunk, self._first)
        return chunk

    def whole(self, chunks: list[CompletionChunk], info: CallInfo) -> str:
        """The whole text."""
        return "".join(chunk.text for chunk in chunks)


class ChatWire(Generic[ParsedT]):
    """A streamed chat; the whole is a `ChatCompletion`, read as the `response_model` if one was passed."""

    may_be_empty = False

    def __init__(self, response_model: type[ParsedT] | None, choices: int = 1) -> None:
        self._response_model, self.choices = response_model, choices
        self._places = ChatPlaces(several=choices > 1)

    def again(self) -> ChatWire[ParsedT]:
        """The format for the same stream, from its beginning."""
        return ChatWire(self._response_model, self.choices)

    def chunk(self, data: bytes, stream: OpenStream) -> ChatCompletionChunk:
        """A chunk of a chat; APIResponseError if the event is not one."""
        if stream.exchange is None:  # the whole answer, from a server that does not stream
            whole = reply_of(ChatCompletion, stream).model_dump(exclude_unset=True)
            chunk = ChatCompletionChunk.model_validate(whole)
        else:
            try:  # as `parse` begins, and without model_validate_json's own steps: a stream has many chunks
                chunk = ChatCompletionChunk.__pydantic_validator__.validate_json(data)
            except ValidationError:
                what = "a piece of the stream is no chat chunk"
                chunk = decode_or_raise(what, stream, lambda: parse(ChatCompletionChunk, data))
        if not chunk.choices and "delta" in (said := chunk.model_extra or {}):  # agent/v2/chat
            choice = {"delta": said["delta"], "finish_reason": said.get("finish_reason")}
            chunk = ChatCompletionChunk.model_validate({**chunk.model_dump(exclude_unset=True), "choices": [choice]})
        self._places.settle(chunk)
        return chunk

    def whole(self, chunks: list[ChatCompletionChunk], info: CallInfo) -> ChatCompletion[ParsedT]:
        """The whole reply; APIResponseError if the chunks do not make one, or its text does not fit the model."""
        whole = decode_or_raise("the stream's pieces are no chat answer", info, lambda: assemble_chat(chunks))
        whole._call = info
        return parsed(self._response_model, whole)


class ResponsesWire:
    """An agent's streamed response; the whole is a `Response`."""

    choices = 1
    may_be_empty = False

    def __init__(self) -> None:
        self._places = ItemPlaces()

    def again(self) -> ResponsesWire:
        """The format for the same stream, from its beginning."""
        return ResponsesWire()

    def chunk(self, data: bytes, stream: OpenStream) -> ResponseEvent:
        """An event of a response; APIResponseError if it is not one."""
        if stream.exchange is None:  # the whole answer, from a server that does not stream
            return ResponseEvent(type="response.completed", response=response_of(stream))
        what = "a piece of the stream is no response event"
        event = decode_or_raise(what, stream, lambda: parse(ResponseEvent, data))
        self._places.settle(event)
        return event

    def whole(self, events: list[ResponseEvent], info: CallInfo) -> Response:
        """The whole response; APIResponseError if the agent failed."""
        whole = decode_or_raise("the events are no response", info, lambda: assemble_response(events))
        whole._call = info
        return raise_if_failed(whole)


def response_of(info: CallInfo) -> Response:
    """An agent's response; APIResponseError if it is not one, or reports a failure."""
    return raise_if_failed(reply_of(Response, info))


def raise_if_failed(response: Response) -> Response:
    """The response; an APIError if it reports a failure, or has none of a response's fields."""
    if response.error or not response.model_fields_set & {"output", "id", "status", "custom_outputs"}:
        failed = f"the agent failed: {response.error}" if response.error else "the answer is no Response"
        error = unexpected(response._call, failed)
        if response.error and not error.detail.startswith(failed[:16]):
            error.detail = f"the agent failed: {error.detail}"
        raise error
    return response
