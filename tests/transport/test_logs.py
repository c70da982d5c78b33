"""The log: one WARNING for each retry, nothing of a call that was answered at once, DBLLM_LOG, and no secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest
from support.samples import HELLO, chat_answer, route, sse

import dbllm

PATH = "/serving-endpoints/ep/invocations"


async def test_each_retry_is_one_warning_with_reason_attempt_and_wait(make, wire, clock, caplog):
    refusal = httpx.Response(429, headers={"retry-after": "3"}, json={"error_code": "REQUEST_LIMIT_EXCEEDED"})
    failed = httpx.Response(503, json={"message": "the prompt was: prompt-secret"})
    route(wire).mock(side_effect=[refusal, failed, httpx.ConnectError("refused"), sse(*HELLO)])
    async with make(token="dapi-secret") as client:
        await clock.on(client).endpoint("ep").stream_chat("prompt-secret").final()
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {(record.name, record.levelname) for record in warned} == {("dbllm.retry", "WARNING")}
    said = [record.getMessage() for record in warned]
    for number, (line, reason) in enumerate(zip(said, ("REQUEST_LIMIT_EXCEEDED", "503", "refused"), strict=True), 1):
        assert line.startswith(f"POST {PATH}: attempt {number} of 4 failed (")
        assert reason in line
        assert line.endswith(f"next in {clock.waits[number - 1]:.2f} s")
    assert "secret" not in caplog.text
    first = vars(warned[0])
    assert (first["attempt"], first["attempts"], first["status"], first["wait"]) == (1, 4, 429, clock.waits[0])
    assert first["reason"] == "RateLimitError: REQUEST_LIMIT_EXCEEDED"


async def test_the_last_failure_is_no_retry(make, wire, clock, caplog):
    route(wire).respond(503)
    async with make(retry=dbllm.Retry(attempts=2)) as client:
        with pytest.raises(dbllm.InternalServerError):
            await clock.on(client).endpoint("ep").chat("hi")
    assert len([record for record in caplog.records if record.name == "dbllm.retry"]) == 1


async def test_nothing_above_debug_is_said_of_a_call_that_is_answered_at_once(make, wire, caplog):
    route(wire).mock(side_effect=[httpx.Response(200, json=chat_answer()), sse(*HELLO)])
    caplog.set_level(logging.DEBUG, "dbllm")
    async with make() as client:
        await client.endpoint("ep").chat("hi")
        await client.endpoint("ep").stream_chat("hi").final()
    said = [record for record in caplog.records if record.name.startswith("dbllm")]
    assert {record.levelname for record in said} == {"DEBUG"}
    calls = [record for record in said if record.name == "dbllm"]
    assert [vars(record)["attempts"] for record in calls] == [1, 1]
    assert all(vars(record)["seconds"] >= 0 for record in calls)
    assert [vars(record)["outcome"] for record in calls] == ["200", "200"]


async def test_a_stream_says_how_it_ended(make, wire, caplog):
    caplog.set_level(logging.DEBUG, "dbllm")
    route(wire).mock(side_effect=[sse(*HELLO), sse(*HELLO[:1])])
    async with make() as client:
        await client.endpoint("ep").stream_chat("hi").final()
        with pytest.raises(dbllm.StreamInterruptedError):
            await client.endpoint("ep").stream_chat("hi").final()
    said = [record for record in caplog.records if record.name == "dbllm.stream"]
    assert [(record.levelname, vars(record)["endpoint"]) for record in said] == [("DEBUG", "ep"), ("INFO", "ep")]
    assert [record.getMessage() for record in said] == ["stream of ep: whole", "stream of ep: StreamInterruptedError"]


PROGRAM = """
import logging, os, sys, httpx, dbllm
{before}
status = [503, 200, 200]
def answer(request):
    return httpx.Response(status.pop(0), json={{"choices": [{{"message": {{"content": "hi"}}}}]}})
def client():
    return dbllm.Client("https://h", "dapi-secret", transport=httpx.MockTransport(answer), retry=dbllm.Retry(backoff=0))
sys.stderr = sys.stdout
os.environ["DBLLM_LOG"] = {level!r}
with client() as one, client() as two:
    {after}
    for each in (one, two):
        each.endpoint("e", task="chat").chat("prompt-secret", extra_body={{"token": "body-secret"}})
"""


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("debug", ["WARNING dbllm.retry: POST", "INFO    dbllm: POST", "DEBUG   dbllm: POST"]),
        ("INFO", ["WARNING dbllm.retry: POST", "INFO    dbllm: POST"]),
        ("warning", ["WARNING dbllm.retry: POST"]),
    ],
)
def test_dbllm_log_shows_the_log_on_the_standard_error_once(
    script: Callable[..., str], level: str, lines: list[str]
) -> None:
    said = script(PROGRAM.format(before="", after="", level=level)).splitlines()
    assert [line.split(" ", 1)[1].split(" /")[0] for line in said] == lines
    assert "secret" not in "".join(said)


CONFIGURED = 'logging.basicConfig(stream=sys.stdout, format="own: %(message)s", force=True)'
OF_DBLLM = "\n".join(
    (
        'handler = logging.StreamHandler(sys.stdout); handler.setFormatter(logging.Formatter("own: %(message)s"))',
        'logging.getLogger("dbllm").addHandler(handler)',
    )
)


@pytest.mark.parametrize(
    ("before", "after"), [(CONFIGURED, ""), ("", CONFIGURED), (OF_DBLLM, ""), ("", OF_DBLLM.replace("\n", "; "))]
)
def test_dbllm_log_never_doubles_what_the_program_has_set_up_before_or_after(
    script: Callable[..., str], before: str, after: str
) -> None:
    said = script(PROGRAM.format(before=before, after=after, level="warning")).splitlines()
    assert len(said) == 1
    assert said[0].startswith("own: POST")


def test_a_level_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBLLM_LOG", "verbose")
    with pytest.raises(dbllm.ConfigError, match="DBLLM_LOG must be debug, info or warning, got 'verbose'"):
        dbllm.Client("https://h", "t")


async def test_a_limit_that_changes_is_said(make, wire, clock, caplog):
    caplog.set_level(logging.DEBUG, "dbllm.limits")
    route(wire).mock(side_effect=[*[httpx.Response(503)] * 3, httpx.Response(200, json=chat_answer())])
    async with make(limits=dbllm.Limits(concurrency="adaptive")) as client:
        await clock.on(client).endpoint("ep").chat("hi")
    said = [record.getMessage() for record in caplog.records if record.name == "dbllm.limits"]
    assert said
    assert all(line.startswith(f"{PATH}: ") and "calls at once instead of" in line for line in said)
