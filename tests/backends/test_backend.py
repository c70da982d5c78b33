"""The backends and the driver: loops, threads, forks, interrupts and deadlines, on real sockets."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
from support.loopback import STREAM_HEAD, Peer, Server, frame, head, keep_answering, streaming
from support.modes import idle, permits, together, waited
from support.samples import HELLO, piece

import dbllm
from dbllm._backends.backend import run_without_loop
from dbllm._backends.blocking import SyncBackend

ONCE = dbllm.Retry(attempts=1)


# --- the driver -------------------------------------------------------------------------------------------------------


class Yields:
    """Suspends, as something that waits for a loop does."""

    def __await__(self) -> Any:
        yield "a trap"


def test_driving_a_coroutine_that_suspends_names_the_culprit_and_runs_its_finally():
    ended: list[str] = []

    async def waits_elsewhere() -> None:
        try:
            await Yields()
        finally:
            ended.append("inner")

    async def outer() -> None:
        try:
            await waits_elsewhere()
        finally:
            ended.append("outer")

    with pytest.raises(RuntimeError, match=r"waits_elsewhere.*test_backend\.py.*AsyncClient"):
        run_without_loop(outer())
    assert ended == ["inner", "outer"]
    gc.collect()


def test_driving_returns_the_value_and_passes_errors_on():
    async def value() -> int:
        return 3

    async def error() -> None:
        raise KeyboardInterrupt

    assert run_without_loop(value()) == 3
    with pytest.raises(KeyboardInterrupt):
        run_without_loop(error())


def test_what_a_suspended_coroutine_raises_on_its_way_out_is_not_hidden():
    async def stubborn() -> None:
        try:
            await Yields()
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_without_loop(stubborn())


def test_a_token_function_that_really_waits_is_refused_in_plain_code_and_leaves_nothing_behind(wire):
    async def token() -> str:
        await asyncio.sleep(0)
        return "t"

    with dbllm.Client("https://workspace.example.com", token) as client:
        with pytest.raises(RuntimeError, match="AsyncClient"):
            client.request("GET", "/x")
        with pytest.raises(RuntimeError, match="AsyncClient"):
            client.endpoint("ep").stream_chat("x").final()
        assert permits(client) == 0


# --- loops ------------------------------------------------------------------------------------------------------------

RUNS = """
import asyncio, sys, trio
from dbllm import AsyncClient
run = {"asyncio": lambda main: asyncio.run(main()), "trio": trio.run}[sys.argv[2]]
client = AsyncClient(sys.argv[1], "t")

async def main():
    print(await client.request("GET", "/x"))
    stream = client.endpoint("ep").stream_chat("hi")
    async for chunk in stream:
        print(chunk.text)
        break  # and never closed

for _ in range(3):
    run(main)
"""


def two_minds(peer: Peer) -> None:
    """Answers, or streams one event and goes on thinking."""
    while request := peer.request():
        if request.line.startswith("GET"):
            peer.answer()
        else:
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            peer.send(frame(piece("a")))
            peer.wait_gone()
            return


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_one_client_serves_three_runs_of_the_loop_without_a_warning(serve, script, library):
    server = serve(two_minds)
    assert script(RUNS, server.host, library).split() == ["hello", "a"] * 3
    server.wait_gone()


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_loop_that_ends_closes_its_sockets_though_nobody_closed_the_client(serve, library):
    server = serve()

    async def main(client: dbllm.AsyncClient) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.request, "GET", "/x")

    client = dbllm.AsyncClient(server.host, "t")
    for _ in range(2):
        anyio.run(main, client, backend=library)
        server.wait_gone()
        assert (permits(client), idle(client)) == (0, 0)


def test_a_loop_that_is_closed_without_ceremony_does_not_spoil_the_next(serve):
    server = serve()
    client = dbllm.AsyncClient(server.host, "t")
    for _ in range(2):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(client.request("GET", "/x")) == "hello"
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    server.wait_gone()


def test_two_loops_in_two_threads_use_one_client_at_once(serve):
    server = serve()
    client = dbllm.AsyncClient(server.host, "t")
    both = threading.Barrier(2)
    results: list[str] = []

    async def main() -> None:
        for _ in range(20):
            both.wait(5)
            results.append(await client.request("GET", "/x"))

    threads = [threading.Thread(target=lambda: asyncio.run(main())), threading.Thread(target=lambda: trio.run(main))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["hello"] * 40
    assert server.connections == 2
    server.wait_gone()


def test_closing_in_one_loop_closes_the_connections_of_another_too(serve):
    server = serve()
    client = dbllm.AsyncClient(server.host, "t")
    ready, closed = threading.Event(), threading.Event()

    async def other() -> None:
        await client.request("GET", "/x")
        ready.set()
        await anyio.to_thread.run_sync(closed.wait, 5)
        await anyio.to_thread.run_sync(server.wait_gone, 0)

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    ready.wait(5)
    asyncio.run(client.aclose())
    closed.set()
    thread.join()
    server.wait_gone(0)


def test_an_async_client_outside_a_loop_says_so():
    client = dbllm.AsyncClient("https://workspace.example.com", "t")
    coroutine = client.request("GET", "/x")
    with pytest.raises(RuntimeError, match="use Client"):
        coroutine.send(None)


# --- forks ------------------------------------------------------------------------------------------------------------

FORK = """
import asyncio, os, sys
from dbllm import AsyncClient, Client

def forked(parent_call, child_call):
    assert parent_call() == "hello"
    child = os.fork()
    if child == 0:
        try:
            good = all(child_call() == "hello" for _ in range(3))
        finally:
            os._exit(0 if good else 1)
    assert parent_call() == "hello"
    assert os.waitpid(child, 0)[1] == 0
    assert parent_call() == "hello"

if sys.argv[2] == "sync":
    with Client(sys.argv[1], "t") as client:
        forked(lambda: client.request("GET", f"/{os.getpid()}"), lambda: client.request("GET", f"/{os.getpid()}"))
else:
    client = AsyncClient(sys.argv[1], "t")
    async def main():
        call = lambda: client.request("GET", f"/{os.getpid()}")
        assert await call() == "hello"
        child = os.fork()
        if child == 0:
            good = False
            try:
                good = asyncio.run(call()) == "hello" and asyncio.run(call()) == "hello"
            finally:
                os._exit(0 if good else 1)
        assert await call() == "hello"
        assert os.waitpid(child, 0)[1] == 0
        assert await call() == "hello"
    asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_forked_child_dials_anew_and_the_parents_connection_lives_on(serve, script, kind):
    served: dict[int, set[str]] = {}

    def by_connection(peer: Peer) -> None:
        while request := peer.request():
            served.setdefault(id(peer), set()).add(request.line)
            peer.answer()

    server = serve(by_connection)
    script(FORK, server.host, kind)
    assert all(len(lines) == 1 for lines in served.values()), "a connection was used by two processes"
    assert len({line for lines in served.values() for line in lines}) == 2


FORK_AND_EXIT = """
import os, sys
from dbllm import Client
client = Client(sys.argv[1], "t")
client.request("GET", "/parent")
child = os.fork()
if child == 0:
    client.request("GET", "/child")
    sys.exit(0)  # with all the finalizers
assert os.waitpid(child, 0)[1] == 0
client.request("GET", "/parent")
"""


def test_a_child_that_ends_regularly_does_not_close_its_parents_connection(serve, script):
    server = serve()
    script(FORK_AND_EXIT, server.host)
    assert server.connections == 2
    server.wait_gone()


FORK_IN_A_STREAM = """
import gc, os, sys
from dbllm import Client
client = Client(sys.argv[1], "t")
stream = client.endpoint("ep").stream_chat("hi")
stream.__enter__()
next(stream)
child = os.fork()
if child == 0:
    if sys.argv[2] == "drops it":
        del stream
        gc.collect()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
client.request("GET", "/go")
assert stream.final().text == "Hello"
client.close()
"""


@pytest.mark.parametrize("child", ["drops it", "ends"])
def test_a_forked_child_leaves_its_parents_open_stream_to_it(serve, script, child):
    def streams(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + frame(HELLO[0]))
        peer.wait()
        peer.send(b"".join(map(frame, HELLO[1:])) + b"0\r\n\r\n")
        peer.wait_gone()

    def opens(peer: Peer) -> None:
        while peer.request():
            peer.server.go.set()
            peer.answer()

    script(FORK_IN_A_STREAM, serve(streams, opens).host, child)


# --- plain code in odd places -----------------------------------------------------------------------------------------


def test_the_sync_client_works_inside_running_loops_and_in_threads(serve):
    server = serve()
    with dbllm.Client(server.host, "t") as client:

        async def main() -> None:
            assert client.request("GET", "/x") == "hello"

        asyncio.run(main())
        trio.run(main)
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()
    assert len(server.requests) == 3


def test_eight_threads_share_one_sync_client_and_answers_are_never_mixed_up(serve):
    def echo(peer: Peer) -> None:
        while request := peer.request():
            peer.answer(request.json)

    server = serve(echo)
    wrong: list[Any] = []
    with dbllm.Client(server.host, "t", max_connections=4) as client:

        def work(name: int) -> None:
            for number in range(50):
                if client.request("POST", "/x", json=[name, number]) != [name, number]:
                    wrong.append((name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert permits(client) == 0
    assert wrong == []
    assert len(server.requests) == 400
    assert server.peak <= 4


INTERRUPT = """
import logging, os, signal, sys, threading, time
from dbllm import Client

logging.getLogger("dbllm.retry").setLevel("ERROR")  # a pause before a retry is told on stderr

def stalled():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)

with Client(sys.argv[1], "t") as client:
    client.request("GET", "/warm")
    for call in (
        lambda: client.request("POST", "/slow", json={}),
        lambda: client.endpoint("slow").stream_chat("hi").final(),
        lambda: client.request("GET", "/busy", timeout=60),
    ):
        threading.Thread(target=stalled).start()
        began = time.monotonic()
        try:
            call()
        except KeyboardInterrupt:
            took = time.monotonic() - began
        assert 0.2 < took < 15, took
        (context,) = client._core._transport.backend._contexts.values()
        assert not context.limiter.holders
        assert client.request("GET", "/warm") == "hello"
print("well")
"""


def test_ctrl_c_ends_a_slow_sync_call_at_once_and_the_client_goes_on(serve, script):
    tried: list[str] = []

    def slow(peer: Peer) -> None:
        while request := peer.request():
            if "warm" in request.line:
                peer.answer()
            elif "busy" in request.line:
                tried.append(request.line)
                peer.answer({"message": "busy"}, 503, retry_after="20")
            else:
                tried.append(request.line)
                peer.wait_gone()
                return

    assert script(INTERRUPT, serve(slow).host) == "well\n"
    assert len(tried) == 3, "an interrupted call was sent again"


GARBAGE = """
import gc, sys
from dbllm import Client
client = Client(sys.argv[1], "t")
client.request("GET", "/x")
stream = client.endpoint("ep").stream_chat("hi")
next(stream)
del client, stream
gc.collect()
"""


def test_an_unclosed_sync_client_closes_its_sockets_when_it_is_collected(serve):
    server = serve(two_minds)
    client = dbllm.Client(server.host, "t")
    assert client.request("GET", "/x") == "hello"
    del client
    gc.collect()
    server.wait_gone(0)


def test_an_unclosed_sync_client_ends_without_a_warning(serve, script):
    server = serve(two_minds)
    script(GARBAGE, server.host)
    server.wait_gone()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("library", ["asyncio"])
def test_a_dropped_async_client_closes_its_sockets_while_its_loop_runs_on(serve, library):
    server = serve()

    async def main() -> None:
        client = dbllm.AsyncClient(server.host, "t")
        await client.request("GET", "/x")
        del client
        gc.collect()
        await anyio.to_thread.run_sync(server.wait_gone, 0)

    anyio.run(main, backend=library)


# --- deadlines --------------------------------------------------------------------------------------------------------


def drip(start: bytes) -> Callable[[Peer], None]:
    """Sends one byte after the other, for ever."""

    def play(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        while not peer.gone.is_set() and not peer.server.go.wait(0.02):
            peer.send(b"x")

    return play


def silent(peer: Peer) -> None:
    peer.request()
    peer.wait_gone()


@pytest.mark.parametrize(
    "behaviour",
    [silent, drip(b""), drip(b"HTTP/1.1 200 OK\r\nx-slow: "), drip(head(length=100_000))],
    ids=["silent", "dripping from the first byte", "dripping headers", "dripping body"],
)
async def test_a_deadline_holds_against_any_server(make, serve, behaviour, mode):
    server = serve(behaviour)
    async with make(server.host) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.APITimeoutError) as caught:
            await client.request("POST", "/x", json={}, timeout=0.3)
        took = time.monotonic() - began
        assert permits(client) == 0
        await waited(mode, server.wait_gone, 0)
    assert 0.25 < took < 15
    assert caught.value.sent is True
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "behaviour",
    [silent, drip(b"HTTP/1.1 200 OK\r\nx-slow: "), drip(head(length=100_000))],
    ids=["silent", "dripping headers", "dripping body"],
)
@pytest.mark.parametrize("way", ["a proxy", "httpx"])
async def test_a_deadline_holds_through_a_proxy_and_over_httpx_as_well(make, serve, behaviour, way):
    server = serve(behaviour)
    options = {"proxy": server.host} if way == "a proxy" else {"engine": "httpx"}
    async with make("http://127.0.0.1:9" if way == "a proxy" else server.host, **options) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.APITimeoutError):
            await client.request("POST", "/x", json={}, timeout=0.3)
        took = time.monotonic() - began
        assert permits(client) == 0
    assert 0.25 < took < 15


async def test_a_deadline_holds_for_a_stream_whose_first_event_drips(make, serve, mode):
    server = serve(drip(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: "))
    async with make(server.host, timeout=dbllm.Timeout(total=0.3, read=0.3)) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.APIError):
            await client.endpoint("ep").stream_chat("hi", retry=ONCE).final()
    assert time.monotonic() - began < 15


async def test_a_deadline_holds_for_a_tls_handshake_that_never_ends(make, serve):
    server = serve(silent)
    async with make(server.host.replace("http:", "https:"), timeout=0.3) as client:
        began = time.monotonic()
        with pytest.raises((dbllm.APITimeoutError, dbllm.APIConnectionError)):
            await client.request("GET", "/x", retry=ONCE)
        assert time.monotonic() - began < 15
        assert permits(client) == 0


async def test_the_connect_timeout_is_its_own(make, serve):
    server = serve(silent)
    patience = dbllm.Timeout(total=60, connect=0.2)
    async with make(server.host.replace("http:", "https:"), timeout=patience) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.APITimeoutError) as caught:
            await client.request("GET", "/x", retry=ONCE)
    assert time.monotonic() - began < 15
    assert caught.value.sent is False


async def test_a_healthy_server_passes_under_the_same_deadline(make, serve):
    server = serve()
    async with make(server.host, timeout=1.5) as client:
        assert await client.request("GET", "/x") == "hello"


# --- locks ------------------------------------------------------------------------------------------------------------


async def test_a_look_up_whose_caller_gives_up_is_taken_over_by_the_next(make, serve, mode):
    def first_stalls(peer: Peer) -> None:
        peer.request()
        peer.wait_gone()

    server = serve(first_stalls, lambda peer: [peer.request(), peer.answer({}), keep_predicting(peer)])
    async with make(server.host, retry=ONCE) as client:
        endpoint = client.endpoint("ep")

        async def second() -> str:
            await waited(mode, server.wait_arrived)
            return await endpoint.complete("x", timeout=5)

        results = await together(mode, [lambda: endpoint.complete("x", timeout=0.3), second])
    assert isinstance(results[0], dbllm.APITimeoutError)
    assert results[1] == "hi"


def keep_predicting(peer: Peer) -> None:
    while peer.request():
        peer.answer({"predictions": ["hi"]})


def test_an_interrupted_lock_is_free_again():
    backend = SyncBackend("http://127.0.0.1:1", limit=1)

    async def hold() -> None:
        async with backend.lock("name", float("inf")):
            raise KeyboardInterrupt

    async def take() -> bool:
        async with backend.lock("name", backend.clock() + 1):
            return True

    with pytest.raises(KeyboardInterrupt):
        run_without_loop(hold())
    assert run_without_loop(take())


def test_streams_of_one_sync_client_go_side_by_side(serve):
    def later(peer: Peer) -> None:
        peer.wait()
        peer.send(frame(piece("b", "stop")) + frame("[DONE]") + b"0\r\n\r\n")

    server: Server = serve(streaming(piece("a"), then=later), keep_answering)
    with dbllm.Client(server.host, "t") as client:
        first = client.endpoint("ep").stream_chat("hi")
        assert next(first).text == "a"
        assert client.request("GET", "/x") == "hello"
        server.go.set()
        assert first.final().text == "ab"


def test_a_stream_that_has_come_whole_frees_its_connection_before_it_is_read_to_its_end(serve):
    def at_once(peer: Peer) -> None:
        whole = STREAM_HEAD + b"".join(map(frame, (piece("a"), piece("b", "stop"), "[DONE]"))) + b"0\r\n\r\n"
        while peer.request():
            peer.send(whole)

    server: Server = serve(at_once)
    with dbllm.Client(server.host, "t", max_connections=1, timeout=dbllm.Timeout(queue=5)) as client:
        first, second = (client.endpoint("ep").stream_chat("hi") for _ in range(2))
        assert next(first).text == "a"
        assert second.final().text == "ab"
        assert first.final().text == "ab"
    assert server.connections == 1
