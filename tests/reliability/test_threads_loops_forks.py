"""One client in many threads, in many event loops, and on both sides of a fork: each caller gets its own answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from reliability.figures import LONG, record

from dbllm import AsyncClient, Client
from dbllm.testing import FaultServer, fault_server, leaks

THREADS, CALLS = 32, 500 if LONG else 200
LOOPS = 50 if LONG else 20
FORKED_CALLS = 200
OPEN = 8  # connections that are open when the fork comes


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server(mix={"slices": 0.02}, process=True) as running:
        yield running


def in_threads(count: int, work: Callable[[int], int]) -> int:
    """The sum of what `work` returns in each of so many threads; an error counts as one."""
    found: list[int] = []

    def guarded(number: int) -> None:
        try:
            found.append(work(number))
        except Exception:
            found.append(1)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found) + count - len(found)


def wrong_answers(client: Any, name: str, calls: int) -> int:
    return sum(client.endpoint("m").chat(f"{name} {n}").text != f"{name} {n}" for n in range(calls))


@pytest.mark.timeout(600)
def test_threads_share_a_client(server: FaultServer) -> None:
    with leaks(), Client(server.host, "token", max_connections=16) as client:
        bad = in_threads(THREADS, lambda number: wrong_answers(client, f"thread {number}", CALLS))
        stats = client.stats()
    record("shared", "threads", calls=THREADS * CALLS, bad=bad)
    assert (bad, stats.connections_in_use, stats.waiting, stats.calls) == (0, 0, 0, THREADS * CALLS)


@pytest.mark.timeout(600)
def test_event_loops_share_a_client_one_after_the_other_and_side_by_side(server: FaultServer) -> None:
    async def calls(name: str) -> int:
        replies = [None] * 20

        async def one(number: int) -> None:
            replies[number] = (await client.endpoint("m").chat(f"{name} {number}")).text

        if asyncio._get_running_loop() is not None:
            await asyncio.gather(*map(one, range(20)))
        else:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(one, number)
        return sum(text != f"{name} {number}" for number, text in enumerate(replies))

    client: Any = AsyncClient(server.host, "token")
    with leaks():
        bad = sum(asyncio.run(calls(f"loop {number}")) for number in range(LOOPS))
        bad += trio.run(calls, "trio")
        bad += in_threads(LOOPS, lambda number: asyncio.run(calls(f"side {number}")))
    record("shared", "loops", calls=20 * (2 * LOOPS + 1), bad=bad)
    assert bad == 0


@pytest.mark.timeout(300)
def test_both_sides_of_a_fork_go_on_with_tls_connections_open(certificates: Path) -> None:
    with (
        fault_server(latency=0.02, certificate=str(certificates / "server.pem"), process=True) as server,
        Client(server.host, "token", verify=str(certificates / "ca.pem"), max_connections=OPEN) as client,
    ):
        assert in_threads(OPEN, lambda number: wrong_answers(client, f"before {number}", 2)) == 0
        assert client.stats().connections_idle >= 2
        server.change(latency=0.0)
        child = os.fork()
        if child == 0:
            try:
                status = min(100, wrong_answers(client, "child", FORKED_CALLS))
            except BaseException:
                status = 101
            os._exit(status)
        bad = in_threads(4, lambda number: wrong_answers(client, f"parent {number}", FORKED_CALLS // 4))
        _, status = os.waitpid(child, 0)
        record("shared", "fork", calls=2 * FORKED_CALLS, bad=bad + os.waitstatus_to_exitcode(status))
        assert (bad, os.waitstatus_to_exitcode(status)) == (0, 0)
        assert server.report().flaws == ()
