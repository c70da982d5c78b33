"""Headers that say who is calling; a token that cannot be one is refused, and never shown."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import anyio
import httpx
import pytest

import dbllm
from dbllm import ConfigError
from dbllm._auth.auth import auth_for, bearer
from dbllm._backends.backend import run_without_loop
from dbllm._backends.blocking import SyncBackend

CANARY = "dapi-canary"
SOON = float("inf")


def headers(token: Any) -> dict[str, str]:
    backend = SyncBackend("https://h.com", 1, None, None, None)
    return dict(run_without_loop(auth_for(token).headers(backend, SOON)))


@pytest.mark.parametrize("token", ["dapi123", "eyJ.a-b_c~d+e/f=", "!", "x" * 5000])
def test_a_token_is_sent_as_bearer(token: str) -> None:
    assert headers(token) == {"authorization": f"Bearer {token}"}


BAD = [
    "",
    " ",
    f"{CANARY} x",
    f" {CANARY}",
    f"{CANARY}\n",
    f"{CANARY}\r\nx: y",
    f"{CANARY}\t",
    f"{CANARY}é",
    f"{CANARY}\x7f",
]
BAD += [f"{CANARY}\0", f"{CANARY}\u200b", f"{CANARY}\x85"]


@pytest.mark.parametrize("token", BAD)
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match=r"token is empty|has a space|begins with") as caught:
        bearer(token)
    assert CANARY not in "".join(traceback.format_exception(caught.value)).replace(repr(token), "")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("token", [None, 5, CANARY.encode(), [CANARY], {"token": CANARY}])
def test_a_token_is_a_text(token: Any) -> None:
    with pytest.raises(ConfigError, match="the token must be a str, got") as caught:
        bearer(token)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("kind", [dbllm.Client, dbllm.AsyncClient])
@pytest.mark.parametrize("token", [*BAD[1:], 5, CANARY.encode()])
def test_a_client_refuses_a_bad_token_before_anything_is_sent(kind: Any, token: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        kind("https://h.com", token)
    assert CANARY not in str(caught.value)


def test_a_function_is_asked_every_time() -> None:
    tokens = iter(["one", "two"])
    auth = auth_for(lambda: next(tokens))
    backend = SyncBackend("https://h.com", 1, None, None, None)
    assert [run_without_loop(auth.headers(backend, SOON)) for _ in range(2)] == [
        {"authorization": "Bearer one"},
        {"authorization": "Bearer two"},
    ]


def test_an_async_function_that_does_not_wait_works_in_plain_code() -> None:
    async def token() -> str:
        return "t"

    assert headers(token) == {"authorization": "Bearer t"}


def test_an_async_function_that_waits_is_named_in_plain_code() -> None:
    async def slow_token() -> str:
        await asyncio.sleep(0)
        return "t"

    with pytest.raises(RuntimeError, match=r"waits for an event loop.*use AsyncClient"):
        headers(slow_token)


@pytest.mark.parametrize("kept", [False, True])
async def test_an_async_function_that_gives_none_in_time_is_cancelled_at_the_calls_deadline(make, serve, mode, kept):
    """Plain code cannot: there such a function does not wait."""
    if mode == "sync":
        pytest.skip("nothing is cut off in plain code")
    ended: list[str] = []

    async def token() -> str:
        if kept and not ended:
            ended.append("first")
            return "t"
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")
        return "never"

    async with make(serve().host, token) as client:
        if kept:
            await client.request("GET", "/x")
        with pytest.raises(dbllm.APITimeoutError, match="function for tokens") as caught:
            await client.request("GET", "/x", timeout=0.05)
    assert (caught.value.sent, ended[-1]) == (False, "cancelled")


@pytest.mark.parametrize("result", [None, 5, "", f"{CANARY} ", b"x"])
def test_what_a_function_returns_is_checked_too(result: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        headers(lambda: result)
    assert CANARY not in str(caught.value)


def test_an_error_of_the_function_passes_through() -> None:
    def token() -> str:
        raise PermissionError("vault is sealed")

    with pytest.raises(PermissionError, match="vault is sealed"):
        headers(token)


def test_a_function_may_fail_once_and_be_asked_again() -> None:
    results: list[Any] = [PermissionError("sealed"), "t"]

    def token() -> str:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return str(result)

    auth = auth_for(token)
    backend = SyncBackend("https://h.com", 1, None, None, None)
    with pytest.raises(PermissionError):
        run_without_loop(auth.headers(backend, SOON))
    assert run_without_loop(auth.headers(backend, SOON)) == {"authorization": "Bearer t"}


def test_a_function_that_asks_its_own_client_is_told_so() -> None:
    def token() -> str:
        return str(client.request("GET", "/token"))

    answer = httpx.MockTransport(lambda _: httpx.Response(200, json="t"))
    with (
        dbllm.Client("https://h.com", token, transport=answer) as client,
        pytest.raises(ConfigError, match="calls the client that is asking it"),
    ):
        client.request("GET", "/x")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_no_error_of_a_call_shows_the_token(status: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {CANARY}"
        return httpx.Response(status, json={"error_code": "X", "message": "no"})

    retry = dbllm.Retry(attempts=2, backoff=0)
    with dbllm.Client("https://h.com", CANARY, transport=httpx.MockTransport(answer), retry=retry) as client:
        with pytest.raises(dbllm.APIStatusError) as caught:
            client.request("GET", "/x")
        error = caught.value
        for shown in (
            str(error),
            repr(error),
            repr(vars(error)),
            repr(error.raw),
            "".join(traceback.format_exception(error)),
        ):
            assert CANARY not in shown


async def test_a_token_function_that_needs_asyncio_is_named_where_asyncio_does_not_run(make, mode):
    async def slow_token() -> str:
        asyncio.get_running_loop()  # as asyncio.sleep and aiohttp do before they wait
        return "dapi-0123456789"

    async with make(
        token=slow_token, transport=httpx.MockTransport(lambda request: httpx.Response(200, json=1))
    ) as client:
        if mode == "asyncio":
            return
        with pytest.raises(RuntimeError, match=r"slow_token .*waits for .*event loop.*AsyncClient"):
            await client.request("GET", "/x")
