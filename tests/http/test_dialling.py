"""Dialling a name: the first address that answers, and no socket beside it."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import pytest

from dbllm._http.dialling import Address, dial

ASYNC = pytest.mark.parametrize("mode", ["asyncio", "trio"])
FOUND: list[Address] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (1, 2, 3)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Every TCP socket that is made; the loop has others."""
    sockets: list[socket.socket] = []

    class Recorded(socket.socket):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if self.proto == socket.IPPROTO_TCP:
                sockets.append(self)

    monkeypatch.setattr("dbllm._http.dialling.socket.socket", Recorded)
    return sockets


def still_open(sockets: list[socket.socket]) -> list[socket.socket]:
    return [sock for sock in sockets if sock.fileno() >= 0]


@ASYNC
async def test_the_first_address_to_answer_wins_and_all_others_are_closed(mode: str, made: Any) -> None:
    async def connect(sock: socket.socket, address: Any) -> None:
        if address[1] == 1:
            raise ConnectionRefusedError
        if address[1] == 2:
            await anyio.sleep_forever()

    winner = await dial(FOUND, connect, delay=0)
    assert (still_open(made), len(made)) == ([winner], 3)
    winner.close()


@ASYNC
async def test_two_that_answer_at_once_leave_one_socket(mode: str, made: Any) -> None:
    both = anyio.Event()

    async def connect(sock: socket.socket, address: Any) -> None:
        if address[1] == 3:
            both.set()
        with anyio.CancelScope(shield=True):  # it cannot be called off any more
            await both.wait()

    winner = await dial(FOUND, connect, delay=0)
    assert still_open(made) == [winner]
    winner.close()


@ASYNC
async def test_a_cancellation_in_the_moment_of_success_closes_all(mode: str, made: Any) -> None:
    async def connect(sock: socket.socket, address: Any) -> None:
        scope.cancel()  # from now on; the socket is connected

    with anyio.CancelScope() as scope:
        (await dial(FOUND, connect, delay=0)).close()  # the success may come first: then it is the caller's
    assert made
    assert not still_open(made)


@ASYNC
async def test_no_address_or_none_that_answers_is_an_oserror(mode: str, made: Any) -> None:
    async def connect(sock: socket.socket, address: Any) -> None:
        raise ConnectionRefusedError(f"port {address[1]}")

    with pytest.raises(ConnectionRefusedError, match="port 3"):
        await dial(FOUND, connect)
    with pytest.raises(OSError, match="no address"):
        await dial([], connect)
    assert not still_open(made)


@ASYNC
async def test_both_families_are_tried_by_turns(mode: str) -> None:
    tried: list[str] = []

    async def connect(sock: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    kinds = [socket.AF_INET6] * 3 + [socket.AF_INET] * 2
    found = [(kind, socket.SOCK_STREAM, 6, "", f"{kind.name} {place}") for place, kind in enumerate(kinds)]
    with pytest.raises(ConnectionRefusedError):
        await dial(found, connect)
    assert tried == ["AF_INET6 0", "AF_INET 3", "AF_INET6 1", "AF_INET 4", "AF_INET6 2"]


@pytest.mark.parametrize("mode", ["asyncio"])
async def test_a_name_is_dialled_in_that_way(make: Any, serve: Any, monkeypatch: Any, mode: str) -> None:
    """Its first address refuses."""
    server = serve()
    port = int(server.host.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in (1, port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    async with make(f"http://localhost:{port}") as client:
        assert await client.request("GET", "/x") == "hello"
    assert server.connections == 1
