"""`dbllm doctor`: green where all is well, and red with advice where it stops."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import respx
import typer
from typer.testing import CliRunner

from dbllm import Client
from dbllm.cli import doctor


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(doctor.doctor)
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture
def configured(light: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    workspace = light()
    monkeypatch.setenv("DATABRICKS_HOST", workspace.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", workspace.identity.token)
    return workspace


def test_where_all_is_well_every_line_is_green_and_timed_and_the_exit_status_is_0(configured: Any) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    checks = ["configuration", "DNS", "TCP", "auth", "endpoints", "model"]
    assert [line.split()[1] for line in lines] == checks
    assert "in system.ai: system.ai." in lines[-1]
    assert all(line.startswith("ok") and " ms " in line for line in lines)
    assert f"host {configured.host} from DATABRICKS_HOST, PAT from DATABRICKS_TOKEN" in done.output
    assert configured.identity.token not in done.output


def test_json_is_for_programs(configured: Any) -> None:
    done = run("--json")
    content = json.loads(done.output)
    assert content["ok"] is True
    assert {"check", "ok", "said", "seconds", "advice"} == content["checks"][0].keys()
    assert configured.identity.token not in done.output


def test_another_kind_of_auth_beside_the_one_that_is_used_is_told(configured: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "i")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "canary")
    done = run()
    assert "pat comes before oauth-m2m, which the environment has too; DATABRICKS_AUTH_TYPE" in done.output
    assert done.exit_code == 0
    assert "canary" not in done.output


def test_nothing_configured_says_what_to_do() -> None:
    done = run()
    assert done.exit_code == 1
    assert "no workspace host is configured" in done.output


def test_a_wrong_token_is_red_at_auth_and_nothing_after_it_is_tried(configured: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-canary-wrong")
    done = run()
    assert done.exit_code == 1
    last = done.output.splitlines()[-2:]
    assert last[0].startswith("FAIL auth")
    assert "Invalid access token" in last[0]
    assert "Check that the token belongs to this workspace" in last[1]
    assert "canary" not in done.output


def test_a_closed_port_is_red_at_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("DATABRICKS_TOKEN", "t")
    done = run()
    assert done.exit_code == 1
    assert "FAIL TCP" in done.output
    assert "start one with `dbllm up`" in done.output


def test_a_name_that_is_unknown_is_red_at_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("DATABRICKS_HOST", "https://nowhere.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "t")
    done = run()
    assert done.exit_code == 1
    assert "FAIL DNS" in done.output
    assert "VPN" in done.output


def test_a_workspace_without_model_services_is_well_and_says_so() -> None:
    refusal = {"error_code": "FEATURE_DISABLED", "message": "AI Gateway is not available for this workspace."}
    with respx.mock(base_url="https://w.cloud.databricks.com") as wire:
        wire.get("/api/2.1/unity-catalog/model-services").respond(404, json=refusal)
        with Client("https://w.cloud.databricks.com", "t") as client:
            said = doctor._services(client)
    assert said.startswith("none: AI Gateway is not available for this workspace. Names with two dots cannot be called")


def test_an_endpoint_is_called_once_when_asked(configured: Any) -> None:
    done = run("--endpoint", "there-is-none")
    assert done.exit_code == 1
    assert "FAIL call" in done.output
    assert "there-is-none" in done.output


class Foreign(BaseHTTPRequestHandler):
    """A server that is no workspace, or a page in front of one."""

    answer = (404, b'{"detail":"Not Found"}')

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "said", "advice"),
    [
        (
            404,
            b'{"detail":"Not Found"}',
            "Not Found",
            "/api/2.0/preview/scim/v2/Me was asked, and the answer is none of",
        ),
        (405, b"", "405", "/api/2.0/preview/scim/v2/Me was asked, and the answer is none of"),
        (200, b"<!doctype html><title>Sign in</title>", "Sign in", "A sign-in page, gateway or proxy answered instead"),
        (200, b"", "nothing", "A sign-in page, gateway or proxy answered instead"),
        (200, b"[]", "the answer is no user", "A sign-in page, gateway or proxy answered instead"),
    ],
)
def test_a_server_that_is_no_workspace_is_red_at_auth_and_told_apart(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, said: str, advice: str
) -> None:
    monkeypatch.setattr(Foreign, "answer", (status, body))
    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("DATABRICKS_TOKEN", "t")
        done = run()
        server.shutdown()
    assert done.exit_code == 1
    finding, hint = done.output.splitlines()[-2:]
    assert finding.startswith("FAIL auth")
    assert said in finding
    assert advice in hint
