"""A call that is cancelled at any of its awaits: no socket, permit or task stays, and the next call works."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
import trio
from support.modes import Steps, permits, run

import dbllm
from dbllm._http import httpcore_backend, sockets

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open sockets are counted in /proc")


class Far(NamedTuple):
    """Where the server in the other process is."""

    plain: int
    tls: int
    proxy: int
    ca: str


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    ca = str(tmp_path_factory.mktemp("ca") / "ca.pem")
    command = [sys.executable, str(Path(__file__).with_name("far_server.py")), ca]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        plain, tls, proxy = map(int, server.stdout.readline().split())
        yield Far(plain, tls, proxy, ca)
        server.communicate()


def open_sockets() -> int:
    count = 0
    for place in Path("/proc/self/fd").iterdir():
        try:
            count += os.readlink(place).startswith("socket:")
        except OSError:  # the folder's own
            pass
    return count


SITUATIONS: dict[str, Callable[[Far], tuple[str, dict[str, Any]]]] = {
    "plain": lambda far: (f"http://127.0.0.1:{far.plain}", {}),
    "tls": lambda far: (f"https://127.0.0.1:{far.tls}", {"verify": far.ca}),
    "two addresses": lambda far: (f"http://localhost:{far.plain}", {}),
    "two addresses, tls": lambda far: (f"https://localhost:{far.tls}", {"verify": far.ca}),
    "proxy": lambda far: (f"https://127.0.0.1:{far.tls}", {"verify": far.ca, "proxy": f"http://127.0.0.1:{far.proxy}"}),
    "httpx": lambda far: (f"http://127.0.0.1:{far.plain}", {"engine": "httpx"}),
    "httpx, tls": lambda far: (f"https://127.0.0.1:{far.tls}", {"verify": far.ca, "engine": "httpx"}),
    "httpx, two addresses": lambda far: (f"http://localhost:{far.plain}", {"engine": "httpx"}),
}


@contextmanager
def two_addresses(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """`localhost` has two addresses that answer, and both are tried at the same time."""
    before = socket.getaddrinfo

    def found(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in ("localhost", b"localhost"):
            return before(host, port, *rest, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", port)), (*kind, ("127.0.0.2", port))]

    with patch.context() as patched:
        patched.setattr(socket, "getaddrinfo", found)
        patched.setattr(sockets, "dial", partial(sockets.dial, delay=0))
        yield


async def unary(client: Any) -> None:
    assert (await client.endpoint("ep").chat("x")).text == "hi"


async def stream(client: Any) -> None:
    async with client.endpoint("ep").stream_chat("x") as opened:
        assert (await opened.final()).text == "p0p1p2"


async def left_early(client: Any) -> None:
    async with client.endpoint("ep").stream_chat("x") as opened:
        await anext(opened)


VERBS = (unary, stream, left_early)


class LateSteps(Steps):
    """Acts in the very turn of asyncio's loop in which what the coroutine waits for at suspension `at` has come."""

    def __await__(self) -> Any:
        try:
            trap = self.coroutine.send(None)
            while True:
                self.count += 1
                if self.count == self.at and self.then is not None and hasattr(trap, "add_done_callback"):
                    trap.add_done_callback(lambda _: self.then())
                try:
                    sent = yield trap
                except BaseException as error:
                    trap = self.coroutine.throw(error)
                else:
                    trap = self.coroutine.send(sent)
        except StopIteration as done:
            return done.value


async def cancelled_at(call: Callable[[], Coroutine[Any, Any, None]], place: int, way: str) -> bool:
    """Cancel a call at its n-th suspension: whether it had ended before."""
    if way == "scope":
        with anyio.CancelScope() as scope:
            steps = Steps(call(), place, scope.cancel)
            await steps
        return steps.count < place

    counted: list[Steps] = []

    async def alone() -> None:
        task = asyncio.current_task()
        assert task is not None
        counted.append((LateSteps if way == "late" else Steps)(call(), place, task.cancel))
        await counted[0]

    with suppress(asyncio.CancelledError):
        await asyncio.create_task(alone())
    return counted[0].count < place


def tasks(kind: str) -> int:
    return trio.lowlevel.current_statistics().tasks_living if kind == "trio" else len(asyncio.all_tasks())


async def settled(count: Callable[[], int], most: int) -> int:
    """The count, once it is no more than that, or has not become so in many turns of the loop."""
    for _ in range(200):
        if count() <= most:
            break
        await anyio.sleep(0.001)
    return count()


async def sweep(kind: str, way: str, host: str, options: dict[str, Any], verb: Any) -> tuple[int, list[str]]:
    """(how many places there are, what stayed at which of them)."""
    wrong: list[str] = []
    async with dbllm.AsyncClient(host, "t", retry=dbllm.Retry(attempts=1), **options) as client:
        await unary(client)  # what is loaded late is loaded now
    place = 0
    gc.collect()
    gc.disable()  # it would hide what is lost
    try:
        done = False
        while not done:
            place += 1
            before, busy = open_sockets(), tasks(kind)
            async with dbllm.AsyncClient(host, "t", retry=dbllm.Retry(attempts=1), **options) as client:
                done = await cancelled_at(lambda client=client: verb(client), place, way)
                if held := permits(client):
                    wrong.append(f"{place}: {held} permits")
                await unary(client)
            if (left := await settled(open_sockets, before) - before) > 0:
                wrong.append(f"{place}: {left} sockets")
            if (left := await settled(lambda: tasks(kind), busy) - busy) > 0:
                wrong.append(f"{place}: {left} tasks")
    finally:
        gc.enable()
        gc.collect()
    return place, wrong


def run_on(kind: str, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    if kind != "uvloop":
        return run(kind, body)
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(body())
    finally:
        loop.close()


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *(("asyncio", way) for way in ("task", "late", "scope")),
        *(("uvloop", way) for way in ("task", "late", "scope")),
        ("trio", "scope"),
    ],
)
def test_a_cancellation_at_any_await_leaves_nothing(
    far: Far, kind: str, way: str, situation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, options = SITUATIONS[situation](far)
    with two_addresses(monkeypatch):
        for verb in VERBS:
            points, wrong = run_on(kind, lambda verb=verb: sweep(kind, way, host, options, verb))
            print(f"{situation}, {kind}, {way}, {verb.__name__}: {points} awaits")
            assert points > 2
            assert not wrong, f"{verb.__name__}: {wrong}"


@pytest.mark.filterwarnings("ignore")  # Python says so, too, when it collects them
def test_without_its_owner_a_socket_of_httpcores_stays(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(self: Any) -> None:
        self._opened.clear()

    monkeypatch.setattr(httpcore_backend.OwningBackend, "close", forgets)
    host, options = SITUATIONS["httpx, tls"](far)
    _, wrong = asyncio.run(sweep("asyncio", "task", host, options, unary))
    assert any("sockets" in what for what in wrong)


@pytest.mark.filterwarnings("ignore")
def test_asyncios_own_race_forgets_a_socket(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python has mended that, this fails: then `dialling` may go."""

    async def connect(self: Any, host: str, port: int, tls: Any, timeout: float | None) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, host, port, happy_eyeballs_delay=0.25)

    with two_addresses(monkeypatch):
        monkeypatch.setattr(sockets.AsyncioSocket, "connect", connect)
        wrong = [
            what
            for _ in range(20)  # it depends on which of two turns of the loop comes first
            for what in asyncio.run(sweep("asyncio", "late", *SITUATIONS["two addresses"](far), unary))[1]
        ]
    assert any("sockets" in what for what in wrong)
