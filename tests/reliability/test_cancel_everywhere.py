"""A call that is cancelled anywhere leaves nothing behind, and the next one works."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme
from reliability.figures import LONG, record

from dbllm import APIError, AsyncClient, Client, Retry
from dbllm.testing import ALL_FAULTS, FaultServer, cancel_everywhere, fault_server, take_census
from dbllm.testing.cancellation import SweepMode

CANCELS = 10_000 if LONG else 1_500
ENGINES: dict[SweepMode, tuple[str, ...]] = {
    "asyncio": ("h11", "httptools", "httpx"),
    "uvloop": ("h11", "httptools"),
    "trio": ("h11", "httpx"),
    "plain": ("h11",),  # over httpx an interrupt within the standard library's dialling leaves it to the collector
}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server(latency=0.001, between=0.02, process=True) as running:
        yield running


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultServer, str]]:
    folder: Path = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    with fault_server(latency=0.001, between=0.02, certificate=str(folder / "server.pem"), process=True) as running:
        yield running, str(folder / "ca.pem")


async def unary(client: Any) -> None:
    await client.endpoint("m").chat("hello")


async def stream(client: Any) -> None:
    async with client.endpoint("m").stream_chat("a text") as opened:
        await opened.final()


async def embed(client: Any) -> None:
    await client.endpoint("m").embed(["a", "b", "c", "d"], batch_size=2)


async def control_plane(client: Any) -> None:
    await client.endpoints.get("m")
    await client.endpoints.list()


def plain_unary(client: Any) -> None:
    client.endpoint("m").chat("hello")


def plain_stream(client: Any) -> None:
    with client.endpoint("m").stream_chat("a text") as opened:
        opened.final()


def plain_embed(client: Any) -> None:
    client.endpoint("m").embed(["a", "b", "c", "d"], batch_size=2)


def plain_control_plane(client: Any) -> None:
    client.endpoints.get("m")
    client.endpoints.list()


CALLS: dict[str, tuple[Callable[[Any], Awaitable[None]], Callable[[Any], None]]] = {
    "unary": (unary, plain_unary),
    "stream": (stream, plain_stream),
    "embed": (embed, plain_embed),
    "control plane": (control_plane, plain_control_plane),
    "token refresh": (unary, plain_unary),
    "TLS": (unary, plain_unary),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("mode", ENGINES)
def test_a_cancellation_at_each_wait_leaves_nothing_open(
    server: FaultServer, secured: tuple[FaultServer, str], mode: SweepMode, what: str
) -> None:
    call = CALLS[what][mode == "plain"]
    kind: Any = Client if mode == "plain" else AsyncClient
    wrong = []
    for engine in ENGINES[mode]:
        identity = {"client_id": "principal", "client_secret": "secret"} if what == "token refresh" else {"token": "t"}
        tls = {"verify": secured[1]} if what == "TLS" else {}
        host = secured[0].host if what == "TLS" else server.host

        def make(engine: str = engine, options: Any = {**identity, **tls}, host: str = host) -> Any:  # noqa: B006
            return kind(host, engine=engine, **options)

        report = cancel_everywhere(call, make, mode=mode)
        record("cancel", f"{what}, {mode}, {engine}", points=report.points, cancelled=len(report.cancelled))
        wrong += [] if report.ok else [f"{engine}: {report}"]
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["asyncio", "uvloop", "trio"])
def test_cancellations_at_random_leave_nothing_open(mode: str) -> None:
    async def one(client: Any, number: int) -> None:
        with anyio.move_on_after(random.random() * 0.02):
            try:
                if number % 3:
                    await unary(client)
                else:
                    await stream(client)
            except APIError:
                pass

    async def main(host: str) -> list[str]:
        before = take_census()
        options: Any = {"engine": "h11", "retry": Retry(attempts=4, backoff=0.005), "max_connections": 64}
        async with AsyncClient(host, "token", **options) as client:
            for first in range(0, CANCELS, 500):
                async with anyio.create_task_group() as group:
                    for number in range(first, min(first + 500, CANCELS)):
                        group.start_soon(one, client, number)
            stats = client.stats()
            left = [f"{stats.connections_in_use} in use"] if stats.connections_in_use or stats.waiting else []
            host_is_well = (await client.endpoint("m", task="llm/v1/chat").chat("the last", retry=Retry(20))).text
            left += [] if host_is_well == "the last" else [host_is_well]
        for _ in range(100):
            if not (open_still := take_census().leaked(before)):
                break
            await anyio.sleep(0.02)
        return left + open_still

    mix = {**ALL_FAULTS, "stall": 0.0, "half_open": 0.0}
    with fault_server(mix=mix, seed=5, latency=0.002, between=0.002, run=0.02, process=True) as server:
        if mode == "trio":
            left = trio.run(main, server.host)
        else:
            loop = asyncio.new_event_loop()
            if mode == "uvloop":
                loop.close()
                loop = pytest.importorskip("uvloop").new_event_loop()
            try:
                left = loop.run_until_complete(main(server.host))
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                loop.close()
    record("random cancels", mode, cancels=CANCELS, left=len(left))
    assert left == []
