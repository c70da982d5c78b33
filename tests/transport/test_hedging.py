"""Hedging: a slow GET or embeddings request is sent a second time, and the first answer counts."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.loopback import PATIENCE, Peer, head, keep_answering
from support.modes import backend_of, idle, permits

import dbllm
from dbllm import Retry
from dbllm._backends.aio import AsyncBackend
from dbllm._transport.health import MAX_TOKENS, Counts, EndpointHealth

HEDGE = Retry(hedge=0.01, backoff=0)
VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]}
ANSWERS = {"/x": "hello", "/serving-endpoints/e/invocations": VECTORS}


def earn(client: Any, path: str, attempts: int = 20) -> EndpointHealth:
    """As if so many requests had been made without a hedge."""
    core = getattr(client, "plain", client)
    health = getattr(core, "_core", core)._transport._records.of(None, path)
    for _ in range(attempts):
        health.hedge_delay(0.01)
    return health


class Stalling:
    """A server whose first request is never answered, and all others are; it sees how the first connection ends."""

    def __init__(self, then: Any = None) -> None:
        self.first = threading.Lock()
        self.ended = threading.Event()
        self.then = then

    def __call__(self, peer: Peer) -> None:
        while request := peer.request():
            if self.first.acquire(blocking=False):
                peer.wait_gone()
                self.ended.set()
                return
            if self.then is not None:
                self.then(peer)
                return
            peer.answer(ANSWERS[request.line.split()[1]])


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
@pytest.mark.parametrize("verb", ["get", "embed"])
@pytest.mark.parametrize("own", [None, "httpx"])
async def test_the_second_request_answers_and_the_first_is_ended_with_its_connection(make, serve, mode, verb, own):
    stalling = Stalling()
    server = serve(stalling)
    told: list[dbllm.Attempt] = []
    async with make(server.host, retry=HEDGE, engine=own, on_attempt=told.append) as client:
        earn(client, "/x" if verb == "get" else "/serving-endpoints/e/invocations")
        if verb == "get":
            assert await client.request("GET", "/x") == "hello"
        else:
            assert (await client.endpoint("e", task="embeddings").embed("a")).vectors == [[1.0]]
        assert stalling.ended.wait(PATIENCE)
        assert (permits(client), idle(client)) == (0, 1 if own is None else 0)  # httpx keeps none alive
        stats = client.stats()
        assert (stats.calls, stats.attempts, stats.retries, stats.hedges, stats.failed) == (1, 2, 0, 1, 0)
    assert [(one.number, one.wait, one.error) for one in told] == [(1, None, None)]  # the request that was answered
    assert len(server.requests) == 2
    assert server.requests[0] == server.requests[1]


async def test_a_post_to_a_model_is_never_hedged(make, serve, mode):
    server = serve(keep_answering)
    async with make(server.host, retry=Retry(hedge=1e-9)) as client:
        for path in ("/x", "/serving-endpoints/e/invocations"):
            earn(client, path, 200)
        for _ in range(3):
            await client.request("POST", "/x", json={})
            with pytest.raises(dbllm.APIResponseError):
                await client.endpoint("e", task="chat").chat("hi")
        assert client.stats().hedges == 0  # one that began and was too late reached no server
    assert len(server.requests) == 6


async def test_plain_code_sends_one_request(make, serve, mode):
    if mode != "sync":
        return
    server = serve(keep_answering)
    async with make(server.host, retry=Retry(hedge=1e-9)) as client:
        earn(client, "/x", 200)
        assert await client.request("GET", "/x") == "hello"
        assert client.stats().hedges == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
async def test_where_both_fail_the_first_failure_counts_and_is_tried_again(make, serve, mode):
    """The request that came second fails with 500, then the other one with 503. The retry is answered."""
    one_failed = threading.Event()
    places = iter(range(9))

    def play(peer: Peer) -> None:
        while peer.request():
            place = next(places)
            if place == 0:
                one_failed.wait(PATIENCE)
                peer.send(head(503, 2, connection="close") + b"{}")
                return
            if place == 1:
                peer.send(head(500, 2, connection="close") + b"{}")
                one_failed.set()
                return
            peer.answer()

    server = serve(play)
    told: list[dbllm.Attempt] = []
    async with make(server.host, retry=HEDGE, on_attempt=told.append) as client:
        earn(client, "/x")
        assert await client.request("GET", "/x") == "hello"
        stats = client.stats()
        assert permits(client) == 0
    assert (stats.attempts, stats.retries, stats.hedges) == (3, 1, 1)
    assert stats.failures == {"throttled": 1, "transient": 1}
    assert sorted((one.number, one.status) for one in told) == [(1, 500), (1, 503), (2, 200)]
    assert sorted(one.hedge for one in told) == [False, False, True]


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
async def test_a_first_request_that_fails_before_the_delay_has_no_hedge(make, serve, mode):
    def play(peer: Peer) -> None:
        peer.request()
        peer.send(head(404, 2, connection="close") + b"{}")

    server = serve(play)
    told: list[dbllm.Attempt] = []
    async with make(server.host, retry=Retry(hedge=1000.0), on_attempt=told.append) as client:
        earn(client, "/x", 200)
        with pytest.raises(dbllm.NotFoundError) as caught:
            await client.request("GET", "/x")
        assert caught.value.attempts == 1
    assert (len(server.requests), len(told)) == (1, 1)


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
async def test_a_caller_that_is_cancelled_ends_both(make, serve, mode):
    import anyio

    gone = threading.Semaphore(0)

    def stalled(peer: Peer) -> None:
        peer.request()
        peer.wait_gone()
        gone.release()

    server = serve(stalled)
    async with make(server.host, retry=HEDGE) as client:
        earn(client, "/x")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    await anyio.to_thread.run_sync(lambda: [server.wait_arrived() for _ in range(2)])
                    scope.cancel()

                group.start_soon(cancel)
                await client.request("GET", "/x")
        assert scope.cancelled_caught
        assert [gone.acquire(timeout=PATIENCE) for _ in range(2)] == [True, True]
        assert permits(client) == 0


def test_at_most_one_request_in_twenty_is_sent_twice() -> None:
    health = EndpointHealth(Counts())
    for _ in range(1000):
        health.begin_call(0.0)
        assert health.hedge_delay(0.5) == 0.5
        health.may_hedge()
    assert health.hedges == 50
    for _ in range(10_000):  # a long time in which nothing was slow
        health.hedge_delay(0.5)
    assert sum(health.may_hedge() for _ in range(100)) == 10


def test_a_closed_budget_allows_no_hedge() -> None:
    health = EndpointHealth(Counts())
    for _ in range(100):
        health.hedge_delay(0.5)
    while health.tokens > MAX_TOKENS / 2:
        health.attempt_failed("transient", 1.0, 0.0)
    assert not health.may_hedge()
    health.attempt_succeeded()
    assert health.may_hedge()


def test_p95_is_the_time_within_which_most_of_the_last_hundred_were_answered() -> None:
    health = EndpointHealth(Counts())
    for place in range(19):
        health.times.append(float(place))
    assert health.hedge_delay("p95") is None
    for place in range(300):
        health.times.append(float(place % 100))
    assert health.hedge_delay("p95") == 95.0


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
async def test_p95_is_learned_from_answers(make, serve, mode, monkeypatch):
    delays: list[float] = []
    real = AsyncBackend.first_success

    async def watched(self: Any, first: Any, second: Any, delay: float, may_start: Any) -> Any:
        delays.append(delay)
        return await real(self, first, second, delay, may_start)

    monkeypatch.setattr(AsyncBackend, "first_success", watched)
    server = serve(keep_answering)
    async with make(server.host, retry=Retry(hedge="p95")) as client:
        backend_of(client)
        for _ in range(25):
            assert await client.request("GET", "/x") == "hello"
    assert len(delays) == 5
    assert all(delay > 0 for delay in delays)


@pytest.mark.parametrize("hedge", [0, -1, float("nan"), True, "p99", "0.5"])
def test_a_delay_is_seconds_or_p95(hedge: Any) -> None:
    with pytest.raises(ValueError, match="hedge must be more than 0 seconds, 'p95' or None"):
        Retry(hedge=hedge)
