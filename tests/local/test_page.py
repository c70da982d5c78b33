"""The page at a workspace's address, as a program sees it: who may see what, and what the log keeps."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dbllm import Client
from dbllm.local import Options, Workspace
from dbllm.local.page.request_log import MAX_ENTRIES, Entry

BROWSER = {"accept": "text/html,application/xhtml+xml"}
STORED = "</pre><script>document.title = 'broken into'</script>"


@pytest.fixture(scope="module")
def answered() -> list[Entry]:
    return []


@pytest.fixture(scope="module")
def workspace(model: Path, answered: list[Entry]) -> Iterator[Workspace]:
    with Workspace(model=model, options=Options(on_answer=answered.append)) as one:
        yield one


@pytest.fixture(scope="module")
def session(workspace: Workspace) -> str:
    assert workspace.page_url is not None
    return workspace.page_url.partition("#session=")[2]


@pytest.fixture
def http(workspace: Workspace) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=workspace.host, timeout=30, trust_env=False) as client:
        yield client


def entries(http: httpx.Client, session: str, after: int = 0) -> list[dict[str, object]]:
    answer = http.get(f"/ui/log?after={after}", headers={"x-dbllm-session": session})
    assert answer.status_code == 200, answer.text
    listed: list[dict[str, object]] = answer.json()["entries"]
    return listed


def test_a_browser_gets_the_page_and_a_program_gets_what_databricks_would_say(http: httpx.Client) -> None:
    page = http.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>dbllm: local workspace</title>" in page.text
    assert http.get("/").status_code == 401


def test_every_address_that_a_person_may_open_leads_to_the_page(http: httpx.Client) -> None:
    for path in ("/index.html", "/ui", "/ui/", "/ui/env", "/docs", "/favicon.ico", "/a/b?c=d"):
        for method in ("GET", "HEAD"):
            answer = http.request(method, path, headers=BROWSER)
            assert (answer.status_code, answer.headers.get("location")) == (303, "/"), path  # the fragment goes with it
            assert answer.content == b""
        rebound = http.get(path, headers={**BROWSER, "host": "evil.example"})
        assert (rebound.status_code, "location" in rebound.headers) == (403, False), path
    assert http.get("/favicon.ico", headers={"accept": "image/png,*/*"}).status_code == 204
    for path in ("/api/2.0/serving-endpoints", "/serving-endpoints/dolly/invocations", "/ai-gateway/x", "/oidc/x"):
        assert http.get(path, headers=BROWSER).status_code >= 400, path  # what Databricks would say
    for headers in ({}, {"accept": "*/*"}, {**BROWSER, "authorization": "Bearer wrong"}):
        assert http.get("/index.html", headers=headers).status_code in (401, 403), headers
    assert http.post("/index.html", headers=BROWSER).status_code == 401


def test_the_page_runs_no_script_but_its_own_and_sends_nowhere_else(http: httpx.Client, workspace: Workspace) -> None:
    page = http.get("/", headers=BROWSER)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "access-control-allow-origin" not in page.headers
    assert "://" not in page.text.replace("http://www.w3.org", ""), "it names no other host"
    assert workspace.token not in page.text


def test_nobody_without_the_printed_session_sees_or_does_anything(
    http: httpx.Client, workspace: Workspace, session: str
) -> None:
    good = {"x-dbllm-session": session}
    attacks = {
        "no session": ({}, 401),
        "another session": ({"x-dbllm-session": session[:-1] + ("a" if session[-1] != "a" else "b")}, 401),
        "an empty one": ({"x-dbllm-session": ""}, 401),
        "the token in its place": ({"x-dbllm-session": workspace.token}, 401),
        "the session as a cookie": ({"cookie": f"x-dbllm-session={session}"}, 401),
        "the session as a token": ({"authorization": f"Bearer {session}"}, 401),
        "a foreign page": ({**good, "origin": "https://evil.example"}, 403),
        "a page of another port of this machine": ({**good, "origin": "http://127.0.0.1:1"}, 403),
        "a page without an origin": ({**good, "origin": "null"}, 403),
        "a site that says it is foreign": ({**good, "sec-fetch-site": "cross-site"}, 403),
        "a rebound name": ({**good, "host": "evil.example"}, 403),
        "a rebound name that is its own origin": (
            {**good, "host": "evil.example", "origin": "http://evil.example"},
            403,
        ),
    }
    wrong = []
    for name, (headers, status) in attacks.items():
        for method, path in (
            ("GET", "/ui/env"),
            ("GET", "/ui/log?after=0"),
            ("GET", "/ui/call/api/2.0/serving-endpoints"),
            ("POST", "/ui/call/serving-endpoints/dolly/invocations"),
        ):
            for more in ({}, BROWSER):
                answer = http.request(method, path, headers={**headers, **more}, json={} if method == "POST" else None)
                said = answer.text + str(answer.headers)
                led = bool(more) and answer.status_code == 303 and answer.headers["location"] == "/"
                if (answer.status_code != status and not led) or workspace.token in said or session in said:
                    wrong.append((name, method, path, answer.status_code))
    assert wrong == []


def test_a_foreign_page_is_not_let_by_a_preflight(http: httpx.Client) -> None:
    asked = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-dbllm-session",
    }
    for path in ("/", "/ui/env", "/ui/call/serving-endpoints/dolly/invocations"):
        answer = http.options(path, headers={**BROWSER, **asked})
        assert answer.status_code >= 400, path
        assert not [name for name in answer.headers if name.startswith("access-control")], path


def test_a_rebound_name_gets_no_page(http: httpx.Client) -> None:
    assert http.get("/", headers={**BROWSER, "host": "evil.example"}).status_code == 403


def test_the_page_asks_the_workspace_as_its_owner(http: httpx.Client, workspace: Workspace, session: str) -> None:
    headers = {"x-dbllm-session": session, "origin": workspace.host}
    listed = http.get("/ui/call/api/2.0/serving-endpoints", headers=headers).json()
    assert "dolly" in [one["name"] for one in listed["endpoints"]]
    answer = http.post(
        "/ui/call/serving-endpoints/smollm2-chat/invocations",
        headers=headers,
        json={"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
    )
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] <= 4
    assert http.get("/ui/env", headers=headers).json() == workspace.env


def test_each_request_is_logged_with_its_client_endpoint_status_and_tokens(
    http: httpx.Client, workspace: Workspace, session: str, answered: list[Entry]
) -> None:
    before = max([0, *(int(str(one["version"])) for one in entries(http, session))])
    with Client(workspace.host, workspace.token) as client:
        reply = client.endpoint("smollm2-chat").chat("hello", max_tokens=3)
        with client.endpoint("smollm2-chat").stream_chat("hello", max_tokens=3) as stream:
            list(stream)
        client.endpoint("dolly").complete("hello", max_tokens=3)
    chat, stream_entry, _task, dolly = entries(http, session, before)
    assert (chat["endpoint"], chat["status"], chat["method"]) == ("smollm2-chat", 200, "POST")
    assert str(chat["agent"]).startswith("dbllm/")
    assert reply.usage is not None
    assert (chat["tokens_in"], chat["tokens_out"]) == (reply.usage.prompt_tokens, reply.usage.completion_tokens)
    assert stream_entry["tokens_out"] is not None
    assert dolly["endpoint"] == "dolly"
    assert answered[-4].endpoint == "smollm2-chat"
    bodies = http.get(f"/ui/log/{chat['number']}", headers={"x-dbllm-session": session}).json()
    assert json.loads(bodies["request"])["messages"] == [{"role": "user", "content": "hello"}]
    assert json.loads(bodies["response"])["choices"]


def test_nothing_in_a_line_of_the_log_moves_a_terminals_cursor(workspace: Workspace, answered: list[Entry]) -> None:
    begin, port = len(answered), int(workspace.host.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        line = b"GET /%1b%5d0;OWNED%07%0aforged%e2%80%aeline%9b2J HTTP/1.1\r\n"
        raw.sendall(line + f"host: 127.0.0.1:{port}\r\nuser-agent: x\x9b31m\r\nconnection: close\r\n\r\n".encode())
        while raw.recv(65536):
            pass
    for name in ("a%1b%5b2J", "b%0ac", "d%C2%9b"):
        httpx.post(f"{workspace.host}/serving-endpoints/{name}/invocations", json={}, trust_env=False)
    shown = [text for entry in answered[begin:] for text in (entry.path, entry.endpoint, entry.agent)]
    assert len(shown) == 12
    assert all(text.isprintable() for text in shown), shown
    assert "\\x1b" in shown[0]


def test_no_credential_is_in_the_log(http: httpx.Client, workspace: Workspace, session: str) -> None:
    canary = "CANARY-of-a-secret-0123456789"
    key = "sk-canary0123456789abcdef"
    before = max([0, *(int(str(one["version"])) for one in entries(http, session))])
    with Client(workspace.host, workspace.token) as client:
        client.secrets.create_scope("page")
        client.secrets.put("page", "key", canary)
        client.secrets.get("page", "key")
        client.endpoint("dolly").complete(f"the token is {workspace.token} and the key {key}", max_tokens=1)
        client.endpoint("dolly").complete("Authorization: Bearer abcdefghijklmnop", max_tokens=1)
    listed = entries(http, session, before)
    assert len(listed) >= 5
    shown = json.dumps(listed)
    for one in listed:
        shown += http.get(f"/ui/log/{one['number']}", headers={"x-dbllm-session": session}).text
    for secret in (canary, key, workspace.token, workspace.upstream_key, "abcdefghijklmnop", session):
        assert secret not in shown, secret


def test_what_is_stored_is_text_and_never_part_of_the_page(
    http: httpx.Client, workspace: Workspace, session: str
) -> None:
    with Client(workspace.host, workspace.token) as client:
        client.endpoint("dolly").complete(STORED, max_tokens=1)
    number = entries(http, session)[-1]["number"]
    answer = http.get(f"/ui/log/{number}", headers={"x-dbllm-session": session})
    assert answer.headers["content-type"] == "application/json"
    assert "broken into" in answer.text


def test_the_log_ends_and_says_so(http: httpx.Client, workspace: Workspace, session: str) -> None:
    with httpx.Client(base_url=workspace.host, trust_env=False) as client:
        for _ in range(MAX_ENTRIES + 5):
            client.get("/.well-known/databricks-config")
    assert len(entries(http, session)) == MAX_ENTRIES
    gone = http.get("/ui/log/1", headers={"x-dbllm-session": session})
    assert gone.status_code == 404
    assert "no longer kept" in gone.json()["message"]
    for wrong in ("/ui/log?after=x", "/ui/log/x", "/ui/nothing", "/ui/"):
        assert http.get(wrong, headers={"x-dbllm-session": session}).status_code in (400, 404), wrong
