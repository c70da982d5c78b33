"""A deadline holds, whatever the server does or leaves undone: short here, to the figure in the long form."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from reliability.test_cancel_sockets import run_on
from support.loopback import STREAM_HEAD, Peer, Server, frame, head
from support.samples import piece

import dbllm

LONG = bool(os.environ.get("DBLLM_LONG"))
TIMEOUT = 2.0 if LONG else 0.3
MOST_OVER = 0.1 if LONG else 2.0  # seconds; beside other work of the machine, a short run proves no more
BIG = "x" * 8_000_000  # more than kernels take at once

MODES = [  # loop, engine
    *(("asyncio", engine) for engine in ("h11", "httptools", "httpx")),
    *(("uvloop", engine) for engine in ("h11", "httptools")),
    *(("trio", engine) for engine in ("h11", "httpx")),
    *(("sync", engine) for engine in ("h11", "httpx")),
]


def until_over(peer: Peer, do: Callable[[], None], pause: float = 0.01) -> None:
    """Do something again and again, until the client has gone or the test is over."""
    while not peer.gone.is_set() and not peer.server.go.wait(pause):
        do()


def silence(peer: Peer) -> None:
    peer.request()
    peer.server.go.wait(30)


def drips_head(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nx: ")
    until_over(peer, lambda: peer.send(b"x"))


def drips_header_lines(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    until_over(peer, lambda: peer.send(b"a: b\r\n"))


def floods_interim(peer: Peer) -> None:
    peer.request()
    until_over(peer, lambda: peer.send(b"HTTP/1.1 102 P\r\n\r\n" * 20))


def drips_body(peer: Peer) -> None:
    peer.request()
    peer.send(head(length=10**6))
    until_over(peer, lambda: peer.send(b" "))


def drips_chunks(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    until_over(peer, lambda: peer.send(b"1\r\n \r\n"))


def stalls_in_a_body(peer: Peer) -> None:
    peer.request()
    peer.send(head(length=100) + b"[1, ")
    peer.server.go.wait(30)


def stalls_before_the_close(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n[1, 2]")
    peer.server.go.wait(30)


def drips_gzip(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\xff")
    until_over(peer, lambda: peer.send(b"\0\0\0\xff\xff"))  # empty blocks


def drips_an_error(peer: Peer) -> None:
    peer.request()
    peer.send(head(500, 10**6))
    until_over(peer, lambda: peer.send(b"x"))


def reads_slowly(peer: Peer) -> None:
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    until_over(peer, lambda: peer.gone.set() if not peer.sock.recv(65536) else None, 0.03)


def reads_nothing(peer: Peer) -> None:
    peer.server.go.wait(30)


def refuses_and_reads_nothing(peer: Peer) -> None:
    peer.sock.recv(1000)
    peer.send(head(413, 2) + b"{}")
    peer.server.go.wait(30)


def says_an_hour(peer: Peer) -> None:
    while peer.request():
        peer.answer({"message": "later"}, 429, retry_after="3600")


def says_a_little(peer: Peer) -> None:
    while peer.request():
        peer.answer({"message": "later"}, 429, retry_after_ms="10")


def never_begins(peer: Peer) -> None:
    peer.request()
    peer.send(STREAM_HEAD)
    until_over(peer, lambda: peer.send(b"7\r\n: hi\r\n\n\r\n"))


def stalls_in_a_stream(peer: Peer) -> None:
    peer.request()
    peer.send(STREAM_HEAD + frame(piece("a")))
    peer.server.go.wait(30)


def goes_on_after_done(peer: Peer) -> None:
    peer.request()
    peer.send(STREAM_HEAD + frame(piece("a", "stop")) + frame("[DONE]"))
    until_over(peer, lambda: peer.send(b"7\r\n: hi\r\n\n\r\n"))


def get(client: Any) -> Any:
    return client.request("GET", "/x")


def post(client: Any) -> Any:
    return client.request("POST", "/x", json=BIG)


def stream(client: Any) -> Any:
    return client.endpoint("m").stream_chat("x").final()


# What is called, what the server does, and the ends that are right.
LATE = (dbllm.APITimeoutError,)
SITUATIONS: dict[str, tuple[Any, Callable[[Peer], None], tuple[Any, ...]]] = {
    "silence": (get, silence, LATE),
    "a head that drips": (get, drips_head, LATE),
    "header lines that drip": (get, drips_header_lines, (*LATE, dbllm.APIConnectionError)),
    "interim answers without end": (get, floods_interim, (*LATE, dbllm.APIConnectionError)),
    "a body that drips": (get, drips_body, LATE),
    "chunks that drip": (get, drips_chunks, LATE),
    "a body that stalls": (get, stalls_in_a_body, LATE),
    "a body whose end is the connection's, which stays": (get, stalls_before_the_close, LATE),
    "gzip that drips": (get, drips_gzip, LATE),
    "an error's body that drips": (get, drips_an_error, LATE),
    "a slow reader": (post, reads_slowly, LATE),
    "no reader": (post, reads_nothing, LATE),
    "an early 413": (post, refuses_and_reads_nothing, (dbllm.RequestTooLargeError,)),
    "429 with a hint of an hour": (get, says_an_hour, (dbllm.RateLimitError,)),
    "429 again and again": (get, says_a_little, (dbllm.RateLimitError, *LATE)),
    "a stream that never begins": (stream, never_begins, LATE),
    "a stream that stalls": (stream, stalls_in_a_stream, (dbllm.StreamInterruptedError,)),
    "comments after [DONE]": (stream, goes_on_after_done, (None,)),
}


@contextmanager
def full_queue() -> Iterator[str]:
    """An address that takes no connection and refuses none."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


def end_of(kind: str, engine: str, host: str, call: Any, **options: Any) -> tuple[Any, float]:
    """(the kind of error, or None; seconds over the time-out)."""
    given: list[Any] = []
    total = max(TIMEOUT, 2.0) if call is post else TIMEOUT  # to write that much JSON takes a while by itself
    patience = dbllm.Timeout(total=total, read=total / 2 if call is stream else None)
    options = {"engine": engine, "timeout": patience, "retry": dbllm.Retry(attempts=50, backoff=0.001), **options}

    async def body() -> None:
        async with dbllm.AsyncClient(host, "t", **options) as client:
            began = time.monotonic()
            try:
                await call(client)
                given.append(None)
            except dbllm.DbllmError as error:
                given.append(type(error))
            given.append(time.monotonic() - began - total)

    if kind != "sync":
        run_on(kind, body)
    else:
        with dbllm.Client(host, "t", **options) as client:
            began = time.monotonic()
            try:
                call(client)
                given.append(None)
            except dbllm.DbllmError as error:
                given.append(type(error))
            given.append(time.monotonic() - began - total)
    return given[0], given[1]


@pytest.mark.parametrize(("kind", "engine"), MODES)
@pytest.mark.timeout(0)
def test_a_call_ends_at_its_deadline_whatever_the_server_does(kind: str, engine: str) -> None:
    if engine == "httptools":
        pytest.importorskip("httptools")
    wrong, worst = [], ("", -TIMEOUT)
    for name, (call, script, ends) in SITUATIONS.items():
        server = Server((script,))
        try:
            end, over = end_of(kind, engine, server.host, call)
        finally:
            server.close()
        worst = max(worst, (name, over), key=lambda one: one[1])
        if end not in ends or over > MOST_OVER:
            wrong.append(f"{name}: {end and end.__name__}, {over:+.2f} s")
    with full_queue() as place:
        for name, host, options in (
            ("nobody accepts", f"http://{place}", {}),
            ("a TLS handshake that stalls", "", {}),
            ("a proxy that stalls", "https://workspace.example.com", {"proxy": "-"}),
        ):
            server = Server((reads_nothing,))
            if "proxy" in options:
                options = {"proxy": server.host}
            try:
                end, over = end_of(kind, engine, host or server.host.replace("http:", "https:"), get, **options)
            finally:
                server.close()
            worst = max(worst, (name, over), key=lambda one: one[1])
            if end is not dbllm.APITimeoutError or over > MOST_OVER:
                wrong.append(f"{name}: {end and end.__name__}, {over:+.2f} s")
    print(f"{kind}, {engine}: {len(SITUATIONS) + 3} situations, at most {worst[1]:+.3f} s over ({worst[0]})")
    assert not wrong
