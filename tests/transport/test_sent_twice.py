"""Who may be sent twice: every row of the table in `retry.py`, on real sockets; the server counts what it executes."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from functools import partial
from typing import Any

import pytest
from support.loopback import PATIENCE, Peer, Server, head, keep_answering, streaming
from support.modes import idle, in_thread, together
from support.samples import HELLO

import dbllm

FAST = dbllm.Retry(backoff=0)
AMBIGUOUS = dbllm.Retry(backoff=0, retry_ambiguous=True)


def sends(data: bytes) -> Any:
    """A script: the request is executed, these bytes come, and the server hangs up."""

    def play(peer: Peer) -> None:
        peer.request()
        peer.send(data)

    return play


def resets(peer: Peer) -> None:
    peer.request()
    peer.reset()


def says(status: int, **headers: str) -> Any:
    """A script: the request is executed and answered with this status."""
    return sends(head(status, 2, connection="close", **headers) + b"{}")


# What the first connection does; whether another attempt follows on a POST, on a POST with retry_ambiguous, on a GET.
ROWS: dict[str, tuple[Any, bool, bool, bool]] = {
    "hung up without a byte": (sends(b""), False, True, True),
    "reset": (resets, False, True, True),
    "an interim answer, then hung up": (sends(b"HTTP/1.1 102 Processing\r\n\r\n"), False, True, True),
    "half a status line": (sends(b"HTT"), False, True, True),
    "no HTTP at all": (sends(b"SSH-2.0-OpenSSH\r\n"), False, True, True),
    "a head that is cut": (sends(b"HTTP/1.1 200 OK\r\ncontent-ty"), False, True, True),
    "a header line that is none": (
        sends(b"HTTP/1.1 200 OK\r\nX-Foo : b\r\ncontent-length: 2\r\n\r\n{}"), False, True, True,
    ),
    "two lengths": (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"), False, True, True),
    "a head over the limit": (sends(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 150_000), False, True, True),
    "a body that is cut": (sends(head(length=10) + b'"half'), False, True, True),
    "a chunk without a size": (
        sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), False, True, True,
    ),
    "a body whose compression is cut": (
        sends(head(length=20, content_encoding="gzip", connection="close") + gzip.compress(b"12345678" * 9)[:20]),
        False, True, True,
    ),
    "504": (says(504), False, True, True),
    **{str(status): (says(status), True, True, True) for status in (408, 429, 500, 502, 503, 529)},
    **{str(status): (says(status), False, False, False) for status in (301, 400, 401, 403, 404, 413, 422, 501)},
    "500, and the server says no": (says(500, x_should_retry="false"), False, False, False),
    "504, and the server says yes": (says(504, x_should_retry="true"), True, True, True),
    "400, and the server says yes": (says(400, x_should_retry="true"), True, True, True),
}  # fmt: skip


@pytest.mark.parametrize("own", [None, "httpx"])
@pytest.mark.parametrize("column", ["POST", "POST, ambiguous as well", "GET"])
async def test_every_row_of_the_table(make, serve, clock, column, own):
    wrong: list[str] = []
    for row, (script, *again) in ROWS.items():
        server = serve(script, keep_answering)
        expected = 1 + again[["POST", "POST, ambiguous as well", "GET"].index(column)]
        retry = AMBIGUOUS if "ambiguous" in column else FAST
        async with make(server.host, retry=retry, engine=own) as client:
            clock.on(client)
            try:
                if column == "GET":
                    await client.request("GET", "/x")
                else:
                    await client.request("POST", "/x", json={})
            except dbllm.APIError as error:
                if error.attempts != expected:
                    wrong.append(f"{row}: {error.attempts} attempts in the error")
        if len(server.requests) != expected:
            wrong.append(f"{row}: executed {len(server.requests)} times, not {expected}")
    assert wrong == []


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_many_calls_at_once_run_as_often_as_their_class_allows_and_none_gets_the_answer_of_another(
    make, serve, clock, mode, own
):
    """The server counts executions by the nonce of each call; the first of each fails, on a connection of its own."""
    runs: Counter[str] = Counter()
    columns = {"POST": FAST, "POST, ambiguous as well": AMBIGUOUS, "GET": FAST}
    rows, lock = list(ROWS), threading.Lock()

    def play(peer: Peer) -> None:
        request = peer.request()
        if request is None:
            return
        nonce = request.headers["nonce"]
        with lock:
            runs[nonce] += 1
            first = runs[nonce] == 1
        if first:
            peer.request = lambda: request  # type: ignore[method-assign] # the script reads it once more
            ROWS[rows[int(nonce.split("/")[0])]][0](peer)
        else:
            peer.answer(nonce, connection="close")

    server = serve(play)
    wrong: list[str] = []
    async with make(server.host, engine=own, max_connections=12) as client:
        clock.on(client)

        async def call(nonce: str, column: str) -> None:
            method, more = column.split(",")[0], {} if column == "GET" else {"json": {}}
            try:
                answer = await client.request(
                    method, f"/{nonce}", headers={"nonce": nonce}, retry=columns[column], **more
                )
                if answer != nonce:
                    wrong.append(f"{nonce} got {answer}")
            except dbllm.APIError as error:
                if error.attempts != runs[nonce]:
                    wrong.append(f"{nonce}: {error.attempts} attempts in the error, {runs[nonce]} executions")

        for place, column in enumerate(columns):
            nonces = [f"{row}/{place}/{number}" for row in range(len(rows)) for number in range(2)]
            await together(mode, [partial(call, nonce, column) for nonce in nonces])
            for nonce in nonces:
                row = rows[int(nonce.split("/")[0])]
                if runs[nonce] != 1 + ROWS[row][1 + place]:
                    wrong.append(f"{row}, {column}: executed {runs[nonce]} times")
    assert wrong == []
    assert len(runs) == 6 * len(rows)


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_a_stream_is_as_a_post_until_its_first_event(make, serve, clock, own):
    wrong: list[str] = []
    for row, (script, again, *_) in ROWS.items():
        server = serve(script, streaming(*HELLO))
        async with make(server.host, retry=FAST, engine=own) as client:
            try:
                text = (await clock.on(client).endpoint("ep", task="chat").stream_chat("hi").final()).text
                if not again or text != "Hello":
                    wrong.append(f"{row}: {text!r}")
            except dbllm.APIError as error:
                if again:
                    wrong.append(f"{row}: {error!r}")
        posts = sum(request.line.startswith("POST") for request in server.requests)  # a 404 is explained by a look-up
        if posts != 1 + again:
            wrong.append(f"{row}: executed {posts} times")
    assert wrong == []


async def test_what_no_connection_came_about_for_goes_again_at_once_and_counts_once(make, serve, clock):
    server = serve()
    host = server.host
    server.close()
    async with make(host, retry=dbllm.Retry(attempts=2)) as client:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await clock.on(client).request("POST", "/x", json={})
    assert (caught.value.sent, caught.value.attempts, clock.waits[0]) == (False, 3, 0.0)


# --- a connection that was kept alive ---------------------------------------------------------------------------------


def kept(then: Any) -> Any:
    """A script: one good answer, and then `then`."""

    def play(peer: Peer) -> None:
        peer.request()
        peer.answer()
        then(peer)

    return play


async def test_a_kept_alive_connection_that_was_closed_meanwhile_carries_no_request(make, serve, clock):
    """Where the end and the request meet on the way: no byte of an answer, and the end comes at once."""
    for close in (lambda peer: peer.sock.recv(1), lambda peer: (peer.sock.recv(1), peer.reset())):
        clock.waits.clear()
        server = serve(kept(close), keep_answering)
        async with make(server.host) as client:
            clock.on(client)
            for _ in range(2):
                assert await client.request("POST", "/x", json={}) == "hello"
        assert len(server.requests) == 2
        assert clock.waits == [0.0]


async def test_a_server_that_ends_kept_alive_connections_as_it_begins_to_work_runs_a_post_twice_at_most(
    make, serve, mode
):
    """It cannot be told from one that had closed them before. What follows goes over a connection that was just made,
    and there an end means that the request was sent.
    """
    ready = threading.Barrier(4)
    runs: Counter[str] = Counter()

    def play(peer: Peer) -> None:
        while request := peer.request():
            if "warm" in request.headers:
                ready.wait(PATIENCE)  # as many connections as calls
                peer.answer()
            else:
                runs[request.headers["nonce"]] += 1
                peer.reset()
                return

    server = serve(play)
    async with make(server.host, retry=FAST) as client:
        warm = [partial(client.request, "POST", "/x", json={}, headers={"warm": "1"}) for _ in range(4)]
        assert await together(mode, warm) == ["hello"] * 4
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/x", json={}, headers={"nonce": "one"})
        assert idle(client) == 2  # a new connection takes the place of a kept one
    assert (runs["one"], caught.value.attempts, caught.value.sent) == (2, 2, True)


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n"])
async def test_one_byte_of_an_answer_means_that_the_request_was_sent(make, serve, clock, said):
    def begin(peer: Peer) -> None:
        peer.request()
        peer.send(said)

    server = serve(kept(begin), keep_answering)
    async with make(server.host) as client:
        clock.on(client)
        assert await client.request("POST", "/x", json={}) == "hello"
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/x", json={})
    assert (len(server.requests), caught.value.sent, caught.value.attempts) == (2, True, 1)
    assert caught.value.raw.body == said


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 1), (0.049, 1), (0.051, 0), (0.6, 0)])
async def test_an_end_that_comes_later_than_a_round_trip_means_that_the_request_was_sent(
    make, serve, clock, seconds, runs
):
    """The model may have run until then. The clock stands still but for what is added here, also while dialling."""

    def work(peer: Peer) -> None:
        peer.request()
        peer.wait()

    server: Server = serve(kept(work), keep_answering)

    def hang_up() -> None:
        server.wait_arrived()
        server.wait_arrived()
        clock.time += seconds
        server.go.set()

    async with make(server.host) as client:
        clock.on(client)
        assert await client.request("POST", "/x", json={}) == "hello"
        with in_thread(hang_up):
            if runs:
                assert await client.request("POST", "/x", json={}) == "hello"
            else:
                with pytest.raises(dbllm.APIConnectionError) as caught:
                    await client.request("POST", "/x", json={})
                assert (caught.value.sent, caught.value.attempts) == (True, 1)
    assert len(server.requests) == 2 + runs


async def test_a_server_that_closes_each_connection_executes_each_call_once(make, serve, clock):
    """It does so after an answer that promised to keep it."""

    def one_only(peer: Peer) -> None:
        peer.request()
        peer.answer()

    server = serve(one_only)
    async with make(server.host) as client:
        clock.on(client)
        for _ in range(100):
            assert await client.request("POST", "/x", json={}) == "hello"
    assert len(server.requests) == 100
