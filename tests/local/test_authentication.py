from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from dbllm.local.access.authentication import AuthMiddleware
from dbllm.local.access.permissions import Caller

OWNER = Caller("me", admin=True)


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("secret detail")


async def broken_in_the_middle(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("secret detail")


async def ask(app: AuthMiddleware) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://workspace") as client:
        return await client.get("/", headers={"authorization": "Bearer t"})


def test_a_bug_is_a_500_in_the_shape_of_databricks_and_its_traceback_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "dbllm.local"):
        answer = asyncio.run(ask(AuthMiddleware(broken, callers=lambda _token: OWNER, workspace_id="1")))
    assert answer.status_code == 500
    assert answer.json() == {
        "error_code": "INTERNAL_ERROR",
        "message": f"Internal error. [ReqId: {answer.headers['x-request-id']}]",
    }
    assert "secret detail" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


def test_an_answer_that_broke_in_the_middle_is_cut_instead_of_looking_whole() -> None:
    with pytest.raises(RuntimeError):
        asyncio.run(ask(AuthMiddleware(broken_in_the_middle, callers=lambda _token: OWNER, workspace_id="1")))
