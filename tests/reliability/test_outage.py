"""Everything fails for a while: the endpoint gets no storm of retries, and calls succeed again soon after."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from reliability.figures import LONG, record

from dbllm import APIError, AsyncClient, Retry
from dbllm.testing import fault_server

RATE = 200  # calls a second
DOWN, UP = (60, 15) if LONG else (8, 10)  # seconds
HEALTHY = 3


async def offer(client: Any, seconds: int, began: list[float], outcomes: list[tuple[float, bool]]) -> None:
    """Begin RATE calls in each second, whether or not earlier ones have ended."""
    loop = asyncio.get_running_loop()
    start, calls = loop.time(), []

    async def one(number: int) -> None:
        began.append(loop.time())
        at = loop.time()
        try:
            await client.endpoint("m").chat(f"{start} {number}")
            outcomes.append((at, True))
        except APIError:
            outcomes.append((at, False))

    for number in range(seconds * RATE):
        await asyncio.sleep(max(0.0, start + number / RATE - loop.time()))
        calls.append(asyncio.ensure_future(one(number)))
    await asyncio.gather(*calls)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["503", "500", "429"])
def test_an_outage_gets_no_storm_and_its_end_is_seen(fault: str) -> None:
    async def main() -> dict[str, float]:
        async with (
            fault_server(latency=0.01, process=True) as server,
            AsyncClient(server.host, "token", retry=Retry(), timeout=30, max_connections=400) as client,
        ):
            began: list[float] = []
            outcomes: list[tuple[float, bool]] = []
            await offer(client, HEALTHY, began, outcomes)
            server.clear()
            server.change(mix={fault: 1.0})
            before = client.stats().calls
            await offer(client, DOWN, began, outcomes)
            report, calls = server.report(), client.stats().calls - before
            server.change(mix={})
            server.clear()
            back: list[tuple[float, bool]] = []
            await offer(client, UP, began, back)
            first = min(at for at, _ in back)
            by_second: dict[int, list[bool]] = {}
            for at, fine in back:
                by_second.setdefault(int(at - first), []).append(fine)
            well = [second for second, fine in by_second.items() if sum(fine) >= 0.95 * len(fine)]
            return {
                "calls": calls,
                "requests_per_call": round(report.requests / calls, 3),
                "busiest": round(max(report.per_second) / RATE, 2),
                "back_after": next(second for second in sorted(well) if all(s in well for s in range(second, UP))),
            }

    figures = asyncio.run(main())
    record("outage", fault, **figures)
    assert figures["requests_per_call"] <= 1.2
    assert figures["busiest"] <= 2
    assert figures["back_after"] <= 10


def test_all_who_are_sent_away_together_do_not_come_back_together() -> None:
    async def main() -> tuple[int, ...]:
        async with (
            fault_server(latency=0.01, hint=3.0, mix={"429_hint": 1.0}, process=True) as server,
            AsyncClient(server.host, "token", timeout=30, max_connections=400) as client,
        ):
            outcomes: list[tuple[float, bool]] = []
            refused = asyncio.ensure_future(offer(client, 2, [], outcomes))
            await asyncio.sleep(2)
            server.change(mix={})
            await asyncio.gather(refused, offer(client, 5, [], outcomes))
            return server.report().per_second

    per_second = asyncio.run(main())
    record(
        "outage",
        "a hint of 3 s",
        calls=7 * RATE,
        requests_per_call=sum(per_second) / (7 * RATE),
        busiest=max(per_second) / RATE,
        back_after=0,
    )
    assert max(per_second) <= 2 * RATE
