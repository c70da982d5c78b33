"""What a call may cost, beside httpx in the same process: wide bounds, so that a regression by a factor is seen."""

from __future__ import annotations

import time

import httpx
import pytest
from support.loopback import Peer
from support.modes import run
from support.samples import chat_answer

import dbllm


@pytest.mark.speed
def test_a_typed_call_costs_no_more_than_an_untyped_one_of_httpx(serve):
    """A third of it is usual."""

    def chatting(peer: Peer) -> None:
        while peer.request():
            peer.answer(chat_answer())

    server = serve(chatting)
    calls, url = 60, f"{server.host}/serving-endpoints/ep/invocations"

    async def main() -> list[float]:
        costs = []
        async with dbllm.AsyncClient(server.host, "t", engine="h11") as ours, httpx.AsyncClient() as theirs:
            endpoint = ours.endpoint("ep")

            async def raw() -> None:
                (await theirs.post(url, json={"messages": []})).json()

            for call in (lambda: endpoint.chat("hi"), raw) * 4:
                began = time.thread_time()  # of the thread that calls: the server's threads do not count
                for _ in range(calls):
                    await call()
                costs.append(time.thread_time() - began)
        return [ours / theirs for ours, theirs in zip(costs[2::2], costs[3::2], strict=True)]

    assert min(run("asyncio", main)) < 1.5
