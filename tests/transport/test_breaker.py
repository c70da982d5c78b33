"""The circuit breaker: calls are refused at once while most of them fail, and one is let through after a while."""

from __future__ import annotations

import httpx
import pytest
from support.modes import backend_of

import dbllm
from dbllm import Retry

BREAKER = Retry(attempts=1, breaker=True)
BAD, GOOD = httpx.Response(503), httpx.Response(200, json=1)


async def outcome(client, retry=None):
    """What became of a call: 1, or the error's name; "refused" where it was not sent."""
    try:
        return await client.request("POST", "/x", json={}, retry=retry)
    except dbllm.APIConnectionError as error:
        return "refused" if "circuit breaker" in str(error) else "broken"
    except dbllm.APIStatusError as error:
        return error.status


async def test_it_opens_at_half_of_twenty_refuses_and_closes_after_a_success(make, wire, clock):
    called = wire.post("/x").mock(side_effect=[GOOD] * 10 + [BAD] * 10)
    async with make(retry=BREAKER) as client:
        clock.on(client)
        assert [await outcome(client) for _ in range(20)] == [1] * 10 + [503] * 10
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/x", json={})
        assert (caught.value.sent, caught.value.attempts, called.call_count) == (False, 1, 20)
        assert 4.9 < caught.value.retry_after <= 5
        assert "Retry(breaker=False)" in str(caught.value)
        clock.time += 4.9
        assert await outcome(client) == "refused"
        clock.time += 0.2
        called.mock(side_effect=[BAD, GOOD, GOOD])
        assert [await outcome(client) for _ in range(2)] == [503, "refused"]  # the one that was let through failed
        clock.time += 5.1
        assert [await outcome(client) for _ in range(2)] == [1, 1]
        stats = client.stats()
        assert (stats.calls, stats.refused, stats.breaker_opens, stats.failed) == (26, 3, 2, 14)
        assert stats.attempts == called.call_count == 23


async def test_a_call_without_a_breaker_is_sent_and_other_endpoints_are(make, wire, clock):
    wire.post("/x").respond(503)
    wire.post("/y").respond(json=2)
    async with make(retry=BREAKER) as client:
        clock.on(client)
        for _ in range(20):
            await outcome(client)
        assert await outcome(client) == "refused"
        assert await outcome(client, Retry(attempts=1)) == 503
        assert await client.request("POST", "/y", json={}) == 2


async def test_nineteen_calls_or_old_failures_or_fewer_than_half_do_not_open_it(make, wire, clock):
    called = wire.post("/x")
    async with make(retry=BREAKER) as client:
        clock.on(client)
        called.mock(side_effect=[BAD] * 19)
        for _ in range(19):
            assert await outcome(client) == 503
        clock.time += 31
        called.mock(side_effect=[BAD] * 19)
        for _ in range(19):
            assert await outcome(client) == 503
        clock.time += 31
        called.mock(side_effect=([GOOD] * 2 + [BAD]) * 20)
        for _ in range(60):
            assert await outcome(client) in (1, 503)
        assert client.stats().breaker_opens == 0


async def test_what_a_healthy_server_may_say_does_not_open_it(make, wire, clock):
    called = wire.post("/x")
    async with make(retry=BREAKER) as client:
        clock.on(client)
        for answer in (httpx.Response(404), httpx.Response(429, headers={"retry-after": "1"})):
            called.mock(side_effect=[answer] * 40)
            for _ in range(40):
                assert await outcome(client) == answer.status_code
        assert client.stats().breaker_opens == 0


async def test_a_call_whose_attempt_opened_it_is_not_tried_again_before_it_closes(make, wire, clock):
    called = wire.post("/x").respond(503)
    async with make(retry=Retry(attempts=30, breaker=True, budget=False, backoff=0)) as client:
        clock.on(client)
        with pytest.raises(dbllm.InternalServerError, match="no further attempt: the circuit breaker of this endpoint"):
            await client.request("POST", "/x", json={})
    assert called.call_count == 20


async def test_a_call_that_was_let_through_and_interrupted_leaves_the_way_open(make, wire, clock):
    called = wire.post("/x").respond(503)
    async with make(retry=BREAKER) as client:
        clock.on(client)
        for _ in range(20):
            await outcome(client)
        clock.time += 5.1
        called.mock(side_effect=ZeroDivisionError)  # as a cancellation: neither a success nor a failure
        with pytest.raises(ZeroDivisionError):
            await client.request("POST", "/x", json={})
        assert await outcome(client) == "refused"
        clock.time += 5.1
        called.mock(side_effect=[GOOD])
        assert await outcome(client) == 1
        assert backend_of(client) is not None


async def test_an_answer_to_a_call_from_before_does_not_close_it(make, wire, clock):
    from dbllm._transport.health import Counts, EndpointHealth

    health = EndpointHealth(Counts())
    for _ in range(20):
        health.watch(10.0, 12.0, failed=True)
    health.watch(11.0, 13.0, failed=False)
    assert health.is_open_at(13.0)
    health.watch(11.0, 13.0, failed=True)
    assert health.breaker_opens == 1
