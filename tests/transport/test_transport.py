"""One logical call: its log line, its metadata, and the secrets it never shows."""

from __future__ import annotations

import logging
import pickle
import time
import traceback

import httpx
import pytest
from support.loopback import Peer
from support.samples import HELLO, chat_answer, route, sse

import dbllm

TOKEN = "dapi-0123456789-secret"


async def test_every_call_writes_one_line_with_path_status_time_and_attempts(make, wire, clock, caplog):
    route(wire).mock(side_effect=[httpx.Response(500), sse(*HELLO)])
    with caplog.at_level(logging.INFO, "dbllm"):
        async with make() as client:
            await clock.on(client).endpoint("ep").stream_chat("hi").final()
    lines = [record.getMessage() for record in caplog.records if record.name == "dbllm"]
    assert len(lines) == 1
    assert lines[0].startswith("POST /serving-endpoints/ep/invocations: 200 in ")
    assert lines[0].endswith("attempts: 2")


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_failed_call_writes_one_line_with_the_errors_name(make, wire, clock, caplog, attempts):
    route(wire).respond(500)
    with caplog.at_level(logging.INFO, "dbllm"):
        async with make(retry=dbllm.Retry(attempts=attempts)) as client:
            with pytest.raises(dbllm.InternalServerError):
                await clock.on(client).endpoint("ep").chat("hi")
    lines = [record.getMessage() for record in caplog.records if record.name == "dbllm"]
    assert len(lines) == 1
    assert "InternalServerError" in lines[0]
    assert lines[0].endswith(f"attempts: {attempts}")


async def test_a_log_line_has_no_query_no_prompt_and_no_token(make, wire, caplog):
    wire.get(path="/x").respond(json=1)
    route(wire).respond(json=chat_answer())
    with caplog.at_level(logging.DEBUG):
        async with make(token=TOKEN) as client:
            await client.request("GET", "/x", params={"key": "query-secret"})
            await client.endpoint("ep").chat("prompt-secret")
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("dbllm"))
    assert "POST /serving-endpoints/ep/invocations" in said
    assert "secret" not in said


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
async def test_no_error_shows_the_token(make, serve, status):
    def refusing(peer: Peer) -> None:
        while peer.request():
            peer.answer({"error_code": "X", "message": "no"}, status)

    async with make(serve(refusing).host, token=TOKEN, retry=dbllm.Retry(attempts=1)) as client:
        with pytest.raises(dbllm.APIStatusError) as caught:
            await client.request("POST", "/x", json={})
    error = caught.value
    whole = "".join(traceback.TracebackException.from_exception(error).format())
    assert TOKEN not in whole + repr(error) + str(vars(error)) + repr(pickle.dumps(error))


async def test_an_error_of_a_real_call_survives_pickling_whole(make, wire, clock):
    route(wire).respond(429, json={"error_code": "A", "message": "slow down"}, headers={"x-request-id": "r-1"})
    async with make(retry=dbllm.Retry(attempts=2)) as client:
        with pytest.raises(dbllm.RateLimitError) as caught:
            await clock.on(client).endpoint("ep").chat("hi")
    error = pickle.loads(pickle.dumps(caught.value))
    assert type(error) is dbllm.RateLimitError
    assert (str(error), error.attempts, error.request_id) == (str(caught.value), 2, "r-1")
    assert [previous.error_code for previous in error.previous] == ["A"]
    assert error.raw.status == 429


async def test_an_interrupted_stream_survives_pickling_with_its_text(make, wire):
    route(wire).mock(return_value=sse(HELLO[0]))
    async with make() as client:
        with pytest.raises(dbllm.StreamInterruptedError) as caught:
            await client.endpoint("ep").stream_chat("hi").final()
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.partial_text, error.usage.completion_tokens) == ("Hel", 1)


@pytest.mark.parametrize("field", ["x-request-id", "x-databricks-request-id"])
async def test_the_request_id_comes_from_the_answers_headers(make, wire, field):
    route(wire).respond(json=chat_answer(), headers={field: "r-9"})
    async with make() as client:
        assert (await client.endpoint("ep").chat("hi")).request_id == "r-9"


async def test_the_request_id_may_stand_in_the_message(make, wire):
    wire.get("/x").respond(403, json={"error_code": 403, "message": "Invalid access token. [ReqId: abc-1]"})
    async with make() as client:
        with pytest.raises(dbllm.PermissionDeniedError) as caught:
            await client.request("GET", "/x")
    assert (caught.value.request_id, caught.value.error_code) == ("abc-1", "403")


async def test_an_explanation_never_takes_longer_than_the_call_may(make, serve):
    def gone(peer: Peer) -> None:
        peer.request()
        peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}, 404)
        while peer.request():
            peer.wait_gone()

    async with make(serve(gone).host, timeout=0.5) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.NotFoundError, match="gone"):
            await client.endpoint("ep").chat("hi")
    assert time.monotonic() - began < 5
