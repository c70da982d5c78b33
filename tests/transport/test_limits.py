"""A client holds itself to its limits: requests and tokens in a time, and how many calls at once."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import respx
import trio
from support.loopback import Peer, Server
from support.modes import Clock, together

import dbllm
from dbllm import APITimeoutError, Limits, RateLimitError, Retry
from dbllm._transport.limits import Cost, RateLimiter, Reservation

CHAT = "/serving-endpoints/chat/invocations"


def answer(output_tokens: int = 10, input_tokens: int = 5) -> httpx.Response:
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    message = {"role": "assistant", "content": "hi"}
    return httpx.Response(200, json={"choices": [{"index": 0, "message": message}], "usage": usage})


# --- the decisions --------------------------------------------------------------------------------------------------


def used_in(window: float, spent: list[tuple[float, float]]) -> float:
    """The most that was spent in any window."""
    return max(sum(amount for at, amount in spent if end - window < at <= end) for end, _ in spent)


@pytest.mark.parametrize("seed", range(5))
def test_no_window_of_a_minute_ever_has_more_than_the_limit_and_nearly_all_of_it_is_used(seed: int) -> None:
    chance, limiter = random.Random(seed), RateLimiter(Limits(output_tokens_per_minute=6000, requests_per_minute=200))
    now, spent, running = 0.0, [], []
    while now < 600:
        for end, reservation, tokens, place in [one for one in running if one[0] <= now]:
            limiter.settle(reservation, None, tokens)
            spent[place] = (spent[place][0], tokens)
            running.remove((end, reservation, tokens, place))
        most = chance.randint(20, 60)
        reserved = limiter.reserve(Cost(100, most), now)
        if isinstance(reserved, Reservation):
            running.append((now + chance.uniform(0.5, 3), reserved, chance.randint(10, most), len(spent)))
            spent.append((now, most))
        else:
            now += min(reserved, 0.2)
    assert used_in(60, spent) <= 6000
    assert used_in(60, [(at, 1) for at, _ in spent]) <= 200
    busy = max(sum(tokens for at, tokens in spent if 60 <= at < 540) / 8 / 6000, len(spent) / 10 / 200)
    assert busy >= 0.95


def test_what_a_request_did_not_use_is_given_back() -> None:
    limiter = RateLimiter(Limits(output_tokens_per_minute=1000))
    first = limiter.reserve(Cost(10, 1000), 0.0)
    assert isinstance(first, Reservation)
    assert limiter.reserve(Cost(10, 1000), 1.0) == pytest.approx(59.5)  # until the first leaves the window
    limiter.settle(first, 3, 10)
    assert isinstance(limiter.reserve(Cost(10, 900), 20.0), Reservation)


def test_a_request_that_was_turned_away_counts_for_nothing() -> None:
    limiter = RateLimiter(Limits(requests_per_hour=1))
    first = limiter.reserve(Cost(10), 0.0)
    assert isinstance(first, Reservation)
    limiter.release(first)
    limiter.release(first)  # a second time changes nothing
    assert isinstance(limiter.reserve(Cost(10), 0.1), Reservation)
    assert limiter.reserve(Cost(10), 10.0) == pytest.approx(3590.6, abs=1)


def test_more_than_the_whole_quota_may_go_when_nothing_else_is_counted() -> None:
    limiter = RateLimiter(Limits(input_tokens_per_minute=100))
    assert isinstance(limiter.reserve(Cost(36_000), 0.0), Reservation)
    assert limiter.reserve(Cost(36), 1.0) > 50


def test_the_estimate_of_input_tokens_follows_what_the_server_counts() -> None:
    limiter = RateLimiter(Limits(input_tokens_per_minute=10_000))
    for now in range(0, 600, 2):
        reserved = limiter.reserve(Cost(360), float(now))
        assert isinstance(reserved, Reservation)
        limiter.settle(reserved, 50, 0)  # half of what 360 bytes seem to be
    assert limiter.reserve(Cost(360), 600.0).held[0] == pytest.approx(50, rel=0.02)  # type: ignore[union-attr]


def test_a_lost_reservation_blocks_nothing_for_longer_than_its_window() -> None:
    limiter = RateLimiter(Limits(output_tokens_per_minute=100))
    assert isinstance(limiter.reserve(Cost(1, 100), 0.0), Reservation)
    assert isinstance(limiter.reserve(Cost(1, 100), 61.0), Reservation)


def test_a_parked_endpoint_is_left_alone() -> None:
    limiter = RateLimiter(Limits())
    limiter.park(10.0)
    limiter.park(5.0)
    assert limiter.reserve(Cost(1), 4.0) == 6.0
    assert isinstance(limiter.reserve(Cost(1), 10.0), Reservation)


def test_limits_say_which_value_is_wrong() -> None:
    for wrong, named in (
        ({"requests_per_minute": 0}, "requests_per_minute must be a number above 0"),
        ({"input_tokens_per_minute": -1}, "input_tokens_per_minute"),
        ({"output_tokens_per_minute": float("nan")}, "output_tokens_per_minute"),
        ({"requests_per_hour": True}, "requests_per_hour"),
        ({"concurrency": 0}, 'concurrency must be an integer, 1 or more, "adaptive" or None'),
        ({"concurrency": "adaptiv"}, "concurrency"),
        ({"default_max_tokens": 1.5}, "default_max_tokens must be an integer"),
    ):
        with pytest.raises(ValueError, match=named):
            Limits(**wrong)  # type: ignore[arg-type]
    limits = Limits(requests_per_minute=3, concurrency="adaptive")
    assert pickle.loads(pickle.dumps(limits)) == limits


# --- a client -------------------------------------------------------------------------------------------------------


async def test_a_client_waits_for_its_quota(make: Callable[..., Any], wire: respx.MockRouter, clock: Clock) -> None:
    wire.post(CHAT).mock(side_effect=lambda _: answer())
    async with clock.on(make(limits=Limits(requests_per_minute=6))) as client:
        began = clock.time
        for _ in range(7):
            await client.endpoint("chat").chat("hello")  # each handle of a name counts with the others
    assert 59 <= clock.time - began <= 61


async def test_limits_are_each_endpoints_own(make: Callable[..., Any], wire: respx.MockRouter, clock: Clock) -> None:
    wire.post(url__regex=r".*/invocations").mock(side_effect=lambda _: answer())
    async with clock.on(make(limits=Limits(requests_per_minute=1))) as client:
        for name in ("chat", "other", "third"):
            await client.endpoint(name, task="chat").chat("hello")
        await client.endpoint("chat", limits=Limits(requests_per_minute=600)).chat("hello")
        assert not clock.waits


async def test_what_does_not_call_a_model_is_not_limited(
    make: Callable[..., Any], wire: respx.MockRouter, clock: Clock
) -> None:
    wire.get(url__regex=r".*").mock(side_effect=lambda _: httpx.Response(200, json={"name": "m"}))
    wire.post(CHAT).mock(side_effect=lambda _: answer())
    async with clock.on(make(limits=Limits(requests_per_hour=1))) as client:
        for _ in range(3):
            await client.endpoints.get("chat")
        await client.endpoint("chat").complete("hello")  # looks its task up first
    assert not clock.waits


async def test_max_tokens_are_reserved_and_what_is_left_is_given_back(
    make: Callable[..., Any], wire: respx.MockRouter, clock: Clock
) -> None:
    wire.post(CHAT).mock(side_effect=lambda _: answer(output_tokens=10))
    async with clock.on(make(limits=Limits(output_tokens_per_minute=1000))) as client:
        handle = client.endpoint("chat")
        for _ in range(20):  # 20 times 400 reserved is 8,000, and 200 are used
            await handle.chat("hello", max_tokens=400)
    assert sum(clock.waits) < 60


async def test_a_quota_that_comes_too_late_is_a_timeout_that_was_not_sent(
    make: Callable[..., Any], wire: respx.MockRouter, clock: Clock
) -> None:
    route = wire.post(CHAT).mock(side_effect=lambda _: answer())
    async with clock.on(make(limits=Limits(requests_per_hour=1), timeout=30)) as client:
        await client.endpoint("chat").chat("hello")
        began = clock.time
        with pytest.raises(APITimeoutError, match="Limits allow no further request") as caught:
            await client.endpoint("chat").chat("hello")
        assert not caught.value.sent
        assert clock.time - began <= 31
    assert route.call_count == 1


async def test_a_servers_hint_parks_the_endpoint_for_all_calls(
    make: Callable[..., Any], wire: respx.MockRouter, clock: Clock
) -> None:
    refusal = httpx.Response(429, headers={"retry-after": "20"}, json={"error_code": "REQUEST_LIMIT_EXCEEDED"})
    wire.post(CHAT).mock(side_effect=[refusal, answer()])
    async with clock.on(make(limits=Limits(requests_per_minute=600), retry=Retry(attempts=1))) as client:
        with pytest.raises(RateLimitError):
            await client.endpoint("chat").chat("hello")
        began = clock.time
        await client.endpoint("chat").chat("hello")
        assert 19.9 <= clock.time - began <= 21


async def test_no_more_calls_run_at_once_than_the_limits_allow(
    make: Callable[..., Any], mode: str, serve: Callable[..., Server]
) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def count(peer: Peer) -> None:
        nonlocal running, most
        while peer.request() is not None:
            with lock:
                running += 1
                most = max(most, running)
            head, body = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", answer().content
            with lock:
                running -= 1  # before it is sent: the client may send the next at once
            peer.send(head + b"content-length: %d\r\n\r\n%s" % (len(body), body))

    async with make(serve(count).host, limits=Limits(concurrency=3)) as client:
        results = await together(mode, [lambda: client.endpoint("chat").chat("hello")] * 30)
    assert not [one for one in results if isinstance(one, Exception)]
    assert 1 <= most <= 3


@pytest.mark.parametrize("concurrency", [1, "adaptive", None])
def test_a_call_that_is_cancelled_while_it_waits_leaves_its_place_to_others(
    wire: respx.MockRouter, concurrency: Any
) -> None:
    async def body() -> None:
        release = anyio.Event()

        async def slow(_: httpx.Request) -> httpx.Response:
            await release.wait()
            return answer()

        wire.post(CHAT).mock(side_effect=slow)
        limits = Limits(concurrency=concurrency, requests_per_minute=6000)
        async with dbllm.AsyncClient("https://workspace.example.com", "t", limits=limits) as client:
            handle = client.endpoint("chat")
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(handle.chat, "hello")
                await anyio.lowlevel.checkpoint()
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            release.set()
            with anyio.fail_after(5):
                for _ in range(3):
                    assert (await handle.chat("hello")).text == "hi"

    asyncio.run(body())
    trio.run(body)


def test_the_body_says_what_is_reserved() -> None:
    from dbllm._transport.limited import _reserved_tokens, _used_tokens

    for body, most in (
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"input": [], "max_output_tokens": 7}, 7),
        ({"inputs": [1], "params": {"max_tokens": 8}}, 8),
        ({"dataframe_records": [{"prompt": "x", "max_tokens": 9}]}, 9),
        ({"messages": []}, None),
        ([], None),
    ):
        assert _reserved_tokens(json.dumps(body).encode()) == most
    assert _reserved_tokens(None) is None
    assert _used_tokens(b'{"usage": {"input_tokens": 3, "output_tokens": 4}}') == (3, 4)
    for nothing in (b"", b"<html>", b"[1]", b'{"usage": null}', b'{"usage": {"prompt_tokens": "3"}}'):
        assert _used_tokens(nothing) == (None, None)
