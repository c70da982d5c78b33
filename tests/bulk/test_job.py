"""A job from file to file: answered once, recorded at once, gone on with after any crash."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jobs import SIZE, read_rows, run_job, sized, without_volatile, write_prompts

import dbllm
from dbllm import AsyncClient, Client, bulk
from dbllm.bulk.journal import Disk
from dbllm.bulk.manifest import StopSignal
from dbllm.testing import FaultServer, fault_server

DEFAULTS = {"max_tokens": 8}  # of the endpoint that support/crashing.py calls
PROGRAM = Path(__file__).parents[1] / "support" / "crashing.py"
KILLS = sized(2, 20, 200)
ROWS = sized(300, 5000, 100_000)
STEP = sized(40, 1, 1)  # every so manieth system call is one to crash at


def calls(server: FaultServer) -> int:
    """How often a model was called."""
    return server.report().executions


def sent(server: FaultServer, text: str) -> int:
    return len(server.history(text))


def test_a_job_keeps_the_columns_and_the_order_and_asks_equal_rows_once(server: FaultServer, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", 120, same=20)
    report = run_job(server, source, tmp_path / "out.jsonl", price=(1.0, 2.0))
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["place"] for row in rows] == list(range(120))
    assert [row["output"] for row in rows] == [f"Say row {place % 100}" for place in range(120)]
    assert [row["same_as"] for row in rows] == [None] * 100 + list(range(1, 21))
    assert sum(row["input_tokens"] for row in rows) == 100 == report.input_tokens
    assert (report.rows, report.answered, report.failed, report.copied, report.attempts) == (120, 120, 0, 20, 100)
    assert report.ok
    assert report.cost == pytest.approx(300e-6)
    assert all(sent(server, f"Say row {place}") == 1 for place in range(100))


def test_a_finished_job_sends_nothing_again_and_its_output_can_be_made_anew(
    server: FaultServer, tmp_path: Path
) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 30), tmp_path / "out.jsonl"
    first = run_job(server, source, output)
    before, number = output.read_bytes(), server.report().requests
    assert run_job(server, source, output).answered == first.answered
    output.unlink()
    run_job(server, source, output)
    assert output.read_bytes() == before
    assert server.report().requests == number


def test_no_dedupe_asks_each_row(server: FaultServer, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", 20, same=5)
    report = run_job(server, source, tmp_path / "out.jsonl", dedupe=False)
    assert (report.copied, report.attempts) == (0, 20)
    assert sent(server, "Say row 0") == 2


def test_a_bad_request_is_an_error_row_and_ends_nothing(server: FaultServer, tmp_path: Path) -> None:
    server.change(mix={"early_413": 0.2}, seed=3)
    source, output = write_prompts(tmp_path / "in.jsonl", 60), tmp_path / "out.jsonl"
    report = run_job(server, source, output)
    rows = read_rows(output)
    failed = [row for row in rows if row["error"]]
    assert len(rows) == 60
    assert 0 < len(failed) == report.failed < 60
    assert {row["error"]["class"] for row in failed} == {"RequestTooLargeError"} == set(report.errors)
    assert all(
        row["error"]["status"] == 413 and row["error"]["attempts"] == 1 and row["output"] is None for row in failed
    )
    assert not report.ok


def test_retry_errors_asks_only_those_and_the_last_answer_counts(server: FaultServer, tmp_path: Path) -> None:
    server.change(mix={"early_413": 0.3}, seed=3)
    source, output = write_prompts(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    failed = run_job(server, source, output).failed
    server.change(mix={})
    server.clear()
    other = run_job(server, source, output, retry_errors={"RateLimitError"})
    assert other.failed == failed
    assert calls(server) == 0
    report = run_job(server, source, output, retry_errors="RequestTooLargeError")
    assert (report.failed, report.answered) == (0, 40)
    assert sum(sent(server, f"Say row {place}") for place in range(40)) == failed
    assert [row["place"] for row in read_rows(output)] == list(range(40))


def test_what_may_have_been_paid_is_an_error_row_until_it_is_asked_for(server: FaultServer, tmp_path: Path) -> None:
    server.change(mix={"504": 0.3}, seed=5)
    source, output = write_prompts(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    report = run_job(server, source, output)
    assert report.may_be_paid == report.failed > 0
    assert all(row["error"]["may_be_paid"] for row in read_rows(output) if row["error"])
    again = run_job(server, source, output, retry_ambiguous=True)
    assert (again.failed, again.answered) == (0, 40)


# --- crashes ----------------------------------------------------------------------------------------------------------


SOURCES = str(Path(dbllm.__file__).parents[1])


def credentials(server: FaultServer) -> dict[str, str]:
    return {"DATABRICKS_HOST": server.host, "DATABRICKS_TOKEN": "token"}


class Forks:
    """Jobs in processes of their own, which can be killed, and can die at a given system call."""

    def __init__(self, server: FaultServer | None, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env={**os.environ, "PYTHONPATH": SOURCES, **environment, **(credentials(server) if server else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, *words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return int(json.loads(self._process.stdout.readline()))

    def start(self, folder: Path, *, concurrency: int = 2, at: int = -1, how: str = "") -> int:
        """Begin a job; its process id."""
        return self._ask("start", f"{folder}/in.jsonl", f"{folder}/out.jsonl", concurrency, at, how)

    def wait(self, process: int) -> int:
        """How it ended."""
        return self._ask("wait", process)

    def run(self, folder: Path, **options: Any) -> int:
        return self.wait(self.start(folder, **options))

    def kill_when(self, process: int, reached: Callable[[], bool]) -> bool:
        """Kill it as soon as that is so; False if it had ended before."""
        while not reached():
            if not Path(f"/proc/{process}/fd").exists() or not os.listdir(f"/proc/{process}/fd"):
                break
            threading.Event().wait(0.002)
        os.kill(process, signal.SIGKILL)
        return self.wait(process) == -signal.SIGKILL

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


needs_fork = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it forks, and looks at /proc")


@needs_fork
def test_a_job_that_is_killed_again_and_again_answers_each_row_once(tmp_path: Path) -> None:
    write_prompts(tmp_path / "in.jsonl", ROWS)
    output, journal, dice = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part", random.Random(ROWS)
    whole, killed = ROWS * 180, 0  # bytes of the journal, roughly
    with fault_server(latency=0.002, process=True) as server:
        with Forks(server) as forks:
            for kill in range(KILLS):
                until = whole * (kill + dice.random()) / KILLS * 0.9
                process = forks.start(tmp_path, concurrency=8)
                killed += forks.kill_when(
                    process, lambda size=until: journal.exists() and journal.stat().st_size >= size
                )
            assert not output.exists()
            assert forks.run(tmp_path, concurrency=8) == 0
        report = run_job(server, tmp_path / "in.jsonl", output, defaults=DEFAULTS)
        again = [sent(server, f"Say row {place}") - 1 for place in range(ROWS)]
    rows = read_rows(output)
    assert [row["place"] for row in rows] == list(range(ROWS))
    assert [row["output"] for row in rows] == [f"Say row {place}" for place in range(ROWS)]
    assert (report.answered, report.failed, killed, min(again)) == (ROWS, 0, KILLS, 0)
    print(
        f"{ROWS} rows, {killed} kills: {sum(again)} sent twice, at most {report.paid_again} said, {killed * 8} allowed"
    )
    assert sum(again) <= report.paid_again <= killed * 8
    assert report.crashes <= killed


EXPECTED = {"in.jsonl", "out.jsonl", "out.jsonl.part", "out.jsonl.job.json", "out.jsonl.plan", "out.jsonl.calls"}


@needs_fork
def test_a_crash_at_any_system_call_is_resumed_to_the_same_output(server: FaultServer, tmp_path: Path) -> None:
    def prepare(name: str) -> Path:
        (folder := tmp_path / name).mkdir()
        with write_prompts(folder / "in.jsonl", 8, same=2).open("a") as file:
            file.write('{"place": "this row has no text"}\n')
        server.clear()
        return folder

    def resumed(folder: Path, name: str) -> Iterator[str]:
        if status := forks.run(folder):
            yield f"{name}: not resumed, {status}"
            return
        if (found := without_volatile(read_rows(folder / "out.jsonl"))) != wanted:
            yield f"{name}: another output, {found}"
        if (again := sum(sent(server, f"Say row {place}") - 1 for place in range(6))) > 4:
            yield f"{name}: {again} sent twice"
        if extra := {path.name for path in folder.iterdir()} - EXPECTED:
            yield f"{name}: {extra} left"

    with Forks(server) as forks:
        whole = prepare("whole")
        assert forks.run(whole) == 0
        made = json.loads((whole / "out.jsonl.calls").read_text())
        wanted = without_volatile(read_rows(whole / "out.jsonl"))
        assert {"write", "sync", "replace", "sync_folder"} <= set(made)
        assert [row["place"] for row in wanted if row["error"]] == ["this row has no text"]
        wrong, points = [], 0
        for at in range(0, len(made), STEP):
            for how in ("before", "after", "half") if made[at] == "write" else ("before", "after"):
                folder = prepare(f"{at}-{how}")
                forks.run(folder, at=at, how=how)
                forks.run(folder, at=2 + at % 5, how=how)  # and once more, early in the run that repairs
                wrong += resumed(folder, f"{at} {made[at]} {how}")
                points += 1
    print(f"{points} crashes at {len(made)} system calls")
    assert not wrong, wrong


class FullDisk(Disk):
    """Takes so many bytes in the journal, and no more until there is room."""

    def __init__(self, room: int, number: int = errno.ENOSPC) -> None:
        self.room, self.number, self.patience = room, number, 0.0
        self.refused = threading.Event()

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        if self.room <= 0:
            self.refused.set()
            raise OSError(self.number, os.strerror(self.number))
        written = super().write(handle, memoryview(data)[: self.room])
        self.room -= written
        return written


def test_a_full_disk_stops_the_job_and_keeps_what_was_paid(server: FaultServer, tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        server.clear()
        folder = tmp_path / str(number)
        folder.mkdir()
        source, output = write_prompts(folder / "in.jsonl", 200), folder / "out.jsonl"
        with pytest.raises(bulk.DiskError, match="Make room") as caught:
            run_job(server, source, output, disk=FullDisk(9000, number), concurrency=4)
        assert caught.value.exit_code == 74
        assert 0 < calls(server) < 150, "it went on paying"
        report = run_job(server, source, output)
        assert report.answered == 200
        assert sum(sent(server, f"Say row {place}") - 1 for place in range(200)) <= 8


def test_a_disk_that_gets_room_again_loses_nothing(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 200), tmp_path / "out.jsonl"
    disk = FullDisk(9000)
    disk.patience = 60.0

    def make_room() -> None:
        disk.refused.wait(20)
        disk.room = 1 << 30

    helper = threading.Thread(target=make_room)
    helper.start()
    report = run_job(server, source, output, disk=disk, concurrency=4)
    helper.join()
    assert report.answered == 200
    assert all(sent(server, f"Say row {place}") == 1 for place in range(200))


def test_an_interrupt_lets_what_is_in_flight_end_and_the_same_call_goes_on(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    server.change(latency=0.01)
    stop = StopSignal()

    def once_some_are_done(status: bulk.Status) -> None:
        if 0 < status.done < status.total:
            stop.level = 1

    with pytest.raises(bulk.Interrupted, match="rows done") as caught:
        run_job(server, source, output, progress=once_some_are_done, stop=stop, concurrency=4)
    assert caught.value.report.answered < 400
    assert not output.exists()
    server.change(latency=0.0)
    report = run_job(server, source, output)
    assert (report.answered, report.crashes, report.paid_again) == (400, 0, 0)
    assert all(sent(server, f"Say row {place}") == 1 for place in range(400))


def test_a_second_interrupt_cuts_what_is_in_flight(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    server.change(latency=60.0)
    stop = StopSignal()

    def at_once(status: bulk.Status) -> None:
        stop.level = max(stop.level, 2 if status.in_flight else 0)

    with pytest.raises(bulk.Interrupted):
        run_job(server, source, output, progress=at_once, stop=stop, concurrency=4)
    server.change(latency=0.0)
    report = run_job(server, source, output)
    assert (report.answered, report.paid_again) == (40, 4)


@needs_fork
def test_a_row_that_was_in_flight_at_three_crashes_is_not_sent_again(tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.part"
    with fault_server(latency=60.0, process=True) as server:
        with Forks(server) as forks:
            for crash in (1, 2, 3):
                process = forks.start(tmp_path, concurrency=3)
                assert forks.kill_when(
                    process,
                    lambda number=3 * crash: journal.exists() and journal.read_bytes().count(b'"start"') == number,
                )
        server.change(latency=0.0)
        report = run_job(server, source, output, defaults=DEFAULTS)
        assert (report.failed, report.quarantined, report.crashes, report.paid_again) == (3, 3, 3, 9)
        assert {row["error"]["class"] for row in read_rows(output)} == {"PoisonRowError"}
        assert run_job(server, source, output, retry_errors="PoisonRowError", defaults=DEFAULTS).answered == 3


def test_a_second_process_is_turned_away_at_once(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    refused: list[BaseException] = []

    def start_another(status: bulk.Status) -> None:
        if refused:
            return
        try:
            run_job(server, source, output)
        except bulk.BulkError as error:
            refused.append(error)

    run_job(server, source, output, progress=start_another)
    assert isinstance(refused[0], bulk.OutputError)
    assert refused[0].exit_code == 73
    assert "another process" in str(refused[0])


# --- who calls --------------------------------------------------------------------------------------------------------


def test_it_runs_awaited_on_both_loops_plainly_and_inside_a_running_loop(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trio

    monkeypatch.setenv("DATABRICKS_HOST", server.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "token")
    source = write_prompts(tmp_path / "in.jsonl", 12)
    options: dict[str, Any] = {"endpoint": "m", "prompt": "Say {text}"}

    async def awaited(name: str) -> bulk.Report:
        return await bulk.run(source, tmp_path / name, **options)

    async def plainly(name: str) -> bulk.Report:
        return bulk.run_sync(source, tmp_path / name, **options)

    with Client(server.host, "token") as client:
        reports = [
            asyncio.run(awaited("a.jsonl")),
            trio.run(awaited, "b.jsonl"),
            bulk.run_sync(source, tmp_path / "c.jsonl", **options),
            asyncio.run(plainly("d.jsonl")),
            bulk.run_sync(source, tmp_path / "e.jsonl", prompt="Say {text}", endpoint="m", client=client),
            bulk.run_sync(source, tmp_path / "f.jsonl", endpoint=bulk.RowMapper("m", prompt="Say {text}")),
        ]
    assert [report.answered for report in reports] == [12] * 6
    outputs = {json.dumps(without_volatile(read_rows(path))) for path in tmp_path.glob("?.jsonl")}
    assert len(outputs) == 1


def test_any_iterable_is_an_input_and_a_second_call_with_the_same_one_resumes(
    server: FaultServer, tmp_path: Path
) -> None:
    async def later() -> Any:
        for text in ("one", "two"):
            yield text

    kinds: list[tuple[Callable[[], Any], str | None]] = [
        (lambda: ["one", "two"], None),
        (lambda: iter(["one", "two"]), None),
        (lambda: ({"text": text} for text in ("one", "two")), "{text}"),
        (lambda: [[{"role": "user", "content": text}] for text in ("one", "two")], None),
        (later, None),
    ]
    for place, (make, prompt) in enumerate(kinds):
        server.clear()
        output = tmp_path / f"{place}.jsonl"
        for _ in range(2):
            assert run_job(server, make(), output, prompt=prompt).answered == 2, place
        assert [row["output"] for row in read_rows(output)] == ["one", "two"], place
        assert sent(server, "one") == 1, place
    with pytest.raises(bulk.BadInputError, match="is not what the job"):
        run_job(server, ["one", "three"], tmp_path / "0.jsonl", prompt=None)


def test_cancelling_an_awaited_job_leaves_it_to_be_resumed(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 50), tmp_path / "out.jsonl"
    server.change(latency=60.0)

    async def cancelled() -> None:
        begun = asyncio.Event()

        def show(status: bulk.Status) -> None:
            if status.in_flight:
                begun.set()

        async with AsyncClient(server.host, "token") as client:
            job = bulk.run(
                source,
                output,
                endpoint=client.endpoint("m", task="chat"),
                prompt="Say {text}",
                concurrency=4,
                progress=show,
            )
            task = asyncio.create_task(job)
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    server.change(latency=0.0)
    assert run_job(server, source, output).answered == 50


# --- what takes long --------------------------------------------------------------------------------------------------

thorough = pytest.mark.skipif(SIZE == "short", reason="it takes long: nox -s bulk")

MEASURE = """
import re, sys
from pathlib import Path
from dbllm import bulk
from dbllm.bulk.inputs import Source
from dbllm.bulk.journal import Disk
from dbllm.bulk.plan import make_plan

source = Path(sys.argv[1])
plan = make_plan(Source(source, "in", "jsonl"), bulk.RowMapper("m", prompt="{text}").request, Path("plan"), Disk())
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]  # ru_maxrss has the parent's, too
print(plan.summary.distinct, int(peak) // 1024)
"""


@thorough
@needs_fork
def test_more_rows_need_hardly_more_memory(tmp_path: Path) -> None:
    used = []
    for number in (20_000, 320_000):
        source = write_prompts(tmp_path / "in.jsonl", number, words="x" * 300)
        command = [sys.executable, "-c", MEASURE, str(source)]
        environment = {**os.environ, "PYTHONPATH": SOURCES}
        said = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
        distinct, megabytes = map(int, said.split())
        assert distinct == number
        used.append(megabytes)
    print(f"20,000 rows: {used[0]} MB; 320,000 rows: {used[1]} MB")
    assert used[1] <= 200
    assert used[1] - used[0] <= 20


@thorough
@needs_fork
def test_a_real_model_answers_500_rows_through_two_kills(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    from dbllm.local import Workspace

    write_prompts(tmp_path / "in.jsonl", 500)
    journal = tmp_path / "out.jsonl.part"
    with Workspace() as workspace, Forks(None, **workspace.env, BULK_ENDPOINT="smollm2-chat") as forks:
        for enough in (150, 350):
            process = forks.start(tmp_path, concurrency=4)
            assert forks.kill_when(
                process, lambda number=enough: journal.exists() and journal.read_bytes().count(b'"ok":1') >= number
            )
        assert forks.run(tmp_path, concurrency=4) == 0
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["place"] for row in rows] == list(range(500))
    assert all(row["output"].strip() and row["error"] is None and row["output_tokens"] <= 8 for row in rows)
