"""A user's tests with pytest-httpx2: what it mocks is what a client over httpx2 gets, and nothing goes elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from support.samples import HELLO, chat_answer, sse

import dbllm

pytest.importorskip("pytest_httpx2")
import httpx2

CALL = "https://workspace.example.com/serving-endpoints/ep/invocations"


def ours(mode: str) -> Any:
    return httpx2.Client() if mode == "sync" else httpx2.AsyncClient()


async def close(own: Any) -> None:
    await own.aclose() if hasattr(own, "aclose") else own.close()


async def test_mocked_answers_errors_and_streams(make, mode, httpx2_mock):
    own = ours(mode)
    called = httpx2_mock.post(CALL).respond(json=chat_answer())
    async with make(http_client=own, retry=dbllm.Retry(attempts=2, backoff=0)) as client:
        endpoint = client.endpoint("ep")
        assert (await endpoint.chat("x")).text == "Hi there"
        called.respond(503)
        with pytest.raises(dbllm.InternalServerError) as caught:
            await endpoint.chat("x")
        assert caught.value.attempts == 2
        called.mock(side_effect=httpx2.ReadTimeout("late"))
        with pytest.raises(dbllm.APITimeoutError):
            await endpoint.chat("x")
        streamed = sse(*HELLO)
        called.respond(content=streamed.content, headers={"content-type": "text/event-stream"})
        async with endpoint.stream_chat("x") as stream:
            assert (await stream.final()).text == "Hello"
    await close(own)
    assert called.call_count == 5


async def test_what_is_not_mocked_goes_nowhere(make, mode, httpx2_mock):
    own = ours(mode)
    async with make(http_client=own) as client:
        with pytest.raises(AssertionError, match="not mocked"):
            await client.endpoint("ep").chat("x")
    await close(own)
