"""The types of streams in both modes; run by mypy and pyright, never executed."""

from __future__ import annotations

from typing_extensions import assert_type

from dbllm import (
    AsyncClient,
    AsyncStream,
    ChatCompletion,
    ChatCompletionChunk,
    Client,
    CompletionChunk,
    Raw,
    Stream,
    Usage,
)


async def asynchronous(client: AsyncClient) -> None:
    async with client.endpoint("e").stream_chat("hi", temperature=0.1) as stream:
        assert_type(stream, AsyncStream[ChatCompletionChunk, ChatCompletion])
        async for chunk in stream:
            assert_type(chunk, ChatCompletionChunk)
            assert_type(chunk.text, str)
            assert_type(chunk.finish_reason, str | None)
            assert_type(chunk.usage, Usage | None)
        assert_type(await stream.final(), ChatCompletion)
        assert_type(stream.text, str)
        assert_type(stream.usage, Usage | None)
        assert_type(stream.raw, Raw | None)
        assert_type(await anext(stream), ChatCompletionChunk)
        assert_type(await stream.aclose(), None)
    async with client.endpoint("e").stream_complete("hi", stop=["."]) as text:
        assert_type(text, AsyncStream[CompletionChunk, str])
        async for piece in text:
            assert_type(piece, CompletionChunk)
        assert_type(await text.final(), str)
    async with client.driver_app(7777).stream_complete("hi") as said:
        assert_type(await said.final(), str)
    for _ in client.endpoint("e").stream_chat("hi"):  # type: ignore[attr-defined]  # pyright: ignore
        pass


def plain(client: Client) -> None:
    with client.endpoint("e").stream_chat("hi", temperature=0.1) as stream:
        assert_type(stream, Stream[ChatCompletionChunk, ChatCompletion])
        for chunk in stream:
            assert_type(chunk, ChatCompletionChunk)
        assert_type(stream.final(), ChatCompletion)
        assert_type(stream.finish_reason, str | None)
        assert_type(stream.request_id, str | None)
        assert_type(stream.attempts, int)
        assert_type(next(stream), ChatCompletionChunk)
        assert_type(stream.close(), None)
    with client.endpoint("e").stream_complete("hi", stop=["."]) as text:
        assert_type(text, Stream[CompletionChunk, str])
        for piece in text:
            assert_type(piece, CompletionChunk)
        assert_type(text.final(), str)
    with client.driver_app(7777).stream_complete("hi") as said:
        assert_type(said.final(), str)
