"""One local workspace, with a driver app, for all tests of this folder, and the command as its users start it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="these are tests of the extra dbllm[local]")
pytest.importorskip("xllamacpp", reason="these are tests of the extra dbllm[local]")

from dbllm import Client
from dbllm.__main__ import main
from dbllm.local import Workspace
from dbllm.local.driver.server import DriverServer

PRINCIPAL, SECRET = "principal-of-the-terminal", "secret-of-the-terminal"  # gets tokens by OAuth


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


def clear_databricks(patch: pytest.MonkeyPatch) -> None:
    """An environment that names no workspace, whatever the machine's own says."""
    for name in list(os.environ):
        if name.startswith("DATABRICKS_"):
            patch.delenv(name)
    patch.setenv("DATABRICKS_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    with Workspace(principals={PRINCIPAL: SECRET}) as running:
        yield running


@pytest.fixture(scope="session")
def app_port(workspace: Workspace) -> Iterator[int]:
    """The port of a driver app that answers with the workspace's own model: a second one need not be loaded."""
    with pytest.MonkeyPatch.context() as patch, Client(workspace.host, workspace.token) as client:
        clear_databricks(patch)
        for name, value in workspace.env.items():
            patch.setenv(name, value)
        with DriverServer(client.endpoint("dolly").complete, port=0) as app:
            yield app.port


@pytest.fixture
def environ(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment names the workspace and no other; this is all of it, for processes that are started."""
    clear_databricks(monkeypatch)
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("DBLLM_HISTORY", str(tmp_path / "history"))
    return dict(os.environ)


@pytest.fixture
def no_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment names no workspace at all."""
    clear_databricks(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command through its entry point, without the second that a new process takes."""

    def run(*arguments: str, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["dbllm", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
        said = capsys.readouterr()
        if isinstance(status, str):  # what the interpreter would do with it
            return Ended(1, said.out, f"{said.err}{status}\n")
        assert isinstance(status, int)
        return Ended(status, said.out, said.err)

    return run
