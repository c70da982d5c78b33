"""What somebody without rights, a web page, or another server may try with a workspace: each is refused."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from support.plane import ENDPOINTS, Plane
from support.providers import Provider

from dbllm.local import LocalError
from dbllm.local.driver.server import DriverServer, open_port
from dbllm.local.errors import Problem
from dbllm.local.gateway import reach as reach_module
from dbllm.local.gateway.gateway import Gateway
from dbllm.local.gateway.reach import Reach, read_reach
from dbllm.local.http import patience
from dbllm.local.http.caller import check_host
from dbllm.local.http.middleware import ErrorMiddleware
from dbllm.local.http.server import WebServer, listen
from dbllm.local.model.llama import Engine
from dbllm.local.storage.identity import identity
from dbllm.local.storage.store import opened

APPS = "/api/local/driver-apps"


# --- the driver proxy -------------------------------------------------------------------------------------------------


async def secret_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Something that listens on this machine, and is nobody else's business."""
    await PlainTextResponse("for this machine alone")(scope, receive, send)


@contextmanager
def serving(app: Any, port: int | None = None) -> Iterator[int]:
    sock = open_port(0) if port is None else listen("127.0.0.1", port, hint="")
    server = WebServer(app, sock)
    server.start()
    yield sock.getsockname()[1]
    server.stop()


async def http_only(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await secret_page(scope, receive, send)


@pytest.fixture
def bob(http: httpx.Client) -> Iterator[dict[str, str]]:
    """The headers of a principal without rights."""
    http.post("/api/local/principals", json={"name": "bob@example.com", "service": False}).raise_for_status()
    token = http.post("/api/local/tokens", json={"principal": "bob@example.com"}).json()["token_value"]
    yield {"authorization": f"Bearer {token}"}
    http.delete("/api/local/principals/bob@example.com").raise_for_status()


def test_who_may_not_attach_to_the_cluster_neither_registers_nor_reads_a_port(
    workspace: SimpleNamespace, http: httpx.Client, bob: dict[str, str]
) -> None:
    cluster = workspace.identity.cluster_id
    permissions = f"/api/2.0/permissions/clusters/{cluster}"
    with serving(http_only) as port:
        url = f"/driver-proxy-api/o/0/{cluster}/{port}"
        for method, path, body in (
            ("POST", APPS, {"port": port}),
            ("DELETE", APPS, {"port": port}),
            ("GET", APPS, None),
            ("GET", permissions, None),
            ("PATCH", permissions, {"access_control_list": []}),
            ("GET", url, None),
            ("POST", f"{url}/", {}),
        ):
            answer = http.request(method, path, json=body, headers=bob)
            assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED"), (method, path)
            assert "bob@example.com" in answer.json()["message"]
        assert http.get(url).status_code == 502  # the owner has not registered it either
        http.post(APPS, json={"port": port}).raise_for_status()
        assert http.get(url).text == "for this machine alone"
        assert http.get(url, headers=bob).status_code == 403
        grant = {"access_control_list": [{"user_name": "bob@example.com", "permission_level": "CAN_ATTACH_TO"}]}
        shown = http.patch(permissions, json=grant).json()
        assert shown["object_id"] == f"/clusters/{cluster}"
        assert shown["access_control_list"][0]["user_name"] == "bob@example.com"
        assert http.get(url, headers=bob).text == "for this machine alone"
        assert http.post(APPS, json={"port": port}, headers=bob).status_code == 403  # to use is not to open
        grant["access_control_list"][0]["permission_level"] = "CAN_MANAGE"
        assert http.patch(permissions, json=grant).status_code == 200
        assert http.post(APPS, json={"port": 3999}, headers=bob).status_code == 403  # it is the owner's machine
        assert http.put(permissions, json={"access_control_list": []}).status_code == 200
        assert http.get(url, headers=bob).status_code == 403
        http.request("DELETE", APPS, json={"port": port}).raise_for_status()


def test_a_cluster_has_levels_of_its_own(workspace: SimpleNamespace, http: httpx.Client) -> None:
    path = f"/api/2.0/permissions/clusters/{workspace.identity.cluster_id}"
    grant = {"access_control_list": [{"group_name": "users", "permission_level": "CAN_QUERY"}]}
    answer = http.put(path, json=grant)
    assert (answer.status_code, "CAN_ATTACH_TO, CAN_RESTART, CAN_MANAGE" in answer.text) == (400, True)
    assert http.get("/api/2.0/permissions/clusters/another").status_code == 404


def test_the_grants_of_the_cluster_are_there_at_the_next_start(engine: Engine, tmp_path: Path) -> None:
    grant = {"access_control_list": [{"user_name": "eve", "permission_level": "CAN_RESTART"}]}
    path = "/api/2.0/permissions/clusters/0101-000000-abcdefgh"
    with opened(tmp_path) as store:
        before = Plane(engine, store).do("PUT", path, grant)
    with opened(tmp_path) as store:
        assert Plane(engine, store).do("GET", path) == before


@pytest.mark.parametrize("port", [80, 1023, 2999, 8001, 22, 5432.0, "7777", True, -1, 10**30])
def test_ports_outside_the_range_are_refused(http: httpx.Client, port: object) -> None:
    assert http.post(APPS, json={"port": port}).status_code == 400


def test_the_workspaces_own_port_is_never_proxied(engine: Engine) -> None:
    plane = Plane(engine)
    plane.do("POST", APPS, {"port": 7000})
    url = "/driver-proxy-api/o/0/0101-000000-abcdefgh/7000/api/2.0/secrets/scopes/list"

    async def ask() -> int:
        transport = httpx.ASGITransport(app=plane.app)
        headers = {"authorization": "Bearer owner", "host": "localhost"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7000", headers=headers) as client:
            return (await client.get(url)).status_code

    assert asyncio.run(ask()) == 502


# --- external models --------------------------------------------------------------------------------------------------

NOT_PUBLIC = (
    "http://127.0.0.1:9",
    "http://127.0.0.1",
    "http://127.8.9.10:1",
    "http://localhost:9",
    "http://LOCALHOST:9",
    "http://localhost.:9",
    "http://a.localhost:9",
    "https://localhost",
    "http://[::1]:9",
    "https://[::1]",
    "https://[::]",
    "https://[::ffff:127.0.0.1]:9",
    "https://[::ffff:7f00:1]",
    "https://[::127.0.0.1]",
    "https://[64:ff9b::7f00:1]",
    "https://[64:ff9b::a9fe:a9fe]",
    "https://[2002:7f00:1::]",
    "https://[fe80::1]",
    "https://[fe80::1%25eth0]",
    "https://[fd00:ec2::254]",
    "https://[ff02::1]",
    "https://169.254.169.254",
    "https://169.254.169.254/latest/meta-data",
    "https://0xa9fea9fe",
    "https://2852039166",
    "https://0251.0376.0251.0376",
    "https://169.254.43518",
    "https://2130706433:9",
    "https://0x7f.1",
    "https://0177.0.0.1",
    "https://127.1",
    "https://127.0.0.1.",
    "https://0",
    "https://0.0.0.0:9",
    "https://10.0.0.1",
    "https://172.16.0.1",
    "https://192.168.1.1",
    "https://100.64.0.1",
    "https://192.0.0.192",
    "https://224.0.0.1",
    "https://255.255.255.255",
    "https://metadata.google.internal",
    "https://printer.local",
    "https://host.docker.internal",
    "https://x.example.com:99999",
)
PUBLIC = ("https://api.openai.com/v1", "https://8.8.8.8", "https://[2606:4700::1111]", "https://x.example.com:8443/a")


def external(url: str, provider: str = "custom") -> dict[str, Any]:
    settings: dict[str, Any] = {
        "custom": {
            "custom_provider_config": {
                "custom_provider_url": url,
                "bearer_token_auth": {"token_plaintext": "a-key-of-a-provider"},
            }
        },
        "openai": {"openai_config": {"openai_api_base": url, "openai_api_key_plaintext": "a-key"}},
        "cohere": {"cohere_config": {"cohere_api_base": url, "cohere_api_key_plaintext": "a-key"}},
        "databricks-model-serving": {
            "databricks_model_serving_config": {"databricks_workspace_url": url, "databricks_api_token_plaintext": "k"}
        },
    }
    return {"name": "m", "provider": provider, "task": "llm/v1/chat", **settings[provider]}


def endpoint(url: str, provider: str = "custom") -> dict[str, Any]:
    entity = {"name": "e", "external_model": external(url, provider)}
    return {"name": "ext", "config": {"served_entities": [entity]}}


def test_an_external_model_names_no_server_that_is_not_public(engine: Engine) -> None:
    plane = Plane(engine)
    for provider in ("custom", "openai", "cohere", "databricks-model-serving"):
        for url in NOT_PUBLIC if provider == "custom" else NOT_PUBLIC[::7]:
            status, code, message = plane.refused("POST", ENDPOINTS, endpoint(url, provider))
            assert (status, code) == (400, "INVALID_PARAMETER_VALUE"), url
            assert "which is this machine or one that is not public" in message or "by https" in message, (url, message)
            assert "a-key" not in message
    for url in PUBLIC:
        plane.do("POST", ENDPOINTS, endpoint(url))
        plane.do("DELETE", f"{ENDPOINTS}/ext")


def test_a_user_and_password_in_a_providers_url_are_refused(engine: Engine) -> None:
    plane = Plane(engine, allowed_upstreams=["127.0.0.1"])
    for url in ("https://u:p@api.openai.com", "http://api.openai.com@127.0.0.1:9", "https://127.0.0.1:9@x.example.com"):
        assert plane.refused("POST", ENDPOINTS, endpoint(url))[0] == 400


def test_the_owner_may_allow_a_server(engine: Engine) -> None:
    provider = Provider()
    port = int(provider.url.rsplit(":", 1)[1])
    for allowed in (f"127.0.0.1:{port}", "127.0.0.1", provider.url):
        plane = Plane(engine, allowed_upstreams=[allowed])
        plane.do("POST", ENDPOINTS, endpoint(f"{provider.url}/v1"))
    plane = Plane(engine, upstreams={"openai": f"{provider.url}/v1"})
    plane.do("POST", ENDPOINTS, endpoint(f"{provider.url}/v1"))
    other = Plane(engine, allowed_upstreams=["127.0.0.1:1", "localhost"])
    assert "--allow-upstream" in other.refused("POST", ENDPOINTS, endpoint(f"{provider.url}/v1"))[2]


@pytest.mark.parametrize("flawed", ["", "http://x/path", "u:p@x", "x:port", "//"])
def test_what_is_no_server_cannot_be_allowed(flawed: str) -> None:
    with pytest.raises(LocalError, match="An allowed upstream is a name or name:port"):
        read_reach([flawed])


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Let every name stand for one of these addresses, in their order, and after that for the last; what was asked."""
    asked: list[str] = []

    async def getaddrinfo(_self: object, host: str, port: int, **_more: object) -> list[Any]:
        asked.append(host)
        address = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "fe80::1%eth0", "::ffff:10.0.0.1"]
)
def test_a_name_that_stands_for_an_address_that_is_not_public_is_not_called(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    plane = Plane(engine, deploy_seconds=0.0)
    plane.do("POST", ENDPOINTS, endpoint("https://rebound.example.com"))
    asked = resolving(monkeypatch, address)
    body = {"messages": [{"role": "user", "content": "hi"}]}
    status, code, message = plane.refused("POST", "/serving-endpoints/ext/invocations", body)
    assert (status, code, asked) == (400, "INVALID_PARAMETER_VALUE", ["rebound.example.com"])
    assert "rebound.example.com:443" in message


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []

    class Inner:
        async def connect_tcp(self, host: str, port: int, **_: object) -> str:
            dialled.append(host)
            return "a stream"

    async def call() -> None:
        backend = reach_module._GuardedBackend(Inner(), Reach())
        assert await backend.connect_tcp("rebound.example.com", 443) == "a stream"
        with pytest.raises(Problem):
            await backend.connect_tcp("rebound.example.com", 443)

    resolving(monkeypatch, "8.8.8.8", "127.0.0.1")  # a name that stands for another address a moment later
    asyncio.run(call())
    assert dialled == ["8.8.8.8"]


def test_a_redirect_of_a_provider_is_not_followed(engine: Engine) -> None:
    provider, inside = Provider(), Provider()
    provider.says({}, 307, {"location": f"{inside.url}/v1/chat/completions", "connection": "close"})
    plane = Plane(engine, deploy_seconds=0.0, allowed_upstreams=[provider.url])
    plane.do("POST", ENDPOINTS, endpoint(f"{provider.url}/v1"))
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert plane.answer("POST", "/serving-endpoints/ext/invocations", body).status_code == 502
    assert (len(provider.got), inside.got) == (1, [])


def test_a_gateway_without_options_keeps_to_public_servers_and_its_upstreams() -> None:
    gateway = Gateway(lambda _scope, _key: None, {"openai": "http://127.0.0.1:8000/v1"})
    assert gateway._reach.allows("127.0.0.1", 8000)
    assert not gateway._reach.allows("127.0.0.1", 8001)


# --- names of this machine, and pages of others -----------------------------------------------------------------------

FOREIGN = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example:{port}",
    "x",
    "10.0.0.1",
)
OWN = (
    "127.0.0.1:{port}",
    "localhost",
    "LOCALHOST:{port}",
    "a.localhost",
    "[::1]:{port}",
    "host.docker.internal:{port}",
)


def raw_call(port: int, head: str, body: bytes = b"") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def test_a_workspace_answers_under_its_own_names_only(workspace: SimpleNamespace) -> None:
    port = int(workspace.host.rsplit(":", 1)[1])
    token = f"Authorization: Bearer {workspace.identity.token}"
    for path in ("/api/2.0/serving-endpoints", "/.well-known/databricks-config", "/oidc/v1/token", "/nowhere"):
        for name in FOREIGN:
            answer = raw_call(port, f"GET {path} HTTP/1.1\r\nHost: {name.format(port=port)}\r\n{token}")
            assert answer.startswith(b"HTTP/1.1 403 "), (path, name)
            assert b"does not name this machine" in answer
    for name in OWN:
        answer = raw_call(port, f"GET /api/2.0/serving-endpoints HTTP/1.1\r\nHost: {name.format(port=port)}\r\n{token}")
        assert answer.startswith(b"HTTP/1.1 200 "), name


def test_an_allowed_name_is_one_of_this_machine() -> None:
    for host in ("dev.example.com", "Dev.Example.com:8765"):
        check_host(Headers({"host": host}), {"dev.example.com"})
    with pytest.raises(Problem, match="--allowed-host"):
        check_host(Headers({"host": "dev.example.com.evil.example"}), {"dev.example.com"})


def test_no_page_and_no_foreign_name_runs_the_function_behind_serve() -> None:
    ran: list[object] = []

    def answer(prompt: str, stop: object = None, **params: object) -> str:
        ran.append((prompt, params))
        return "ran"

    body = b'{"prompt": "from a page", "x": 1}'
    page = "Host: 127.0.0.1\r\nContent-Type: application/json\r\n"
    refused = {
        "text/plain": "Host: 127.0.0.1\r\nContent-Type: text/plain",
        "a form": "Host: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded",
        "a form with a file": "Host: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x",
        "no type": "Host: 127.0.0.1",
        "a blob": "Host: 127.0.0.1\r\nContent-Type:",
        "an origin": f"{page}Origin: http://evil.example",
        "an opaque origin": f"{page}Origin: null",
        "an origin like ours": f"{page}Origin: http://127.0.0.1.evil.example",
        "two origins": f"{page}Origin: http://127.0.0.1\r\nOrigin: http://evil.example",
        "cross-site": f"{page}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors",
        "same-site": f"{page}Sec-Fetch-Site: same-site",
        **{name: f"Host: {name.format(port=1)}\r\nContent-Type: application/json" for name in FOREIGN},
        "rebound": "Host: evil.example\r\nOrigin: http://evil.example\r\nContent-Type: application/json",
    }
    with DriverServer(answer, port=0, allowed_hosts=["dev.example.com"]) as app:
        for name, head in refused.items():
            said = raw_call(app.port, f"POST / HTTP/1.1\r\n{head}", body)
            assert said[9:12] in (b"403", b"415"), (name, said[:200])
        preflight = raw_call(app.port, "OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example")
        assert b"access-control" not in preflight.lower()
        assert ran == []
        for name in ("127.0.0.1", "localhost", "dev.example.com"):
            head = f"POST / HTTP/1.1\r\nHost: {name}:{app.port}\r\nContent-Type: application/json"
            assert raw_call(app.port, head, body).endswith(b'"ran"')


# --- half a request ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with little patience."""
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(patience, "BODY_SECONDS", 0.2)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != "/early":
            while (await receive()).get("more_body"):
                pass
        await PlainTextResponse("read")(scope, receive, send)

    with serving(ErrorMiddleware(app)) as port:
        yield port


HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
WHOLE = b"GET /early HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "answer"),
    [
        (b"", b"HTTP/1.1 408 "),
        (b"P", b"HTTP/1.1 408 "),
        (b"POST / HTTP/1.1", b"HTTP/1.1 408 "),
        (HEAD, b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.0\r\nx: 1\r\n", b"HTTP/1.1 408 "),
        (HEAD + b"Content-Length: 9\r\n\r\nhalf", b"HTTP/1.1 408 "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nha", b"HTTP/1.1 408 "),
        (WHOLE.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n"), b"HTTP/1.1 200 "),
    ],
)
def test_half_a_request_is_given_up(hasty: int, begun: bytes, answer: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hasty), timeout=20) as client:
        client.sendall(begun)
        said = b""
        while piece := client.recv(65536):  # until the server closes
            said += piece
    assert said.startswith(answer), said[:100]


@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"Content-Length: 99999\r\n\r\n", WHOLE])
def test_a_request_that_drips_is_given_up(hasty: int, begun: bytes) -> None:
    """One byte at a time, for as long as the server takes them."""
    with socket.create_connection(("127.0.0.1", hasty)) as client:
        client.sendall(begun)
        client.settimeout(0.01)
        for _ in range(100_000):
            try:
                client.sendall(b"x")
                if not client.recv(65536):
                    return
            except TimeoutError:
                continue
            except OSError:  # reset
                return
    pytest.fail("it was never given up")


def test_a_kept_connection_and_a_slow_answer_are_no_half_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(patience, "BODY_SECONDS", 0.05)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await receive()
            await asyncio.sleep(0.3)
            await PlainTextResponse("thought long")(scope, receive, send)

    with serving(app) as port, httpx.Client(trust_env=False) as client:
        for _ in range(3):
            assert client.post(f"http://127.0.0.1:{port}/", content=b"x").text == "thought long"


def test_connections_over_the_limit_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbllm.local.http.server.MAX_CONNECTIONS", 3)
    with serving(http_only) as port:
        held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(6)]
        answers = []
        for one in held:
            one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answers.append(one.recv(65536)[9:12])
        for one in held:
            one.close()
    assert (answers.count(b"200"), answers.count(b"503")) == (3, 3)


# --- the state folder -------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and links of POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_the_state_folder_is_its_owners_alone_also_one_that_exists(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for folder in (tmp_path / "new" / "state", tmp_path / "old"):
            if folder.name == "old":
                with identity(folder, None), opened(folder):
                    pass
                (folder / "mine.txt").touch()
                for path in (folder, *folder.iterdir()):
                    path.chmod(0o777 if path == folder else 0o644)
            with identity(folder, None), opened(folder):
                assert mode(folder) == 0o700
                assert {path.name: mode(path) for path in folder.iterdir() if mode(path) != 0o600} == {}
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize(
    "name", ["workspace.json", "workspace.key", "workspace.db", "workspace.lock", "workspace.db-wal"]
)
def test_a_link_in_the_state_folder_is_refused_and_what_it_leads_to_stays_as_it_is(tmp_path: Path, name: str) -> None:
    folder, victim = tmp_path / "state", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    victim.chmod(0o644)
    (folder / name).symlink_to(victim)
    with pytest.raises(LocalError, match="is a link or something else: delete it"), identity(folder, None):
        pass
    assert (victim.read_text(), mode(victim)) == ("precious", 0o644)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "not-there-yet")
    with pytest.raises(LocalError, match="is a link"), identity(folder, None):
        pass
    assert not (tmp_path / "not-there-yet").exists()


@posix
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    with pytest.raises(LocalError, match="belongs to another user"), identity(tmp_path, None):
        pass
