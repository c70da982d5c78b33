"""The command as a process of its own: what a terminal shows, pipes, signals, missing packages, imports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.loopback import Server, answering
from support.terminal import DBLLM, PATIENCE, Terminal


def test_a_conversation_on_a_terminal_goes_on_until_ctrl_d(environ: dict[str, str]) -> None:
    terminal = Terminal(["chat", "smollm2-chat", "--param", "max_tokens=12"], environ)
    terminal.read_until(lambda seen: seen.count(b"> ") == 1)
    terminal.type(b"hello\n")
    terminal.read_until(lambda seen: seen.count(b"> ") == 2)
    terminal.type(b"and you?\n")
    terminal.read_until(lambda seen: seen.count(b"> ") == 3)
    terminal.type(b"\x04")
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.seen


def test_an_error_in_a_conversation_does_not_end_it(environ: dict[str, str]) -> None:
    terminal = Terminal(["chat", "smollm2-chat", "--param", "no_such_field=1"], environ)
    terminal.read_until(lambda seen: seen.count(b"> ") == 1)
    terminal.type(b"hello\n")
    terminal.read_until(lambda seen: b"no_such_field" in seen and seen.count(b"> ") == 2)
    terminal.type(b"\x04")
    assert terminal.end() == 0


def test_a_failure_is_red_on_a_terminal(environ: dict[str, str]) -> None:
    environ.pop("NO_COLOR", None)
    terminal = Terminal(["complete", "dollly", "hi"], environ)
    assert terminal.end() == 1
    assert b"\x1b[31mdbllm: " in terminal.seen


def test_no_color_is_respected(environ: dict[str, str]) -> None:
    terminal = Terminal(["complete", "dollly", "hi"], {**environ, "NO_COLOR": "1"})
    assert terminal.end() == 1
    assert b"\x1b" not in terminal.seen


def test_a_secret_is_asked_for_without_showing_it(no_workspace: None, serve: Callable[..., Server]) -> None:
    server = serve(answering({"/api/2.0/secrets/put": (200, {})}))
    environ = {**os.environ, "DATABRICKS_HOST": server.host, "DATABRICKS_TOKEN": "t"}
    terminal = Terminal(["secrets", "put-secret", "my-scope", "my-key"], environ)
    assert b"my-key" in terminal.read_until(lambda seen: b": " in seen)
    terminal.type(b"typed-value\n")
    assert terminal.end() == 0
    assert b"typed-value" not in terminal.seen
    assert server.requests[0].json == {"scope": "my-scope", "key": "my-key", "string_value": "typed-value"}


def test_nothing_typed_is_no_secret(no_workspace: None, serve: Callable[..., Server]) -> None:
    server = serve(answering({}))
    environ = {**os.environ, "DATABRICKS_HOST": server.host, "DATABRICKS_TOKEN": "t"}
    terminal = Terminal(["secrets", "put-secret", "my-scope", "my-key"], environ)
    terminal.read_until(lambda seen: b": " in seen)
    terminal.type(b"\n")
    assert terminal.end() == 1
    assert not server.requests


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_ctrl_c_ends_quietly_with_130(environ: dict[str, str], how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as is_idle:
        is_idle.settimeout(PATIENCE)
        environ["DATABRICKS_HOST"] = f"http://127.0.0.1:{is_idle.getsockname()[1]}"
        process = subprocess.Popen(
            [*DBLLM, "chat", "any", "hello", how], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        connection, _ = is_idle.accept()
        with connection:
            assert connection.recv(100)  # the request is there, and will not be answered
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, (b"", b""))


def test_a_reader_that_goes_away_is_no_reason_to_complain(environ: dict[str, str]) -> None:
    texts = ["hello"] * 60
    command = subprocess.Popen(
        [*DBLLM, "embed", "databricks-bge-large-en", *texts],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    first = command.stdout.readline()
    command.stdout.close()
    said = command.stderr.read()
    command.stderr.close()
    command.wait(PATIENCE)
    assert len(json.loads(first)) == 256
    assert said == b""


def test_without_its_packages_it_says_what_to_install(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), environ.get("PYTHONPATH", "")]))
    ended = subprocess.run([*DBLLM, "--help"], env=environ, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "pip install 'dbllm[local]'" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_help_brings_in_none_of_the_heavy_packages(environ: dict[str, str]) -> None:
    code = (
        "import sys, dbllm; before = set(sys.modules); import dbllm.cli.main; "
        "new = set(sys.modules) - before; "
        "print(*sorted({'starlette', 'uvicorn', 'xllamacpp', 'wordllama', 'numpy', 'rich.console', 'dbllm.cli.demo', "
        "'dbllm.local.driver.server', 'dbllm.local'} & new))"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_help_names_every_command_in_plain_text_when_it_is_piped(environ: dict[str, str]) -> None:
    ended = subprocess.run([*DBLLM, "--help"], env=environ, capture_output=True, text=True, check=True)
    for command in ("demo", "up", "serve", "complete", "chat", "embed", "predict", "endpoints", "secrets"):
        assert command in ended.stdout
    assert ended.stdout.isascii()  # neither colours nor boxes
