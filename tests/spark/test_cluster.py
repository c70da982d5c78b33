"""What takes a Spark of its own: executors that are killed, and more tasks at once than the other tests have.

`local[…]` has no executors, and `local-cluster[…]` does not start from the package; a master and a worker of Spark
itself do, on this machine, and give each job its executors.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pyspark
import pytest

import dbllm
from dbllm.spark import java_home

from .conftest import CANARY, CONNECT, LONG, TOKEN_VARIABLE
from .measuring_server import MeasuringServer
from .test_table import wait_until

HOME = Path(pyspark.__file__).parent
ROOT = Path(__file__).parents[2]
JOB = (sys.executable, "-m", "tests.spark.cluster_job")
DEPLOY = "org.apache.spark.deploy"
OF_THE_TEST_SESSION = ("SPARK_LOCAL_REMOTE", "SPARK_REMOTE", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT")


def environment() -> dict[str, str]:
    """Of programs that are Spark's, and not of the session that other tests have."""
    more = {
        "SPARK_HOME": str(HOME),
        "JAVA_HOME": str(java_home()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join((str(Path(dbllm.__file__).parents[1]), str(ROOT))),
        TOKEN_VARIABLE: CANARY,  # executors inherit it of the worker
    }
    return {**{name: value for name, value in os.environ.items() if name not in OF_THE_TEST_SESSION}, **more}


class Program:
    """A program of Spark, and what it says; the end of the context ends it."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        self._file: IO[str] = log.open("w")
        self.process = subprocess.Popen(
            command, env=environment(), stdout=self._file, stderr=subprocess.STDOUT, cwd=log.parent
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._file.close()

    def said(self, pattern: str) -> str:
        """What it says, once it does."""
        wait_until(lambda: re.search(pattern, self.log.read_text()) or self.process.poll() is not None, 120)
        found = re.search(pattern, self.log.read_text())
        assert found, self.log.read_text()[-3000:]
        return found[0]


@pytest.fixture
def master(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster with two cores."""
    on_loopback = ("--host", "127.0.0.1", "--webui-port", "0")
    spark_class = str(HOME / "bin" / "spark-class")
    with ExitStack() as programs:
        first = Program(tmp_path / "master.log", spark_class, f"{DEPLOY}.master.Master", *on_loopback, "--port", "0")
        address = programs.enter_context(first).said(r"spark://127\.0\.0\.1:\d+")
        more = ("--cores", "2", "--memory", "2g", "--work-dir", str(tmp_path / "work"), address)
        second = Program(tmp_path / "worker.log", spark_class, f"{DEPLOY}.worker.Worker", *on_loopback, *more)
        programs.enter_context(second).said("Successfully registered with master")
        yield address


def children(of: int | None = None) -> dict[int, tuple[int, str]]:
    """Every process: its parent and its command; or those below one."""
    listed = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = {}
    for line in listed.splitlines()[1:]:
        process, parent, command = line.split(None, 2)
        found[int(process)] = int(parent), command
    if of is None:
        return found
    below = {of}
    while more := {one for one, (parent, _) in found.items() if parent in below} - below:
        below |= more
    return {one: found[one] for one in below - {of} if one in found}


def executors() -> list[int]:
    return sorted(
        one for one, (_, command) in children(os.getpid()).items() if "CoarseGrainedExecutorBackend --driver" in command
    )


@pytest.mark.skipif(CONNECT, reason="the cluster is the same; tests of Spark Connect have a server of their own")
@pytest.mark.skipif(not LONG, reason="starts a cluster: half a minute, and more for each executor that is killed")
@pytest.mark.skipif(sys.platform == "win32", reason="kills processes")
def test_executors_that_are_killed_cost_no_more_than_what_was_under_way(master: str, tmp_path: Path) -> None:
    kills, number, concurrency = 3, 4000, 16
    with MeasuringServer(latency=0.05) as server:
        words = (master, server.host, str(number), str(concurrency), "2", str(tmp_path / "ledger"))
        job = Program(tmp_path / "job.log", *JOB, *words)
        with job:
            left_behind: set[int] = set()
            for kill in range(kills):
                goal = (kill + 1) * number // (kills + 1)
                assert wait_until(lambda goal=goal: server.calls >= goal or job.process.poll() is not None, 180)
                assert job.process.poll() is None, job.log.read_text()[-3000:]
                assert wait_until(executors, 60), children(os.getpid())
                victim = executors()[0]
                left_behind |= children(victim).keys()
                os.kill(victim, signal.SIGKILL)
            assert left_behind  # Python's workers are no children of ours: the executor's end must reach them
            assert wait_until(lambda: not left_behind & children().keys(), 5), "a worker outlives its executor"
            job.process.wait(180)
        again = server.calls - number
        allowed = kills * (concurrency // 2 + 200)
        print(f"S2: {number} rows, {kills} executors killed: {again} calls paid again, {allowed} allowed")
        first, second = (json.loads(line) for line in job.log.read_text().splitlines() if line.startswith('{"'))
        assert first == second == {str(place): f"Say row {place}" for place in range(number)}
        assert 0 <= again <= allowed


@pytest.mark.speed
@pytest.mark.skipif(CONNECT, reason="what bounds it is the worker, which is the same")
def test_more_tasks_do_more(tmp_path: Path) -> None:
    each, rates = 400 if LONG else 200, []
    with MeasuringServer(latency=0.5) as server:
        for tasks in (1, 4):
            server.clear()
            words = ("local[4]", server.host, str(each * tasks), str(8 * tasks), str(tasks))
            with Program(tmp_path / f"{tasks}.log", *JOB, *words) as job:
                job.process.wait(300)
            assert server.calls == each * tasks, job.log.read_text()[-3000:]
            rates.append(server.calls / (server.seconds() + server.latency))
    print(f"S8: {rates[0]:.1f} rows in a second with 1 task, {rates[1]:.1f} with 4: {rates[1] / rates[0]:.2f} times")
    assert rates[1] >= 3 * rates[0]
