"""What the server does with connections: versions of HTTP, bodies that are compressed, clients that go away."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dbllm.local.driver.server import DriverServer

CHAT = "/serving-endpoints/smollm2-chat/invocations"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
JSON = {"content-type": "application/json"}


def letters(prompt: str, stop: list[str] | None = None) -> Iterator[str]:
    yield from prompt


@pytest.fixture(scope="module")
def driver() -> Iterator[DriverServer]:
    with DriverServer(letters, port=0) as app:
        yield app


def exchange(port: int, request: bytes, *, step: int = 1 << 20) -> bytes:
    """All bytes of an answer, up to the end of the connection; `step` bytes of the request are sent at a time."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        for at in range(0, len(request), step):
            client.sendall(request[at : at + step])
        return b"".join(iter(lambda: client.recv(65536), b""))


def request_of(version: str, body: bytes, *headers: str, path: str = "/") -> bytes:
    lines = [f"POST {path} HTTP/{version}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("step", [1 << 20, 5])
@pytest.mark.parametrize("more", [[], ["Connection: keep-alive"]])
def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection(
    driver: DriverServer, more: list[str], step: int
) -> None:
    request = request_of("1.0", b'{"prompt": "ab"}', "Accept: text/event-stream", *more)
    head, _, body = exchange(driver.port, request, step=step).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b'data: "a"\n\ndata: "b"\n\ndata: [DONE]\n\n'


def test_a_stream_to_http_1_1_has_chunks(driver: DriverServer) -> None:
    request = request_of("1.1", b'{"prompt": "a"}', "Host: localhost", "Connection: close", "Accept: text/event-stream")
    head, _, body = exchange(driver.port, request).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_a_whole_answer_to_http_1_0_has_its_length(driver: DriverServer) -> None:
    head, _, body = exchange(driver.port, b"\r\n" + request_of("1.0", b'{"prompt": "ab"}')).partition(b"\r\n\r\n")
    assert b"content-length: 4" in head.lower()
    assert body == b'"ab"'


def test_the_workspace_and_its_proxy_stream_to_http_1_0_without_chunks(
    workspace: SimpleNamespace, http: httpx.Client, driver: DriverServer
) -> None:
    port = int(workspace.host.rpartition(":")[2])
    token = f"Authorization: Bearer {workspace.identity.token}"
    http.post("/api/local/driver-apps", json={"port": driver.port})
    proxied = f"/driver-proxy-api/o/0/{workspace.identity.cluster_id}/{driver.port}/"
    for path, content in ((CHAT, {**HELLO, "stream": True}), (proxied, {"prompt": "ab"})):
        request = request_of("1.0", json.dumps(content).encode(), token, "Accept: text/event-stream", path=path)
        head, _, body = exchange(port, request).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b"transfer-encoding" not in head.lower()
        assert body.startswith(b"data: "), body
        assert body.endswith(b"data: [DONE]\n\n"), body


def test_a_server_stops_although_a_connection_never_said_a_word() -> None:
    with DriverServer(letters, port=0) as app:
        silent = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(3)]
        silent[1].sendall(b"POST / HT")
        assert httpx.post(app.url, json={"prompt": "ab"}, trust_env=False).json() == "ab"
    for one in silent:
        assert one.recv(1) == b""
        one.close()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("utf-8", bytes)],
    ids=["gzip", "deflate", "none"],
)
def test_a_compressed_request_is_read_as_if_it_were_not(
    http: httpx.Client, driver: DriverServer, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    headers = {**JSON, "content-encoding": coding}
    rows = {"dataframe_records": [{"prompt": "hello"}], "params": {"max_tokens": 1}}
    calls: list[tuple[str, Any]] = [
        (CHAT, HELLO),
        (CHAT, {**HELLO, "stream": True}),
        ("/serving-endpoints/chat/completions", {"model": "smollm2-chat", **HELLO}),
        ("/serving-endpoints/dolly/invocations", rows),
        ("/serving-endpoints/smollm2-agent/invocations", {"input": HELLO["messages"], "max_output_tokens": 1}),
        ("/serving-endpoints/databricks-bge-large-en/invocations", {"input": "hello"}),
        ("/api/local/driver-apps", {"port": 3999}),
    ]
    for path, body in calls:
        answer = http.post(path, content=pack(json.dumps(body).encode()), headers=headers)
        assert answer.status_code == 200, (path, answer.text)
    answer = httpx.post(driver.url, content=pack(b'{"prompt": "ab"}'), headers=headers, trust_env=False)
    assert answer.json() == "ab"


def test_the_limit_of_a_body_is_that_of_its_text(http: httpx.Client) -> None:
    text = json.dumps({"input": "x" * (4 << 20)}).encode()
    headers = {**JSON, "content-encoding": "gzip"}
    answer = http.post(
        "/serving-endpoints/databricks-bge-large-en/invocations", content=gzip.compress(text), headers=headers
    )
    assert (answer.status_code, answer.json()["message"]) == (413, f"Exceeded max request size of {4 << 20} bytes.")


def test_what_is_wrong_with_a_compressed_body_is_said(http: httpx.Client) -> None:
    packed = gzip.compress(json.dumps(HELLO).encode())
    cases: list[tuple[dict[str, str], bytes, int, str]] = [
        ({}, packed, 400, "there is no header 'Content-Encoding: gzip'"),
        ({"content-encoding": "gzip"}, packed[:-3], 400, "it ends too early"),
        ({"content-encoding": "br"}, packed, 415, "'br' is not supported"),
    ]
    for headers, body, status, reason in cases:
        answer = http.post(CHAT, content=body, headers={**JSON, **headers})
        assert (answer.status_code, reason in answer.json()["message"]) == (status, True), answer.text


def leave(port: int, request: bytes, *, reset: bool) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(request)


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_away_while_its_body_is_read_leaves_no_traceback(
    workspace: SimpleNamespace,
    http: httpx.Client,
    driver: DriverServer,
    eventually: Callable[[Callable[[], bool]], None],
    caplog: pytest.LogCaptureFixture,
    reset: bool,
) -> None:
    port = int(workspace.host.rpartition(":")[2])
    token = f"Authorization: Bearer {workspace.identity.token}"
    http.post("/api/local/driver-apps", json={"port": driver.port})
    paths = [
        CHAT,
        "/serving-endpoints/chat/completions",
        "/serving-endpoints/dolly/invocations",
        "/api/2.0/serving-endpoints",
        "/oidc/v1/token",
        f"/driver-proxy-api/o/0/{workspace.identity.cluster_id}/{driver.port}/",
    ]
    targets = [(port, path, "1.1") for path in paths] + [(port, CHAT, "1.0"), (driver.port, "/", "1.1")]
    with caplog.at_level(logging.DEBUG, "dbllm.local"):
        for target, path, version in targets:
            request = request_of(version, b"x" * 100_000, "Host: 127.0.0.1", token, path=path)
            leave(target, request[:-50_000], reset=reset)
        eventually(lambda: sum("went away" in one.getMessage() for one in caplog.records) >= len(targets))
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING or one.exc_info] == []
