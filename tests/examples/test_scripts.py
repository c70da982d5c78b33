"""The scripts and the service run on the local workspace, and do what they say."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from dbllm.local import Workspace

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {
    "script.py": r"(?s)one text: [^.]*\na stream: .+Name a river\. -> .+Name a colour\. -> .+Name a city\. -> .+"
    r"Name an animal\. -> .+an error: HTTP 404 .*Did you mean 'dolly'",
    "chain.py": r"(?s).+\nlakes: .+\nhills: .+\nclouds: .+\|.+'output_tokens': \d+",
    "rag.py": r"(?s)lighthouse built\?\npassage:  The lighthouse .+1871.+ferry leave\?\npassage:  The ferry .+",
    "bulk.py": r"(?s)4 rows, 3 distinct, 0 bad\n.*4 of 4 rows answered \(1 by an equal row\).*\n.*"
    r'"message":"My parcel has not arrived\.","output":.+"same_as":2,"error":null',
    "agent.py": r"(?s)the model calls multiply \{'a': 6, 'b': 7\}\nthe tool says 42\n.*the answer: .+",
}


def test_every_example_is_tested() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert there == {*SCRIPTS, "service.py", "databricks.ipynb"}


@pytest.mark.usefixtures("ambient")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_says_what_it_did(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name)]
    ended = subprocess.run(
        command, env=dict(os.environ), cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(SCRIPTS[name], ended.stdout), ended.stdout
    assert "Error" not in ended.stderr


@pytest.fixture
def service(ambient: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example service, on a port of its own; its URL."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    server = uvicorn.Server(uvicorn.Config("service:app", host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def test_the_service_answers_many_at_once_and_streams(service: str) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(base_url=service, timeout=60, trust_env=False) as http:
            answers = await asyncio.gather(*(http.post("/answer", json={"prompt": f"Say {n}."}) for n in range(4)))
            assert [answer.status_code for answer in answers] == [200] * 4
            assert all(answer.json()["text"] and answer.json()["tokens"] for answer in answers)
            async with http.stream("GET", "/stream", params={"prompt": "Tell me about rivers."}) as stream:
                pieces = [piece async for piece in stream.aiter_text()]
            assert len(pieces) > 1
            assert "".join(pieces).strip()
            assert (await http.post("/answer", json={})).status_code == 422

    asyncio.run(ask())
