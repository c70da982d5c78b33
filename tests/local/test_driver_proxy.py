from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dbllm.local.driver.server import open_port
from dbllm.local.http.server import WebServer

Handler = Callable[[Request], object]


class App:
    """A driver app whose behaviour a test can set; it remembers nothing."""

    def __init__(self) -> None:
        self.handler: Handler = lambda _request: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer = self.handler(request)
        response = await answer if hasattr(answer, "__await__") else answer  # type: ignore[misc]
        assert isinstance(response, Response)
        await response(scope, receive, send)


@pytest.fixture(scope="module")
def app() -> Iterator[SimpleNamespace]:
    sock = open_port(0)
    made = App()

    async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await made(scope, receive, send)

    server = WebServer(without_lifespan, sock)
    server.start()
    yield SimpleNamespace(app=made, port=sock.getsockname()[1])
    server.stop()


@pytest.fixture
def url(workspace: SimpleNamespace, http: httpx.Client, app: SimpleNamespace) -> Iterator[str]:
    """Where the registered app is reached through the proxy."""
    with registered(http, app.port):
        yield proxied(workspace, app.port)


def proxied(workspace: SimpleNamespace, port: int, org: str = "0") -> str:
    return f"/driver-proxy-api/o/{org}/{workspace.identity.cluster_id}/{port}"


@contextmanager
def registered(http: httpx.Client, port: int) -> Iterator[None]:
    assert port in http.post("/api/local/driver-apps", json={"port": port}).json()["ports"]
    yield
    assert port not in http.request("DELETE", "/api/local/driver-apps", json={"port": port}).json()["ports"]


async def mirror(request: Request) -> Response:
    """What arrived, told back."""
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
        },
        status_code=207,
        headers={"x-app": "yes"},
    )


@pytest.mark.parametrize(
    ("path", "arrives"),
    [
        ("", "/"),
        ("/", "/"),
        ("/generate", "/generate"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/a%20b%2Fc/", "/a%20b%2Fc/"),
        ("//double", "//double"),
    ],
)
def test_the_rest_of_the_path_arrives_as_it_was_sent(
    http: httpx.Client, app: SimpleNamespace, url: str, path: str, arrives: str
) -> None:
    app.app.handler = mirror
    answer = http.post(url + path, params={"q": "a b"}, json={"prompt": "x"})
    assert answer.status_code == 207
    assert answer.headers["x-app"] == "yes"
    told = answer.json()
    assert (told["path"], told["query"], json.loads(told["body"])) == (arrives, "q=a+b", {"prompt": "x"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_any_method_is_forwarded(http: httpx.Client, app: SimpleNamespace, url: str, method: str) -> None:
    app.app.handler = mirror
    told = http.request(method, url).json()
    assert told["method"] == method
    assert told["body"] == ""


def test_head_has_no_body(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    app.app.handler = mirror
    answer = http.head(url)
    assert (answer.status_code, answer.content) == (207, b"")


def test_the_credential_and_what_concerns_one_hop_stay_behind(
    http: httpx.Client, app: SimpleNamespace, url: str
) -> None:
    app.app.handler = mirror
    headers = {"connection": "x-hop", "x-hop": "1", "te": "trailers", "cookie": "session=1", "x-mine": "2"}
    got = http.post(url, json={}, headers=headers).json()["headers"]
    assert got["x-mine"] == "2"
    assert got["host"] == f"127.0.0.1:{app.port}"
    assert not {"authorization", "cookie", "x-hop", "te"} & got.keys()


def test_both_spellings_of_the_org_are_taken(
    http: httpx.Client, workspace: SimpleNamespace, app: SimpleNamespace, url: str
) -> None:
    app.app.handler = mirror
    own = proxied(workspace, app.port, org=workspace.identity.workspace_id)
    assert http.get(own).status_code == 207
    assert http.get(proxied(workspace, app.port, org="1")).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_an_unknown_cluster_does_not_exist(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    answer = http.post(f"/driver-proxy-api/o/0/0000-000000-xxxxxxxx/{app.port}")
    assert answer.status_code == 404
    assert answer.json() == {
        "error_code": "RESOURCE_DOES_NOT_EXIST",
        "message": "Cluster 0000-000000-xxxxxxxx does not exist.",
    }


def test_the_proxy_wants_the_token(workspace: SimpleNamespace, url: str) -> None:
    assert httpx.post(workspace.host + url, trust_env=False).status_code == 401


def test_a_port_that_is_not_registered_is_an_html_502(
    http: httpx.Client, workspace: SimpleNamespace, app: SimpleNamespace
) -> None:
    answer = http.get(proxied(workspace, app.port))
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert "<title>502 Bad Gateway</title>" in answer.text


@pytest.mark.parametrize("port", ["22", "8001", "abc", "-1", "٣٣٣٣"])
def test_a_port_outside_the_range_is_a_502_too(http: httpx.Client, workspace: SimpleNamespace, port: str) -> None:
    url = f"/driver-proxy-api/o/0/{workspace.identity.cluster_id}/{port}"
    assert http.get(url).status_code == 502


def test_a_registered_port_with_nothing_behind_it_is_a_502(http: httpx.Client, workspace: SimpleNamespace) -> None:
    sock = open_port(0)
    port = sock.getsockname()[1]
    sock.close()
    with registered(http, port):
        assert http.get(proxied(workspace, port)).status_code == 502


@pytest.mark.parametrize("port", [80, 2999, 8001, "7777", True, None])
def test_only_ports_of_the_range_can_be_registered(http: httpx.Client, port: object) -> None:
    answer = http.post("/api/local/driver-apps", json={"port": port})
    assert answer.status_code == 400
    assert "from 3000 to 8000" in answer.json()["message"]


@contextmanager
def raw_app(answer: bytes) -> Iterator[int]:
    """An app that reads a request, sends some bytes and hangs up."""
    sock = open_port(0)

    def serve_once() -> None:
        connection, _ = sock.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve_once)
    thread.start()
    yield sock.getsockname()[1]
    thread.join()
    sock.close()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"not http at all\r\n\r\n"]
)
def test_an_app_that_drops_before_its_answer_is_a_502(
    http: httpx.Client, workspace: SimpleNamespace, answer: bytes
) -> None:
    with raw_app(answer) as port, registered(http, port):
        assert http.get(proxied(workspace, port)).status_code == 502


def test_an_app_that_drops_in_the_middle_cuts_the_answer(http: httpx.Client, workspace: SimpleNamespace) -> None:
    half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    with raw_app(half) as port, registered(http, port), pytest.raises(httpx.RemoteProtocolError):
        http.get(proxied(workspace, port))


def test_server_sent_events_pass_one_by_one(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    read = threading.Event()

    async def events(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b'data: "one"\n\n'
            assert await asyncio.to_thread(read.wait, 10), "the first event did not get through"
            yield b"data: [DONE]\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    app.app.handler = events
    with http.stream("POST", url, json={}) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b'data: "one"\n\n'
        read.set()
        assert b"".join(chunks) == b"data: [DONE]\n\n"


def test_a_body_is_passed_up_while_it_is_still_being_sent(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    arrived = threading.Event()

    async def take(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if body == b"one ":
                arrived.set()
        return Response(body)

    def body() -> Iterator[bytes]:
        yield b"one "
        assert arrived.wait(10), "the first part did not get through"
        yield b"two"

    app.app.handler = take
    assert http.post(url, content=body()).text == "one two"


def test_when_the_client_goes_away_the_app_is_let_go(
    workspace: SimpleNamespace, app: SimpleNamespace, url: str
) -> None:
    thinking, left = threading.Event(), threading.Event()

    async def think(request: Request) -> Response:
        await request.body()
        thinking.set()
        assert (await request.receive())["type"] == "http.disconnect"
        left.set()
        return Response()

    app.app.handler = think
    request = (
        f"POST {url} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {workspace.identity.token}\r\n"
        "content-length: 2\r\n\r\n{}"
    )
    with socket.create_connection(("127.0.0.1", int(workspace.host.rsplit(":", 1)[1]))) as client:
        client.sendall(request.encode())
        assert thinking.wait(10)
        assert not left.is_set()
    assert left.wait(10)


@pytest.mark.parametrize("credential", ["Basic dXNlcjpwYXNz", "Digest x", "Bearer", ""])
def test_only_a_bearer_token_opens_the_proxy(workspace: SimpleNamespace, url: str, credential: str) -> None:
    answer = httpx.post(workspace.host + url, headers={"authorization": credential}, trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error_code"] == 401


def test_large_bodies_pass_both_ways(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    async def back(request: Request) -> Response:
        return Response(await request.body())

    app.app.handler = back
    body = bytes(range(256)) * (48 * 4096)  # 48 MiB, three times what an endpoint takes
    assert http.post(url, content=body).content == body


def test_an_apps_early_refusal_of_a_large_body_gets_through(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    async def refuse(request: Request) -> Response:
        async for _ in request.stream():
            break
        return Response("too much", 413)

    app.app.handler = refuse
    assert http.post(url, content=b"x" * (8 << 20)).status_code == 413


def test_compressed_answers_stay_as_the_app_made_them(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    async def packed(_request: Request) -> Response:
        return Response(gzip.compress(b"hello" * 100), headers={"content-encoding": "gzip"})

    app.app.handler = packed
    with http.stream("GET", url) as answer:
        raw = b"".join(answer.iter_raw())
    assert gzip.decompress(raw) == b"hello" * 100


def test_several_cookies_of_an_app_stay_several(http: httpx.Client, app: SimpleNamespace, url: str) -> None:
    async def cookies(_request: Request) -> Response:
        response = Response()
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    app.app.handler = cookies
    assert len(http.get(url).headers.get_list("set-cookie")) == 2
    http.cookies.clear()
