"""How an engine behaves, for `engines.py`: each function is a row of its table, and returns what stands in a cell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.request import urlopen

from candidates import Make, innermost
from clients import counted, side_by_side

NAME = "workspace.invalid"  # known to the proxy only
PATIENCE = 5.0  # seconds for what should happen at once
Places = Mapping[str, str]


def ask(place: Places, name: str, kind: str = "about") -> dict[str, int]:
    """What the server has seen of an endpoint; `go` opens its gate."""
    with urlopen(f"{place['faults']}/{kind}/{name}") as answer:
        return dict(json.load(answer))


async def until(settled: Callable[[], bool]) -> str:
    """After how many seconds something holds."""
    began = time.perf_counter()
    while not settled():
        if time.perf_counter() - began > PATIENCE:
            return f"not within {PATIENCE:.0f} s"
        await asyncio.sleep(0.005)
    return f"after {time.perf_counter() - began:.2f} s"


def told(error: BaseException) -> str:
    """The first sentence of an error, without what is another every time."""
    said = innermost(error) if hasattr(error, "details") else str(getattr(error, "message", error))
    said = re.sub(r":\d{4,5}\b|<Task .*\]> ", "", " ".join(said.split())).split(". ")[0]
    return f"{type(error).__name__}: {said if len(said) <= 90 else said[:89] + '…'}"


async def outcome(client: Any, name: str) -> str:
    """How one call ends, and after how many seconds if that is not at once."""
    began, said = time.perf_counter(), "works"
    try:
        await client.endpoint(name).chat("hello")
    except (Exception, asyncio.CancelledError) as error:
        said = f"no: {told(error)}"
    seconds = time.perf_counter() - began
    return f"{said} (after {seconds:.2f} s)" if seconds > 0.5 else said


def tls_untrusted(make: Make, place: Places) -> str:
    """A certificate that nobody vouches for."""
    return asyncio.run(outcome(make(place["tls"], attempts=1), "bench"))


def proxied(make: Make, place: Places, explicit: bool = False, excepted: bool = False) -> str:
    """Whether a call goes through the proxy, which alone knows the host's name."""
    if not explicit:
        os.environ["HTTPS_PROXY"] = place["proxy"]
    if excepted:
        os.environ["NO_PROXY"] = NAME
    client = make(place["named"], ca=place["ca"], proxy=place["proxy"] if explicit else None, attempts=1)
    said = asyncio.run(outcome(client, "bench"))
    seen = ask(place, "proxy")["calls"] - int(place["tunnels"])
    return f"{'through the proxy' if seen else 'not through the proxy'}; {said}"


def cancelled(make: Make, place: Places) -> str:
    """64 calls that wait for an answer or are in the middle of one are cancelled."""

    async def play() -> str:
        client, names = make(place["faults"], attempts=1), [f"{kind}-{os.getpid()}" for kind in ("silent", "drip")]
        tasks = [asyncio.create_task(client.endpoint(name).chat("hello")) for name in names * 32]
        arrived = await until(lambda: sum(ask(place, name)["calls"] for name in names) == 64)
        if arrived.startswith("not"):
            return f"no: 64 calls were not under way {arrived}"
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = ", ".join(sorted({type(end).__name__ for end in ends}))
        closed = await until(lambda: not sum(ask(place, name)["under_way"] for name in names))
        left = sum(ask(place, name)["under_way"] for name in names)
        return (
            f"{kinds}; {64 - left} of 64 sockets closed, the last {closed}; next call: {await outcome(client, 'whole')}"
        )

    return asyncio.run(play())


def late(make: Make, place: Places, kind: str, total: float = 1.0, connect: float = 10.0) -> str:
    """A call with a time limit, to an endpoint of that kind."""
    return asyncio.run(outcome(make(place["faults"], total=total, connect=connect, attempts=1), kind))


def streamed(make: Make, place: Places) -> str:
    """The first chunk comes while the server holds the others back; a stream that is left is closed."""

    async def play() -> str:
        client, name = make(place["faults"], attempts=1), f"gated-{os.getpid()}"
        endpoint = client.endpoint(name)
        async with endpoint.stream_chat("hello") as chunks:
            await asyncio.wait_for(anext(aiter(chunks)), PATIENCE)
        closed = await until(lambda: not ask(place, name)["under_way"])
        async with endpoint.stream_chat("hello") as chunks:
            await asyncio.wait_for(anext(aiter(chunks)), PATIENCE)
            ask(place, name, "go")
            rest = await counted(chunks)
        return f"first chunk at once, then {rest}; left early: closed {closed}"

    return asyncio.run(play())


def in_child(run: Callable[[], str]) -> str:
    """What a forked child says."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        signal.alarm(int(PATIENCE))  # ends it
        try:
            os.write(writing, run().encode())
        except BaseException as error:
            os.write(writing, told(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or f"no: hangs for {PATIENCE:.0f} s"


def forked(make: Make, place: Places) -> str:
    """A child made between two calls of its parent, while the parent's connection is kept alive."""

    async def play() -> str:
        client = make(place["at once"], total=PATIENCE)
        await client.endpoint("bench").chat("hello")
        same = in_child(lambda: asyncio.run(outcome(client, "bench")))
        new = in_child(lambda: asyncio.run(outcome(make(place["at once"]), "bench")))
        return f"child: {same}; child with a client of its own: {new}; parent: {await outcome(client, 'bench')}"

    return asyncio.run(play())


def loops(make: Make, place: Places) -> str:
    """Two event loops, one after the other."""
    client = make(place["at once"])
    return f"{asyncio.run(outcome(client, 'bench'))}, then {asyncio.run(outcome(client, 'bench'))}"


def in_trio(make: Make, place: Places) -> str:
    """Under trio."""
    import trio

    return trio.run(outcome, make(place["at once"], attempts=1), "bench")


def threads(make: Make, place: Places) -> str:
    """Threads besides the main one, after 64 calls at once."""

    async def play(host: str) -> str:
        call = make(host).endpoint("bench").chat
        await side_by_side(lambda: call("hello"), 64, 64)
        return str(len(os.listdir("/proc/self/task")) - 1)

    hosts = (place["delayed"], place["delayed"].replace("127.0.0.1", "localhost"))
    counts = [in_child(lambda host=host: asyncio.run(play(host))) for host in hosts]  # type: ignore[misc]
    return f"{counts[0]} to an address, {counts[1]} to a name"


def kept_alive(make: Make, place: Places, kind: str) -> str:
    """A second call, whose connection the server has closed or closes as it comes; with dbllm's own retries."""

    async def play() -> str:
        client, name = make(place["faults"]), f"{kind}-{os.getpid()}"
        await client.endpoint(name).chat("hello")
        await asyncio.sleep(0.2)
        return f"{await outcome(client, name)}; calls that reached the server: {ask(place, name)['calls']}"

    return asyncio.run(play())


def broken(make: Make, place: Places) -> str:
    """A server that takes each call and closes; with dbllm's own retries."""
    client, name = make(place["faults"]), f"broken-{os.getpid()}"
    return f"{asyncio.run(outcome(client, name))}; calls that reached the server: {ask(place, name)['calls']}"


BEHAVIOURS: dict[str, tuple[Callable[..., str], dict[str, Any]]] = {
    "TLS, a certificate nobody vouches for": (tls_untrusted, {}),
    "`proxy=`": (proxied, {"explicit": True}),
    "HTTPS_PROXY": (proxied, {}),
    "HTTPS_PROXY with the host in NO_PROXY (its name is known to the proxy only, so a call fails)": (
        proxied, {"excepted": True}
    ),
    "64 calls cancelled, 32 before their answer and 32 inside it": (cancelled, {}),
    "a server that never answers, time limit 1 s": (late, {"kind": "silent"}),
    "a server that drips a byte each 0.2 s, time limit 1 s": (late, {"kind": "drip"}),
    "an answer after 2 s, time limits 1 s to connect and 30 s in total": (
        late, {"kind": "slow", "total": 30.0, "connect": 1.0}
    ),
    "a stream whose server holds the second chunk back; a stream that is left": (streamed, {}),
    "os.fork with a kept-alive connection": (forked, {}),
    "two `asyncio.run`, one client": (loops, {}),
    "trio": (in_trio, {}),
    "threads started": (threads, {}),
    "second call: its connection was closed meanwhile": (kept_alive, {"kind": "leaving"}),
    "second call: its connection is closed as it comes": (kept_alive, {"kind": "fickle"}),
    "a connection closed instead of an answer": (broken, {}),
}  # fmt: skip
