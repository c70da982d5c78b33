"""The same scripted answers without a server, through a router of respx."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import respx

from dbllm import APIConnectionError, APIError, APIStatusError, Client, Retry, StreamInterruptedError
from dbllm.testing import VirtualClock, respx_router

ONCE = Retry(attempts=1)


async def test_every_kind_of_endpoint_answers_in_each_mode(make: Callable[..., Any]) -> None:
    with respx_router() as scripted:
        scripted.embed([1, 2])
        scripted.reply("one two three", times=8)
        async with make(scripted.host, scripted.token) as client:
            assert (await client.endpoint("e").embed(["a"])).vectors == [[1, 2]]
            texts = [
                (await client.endpoint("m").chat("hi")).text,
                await client.endpoint("m").complete("hi"),
                (await client.agent("my-agent").respond("hi")).text,
                await client.driver_app(7777, "cluster").complete("hi"),
                (await client.endpoint("system.ai.model").chat("hi")).text,
            ]
            async with client.endpoint("m").stream_chat("hi") as stream:
                pieces = [chunk.text async for chunk in stream]
                texts.append((await stream.final()).text)
            async with client.agent("my-agent").stream_respond("hi") as stream:
                texts.append((await stream.final()).text)
        assert texts == ["one two three"] * 7
        assert [piece for piece in pieces if piece] == ["one ", "two ", "three"]
        scripted.assert_called(times=7, prompt="hi")
        scripted.assert_called(times=2, endpoint="my-agent")


async def test_errors_and_broken_answers_are_those_of_a_network(make: Callable[..., Any]) -> None:
    with respx_router() as scripted:
        async with make(scripted.host, scripted.token, retry=ONCE) as client:
            endpoint = client.endpoint("m")
            for fault, error in (
                ("close_before_head", APIConnectionError),
                ("reset_in_body", APIError),
                ("truncated_json", APIError),
                ("stream_cut", APIError),
                ("503", APIStatusError),
            ):
                scripted.reply("one two three four", fault=fault)
                with pytest.raises(error):
                    await endpoint.chat("hi")
            for fault in ("stream_cut", "stream_reset", "stream_stall", "stream_ends_early", "reset_in_body"):
                scripted.reply("one two three four", fault=fault)
                with pytest.raises(StreamInterruptedError) as caught:
                    async with endpoint.stream_chat("hi") as stream:
                        await stream.final()
                assert caught.value.partial_text.startswith("one ")
            scripted.error(403, "no")
            with pytest.raises(APIStatusError, match="no"):
                await endpoint.chat("hi")


async def test_time_passes_on_the_clock_of_the_test(make: Callable[..., Any]) -> None:
    with respx_router() as scripted:
        scripted.clock = clock = VirtualClock()
        scripted.reply("a b c", first_token=100, tokens_per_second=0.5, times=2)
        async with make(scripted.host, scripted.token) as client:
            await client.endpoint("m").chat("hi")
            assert clock.seconds == 104
            async with client.endpoint("m").stream_chat("hi") as stream:
                await stream.final()
        assert clock.seconds == 208


def test_a_call_beyond_the_script_and_another_host_are_errors() -> None:
    def block() -> None:
        with respx_router() as scripted, Client() as client:
            assert scripted.host == "https://workspace.example.com"
            with pytest.raises(APIStatusError, match="There is no answer for call 1"):
                client.endpoint("m").chat("hi")

    with pytest.raises(AssertionError, match="the test wrote no answer"):
        block()
    with respx_router(), httpx.Client() as client, pytest.raises(respx.models.AllMockedAssertionError):
        client.get("https://example.org")


def test_without_respx_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "respx", None)
    with pytest.raises(ImportError, match=r"pip install 'dbllm\[testing\]'"), respx_router():
        pass


def test_a_fault_of_bytes_that_httpx_never_shows_gets_a_sentence() -> None:
    with respx_router() as scripted, httpx.Client(base_url=scripted.openai_base_url) as client:
        scripted.reply("hi", fault="broken_gzip")
        with pytest.raises(ValueError, match="use scripted_workspace"):
            client.post("/chat/completions", json={"model": "m", "messages": []})
