"""`dbllm bulk`: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Peer, Server
from support.samples import chat_answer
from support.terminal import DBLLM, PATIENCE, Terminal

from dbllm.testing import FaultServer

Run = Callable[..., Any]


@pytest.fixture
def environ(server: FaultServer, no_workspace: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    rows = [{"text": f"row {place}"} for place in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, value in {"DATABRICKS_HOST": server.host, "DATABRICKS_TOKEN": "t", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return dict(os.environ)


def words(folder: Path, *more: str) -> list[str]:
    job = [str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), "--endpoint", "m", "--prompt", "Say {text}"]
    return ["bulk", *job, *more]


def test_it_answers_a_file_and_says_so(environ: dict[str, str], tmp_path: Path, run: Run) -> None:
    ended = run(*words(tmp_path, "--price", "1,2", "--report", str(tmp_path / "r.html"), "--param", "n=1"))
    assert (ended.status, ended.out.splitlines()[0][:26]) == (0, "40 of 40 rows answered in ")
    assert "cost 0.00012" in ended.out
    assert json.loads(ended.err.splitlines()[-1])["state"] == "done"  # no terminal: JSON
    assert "<svg" in (tmp_path / "r.html").read_text() or "too short" in (tmp_path / "r.html").read_text()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40
    again = run(*words(tmp_path, "--param", "n=1", "--json", "--quiet"))
    assert (json.loads(again.out)["answered"], again.err) == (40, "")


def test_the_rows_carry_the_tags_of_the_command(
    environ: dict[str, str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(peer: Peer) -> None:
        while peer.request():
            peer.answer(chat_answer())

    server = Server((play,))
    monkeypatch.setenv("DATABRICKS_HOST", server.host)
    ended = run(*words(tmp_path, "--verb", "chat", "--tag", "project=x", "--tag", "team=a=b", "--quiet"))
    server.close()
    assert (ended.status, ended.err) == (0, "")
    sent = [request for request in server.requests if request.line.startswith("POST")]
    assert len(sent) == 40
    tags = {request.headers["databricks-ai-gateway-request-tags"] for request in sent}
    assert tags == {'{"project":"x","team":"a=b"}'}


def test_each_way_to_end_has_its_status_and_one_sentence(
    server: FaultServer, environ: dict[str, str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{broken\n')
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    out = str(tmp_path / "o.jsonl")
    table: list[tuple[int, list[str], str]] = [
        (64, ["bulk", "in.jsonl", "--nonsense"], "No such option"),
        (64, ["bulk", "in.jsonl", "--endpoint", "m"], "-o answers.jsonl"),
        (64, ["bulk", "in.jsonl", "-o", out], "--endpoint"),
        (64, words(tmp_path, "--price", "one"), "two numbers"),
        (64, words(tmp_path, "--tag", "project"), "name=value"),
        (64, ["bulk", "in.jsonl", "-o", out, "--app", "7777", "--tag", "a=b"], "a driver app takes no tags"),
        (64, words(tmp_path, "--verb", "sing"), "verb must be one of"),
        (64, words(tmp_path, "--prompt", "{"), "cannot be read"),
        (
            65,
            ["bulk", str(tmp_path / "broken.jsonl"), "-o", out, "--endpoint", "m", "--prompt", "{text}"],
            "line 2: not JSON",
        ),
        (65, words(tmp_path, "--prompt", "{txt}"), "'txt'"),
        (66, ["bulk", str(tmp_path / "no.jsonl"), "-o", out, "--endpoint", "m"], "no.jsonl cannot be read"),
        (73, words(tmp_path, "-o", str(tmp_path / "none" / "o.jsonl")), "does not exist"),
        (73, words(tmp_path, "-o", str(tmp_path / "in.jsonl")), "is the input itself"),
        (73, words(tmp_path, "-o", str(tmp_path / "other.jsonl")), "is of no known job"),
    ]
    wrong = []
    for status, arguments, said in table:
        ended = run(*arguments)
        lines = ended.err.strip().splitlines()
        if ended.status != status or said not in " ".join(lines) or (status != 64 and len(lines) != 1):
            wrong.append((status, arguments, ended))
    assert not wrong, wrong[0]
    assert server.report().requests <= 4  # look-ups of the endpoint
    assert sorted(path.name for path in tmp_path.glob("o*")) == ["other.jsonl"]
    monkeypatch.delenv("DATABRICKS_HOST")
    nowhere = run(*words(tmp_path))
    assert (nowhere.status, nowhere.err.count("\n")) == (1, 1)


def test_error_rows_end_with_2_and_are_asked_again_when_told(
    server: FaultServer, environ: dict[str, str], tmp_path: Path, run: Run
) -> None:
    server.change(mix={"early_413": 0.3}, seed=9)
    first = run(*words(tmp_path))
    assert first.status == 2
    assert "RequestTooLargeError" in first.out
    server.change(mix={})
    assert run(*words(tmp_path, "--retry-errors=RateLimitError")).status == 2
    assert run(*words(tmp_path, "--retry-errors")).status == 0


def test_a_token_that_is_refused_ends_it_with_77_and_the_same_command_goes_on(
    server: FaultServer,
    environ: dict[str, str],
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Server],
) -> None:
    def refuse(peer: Peer) -> None:
        for _ in iter(peer.request, None):
            if lock.is_set():
                peer.answer({"error_code": "PERMISSION_DENIED", "message": "Invalid access token."}, 403)
            else:
                peer.answer({"name": "m", "task": "llm/v1/chat", "choices": [{"index": 0, "message": answer}]})

    answer = {"role": "assistant", "content": "yes"}
    (lock := threading.Event()).set()
    monkeypatch.setenv("DATABRICKS_HOST", serve(refuse).host)
    ended = run(*words(tmp_path))
    assert ended.status == 77
    said = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert "HTTP 403 PERMISSION_DENIED: Invalid access token." in said[0]
    lock.clear()
    assert run(*words(tmp_path)).status == 0


def test_a_dry_run_sends_nothing_and_names_bad_lines(
    server: FaultServer, environ: dict[str, str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("[]\n")
    monkeypatch.delenv("DATABRICKS_HOST")
    ended = run(*words(tmp_path, "--dry-run", "--param", "max_tokens=5", "--price", "1,1"))
    assert ended.status == 65
    assert ended.out.splitlines()[0] == "41 rows, 40 distinct, 1 bad"
    for said in ("line 41: a JSON list", "at most 200 output tokens", "cost at most about"):
        assert said in ended.out
    assert server.report().requests == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.usefixtures("hangups")
def test_ctrl_c_sigterm_and_a_hangup_let_it_end_with_75_and_the_same_command_goes_on(
    server: FaultServer, environ: dict[str, str], tmp_path: Path, run: Run
) -> None:
    source = (tmp_path / "in.jsonl").read_bytes()
    for name in [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]:
        (folder := tmp_path / name.name).mkdir()
        (folder / "in.jsonl").write_bytes(source)
        server.clear()
        server.change(latency=0.3)
        with subprocess.Popen(
            [*DBLLM, *words(folder, "--concurrency", "2")],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as job:  # fmt: skip
            journal = folder / "out.jsonl.part"
            while not journal.exists() or b'"ok":1' not in journal.read_bytes():
                assert job.poll() is None
            job.send_signal(name)
            _, said = job.communicate(timeout=PATIENCE)
        assert job.returncode == 75, said
        assert "of 40 rows done. The same again goes on from here." in said
        server.change(latency=0.0)
        ended = run(*words(folder))
        assert ended.status == 0
        assert re.search(r"rows? (was|were) done before and not sent again", ended.out)
        assert all(len(server.history(f"Say row {place}")) == 1 for place in range(40))


def test_ctrl_c_and_sigterm_end_it_while_it_waits_for_the_standard_input(
    server: FaultServer, environ: dict[str, str], tmp_path: Path
) -> None:
    command = [*DBLLM, "bulk", "-", "-o", str(tmp_path / "piped.jsonl"), "--endpoint", "m", "--prompt", "{text}"]
    before = sorted(path.name for path in tmp_path.iterdir())
    for name in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as job:
            assert job.stdin is not None
            job.stdin.write(b'{"text": "a"}\n')
            job.stdin.flush()  # and it stays open
            draft = tmp_path / "piped.jsonl.input.new"
            while not draft.exists():
                assert job.poll() is None
            job.send_signal(name)
            try:
                assert job.wait(PATIENCE) == 75
            finally:
                job.kill()
            assert job.stderr is not None
            assert b"interrupted while the input was read; nothing was sent." in job.stderr.read()
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_terminal_shows_the_bar_and_then_the_report(environ: dict[str, str], tmp_path: Path, run: Run) -> None:
    for columns in ("60", "200"):
        terminal = Terminal(words(tmp_path, "--overwrite"), {**environ, "COLUMNS": columns, "TERM": "xterm"})
        assert terminal.end() == 0
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.seen.decode())
        assert "100%  40/40" in shown
        assert "40 of 40 rows answered" in shown
        assert max(len(line) for line in re.split(r"[\r\n]+", shown) if "rows/s" in line) <= int(columns)


def test_the_help_names_every_exit_status(run: Run) -> None:
    assert run("bulk", "--help").status == 0
    shown = run("bulk", "--help").out
    assert re.findall(r"^ *(\d+) ", shown, re.M) == ["0", "1", "2", "64", "65", "66", "73", "74", "75", "76", "77"]
