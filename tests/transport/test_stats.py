"""`client.stats()`, and what an interrupt leaves of it."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.loopback import Peer, head, keep_answering
from support.modes import permits, together, waited
from support.samples import HELLO, chat_answer, route, sse

import dbllm
from dbllm import Client, Retry

TRANSPORT = str(Path(dbllm.__file__).parent / "_transport")


async def test_it_counts_calls_attempts_and_failures_altogether_and_by_endpoint(make, wire, clock):
    route(wire).mock(side_effect=[httpx.Response(429), httpx.Response(500), httpx.Response(200, json=chat_answer()),
                                  sse(*HELLO), httpx.ReadTimeout("late")])  # fmt: skip
    wire.get("/y").respond(404)
    async with make() as client:
        chat = clock.on(client).endpoint("ep", task="chat").chat
        before = client.stats()
        assert before == dbllm.Stats()
        await chat("hi")
        await client.endpoint("ep", task="chat").stream_chat("hi").final()
        with pytest.raises(dbllm.APITimeoutError):
            await client.with_options(timeout=9).endpoint("ep", task="chat").chat("hi")
        with pytest.raises(dbllm.NotFoundError):
            await client.request("GET", "/y?token=secret")
        stats = client.stats()
    assert before == dbllm.Stats()  # it is of its moment
    path = "/serving-endpoints/ep/invocations"
    assert stats.endpoints == {
        path: dbllm.EndpointStats(
            calls=3, failed=1, attempts=5, retries=2, failures={"throttled": 1, "transient": 1, "ambiguous": 1}
        ),
        "/y": dbllm.EndpointStats(calls=1, failed=1, attempts=1, failures={"final": 1}),
    }
    assert (stats.calls, stats.failed, stats.attempts, stats.retries) == (4, 2, 6, 2)
    assert stats.failures == {"throttled": 1, "transient": 1, "ambiguous": 1, "final": 1}
    assert json.loads(json.dumps(stats.as_dict()))["endpoints"][path]["calls"] == 3
    assert str(stats).splitlines()[::2] == [
        "4 calls, 2 failed; 6 attempts, 2 retries; failed attempts: 1 throttled, 1 transient, 1 ambiguous, 1 final",
        f"{path}: 3 calls, 1 failed; 5 attempts, 2 retries; failed attempts: 1 throttled, 1 transient, 1 ambiguous",
    ]
    with pytest.raises(AttributeError):
        stats.calls = 5


async def test_it_shows_connections_in_use_and_idle_and_who_waits_for_one(make, serve, mode):
    def stalled(peer: Peer) -> None:
        while peer.request():
            peer.wait()
            peer.answer()

    server = serve(stalled)
    seen: list[dbllm.Stats] = []
    async with make(server.host, max_connections=2) as client:

        def look() -> None:
            for _ in range(2):
                server.wait_arrived()
            while client.stats().waiting < 1:
                pass
            seen.append(client.stats())
            server.go.set()

        calls = [lambda: client.request("GET", "/x")] * 3
        await together(mode, [*calls, lambda: waited(mode, look)])
        after = client.stats()
    assert (seen[0].connections_in_use, seen[0].connections_idle, seen[0].waiting, seen[0].waits) == (2, 0, 1, 1)
    assert (after.connections_in_use, after.waiting, after.waits) == (0, 0, 1)
    assert after.connections_idle in (1, 2)
    assert "connections: 2 in use, 0 idle; 1 waits for a connection, 1 now" in str(seen[0])
    closed = client.stats()
    assert (closed.connections_in_use, closed.connections_idle, closed.calls) == (0, 0, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_counts_on_by_itself(serve) -> None:
    server = serve(keep_answering)
    with Client(server.host, "t") as client:
        client.request("GET", "/x")
        reads, writes = os.pipe()
        if (child := os.fork()) == 0:
            client.request("GET", "/x")
            stats = client.stats()
            os.write(writes, f"{stats.calls} {stats.connections_idle}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reads, 100) == b"2 1"
        assert client.stats().calls == 1
        os.close(reads)
        os.close(writes)


def interrupted_calls(client: Client, most: int = 2000) -> Any:
    """Interrupt a call at its first line within `_transport`, another at its second, and so on to the last."""
    for place in range(1, most):
        left = place

        def trace(frame: Any, event: str, _: object) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.startswith(TRANSPORT):
                return trace if event == "call" else None
            if event == "line":
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            client.request("POST", "/x", json={}, headers={"nonce": str(place)})
        except KeyboardInterrupt:
            yield place
        else:
            return
        finally:
            sys.settrace(before)
    raise AssertionError("a call has fewer lines")


def test_an_interrupt_at_any_line_leaves_no_count_wrong_and_nothing_held(serve) -> None:
    """Each such call fails once and is answered then, so that the lines of a retry are among them."""
    seen: Counter[str] = Counter()

    def play(peer: Peer) -> None:
        while request := peer.request():
            nonce = request.headers["nonce"]
            seen[nonce] += 1
            if nonce.isdigit() and seen[nonce] == 1:
                peer.send(head(503, 2) + b"{}")
            else:
                peer.answer()

    server = serve(play)
    lines = 0
    with Client(server.host, "t", retry=Retry(backoff=0, breaker=True, budget=False), max_connections=2) as client:
        client.request("POST", "/x", json={}, headers={"nonce": "first"})
        for _ in interrupted_calls(client):
            lines += 1
            assert permits(client) == 0
            stats = client.stats()
            (endpoint,) = stats.endpoints.values()
            for name in ("calls", "failed", "attempts", "retries", "failures", "refused", "breaker_opens", "denied"):
                assert getattr(stats, name) == getattr(endpoint, name), (lines, name)
            assert stats.attempts >= sum(seen.values())
            for _ in range(2):  # the breaker stays closed
                assert client.request("POST", "/x", json={}, headers={"nonce": "good"}) == "hello"
    assert lines > 50


def test_threads_that_count_at_once_lose_nothing() -> None:
    from dbllm._transport.health import Counts, EndpointHealth

    total = Counts()
    health = EndpointHealth(total)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def count() -> None:
            for _ in range(5000):
                health.begin_call(0.0)
                health.attempt_failed("final", 0.0, 0.0)
                health.begin_retry()

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert health.snapshot() == total.snapshot()
    assert (total.calls, total.retries, total.failures["final"]) == (40_000, 40_000, 40_000)


def test_one_of_each_is_counted_in_the_singular() -> None:
    assert str(dbllm.EndpointStats(calls=1, attempts=1)) == "1 call, 0 failed; 1 attempt, 0 retries"
    assert str(dbllm.EndpointStats(calls=2, attempts=3, retries=1)) == "2 calls, 0 failed; 3 attempts, 1 retry"
