"""A stream's bytes as chunks, and its chunks as the whole answer."""

from __future__ import annotations

import json

from pydantic import ValidationError

from .._protocol.error_responses import read_error
from .._protocol.models import ChatCompletion, ChatCompletionChunk, CompletionChunk, Response, ResponseEvent
from .._protocol.responses import assemble_chat, assemble_response, parse, text_chunk
from .._transport.call import Answer, Opened
from .._transport.replies import decode_or_raise, reply_of


def completion_chunk(data: bytes, answer: Answer) -> CompletionChunk:
    """A piece of streamed text, from whatever kind of endpoint; APIResponseError where it is none."""
    return decode_or_raise("a piece of the stream is no text chunk", answer, lambda: text_chunk(json.loads(data)))


def chat_chunk(data: bytes, opened: Opened) -> ChatCompletionChunk:
    """A piece of a streamed chat; APIResponseError where it is none."""
    if opened.exchange is None:  # the whole answer, from a server that does not stream
        return ChatCompletionChunk.model_validate(reply_of(ChatCompletion, opened).model_dump(exclude_unset=True))
    try:  # as `parse` begins; a stream has many pieces, and each step more is felt
        chunk = ChatCompletionChunk.model_validate_json(data)
    except ValidationError:
        chunk = decode_or_raise(
            "a piece of the stream is no chat chunk", opened, lambda: parse(ChatCompletionChunk, data)
        )
    if not chunk.choices and "delta" in (said := chunk.model_extra or {}):  # agent/v2/chat
        choice = {"delta": said["delta"], "finish_reason": said.get("finish_reason")}
        chunk = ChatCompletionChunk.model_validate({**chunk.model_dump(exclude_unset=True), "choices": [choice]})
    return chunk


def chat_whole(chunks: list[ChatCompletionChunk], answer: Answer) -> ChatCompletion:
    """The whole answer of a streamed chat."""
    whole = decode_or_raise("the stream's pieces are no chat answer", answer, lambda: assemble_chat(chunks))
    whole._meta = answer.meta
    return whole


def response_of(answer: Answer) -> Response:
    """An agent's answer; APIResponseError where it is none, or tells of a failure."""
    return raise_if_failed(reply_of(Response, answer), answer)


def raise_if_failed(reply: Response, answer: Answer) -> Response:
    if reply.error:
        raise answer.meta.unexpected(f"the agent failed: {read_error(answer.raw.body)[1] or reply.error}")
    reply._meta = answer.meta
    return reply


def response_chunk(data: bytes, opened: Opened) -> ResponseEvent:
    """An event of a streamed response; APIResponseError where it is none."""
    if opened.exchange is None:  # the whole answer, from a server that does not stream
        return ResponseEvent(type="response.completed", response=response_of(opened))
    return decode_or_raise("a piece of the stream is no response event", opened, lambda: parse(ResponseEvent, data))


def response_whole(events: list[ResponseEvent], opened: Opened) -> Response:
    """The whole answer of a streamed response."""
    return raise_if_failed(
        decode_or_raise("the events are no response", opened, lambda: assemble_response(events)), opened
    )


def join_text(chunks: list[CompletionChunk], answer: Answer) -> str:
    """The whole text of a stream."""
    return "".join(chunk.text for chunk in chunks)
