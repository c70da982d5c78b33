"""One local workspace for all examples; it has an upstream of its own for the external model."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("langchain_core") is None:
    collect_ignore_glob = ["test_*.py"]  # `nox -s langchain` has it

from dbllm.local import Workspace
from dbllm.testing import workspace as started

DRIVERS = range(7777, 7800)
"""Ports of driver apps that the workspace's driver proxy reaches."""


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    with started(upstreams={"openai": "local"}, drivers=DRIVERS) as running:
        yield running


@pytest.fixture
def ambient(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The environment points at the local workspace."""
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    return workspace


@pytest.fixture
def app_port() -> int:
    """A free one of these ports."""
    for port in DRIVERS:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError(f"none of the ports {DRIVERS} is free")
