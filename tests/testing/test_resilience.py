"""assert_resilient: what it says of functions that survive, and of those that do not, each in its own way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from dbllm import AsyncClient, Client, DbllmError, RateLimitError, Timeout
from dbllm.testing import RESILIENCE_FAULTS, ResilienceReport, Scripted, assert_resilient

PATIENCE = Timeout(total=60, read=1.0)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
QUICK = [name for name in RESILIENCE_FAULTS if name != "stream stall"]  # a whole answer has no time-out but the total


def careful() -> str:
    with Client(timeout=60) as client:
        reply = client.endpoint("m").chat("hi")
        if reply.message.model_extra and reply.message.model_extra.get("refusal"):
            raise DbllmError("the model refuses")
        return reply.text


async def careful_stream() -> AsyncIterator[str]:
    async with AsyncClient(timeout=PATIENCE) as client, client.endpoint("m").stream_chat("hi") as stream:
        async for chunk in stream:
            yield chunk.text


def fails(function: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_resilient(function, **options)
    return str(caught.value)


def test_a_function_that_raises_typed_errors_survives_all_faults() -> None:
    report = assert_resilient(careful, faults=QUICK, accept=lambda value: value == "")
    assert report.ok
    assert [row.fault for row in report.rows] == QUICK
    assert (report["500"].outcome, report["500"].requests) == ("value", 2)
    assert (report["504"].outcome, report["504"].requests) == ("typed error", 1)
    assert report["cut tool arguments"].outcome == "not met"
    assert (report["429 with hint"].requests, report["403"].detail[:21]) == (2, "PermissionDeniedError")
    assert str(report).splitlines()[1].split()[:3] == ["ok", "429", "value"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stream_in_an_event_loop_survives_and_waits_are_skipped(backend: Any) -> None:
    began = time.monotonic()
    faults = [
        "429",
        "429 with hint",
        "503",
        "stream cut",
        "stream stall",
        "stream ends early",
        "bad json",
        "error frame",
    ]
    report = assert_resilient(careful_stream, faults=faults, backend=backend)
    assert [row.outcome for row in report.rows] == ["value"] * 3 + ["typed error"] * 5
    assert report["429 with hint"].seconds >= 1
    assert time.monotonic() - began < 20


def naive() -> Any:
    body = {"messages": [{"role": "user", "content": "x"}]}
    with httpx.Client(base_url=os.environ["DATABRICKS_HOST"], trust_env=False, verify=False) as client:
        answer = client.post("/serving-endpoints/m/invocations", json=body, timeout=None)
    return answer.json()["choices"][0]["message"]["content"]


def test_crashes_hangs_and_wrong_values_are_told_apart() -> None:
    said = fails(naive, faults=["429", "bad json", "stream stall", "refusal", "slow first token"], seconds=2)
    assert said.startswith("the function does not survive 4 of 5 faults:")
    rows = [line.split() for line in said.splitlines()[2:]]
    assert [row[0] for row in rows] == ["FAIL"] * 4 + ["ok"]
    for words, parts in zip(
        rows,
        (("crash", "KeyError:"), ("crash", "JSONDecodeError:"), ("hang",), ("wrong", "None"), ("value",)),
        strict=True,
    ):
        assert set(parts) <= set(words), words


def test_a_partial_text_that_is_taken_for_the_whole_is_a_wrong_value() -> None:
    def partial() -> str:
        text = ""
        with Client(timeout=PATIENCE) as client, client.endpoint("m").stream_chat("hi") as stream:
            try:
                for chunk in stream:
                    text += chunk.text
            except DbllmError:
                pass
        return text

    said = fails(partial, faults=["stream cut"])
    assert "wrong value" in said
    assert "'The answer '" in said


def test_an_apology_is_accepted_where_the_user_says_so() -> None:
    def answer() -> str:
        try:
            return careful()
        except DbllmError:
            return "Sorry."

    report = assert_resilient(answer, faults=["403", "page"], accept=lambda value: value == "Sorry.")
    assert [row.outcome for row in report.rows] == ["accepted", "accepted"]
    assert "wrong value" in fails(answer, faults=["403"])


def ask_again(times: int, pause: float = 0.0) -> Callable[[Scripted], str]:
    def function(scripted: Scripted) -> str:
        with httpx.Client(base_url=scripted.openai_base_url, trust_env=False, verify=False) as client:
            for _ in range(times):
                answer = client.post("/chat/completions", json={"model": "m", "messages": []})
                if answer.status_code == 200:
                    return str(answer.json()["choices"][0]["message"]["content"])
                time.sleep(pause)
        raise DbllmError("given up")

    return function


def test_what_is_wrong_with_how_a_function_tries_again_is_a_failure() -> None:
    assert "and the server had asked for 1 s" in fails(ask_again(2), faults=["429 with hint"])
    assert "sent again after 403" in fails(ask_again(2), faults=["403"])
    assert "a storm of 11 requests" in fails(ask_again(11), faults=["outage"])
    assert assert_resilient(ask_again(3), faults=["429", "500", "outage"]).ok


def test_cut_arguments_of_a_tool_reach_a_function_that_offers_one() -> None:
    def call_tool() -> object:
        with Client() as client:
            reply = client.endpoint("m").chat("hi", tools=[WEATHER])
            return (
                json.loads(reply.message.tool_calls[0].function.arguments) if reply.message.tool_calls else reply.text
            )

    said = fails(call_tool, faults=["cut tool arguments"])
    assert "crash" in said
    assert "JSONDecodeError" in said
    script: Callable[[Scripted], None] = lambda scripted: scripted.tool_call("weather", {"city": "Paris"}, times=None)  # noqa: E731
    assert "JSONDecodeError" in fails(call_tool, faults=["cut tool arguments"], script=script)


def test_the_script_of_the_user_is_answered_between_the_faults() -> None:
    def two_steps() -> str:
        with Client() as client:
            endpoint = client.endpoint("m")
            return f"{endpoint.chat('a').text} {endpoint.chat('b').text}"

    def script(scripted: Scripted) -> None:
        scripted.reply("first")
        scripted.reply("second")

    report = assert_resilient(two_steps, script=script, faults=["429", "500"])
    assert [(row.outcome, row.requests) for row in report.rows] == [("value", 4), ("value", 3)]


def test_a_generator_is_read_to_its_end_and_other_errors_can_be_expected() -> None:
    def pieces() -> Iterator[str]:
        with Client() as client, client.endpoint("m").stream_chat("hi") as stream:
            yield from (chunk.text for chunk in stream)

    assert assert_resilient(pieces, faults=["503"])["503"].outcome == "value"

    def other() -> str:
        try:
            return careful()
        except DbllmError as error:
            raise LookupError from error

    assert "crash" in fails(other, faults=["403"])
    assert assert_resilient(other, faults=["403"], typed=LookupError).ok


def test_a_function_that_fails_without_faults_and_a_fault_that_is_none_get_a_sentence() -> None:
    def broken() -> None:
        raise RateLimitError("always")

    assert "without any fault the function raises RateLimitError" in fails(broken)
    assert "without any fault the function hangs" in fails(lambda: time.sleep(0.5), seconds=0.1)
    assert "the function did not call the scripted workspace: its client was made before" in fails(lambda: 42)
    with pytest.raises(ValueError, match="there is no fault '418'; there are 429, "):
        assert_resilient(careful, faults=["418"])


def test_a_client_that_is_kept_between_runs_is_told_and_not_taken_for_a_survivor() -> None:
    kept: list[Client] = []

    def forgetful() -> str:
        if not kept:
            kept.append(Client(timeout=2))
        return kept[0].endpoint("m").chat("hi").text

    known: list[str] = []

    def remembers() -> str:
        known.extend([] if known else [careful()])
        return known[0]

    with Client("https://nowhere.cloud.databricks.com", "a-token", timeout=2) as client:  # of a module, say
        report = assert_resilient(lambda: client.endpoint("m").chat("hi").text, faults=["500", "403"])
        assert [row.outcome for row in report.rows] == ["value", "typed error"]
    for function in (forgetful, remembers):
        said = fails(function, faults=["500"])
        assert "no call" in said
        assert "make the client in the function" in said
    kept[0].close()


def test_an_argument_of_the_wrong_kind_gets_a_sentence() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (5, {}, "function is a function, got 5"),
        (lambda one, two: (one, two), {}, "needs 2 arguments"),
        (careful, {"accept": "yes"}, "accept is a function, got 'yes'"),
        (careful, {"script": 5}, "script is a function"),
        (careful, {"typed": ValueError("x")}, "typed is a class of exceptions"),
        (careful, {"seconds": 0}, "seconds is more than 0, got 0"),
        (careful, {"seconds": "5"}, "seconds is more than 0, got '5'"),
        (careful, {"backend": "curio"}, "backend is asyncio or trio, got 'curio'"),
    ]
    for function, options, said in wrong:
        with pytest.raises(ValueError, match=said):
            assert_resilient(function, **options)
    assert [row.fault for row in assert_resilient(careful, faults="500").rows] == ["500"]


def test_an_async_function_that_hangs_is_cancelled() -> None:
    ended: list[str] = []

    async def hangs() -> str:
        try:
            async with AsyncClient() as client:
                return (await client.endpoint("m").chat("hi")).text
        finally:
            ended.append("ended")

    assert "hang" in fails(hangs, faults=["stream stall"], seconds=2)
    assert ended == ["ended"] * 2


def test_clients_wait_as_ever_after_it() -> None:
    before = [kind.__dict__.get("sleep") for kind in _backends()]
    assert_resilient(careful, faults=["500"])
    assert [kind.__dict__.get("sleep") for kind in _backends()] == before


def _backends() -> list[type]:
    clients: list[Any] = [AsyncClient("http://127.0.0.1:9", "t"), Client("http://127.0.0.1:9", "t")]
    return [type(getattr(client, "_core", client)._transport.backend) for client in clients]


def test_an_empty_report_is_a_table_as_well() -> None:
    assert ResilienceReport(()).ok
    assert "fault" in str(ResilienceReport(()))
