"""The sweep of cancellations: it counts and reaches every wait, and sees what a call that is not careful leaves."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dbllm import AsyncClient, Client
from dbllm.testing import FaultServer, cancel_everywhere, fault_server
from dbllm.testing.cancellation import SweepMode

LOOPS: tuple[SweepMode, ...] = ("asyncio", "trio")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


async def chat(client: Any) -> None:
    await client.endpoint("m").chat("hello")


ANYIO = tuple(int(part) for part in version("anyio").split(".")[:2])


async def three_waits() -> None:
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


def test_a_wait_in_an_asyncio_loop_is_two_points_and_in_trio_one() -> None:
    assert cancel_everywhere(three_waits).cancelled == (1, 2, 3, 4, 5, 6)
    assert cancel_everywhere(three_waits, mode="trio").points >= 3
    assert cancel_everywhere(three_waits, mode="trio").ok


def test_the_waits_of_tasks_that_a_call_starts_count_as_well() -> None:
    async def two_tasks() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(three_waits)
            group.start_soon(three_waits)

    for mode in LOOPS:
        report = cancel_everywhere(two_tasks, mode=mode)
        assert report.ok, report
        assert report.points >= 7


@pytest.mark.parametrize("mode", LOOPS)
def test_a_call_of_dbllm_is_cancelled_at_every_wait_and_leaves_nothing(server: FaultServer, mode: SweepMode) -> None:
    if mode == "trio" and ANYIO < (4, 16):  # on trio anyio dials
        pytest.skip("this anyio leaves the socket of a cancelled dial to the garbage collector")
    report = cancel_everywhere(chat, lambda: AsyncClient(server.host, "token"), mode=mode)
    assert report.ok, report
    assert report.points >= 4


def test_plain_code_is_interrupted_before_and_after_each_system_call(server: FaultServer) -> None:
    def plain_chat(client: Any) -> None:
        client.endpoint("m").chat("hello")

    report = cancel_everywhere(plain_chat, lambda: Client(server.host, "token"))
    assert report.ok, report
    assert (report.mode, report.points >= 6) == ("plain", True)
    assert sys.getprofile() is None


def test_a_cancellation_that_is_swallowed_or_turned_into_something_else_is_told() -> None:
    async def swallows() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass

    async def converts() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            raise ValueError("another error") from None

    assert set(cancel_everywhere(swallows).not_propagated) == {"at 1: the call went on", "at 2: the call went on"}
    for mode in LOOPS:
        report = cancel_everywhere(converts, mode=mode)
        assert not report.ok
        assert "another error" in str(report)


def test_sockets_and_tasks_that_stay_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbllm.testing.cancellation._PATIENCE", 0.2)
    kept: list[Any] = []

    async def forgets() -> None:
        kept.append(socket.socket())
        await anyio.lowlevel.checkpoint()
        kept.pop().close()

    async def leaves_a_task() -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        kept.append(task)
        await asyncio.sleep(0)
        task.cancel()

    report = cancel_everywhere(forgets)
    assert any("sockets: " in text for text in report.leaked)
    assert any("tasks: " in text for text in cancel_everywhere(leaves_a_task).leaked)
    for one in kept:
        if isinstance(one, socket.socket):
            one.close()


def test_a_client_that_is_of_no_use_afterwards_is_told() -> None:
    class Fragile:
        broken = False

        def __enter__(self) -> Fragile:
            return self

        def __exit__(self, *_: object) -> None: ...

    def call(fragile: Fragile) -> None:
        if fragile.broken:
            raise RuntimeError("of no use")
        fragile.broken = True
        time.sleep(0)
        fragile.broken = False

    report = cancel_everywhere(call, Fragile)
    assert report.failed_after == ("at 1: RuntimeError: of no use", "at 2: RuntimeError: of no use")
    assert report.points == len(report.cancelled) == 2
