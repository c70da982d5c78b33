"""Jobs of many rows: how soon they go on, how much memory they need, and whether the time that is left is told right.

`nox -s bulk` runs them with 100,000 rows, `DBLLM_LONG=1` with as many as the promises name.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs import SIZE, sized, write_prompts
from support.loopback import Peer, Server

import dbllm
from dbllm import AsyncClient, bulk
from dbllm.bulk.job import BulkJob
from dbllm.bulk.journal import Disk
from dbllm.bulk.manifest import Settings, StopSignal
from dbllm.testing import fault_server

pytestmark = pytest.mark.skipif(
    SIZE == "short" or not Path("/proc/self/status").exists(), reason="figures: nox -s bulk, on Linux"
)

SOURCES = str(Path(dbllm.__file__).parents[1])
PROGRAM = """
import json, sys
from dbllm import AsyncClient, bulk

host, source, output, options = sys.argv[1:]
endpoint = AsyncClient(host, "t").endpoint("m", task="chat")
bulk.run_sync(source, output, endpoint=endpoint, prompt="Say {text}", progress=False, **json.loads(options))
"""


def start(host: str, source: Path, output: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, host, str(source), str(output), json.dumps(options)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SOURCES})


def peak_megabytes(process: int) -> int:
    """The most memory that a process has held, its mapped files among it."""
    found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


class Buffered(Disk):
    """Writes many records at once; only for the making of a journal."""

    def __init__(self) -> None:
        self.kept = bytearray()

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        self.kept += data
        if len(self.kept) > 1 << 22:
            self.flush(handle)
        return len(data)

    def flush(self, handle: int) -> None:
        os.write(handle, self.kept)
        self.kept.clear()


def cpu_seconds(process: int) -> float:
    """The processor's time that a process has taken, which other work of the machine hardly changes."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_most_of_a_job(host: str, source: Path, output: Path, rows: int, done: int) -> None:
    """The files of a job that was killed when so many of its rows were answered, in an order of chance."""
    endpoint = AsyncClient(host, "t").endpoint("m", task="chat")
    mapper = bulk.RowMapper(handle=endpoint, prompt="Say {text}")
    settings = Settings(output=output, name=str(source), path=source)
    disk = Buffered()
    job = BulkJob(settings, mapper, StopSignal(), lambda status: None, Disk())
    job.open()
    job.prepare()
    job.manifest.state, job.manifest.source = "running", job.source_now
    journal = job.journal
    journal._disk = disk
    journal.begin()
    places = list(range(rows))
    random.Random(4).shuffle(places)
    text, shared = "word " * 40, {"finish_reason": "stop", "input_tokens": 60, "output_tokens": 40, "model": "m"}
    for number, row in enumerate(places[:done], 1):
        journal.start(row)
        content = {"output": text, **shared, "attempts": 1, "latency": 0.5, "unclear": 0}
        journal.answer(row, job.plan.keys[row], content, ok=True, tokens=(60, 40))
        if number % 10_000 == 0:
            disk.flush(journal._handle)
            job.save(journal.marked())
    for row in places[done : done + 64]:  # in flight when it died
        journal.start(row)
    disk.flush(journal._handle)
    job.close()


@pytest.mark.timeout(900)
def test_a_job_of_many_rows_goes_on_soon_and_in_little_memory(serve: Callable[..., Server], tmp_path: Path) -> None:
    rows = sized(0, 100_000, 1_000_000)

    def play(peer: Peer) -> None:
        for _ in iter(peer.request, None):
            peer.server.go.wait(300)  # it never answers: the first call is all that is looked for

    server = serve(play)
    source, output = write_prompts(tmp_path / "in.jsonl", rows, words="x" * 300), tmp_path / "out.jsonl"
    write_most_of_a_job(server.host, source, output, rows, rows * 9 // 10)
    took, spent, used = [], [], 0
    for _ in range(3):  # the best of three, beside other work of the machine; each leaves the journal a bit longer
        before, began = len(server.requests), time.perf_counter()
        process = start(server.host, source, output, concurrency=8)
        while len(server.requests) == before and process.poll() is None:
            time.sleep(0.002)
        took.append(time.perf_counter() - began)
        spent.append(cpu_seconds(process.pid))
        used = max(used, peak_megabytes(process.pid))
        process.kill()
        process.wait()
    size = (tmp_path / "out.jsonl.part").stat().st_size
    print(
        f"{rows:,} rows, 90 % done, a journal of {size >> 20} MB: the first call after "
        f"{', '.join(f'{each:.2f}' for each in took)} s "
        f"({', '.join(f'{each:.2f}' for each in spent)} s of a processor), {used} MB"
    )
    assert min(spent) <= 3.0  # which is the time it takes where nothing else runs
    assert used <= 250


@pytest.mark.timeout(3600)
def test_a_large_input_needs_as_little_memory_as_a_small_one(tmp_path: Path) -> None:
    """Read and planned without a call, as rows of 1 KB; the index for equal rows lies on the disk."""
    program = """
import sys
from pathlib import Path
from dbllm import bulk
from dbllm.bulk.inputs import Source
from dbllm.bulk.journal import Disk
from dbllm.bulk.plan import make_plan

plan = make_plan(
    Source(Path(sys.argv[1]), "in", "jsonl"), bulk.RowMapper("m", prompt="{text}").request, Path("plan"), Disk()
)
print(plan.summary.distinct)
input()
"""
    used = []
    for rows in (100_000, sized(0, 400_000, 10_000_000)):
        source = tmp_path / "in.jsonl"
        with source.open("w") as file:
            for first in range(0, rows, 10_000):
                file.write(
                    "".join(
                        f'{{"text":"{place % (rows - 7):09}{"x" * 980}"}}\n' for place in range(first, first + 10_000)
                    )
                )
        size, began = source.stat().st_size, time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", program, str(source)],
            env={**os.environ, "PYTHONPATH": SOURCES},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == rows - 7
            used.append(peak_megabytes(process.pid))
            process.communicate(b"\n")
        print(f"{rows:,} rows, {size / 1e9:.1f} GB: planned in {time.perf_counter() - began:.0f} s, {used[-1]} MB")
        source.unlink()
    assert used[1] <= 200


@pytest.mark.timeout(3600)
def test_many_calls_need_as_little_memory_as_few(tmp_path: Path) -> None:
    used = []
    with fault_server(process=True) as server:
        for rows in (2000, sized(0, 10_000, 100_000)):
            source = write_prompts(tmp_path / "in.jsonl", rows, words="x" * 1000)
            began, process = (
                time.perf_counter(),
                start(server.host, source, output := tmp_path / f"{rows}.jsonl", concurrency=32),
            )
            most = 0
            while process.poll() is None:
                try:
                    most = max(most, peak_megabytes(process.pid))
                except (OSError, AssertionError):  # it is ending
                    break
                time.sleep(0.02)
            assert process.wait() == 0
            took = time.perf_counter() - began
            used.append(most)
            print(f"{rows:,} calls: {took:.0f} s, {rows / took:.0f} rows a second, {most} MB")
            assert len(output.read_bytes().splitlines()) == rows
            output.unlink()
    assert used[1] <= 200
    assert used[1] - used[0] <= 60


def test_the_time_that_is_left_is_told_right_on_a_real_job(tmp_path: Path) -> None:
    """Within 15 % (and a second) after a fifth of the rows, beside some 429s."""
    seen: list[tuple[float, int, float | None]] = []

    def show(status: bulk.Status) -> None:
        if status.state == "running":
            seen.append((time.perf_counter(), status.done, status.eta))

    rows = sized(0, 6000, 20_000)
    with fault_server(latency=0.2, mix={"429": 0.03}, seed=2, process=True) as server:
        source = write_prompts(tmp_path / "in.jsonl", rows)
        endpoint = AsyncClient(server.host, "t").endpoint("m", task="chat")
        report = bulk.run_sync(
            source, tmp_path / "out.jsonl", endpoint=endpoint, prompt="{text}", progress=show, concurrency=40
        )
    assert report.ok
    end = next(moment for moment, done, _ in seen if done == rows)
    wrong, looked = [], 0
    for moment, done, left in seen:
        real = end - moment
        if rows / 5 < done < rows and left is not None and real > 2:
            looked += 1
            if abs(left - real) > 0.15 * real + 1:
                wrong.append((done, round(left, 1), round(real, 1)))
    print(
        f"{rows:,} rows in {report.seconds:.0f} s: the time left was told {looked} times after a fifth of them, "
        f"{len(wrong)} times wrong"
    )
    assert looked > 5
    assert len(wrong) <= 0.05 * looked, wrong[:5]
