"""An answer that nobody asked for is never taken for the next call's, once it has arrived when that call begins."""

from __future__ import annotations

import os
import random
import socket
import threading
from typing import Any

import pytest
from reliability.test_cancel_sockets import run_on
from support.loopback import Peer, Server, head

import dbllm
from dbllm._http.blocking_socket import poller
from dbllm._http.connection import H1Connection

CALLS = 20_000 if os.environ.get("DBLLM_LONG") else 400
SEED = int(os.environ.get("DBLLM_SEED", "15"))
MODES = [
    *(("asyncio", engine) for engine in ("h11", "httptools", "httpx")),
    *(("uvloop", engine) for engine in ("h11", "httptools")),
    *(("trio", "h11"), ("sync", "h11"), ("sync", "httpx")),
]


class Doubling:
    """Answers each call with its own number; after a third of the answers comes more, at once or a little later."""

    def __init__(self) -> None:
        self.draw, self.sent = random.Random(SEED), threading.Semaphore(0)
        self.extra = 0

    def __call__(self, peer: Peer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the kernel keeps the second segment back
        while request := peer.request():
            number = request.line.split(" ")[1].removeprefix("/").encode()
            answer, more = head(length=len(number)) + number, b""
            match self.draw.randrange(6):
                case 0:
                    more = head(length=2) + b"-1"
                case 1:
                    more = self.draw.choice((b"x", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n-1", b"HTTP/1.1 102 P\r\n\r\n"))
            self.extra += bool(more)
            if self.draw.randrange(2):
                peer.send(answer + more)
            else:
                peer.send(answer)
                peer.send(more)
            self.sent.release()


def crossed(kind: str, engine: str) -> tuple[int, int]:
    """(answers that were another call's, answers that nobody asked for)."""
    script, wrong = Doubling(), 0
    server = Server((script,))

    async def calls() -> None:
        nonlocal wrong
        async with dbllm.AsyncClient(server.host, "t", engine=engine) as client:
            for number in range(1, CALLS + 1):
                wrong += await client.request("GET", f"/{number}") != number
                script.sent.acquire()  # the program computes meanwhile, and the loop has no turn

    try:
        if kind != "sync":
            run_on(kind, calls)
        else:
            with dbllm.Client(server.host, "t", engine=engine) as client:
                for number in range(1, CALLS + 1):
                    wrong += client.request("GET", f"/{number}") != number
                    script.sent.acquire()
    finally:
        server.close()
    return wrong, script.extra


@pytest.mark.parametrize(("kind", "engine"), MODES)
@pytest.mark.timeout(0)
def test_no_call_gets_what_another_was_to_get(kind: str, engine: str) -> None:
    if engine == "httptools":
        pytest.importorskip("httptools")
    wrong, extra = crossed(kind, engine)
    print(f"{kind}, {engine}: {wrong} crossed of {CALLS}; {extra} times more came than was asked for")
    assert extra > CALLS / 10
    assert wrong == 0


class Late:
    """Answers each call with its own number; when the test says so, comes another that nobody asked for."""

    def __init__(self) -> None:
        self.wanted, self.sent = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, peer: Peer) -> None:
        while request := peer.request():
            number = request.line.split(" ")[1].removeprefix("/").encode()
            peer.send(head(length=len(number)) + number)
            self.wanted.acquire()
            peer.send(head(length=2) + b"-1")
            self.sent.release()


@pytest.mark.parametrize(("looks", "answer"), [(True, 2), (False, -1)])
def test_it_is_the_look_at_the_socket_that_keeps_answers_apart(
    monkeypatch: pytest.MonkeyPatch, looks: bool, answer: int
) -> None:
    look = H1Connection.ready.fget

    def ready(self: Any) -> bool:
        poller(self._socket._socket)(6000)  # until what was sent has arrived
        return look(self) if looks else self.reusable

    monkeypatch.setattr(H1Connection, "ready", property(ready))
    script = Late()
    server = Server((script,))
    try:
        with dbllm.Client(server.host, "t", engine="h11") as client:
            assert client.request("GET", "/1") == 1
            script.wanted.release()
            script.sent.acquire()
            assert client.request("GET", "/2") == answer
    finally:
        script.wanted.release()
        server.close()
