"""One Spark for all tests: classic, or with DBLLM_SPARK=connect through Spark Connect, which one process cannot mix."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="the extra `spark` is not installed: `nox -s spark` has it")

import pyspark

import dbllm
from dbllm import ConfigError
from dbllm.spark import java_home
from dbllm.testing import FaultServer, fault_server

CONNECT = os.environ.get("DBLLM_SPARK") == "connect"
LONG = bool(os.environ.get("DBLLM_SPARK_LONG"))
MAIN = not CONNECT and not pyspark.__version__.startswith("3.")
"""Classic PySpark 4: what depends on the worker alone is measured at length here, and briefly in the other two."""
OF_DBLLM = pytest.mark.skipif(
    not (MAIN or LONG), reason="in a worker dbllm does this alone, so classic PySpark 4 shows it for all"
)
OF_WORKERS = pytest.mark.skipif(
    CONNECT and not LONG, reason="Spark Connect has the workers of classic PySpark 4, which shows it"
)
SLOTS = 2
ATTEMPTS = 25 if LONG else 2
"""How often a task may fail. Each attempt that fails ends its Python worker, so these are what failures cost here."""
DAEMON = "tests.spark.daemon"
CANARY = "dapi-canary-0123456789abcdef"
TOKEN_VARIABLE = "SPARK_WORKERS_TOKEN"


@pytest.fixture(scope="session", autouse=True)
def java() -> Path:
    """Without a Java nothing here can be tested: one sentence ends the run, and it fails."""
    try:
        return java_home()
    except ConfigError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Spark's event log."""
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="session")
def spark(java: Path, events: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session with two slots. Its workers find a credential in an environment variable of their own."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": events.as_uri(),
        "spark.sql.warehouse.dir": tmp_path_factory.mktemp("warehouse").as_uri(),
        "spark.local.dir": str(tmp_path_factory.mktemp("local")),
        "spark.log.level": "OFF",
        "spark.python.daemon.module": DAEMON,
        "spark.sql.shuffle.partitions": str(SLOTS),
        "spark.ui.showConsoleProgress": "false",
    }
    if not LONG:  # Java's second compiler pays in the long run alone, and two cores have no use for more collectors
        settings["spark.driver.extraJavaOptions"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    if CONNECT:
        settings["spark.connect.grpc.binding.port"] = str(_free_port_of_connect())
    os.environ["JAVA_HOME"] = str(java)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    # Workers have the dbllm of these tests, and what a test defines itself.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        str(Path(file).parents[up]) for file, up in ((dbllm.__file__, 1), (__file__, 2))
    )
    os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join(
        [*(f"--conf {shlex.quote(f'{name}={value}')}" for name, value in settings.items()), "pyspark-shell"]
    )
    os.environ[TOKEN_VARIABLE] = CANARY
    master = f"local[{SLOTS},{ATTEMPTS}]"
    if CONNECT:
        os.environ["SPARK_LOCAL_REMOTE"] = "1"
        session = SparkSession.builder.remote(master).getOrCreate()
    else:
        session = SparkSession.builder.master(master).getOrCreate()
    yield session
    session.stop()


def _free_port_of_connect() -> int:
    """A port for a server of these tests alone: PySpark would have each of them on the same one."""
    from pyspark.sql.connect.client.core import DefaultChannelBuilder

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    DefaultChannelBuilder.default_port = staticmethod(lambda: port)
    return port


@pytest.fixture(scope="session")
def running() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def where(server: FaultServer) -> dict[str, Any]:
    """The arguments that lead workers to the fault server."""
    return {"host": server.host, "credential": f"env:{TOKEN_VARIABLE}"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first action of a Spark takes half a minute where the machine is busy; its libraries warn of their own."""
    for item in items:
        if "tests/spark" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(7200 if LONG else 600))
            item.add_marker(pytest.mark.filterwarnings("default"))
