"""The server that the jobs of these tests call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbllm.testing import FaultServer, fault_server


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.clear()
    running.change(mix={}, latency=0.0)
    return running
