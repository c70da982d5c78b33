"""All attacks at once against `dbllm up` and `dbllm serve` as a user starts them, each in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE = 90.0  # seconds until the model is loaded
INSIDE = b"for this machine alone"


@contextmanager
def started(*words: str, **environ: str) -> Iterator[dict[str, str]]:
    """A command in the foreground of another process; what it exports, once it is ready."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABRICKS_", "DBLLM_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "dbllm", *words], stdout=subprocess.PIPE, text=True, env={**clean, **environ}
    )
    assert process.stdout is not None
    ends, exported = time.monotonic() + PATIENCE, {}
    try:
        while not (line := process.stdout.readline()).startswith("# ready"):
            assert line, "it ended before it was ready"
            assert time.monotonic() < ends
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                exported[name] = value.strip("'")
        yield {**exported, "ready": line}
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


class Inside(BaseHTTPRequestHandler):
    """A server of this machine that nobody else should reach."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("content-length", str(len(INSIDE)))
        self.end_headers()
        self.wfile.write(INSIDE)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def inside() -> Iterator[int]:
    for port in range(7990, 7000, -1):
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), Inside)
            break
        except OSError:
            continue
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    state = tmp_path_factory.mktemp("state")
    state.chmod(0o755)
    with started("up", "--port", "0", "--state", str(state), "--deploy-seconds", "0") as running:
        yield {**running, "state": str(state)}


def client(workspace: dict[str, str], token: str | None = None) -> httpx.Client:
    headers = {"authorization": f"Bearer {token or workspace['DATABRICKS_TOKEN']}"}
    return httpx.Client(base_url=workspace["DATABRICKS_HOST"], headers=headers, timeout=60, trust_env=False)


def raw(host: str, data: bytes) -> bytes:
    name, _, port = host.removeprefix("http://").partition(":")
    with socket.create_connection((name, int(port)), timeout=60) as peer:
        peer.sendall(data)
        said = b""
        while piece := peer.recv(65536):
            said += piece
    return said


@pytest.mark.timeout(300)
def test_a_principal_without_rights_gets_nowhere(workspace: dict[str, str], inside: int) -> None:
    with client(workspace) as owner:
        owner.post("/api/local/principals", json={"name": "eve", "service": True}).raise_for_status()
        token = owner.post("/api/local/tokens", json={"principal": "eve"}).json()["token_value"]
        owner.post("/api/2.0/secrets/scopes/create", json={"scope": "private"}).raise_for_status()
    cluster = workspace["DATABRICKS_CLUSTER_ID"]
    Inside.asked.clear()
    with client(workspace, token) as eve:
        attempts: list[tuple[str, str, Any]] = [
            ("POST", "/api/local/driver-apps", {"port": inside}),
            ("GET", "/api/local/driver-apps", None),
            ("GET", f"/driver-proxy-api/o/0/{cluster}/{inside}/", None),
            ("PUT", f"/api/2.0/permissions/clusters/{cluster}", {"access_control_list": []}),
            ("POST", "/api/local/principals", {"name": "mallory", "admin": True}),
            ("POST", "/api/local/tokens", {"principal": "eve"}),
            ("GET", "/api/2.0/secrets/list?scope=private", None),
            ("POST", "/api/2.0/secrets/put", {"scope": "private", "key": "k", "string_value": "v"}),
            ("DELETE", "/api/2.0/serving-endpoints/smollm2-chat", None),
        ]
        for method, path, body in attempts:
            answer = eve.request(method, path, json=body)
            assert answer.status_code == 403, (method, path, answer.text)
        for url in (f"http://127.0.0.1:{inside}", "https://169.254.169.254", f"http://2130706433:{inside}"):
            settings = {"custom_provider_url": url, "bearer_token_auth": {"token_plaintext": "a-key"}}
            model = {"name": "m", "provider": "custom", "task": "llm/v1/chat", "custom_provider_config": settings}
            config = {"served_entities": [{"name": "e", "external_model": model}]}
            answer = eve.post("/api/2.0/serving-endpoints", json={"name": "ssrf", "config": config})
            assert answer.status_code == 400, (url, answer.text)
    assert Inside.asked == []


def test_a_web_page_gets_nowhere(workspace: dict[str, str]) -> None:
    host, token = workspace["DATABRICKS_HOST"], workspace["DATABRICKS_TOKEN"]
    name = host.removeprefix("http://")
    body = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'
    for head in (
        "Host: evil.example",
        f"Host: evil.example:{name.partition(':')[2]}\r\nOrigin: http://evil.example",
        f"Host: {name}\r\nOrigin: http://evil.example",
        f"Host: {name}\r\nOrigin: null",
        f"Host: {name}\r\nSec-Fetch-Site: cross-site",
    ):
        request = (
            f"POST /serving-endpoints/smollm2-chat/invocations HTTP/1.1\r\n{head}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        said = raw(host, request.encode() + body)
        assert said.startswith(b"HTTP/1.1 403 "), (head, said[:100])


def test_half_a_request_does_not_stay_open(workspace: dict[str, str]) -> None:
    """With the time that the process really gives: 20 s for a head, 30 s for a body."""
    host, token = workspace["DATABRICKS_HOST"], workspace["DATABRICKS_TOKEN"]
    begun = {
        "nothing": b"",
        "a head": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "a body": b"POST /serving-endpoints/smollm2-chat/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\nContent-Length: 99\r\n\r\nhalf",
    }
    said: dict[str, bytes] = {}

    def wait(name: str) -> None:
        said[name] = raw(host, begun[name])

    threads = [threading.Thread(target=wait, args=(name,), daemon=True) for name in begun]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: answer[:12] for name, answer in said.items()} == dict.fromkeys(begun, b"HTTP/1.1 408")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_the_state_folder_is_private(workspace: dict[str, str]) -> None:
    folder = Path(workspace["state"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
        (path.name for path in folder.iterdir()), 0o600
    )


@pytest.mark.timeout(300)
def test_nobody_runs_the_function_behind_serve_but_a_program(
    workspace: dict[str, str], tmp_path: Path, inside: int
) -> None:
    (tmp_path / "ours.py").write_text(
        f"def answer(prompt, stop=None, **params):\n    open({str(tmp_path / 'ran')!r}, 'a').write(prompt)\n"
        "    return 'ran'\n"
    )
    environ = {name: workspace[name] for name in workspace if name.startswith("DATABRICKS_")}
    port = inside - 7
    with started(
        "serve",
        "ours:answer",
        "--port",
        str(port),
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        **environ,
    ):
        body = json.dumps({"prompt": "page"}).encode()
        for head in (
            "Host: 127.0.0.1\r\nContent-Type: text/plain",
            "Host: 127.0.0.1\r\nContent-Type: application/json\r\nOrigin: http://evil.example",
            "Host: evil.example\r\nContent-Type: application/json",
            "Host: evil.example\r\nContent-Type: text/plain\r\nSec-Fetch-Site: cross-site",
        ):
            said = raw(
                f"http://127.0.0.1:{port}",
                f"POST / HTTP/1.1\r\n{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body,
            )
            assert said[9:12] in (b"403", b"415"), said[:100]
        assert not (tmp_path / "ran").exists()
        with client(workspace) as owner:
            cluster = workspace["DATABRICKS_CLUSTER_ID"]
            answer = owner.post(f"/driver-proxy-api/o/0/{cluster}/{port}", json={"prompt": "a program"})
            assert (answer.status_code, answer.json()) == (200, "ran")
    assert (tmp_path / "ran").read_text() == "a program"
