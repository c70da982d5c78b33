"""Each guard can be taken out, here alone; then the proof that rests on it fails, so it does prove something."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.loopback import Peer, Server, head, keep_answering

from dbllm import APIError, APITimeoutError, AsyncClient, Client, Retry
from dbllm.testing import cancel_everywhere, fault_server

ONCE = Retry(attempts=1)
CHAT = b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}'


def answer(text: bytes) -> bytes:
    body = CHAT % text
    return head(200, len(body)) + body


@contextmanager
def serving(*scripts: Callable[[Peer], None]) -> Iterator[Server]:
    server = Server(scripts)
    try:
        yield server
    finally:
        server.close()


def late_forgery(peer: Peer) -> None:
    """Answers, and sends a second answer that nobody asked for, once the first has been read."""
    while peer.request():
        peer.send(answer(b"own"))
        peer.server.go.wait(5)
        peer.send(answer(b"forged"))
        peer.server.arrived.release()


# --- proofs: each raises an AssertionError where it does not hold -----------------------------------------------------


def nothing_crosses() -> None:
    with serving(late_forgery) as server, Client(server.host, "token", engine="h11") as client:
        client.endpoint("m").chat("1")
        server.wait_arrived()  # the request
        server.go.set()
        server.wait_arrived()  # the forgery, which is on its way now
        time.sleep(0.02)
        assert client.endpoint("m").chat("2").text == "own"


def an_outage_gets_no_storm() -> None:
    async def main() -> float:
        with fault_server(mix={"503": 1.0}) as server:
            async with AsyncClient(server.host, "token", retry=Retry(backoff=0.001), max_connections=20) as client:
                calls = [client.endpoint("m").chat(str(number)) for number in range(400)]
                await asyncio.gather(*calls, return_exceptions=True)
            return server.report().requests / 400

    assert asyncio.run(main()) <= 1.2


def what_may_have_run_is_not_sent_again() -> None:
    mix: Any = {"reset_in_body": 0.5, "broken_gzip": 0.5}
    with fault_server(mix=mix) as server, Client(server.host, "token", retry=Retry(backoff=0)) as client:
        for number in range(6):
            with pytest.raises(APIError):
                client.endpoint("m").chat(str(number))
        assert server.report().most_executions == 1


def a_slow_end_means_that_it_ran() -> None:
    """A kept connection that ends half a second after its request."""
    with fault_server(run=0.5) as server, Client(server.host, "token", engine="h11") as client:
        client.endpoint("m").chat("first")
        server.change(mix={"close_before_head": 1.0})
        with pytest.raises(APIError):
            client.endpoint("m").chat("second")
        assert server.report().most_executions == 1


def a_cancelled_call_gives_its_permit_back() -> None:
    async def chat(client: Any) -> None:
        await client.endpoint("m").chat("hello", timeout=0.3)

    with fault_server() as server:
        report = cancel_everywhere(chat, lambda: AsyncClient(server.host, "token", max_connections=1))
        assert report.ok, report


def an_echoed_token_is_not_shown() -> None:
    def echo(peer: Peer) -> None:
        while request := peer.request():
            peer.answer({"message": request.headers["authorization"]}, status=400)

    with serving(echo) as server, Client(server.host, "canary-of-a-token") as client:
        with pytest.raises(APIError) as caught:
            client.endpoint("m").chat("hello")
        assert "canary" not in str(caught.value)


def a_call_ends_at_its_deadline() -> None:
    with serving(lambda peer: (peer.request(), peer.server.go.wait(3))[0]) as server:  # type: ignore[arg-type, return-value]
        with Client(server.host, "token", timeout=0.2, retry=ONCE) as client:
            began = time.monotonic()
            with pytest.raises(APIError) as caught:
                client.endpoint("m").chat("hello")
            assert isinstance(caught.value, APITimeoutError), caught.value
            assert time.monotonic() - began < 2
        server.go.set()


def a_cut_answer_ends_its_connection() -> None:
    """A stream that is left early: the rest of it is no answer to the next call."""
    with fault_server(between=0.05) as server, Client(server.host, "token", engine="h11") as client:
        with client.endpoint("m").stream_chat("a long text") as stream:
            next(stream)
        assert client.endpoint("m").chat("the next").text == "the next"


def a_forked_child_dials_anew() -> None:
    with serving(keep_answering) as server, Client(server.host, "token") as client:
        client.request("GET", "/parent")
        child = os.fork()
        if child == 0:
            try:
                client.request("GET", "/child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert server.connections == 2


def threads_never_have_more_connections_than_allowed() -> None:
    with fault_server(latency=0.01) as server, Client(server.host, "token", max_connections=2) as client:

        def call() -> None:
            client.endpoint("m").chat("hello")

        threads = [threading.Thread(target=call) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.report().connections <= 3  # one of them asks for the report


def no_redirect_is_followed() -> None:
    def point_elsewhere(peer: Peer) -> None:
        peer.request()
        peer.send(f"HTTP/1.1 307 T\r\nlocation: {elsewhere.host}/\r\ncontent-length: 0\r\n\r\n".encode())

    with serving(keep_answering) as elsewhere, serving(point_elsewhere) as server:
        with Client(server.host, "token", engine="httpx", retry=ONCE) as client, pytest.raises(APIError):
            client.endpoint("m").chat("hello")
        assert elsewhere.connections == 0


def a_compression_bomb_takes_little_memory() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join([*(bomb.compress(bytes(2**20)) for _ in range(100)), bomb.flush()])

    def explode(peer: Peer) -> None:
        peer.request()
        peer.send(head(200, len(body), content_encoding="gzip") + body)

    with serving(explode) as server, Client(server.host, "token", engine="h11", retry=ONCE) as client:
        tracemalloc.start()
        try:
            with pytest.raises(APIError):
                client.endpoint("m").chat("hello")
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()


# --- what is taken out ------------------------------------------------------------------------------------------------


def without_the_look_at_idle_connections(patch: pytest.MonkeyPatch) -> None:
    from dbllm._http.connection import H1Connection

    patch.setattr(H1Connection, "ready", True)


def without_the_budget(patch: pytest.MonkeyPatch) -> None:
    from dbllm._transport.health import EndpointHealth

    patch.setattr(EndpointHealth, "may_retry", lambda self: True)


def without_the_table_of_who_may_be_sent_twice(patch: pytest.MonkeyPatch) -> None:
    from dbllm._transport import retry

    patch.setattr(retry, "classify", lambda error, method: "transient")


def without_the_look_at_the_time_of_an_end(patch: pytest.MonkeyPatch) -> None:
    from dbllm._http import connection

    patch.setattr(connection, "_SHORTEST_RACE", 60.0)
    patch.setattr(connection, "_LONGEST_RACE", 60.0)


def without_the_release_of_permits(patch: pytest.MonkeyPatch) -> None:
    """Both: where a call ends, and where one that was lost on the way is finalised. Its socket is closed."""
    from dbllm._http.pool import ConnectionLimiter

    patch.setattr(ConnectionLimiter, "release", lambda self, holder: None)
    patch.setattr(ConnectionLimiter, "_lost", lambda self, dead: None)


def without_redaction(patch: pytest.MonkeyPatch) -> None:
    from dbllm._auth.redaction import Redaction

    patch.setattr(Redaction, "_all_forms", lambda self: [])


def without_deadlines(patch: pytest.MonkeyPatch) -> None:
    from dbllm._http.blocking_socket import BlockingSocket

    patch.setattr(BlockingSocket, "_left", lambda self: None)


def without_the_end_of_half_read_connections(patch: pytest.MonkeyPatch) -> None:
    from dbllm._http.pool import Exchange

    async def keep(self: Any) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            self._pool._idle.append((connection, self._pool.context.clock()))
        self._pool.limiter.release(self)

    patch.setattr(Exchange, "aclose", keep)
    without_the_look_at_idle_connections(patch)


def without_the_look_at_the_process(patch: pytest.MonkeyPatch) -> None:
    from dbllm._backends import blocking

    parent = os.getpid()
    patch.setattr(blocking.os, "getpid", lambda: parent)


def without_the_limit_of_connections(patch: pytest.MonkeyPatch) -> None:
    from dbllm._http.pool import ConnectionLimiter

    async def at_once(self: Any, holder: Any, timeout: float | None, _request: Any = None) -> bool:
        self.holders.add(holder)
        return True

    patch.setattr(ConnectionLimiter, "acquire", at_once)


def without_the_refusal_of_redirects(patch: pytest.MonkeyPatch) -> None:
    send: Any = httpx.Client.send
    patch.setattr(httpx.Client, "send", lambda *args, **kwargs: send(*args, **{**kwargs, "follow_redirects": True}))


def without_the_bounds_of_decompression(patch: pytest.MonkeyPatch) -> None:
    from dbllm._http import decompression

    patch.setattr(decompression, "_RATIO", 10**9)
    patch.setattr(decompression, "STEP", 2**30)


GUARDS: dict[Callable[[pytest.MonkeyPatch], None], Callable[[], None]] = {
    without_the_look_at_idle_connections: nothing_crosses,
    without_the_budget: an_outage_gets_no_storm,
    without_the_table_of_who_may_be_sent_twice: what_may_have_run_is_not_sent_again,
    without_the_look_at_the_time_of_an_end: a_slow_end_means_that_it_ran,
    without_the_release_of_permits: a_cancelled_call_gives_its_permit_back,
    without_redaction: an_echoed_token_is_not_shown,
    without_deadlines: a_call_ends_at_its_deadline,
    without_the_end_of_half_read_connections: a_cut_answer_ends_its_connection,
    without_the_look_at_the_process: a_forked_child_dials_anew,
    without_the_refusal_of_redirects: no_redirect_is_followed,
    without_the_bounds_of_decompression: a_compression_bomb_takes_little_memory,
    without_the_limit_of_connections: threads_never_have_more_connections_than_allowed,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("taken_out", GUARDS)
def test_a_proof_fails_once_its_guard_is_taken_out(
    taken_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbllm.testing.cancellation._PATIENCE", 0.5)
    proof = GUARDS[taken_out]
    proof()
    gc.collect()  # what the whole program left open is told of here
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # what the broken one leaves open is no news
        taken_out(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception, APIError)):
            proof()
        gc.collect()
