"""What bulk promises in figures, on real servers of other processes: its price, what faults leave, the ledger.

They run in `nox -s bulk`; `DBLLM_BULK_ROWS` is the number of rows (5,000; long: 100,000).
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dbllm
from dbllm import Limits, Retry, bulk
from dbllm.testing import ALL_FAULTS, SAFE_FAULTS, fault_server

pytestmark = [
    pytest.mark.skipif(os.environ.get("DBLLM_BULK") != "thorough", reason="figures: nox -s bulk"),
    pytest.mark.timeout(3600),  # with 100,000 rows they take longer than other tests
]

ROWS = int(os.environ.get("DBLLM_BULK_ROWS", "5000"))
SERVER = Path(__file__).parents[1] / "bench" / "server.py"
QUICK = Retry(attempts=8, backoff=0.01, max_backoff=0.2)


@pytest.fixture
def five_milliseconds() -> Iterator[str]:
    """The benchmark's server, in a process of its own, which answers after 5 ms."""
    program = (
        f"import sys; sys.path.insert(0, {str(SERVER.parent)!r})\n"
        "import asyncio, server; server.DELAY = 0.005; asyncio.run(server.main())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().split()[1]}"
        process.communicate(timeout=10)


def test_it_sends_nearly_as_fast_as_a_bare_gather(five_milliseconds: str) -> None:
    number = 800

    async def gather(handle: Any) -> None:
        places = asyncio.Semaphore(64)

        async def one(place: int) -> None:
            async with places:
                await handle.generate(f"p{place}")

        await asyncio.gather(*(one(place) for place in range(number)))

    async def ours(handle: Any) -> None:
        async for row in bulk.rows(handle, (f"p{place}" for place in range(number)), concurrency=64):
            assert row.ok

    async def body() -> list[tuple[float, float]]:
        ratios = []
        async with dbllm.AsyncClient(five_milliseconds, "t") as client:
            handle = client.endpoint("bench")
            for turn in range(21):
                took: dict[Callable[[Any], Awaitable[None]], tuple[float, float]] = {}
                for way in (gather, ours) if turn % 2 else (ours, gather):
                    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
                    await way(handle)
                    now = resource.getrusage(resource.RUSAGE_SELF)
                    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
                    took[way] = time.perf_counter() - began, cpu
                ratios.append((took[gather][0] / took[ours][0], took[gather][1] / took[ours][1]))
        return ratios[1:]

    for _ in range(3):  # beside other work of the machine the best of three counts
        wall, cpu = (statistics.median(column) for column in zip(*asyncio.run(body()), strict=True))
        print(
            f"rows beside a bare gather: {wall:.0%} of its rows a second, {cpu:.0%} of its rows for the same CPU time"
        )
        if wall >= 0.85:
            break
    assert wall >= 0.85


MIXES: dict[str, tuple[dict[str, float], bool, int]] = {  # name: faults, ambiguous ones again, calls at once
    "safe faults": (SAFE_FAULTS, False, 8),
    "all faults": ({**ALL_FAULTS, "early_413": 0.0}, False, 32),  # 413 is an answer: it is final
    "all faults, ambiguous ones again": ({**ALL_FAULTS, "early_413": 0.0}, True, 32),
}


@pytest.mark.parametrize("name", MIXES)
def test_faults_leave_every_row_accounted_for_and_the_ledger_equal(name: str) -> None:
    mix, again, concurrency = MIXES[name]
    retry = Retry(attempts=8, backoff=0.01, max_backoff=0.2, retry_ambiguous=again)
    seen, tokens, answered, unclear = bytearray(ROWS), 0, 0, 0
    errors: Counter[str] = Counter()
    paid: Counter[str] = Counter()

    async def body(server: Any) -> None:
        nonlocal tokens, answered, unclear
        async with dbllm.AsyncClient(server.host, "t", timeout=30.0) as client:
            prompts = (f"p{place}" for place in range(ROWS))
            handle = client.endpoint("m", task="chat")
            async for row in bulk.rows(handle, prompts, concurrency=concurrency, retry=retry):
                seen[row.index] += 1
                answered += row.ok
                tokens += row.output_tokens or 0
                unclear += row.unclear
                if row.error is not None:
                    what = f"{row.error.name}, {row.error.attempts} attempts: {row.error.message[:60]}"
                    errors[what] += 1
                    paid[what] += row.error.may_be_paid

    with fault_server(mix=mix, seed=11, pause=0.02, stall=0.3, run=0.15, process=True) as server:
        began = time.monotonic()
        asyncio.run(body(server))
        report = server.report()
    print(
        f"{name}: {ROWS} rows, {answered / ROWS:.3%} answered, {ROWS - answered} error rows, {paid.total()} of them "
        f"may be paid; {unclear} unclear attempts, {report.executions - tokens} executions without an answer; "
        f"{ROWS / (time.monotonic() - began):.0f} rows a second; {errors.most_common(5)}"
    )
    assert set(seen) == {1}
    assert tokens == answered  # one token an answer
    assert tokens <= report.executions <= tokens + unclear  # what the server ran beyond the answers is marked
    assert paid == errors or name == "safe faults"
    if name != "all faults":
        assert ROWS - answered <= max(3, 0.0005 * ROWS)


def test_without_faults_the_usage_is_the_servers_ledger() -> None:
    async def body(server: Any) -> int:
        async with dbllm.AsyncClient(server.host, "t") as client:
            rows = bulk.rows(client.endpoint("m", task="chat"), (f"p{place}" for place in range(ROWS)), concurrency=32)
            return sum([row.output_tokens async for row in rows])

    with fault_server(process=True) as server:
        assert asyncio.run(body(server)) == server.report().executions == ROWS


def test_a_limit_is_found_out_on_a_real_server(five_milliseconds: str) -> None:
    """The decisions of tests/bulk/test_adaptive.py with real sockets: a client's place limit queues the calls."""
    number = 6000

    async def rows_a_second(concurrency: int | None) -> float:
        """Of the second half: the search takes the first seconds."""
        async with dbllm.AsyncClient(five_milliseconds, "t", limits=Limits(concurrency=16)) as client:
            rows = bulk.rows(client.endpoint("bench"), ("p" for _ in range(number)), concurrency=concurrency)
            done, half = 0, 0.0
            async for row in rows:
                assert row.ok
                done += 1
                if done == number // 2:
                    half = time.perf_counter()
            return number / 2 / (time.perf_counter() - half)

    best = max(asyncio.run(rows_a_second(fixed)) for fixed in (16, 32, 64))
    found = max(asyncio.run(rows_a_second(None)) for _ in range(3))
    print(f"found out on a real server: {found / best:.0%} of the rows a second of the best fixed number")
    assert found >= 0.8 * best  # 90 % on a quiet machine
