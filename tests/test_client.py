"""`AsyncClient` and `Client`: what is configured, `request`, sharing, and transports of the user's own."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest
from support.modes import COLOURS, backend_of, permits, together
from support.samples import HELLO, chat_answer, route, sse

import dbllm

HOST = "https://workspace.example.com"


def echo(request: httpx.Request) -> httpx.Response:
    """Answers with what was asked."""
    return httpx.Response(200, json={"url": str(request.url), "headers": dict(request.headers)})


async def async_echo(request: httpx.Request) -> httpx.Response:
    return echo(request)


def mocked(mode: str) -> httpx.MockTransport:
    return httpx.MockTransport(echo if mode == "sync" else async_echo)


# --- request ----------------------------------------------------------------------------------------------------------


async def test_request_sends_method_query_body_and_returns_the_json(make, wire):
    called = wire.post(path="/api/x").respond(json={"a": 1})
    async with make() as client:
        answer = await client.request("post", "/api/x", params={"b": True, "c": None, "d": [1, 2], "e": "ü&"}, json=[1])
    assert answer == {"a": 1}
    request = called.calls[0].request
    assert request.url.query == b"b=true&d=1&d=2&e=%C3%BC%26"
    assert (request.method, json.loads(request.content)) == ("POST", [1])
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer dapi-test"
    assert request.headers["user-agent"].startswith("dbllm/")


async def test_request_adds_its_query_to_the_paths_own(make, wire):
    called = wire.get(path="/x").respond(json=1)
    async with make() as client:
        await client.request("GET", "/x?a=1", params={"b": False})
        await client.request("GET", "/x?a=1")
    assert [call.request.url.query for call in called.calls] == [b"a=1&b=false", b"a=1"]


@pytest.mark.parametrize(
    ("body", "value"), [(b"plain", "plain"), (b"", None), (b" \n", None), (b"null", None), (b"0", 0)]
)
async def test_request_returns_text_where_there_is_no_json_and_none_where_there_is_nothing(make, wire, body, value):
    wire.get("/x").respond(200, content=body)
    async with make() as client:
        assert await client.request("GET", "/x") == value


@pytest.mark.parametrize("path", ["https://evil.example.com/x", "//evil.example.com/x", "x", "", "@evil.example.com/"])
async def test_request_refuses_what_is_no_path_of_this_workspace(make, wire, path):
    async with make() as client:
        with pytest.raises(dbllm.ConfigError, match="/"):
            await client.request("GET", path)
    assert not wire.calls


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_a_redirect_is_an_error_and_the_token_does_not_follow_it(make, wire, code):
    wire.get("/x").respond(code, headers={"location": "https://evil.example.com/login?secret=1"})
    async with make() as client:
        with pytest.raises(dbllm.APIStatusError, match=r"redirect to https://evil\.example\.com/login") as caught:
            await client.request("GET", "/x")
    assert "secret" not in str(caught.value)
    assert len(wire.calls) == 1


# --- headers and options ----------------------------------------------------------------------------------------------


async def test_later_headers_win_in_any_case_and_may_replace_our_own(make, wire):
    called = wire.get("/x").respond(json=1)
    async with make(headers={"X-A": "client", "X-B": "client", "X-C": "client"}) as client:
        other = client.with_options(headers={"x-b": "with_options", "x-c": "with_options"})
        await other.request("GET", "/x", headers={"X-C": "call", "User-Agent": "mine", "Authorization": "Basic x"})
        await client.request("GET", "/x")
    first, second = (call.request.headers for call in called.calls)
    assert (first["x-a"], first["x-b"], first["x-c"]) == ("client", "with_options", "call")
    assert (first["user-agent"], first["authorization"]) == ("mine", "Basic x")
    assert first.get_list("x-c") == ["call"]
    assert second["x-b"] == "client"
    assert second["authorization"] == "Bearer dapi-test"


async def test_with_options_shares_the_connections_and_closes_nothing(make, serve):
    server = serve()
    async with make(server.host) as client:
        await client.request("GET", "/a")
        async with client.with_options(timeout=5, retry=dbllm.Retry(attempts=1)) as other:
            assert await other.request("GET", "/b") == "hello"
        assert await other.request("GET", "/c") == "hello"
        assert await client.request("GET", "/d") == "hello"
    assert server.connections == 1
    with pytest.raises(RuntimeError, match="closed"):
        await other.request("GET", "/e")


async def test_options_go_from_the_client_to_with_options_to_the_call(make, wire, clock):
    called = wire.get("/x").respond(500)
    async with make(retry=dbllm.Retry(attempts=3)) as client:
        clock.on(client)
        other = client.with_options(retry=dbllm.Retry(attempts=2))
        for handle, options, tries in ((client, {}, 3), (other, {}, 2), (other, {"retry": dbllm.Retry(attempts=1)}, 1)):
            with pytest.raises(dbllm.InternalServerError) as caught:
                await handle.request("GET", "/x", **options)
            assert caught.value.attempts == tries
    assert called.call_count == 6


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "5", True])
async def test_a_senseless_timeout_is_refused(make, wrong):
    async with make() as client:
        with pytest.raises(ValueError, match="Timeout"):
            await client.request("GET", "/x", timeout=wrong)


async def test_a_closed_client_says_so_for_every_verb(make, wire):
    client = make()
    endpoint, app = client.endpoint("ep", task="chat"), client.driver_app(7777, "c")
    await client.aclose()
    for call in (
        lambda: client.request("GET", "/x"),
        lambda: endpoint.complete("x"),
        lambda: endpoint.chat("x"),
        lambda: endpoint.embed("x"),
        lambda: endpoint.predict(inputs=[1]),
        lambda: endpoint.stream_chat("x").final(),
        lambda: app.complete("x"),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            await call()
    assert not wire.calls


async def test_a_client_shows_its_host_its_engine_and_whether_it_is_closed(make, monkeypatch):
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    for options, engine in (
        ({"engine": "h11"}, "h11"),
        ({"engine": "httpx"}, "httpx"),
        ({"transport": transport}, "httpx"),
        ({"proxy": "http://me:dapi-canary@proxy.example.com:8080"}, "httpx"),
    ):
        async with make(token="dapi-canary", headers={"x-key": "dapi-canary"}, **options) as client:
            shown = repr(client)
            assert shown.endswith(f"Client(host='{HOST}', engine='{engine}', closed=False)"), shown
            assert repr(client.with_options(timeout=1)) == shown
        assert repr(client) == shown.replace("False", "True")


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3", None])
async def test_max_connections_is_a_whole_number_from_one(make, limit):
    with pytest.raises(dbllm.ConfigError, match="max_connections"):
        make(max_connections=limit)


async def test_making_a_client_and_handles_sends_nothing_and_shows_no_token(make, wire):
    client = make(token="dapi-secret")
    shown = [repr(client), repr(client.endpoint("ep")), repr(client.driver_app("7777", "c"))]
    shown += [str(vars(getattr(client, "plain", client)))]
    assert not wire.calls
    assert "dapi-secret" not in "".join(shown)
    assert "workspace.example.com" in shown[0]


async def test_a_driver_app_takes_its_cluster_from_the_environment(make, wire, monkeypatch):
    with pytest.raises(dbllm.ConfigError, match="DATABRICKS_CLUSTER_ID"):
        make().driver_app(7777)
    monkeypatch.setenv("DATABRICKS_CLUSTER_ID", "from-env")
    called = wire.post("/driver-proxy-api/o/0/from-env/7777").respond(json="hi")
    async with make() as client:
        assert await client.driver_app("7777").complete("x") == "hi"
    assert called.call_count == 1


@pytest.mark.parametrize("port", [80, 2999, 8001, "http", "77 77", True, 7777.5])
async def test_a_port_the_proxy_does_not_forward_is_refused(make, port):
    with pytest.raises(dbllm.ConfigError, match="3000 to 8000"):
        make().driver_app(port, "c")


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_function_is_called_for_every_attempt(make, wire, clock):
    tokens = iter(["one", "two", "three"])
    called = wire.get("/x").mock(
        side_effect=[httpx.Response(500), httpx.Response(200, json=1), httpx.Response(200, json=1)]
    )
    async with make(token=lambda: next(tokens)) as client:
        clock.on(client)
        await client.request("GET", "/x")
        await client.request("GET", "/x")
    sent = [call.request.headers["authorization"] for call in called.calls]
    assert sent == ["Bearer one", "Bearer two", "Bearer three"]


async def test_an_async_token_function_is_awaited(make, wire):
    async def token() -> str:
        return "later"

    called = wire.get("/x").respond(json=1)
    async with make(token=token) as client:
        await client.request("GET", "/x")
    assert called.calls[0].request.headers["authorization"] == "Bearer later"


@pytest.mark.parametrize("given", [None, 3, "", "with space", "new\nline", "ümlaut", b"bytes"])
async def test_what_a_token_function_returns_is_checked_and_never_shown(make, wire, given):
    async with make(token=lambda: given) as client:
        with pytest.raises(dbllm.ConfigError) as caught:
            await client.request("GET", "/x")
    assert "space" not in str(given) or str(given) not in str(caught.value)
    assert not wire.calls


async def test_an_error_in_a_token_function_is_passed_on_as_it_is_and_not_repeated(make, wire):
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        raise LookupError("vault is sealed")

    async with make(token=token) as client:
        with pytest.raises(LookupError, match="vault"):
            await client.request("GET", "/x")
    assert len(calls) == 1


async def test_a_token_function_that_calls_its_own_client_gets_an_error_instead_of_a_deadlock(make, wire, mode):
    wire.get("/token").respond(json="t")
    clients: list[Any] = []

    def plain_token() -> str:
        return clients[0].plain.request("GET", "/token")

    async def token() -> str:
        return await clients[0].request("GET", "/token")

    async with make(token=plain_token if mode == "sync" else token) as client:
        clients.append(client)
        with pytest.raises(dbllm.ConfigError, match="another client"):
            await client.request("GET", "/x")


async def test_a_token_function_may_use_another_client(make, wire, mode):
    wire.get("/token").respond(json="from-vault")
    called = wire.get("/x").respond(json=1)
    async with make() as vault:
        plain = lambda: vault.plain.request("GET", "/token")  # noqa: E731

        async def token() -> str:
            return await vault.request("GET", "/token")

        async with make(token=plain if mode == "sync" else token) as client:
            await client.request("GET", "/x")
    assert called.calls[0].request.headers["authorization"] == "Bearer from-vault"


async def test_concurrent_calls_may_all_be_inside_the_token_function(make, wire, mode):
    wire.get("/x").respond(json=1)
    async with make(token=lambda: "t") as client:
        assert await together(mode, [lambda: client.request("GET", "/x") for _ in range(20)]) == [1] * 20


# --- transports and clients of the user's own -------------------------------------------------------------------------


async def test_a_transport_of_the_users_carries_everything_and_stays_open(make, mode):
    class Watched(httpx.MockTransport):
        closed = False

        def close(self) -> None:
            self.closed = True

        async def aclose(self) -> None:
            self.closed = True

    transport = Watched(echo if mode == "sync" else async_echo)
    async with make(transport=transport) as client:
        answer = await client.request("GET", "/x")
        assert permits(client) == 0
    assert answer["url"] == f"{HOST}/x"
    assert answer["headers"]["authorization"] == "Bearer dapi-test"
    assert transport.closed is False


async def test_a_client_of_the_users_is_used_whole_and_stays_open(make, mode):
    kind = httpx.Client if mode == "sync" else httpx.AsyncClient
    used = kind(transport=mocked(mode), headers={"x-theirs": "1"}, auth=("user", "secret"))
    async with make(http_client=used) as client:
        answer = await client.request("GET", "/x", headers={"x-ours": "2"})
    assert (answer["headers"]["x-theirs"], answer["headers"]["x-ours"]) == ("1", "2")
    assert answer["headers"]["authorization"] == "Bearer dapi-test"
    assert used.is_closed is False
    used.close() if mode == "sync" else await used.aclose()


@pytest.mark.parametrize("argument", ["transport", "http_client"])
async def test_streams_work_over_the_users_own_too(make, mode, argument):
    def events(request: httpx.Request) -> httpx.Response:
        return sse(*HELLO)

    async def async_events(request: httpx.Request) -> httpx.Response:
        return sse(*HELLO)

    transport = httpx.MockTransport(events if mode == "sync" else async_events)
    kind = httpx.Client if mode == "sync" else httpx.AsyncClient
    given: Any = transport if argument == "transport" else kind(transport=transport)
    async with make(**{argument: given}) as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for _ in stream:
                break
        assert permits(client) == 0


async def test_a_redirect_is_not_followed_by_the_users_client_either(make, mode):
    def away(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "https://evil.example.com/"})

    kind = httpx.Client if mode == "sync" else httpx.AsyncClient
    used = kind(transport=httpx.MockTransport(away), follow_redirects=True)
    async with make(http_client=used) as client:
        with pytest.raises(dbllm.APIStatusError, match="redirect"):
            await client.request("GET", "/x")
    used.close() if mode == "sync" else await used.aclose()


@pytest.mark.parametrize("argument", ["transport", "http_client"])
async def test_the_wrong_mode_is_refused_by_name(make, mode, argument):
    class Async(httpx.AsyncBaseTransport):
        pass

    class Blocking(httpx.BaseTransport):
        pass

    wrong: Any
    if argument == "transport":
        wrong = Async() if mode == "sync" else Blocking()
    else:
        kind = httpx.AsyncClient if mode == "sync" else httpx.Client
        wrong = kind(transport=mocked("asyncio" if mode == "sync" else "sync"))
    with pytest.raises(dbllm.ConfigError, match=argument):
        make(**{argument: wrong})


async def test_a_transport_and_a_client_are_one_too_many(make, mode):
    with pytest.raises(dbllm.ConfigError, match="http_client"):
        make(transport=mocked(mode), http_client=object())


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
async def test_an_asgi_app_can_be_called_without_a_network(make, mode):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert json.loads(message["body"])["messages"][0]["content"] == "hi"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(chat_answer()).encode()})

    async with make(transport=httpx.ASGITransport(app)) as client:
        assert (await client.endpoint("ep").chat("hi")).text == "Hi there"


async def test_what_respx_does_not_know_is_an_error_and_reaches_no_network(make, wire):
    async with make() as client:
        with pytest.raises(AssertionError, match="not mocked"):
            await client.request("GET", "/unknown")
        assert permits(client) == 0


async def test_an_unknown_engine_is_refused(make):
    with pytest.raises(dbllm.ConfigError, match="engine"):
        make(engine="warp")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_answers_are_read(make, wire, encoding):
    text = json.dumps(chat_answer()).encode()
    packed = gzip.compress(text) if encoding == "gzip" else zlib.compress(text)
    called = route(wire).respond(200, content=packed, headers={"content-encoding": encoding})
    async with make() as client:
        assert (await client.endpoint("ep").chat("hi")).text == "Hi there"
    assert encoding in called.calls[0].request.headers["accept-encoding"]


async def test_a_broken_compression_is_no_promise_kept(make, serve):
    server = serve(lambda peer: [peer.request(), peer.answer("no gzip", content_encoding="gzip")])
    async with make(server.host) as client:
        with pytest.raises(dbllm.APIResponseError, match="decompressed"):
            await client.endpoint("ep").chat("hi")
        assert permits(client) == 0


async def test_a_proxy_of_the_environment_is_used(make, serve, monkeypatch):
    server = serve(lambda peer: [peer.request(), peer.answer("no", 502)])
    monkeypatch.setenv("https_proxy", server.host)
    async with make(HOST, retry=dbllm.Retry(attempts=1)) as client:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/x", json={})
    assert server.requests[0].line == "CONNECT workspace.example.com:443 HTTP/1.1"
    assert "authorization" not in server.requests[0].headers
    assert caught.value.sent is False


async def test_a_host_of_no_proxy_is_called_directly(make, serve, monkeypatch):
    server, proxy = serve(), serve()
    monkeypatch.setenv("http_proxy", proxy.host)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with make(server.host) as client:
        assert await client.request("GET", "/x") == "hello"
    assert (server.connections, proxy.connections) == (1, 0)


def test_the_three_ways_are_three():
    assert COLOURS == ("asyncio", "trio", "sync")
    assert backend_of(dbllm.Client(HOST, "t")).name == "Client"
    assert backend_of(dbllm.AsyncClient(HOST, "t")).name == "AsyncClient"
