"""The clock that does not run: waits between attempts take no time, and end in the right order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import trio

from dbllm import APIError, AsyncClient, Client, RateLimitError, Retry
from dbllm.testing import VirtualClock, fault_server

PATIENT = Retry(attempts=6, backoff=600, max_backoff=3600)


def test_hours_of_backoff_pass_at_once_in_plain_code_and_in_both_loops() -> None:
    async def in_loop() -> None:
        async with clock.drive(AsyncClient(server.host, "token", retry=PATIENT, timeout=86_400)) as client:
            with pytest.raises(RateLimitError):
                await client.endpoint("m").chat("hello")

    began = time.monotonic()
    with fault_server(mix={"429": 1.0}) as server:
        clock = VirtualClock()
        with (
            clock.drive(Client(server.host, "token", retry=PATIENT, timeout=86_400)) as client,
            pytest.raises(RateLimitError),
        ):
            client.endpoint("m").chat("hello")
        assert (len(clock.waits), clock.seconds) == (5, pytest.approx(sum(clock.waits)))
        for run in (asyncio.run, trio.run):
            clock = VirtualClock()
            run(in_loop()) if run is asyncio.run else trio.run(in_loop)
            assert (len(clock.waits), clock.seconds) == (5, pytest.approx(sum(clock.waits)))
    assert time.monotonic() - began < 60


def test_the_wait_that_ends_first_moves_the_clock() -> None:
    async def main() -> None:
        clock, order = VirtualClock(), []
        client = clock.drive(AsyncClient("http://127.0.0.1:9", "token"))
        sleep: Any = client._transport.backend.sleep

        async def wait(seconds: float) -> None:
            await sleep(seconds)
            order.append((seconds, clock.seconds))

        async with client:
            await asyncio.gather(wait(50), wait(5), wait(500), wait(5))
        assert order == [(5, 5), (5, 5), (50, 50), (500, 500)]
        assert clock.waits == [50, 5, 500, 5]

    asyncio.run(main())


def test_a_deadline_is_on_the_clock() -> None:
    with fault_server(mix={"503": 1.0}) as server:
        clock = VirtualClock(100)
        retry = Retry(attempts=100, backoff=4, max_backoff=4)
        with clock.drive(Client(server.host, "token", retry=retry, timeout=60)) as client:
            with pytest.raises(APIError):
                client.endpoint("m").chat("hello")
            assert clock.seconds <= 160
            clock.advance(1000)
            assert clock.seconds > 1000
