"""One body, three modes: an `async def` test that asks for `mode` (or for `make`) runs on asyncio, trio and sync."""

from __future__ import annotations

import gc
import inspect
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import respx

import dbllm
from dbllm.testing import FaultServer, fault_server
from dbllm.testing.leak_census import descriptor_numbers, wait_for_end

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside this file

from support.loopback import Script, Server, keep_answering
from support.modes import COLOURS, Clock, Plain, run

HOST = "https://workspace.example.com"
TOKEN = "dapi-test"


# Test files that run on both engines; the fast one serves asyncio only.
ON_BOTH_ENGINES = (
    *("test_backend", "test_decompression", "test_factory", "test_lenient_heads", "test_pool"),
    *("test_retry_calls", "test_sent_twice", "test_stream", "test_transport"),
)


THREADS_THAT_STAY = ("AnyIO worker thread", "Trio thread")  # they end by themselves, later
IN_THE_CORE = {"auth", "backends", "http", "inference", "management", "protocol", "testing", "transport"}
OF_THE_SESSION = {"empty_home", "_light_collections", "tmp_path_factory", "pytestconfig", "event_loop_policy"}
FILES_THAT_STAY = re.compile(r"/dev/|pipe:")  # uvloop keeps a pipe; what a process of ours leaves warns by itself


def pytest_make_parametrize_id(val: object) -> str | None:
    """A function by its name: its address differs between the processes that share the tests."""
    return getattr(val, "__name__", None) if callable(val) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    given = {name for mark in marks for name in re.findall(r"\w+", str(mark.args[0]))}
    coloured = "mode" in metafunc.fixturenames and "mode" not in given
    if metafunc.module.__name__.rpartition(".")[2] not in ON_BOTH_ENGINES:
        if coloured:
            metafunc.parametrize("mode", COLOURS)
    elif coloured:
        pairs = [*((mode, "h11") for mode in COLOURS), ("asyncio", "httptools")]
        metafunc.parametrize(("mode", "engine"), pairs, indirect=["engine"])
    else:
        metafunc.parametrize("engine", ["h11", "httptools"], indirect=True)


def pytest_configure() -> None:
    """Whoever runs in a shell's background ignores Ctrl-C, and so do all its children: tests send it to theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Figures of time are left out where nobody asks for them by their mark."""
    figures = [item for item in items if item.get_closest_marker("speed")]
    if figures and not config.option.markexpr:
        config.hook.pytest_deselected(items=figures)
        items[:] = [item for item in items if item not in figures]


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that the environment names."""
    name = getattr(request, "param", None)
    if name == "httptools":
        pytest.importorskip("httptools", reason="the extra `fast` is not installed")
        if request.node.callspec.params.get("mode", "asyncio") != "asyncio":
            pytest.skip("the fast engine serves asyncio only")
    if name is not None:
        monkeypatch.setenv("DBLLM_ENGINE", name)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if "mode" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run(pyfuncitem.funcargs["mode"], lambda: pyfuncitem.obj(**arguments))
    gc.collect(1)  # what was forgotten warns now, and in the test that forgot it; older objects come at the end
    return True


@pytest.fixture(scope="session", autouse=True)
def _light_collections() -> Iterator[None]:
    """Objects made before the first test are never garbage: the collector skips them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _census(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of the core leaves no socket, file or thread behind. Where there is no /proc, only threads are looked for.

    Two short lists are compared, and what is new is looked at closer only where they differ. Its name makes this the
    first fixture of a test to be set up, and the last to be torn down. A test that shares a server with others is left
    out: what that server opens on its own, nobody can tell from what the test leaves.
    """
    if IN_THE_CORE.isdisjoint(request.path.parts):
        yield
        return
    numbers, threads = descriptor_numbers(), threading.enumerate()
    yield
    if len(descriptor_numbers()) <= len(numbers) and threading.active_count() <= len(threads):
        return
    definitions = request.node._fixtureinfo.name2fixturedefs
    if any(found[-1].scope != "function" for name, found in definitions.items() if name not in OF_THE_SESSION):
        return

    def left() -> list[str]:
        gc.collect()
        found = [repr(one) for one in threading.enumerate() if one not in threads]
        found = [one for one in found if not any(name in one for name in THREADS_THAT_STAY)]
        for number in set(descriptor_numbers()) - set(numbers):
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue
            found += [f"{number} → {target}"] if FILES_THAT_STAY.match(target) is None else []
        return found

    assert not wait_for_end(left, 5.0), "this test left something open"


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder without files, for all tests that write none."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, empty_home: Path, request: pytest.FixtureRequest) -> None:
    """No workspace is configured on the machine the tests run on."""
    if "local" in request.path.parts or "cli" in request.path.parts:
        return  # those folders set their own environment
    for name in list(os.environ):
        if name.startswith("DATABRICKS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(empty_home))


Make = Callable[..., Any]


@pytest.fixture
def make(mode: str) -> Make:
    """Makes a client of the test's mode; the sync one gets async methods."""

    def made(host: str = HOST, token: Any = TOKEN, **options: Any) -> Any:
        if mode == "sync":
            return Plain(dbllm.Client(host, token, **options))
        return dbllm.AsyncClient(host, token, **options)

    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wire() -> Iterator[respx.MockRouter]:
    """A workspace mocked by respx; a request without a route is an error."""
    with respx.mock(base_url=HOST, assert_all_called=False) as router:
        yield router


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts loopback servers: `serve(script for the first connection, …, script for all others)`."""
    servers: list[Server] = []

    def start(*scripts: Script) -> Server:
        servers.append(Server(scripts or (keep_answering,)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# asyncio's debug mode says so of every step of a tenth of a second. How fast this machine is, no program proves.
SLOW_STEP = re.compile(rb"^Executing <.* took \d+\.\d+ seconds\r?\n", re.M)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Runs a program in an interpreter of its own, where every warning is an error; returns what it printed."""

    def play(text: str, *args: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(text)
        command = [sys.executable, "-X", "dev", "-W", "error", str(path), *args]
        root = str(Path(dbllm.__file__).parents[1])
        environment = {"PYTHONPATH": root, "HOME": str(tmp_path), "DBLLM_ENGINE": os.environ.get("DBLLM_ENGINE", "")}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        said, complained = done.stdout.decode(), SLOW_STEP.sub(b"", done.stderr).decode()
        assert done.returncode == 0, complained or said
        assert not complained, complained
        return said

    return play


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP ends a process and what it starts, also where the tests themselves run under nohup."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    """A fault server of this module's own."""
    with fault_server() as started:
        yield started


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    """The module's fault server, which knows nothing of earlier tests, and answers well until it is told otherwise."""
    running.clear()
    running.change(mix={}, latency=0.0)
    return running
