"""What a terminal, a code page, a closed or a full stream do to a command, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Peer, Server, chunk, frame, head
from support.terminal import DBLLM, PATIENCE, Terminal

# Clears the screen, retitles the window, opens a link, colours (CSI as one character), goes back, deletes.
NASTY = "one\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\\x9b31m\x9d0;t\x9c\x08\x0c\x0b\x7f\r\n\ttwo"
EMOJI = "Hi \U0001f600, café, and half: \ud83d"
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def endpoint(name: str) -> dict[str, Any]:
    return {"name": name, "creator": NASTY, "tags": [{"key": NASTY, "value": NASTY}]}


def completion(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def deltas(*texts: str) -> bytes:
    return b"".join(frame({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts) + frame("[DONE]")


def playing(peer: Peer) -> None:
    """A workspace whose every text is nasty, or holds an emoji and half of one."""
    while request := peer.request():
        path = request.line.split(" ")[1]
        if "/stream/" in path:
            events = deltas("Hi \x1b", "[31mred\x9b2J \ud83d", "\ude00") + chunk(b"")
            peer.send(
                head(content_type="text/event-stream").replace(b"content-length: 0", b"transfer-encoding: chunked")
            )
            peer.send(events)
            continue
        answers = {
            "/refused/": (400, {"error_code": f"BAD{NASTY}", "message": NASTY}),
            "/predict/": (200, {"predictions": [NASTY]}),
            "/emoji/": (200, completion(EMOJI)),
            "/invocations": (200, completion(NASTY)),
            "/logs": (200, {"logs": NASTY}),
            "/scopes/list": (200, {"scopes": [{"name": NASTY, "backend_type": NASTY}]}),
            "/acls/list": (200, {"items": [{"principal": NASTY, "permission": NASTY}]}),
            "/scopes/delete": (200, {}),
            "/Me": (200, {"userName": NASTY}),
            "/model-services": (200, {"model_services": [{"name": f"model-services/system.ai.{NASTY}"}]}),
            "/serving-endpoints/": (200, endpoint("one")),
            "/serving-endpoints": (200, {"endpoints": [endpoint(NASTY)]}),
        }
        status, content = next(answers[part] for part in answers if part in path)
        peer.answer(content, status)


@pytest.fixture
def nasty(no_workspace: None, serve: Callable[..., Server]) -> dict[str, str]:
    """The environment that names that workspace."""
    environ = {**os.environ, "DATABRICKS_HOST": serve(playing).host, "DATABRICKS_TOKEN": "t", "PYTHONWARNINGS": "error"}
    special = ("NO_COLOR", "TERM", "PYTHONIOENCODING", "PYTHONUNBUFFERED")
    return {name: value for name, value in environ.items() if name not in special}


PRINTING = (
    "chat any hi --no-stream",
    "chat any hi --json",
    "chat stream hi",
    "chat stream hi --json --stream",
    "chat refused hi",
    'predict predict {"inputs":[1]}',
    "secrets list-scopes",
    "secrets list-acls s",
    "endpoints list",
    "endpoints get one",
    "endpoints get one --json",
    "endpoints logs one entity",
    "doctor",
)


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "TERM=dumb"])
def test_no_control_character_of_a_server_reaches_a_terminal(nasty: dict[str, str], plain: dict[str, str]) -> None:
    wrong = []
    for command in PRINTING if "TERM" in plain else (*PRINTING[4:5], *PRINTING[8:9], "--help", "complete", "doctor"):
        terminal = Terminal(command.split(), {**nasty, **plain})
        terminal.end()
        shown = terminal.seen.decode("utf-8")
        if CONTROL.search(shown) or not shown.strip():
            wrong.append((command, shown))
    assert not wrong


def test_line_ends_and_tabs_of_an_answer_stay(nasty: dict[str, str]) -> None:
    terminal = Terminal(["chat", "any", "hi", "--no-stream"], nasty)
    assert terminal.end() == 0
    assert terminal.seen.endswith(b"\r\n\ttwo\r\n")


def test_a_failure_is_one_line_whatever_the_server_says(nasty: dict[str, str]) -> None:
    for command in ("chat refused hi", "predict refused {}"):
        ended = run(command, nasty)
        assert (ended.returncode, ended.stdout, ended.stderr.count(b"\n")) == (1, b"", 1), ended
        assert not CONTROL.search(ended.stderr.decode())


def test_a_pipe_gets_an_answer_as_it_is(nasty: dict[str, str]) -> None:
    assert run("chat any hi --no-stream", nasty).stdout.decode() == f"{NASTY}\n"


def test_a_terminal_shows_a_long_name_whole(nasty: dict[str, str], serve: Callable[..., Server]) -> None:
    name = "a-name-longer-than-a-line-of-a-terminal-" * 4

    def listing(peer: Peer) -> None:
        while peer.request():
            peer.answer({"endpoints": [{"name": name}]})

    terminal = Terminal(["endpoints", "list"], {**nasty, "DATABRICKS_HOST": serve(listing).host, "NO_COLOR": "1"})
    terminal.end()
    assert name in terminal.seen.decode().replace("\r\n", "")


def run(command: str, environ: dict[str, str], redirect: str = "</dev/null", **more: str) -> Any:
    words = " ".join(f"'{word}'" for word in [*DBLLM, *command.split()])
    return subprocess.run(
        ["bash", "-c", f"{words} {redirect}"],
        env={**environ, **more},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def test_no_encoding_loses_an_answer_and_json_stays_json(nasty: dict[str, str]) -> None:
    wrong, replaced = [], EMOJI.encode("cp1252", "replace").decode("cp1252")  # PYTHONIOENCODING may ask for that
    for encoding in ("cp1252", "gbk", "cp950", "ascii", "latin-1:strict", "utf-8", "cp1252:replace"):
        for command in ("chat emoji hi --no-stream", "chat emoji hi --json"):
            ended = run(command, nasty, PYTHONIOENCODING=encoding)
            text = ended.stdout.decode(encoding.split(":")[0]).removesuffix("\n")
            if "--json" in command:
                text = json.loads(text)["choices"][0]["message"]["content"]
            else:
                text = json.loads(f'"{text}"')  # what the encoding lacks is written as JSON would
            if (ended.returncode, ended.stderr, text) != (0, b"", replaced if ":replace" in encoding else EMOJI):
                wrong.append((encoding, command, ended))
    assert not wrong


def test_two_chunks_can_share_a_character(nasty: dict[str, str]) -> None:
    assert run("chat stream hi", nasty).stdout.decode() == "Hi \x1b[31mred\x9b2J \U0001f600\n"


def test_streams_that_are_closed_or_full_are_one_line_or_nothing(nasty: dict[str, str]) -> None:
    lost, usage = ("the standard output cannot be written", 1), ("No such command", 2)
    table: dict[tuple[str, str], tuple[str, int]] = {
        (command, redirect): lost
        for command in (
            "chat any hi",
            "chat stream hi",
            "endpoints list --json",
            "doctor",
            "--help",
            "secrets list-scopes",
        )
        for redirect in ("</dev/null >&-", "</dev/null >/dev/full")
    }
    table |= {
        ("chat any -", "<&-"): ("the standard input cannot be read", 1),
        ("predict predict", "<&-"): ("the standard input cannot be read", 1),
        ("chat any hi", "<&-"): ("", 0),
        ("secrets delete-scope s", "<&- >&- 2>&-"): ("", 0),
        ("chat any hi", "<&- >&- 2>&-"): ("", 1),
        ("chat refused hi", "2>/dev/full"): ("", 1),
        ("nonsense", ">&-"): usage,
    }
    wrong = []
    for (command, redirect), (said, status) in table.items():
        ended = run(command, nasty, redirect)
        error = ended.stderr.decode()
        one_line = error.count("\n") == (1 if said else 0) or status == 2
        if ended.returncode != status or said not in error or not one_line or "Traceback" in error:
            wrong.append((command, redirect, ended))
    assert not wrong


def test_a_server_without_a_standard_output_runs_on(no_workspace: None, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def answer(prompt, stop=None):\n    return prompt\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    for redirect in (">&-", ">/dev/full"):
        words = " ".join(f"'{word}'" for word in [*DBLLM, "serve", "own:answer", "--port", "0"])
        server = subprocess.Popen(["bash", "-c", f"exec {words} {redirect}"], env=environ, stderr=subprocess.PIPE)
        assert server.stderr is not None
        with server, server.stderr as errors:
            assert b"the standard output cannot be written" in errors.readline()
            assert b"not registered" in errors.readline()  # it is said once the app answers
            server.send_signal(signal.SIGINT)
            assert b"Traceback" not in errors.read()
        assert server.returncode == 0
