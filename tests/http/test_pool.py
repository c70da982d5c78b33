"""The pool: permits, the queue, idle connections, and what is left after interrupts at every point."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.loopback import STREAM_HEAD, Peer, frame, head, keep_answering, streaming
from support.modes import Steps, backend_of, idle, permits, together, waited
from support.samples import HELLO, piece, sse

import dbllm
from dbllm._http.pool import ConnectionLimiter, Exchange

ONCE = dbllm.Retry(attempts=1)


def gate_of(client: Any) -> ConnectionLimiter:
    """The gate of a client that has made calls in one home."""
    (context,) = backend_of(client)._contexts.values()
    return context.limiter


class Holder:
    """Somebody who holds a permit."""


async def until(mode: str, holds: Callable[[], bool]) -> None:
    """Let the others run until something holds."""
    while not holds():
        if mode == "sync":
            await waited(mode, lambda: None)
        else:
            await anyio.lowlevel.checkpoint()


def stalled(peer: Peer) -> None:
    """Answers once the test says so."""
    while peer.request():
        peer.wait()
        peer.answer()


# --- permits and the queue --------------------------------------------------------------------------------------------


async def test_max_connections_holds_under_two_hundred_calls_at_once(make, serve, mode):
    server = serve()
    async with make(server.host, max_connections=10) as client:
        results = await together(mode, [lambda: client.request("GET", "/x") for _ in range(200)])
        assert (permits(client), idle(client)) == (0, server.open)
    assert results == ["hello"] * 200
    assert server.peak <= 10
    assert server.connections <= 10


@pytest.mark.parametrize("mode", ["asyncio"])
async def test_without_the_gate_that_limit_would_not_hold(make, serve, mode, monkeypatch):
    async def open_to_all(self: ConnectionLimiter, holder: Any, timeout: float | None, _request: Any = None) -> bool:
        return True

    monkeypatch.setattr(ConnectionLimiter, "acquire", open_to_all)
    server = serve()
    async with make(server.host, max_connections=10) as client:
        await together(mode, [lambda: client.request("GET", "/x") for _ in range(200)])
    assert server.peak > 10


async def test_a_full_house_says_so_after_the_queue_timeout(make, serve, mode):
    server = serve(stalled)
    async with make(server.host, max_connections=1, retry=ONCE) as client:

        async def second() -> None:
            await waited(mode, server.wait_arrived)
            try:
                await client.request("POST", "/b", json={}, timeout=dbllm.Timeout(queue=0.1))
            finally:
                server.go.set()

        results = await together(mode, [lambda: client.request("GET", "/a"), second])
        assert results[0] == "hello"
        assert isinstance(results[1], dbllm.APITimeoutError)
        assert (results[1].sent, "max_connections" in results[1].message) == (False, True)
        assert permits(client) == 0
    assert len(server.requests) == 1


async def test_the_total_also_covers_the_queue(make, serve, mode):
    server = serve(stalled)
    async with make(server.host, max_connections=1) as client:

        async def second() -> None:
            await waited(mode, server.wait_arrived)
            try:
                await client.request("POST", "/b", json={}, timeout=0.1)
            finally:
                server.go.set()

        results = await together(mode, [lambda: client.request("GET", "/a"), second])
    assert isinstance(results[1], dbllm.APITimeoutError)
    assert results[1].sent is False


async def test_who_waits_longest_is_served_first(make, serve, mode):
    server = serve(stalled)
    async with make(server.host, max_connections=1) as client:

        async def nth(place: int) -> None:
            if place == 1:
                await waited(mode, server.wait_arrived)
            elif place > 1:
                await until(mode, lambda: bool(server.requests) and len(gate_of(client)._waiting) == place - 1)
            if place == 5:
                await until(mode, lambda: len(gate_of(client)._waiting) == 4)
                server.go.set()
            else:
                await client.request("GET", f"/{place}")

        await together(mode, [lambda place=place: nth(place) for place in range(6)])
    assert [request.line.split()[1] for request in server.requests] == ["/0", "/1", "/2", "/3", "/4"]


async def test_a_client_that_closes_leaves_no_connection_behind_whoever_was_waiting(make, serve, mode):
    server = serve(lambda peer: [peer.request(), peer.wait_gone()], keep_answering)
    client = make(server.host, max_connections=1, retry=ONCE, timeout=5)

    async def close() -> None:
        await waited(mode, server.wait_arrived)
        await until(mode, lambda: len(gate_of(client)._waiting) == 1)
        await client.aclose()

    async def second() -> Any:
        await until(mode, lambda: bool(server.requests))
        return await client.request("GET", "/b")

    results = await together(mode, [lambda: client.request("GET", "/a"), second, close])
    assert isinstance(results[0], dbllm.APIConnectionError)
    assert results[2] is None
    assert results[1] == "hello" or isinstance(results[1], (RuntimeError, dbllm.APIError))
    await waited(mode, server.wait_gone)
    assert permits(client) == 0


# --- idle connections -------------------------------------------------------------------------------------------------


async def test_one_connection_serves_calls_one_after_another(make, serve):
    server = serve()
    async with make(server.host) as client:
        for _ in range(20):
            await client.request("POST", "/x", json={})
    assert (server.connections, len(server.requests)) == (1, 20)


async def test_errors_give_their_connection_back_too(make, serve, monkeypatch):
    living = []

    class Kept(Exchange):
        """One that something still holds, as a traceback may: the collector gives nothing back."""

        def __init__(self, pool: Any) -> None:
            super().__init__(pool)
            living.append(self)

    monkeypatch.setattr("dbllm._http.pool.Exchange", Kept)

    def refusing(peer: Peer) -> None:
        while peer.request():
            peer.answer({"message": "no"}, 400)

    server = serve(refusing)
    async with make(server.host) as client:
        for _ in range(5):
            with pytest.raises(dbllm.BadRequestError):
                await client.request("POST", "/x", json={})
        assert (permits(client), idle(client), len(living)) == (0, 1, 5)
    assert server.connections == 1


async def test_an_idle_connection_expires(make, serve, clock, mode):
    server = serve()
    async with make(server.host) as client:
        clock.on(client)
        await client.request("GET", "/x")
        clock.time += 3.9
        await client.request("GET", "/x")
        assert server.connections == 1
        clock.time += 4.1
        await client.request("GET", "/x")
        assert server.connections == 2
        await waited(mode, server.wait_gone, 0)


async def test_the_warmest_connection_is_used_and_all_that_have_expired_are_closed(make, serve, clock, mode):
    server = serve(stalled)
    async with make(server.host) as client:
        clock.on(client)

        async def open_all() -> None:
            for _ in range(3):
                await waited(mode, server.wait_arrived)
            server.go.set()

        await together(mode, [*[lambda: client.request("GET", "/x")] * 3, open_all])
        assert idle(client) == 3
        clock.time += 5
        await client.request("GET", "/x")
        await waited(mode, server.wait_gone, 0, 1, 2)
        assert (server.open, idle(client)) == (1, 1)


async def test_closing_the_client_closes_its_idle_connections_and_twice_is_harmless(make, serve, mode):
    server = serve()
    client = make(server.host)
    await together(mode, [lambda: client.request("GET", "/x") for _ in range(5)])
    await client.aclose()
    await client.aclose()
    await waited(mode, server.wait_gone)
    with pytest.raises(RuntimeError, match="closed"):
        await client.request("GET", "/x")


# --- interrupts -------------------------------------------------------------------------------------------------------

ASYNC = pytest.mark.parametrize("mode", ["asyncio", "trio"])


def quick(peer: Peer) -> None:
    """Answers in pieces, streams where asked to: several suspension points a call."""
    while request := peer.request():
        if "event-stream" in request.headers["accept"]:
            peer.send(STREAM_HEAD)
            for event in HELLO:
                peer.send(frame(event))
            peer.send(b"0\r\n\r\n")
        else:
            peer.answer()


async def unary(client: Any) -> None:
    assert await client.request("POST", "/x", json={"a": 1}) == "hello"


async def stream(client: Any) -> None:
    async with client.endpoint("ep").stream_chat("hi") as opened:
        assert (await opened.final()).text == "Hello"


async def bare_stream(client: Any) -> None:
    """A stream nobody closes by hand."""
    assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"


async def after_expiry(client: Any) -> None:
    """Two idle connections have expired and are closed on the way."""
    backend = backend_of(client)
    async with client.endpoint("ep").stream_chat("a") as one, client.endpoint("ep").stream_chat("b") as two:
        await one.final()
        await two.final()
    before, backend.clock = backend.clock, lambda: before() + 5
    try:
        await unary(client)
    finally:
        backend.clock = before


ANYIO = tuple(int(part) for part in version("anyio").split(".")[:2])


def spare_old_anyio(mode: str) -> None:
    """On trio anyio dials, and before 4.16 its cancelled dial leaves the socket to the garbage collector."""
    if mode == "trio" and ANYIO < (4, 16):
        pytest.skip("this anyio leaves the socket of a cancelled dial to the garbage collector")


VERBS = pytest.mark.parametrize("verb", [unary, stream, bare_stream, after_expiry])


async def count(call: Callable[[], Any]) -> int:
    steps = Steps(call())
    await steps
    return steps.count


@ASYNC
@VERBS
@pytest.mark.parametrize("way", ["task", "scope"])
async def test_a_cancellation_at_any_point_leaves_nothing_behind(make, serve, mode, verb, way):
    if (mode, way) == ("trio", "task"):
        pytest.skip("trio cancels by scopes only")
    spare_old_anyio(mode)
    server = serve(quick)
    points = 0
    for warm in (False, True):  # a new connection, and a kept-alive one
        place = 1
        while True:
            async with make(server.host, max_connections=2) as client:
                if warm:
                    await unary(client)
                done = await cancelled_at(lambda client=client: verb(client), place, way)
                assert permits(client) == 0, f"cancelled at {place}"
                await unary(client)
                assert permits(client) == 0
            if done:
                break
            place += 1
        points += place
    assert points >= 5  # while it dials, and while it waits for the answer, on each of the two
    await waited(mode, server.wait_gone)


async def cancelled_at(call: Callable[[], Any], place: int, way: str) -> bool:
    """Cancel a call at its n-th suspension: whether it had ended before."""
    if way == "scope":
        with anyio.CancelScope() as scope:
            await Steps(call(), place, scope.cancel)
        return not scope.cancelled_caught

    async def alone() -> None:
        task = asyncio.current_task()
        assert task is not None
        await Steps(call(), place, task.cancel)

    try:
        await asyncio.create_task(alone())
    except asyncio.CancelledError:
        return False
    return True


class Slow(httpx.AsyncBaseTransport, httpx.AsyncByteStream):
    """A transport that suspends before the head and before each piece, and cleans up without waiting.

    (httpcore waits while a coroutine is being closed, which Python forbids; with it this cannot be tested.)
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=self)

    async def __aiter__(self) -> Any:
        for event in (*sse(*HELLO).content.splitlines(keepends=True), b""):
            await anyio.lowlevel.checkpoint()
            yield event


class GivenUp(Exception):
    """The coroutine was closed, and its runner goes no further."""


async def unread(client: Any) -> None:
    assert "data" in await client.request("POST", "/x", json={"a": 1})


@pytest.mark.parametrize("mode", ["asyncio"])
@pytest.mark.parametrize("verb", [unread, stream, bare_stream])
async def test_a_coroutine_that_is_closed_at_any_point_leaves_no_permit_behind(make, mode, verb):
    async with make(transport=Slow()) as client:
        points = await count(lambda: verb(client))
    assert points > 3
    for place in range(1, points + 1):
        async with make(transport=Slow(), max_connections=1) as client:
            coroutine = verb(client)

            def give_up(coroutine: Any = coroutine) -> None:
                coroutine.close()
                raise GivenUp

            with pytest.raises(GivenUp):
                await Steps(coroutine, place, give_up)
            await until(mode, lambda client=client: permits(client) == 0)
            await verb(client)


@ASYNC
async def test_sixty_random_cancellations_leave_all_ten_connections_usable(make, serve, mode):
    spare_old_anyio(mode)
    server = serve(quick)
    draw = random.Random(7)
    async with make(server.host, max_connections=10) as client:

        async def short_lived(place: int) -> None:
            with anyio.CancelScope() as scope:
                await Steps((unary, stream)[place % 2](client), draw.randint(1, 12), scope.cancel)

        for _ in range(3):
            await together(mode, [lambda place=place: short_lived(place) for place in range(20)])
        assert permits(client) == 0
        results = await together(mode, [lambda: unary(client) for _ in range(100)])
        assert results == [None] * 100
        assert permits(client) == 0
    assert server.peak <= 30


@ASYNC
async def test_a_waiter_that_is_cancelled_hands_its_place_on(make, serve, mode):
    server = serve(stalled)
    async with make(server.host, max_connections=1) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.request, "GET", "/0")
            await waited(mode, server.wait_arrived)
            with anyio.CancelScope() as scope:
                await Steps(client.request("GET", "/1"), 1, scope.cancel)
            assert scope.cancelled_caught
            assert (permits(client), len(gate_of(client)._waiting)) == (1, 0)
            server.go.set()
        assert await client.request("GET", "/2") == "hello"
    assert [request.line.split()[1] for request in server.requests] == ["/0", "/2"]


async def test_an_interrupt_while_waiting_for_a_permit_gives_the_place_back(make, serve, monkeypatch):
    server = serve()
    async with make(server.host, max_connections=1) as client:
        await client.request("GET", "/0")
        (context,) = backend_of(client)._contexts.values()
        gate = context.limiter
        holder = Holder()
        assert await gate.acquire(holder, 1)

        async def interrupted(event: Any, timeout: float | None) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(context, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await client.request("GET", "/1")
        assert (gate.holders, gate._waiting) == ({holder}, {})
        gate.release(holder)
        assert await client.request("GET", "/2") == "hello"


async def test_a_permit_that_is_handed_over_while_its_waiter_is_interrupted_is_not_lost(make, serve, monkeypatch):
    server = serve()
    async with make(server.host, max_connections=1) as client:
        await client.request("GET", "/0")
        (context,) = backend_of(client)._contexts.values()
        gate = context.limiter
        first = Holder()
        assert await gate.acquire(first, 1)

        async def handed_then_interrupted(event: Any, timeout: float | None) -> bool:
            gate.release(first)
            raise KeyboardInterrupt

        monkeypatch.setattr(context, "wait", handed_then_interrupted)
        with pytest.raises(KeyboardInterrupt):
            await client.request("GET", "/1")
        assert gate.holders == set()


async def test_releasing_twice_gives_no_second_permit(make, serve):
    server = serve()
    async with make(server.host, max_connections=1) as client:
        await client.request("GET", "/0")
        gate = gate_of(client)
        one, two = Holder(), Holder()
        assert await gate.acquire(one, 1)
        gate.release(one)
        gate.release(one)
        assert await gate.acquire(two, 1)
        gate.release(one)
        assert gate.holders == {two}
        gate.release(two)


async def test_an_answer_over_the_limit_is_cut_and_its_connection_given_up(make, serve, monkeypatch, mode):
    monkeypatch.setattr("dbllm._http.pool.MAX_BODY", 1000)

    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while not peer.gone.is_set():
            peer.send(b"400\r\n" + b"x" * 1024 + b"\r\n")

    server = serve(endless, keep_answering)
    async with make(server.host) as client:
        with pytest.raises(dbllm.APIResponseError, match="over 1000 bytes"):
            await client.request("GET", "/x")
        assert (permits(client), idle(client)) == (0, 0)
        await waited(mode, server.wait_gone, 0)
        assert await client.request("GET", "/x") == "hello"


async def test_a_transport_of_the_users_is_limited_too(make, mode):
    open_now, peak = [0], [0]

    async def handle_async(request: httpx.Request) -> httpx.Response:
        open_now[0] += 1
        peak[0] = max(peak[0], open_now[0])
        await anyio.lowlevel.checkpoint()
        open_now[0] -= 1
        return httpx.Response(200, json=1)

    handler = (lambda request: httpx.Response(200, json=1)) if mode == "sync" else handle_async
    async with make(transport=httpx.MockTransport(handler), max_connections=3) as client:
        assert await together(mode, [lambda: client.request("GET", "/x") for _ in range(30)]) == [1] * 30
    assert peak[0] <= 3


async def test_a_stream_holds_its_permit_until_it_is_closed(make, serve, mode):
    server = serve(streaming(piece("a"), then=lambda peer: peer.wait_gone()), keep_answering)
    async with make(server.host, max_connections=1, retry=ONCE) as client:
        async with client.endpoint("ep").stream_chat("hi") as opened:
            async for _ in opened:
                break
            with pytest.raises(dbllm.APITimeoutError, match="max_connections"):
                await client.request("GET", "/x", timeout=dbllm.Timeout(queue=0.05))
        assert await client.request("GET", "/x") == "hello"


async def test_of_an_error_only_the_first_mebibyte_is_read(make, serve, mode):
    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(head(500, 10**12) + b'{"message": "')
        while not peer.gone.is_set():
            peer.send(b"x" * 65536)

    server = serve(endless)
    async with make(server.host, retry=ONCE) as client:
        with pytest.raises(dbllm.InternalServerError, match="xxx") as caught:
            await client.request("GET", "/x")
        assert len(caught.value.raw.body) == 2**20
        assert (permits(client), idle(client)) == (0, 0)
