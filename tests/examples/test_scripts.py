"""The scripts and the service run on the local workspace, and do what they say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from dbllm import AsyncClient, Retry
from dbllm.local import Workspace
from dbllm.testing import Fault, faults

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {
    "script.py": r"(?s)one text: [^.]*\na stream: .+Name a river\. -> .+Name a colour\. -> .+Name a city\. -> .+"
    r"Name an animal\. -> .+an error: HTTP 404 .*Did you mean 'dolly'",
    "chain.py": r"(?s).+\nlakes: .+\nhills: .+\nclouds: .+\|.+'output_tokens': \d+",
    "rag.py": r"(?s)lighthouse built\?\npassage:  The lighthouse .+1871.+ferry leave\?\npassage:  The ferry .+",
    "bulk.py": r"(?s)4 rows, 3 distinct, 0 bad\n.*4 of 4 rows answered \(1 by an equal row\).*\n.*"
    r'"message":"My parcel has not arrived\.","output":.+"same_as":2,"error":null',
    "evaluate.py": r"(?s)prompt +right.*\nshort +\d of 4 +0 +\d+ .*\nlong +\d of 4 +0 +\d+ ",
    "extract.py": r"(?s)My parcel.+\n  -> Ticket\(customer='.*', topic='\w+', urgent=\w+\)\nI .+-> Ticket.+-> Ticket",
    "rerank.py": r"(?s)lighthouse built\?\n(  0\.\d{3} \(was \d\)  .+?\n){3}answer:  .+ferry leave\?\n.+answer:  .+",
    "streaming_agent.py": r"(?s)\[weather \{'city': 'Lisbon'\} -> It is sunny in Lisbon\.\]\n.+",
    "traced_service.py": r"(  chat smollm2-chat: \d+ ms .*output_tokens.*\n|answer: \d+ ms .*\n|"
    r"  chat no-such-endpoint: \d+ ms .*NotFoundError.*\n|an error: HTTP 404\n){7}$",
    "agent.py": r"(?s)the model calls multiply \{'a': 6, 'b': 7\}\nthe tool says 42\n.*the answer: .+",
}


OTHERS = {
    "images.py",
    "service.py",
    "test_a_chain.py",
    "test_recorded.py",
    "databricks.ipynb",
    "spark_table.py",
}  # have tests of their own
AT_THE_END = """
if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        {main}
    except DbllmError as error:
        sys.exit(f"{{type(error).__name__}}: {{error}}")
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_every_example_is_tested() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert there == {*SCRIPTS, *OTHERS}


def test_every_script_logs_and_ends_as_the_others_do() -> None:
    for name in {*SCRIPTS, "images.py", "spark_table.py"}:
        text = (EXAMPLES / name).read_text("utf-8")
        main = re.search(r"\n    try:\n        (.*main\(.*)\n    except DbllmError", text)
        assert main, name
        assert text.endswith(AT_THE_END.format(main=main[1])), name


def run(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name)]
    return subprocess.run(
        command, env=dict(os.environ), cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.usefixtures("ambient")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_says_what_it_did(name: str, tmp_path: Path) -> None:
    if name == "traced_service.py":
        pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
    ended = run(name, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert re.search(SCRIPTS[name], ended.stdout), ended.stdout
    assert "Error" not in ended.stderr


@pytest.mark.usefixtures("ambient")
def test_an_image_is_sent_and_a_model_that_takes_none_says_so(tmp_path: Path) -> None:
    ended = run("images.py", tmp_path)
    assert ended.returncode == 1
    assert re.fullmatch(r"asking smollm2-chat about 1 image \(1\d\d characters\)\n", ended.stdout)
    assert re.fullmatch(r"smollm2-chat does not take it: .*this model takes no images.*\n", ended.stderr)


@pytest.mark.usefixtures("ambient")
def test_a_script_that_fails_says_why_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "of-nobody")
    ended = run("script.py", tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"PermissionDeniedError: HTTP 403 .*Invalid access token.*\n", ended.stderr)
    assert "of-nobody" not in ended.stderr


def test_the_test_of_a_chain_passes_with_the_model(ambient: Workspace) -> None:
    runpy.run_path(str(EXAMPLES / "test_a_chain.py"))["test_a_small_model_talks_about_the_thing"](ambient)


@contextmanager
def serving() -> Iterator[str]:
    """The example service, on a port of its own; its URL."""
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


@pytest.fixture
def service(ambient: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with serving() as url:
        yield url


def test_the_service_answers_many_at_once_and_streams(service: str) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(base_url=service, timeout=60, trust_env=False) as http:
            answers = await asyncio.gather(*(http.post("/answer", json={"prompt": f"Say {n}."}) for n in range(4)))
            assert [answer.status_code for answer in answers] == [200] * 4
            assert all(answer.json()["text"] and answer.json()["tokens"] for answer in answers)
            async with http.stream("GET", "/stream", params={"prompt": "Tell me about rivers."}) as stream:
                events = read_events("".join([piece async for piece in stream.aiter_text()]))
            *pieces, (last, usage) = events
            assert len(pieces) > 1
            assert {name for name, _ in pieces} == {"message"}
            assert "".join(data["text"] for _, data in pieces).strip()
            assert last == "done"
            assert usage["tokens"] > 2
            assert (await http.post("/answer", json={})).status_code == 422

    asyncio.run(ask())


def read_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


def test_the_service_says_why_there_is_no_answer_with_one_line_of_log(
    ambient: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr("service.AsyncClient", partial(AsyncClient, retry=Retry(attempts=1)))
    busy = Fault(statuses={429: 1}, retry_after=3)
    for name, fault, prompt, status, error, reason in (
        ("smollm2-chatt", None, "hello", 502, "NotFoundError", "Did you mean 'smollm2-chat'"),
        ("smollm2-chat", busy, "hello", 429, "RateLimitError", "429"),
        ("smollm2-chat", None, "word " * 9_000, 400, "ContextOverflowError", "context"),
    ):
        monkeypatch.setattr("service.CHAT", name)
        with serving() as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as http, ExitStack() as stack:
            if fault is not None:
                stack.enter_context(faults(ambient, name, fault))
            caplog.clear()
            whole, streamed = (
                http.post("/answer", json={"prompt": prompt}),
                http.get("/stream", params={"prompt": prompt}),
            )
        for answer in (whole, streamed):
            assert answer.status_code == status, answer.text
            said = answer.json()
            assert said["error"] == error
            assert reason in said["reason"], said
            assert said["request_id"]
            assert answer.headers.get("retry-after") == ("3" if status == 429 else None)
        assert [(one.name, one.levelname) for one in caplog.records] == [("service", "WARNING")] * 2
        assert all("\n" not in one.getMessage() and one.exc_info is None for one in caplog.records)


def test_a_stream_of_the_service_that_breaks_ends_with_the_reason(
    service: str, ambient: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with faults(ambient, "smollm2-chat", Fault(cut=1)):
        answer = httpx.get(f"{service}/stream", params={"prompt": "hello"}, timeout=60, trust_env=False)
    *pieces, (last, data) = read_events(answer.text)
    assert pieces
    assert (answer.status_code, last, data["error"]) == (200, "error", "StreamInterruptedError")
    (line,) = [one for one in caplog.records if one.name == "service"]
    assert line.exc_info is None
