"""The fast engine: who uses it, and who never does."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import httpx
import pytest
import respx
from support.loopback import Peer

import dbllm

httptools = pytest.importorskip("httptools", reason="the extra `fast` is not installed")

from dbllm._http.llhttp_parser import LlhttpParser  # noqa: E402


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[LlhttpParser]:
    """All that are made."""
    made: list[LlhttpParser] = []
    before = LlhttpParser.__init__

    def counted(self: LlhttpParser) -> None:
        before(self)
        made.append(self)

    monkeypatch.setattr(LlhttpParser, "__init__", counted)
    return made


async def test_it_is_picked_up_where_it_is_installed_under_asyncio_only(make, serve, parsers, mode):
    async with make(serve().host) as client:
        assert await client.request("GET", "/x") == "hello"
    assert len(parsers) == (mode == "asyncio")


@pytest.mark.parametrize("mode", ["asyncio"])
@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize(("name", "count"), [("h11", 0), ("httpx", 0), ("httptools", 1)])
async def test_argument_and_environment_choose_the_engine(make, serve, parsers, monkeypatch, way, name, count, mode):
    if way == "environment":
        monkeypatch.setenv("DBLLM_ENGINE", name)
    async with make(serve().host, engine=name if way == "argument" else None) as client:
        assert await client.request("GET", "/x") == "hello"
    assert len(parsers) == count


def test_what_is_not_installed_is_named(monkeypatch):
    from dbllm._http import factory

    factory.checked_engine.cache_clear()
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    with pytest.raises(dbllm.ConfigError, match=r"dbllm\[fast\]"):
        dbllm.AsyncClient("https://workspace.example.com", "t", engine="httptools")
    assert factory.checked_engine(None) == "h11"
    factory.checked_engine.cache_clear()


# --- tests of users never reach the network by it ---------------------------------------------------------------------


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_under_respx_nothing_reaches_the_network(make, serve, parsers, using):
    server = serve()
    async with make(server.host) as client:
        with respx.mock(base_url=server.host, using=using) as router:
            router.get("/x").respond(json="mocked")
            assert await client.request("GET", "/x") == "mocked"
            with pytest.raises(AssertionError, match="not mocked"):
                await client.request("GET", "/y")
    assert (server.connections, parsers) == (0, [])


async def test_a_connection_that_is_open_already_is_not_used_under_respx(make, serve):
    server = serve()
    async with make(server.host) as client:
        assert await client.request("GET", "/before") == "hello"
        with respx.mock(base_url=server.host) as router:
            router.get("/x").respond(json="mocked")
            assert await client.request("GET", "/x") == "mocked"
        assert await client.request("GET", "/after") == "hello"
    assert [request.line.split()[1] for request in server.requests] == ["/before", "/after"]


async def test_whoever_replaces_the_transports_own_method_sees_the_call(make, serve, monkeypatch):
    """As pytest-httpx and the instrumentation of OpenTelemetry do."""
    server = serve()

    async def asynchronous(self: Any, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json="seen")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", asynchronous)
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda self, request: httpx.Response(200, json="seen"))
    async with make(server.host) as client:
        assert await client.request("GET", "/x") == "seen"
    assert server.connections == 0


def mocked(mode: str) -> httpx.MockTransport:
    async def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json="mocked")

    return httpx.MockTransport((lambda request: httpx.Response(200, json="mocked")) if mode == "sync" else handle)


@pytest.mark.parametrize("own", ["transport", "http_client"])
async def test_a_transport_or_client_of_the_users_is_all_that_is_used(make, serve, parsers, mode, own):
    server = serve()
    kind = httpx.Client if mode == "sync" else httpx.AsyncClient
    given = mocked(mode) if own == "transport" else kind(transport=mocked(mode))
    async with make(server.host, **{own: given}, engine="httptools") as client:
        assert await client.request("GET", "/x") == "mocked"
    assert (server.connections, parsers) == (0, [])


# --- other loops, other servers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["h11", "httptools"])
def test_it_works_on_uvloop(serve, engine):
    uvloop = pytest.importorskip("uvloop")
    server = serve()

    async def main() -> None:
        async with dbllm.AsyncClient(server.host, "t", engine=engine) as client:
            assert await asyncio.gather(*(client.request("GET", "/x") for _ in range(20))) == ["hello"] * 20
            with anyio.move_on_after(0):
                await client.request("GET", "/x")
            assert await client.request("POST", "/x", json={"a": "x" * 5_000_000}) == "hello"
        with pytest.raises(dbllm.APIConnectionError):
            await dbllm.AsyncClient("http://127.0.0.1:1", "t", retry=dbllm.Retry(attempts=1)).request("GET", "/x")

    uvloop.run(main()) if hasattr(uvloop, "run") else uvloop.new_event_loop().run_until_complete(main())
    server.wait_gone()


@pytest.mark.parametrize("mode", ["asyncio"])
@pytest.mark.parametrize("engine", ["h11", "httptools"])
async def test_a_head_request_and_an_answer_without_a_length_are_read(make, serve, engine, mode):
    def odd(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 500\r\n\r\n")
        peer.wait_gone()

    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(b'HTTP/1.1 200 OK\r\n\r\n"all of it"')

    async with make(serve(odd, endless).host, engine=engine) as client:
        assert await client.request("HEAD", "/x") is None
        assert await client.request("GET", "/x") == "all of it"
