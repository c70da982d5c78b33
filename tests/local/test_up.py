"""`dbllm up` and `dbllm serve` as real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbllm.local.storage.store import Change, opened

COMMAND = [sys.executable, "-W", "error", "-m", "dbllm"]
NAMES = ["DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CLUSTER_ID"]


def clean_environment(**extra: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")} | extra


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process of the command line that said it is ready, and the lines it printed up to there."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**environment),
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("# ready"):
                break
        yield process, lines
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Exit status and standard error after a signal; soon."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=15)
    return process.returncode, errors


def exports(lines: list[str]) -> dict[str, str]:
    """The variables that a POSIX shell has after the lines were pasted into it."""
    script = "\n".join([*lines, f'for name in {" ".join(NAMES)}; do eval "echo \\$$name"; done'])
    done = subprocess.run(["/bin/sh", "-e"], input=script, capture_output=True, text=True, check=True)
    return dict(zip(NAMES, done.stdout.splitlines(), strict=True))


def test_the_output_can_be_pasted_into_a_shell_and_then_the_model_answers(model: Path, tmp_path: Path) -> None:
    with running("up", "--port", "0", "--model", str(model), "--state", str(tmp_path)) as (process, lines):
        assert [shlex.split(line)[0] for line in lines[:3]] == ["export"] * 3
        env = exports(lines)
        answer = httpx.post(
            f"{env['DATABRICKS_HOST']}/serving-endpoints/dolly/invocations",
            json={"dataframe_records": [{"prompt": "How are you?", "stop": ["."]}]},
            headers={"authorization": f"Bearer {env['DATABRICKS_TOKEN']}"},
            trust_env=False,
            timeout=30,
        )
        (prediction,) = answer.json()["predictions"]
        assert prediction
        assert "." not in prediction
        arguments = Path(f"/proc/{process.pid}/cmdline")
        if arguments.exists():
            assert env["DATABRICKS_TOKEN"] not in arguments.read_text()
        status, errors = end(process)
    assert (status, errors) == (0, "")
    with running("up", "--port", "0", "--model", str(model), "--state", str(tmp_path)) as (_, lines):
        assert exports(lines)["DATABRICKS_TOKEN"] == env["DATABRICKS_TOKEN"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_within_two_seconds_with_a_stream_open(model: Path, number: signal.Signals) -> None:
    with running("up", "--port", "0", "--model", str(model), "--token", "t") as (process, lines):
        path = f"{exports(lines)['DATABRICKS_HOST']}/serving-endpoints/smollm2-completions/invocations"
        body = {"prompt": "Once upon a time", "use_raw_prompt": True, "max_tokens": 3000, "stream": True}
        headers = {"authorization": "Bearer t"}
        with httpx.stream("POST", path, json=body, headers=headers, trust_env=False, timeout=30) as answer:
            events = answer.iter_lines()  # kept: without it, httpx would hang up
            next(events)
            status, errors = end(process, number)
    assert (status, errors) == (0, "")


def test_a_taken_port_is_a_sentence_and_status_one(model: Path) -> None:
    with running("up", "--port", "0", "--model", str(model)) as (_, lines):
        port = exports(lines)["DATABRICKS_HOST"].rsplit(":", 1)[1]
        done = run("up", "--port", port, "--model", str(model))
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = run("up", "--port", str(other.getsockname()[1]))
        second = run_until_ready("up", "--port", "0", "--model", str(model))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"dbllm: Port {port} on 127.0.0.1 is already in use. A local workspace runs there")
    assert f"`dbllm env --port {port}`" in done.stderr
    assert "choose another port with --port" in taken.stderr
    (line,) = (line for line in second if line.startswith("# try: "))
    assert f'eval "$(dbllm env --port {exports(second)["DATABRICKS_HOST"].rsplit(":", 1)[1]})"' in line
    assert "Traceback" not in done.stderr


def run_until_ready(*arguments: str) -> list[str]:
    with running(*arguments) as (_, lines):
        return lines


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=clean_environment(), timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["up", "--host", "192.168.0.1"], "loopback only"),
        (["up", "--driver", "80"], "3000 to 8000"),
        (["up", "--fault", "dolly:latency=slow"], "latency must be a number, got 'slow'"),
        (["up", "--fault", "dolly:seed=0.5"], "seed must be a whole number, got '0.5'"),
        (["up", "--custom", "mine=nowhere:function"], "nowhere:function cannot be loaded"),
        (["up", "--custom", "mine=ftp://example.com"], "neither module:function nor the URL"),
        (["up", "--port", "0", "--model", "nowhere.gguf"], "no model file nowhere.gguf"),
        (["serve", "--port", "80"], "3000 to 8000"),
        (["serve", "nowhere.gguf", "--port", "7779"], "no model file nowhere.gguf"),
        (["serve", "nowhere:function", "--port", "7779"], "nowhere:function cannot be loaded"),
    ],
)
def test_what_cannot_work_is_a_sentence_and_status_one(arguments: list[str], reason: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("dbllm: ")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_registers_answers_through_the_proxy_and_unregisters(model: Path, tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text("def answer(prompt, stop=None):\n    return prompt.upper()\n")
    with running("up", "--port", "0", "--model", str(model)) as (_, lines):
        env = exports(lines)
        app_env = {**env, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
        client = httpx.Client(
            base_url=env["DATABRICKS_HOST"],
            headers={"authorization": f"Bearer {env['DATABRICKS_TOKEN']}"},
            trust_env=False,
        )
        url = f"/driver-proxy-api/o/0/{env['DATABRICKS_CLUSTER_ID']}/7778"
        with client:
            with running("serve", "shouting:answer", "--port", "7778", **app_env) as (process, _):
                assert client.post(url, json={"prompt": "how are you?"}).json() == "HOW ARE YOU?"
                status, errors = end(process)
            assert status == 0
            assert errors == f"registered with {env['DATABRICKS_HOST']}\n"
            assert client.post(url, json={"prompt": "x"}).status_code == 502


def test_help_needs_neither_the_model_nor_the_web_server() -> None:
    code = (
        "import sys, json; from dbllm import cli; "
        "heavy = ['xllamacpp', 'wordllama', 'numpy', 'uvicorn', 'starlette', 'dbllm.local.driver.server']; "
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    assert "serve" in run("--help").stdout


def test_a_state_of_another_key_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with opened(tmp_path, {}) as store:
        store.commit(Change("k", "a", 1))
    key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    done = subprocess.run(
        [*COMMAND, "up", "--port", "0", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        env=clean_environment(DBLLM_STATE_KEY=key),
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "was encrypted with another key" in done.stderr
    assert key not in done.stderr


def test_a_secret_reaches_the_model_through_the_gateway_and_the_wire(model: Path) -> None:
    with running("up", "--port", "0", "--model", str(model), "--upstream", "openai=local", DBLLM_UPSTREAM_KEY="k") as (
        _,
        lines,
    ):
        env = exports(lines)
        assert any(line.startswith("# upstream: ") for line in lines)
        headers = {"authorization": f"Bearer {env['DATABRICKS_TOKEN']}"}
        with httpx.Client(base_url=env["DATABRICKS_HOST"], headers=headers, trust_env=False, timeout=30) as http:
            http.post("/api/2.0/secrets/scopes/create", json={"scope": "s"}).raise_for_status()
            http.post("/api/2.0/secrets/put", json={"scope": "s", "key": "k", "string_value": "wrong"})
            model_of = {"provider": "openai", "name": "gpt-4", "task": "llm/v1/chat"}
            reference = {"openai_config": {"openai_api_key": "{{secrets/s/k}}"}}
            entity = {"external_model": {**model_of, **reference}}
            config = {"served_entities": [entity]}
            http.post("/api/2.0/serving-endpoints", json={"name": "ext", "config": config}).raise_for_status()
            deadline = time.monotonic() + 20
            while http.get("/api/2.0/serving-endpoints/ext").json()["state"]["ready"] != "READY":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
            refused = http.post("/serving-endpoints/ext/invocations", json=chat)
            assert refused.status_code == 401
            assert refused.json()["error"] == "Received error from openai"
            http.post("/api/2.0/secrets/put", json={"scope": "s", "key": "k", "string_value": "k"})
            answer = http.post("/serving-endpoints/ext/invocations", json=chat)
            assert answer.json()["choices"][0]["message"]["content"]
            assert answer.headers["served-model-name"] == "gpt-4"


def test_a_client_finds_it_without_any_variable_and_each_shell_has_its_form(model: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    program = (
        "from dbllm import Client; print(Client.local().request('GET', '/api/2.0/preview/scim/v2/Me')['userName'])"
    )
    none = subprocess.run([*COMMAND, "env"], capture_output=True, text=True, env=clean_environment(**home), check=False)
    assert none.returncode == 1
    assert none.stderr == "dbllm: no local workspace runs on this machine: start one with `dbllm up`.\n"
    with running("up", "--port", "0", "--model", str(model), **home) as (process, lines):
        expected = exports(lines)
        (note,) = (tmp_path / ".dbllm" / "workspaces").iterdir()
        assert note.stat().st_mode & 0o077 == 0
        assert note.parent.stat().st_mode & 0o077 == 0

        def printed(*command: str) -> str:
            env = clean_environment(**home)
            return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout

        assert exports(printed(*COMMAND, "env").splitlines()) == expected
        token = expected["DATABRICKS_TOKEN"]
        for shell, form in {
            "fish": f"set -gx DATABRICKS_TOKEN {token}",
            "powershell": f"$env:DATABRICKS_TOKEN = '{token}'",
            "dotenv": f'DATABRICKS_TOKEN="{token}"',
            "notebook": f"%env DATABRICKS_TOKEN={token}",
        }.items():
            assert form in printed(*COMMAND, "env", "--shell", shell).splitlines(), shell
        assert "@" in printed(sys.executable, "-W", "error", "-c", program)
        assert end(process)[0] == 0
    assert not note.exists()


def test_it_prints_its_endpoints_and_a_line_to_try_that_runs(model: Path, tmp_path: Path, noting_home: Path) -> None:
    (tmp_path / "own.py").write_text("def answer(prompt, stop=None):\n    return prompt\n")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with running("up", "--port", "0", "--model", str(model), "--custom", "mine=own:answer", **path) as (_, lines):
        port = exports(lines)["DATABRICKS_HOST"].rsplit(":", 1)[1]
        assert (noting_home / ".dbllm" / "workspaces" / f"{port}.json").exists()  # and not the user's own home
        (names,) = (line for line in lines if line.startswith("# endpoints: "))
        assert names.removeprefix("# endpoints: ").split(", ") == [
            *("smollm2-chat", "smollm2-completions", "databricks-bge-large-en", "smollm2-agent"),
            *("smollm2-chat-agent", "dolly", "mine"),
        ]
        (line,) = (line.removeprefix("# try: ") for line in lines if line.startswith("# try: "))
        command = shlex.join(COMMAND)
        script = f'dbllm() {{ {command} "$@"; }}\n{line} --max-tokens 3'
        done = subprocess.run(
            ["bash", "-ec", script], env=clean_environment(), capture_output=True, text=True, check=True
        )
        assert done.stdout.strip()


def streaming(lines: list[str]) -> Any:
    """A long answer of the workspace, open in a block."""
    path = f"{exports(lines)['DATABRICKS_HOST']}/serving-endpoints/smollm2-completions/invocations"
    body = {"prompt": "Once upon a time", "use_raw_prompt": True, "max_tokens": 3000, "stream": True}
    headers = {"authorization": "Bearer t"}
    return httpx.stream("POST", path, json=body, headers=headers, trust_env=False, timeout=60)


def test_draining_says_what_it_waits_for_and_a_second_ctrl_c_ends_at_once(model: Path) -> None:
    arguments = ("up", "--port", "0", "--model", str(model), "--token", "t", "--drain", "600")
    with running(*arguments) as (process, lines), streaming(lines) as answer:
        events = answer.iter_lines()
        next(events)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said == "Waiting up to 600 s for 1 open answer (smollm2-completions); Ctrl-C again ends at once.\n"
        assert [next(events) for _ in range(3)]  # it goes on meanwhile
        assert end(process) == (130, "")


def test_draining_ends_with_the_last_answer(model: Path) -> None:
    with running("up", "--port", "0", "--model", str(model), "--token", "t", "--drain", "600") as (process, lines):
        with streaming(lines) as answer:
            events = answer.iter_lines()
            next(events)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert "1 open answer" in process.stderr.readline()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


def test_a_second_ctrl_c_ends_at_once_whatever_a_custom_model_does(model: Path, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import time\n\ndef answer(prompt, stop=None):\n    print('asked', flush=True)\n    time.sleep(600)\n"
    )
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    arguments = ("up", "--port", "0", "--model", str(model), "--token", "t", "--drain", "600")
    with running(*arguments, "--custom", "endless=endless:answer", **path) as (process, lines):
        program = (
            "import httpx, sys\nhttpx.post(sys.argv[1], json={'dataframe_records': [{'prompt': 'x'}]}, timeout=600, "
            "headers={'authorization': 'Bearer t'}, trust_env=False)"
        )
        url = f"{exports(lines)['DATABRICKS_HOST']}/serving-endpoints/endless/invocations"
        caller = subprocess.Popen([sys.executable, "-c", program, url], stderr=subprocess.DEVNULL)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGINT)
            assert "(endless)" in process.stderr.readline()
            assert end(process)[0] == 130
            caller.wait(60)
        finally:
            caller.kill()
            caller.wait()
