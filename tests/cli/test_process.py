"""The command as a process of its own: what a terminal shows, pipes, signals, missing packages, imports."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.loopback import Server, answering
from support.terminal import DBLLM, PATIENCE, Terminal

from dbllm import Client
from dbllm.local.model.weights import default_model
from dbllm.testing import scripted_workspace


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


def test_a_conversation_greets_takes_commands_and_long_texts_and_stops_an_answer(
    environ: dict[str, str], tmp_path: Path
) -> None:
    history = tmp_path / "typed"
    environ = {**environ, "DBLLM_HISTORY": str(history)}
    terminal = Terminal(["chat", "smollm2-chat", "--max-tokens", "4"], environ)

    def enter(text: bytes, *wanted: bytes) -> None:
        seen = len(terminal.seen)
        terminal.type(text)
        terminal.read_until(lambda all_seen: all(word in all_seen[seen:].replace(b"\r\n", b"\n") for word in wanted))

    terminal.read_until(lambda seen: b"(SmolLM2-135M-Instruct" in seen and b"> " in seen)
    enter(b"/help\n", b"/save FILE", b"> ")
    enter(b"/save empty.json\n", b"nothing to save", b"\n> ")
    enter(b"/system Be brief.\n", b"system: Be brief.", b"\n> ")
    enter(b"/nothing\n", b"there is no /nothing", b"\n> ")
    enter(b"/save\n", b"needs the name of a file", b"\n> ")
    enter(b'"""\none\ntwo\n"""\n', b". two", b"\n> ")
    enter(b"three \\\nfour\n", b". four", b"\n> ")
    enter(f"/save {tmp_path}/talk.json\n".encode(), b"saved: 5 messages", b"\n> ")
    enter(f"/save {tmp_path}/talk.json\n".encode(), b"exists.", b"\n> ")
    enter(b"/clear\n", b"forgotten", b"\n> ")
    terminal.type(b"/exit\n")
    assert terminal.end() == 0
    said = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user", "assistant"]
    assert [said[1]["content"], said[3]["content"]] == ["one\ntwo", "three \nfour"]
    assert "/system Be brief." in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_an_answer_and_not_the_conversation(environ: dict[str, str]) -> None:
    with scripted_workspace() as scripted:  # a model may end its longest story after a sentence
        scripted.reply("once and again " * 1000, tokens_per_second=100, times=None)
        terminal = Terminal(["chat", "teller"], {**environ, **scripted.env})
        terminal.read_until(lambda seen: b"> " in seen)
        terminal.type(b"Tell me a very long story.\n")
        terminal.read_until(lambda seen: seen.count(b"again") > 10)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda seen: b"(stopped" in seen and seen.endswith(b"> "))
        terminal.type(b"\x04")
        assert terminal.end() == 0
    assert b"Traceback" not in terminal.seen


def test_an_endpoint_that_cannot_chat_is_refused_at_the_start(environ: dict[str, str]) -> None:
    for name, said in (
        ("databricks-bge-large-en", b"does not chat: use `dbllm embed databricks-bge-large-en`"),
        ("dolly", b"dolly is a custom model and does not chat: use `dbllm complete dolly`"),
        ("smollm2-completions", b"use `dbllm complete smollm2-completions`"),
        ("smollm-chat", b"Did you mean 'smollm2-chat'?"),
    ):
        terminal = Terminal(["chat", name], environ)
        assert terminal.end() == 1
        assert said in terminal.seen.replace(b"\r\n", b" "), terminal.seen  # no name is cut
        assert b"> " not in terminal.seen


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_a_workspace_shows_each_request_on_a_terminal_unless_it_is_to_be_quiet(
    tmp_path: Path, options: list[str]
) -> None:
    model = str(default_model())
    environ = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    terminal = Terminal(["up", "--port", "0", "--drain", "0", "--model", model, *options], environ)
    seen = terminal.read_until(lambda seen: b"# ready" in seen and seen.endswith(b"\n")).decode()
    exports = [line.removeprefix("export ") for line in seen.split("\r\n") if line.startswith("export ")]
    values = dict(line.split("=", 1) for line in exports)
    with Client(values["DATABRICKS_HOST"], values["DATABRICKS_TOKEN"]) as client:
        client.endpoint("smollm2-chat").chat("hello", max_tokens=1)
    if not options:
        terminal.read_until(lambda seen: b"200  POST smollm2-chat" in seen and b"1 token  " in seen)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
    assert (b"POST" in terminal.seen) is not bool(options)


def test_a_table_keeps_names_whole_and_loses_no_letter_on_every_terminal(environ: dict[str, str]) -> None:
    letters = set()
    for width in (30, 60, 80, 200):
        terminal = Terminal(["endpoints", "list"], {**environ, "COLUMNS": str(width), "NO_COLOR": "1"})
        assert terminal.end() == 0
        lines = terminal.seen.decode().splitlines()
        assert any(line.startswith("databricks-bge-large-en") for line in lines), width
        assert max(map(len, lines)) <= width
        words = "READY", "llm/v1/embeddings", "agent/v1/responses", "local@dbllm.invalid"
        assert all(any(word in line for line in lines) for word in words), (width, lines)  # none is broken
        letters.add("".join(sorted("".join(lines[1:] if width > 60 else lines).replace(" ", ""))))
    assert len(letters) == 1  # up to 60 columns it is a list without a title


def test_no_name_is_cut_in_what_a_terminal_shows_at_sixty_columns(environ: dict[str, str]) -> None:
    name = "databricks-bge-large-en"
    get = ["endpoints", "get", name]
    for command, status in ((["chat", name], 1), (["complete", name, "hi"], 1), (["doctor"], 0), (get, 0)):
        terminal = Terminal(command, {**environ, "COLUMNS": "60", "NO_COLOR": "1"})
        assert terminal.end() == status, terminal.seen
        lines = terminal.seen.decode().splitlines()
        assert max(map(len, lines)) <= 60, lines
        assert sum(name in line for line in lines), lines


def test_verbose_shows_each_call(environ: dict[str, str]) -> None:
    command = [*DBLLM, "complete", "dolly", "hi", "--max-tokens", "1", "-v"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "POST /serving-endpoints/dolly/invocations: 200 in" in ended.stderr
    assert environ["DATABRICKS_TOKEN"] not in ended.stderr


def test_an_argument_is_utf_8_whatever_the_terminal_s_settings_say(environ: dict[str, str]) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*DBLLM, "embed", "databricks-bge-large-en", "café"]
    shown = [
        subprocess.run(command, env=env, capture_output=True, check=True).stdout
        for env in ({**environ, "PYTHONUTF8": "1"}, {**environ, **plain})
    ]
    assert shown[0] == shown[1]


def test_verbose_writes_no_line_into_an_answer(environ: dict[str, str]) -> None:
    terminal = Terminal(["chat", "smollm2-chat", "hi", "--max-tokens", "4", "-v"], {**environ, "NO_COLOR": "1"})
    assert terminal.end() == 0
    told = [line for line in terminal.seen.decode().splitlines() if "stream of" in line or "POST" in line]
    assert len(told) == 2
    assert all(re.match(r"\d\d:\d\d:\d\d  (POST|stream of) ", line) for line in told), told
    assert not terminal.seen.endswith(b"\r\n\r\n")


def test_which_standard_input_counts_beside_an_argument(environ: dict[str, str], tmp_path: Path) -> None:
    """A pipe and a file do; not /dev/null, nor the rest of what a shell's loop reads."""
    file = tmp_path / "lines"
    file.write_text("one\ntwo\n")
    dbllm = " ".join(f"'{word}'" for word in DBLLM)
    ask = f"{dbllm} embed databricks-bge-large-en first"
    for script, vectors in (
        (f"printf 'one\\ntwo\\n' | {ask}", 3),
        (f"{ask} < '{file}'", 3),
        (f"{ask} < /dev/null", 1),
        (f"{ask} <&-", 1),
        (f"while read line; do {ask}; done < '{file}'", 2),
    ):
        ended = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=True)
        assert ended.stdout.count("\n") == vectors, (script, ended)
    words = [*DBLLM, *ask.split("'")[-1].split()]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as silent:
        assert silent.stderr is not None
        assert "</dev/null leaves it out" in silent.stderr.readline()
        assert silent.communicate("one\n", PATIENCE)[0].count("\n") == 2


def test_short_help_and_completion_are_there(environ: dict[str, str]) -> None:
    for command in ([], ["chat"], ["endpoints", "list"], ["bulk"], ["up"]):
        ended = subprocess.run([*DBLLM, *command, "-h"], env=environ, capture_output=True, text=True, check=True)
        assert "--help" in ended.stdout
        assert not re.search(r"<(list|str|int|float|bool)\b|\brange>", ended.stdout), command  # no type of Python's
    whole = subprocess.run([*DBLLM, "--help"], env=environ, capture_output=True, text=True, check=True)
    assert "--install-completion" in whole.stdout


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


def test_a_bar_shows_how_far_many_texts_are_on_a_terminal_alone(environ: dict[str, str]) -> None:
    command = ["embed", "databricks-bge-large-en", *map(str, range(250)), "--param", "batch_size=50"]
    terminal = Terminal(command, environ)
    assert terminal.end() == 0
    assert b"embedding" in terminal.seen
    assert b"50/250" in terminal.seen
    piped = subprocess.run([*DBLLM, *command], env=environ, capture_output=True, check=True)
    assert (len(piped.stdout.splitlines()), piped.stderr) == (250, b"")


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
