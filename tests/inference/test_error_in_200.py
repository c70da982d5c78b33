"""An error in the body of a success: the server's own words, in the class that its code means, through every verb."""

from __future__ import annotations

from typing import Any

import pytest
from support.samples import chat_answer, route, speaks, sse

import dbllm

WORDS = "The provider is overloaded"
BODIES: list[tuple[Any, type[dbllm.APIError]]] = [
    ({"error": {"message": WORDS, "type": "rate_limit", "code": 429}}, dbllm.RateLimitError),
    ({"error": {"message": WORDS, "type": "rate_limit_error", "code": None}}, dbllm.RateLimitError),
    ({"error": {"message": WORDS, "code": "rate_limit_exceeded"}}, dbllm.RateLimitError),
    ({"error": {"message": WORDS, "code": "529"}}, dbllm.InternalServerError),
    ({"error": {"message": WORDS, "code": "own_code", "type": "invalid_request_error"}}, dbllm.BadRequestError),
    ({"error": {"message": WORDS, "code": "context_length_exceeded"}}, dbllm.ContextOverflowError),
    ({"error": WORDS}, dbllm.APIResponseError),
    ({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": WORDS}, dbllm.RateLimitError),
    ({"error_code": "TEMPORARILY_UNAVAILABLE", "message": WORDS}, dbllm.InternalServerError),
    ({"error_code": "PERMISSION_DENIED", "message": WORDS}, dbllm.PermissionDeniedError),
    ({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": WORDS}, dbllm.NotFoundError),
    ({"error_code": 401, "message": WORDS}, dbllm.AuthenticationError),
    ({"object": "error", "message": WORDS, "code": 503}, dbllm.InternalServerError),
    ({"type": "error", "error": {"type": "overloaded_error", "message": WORDS}}, dbllm.InternalServerError),
    ({"choices": None, "error": WORDS}, dbllm.APIResponseError),
    ({"error_code": "SOMETHING_NEW", "message": WORDS}, dbllm.APIResponseError),
]
VERBS = {
    "chat": ("chat", lambda endpoint: endpoint.chat("x")),
    "complete": ("chat", lambda endpoint: endpoint.complete("x")),
    "complete on completions": ("completions", lambda endpoint: endpoint.complete("x")),
    "complete on a custom model": ("custom", lambda endpoint: endpoint.complete("x")),
    "embed": ("embeddings", lambda endpoint: endpoint.embed("x")),
    "respond": ("responses", lambda endpoint: endpoint.respond("x")),
    "stream_chat": ("chat", lambda endpoint: endpoint.stream_chat("x").final()),
    "stream_respond": ("responses", lambda endpoint: endpoint.stream_respond("x").final()),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_the_servers_words_and_the_class_of_its_code(make, wire, verb):
    task, ask = VERBS[verb]
    wrong = []
    async with make() as client:
        for body, kind in BODIES:
            route(wire).respond(json=body, headers={"x-request-id": "r-1"})
            with pytest.raises(dbllm.APIError) as caught:
                await ask(client.endpoint("ep", task=task))
            error = caught.value
            if type(error) is not kind or WORDS not in str(error) or error.request_id != "r-1":
                wrong.append((body, type(error).__name__, str(error)))
            assert error.raw.status == error.status == 200
    assert not wrong


async def test_an_error_event_of_vllm_in_a_stream_is_one(make, wire):
    route(wire).mock(return_value=sse({"object": "error", "message": WORDS, "code": 503}))
    async with make() as client:
        with pytest.raises(dbllm.StreamInterruptedError, match=WORDS):
            await client.endpoint("ep").stream_chat("x").final()


@pytest.mark.parametrize("error", [None, "", {}, []])
async def test_an_answer_with_an_empty_error_is_an_answer(make, wire, error):
    route(wire).respond(json={**chat_answer("Hello"), "error": error})
    async with make() as client:
        assert (await client.endpoint("ep").chat("x")).text == "Hello"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."),
        (400, "prompt is too long: 210000 tokens > 200000 maximum"),
        (400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
        (400, "Input length 131073 exceeds maximum length 131072"),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097"),
        (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        (400, "ContextWindowExceededError: litellm"),
    ],
)
async def test_an_input_that_is_too_long_is_an_error_of_its_own(make, wire, status, message):
    speaks(wire, "llm/v1/chat")
    route(wire).respond(status, json={"error_code": "BAD_REQUEST", "message": message})
    async with make() as client:
        with pytest.raises(dbllm.ContextOverflowError, match="Send less"):
            await client.endpoint("ep").chat("x")


@pytest.mark.parametrize(
    "message", ["max_tokens must be 1 or more", "input batch size exceeds maximum of 150", "invalid token", "no prompt"]
)
async def test_other_bad_requests_are_none(make, wire, message):
    speaks(wire, "llm/v1/chat")
    route(wire).respond(400, json={"error_code": "BAD_REQUEST", "message": message})
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError) as caught:
            await client.endpoint("ep").chat("x")
    assert type(caught.value) is dbllm.BadRequestError


@pytest.mark.parametrize("first", [1, 195])
async def test_choices_that_are_not_numbered_from_0_are_no_empty_answer(make, wire, first):
    events = [{"choices": [{"index": first, "delta": {"content": text}}]} for text in ("Hel", "lo")]
    events.append({"choices": [{"index": first, "delta": {}, "finish_reason": "stop"}]})
    route(wire).mock(return_value=sse(*events, "[DONE]"))
    async with make() as client:
        async with client.endpoint("ep").stream_chat("x") as stream:
            assert [chunk.text async for chunk in stream] == ["Hel", "lo", ""]
            assert (stream.text, stream.finish_reason) == ("Hello", "stop")
            assert (await stream.final()).text == "Hello"
        assert await client.endpoint("ep", task="chat").stream_complete("x").final() == "Hello"
        whole = chat_answer("Hello")
        whole["choices"][0]["index"] = first
        route(wire).respond(json=whole)
        reply = await client.endpoint("ep").chat("x")
    assert (reply.text, reply.finish_reason, reply.message.text) == ("Hello", "stop", "Hello")
