"""Many callers at once: they wait for their turn, all are answered, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

COMPLETIONS = "/serving-endpoints/smollm2-completions/invocations"
STREAMS = 256
TOKENS = 4


def memory() -> float:
    """Megabytes of this process, in which the workspace and its model run, too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def streams(workspace: SimpleNamespace, number: int) -> list[list[str]]:
    headers = {"authorization": f"Bearer {workspace.identity.token}"}
    limits = httpx.Limits(max_connections=number)
    async with httpx.AsyncClient(
        base_url=workspace.host, headers=headers, timeout=300, limits=limits, trust_env=False
    ) as client:

        async def one(caller: int) -> list[str]:
            # Raw: a chat template's tokens ahead of each prompt would take most of the test's time.
            body = {"prompt": f"Hi {caller}", "use_raw_prompt": True, "max_tokens": TOKENS, "stream": True}
            async with client.stream("POST", COMPLETIONS, json=body) as answer:
                assert answer.status_code == 200
                return [line async for line in answer.aiter_lines() if line]

        return await asyncio.gather(*(one(caller) for caller in range(number)))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory as Linux tells it")
def test_256_streams_wait_for_their_turn_and_all_are_answered_in_flat_memory(workspace: SimpleNamespace) -> None:
    asyncio.run(streams(workspace, 16))  # several for each slot
    before = memory()
    answers = asyncio.run(streams(workspace, STREAMS))
    assert len(answers) == STREAMS
    for lines in answers:
        assert lines[-1] == "data: [DONE]"
        last = json.loads(lines[-2].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == TOKENS
    assert workspace.engine.metrics()["requests_processing"] == 0
    assert memory() - before < 100


def test_a_client_that_vanishes_frees_its_slot_soon(
    workspace: SimpleNamespace, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    body = json.dumps({"prompt": "Once", "use_raw_prompt": True, "max_tokens": 3000, "stream": True}).encode()
    head = (
        f"POST {COMPLETIONS} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {workspace.identity.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    clients = []
    for _ in range(4):
        clients.append(socket.create_connection(("127.0.0.1", int(workspace.host.rsplit(":", 1)[1]))))
        clients[-1].sendall(head.encode() + body)
    eventually(lambda: workspace.engine.metrics()["requests_processing"] == 4)
    gone = time.monotonic()
    for client in clients:
        client.close()
    eventually(lambda: workspace.engine.metrics()["requests_processing"] == 0)
    assert time.monotonic() - gone < 10
