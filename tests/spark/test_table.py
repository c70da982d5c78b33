"""The same call on a table: a row out for each row in, whatever fails, within the limits of the whole job.

The sizes are those of `nox -s spark`; DBLLM_SPARK_LONG=1 makes them those of the promises. What a promise says of time
is held to its figure in the long form, on a quiet machine; in the short one the bound is a count, or a ratio that a
busy machine does not move much.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dbllm import AsyncClient, ConfigError, Limits, Retry, bulk
from dbllm._transport.limits import Cost, RateLimiter
from dbllm.bulk import RowInputError, RowMapper
from dbllm.spark import LedgerError, RowFailedError, chat, complete, embed, predict, register, respond
from dbllm.spark.columns import python_values
from dbllm.spark.functions import RowContent
from dbllm.spark.options import mapper_of
from dbllm.spark.query import _value_at
from dbllm.spark.share import share_of
from dbllm.spark.tables import is_table
from dbllm.spark.worker import MapRows, TaskPlan, TaskRun, rows_of_retry, use_up_burst
from dbllm.testing import SAFE_FAULTS, FaultServer

from .conftest import CANARY, CONNECT, DAEMON, LONG, MAIN, OF_DBLLM, OF_WORKERS, SLOTS, TOKEN_VARIABLE
from .measuring_server import MeasuringServer


def sized(short: int, long: int, brief: int | None = None) -> int:
    """`brief`: on Spark Connect and on PySpark 3.5."""
    return long if LONG else short if MAIN or brief is None else brief


QUICK = Retry(attempts=8, backoff=0.01, max_backoff=0.2)


def table(spark: Any, number: int, *, start: int = 0, text: str = "concat('row ', id)") -> Any:
    return spark.range(start, start + number).selectExpr("id", f"{text} as text")


def in_workers(server: MeasuringServer, **more: Any) -> dict[str, Any]:
    """The arguments that lead workers to a server that measures."""
    return {"host": server.host, "credential": f"env:{TOKEN_VARIABLE}", **more}


def save(df: Any) -> None:
    df.write.format("noop").mode("overwrite").save()


def outputs(rows: list[Any]) -> dict[int, str]:
    return {row["id"]: row["result"]["output"] for row in rows}


def python_workers() -> dict[int, int]:
    """Python workers of this machine's Spark below us, and their memory in KiB."""
    return _python_processes()[1]


def daemons() -> set[int]:
    """The processes that fork them."""
    return _python_processes()[0]


def _python_processes() -> tuple[set[int], dict[int, int]]:
    parents, memory, daemons = {}, {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        parents[process], memory[process] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1024
        if DAEMON.encode() in words:
            daemons.add(process)

    def ours(process: int) -> bool:
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    ours_of_them = {one for one in daemons if ours(one)}
    workers = {one for one in ours_of_them if parents[one] in daemons}
    return ours_of_them - workers, {one: memory[one] for one in workers}


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.05)
    return False


# --- S1 ---------------------------------------------------------------------------------------------------------------


def test_each_row_comes_out_once_though_a_third_of_the_calls_fails(
    spark: Any, server: FaultServer, where: dict[str, Any]
) -> None:
    server.change(mix=SAFE_FAULTS)
    number = sized(1000, 100_000, 300)
    rows = chat(table(spark, number), "m", prompt="Say {text}", tasks=8, retry=QUICK, **where).collect()
    assert sorted(row["id"] for row in rows) == list(range(number))
    wrong = [
        row for row in rows if row["result"]["error"] is None and row["result"]["output"] != f"Say row {row['id']}"
    ]
    failed = Counter(row["result"]["error"]["name"] for row in rows if row["result"]["error"] is not None)
    print(f"S1: {number} rows, {server.report().requests} requests, {failed.total()} error rows")
    assert not wrong
    assert failed.total() <= number / 1000
    assert all(row["text"] == f"row {row['id']}" for row in rows)


# --- S2 ---------------------------------------------------------------------------------------------------------------


@OF_WORKERS
def test_workers_that_are_killed_cost_no_more_than_what_was_under_way(spark: Any, tmp_path: Path) -> None:
    kills, number, concurrency = sized(2, 20, 1), sized(1600, 12_000, 1200), 16
    window = concurrency // SLOTS
    with MeasuringServer(latency=0.05) as server:
        answers = chat(
            table(spark, number),
            "m",
            prompt="Say {text}",
            concurrency=concurrency,
            ledger=tmp_path / "ledger",
            key="id",
            host=server.host,
            credential=f"env:{TOKEN_VARIABLE}",
        )
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(answers.collect()))
        thread.start()
        killed = 0
        first: set[int] = set()
        for kill in range(kills):
            goal = server.calls + number // (2 * kills)
            if LONG:
                assert wait_until(lambda goal=goal: server.calls >= goal)
                victims = list(python_workers())
            else:
                # From the goal on nothing is answered until the kill: a worker's calls are all on their way. A task may
                # fail once, so each kill hits one of the first workers, and another task.
                server.hold_from = goal
                assert wait_until(lambda held=window if kill else concurrency: server.held >= held)
                first = first or set(python_workers())
                victims = [one for one in python_workers() if one in first]
            if victims and thread.is_alive():
                os.kill(victims[kill % len(victims)], signal.SIGKILL)
                killed += 1
            server.hold_from = None
        thread.join(500)
        again = server.calls - number
        print(f"S2: {number} rows, {killed} kills: {again} calls paid again, {killed * (window + 200)} allowed")
        assert killed == kills
        assert outputs(found) == {place: f"Say row {place}" for place in range(number)}
        assert (0 if LONG else window) <= again <= killed * (window + 200)
        calls = server.calls
        assert len(answers.collect()) == number
        assert server.calls == calls


# --- S3 ---------------------------------------------------------------------------------------------------------------


def save_and_tell_tasks(df: Any, prompt: str) -> dict[str, int]:
    """The task that sent each prompt."""
    from pyspark.sql.functions import spark_partition_id

    rows = df.select("text", spark_partition_id().alias("task")).collect()
    return {prompt.format(text=row["text"]): row["task"] for row in rows}


def used_of_shares(
    server: MeasuringServer, tasks: dict[str, int], minute: float, weights: list[int] | None = None
) -> dict[int, list[float]]:
    """How much each task has used of its share of a rate by the time of each call, in the second half of its calls.

    The time is that since the task's own first call, so it does not matter when Spark started which. A call that comes
    late, on a busy machine, lowers the figure of its moment alone: the next ones may catch up.
    """
    share = minute / SLOTS
    sums: Counter[int] = Counter()
    first: dict[int, float] = {}
    used: dict[int, list[float]] = {}
    for prompt, moment, weight in zip(server.prompts, server.came, weights or [1] * server.calls, strict=True):
        task = tasks[prompt]
        first.setdefault(task, moment)
        sums[task] += weight
        if (paced := sums[task] - share / 6) > 0:  # a sixth of a minute's may go at once
            used.setdefault(task, []).append(paced / share * 60 / max(moment - first[task], 0.001))
    return {task: figures[len(figures) // 2 :] for task, figures in used.items()}


def test_the_limits_are_those_of_the_whole_job(spark: Any) -> None:
    seconds, rpm = sized(7, 150, 4), 600
    with MeasuringServer(latency=0.3) as server:
        number = int(rpm / 60 * seconds + rpm / 6)  # a sixth of a minute's may go at once
        answers = chat(table(spark, number), "m", prompt="Say {text}", concurrency=64, rpm=rpm, **in_workers(server))
        tasks = save_and_tell_tasks(answers, "Say {text}")
        used = (server.calls - rpm / 6) / (server.seconds() * rpm / 60)
        minute = server.most_in(60)
        print(f"S3: at most {server.most_at_once} at once, {minute} requests in a minute, {used:.0%} used")
        assert server.calls == number
        assert server.most_at_once <= 64
        assert minute <= 1.05 * rpm
        if LONG:
            assert 0.85 <= used <= 1.05
        else:
            shares = used_of_shares(server, tasks, rpm)
            assert len(shares) == SLOTS
            for figures in shares.values():
                assert max(figures) >= 0.85
                assert min(figures) <= 1.5  # a first call that comes late makes the time of the others short

        server.clear()
        number, server.latency = sized(24, 100), sized(3, 5) / 10
        chat(table(spark, number), "m", prompt="Say {text}", concurrency=6, tasks=4, **in_workers(server)).collect()
        assert server.calls == number
        assert server.most_at_once <= 6


@OF_DBLLM
def test_the_tokens_are_those_of_the_whole_job(spark: Any) -> None:
    seconds, tpm = sized(6, 150), 6000
    with MeasuringServer(latency=0.3) as server:
        for given, made in (
            (60, 5),
            (5, 20),
        ):  # input is what is scarce, then output, of which half the reserved is used
            server.clear()
            scarce = max(given, made)
            number = int((tpm / 60 * seconds + tpm / 6) / scarce)
            text = f"concat(repeat('abc ', {given - 5}), ' row ', id)"
            options = {"params": {"max_tokens": 2 * made}, "tpm": tpm, "concurrency": 64, **in_workers(server)}
            tasks = save_and_tell_tasks(
                chat(table(spark, number, text=text), "m", prompt="{text}", **options), "{text}"
            )
            for name, tokens in (("input", server.input_tokens), ("output", server.output_tokens)):
                total, minute = sum(tokens), server.most_in(60, tokens)
                used = (total - tpm / 6) / (server.seconds() * tpm / 60)
                print(f"S3: {name} tokens: {minute} in a minute, {used:.0%} used of {tpm}")
                assert minute <= 1.05 * tpm, (name, scarce)
                is_scarce = (name == "input") == (given > made)
                if LONG:
                    assert used <= 1.05, (name, scarce)
                    assert used >= 0.85 or not is_scarce, (name, scarce)
                elif is_scarce:
                    shares = used_of_shares(server, tasks, tpm, tokens)
                    assert len(shares) == SLOTS
                    for figures in shares.values():  # what was reserved of the output comes back with the answers
                        assert max(figures) >= (0.85 if name == "input" else 0.7), (name, scarce)
                        assert min(figures) <= 1.5, (name, scarce)


def test_a_task_that_is_tried_again_has_no_burst_left() -> None:
    for limits in (
        Limits(requests_per_minute=600),
        Limits(input_tokens_per_minute=6000),
        Limits(output_tokens_per_minute=6000),
        Limits(requests_per_minute=60, input_tokens_per_minute=6000, output_tokens_per_minute=600),
    ):
        limiter = RateLimiter(limits)
        use_up_burst(limiter, 100.0)
        wait = limiter.reserve(Cost(360, 100), 100.0)
        assert isinstance(wait, float), limits
        assert 0 < wait <= 10, limits  # the burst is what comes in ten seconds


# --- S4 ---------------------------------------------------------------------------------------------------------------


WINDOW, ALLOWED = 64, 64 + 200  # calls at once; calls beyond those that were needed


def threads_of_workers() -> list[int]:
    """How many threads each Python worker has."""
    found = []
    for worker in python_workers():
        try:
            found.append(len(os.listdir(f"/proc/{worker}/task")))
        except OSError:
            pass
    return found


@dataclass
class Workers:
    """Spark's Python workers; `usual`: how many threads one has that calls no model."""

    usual: int

    def are_busy(self) -> bool:
        return max(threads_of_workers(), default=0) > self.usual

    def are_quiet(self, server: MeasuringServer) -> bool:
        """Whether within 5 seconds no connection is open, and no worker has a thread of ours.

        In the short form these are 50 looks, a tenth of a second apart: where a look takes longer, so does all else.
        """

        def is_so() -> bool:
            return not server.connections and not self.are_busy()

        if LONG:
            return wait_until(is_so, 5.0)
        for _ in range(50):
            if is_so():
                return True
            time.sleep(0.1)
        return False


@pytest.fixture
def workers(spark: Any) -> Workers:
    table(spark, 4).repartition(SLOTS).mapInArrow(lambda batches: batches, "id long, text string").collect()
    return Workers(min(threads_of_workers()))


def test_who_needs_few_rows_pays_little_more_and_nothing_stays_open(spark: Any, workers: Workers) -> None:
    with MeasuringServer(latency=0.1) as server:
        register(spark, "ask_few", "m", verb="chat", **in_workers(server))
        rows = table(spark, sized(4000, 20_000))
        rows.createOrReplaceTempView("many")
        for kind, few in (
            ("limit(10)", chat(rows, "m", prompt="Say {text}", **in_workers(server)).limit(10)),
            ("LIMIT 10 in SQL", spark.sql("SELECT ask_few(text) AS result FROM many LIMIT 10")),
        ):
            server.clear()
            assert len(few.collect()) == 10
            assert workers.are_quiet(server), (kind, server.connections, threads_of_workers())
            print(f"S4: {kind}: {server.calls - 10} more calls, {ALLOWED} allowed")
            assert server.calls <= 10 + ALLOWED, kind


def failing_sink(spark: Any) -> Callable[[Any], None]:
    """A sink whose disk is full after some rows."""
    from pyspark.sql.datasource import DataSource, DataSourceWriter, WriterCommitMessage

    class Writer(DataSourceWriter):
        def write(self, iterator: Any) -> WriterCommitMessage:
            for place, _ in enumerate(iterator):
                if place == 5:
                    raise OSError(28, "No space left on device")
            return WriterCommitMessage()

    class FullDisk(DataSource):
        @classmethod
        def name(cls) -> str:
            return "full_disk"

        def writer(self, schema: Any, overwrite: bool) -> DataSourceWriter:
            return Writer()

    spark.dataSource.register(FullDisk)
    return lambda df: df.select("id", "text").write.format("full_disk").mode("append").save()


def test_a_failure_downstream_ends_the_calls_in_every_attempt_of_the_task(
    spark: Any, workers: Workers, tmp_path: Path
) -> None:
    from pyspark.sql.functions import col, raise_error, udf, when

    @udf("string")
    def broken(text: str) -> str:
        raise ValueError("what follows is broken")

    # Python gets many rows at once, so all of these are answered before it fails: a ledger has them then.
    kinds: dict[str, tuple[str, Callable[[Any], None]]] = {
        "an expression": (
            "downstream",
            lambda df: save(df.select(when(col("id") >= 0, raise_error("downstream")).otherwise(col("text")))),
        ),
        "a function": ("is broken", lambda df: save(df.select(broken(col("result.output"))))),
    }
    if MAIN:  # PySpark 3.5 has no sinks of Python
        kinds["a sink"] = ("No space left", failing_sink(spark))
    rows = table(spark, number := sized(600, 20_000, 400))
    with MeasuringServer(latency=0.1) as server:
        for kind, (message, run) in kinds.items():
            server.clear()
            ledger = None if kind == "an expression" else tmp_path / kind
            allowed = ALLOWED + (number if ledger else 0)
            with pytest.raises(Exception, match=message):
                run(chat(rows, "m", prompt="Say {text}", ledger=ledger, **in_workers(server)))
            assert workers.are_quiet(server), (kind, server.connections, threads_of_workers())
            print(f"S4: {kind} fails downstream: {server.calls} calls, {allowed} allowed")
            assert 10 <= server.calls <= allowed, kind


def test_what_fails_downstream_again_and_again_costs_less_each_time() -> None:
    for attempts in (2, 4, 25):  # Spark makes four, and others where spark.task.maxFailures says so
        sent = [WINDOW // SLOTS, *(rows_of_retry(WINDOW // SLOTS, attempt) for attempt in range(1, attempts))]
        assert sent == sorted(sent, reverse=True)
        assert min(sent) >= 1
        assert SLOTS * sum(sent) <= ALLOWED
    assert rows_of_retry(3, 1) == 3


def test_a_job_that_is_cancelled_pays_little_more_and_nothing_stays_open(spark: Any, workers: Workers) -> None:
    # Between the word and the end of the tasks Spark takes some time, more on a busy machine: few calls fit in there.
    with MeasuringServer(latency=0.1 if LONG else 0.4) as server:
        register(spark, "ask_many", "m", verb="chat", **in_workers(server))
        rows = table(spark, sized(4000, 20_000))
        rows.createOrReplaceTempView("many")
        for kind, whole in (
            ("DataFrame", chat(rows, "m", prompt="Say {text}", **in_workers(server))),
            ("SQL", spark.sql("SELECT ask_many(text) FROM many").repartition(SLOTS)),
        ):
            server.clear()
            failure: list[BaseException] = []

            def job(whole: Any = whole, failure: list[BaseException] = failure) -> None:
                try:
                    save(whole)
                except Exception as error:
                    failure.append(error)

            thread = threading.Thread(target=job)
            thread.start()
            assert wait_until(lambda: server.calls >= 200)
            assert workers.are_busy()
            spark.interruptAll() if CONNECT else spark.sparkContext.cancelAllJobs()
            at_cancel = server.calls
            thread.join(60)
            assert workers.are_quiet(server), (kind, server.connections, threads_of_workers())
            print(f"S4: {kind} cancelled: {server.calls - at_cancel} more calls, {ALLOWED} allowed")
            assert failure
            assert server.calls - at_cancel <= ALLOWED, kind


@OF_DBLLM
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of other processes' files")
def test_a_ledger_that_takes_nothing_is_said_before_the_first_row_is_paid(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    import resource

    table(spark, 4).repartition(SLOTS).mapInArrow(lambda batches: batches, "id long, text string").collect()
    processes = {*python_workers(), *daemons()}
    (tmp_path / "file").write_text("")
    rows = table(spark, 100)
    with pytest.raises(LedgerError, match="is a file"):
        chat(rows, "m", prompt="Say {text}", ledger=tmp_path / "file" / "ledger", **where)
    for process in processes:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
    try:
        with pytest.raises(Exception, match=r"cannot be written: File too large\. Make room"):
            chat(rows, "m", prompt="Say {text}", ledger=tmp_path / "ledger", tasks=1, **where).collect()
    finally:
        for process in daemons():
            resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert server.report().requests == 0
    assert not list(tmp_path.rglob("*.draft"))
    assert len(chat(rows, "m", prompt="Say {text}", ledger=tmp_path / "ledger", **where).collect()) == 100


# --- S5 ---------------------------------------------------------------------------------------------------------------


def test_with_a_ledger_only_what_is_missing_is_called(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    number = sized(200, 20_000, 100)
    options = {"prompt": "Say {text}", "ledger": str(tmp_path / "ledger"), **where}
    for key in ({}, {"key": ["id"]}) if MAIN or LONG else ({},):
        server.clear()
        answers = chat(table(spark, number), "m", **options, **key)
        first = answers.collect()
        assert server.report().executions == number
        second = answers.collect()
        again = chat(table(spark, number), "m", tasks=1, **options, **key).collect()  # another number of tasks
        assert server.report().executions == number
        assert (
            {row["id"]: row for row in first} == {row["id"]: row for row in second} == {row["id"]: row for row in again}
        )
        more = chat(table(spark, number + number // 20), "m", **options, **key).collect()
        assert server.report().executions == number + number // 20
        assert outputs(more) == {place: f"Say row {place}" for place in range(number + number // 20)}
        print(f"S5: {number} rows, key {key}: 0 calls in a second action; {number // 20} new rows, as many calls")
    server.clear()
    chat(table(spark, 20), "m", **{**options, "prompt": "Tell {text}"}).collect()
    assert server.report().executions == 20  # another prompt is another question


def test_a_table_is_a_ledger_too(spark: Any, server: FaultServer, where: dict[str, Any]) -> None:
    options = {"prompt": "Say {text}", "ledger": "answers", "key": "id", **where}
    spark.sql("DROP TABLE IF EXISTS answers")
    first = chat(table(spark, 40), "m", **options)
    assert outputs(first.collect()) == {place: f"Say row {place}" for place in range(40)}
    more = chat(table(spark, 50, text="if(id = 7, 'new', concat('row ', id))"), "m", **options)
    assert outputs(more.collect()) == {place: "Say new" if place == 7 else f"Say row {place}" for place in range(50)}
    assert first.columns == more.columns == ["id", "text", "result"]
    assert server.report().executions == 51  # a row that asks something else is another
    spark.sql("DROP TABLE answers")


@OF_DBLLM
def test_a_recorded_answer_is_that_to_what_the_row_asks(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    options = {"prompt": "Say {text}", "key": "tenth", "tasks": 1, **where}

    def said(text: str, ledger: str) -> dict[int, str | None]:
        rows = spark.range(20).selectExpr("id", "id div 10 as tenth", f"{text} as text")
        return outputs(chat(rows, "m", ledger=ledger, **options).collect())

    # Rows of one key that ask different things have answers of their own, as have those that were mended or changed.
    folder = tmp_path / "a ledger"
    first = said("if(id = 3, null, concat('row ', id))", str(folder))
    assert first == {place: None if place == 3 else f"Say row {place}" for place in range(20)}
    second = said("if(id = 7, 'new', concat('row ', id))", folder.as_uri())
    assert second == {**first, 3: "Say row 3", 7: "Say new"}
    assert server.report().executions == 19 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["a ledger"]


def test_answers_that_come_beside_the_failure_that_ends_a_job_are_recorded(
    server: FaultServer, where: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow

    monkeypatch.setenv(TOKEN_VARIABLE, CANARY)
    take = TaskRun.take

    def take_all(task: TaskRun, ready: int) -> list[bulk.RowResult]:
        results: list[bulk.RowResult] = []
        while len(results) < 3:
            results += take(task, ready)
        return results

    monkeypatch.setattr(TaskRun, "take", take_all)
    plan = TaskPlan(
        uid="one",
        mapper=mapper_of(
            {"host": server.host, "credential": f"env:{TOKEN_VARIABLE}"}, "chat", "m", prompt="Say {text}"
        ),
        share=share_of(Limits(concurrency=4), 1),
        row_of=RowContent(("text",)),
        columns=("text",),
        output="text",
        places=(0,),
        ledger=tmp_path,
        on_error="raise",
    )
    batch = pyarrow.RecordBatch.from_pylist([{"c0": "one"}, {"c0": None}, {"c0": "two"}])
    for _ in range(2):
        with pytest.raises(RowFailedError, match=r"column 'text' .* is empty in this row\. With on_error=\"row\""):
            list(MapRows(plan).run(iter([batch]), "c1"))
        assert server.report().executions == 2


def test_what_is_recorded_of_one_workspace_is_none_of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dbllm.spark.credentials import host_of

    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    monkeypatch.setenv("DATABRICKS_HOST", "https://one.cloud.databricks.com/")
    assert host_of(None, None) == host_of(None, "one.cloud.databricks.com") == "https://one.cloud.databricks.com"
    monkeypatch.setenv("DATABRICKS_HOST", "https://two.cloud.databricks.com")
    assert host_of(None, None) == host_of("env:NOT_SET", None) == "https://two.cloud.databricks.com"
    (tmp_path / "databrickscfg").write_text("[three]\nhost = https://three.cloud.databricks.com\ntoken = x\n")
    assert host_of("profile:three", None) == "https://three.cloud.databricks.com"
    assert host_of("profile:of-the-workers", None) == "profile:of-the-workers"


@OF_WORKERS
def test_a_damaged_segment_costs_its_rows_and_no_more(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    answers = chat(table(spark, 300), "m", prompt="Say {text}", ledger=tmp_path, **where)
    answers.collect()
    segments = sorted(tmp_path.glob("*/*.segment"))
    for place, segment in enumerate(segments):
        content = segment.read_bytes()
        if place == 0:
            segment.write_bytes(content[: len(content) // 2])
        elif place == 1:
            segment.write_bytes(content[:-20] + b"x" + content[-19:])
    (segments[0].parent / "left.draft").write_bytes(b"half")
    rows = answers.collect()
    assert outputs(rows) == {place: f"Say row {place}" for place in range(300)}
    assert 300 < server.report().executions <= 700


# --- S6, S7; S8 is in test_cluster.py ---------------------------------------------------------------------------------


@OF_WORKERS
def test_tasks_call_beside_each_other(spark: Any) -> None:
    each = 8
    with MeasuringServer() as server:
        # Nothing is answered before all tasks together have as many calls on their way as they may.
        rows = table(spark, 20 * SLOTS, text=f"concat('row ', id, ' after {each * SLOTS} calls')")
        save(chat(rows, "m", prompt="{text}", tasks=SLOTS, concurrency=each * SLOTS, **in_workers(server)))
        assert not server.waited_in_vain
        assert server.most_at_once == each * SLOTS
        assert server.calls == 20 * SLOTS


@OF_WORKERS
def test_one_slow_row_holds_up_no_other(spark: Any) -> None:
    number, concurrency, latency = sized(400, 10_000), sized(16, 32), 0.1 if LONG else 0.02
    # In the short form the slow row is answered when all others have been called: no machine is too busy for that.
    slow = "60 s" if LONG else f"{number} calls"
    with MeasuringServer(latency=latency) as server:
        rows = table(spark, number, text=f"if(id = 0, 'row 0 after {slow}', concat('row ', id))")
        save(chat(rows, "m", prompt="{text}", concurrency=concurrency, **in_workers(server)))
        assert server.calls == number
        assert not server.waited_in_vain
        if LONG:
            took, ideal = server.seconds(), max(60, number * latency / concurrency)
            print(f"S6: the last call began after {took:.1f} s; ideal {ideal:.1f} s")
            assert took <= ideal * 1.1


@OF_WORKERS
def test_a_worker_needs_little_memory(spark: Any) -> None:
    number = sized(2000, 1_000_000, 500)
    most = 0
    with MeasuringServer() as server:
        rows = table(spark, number, text="concat('row ', id, ' ', repeat('x', 4090))")
        answers = chat(
            rows, "m", prompt="Count {id}", concurrency=128, host=server.host, credential=f"env:{TOKEN_VARIABLE}"
        )
        thread = threading.Thread(target=lambda: answers.write.format("noop").mode("overwrite").save())
        thread.start()
        said = 0
        while thread.is_alive():
            most = max([most, *python_workers().values()])
            time.sleep(0.1)
            if server.calls // 100_000 > said:
                said = server.calls // 100_000
                print(f"S7: after {server.calls} calls a worker had {most // 1024} MB", flush=True)
        print(f"S7: {number} rows of 4 KB, {server.calls} calls; a worker had {most // 1024} MB")
        assert server.calls == number
    assert 0 < most <= 300 * 1024


# --- S9, S10 ----------------------------------------------------------------------------------------------------------


def test_spark_and_plain_bulk_give_the_same(spark: Any, server: FaultServer, where: dict[str, Any]) -> None:
    server.change(mix={"429": 0.1, "503": 0.1})
    prompts = [f"row {place}" for place in range(100)]
    options: dict[str, Any] = {"prompt": "Say {text}", "params": {"max_tokens": 9}, "retry": QUICK}
    rows = chat(table(spark, 100), "m", **options, **where).collect()
    server.clear()
    endpoint = AsyncClient(server.host, "token").endpoint("m", task="chat")

    async def plain() -> list[bulk.RowResult]:
        stream = bulk.rows(endpoint, prompts, verb="chat", **options)
        return sorted([row async for row in stream], key=lambda row: row.index)

    for row, result in zip(sorted(rows), asyncio.run(plain()), strict=True):
        mine = row["result"].asDict(recursive=True)
        assert mine["output"] == result.output
        assert mine["usage"] == {"input_tokens": result.input_tokens, "output_tokens": result.output_tokens}
        assert (mine["finish_reason"], mine["model"], mine["attempts"]) == (
            result.finish_reason,
            result.model,
            result.attempts,
        )
        assert mine["error"] is None
        assert result.error is None


def test_no_credential_is_in_the_plan_the_log_or_what_is_sent_to_spark(
    spark: Any,
    server: FaultServer,
    where: dict[str, Any],
    events: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, CANARY)
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    answers = chat(table(spark, 50), "m", prompt="Say {text}", ledger=tmp_path, **where)
    answers.collect()
    answers.explain("extended")
    seen = [capfd.readouterr().out.encode()]
    if CONNECT:
        seen.append(answers._plan.to_proto(spark._client).SerializeToString())
    else:
        from pyspark.serializers import CloudPickleSerializer

        from dbllm.spark.functions import arrow_function

        function = answers._jdf.queryExecution().toString()
        seen.append(function.encode())
        plan = plan_of(lambda: chat(table(spark, 5), "m", prompt="Say {text}", **where))
        seen.append(CloudPickleSerializer().dumps(arrow_function(plan, "result", "chat")))
    logs = [path for path in events.rglob("*") if path.is_file()]
    assert logs
    seen += [path.read_bytes() for path in [*logs, *(path for path in tmp_path.rglob("*") if path.is_file())]]
    assert sum(map(len, seen)) > 10_000
    assert not [content for content in seen if CANARY.encode() in content]


def plan_of(call: Callable[[], Any]) -> Any:
    """The plan that a call makes for its tasks."""
    from dbllm.spark import functions

    plans = []
    original = functions.arrow_function

    def note(plan: Any, *rest: Any) -> Any:
        plans.append(plan)
        return original(plan, *rest)

    functions.arrow_function = note
    try:
        call()
    finally:
        functions.arrow_function = original
    return plans[0]


# --- the verbs, and what may go wrong ---------------------------------------------------------------------------------


class Answer(BaseModel):
    number: int


def test_every_verb_has_its_columns(spark: Any, server: FaultServer, where: dict[str, Any]) -> None:
    rows = table(spark, 12)
    for row in complete(rows, "m", **where).collect():  # a column called text is what is asked
        assert row["result"]["output"] == row["text"]
    vectors = {row["id"]: row["result"]["output"] for row in embed(rows, "m", prompt="text", **where).collect()}
    assert len({tuple(vector) for vector in vectors.values()}) == 12
    several = embed(rows.selectExpr("id", "array(text, 'x') as texts"), "m", prompt="texts", tasks=1, **where)
    assert all(len(row["result"]["output"]) == 2 for row in several.collect())
    for row in respond(rows, "m", prompt="text", **where).collect():
        assert row["result"]["output"] == row["text"]
    predicted = predict(rows, "m", columns=["text"], **where).collect()
    assert all(row["result"]["error"] is None and row["result"]["output"] for row in predicted)
    messages = rows.selectExpr("id", "array(named_struct('role', 'user', 'content', text)) as messages", "text")
    for row in chat(messages, "m", **where).collect():
        assert row["result"]["output"] == row["text"]
    numbers = rows.selectExpr("id", """concat('{"number": ', id, '}') as text""")
    for row in chat(numbers, "m", prompt="text", response_model=Answer, **where).collect():
        assert json.loads(row["result"]["parsed"]) == {"number": row["id"]}, row


def test_any_name_of_a_column_and_any_value_that_is_text_will_do(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    names = ["a.b", "a b", "a`b", "{a}", "Text", "text", "id", "id"]
    rows = spark.range(1).selectExpr(*(f"'{place}' as c{place}" for place in range(len(names)))).toDF(*names)
    options = {"column": "of.it", "tasks": 1, **where}
    for prompt, said in (("a.b", "0"), ("{a}", "3"), ("text", "5"))[: 3 if MAIN or LONG else 1]:
        answers = chat(rows, "m", prompt=prompt, **options)
        assert (answers.columns, answers.collect()[0]["of.it"]["output"]) == ([*names, "of.it"], said)
    good, _ = chat(rows, "m", prompt="{a.b} {a`b} {Text}", key=["a b"], ledger=tmp_path, on_error="split", **options)
    assert good.collect()[0]["of.it"]["output"] == "0 2 4"
    messages = spark.range(1).selectExpr("array(map('role', 'user', 'content', 'from a map')) as messages")
    assert chat(messages, "m", tasks=1, **where).collect()[0]["result"]["output"] == "from a map"


def test_a_map_is_an_object_wherever_it_stands() -> None:
    import pyarrow

    inner = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    kind = pyarrow.map_(pyarrow.string(), pyarrow.list_(pyarrow.struct([("of", inner), ("n", pyarrow.int64())])))
    values = [[("x", [{"of": [("y", 1)], "n": 2}, None])], None, []]
    assert python_values(pyarrow.array(values, kind)) == [{"x": [{"of": {"y": 1}, "n": 2}, None]}, None, {}]


def test_a_table_is_named_as_in_sql() -> None:
    named = ["t", "s.t", "c.s.t", "`my-t`", "`my-c`.s.`a b`"]
    paths = ["./t", "/t", "my-t", "a b", "a.b.c.d", "`a/b`", ".t", "s..t", "`t", "t/"]
    assert [is_table(each) for each in named + paths] == [True] * len(named) + [False] * len(paths)


def test_a_custom_model_is_given_the_columns_named_and_no_others() -> None:
    features = RowContent(("inputs", "weight"), records=True)
    row = {"inputs": [1.0], "weight": 2, "id": 7}  # the key is beside them
    assert features(row) == {"dataframe_records": [{"inputs": [1.0], "weight": 2}]}
    assert RowMapper("m", verb="predict").request(features(row)).content == features(row)
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"id": "1", "index": None}], "name": None}]
    assert RowContent(("said",), "messages")({"said": messages}) == {
        "messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    }
    with pytest.raises(RowInputError, match="column 'said' is empty"):
        RowContent(("said",), "messages")({"said": None})


def test_values_of_sql_are_those_of_python() -> None:
    import numpy
    import pandas
    from pyspark.sql import Row

    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, float("nan")]})
    assert [_value_at(frame, place) for place in (0, 1)] == [
        {"a": 1, "b": "x", "c": 0.5},
        {"a": 2, "b": None, "c": None},
    ]
    inner = numpy.empty(1, dtype=object)
    inner[0] = Row(role="user", content=numpy.array([{"n": numpy.int64(3)}]))
    assert _value_at(pandas.Series([inner]), 0) == [{"role": "user", "content": [{"n": 3}]}]


def test_a_bad_row_is_one_row_or_ends_the_job_or_is_set_apart(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    rows = table(spark, 40, text="if(id % 20 = 3, null, concat('row ', id))")
    options = {"prompt": "Say {text}", "ledger": tmp_path, **where}
    bad = [row for row in chat(rows, "m", **options).collect() if row["result"]["error"] is not None]
    assert sorted(row["id"] for row in bad) == [3, 23]
    assert bad[0]["result"]["error"]["name"] == "RowInputError"
    assert "'text'" in bad[0]["result"]["error"]["message"]
    good, failed = chat(rows, "m", on_error="split", **options)
    assert (good.count(), sorted(row["id"] for row in failed.collect())) == (38, [3, 23])
    assert server.report().executions == 38
    with pytest.raises(Exception, match="RowInputError"):
        chat(rows, "m", prompt="Say {text}", tasks=1, on_error="raise", **where).collect()


def test_sql_asks_as_ai_query_does(spark: Any, server: FaultServer, where: dict[str, Any]) -> None:
    register(spark, **where)
    register(spark, "shout", "m", verb="chat", params={"max_tokens": 7}, **where)
    table(spark, 60, text="if(id = 7, null, concat('row ', id))").createOrReplaceTempView("lines")
    found = spark.sql("SELECT id, text, dbllm_query('m', text) AS one, shout(text) AS two FROM lines").collect()
    assert sorted(row["id"] for row in found) == list(range(60))
    for row in found:
        for name in ("one", "two"):
            assert row[name]["response"] == row[name]["output"] == row["text"]
            assert (row[name]["errorMessage"] is None) == (row["id"] != 7)
    first = spark.sql("SELECT dbllm_query('other', 'hello').response, dbllm_query('a/b', 'x').errorMessage").collect()[
        0
    ]
    assert first[0] == "hello"
    assert "is a URL or a path" in first[1]
    if MAIN or LONG:
        server.clear()
        register(spark, "vector_of", "m", verb="embed", **where)
        assert "one text a row" in spark.sql("SELECT vector_of(array('a', 'b')).errorMessage").collect()[0][0]
        with pytest.raises(
            Exception, match=r"takes an endpoint's name and the request, and was called with 1 argument"
        ):
            spark.sql("SELECT dbllm_query('m')").collect()
        assert server.report().requests == 0


def test_what_cannot_work_is_said_before_anything_is_sent(
    spark: Any, server: FaultServer, where: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(spark, 5)
    more = rows.selectExpr(
        "*", "named_struct('role', 'user', 'content', text) as message", "array(1) as ids", "binary(text) as data"
    )
    more = more.selectExpr("*", "array(data) as many", "array(named_struct('name', text)) as names")
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "array of structs with role.*struct<role", {"prompt": "message"}),
        (ValueError, "array<int>", {"prompt": "ids"}),
        (ValueError, "several columns 'id'", {"prompt": "text", "key": "id", "df": rows.select("id", "id", "text")}),
        (ValueError, "column 'TEXT' already", {"prompt": "text", "column": "TEXT"}),
        (ValueError, "a pair", {"prompt": "text", "tpm": (1, 2, 3)}),
        (ValueError, "requests_per_minute", {"prompt": "text", "rpm": -1}),
        (TypeError, "params must be a mapping", {"prompt": "text", "params": [1]}),
        (TypeError, "retry must be a dbllm.Retry", {"prompt": "text", "retry": 3}),
        (TypeError, r"createDataFrame", {"prompt": "text", "df": [{"text": "x"}]}),
        (TypeError, "name of an endpoint", {"prompt": "text", "endpoint": None}),
        (ConfigError, "not empty", {"prompt": "text", "endpoint": ""}),
        (ConfigError, "https", {"prompt": "text", "host": "http://example.com"}),
        (LedgerError, "folder", {"prompt": "text", "ledger": "s3://bucket/ledger"}),
        (ValueError, "neither a column nor a template", {"prompt": "Say it"}),
        (ValueError, "'txt'.*columns: id, text", {"prompt": "Say {txt}"}),
        (ValueError, "'ident'", {"prompt": "text", "key": "ident"}),
        (ValueError, "column 'id' already", {"prompt": "text", "column": "id"}),
        (ValueError, "on_error", {"prompt": "text", "on_error": "ignore"}),
        (ValueError, "concurrency", {"prompt": "text", "concurrency": 0}),
        (TypeError, r"no argument concurency=: did you mean concurrency\?", {"prompt": "text", "concurency": 3}),
        (TypeError, r"no argument token=: use credential=\"env:NAME\"", {"prompt": "text", "token": "dapi-secret"}),
        (TypeError, r"use params=\{…\}", {"prompt": "text", "max_tokens": 3}),
        (TypeError, "Column.*name as prompt=", {"prompt": "text", "df": rows.id}),
        (TypeError, r"rdd\.DataFrame|to_spark|createDataFrame", {"prompt": "text", "df": rows.toPandas()}),
        (TypeError, "key must be the name of a column.*got Column", {"prompt": "text", "key": [rows.id]}),
        (TypeError, "key must be the name of a column.*got int", {"prompt": "text", "key": 5}),
        (TypeError, "ledger must be a folder", {"prompt": "text", "ledger": 5}),
        (LedgerError, "folder", {"prompt": "text", "ledger": "hdfs:/ledger"}),
        (LedgerError, "folder", {"prompt": "text", "ledger": "file://host/ledger"}),
        (TypeError, "column must be a name", {"prompt": "text", "column": None}),
        (ValueError, "column is empty", {"prompt": "text", "column": ""}),
        (ValueError, "max_error_rate", {"prompt": "text", "max_error_rate": "0.2"}),
        (TypeError, "retry_errors must be True or False", {"prompt": "text", "retry_errors": "no"}),
        (TypeError, "x: object has no form in JSON", {"prompt": "text", "params": {"x": object()}}),
        (ValueError, "temperature = nan", {"prompt": "text", "params": {"temperature": float("nan")}}),
        (TypeError, "names in params must be str", {"prompt": "text", "params": {1: 2}}),
        (TypeError, "has no model=", {"prompt": "text", "params": {"model": "x"}}),
        (TypeError, "timeout is an argument beside params", {"prompt": "text", "params": {"timeout": 3}}),
        (
            TypeError,
            "response_model must be a pydantic model",
            {"prompt": "text", "response_model": {"type": "object"}},
        ),
        (ConfigError, "empty", {"prompt": "text", "host": ""}),
        (ConfigError, "3000 to 8000", {"prompt": "text", "endpoint": None, "driver_app": 80, "cluster_id": "c"}),
        (ValueError, "driver app does not do chat", {"prompt": "text", "endpoint": None, "driver_app": 5000}),
        (TypeError, "cluster_id= .*goes with driver_app=", {"prompt": "text", "cluster_id": "c"}),
        (ValueError, r"binary, and bytes are no text: decode\(`data`, 'UTF-8'\)", {"prompt": "data"}),
        (ValueError, "array<binary>, and bytes are no text", {"prompt": "Say {many}"}),
        (ValueError, "array<struct<name:string>>", {"prompt": "names"}),
        (ConfigError, "env:NAME", {"prompt": "text", "credential": "dapi-secret"}),
    ]
    for kind, message, options in cases:
        options = {"df": more, "endpoint": "m", **where, **options}
        with pytest.raises(kind, match=message) as caught:
            chat(**options)
        assert "dapi-secret" not in str(caught.value)
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (TypeError, "everything else by its name, such as prompt=", lambda: chat(rows, "m", "text", **where)),
        (ValueError, "complete sends text alone", lambda: complete(more, "m", prompt="names", **where)),
        (ValueError, "columns is empty", lambda: predict(rows, "m", columns=[], **where)),
        (ValueError, "bytes are no text", lambda: predict(more, "m", columns=["id", "data"], **where)),
        (TypeError, "no argument concurency=", lambda: register(spark, concurency=3, **where)),
        (TypeError, "no argument token=", lambda: register(spark, token="dapi-secret", **where)),
        (TypeError, "limits must be", lambda: register(spark, limits=3, **where)),
        (TypeError, "no form in JSON", lambda: register(spark, params={"x": object()}, **where)),
        (TypeError, "spark must be the Spark session, got str", lambda: register("dbllm_query", **where)),
        (ValueError, "a word for SQL", lambda: register(spark, "a.b", **where)),
        (ValueError, "verb must be one of", lambda: register(spark, verb=None, **where)),
    ]
    stream = spark.readStream.format("rate").load().selectExpr("string(value) as text")
    for more_options in ({"ledger": "answers_of_streams"}, {"on_error": "split"}):
        wrong.append((ValueError, "foreachBatch", lambda of=more_options: chat(stream, "m", **of, **where)))
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "dapi-secret" not in str(caught.value)
    assert server.report().requests == 0
    capsys.readouterr()
    chat(rows, "m", prompt="text", concurrency=64, rpm=600, **where)
    said = capsys.readouterr().err
    assert "concurrency 64 = 2 tasks × 32" in said
    assert "requests per minute 600 = 2 tasks × 300" in said
    assert "no ledger" in said


@OF_DBLLM
def test_what_shows_only_in_a_task_is_said_in_one_sentence_and_costs_nothing(spark: Any, tmp_path: Path) -> None:
    rows = table(spark, 30)
    expired = {"error_code": "PERMISSION_DENIED", "message": "Invalid access token."}
    unknown = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "The endpoint 'doly' does not exist."}
    spark.sql("DROP TABLE IF EXISTS theirs")
    spark.range(3).write.saveAsTable("theirs")
    with MeasuringServer() as server:
        options = in_workers(server, prompt="Say {text}", tasks=1)
        cases: list[tuple[str, Any, Callable[[], Any]]] = [
            (
                "refuses every row.*'doly' does not exist",
                ("404 Not Found", unknown),
                lambda: chat(rows, "doly", **options),
            ),
            ("refuses every row.*Invalid access token", ("403 Forbidden", expired), lambda: chat(rows, "m", **options)),
            (
                "NOT_SET is not set where Spark's Python workers run",
                None,
                lambda: chat(rows, "m", **{**options, "credential": "env:NOT_SET"}),
            ),
            (
                "no column may be called dbllm_key",
                None,
                lambda: chat(rows.selectExpr("id", "ID", "text"), "m", ledger="answers_of_twins", **options),
            ),
            ("theirs cannot be a ledger", None, lambda: chat(rows, "m", ledger="theirs", key="id", **options)),
        ]
        for message, refusal, make in cases:
            server.clear()
            server.refusal = refusal
            with pytest.raises(Exception, match=message):
                make().collect()
            assert refusal or not server.calls, message
        spark.sql("DROP TABLE theirs")


def test_no_rows_are_no_rows_and_a_cached_result_is_paid_once(
    spark: Any, server: FaultServer, where: dict[str, Any], tmp_path: Path
) -> None:
    for more in ({}, {"ledger": tmp_path}):
        assert chat(table(spark, 0), "m", prompt="text", **more, **where).collect() == []
    assert server.report().requests == 0
    answers = chat(table(spark, 30), "m", prompt="text", **where).cache()
    assert (answers.count(), len(answers.collect())) == (30, 30)
    assert server.report().executions == 30
    answers.unpersist()


def test_the_package_says_what_is_missing_where_there_is_no_java(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dbllm.spark import java, java_home

    assert (java_home() / "bin" / "java").exists()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java, "_FOLDERS", ())
    with pytest.raises(ConfigError, match=r"Java 17 or newer.*has no bin/java.*openjdk") as caught:
        java_home()
    assert str(caught.value).count(". ") == 0  # one sentence
    assert sys.platform != "linux" or "apt-get install openjdk-17-jre-headless" in str(caught.value)
