"""The servers of `engines.py`: TLS, a proxy, and all that a server can do to a client.

`python faults.py CORE CERTIFICATE` prints three ports: TLS in front of the benchmark's fixed answers, a CONNECT proxy
that takes every name for this machine, and faults. What a fault is, its endpoint's name says up to the first dash; what
follows the dash tells one client from another. `GET /about/NAME` says how many connections are open in the middle of a
call to that endpoint and how many calls have come in whole; `GET /go/NAME` lets an endpoint go on.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from server import CHAT, DELAY, STREAM, Answering, encoded

DRIP = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
EVERY = 0.2  # seconds between two bytes
SLOW = 2.0  # seconds until a slow endpoint answers

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

under_way: Counter[str] = Counter()
calls: Counter[str] = Counter()
gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


async def is_idle(name: str, reader: Reader, writer: Writer) -> bool:
    """Never an answer."""
    return bool(await reader.read(1))


async def drip(name: str, reader: Reader, writer: Writer) -> bool:
    """A byte now and then."""
    writer.write(DRIP)
    while True:
        writer.write(b" ")
        try:
            return bool(await asyncio.wait_for(reader.read(1), EVERY))
        except asyncio.TimeoutError:
            pass


async def slow(name: str, reader: Reader, writer: Writer) -> bool:
    """An answer, after a while."""
    await asyncio.sleep(SLOW)
    return await whole(name, reader, writer)


async def gated(name: str, reader: Reader, writer: Writer) -> bool:
    """The first chunk of a stream; the others when the gate is opened, nothing when the client leaves before."""
    writer.write(STREAM[0] + STREAM[1])
    opened, left = asyncio.ensure_future(gates[name].wait()), asyncio.ensure_future(reader.read(1))
    await asyncio.wait({opened, left}, return_when=asyncio.FIRST_COMPLETED)
    stays = not left.done()
    opened.cancel()
    left.cancel()
    await asyncio.gather(opened, left, return_exceptions=True)
    writer.writelines(STREAM[2:])
    return stays


async def leaving(name: str, reader: Reader, writer: Writer) -> bool:
    """An answer like any other, and then the connection is closed, which the answer does not say."""
    writer.write(CHAT)
    return False


async def fickle(name: str, reader: Reader, writer: Writer) -> bool:
    """The first call of a connection is answered; at the second one it is closed."""
    first = not hasattr(writer, "used")
    writer.used = True  # type: ignore[attr-defined]
    return first and await whole(name, reader, writer)


async def broken(name: str, reader: Reader, writer: Writer) -> bool:
    """The call is taken, and the connection closed without an answer."""
    return False


async def whole(name: str, reader: Reader, writer: Writer) -> bool:
    """A healthy endpoint."""
    writer.write(CHAT)
    return True


FAULTS: dict[str, Callable[[str, Reader, Writer], Coroutine[Any, Any, bool]]] = {  # whether the connection stays
    play.__name__: play for play in (is_idle, drip, slow, gated, leaving, fickle, broken, whole)
}


async def serve(reader: Reader, writer: Writer) -> None:
    """One connection to the endpoints."""
    stays = True
    while stays:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        kind, name = head.split(b" ", 2)[1].decode().split("/")[1:3]
        size = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(size or 0))
        if kind in ("about", "go"):
            if kind == "go":
                gates[name].set()
            writer.write(encoded({"under_way": under_way[name], "calls": calls[name]}))
            continue
        under_way[name] += 1
        calls[name] += 1
        try:
            stays = await FAULTS[name.partition("-")[0]](name, reader, writer)
        finally:
            under_way[name] -= 1


async def tunnel(reader: Reader, writer: Writer) -> None:
    """One connection to the proxy."""
    place = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    calls["proxy"] += 1
    there = await asyncio.open_connection("127.0.0.1", int(place.rpartition(b":")[2]))
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))


async def pump(reader: Reader, writer: Writer) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    finally:
        writer.close()


def closing(play: Callable[[Reader, Writer], Coroutine[Any, Any, None]]) -> Callable[[Reader, Writer], Any]:
    """A connection that ends when its function does, or its client."""

    async def whole_life(reader: Reader, writer: Writer) -> None:
        try:
            await play(reader, writer)
        except (OSError, EOFError):  # the client has gone
            pass
        finally:
            writer.close()

    return whole_life


async def main(certificate: str) -> None:
    """Serve until the standard input ends."""
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    here: tuple[str, int] = ("127.0.0.1", 0)
    servers = [
        await loop.create_server(lambda: Answering(DELAY), *here, ssl=tls, backlog=2048),
        *[await asyncio.start_server(closing(play), *here, backlog=2048) for play in (tunnel, serve)],
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(main(sys.argv[2]))
