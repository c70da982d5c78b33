"""One local workspace for all tests of this folder; they need langchain-core and langchain-tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside this file

if importlib.util.find_spec("langchain_tests") is None:
    collect_ignore_glob = ["test_*.py"]  # `nox -s langchain` has it

from dbllm import Client
from dbllm.local import Workspace
from dbllm.local.driver.server import DriverServer


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The suites `…ByFunctionCalling` repeat those they inherit from: only what the method changes is run again."""
    repeated = {item for item in items if "ByFunctionCalling::" in item.nodeid and "structured_output" not in item.name}
    if repeated:
        config.hook.pytest_deselected(items=sorted(repeated, key=lambda item: item.nodeid))
        items[:] = [item for item in items if item not in repeated]


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    with Workspace() as running:
        yield running


@pytest.fixture
def ambient(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The environment points at the local workspace."""
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    return workspace


@pytest.fixture(scope="session")
def app_port(workspace: Workspace) -> Iterator[int]:
    """The port of a driver app on the workspace's cluster, which answers with the workspace's own model."""
    with pytest.MonkeyPatch.context() as patch, Client(workspace.host, workspace.token) as client:
        for name, value in workspace.env.items():
            patch.setenv(name, value)

        def answer(prompt: str, stop: list[str] | None = None, **params: object) -> Iterator[str]:
            with client.endpoint("dolly").stream_complete(prompt, stop=stop, **params) as stream:
                yield from (chunk.text for chunk in stream)

        with DriverServer(answer, port=0) as app:
            yield app.port
