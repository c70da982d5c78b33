"""The census: it names what a block leaves open, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from dbllm.testing import leak_census as census
from dbllm.testing import leaks, take_census


def test_a_block_that_closes_what_it_opens_is_fine() -> None:
    with leaks():
        socket.socket().close()
        thread = threading.Thread(target=lambda: None)
        thread.start()


def test_sockets_files_and_threads_that_stay_are_named() -> None:
    over = threading.Event()
    opened: list[Any] = []

    def leave_open() -> None:
        opened.append(socket.socket())
        opened.append(Path(__file__).open())  # noqa: SIM115 - it is to stay open
        opened.append(threading.Thread(target=over.wait, name="a thread that waits"))
        opened[-1].start()

    with pytest.raises(AssertionError) as caught, leaks(patience=0.01):
        leave_open()
    over.set()
    sock, file, thread = opened
    thread.join()
    sock.close()
    file.close()
    for said in ("sockets: ", Path(__file__).name, "a thread that waits"):
        assert said in str(caught.value)


def test_tasks_that_stay_are_named_on_both_kinds_of_loop() -> None:
    async def in_asyncio() -> list[str]:
        before = take_census()
        task = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        left = take_census().leaked(before)
        task.cancel()
        return left

    async def in_trio() -> list[str]:
        async with trio.open_nursery() as nursery:
            before = take_census()
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            left = take_census().leaked(before)
            nursery.cancel_scope.cancel()
        return left

    for left in (asyncio.run(in_asyncio()), trio.run(in_trio)):
        assert len(left) == 1
        assert left[0].startswith("tasks: ")


def test_without_proc_the_numbers_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "_FOLDER", "/no/such/folder")
    assert census.descriptor_numbers() == []
    with pytest.raises(AssertionError, match="sockets: "), leaks(patience=0.01):
        sock = socket.socket()
    sock.close()
    with leaks(), open(os.devnull, "rb"):
        pass
