"""Scripted models: what each kind of endpoint answers, to dbllm and to the clients of others."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from dbllm import APIError, APIStatusError, AsyncClient, Client, RateLimitError, Retry
from dbllm.local.invocation import responses as local_responses
from dbllm.local.model.llama import Piece, Tokens
from dbllm.testing import FAULT_KINDS, STREAM_FAULTS, Scripted, VirtualClock, scripted_workspace
from dbllm.testing.scripted_answers import ScriptedAnswer, tool_calls_of
from dbllm.testing.wire_answers import wire_answer

ONCE = Retry(attempts=1)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class Capital(BaseModel):
    city: str


async def test_every_kind_of_endpoint_answers_with_the_text(make: Callable[..., Any], scripted: Scripted) -> None:
    scripted.reply("one two three", times=20)
    scripted.task("text", "llm/v1/completions")
    scripted.task("custom", "")
    async with make(scripted.host, scripted.token) as client:
        agent, app = client.agent("my-agent"), client.driver_app(7777, "cluster")
        service = client.endpoint("system.ai.claude-sonnet")
        texts = {
            "chat": (await client.endpoint("chat").chat("hi")).text,
            "service": (await service.chat("hi")).text,
            "completions": await client.endpoint("text").complete("hi"),
            "custom": await client.endpoint("custom").complete("hi"),
            "responses": (await client.endpoint("agent").respond("hi")).text,
            "service_responses": (await client.endpoint("system.ai.gpt").respond("hi")).text,
            "agent": (await agent.respond("hi")).text,
            "app": await app.complete("hi"),
        }
        for stream in (
            client.endpoint("chat").stream_chat("hi"),
            client.endpoint("text").stream_complete("hi"),
            client.endpoint("agent").stream_respond("hi"),
            service.stream_chat("hi"),
            agent.stream_respond("hi"),
            app.stream_complete("hi"),
        ):
            async with stream:
                pieces = [chunk.text async for chunk in stream]
                texts[f"stream {len(texts)}"] = "".join(pieces)
                assert len([piece for piece in pieces if piece]) == 3
    assert texts == dict.fromkeys(texts, "one two three")
    assert [call.kind for call in scripted.calls[:8]] == [
        *("chat", "chat", "completions", "custom", "responses", "responses", "agent", "driver_app")
    ]
    assert {call.prompt for call in scripted.calls} == {"hi"}
    endpoints = ["chat", "system.ai.claude-sonnet", "text", "custom", "agent", "system.ai.gpt", "my-agent"]
    assert [call.endpoint for call in scripted.calls[:8]] == [*endpoints, "cluster:7777"]
    assert scripted.flaws == []


async def test_vectors_predictions_tools_and_structured_output(make: Callable[..., Any], scripted: Scripted) -> None:
    scripted.embed([[1, 2], [3, 4]])
    scripted.predict([{"score": 0.5}])
    scripted.reply(tool_calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})], times=2)
    scripted.tool_call("weather", {"city": "Oslo"})
    scripted.reply(Capital(city="Paris"))
    async with make(scripted.host, scripted.token) as client:
        assert (await client.endpoint("e").embed(["a", "b"])).vectors == [[1, 2], [3, 4]]
        assert (await client.endpoint("p").predict(inputs=[1])).predictions == [{"score": 0.5}]
        whole = (await client.endpoint("m").chat("hi", tools=[WEATHER])).message.tool_calls
        async with client.endpoint("m").stream_chat("hi", tools=[WEATHER]) as stream:
            streamed = await stream.final()
        for calls in (whole, streamed.message.tool_calls):
            assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]
        assert streamed.finish_reason == "tool_calls"
        assert {call.id for call in whole}.isdisjoint(call.id for call in streamed.message.tool_calls)
        async with client.endpoint("a").stream_respond("hi") as stream:
            (item,) = (await stream.final()).output
        assert (item.type, json.loads(item.arguments)) == ("function_call", {"city": "Oslo"})
        reply = await client.endpoint("m").chat("hi", response_model=Capital)
        assert reply.parsed == Capital(city="Paris")
    assert scripted.calls[2].tools == ["weather"]
    scripted.assert_all_used()


async def test_errors_have_the_envelope_of_the_workspace_or_of_an_app(
    make: Callable[..., Any], scripted: Scripted
) -> None:
    scripted.error(429, "slow down", retry_after=0.001)
    scripted.reply("then it answers")
    scripted.error(429, times=3)
    scripted.error(403, "no", error_code="PERMISSION_DENIED", headers={"x-request-id": "r-1"})
    scripted.error(400, body={"error": {"message": "as OpenAI says it"}})
    scripted.error(422, "input is missing")
    async with make(scripted.host, scripted.token, retry=Retry(attempts=3, backoff=0)) as client:
        assert (await client.endpoint("m").chat("hi")).attempts == 2
        with pytest.raises(RateLimitError) as limited:
            await client.endpoint("m").chat("hi")
        assert (limited.value.attempts, limited.value.error_code) == (3, "REQUEST_LIMIT_EXCEEDED")
        with pytest.raises(APIStatusError, match="no") as denied:
            await client.endpoint("m").chat("hi")
        assert (denied.value.status, denied.value.request_id) == (403, "r-1")
        with pytest.raises(APIStatusError, match="as OpenAI says it"):
            await client.endpoint("m").chat("hi")
        with pytest.raises(APIStatusError, match="input is missing") as refused:
            await client.agent("a").respond("hi")
        assert refused.value.status == 422
    assert [call.status for call in scripted.calls] == [429, 200, 429, 429, 429, 403, 400, 422]


def test_answers_are_chosen_by_endpoint_and_prompt_and_those_for_always_come_last(scripted: Scripted) -> None:
    scripted.reply("always", times=None)
    scripted.reply("for b", endpoint="b")
    scripted.reply("for cats", when="cat")
    scripted.reply("cold", when=lambda call: call.body.get("temperature") == 0)
    with Client() as client:
        said = [
            client.endpoint("a").chat("dogs").text,
            client.endpoint("b").chat("dogs").text,
            client.endpoint("b").chat("cats and dogs").text,
            client.endpoint("a").chat("dogs", temperature=0).text,
            client.endpoint("a").chat("cats").text,
        ]
    assert said == ["always", "for b", "for cats", "cold", "always"]
    assert len(scripted.calls.to("b")) == 2


def test_an_agents_run_goes_on_in_the_background_and_after_a_broken_stream(scripted: Scripted) -> None:
    scripted.reply("made in the background")
    scripted.reply("one two three", fault="stream_reset")
    with Client() as client:
        run = client.agent("a").start("hi")
        assert (run.status(), run.result().text) == ("completed", "made in the background")
        with client.agent("a").stream_respond("hi") as stream:
            assert stream.final().text == "one two three"
    assert len(scripted.calls) == 2


def test_time_passes_in_reality_or_on_the_clock_of_the_test(scripted: Scripted) -> None:
    scripted.reply("a b c d e", tokens_per_second=100, first_token=0.02, times=2)
    with Client() as client:
        began = time.monotonic()
        client.endpoint("m").chat("hi")
        assert time.monotonic() - began >= 0.06
        began = time.monotonic()
        with client.endpoint("m").stream_chat("hi") as stream:
            stream.final()
        assert time.monotonic() - began >= 0.06
        scripted.clock = clock = VirtualClock()
        scripted.reply("a b c d e", tokens_per_second=0.1, first_token=3600)
        with client.endpoint("m").stream_chat("hi") as stream:
            assert stream.final().text == "a b c d e"
        assert clock.seconds == pytest.approx(3640)


def test_faults_by_seed_hit_the_same_calls_in_every_run() -> None:
    def run() -> list[int | None]:
        with scripted_workspace() as scripted, Client(retry=ONCE) as client:
            scripted.reply("well", times=None)
            scripted.faults({"429": 0.3, "close_in_body": 0.2}, seed=3)
            for number in range(30):
                try:
                    client.endpoint("m").chat(str(number))
                except APIError:
                    pass
            return [call.status for call in scripted.calls]

    first = run()
    assert first == run()
    assert 5 < len([status for status in first if status == 200]) < 30


def test_each_fault_of_an_answer_is_met_and_the_server_has_no_flaw(scripted: Scripted) -> None:
    scripted.settings = replace(scripted.settings, pause=0.01, stall=0.02, run=0.02)
    wrong = []
    for fault in (*STREAM_FAULTS, *(FAULT_KINDS.keys() - {"drip"})):  # that one takes seconds, byte by byte
        for stream in (False, True):
            scripted.reply("one two three four", tool_calls={"weather": {"city": "Paris"}}, fault=fault)  # type: ignore[arg-type]
            with Client(retry=ONCE, timeout=5) as client:
                endpoint = client.endpoint("m")
                try:
                    reply = endpoint.stream_chat("hi").final() if stream else endpoint.chat("hi")
                    found: object = reply.text
                    whole = reply.text == "one two three four" and reply.finish_reason == "tool_calls"
                except APIError as error:
                    found, whole = error, False
            harmless = fault in FAULT_KINDS and FAULT_KINDS[fault].effect == "harmless"  # type: ignore[index]
            ends_late = stream and fault == "wrong_length"
            if whole is not (harmless or ends_late or fault in ("slow_first_token", "reset_kept")):
                wrong.append((fault, stream, found))
    assert wrong == []
    assert scripted.flaws == []


def test_a_call_beyond_the_script_gets_a_sentence_and_is_not_sent_again(scripted: Scripted) -> None:
    scripted.reply("only this")
    scripted.reply("for another", endpoint="other")
    with Client() as client:
        client.endpoint("m").chat("first")
        with pytest.raises(APIStatusError) as caught:
            client.endpoint("m").chat("second")
    said = caught.value.message
    assert (caught.value.status, caught.value.error_code, caught.value.attempts) == (418, "NOT_SCRIPTED", 1)
    for part in ("call 2", "chat to 'm': 'second'", "'for another', endpoint='other'", "scripted.reply("):
        assert part in said, said
    assert scripted.problem() == said
    scripted._script.problems.clear()  # or this test fails, as it should


def test_an_answer_of_another_form_than_the_call_asks_for_gets_a_sentence(scripted: Scripted) -> None:
    scripted.predict([1])
    scripted.embed([1.0])
    scripted.embed([[1.0], [2.0]])
    with Client() as client:
        with pytest.raises(APIStatusError, match=r"is predictions, and the request asks for a text \(chat\)"):
            client.endpoint("m").chat("hi")
        with pytest.raises(APIStatusError, match=r"is vectors, and the request asks for a stream"):
            client.endpoint("m").stream_chat("hi").final()
        with pytest.raises(APIStatusError, match="has 2 vectors, and the request has 3 texts"):
            client.endpoint("m").embed(["a", "b", "c"])
    assert len(scripted._script.problems) == 3
    scripted._script.problems.clear()


def test_what_cannot_be_is_refused_when_it_is_written(scripted: Scripted) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("there is no fault 'explode'", {"fault": "explode"}),
        ("times is a whole number from 1", {"times": 0}),
        ("tokens_per_second is more than 0", {"tokens_per_second": 0}),
        ("first_token is in seconds", {"first_token": -1}),
    ]
    wrong += [
        ("tokens_per_second is more than 0", {"tokens_per_second": "fast"}),
        ("first_token is in seconds", {"first_token": float("nan")}),
        ("usage is {name: number}", {"usage": 5}),
        ("headers are {name: text}, each in one line", {"headers": {"x-a": "1\r\nx-b: 2"}}),
        ("headers are {name: text}, each in one line", {"headers": 0}),
        ("endpoint is a text", {"endpoint": 5}),
        ("finish_reason is a text", {"finish_reason": 5}),
        ("when is a text of the last message, or a function", {"when": 5}),
        (r"tool_calls are {name: arguments}, or pairs \(name, arguments\), got 'f'", {"tool_calls": "f"}),
        (r"tool_calls are {name: arguments}, or pairs", {"tool_calls": [("f", {}, 1)]}),
        ("what f is called with must be what JSON can hold", {"tool_calls": {"f": object()}}),
    ]
    for match, options in wrong:
        with pytest.raises(ValueError, match=match):
            scripted.reply("x", **options)
    others: list[tuple[str, Callable[[], object]]] = [
        ("the text is None", lambda: scripted.reply(None)),
        ("the text must be what JSON can hold", lambda: scripted.reply(object())),
        (r"embed takes a vector \(a list of numbers\), or a list of vectors", lambda: scripted.embed([])),
        ("embed takes a vector", lambda: scripted.embed("abc")),  # type: ignore[arg-type]
        ("embed takes a vector", lambda: scripted.embed([[1.0], []])),
        ("predictions must be what JSON can hold", lambda: scripted.predict({1, 2})),
        (r"json\(value\) must be what JSON can hold", lambda: scripted.json({1, 2})),
        ("retry_after is in seconds, from 0 up", lambda: scripted.error(429, retry_after=-1)),
        ("there is no task 'talk'; there are chat, completions", lambda: scripted.task("m", "talk")),
        ("clock is a VirtualClock", lambda: setattr(scripted, "clock", time)),
    ]
    for match, write in others:
        with pytest.raises(ValueError, match=match):
            write()
    assert scripted._script.left == []
    with pytest.raises(ValueError, match="from 400 to 599"):
        scripted.error(200)
    with pytest.raises(ValueError, match="there is no fault"):
        scripted.faults({"418": 0.1})  # type: ignore[dict-item]


def test_clients_of_others_are_answered_as_well(scripted: Scripted) -> None:
    scripted.reply("for httpx", times=2)
    scripted.json({"jobs": []}, endpoint="/api/2.1/jobs/list")
    with httpx.Client(base_url=scripted.openai_base_url, headers={"authorization": "Bearer secret-of-mine"}) as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        whole = client.post("/chat/completions", json=body).json()
        assert whole["choices"][0]["message"]["content"] == "for httpx"
        lines = client.post("/chat/completions", json={**body, "stream": True}).text.splitlines()
        assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
        assert client.get(f"{scripted.host}/api/2.1/jobs/list").json() == {"jobs": []}
    scripted.assert_called(times=2, endpoint="m", prompt="hi")
    assert "secret-of-mine" not in repr([call.headers for call in scripted.requests])


def test_what_is_not_scripted_says_how_to_script_it(scripted: Scripted) -> None:
    scripted.json({"jobs": [1]}, endpoint="/api/2.1/jobs/list")
    with Client() as client:
        assert client.request("GET", "/api/2.1/jobs/list") == {"jobs": [1]}
        with pytest.raises(APIStatusError, match=r"scripted.json\(..., endpoint='/api/2.1/jobs/list'\)") as caught:
            client.request("GET", "/api/2.1/jobs/list")
        assert (caught.value.status, scripted.problem()) == (404, "")
        with pytest.raises(APIStatusError, match="not scripted in the wire format of POST") as caught:
            client.request("POST", "/ai-gateway/gemini/v1beta/models/m:generateContent", json={"contents": []})
        assert caught.value.status == 418
    assert "/ai-gateway/gemini/v1beta/models/m:generateContent" in scripted.problem()
    scripted._script.problems.clear()


def test_an_answer_that_cannot_be_chosen_or_made_fails_the_test_with_the_reason(scripted: Scripted) -> None:
    def when(_: object) -> bool:
        raise ZeroDivisionError("of the test's own")

    scripted.reply("x", when=when, endpoint="m")
    scripted.tool_call("f", endpoint="text")
    with Client() as client:
        with pytest.raises(
            APIStatusError, match=r"could not be made: ZeroDivisionError: of the test's own \(.*line \d+"
        ):
            client.endpoint("m").chat("hi")
        with pytest.raises(
            APIStatusError, match="the scripted answer calls tools, and the request is of a kind that has"
        ):
            client.endpoint("text", task="completions").complete("hi", when=1)
        for _ in range(5):
            with pytest.raises(APIStatusError):
                client.endpoint("other").embed("hi")
    lines = scripted.problem().splitlines()
    assert (len(lines), lines[-1]) == (4, "… and 4 more calls.")
    scripted._script.problems.clear()


def test_a_call_gets_an_answer_of_its_form_whatever_was_written_before(scripted: Scripted) -> None:
    scripted.reply("a text", times=None)
    scripted.predict([0.5])
    scripted.embed([1.0], times=None)
    with Client() as client:
        assert client.endpoint("e").embed(["a", "b"]).vectors == [[1.0], [1.0]]
        assert client.endpoint("m").chat("hi").text == "a text"
        assert client.endpoint("c").predict(inputs=[1]).predictions == [0.5]
        assert client.endpoint("c").predict(inputs=[1]).predictions == ["a text"]
        assert client.endpoint("any").complete("hi") == "a text"
        scripted.error(429)
        with pytest.raises(RateLimitError):
            client.endpoint("e").embed("a", retry=ONCE)


def test_an_error_of_the_server_itself_fails_the_test(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(scripted, "respond", respond)
    with Client(retry=ONCE) as client, pytest.raises(APIError):
        client.endpoint("m").chat("hi")
    said = "The server of this test failed, and ended a connection: ZeroDivisionError('a bug')."
    assert scripted.problem() == said
    scripted.flaws.clear()


def test_null_is_a_prediction_and_a_hint_of_no_seconds_is_one(scripted: Scripted) -> None:
    scripted.predict(None)
    scripted.error(429, retry_after=0)
    with Client() as client:
        assert client.request("POST", "/serving-endpoints/m/invocations", json={"inputs": [1]}) == {"predictions": None}
        with pytest.raises(RateLimitError) as caught:
            client.endpoint("m").chat("hi", retry=ONCE)
    assert caught.value.raw is not None
    assert caught.value.raw.headers["retry-after"] == "0"


def test_a_task_is_said_in_the_words_of_the_client(scripted: Scripted) -> None:
    words = ("chat", "completions", "embeddings", "responses", "agent", "custom")
    with Client() as client:
        for word in words:
            scripted.task(word, word)
        tasks = [client.endpoints.get(word).task for word in words]
    assert tasks == [
        *("llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"),
        *("agent/v1/responses", "agent/v2/chat", ""),
    ]


MESSAGES = {"model": "claude", "max_tokens": 9, "system": "Be brief.", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("path", ["serving-endpoints/anthropic/v1/messages", "ai-gateway/anthropic/v1/messages"])
def test_anthropics_interface_is_answered_whole_and_streamed(scripted: Scripted, path: str) -> None:
    def post(**more: object) -> httpx.Response:
        return httpx.post(f"{scripted.host}/{path}", json={**MESSAGES, **more})

    def events() -> list[dict[str, Any]]:
        frames = post(stream=True).text.removesuffix("\n\n").split("\n\n")
        named = [frame.split("\n") for frame in frames]
        said = [json.loads(data.removeprefix("data: ")) for _, data in named]
        assert [name for name, _ in named] == [f"event: {event['type']}" for event in said]
        return said

    assert scripted.anthropic_base_url == f"{scripted.host}/serving-endpoints/anthropic"
    scripted.reply("one two", tool_calls={"weather": {"city": "Oslo"}}, times=2)
    whole = post(tools=[{"name": "weather", "input_schema": {}}]).json()
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use"]
    assert (whole["content"][0]["text"], whole["content"][1]["input"]) == ("one two", {"city": "Oslo"})
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("tool_use", 5)
    streamed = events()
    deltas = [event["delta"] for event in streamed if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "one two"
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"city": "Oslo"}
    assert [event["type"] for event in streamed[-2:]] == ["message_delta", "message_stop"]
    assert streamed[-2]["delta"]["stop_reason"] == "tool_use"
    assert streamed[-2]["usage"] == whole["usage"]
    scripted.reply(refusal="No.", usage={"input_tokens": 7, "output_tokens": 1})
    refused = post().json()
    assert (refused["content"][0]["text"], refused["stop_reason"]) == ("No.", "refusal")
    assert (refused["usage"]["input_tokens"], refused["usage"]["output_tokens"]) == (7, 1)
    scripted.reply("x", finish_reason="pause_turn", times=2)
    assert (post().json()["stop_reason"], events()[-2]["delta"]["stop_reason"]) == ("pause_turn", "pause_turn")
    scripted.reply("x", finish_reason="length")
    assert post().json()["stop_reason"] == "max_tokens"
    scripted.reply("one two three", fault="error_frame")
    assert events()[-1]["error"]["type"] == "api_error"
    scripted.error(429, "busy", retry_after=0.5)
    assert (post().status_code, scripted.calls[-1].status) == (429, 429)
    scripted.assert_called(kind="messages", endpoint="claude", prompt="hi", tools=["weather"], max_tokens=9)
    assert scripted.calls[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_the_pace_of_a_stream_is_that_of_anthropics_interface_too(scripted: Scripted) -> None:
    scripted.clock = VirtualClock()
    scripted.reply("one two three", first_token=2, tokens_per_second=0.5)
    httpx.post(f"{scripted.anthropic_base_url}/v1/messages", json={**MESSAGES, "stream": True})
    assert scripted.clock.seconds == 6


def test_dbllms_clients_are_answered_however_they_are_configured(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "https://nowhere.cloud.databricks.com"
    config = tmp_path / "databrickscfg"
    config.write_text(f"[prod]\nhost = {nowhere}\ntoken = of-the-profile\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(config))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    ways: dict[str, Callable[[], Client]] = {
        "profile": lambda: Client(profile="prod"),
        "host": lambda: Client(nowhere, "a-token"),
        "oauth": lambda: Client(nowhere, client_id="an-id", client_secret="a-secret"),
        "proxy": lambda: Client(nowhere, "a-token", proxy="http://127.0.0.1:9"),
        "local": Client.local,
    }
    with scripted_workspace() as own:
        own.reply("x", times=None)
        for way, make in ways.items():
            with make() as client:
                assert client.endpoint("m").chat(way).text == "x"
                assert client.agent(url="https://my-agent-1.aws.databricksapps.com").respond(way).text == "x"
        with Client(scripted.host, scripted.token) as client:  # a host on this machine is called as it is
            scripted.reply("y")
            assert client.endpoint("m").chat("hi").text == "y"
        assert {call.prompt for call in own.calls} == ways.keys()
        assert {call.endpoint for call in own.calls} == {"m", "my-agent-1"}


def test_scopes_keep_tasks_that_run_at_once_apart(scripted: Scripted) -> None:
    async def task(name: str) -> list[str]:
        with scripted.scope() as own:
            own.reply(f"{name} first")
            own.reply(f"{name} second")
            async with AsyncClient(own.host, own.token) as client:
                said = [(await client.endpoint("m").chat(f"{name} {turn}")).text for turn in range(2)]
            assert [call.prompt for call in own.calls] == [f"{name} 0", f"{name} 1"]
            return said

    async def main() -> list[list[str]]:
        return await asyncio.gather(*(task(str(number)) for number in range(8)))

    assert asyncio.run(main()) == [[f"{number} first", f"{number} second"] for number in range(8)]
    assert not scripted.requests


def test_a_call_beyond_the_script_of_a_scope_is_a_problem_of_the_test(scripted: Scripted) -> None:
    with scripted.scope() as own, Client(own.host, own.token) as client, pytest.raises(APIStatusError):
        client.endpoint("m").chat("hi")
    assert "the test wrote no answer" in scripted.problem()
    scripted._script.problems.clear()


def test_without_pytest_the_block_ends_with_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "another")

    def block(error: type[Exception] | None = None) -> None:
        with scripted_workspace(), Client() as client:
            assert "DATABRICKS_CONFIG_PROFILE" not in os.environ
            with pytest.raises(APIStatusError):
                client.endpoint("m").chat("hi")
            if error is not None:
                raise error

    with pytest.raises(AssertionError, match="There is no answer for call 1"):
        block()
    with pytest.raises(ZeroDivisionError):  # an error of the test's own comes first
        block(ZeroDivisionError)
    assert os.environ["DATABRICKS_CONFIG_PROFILE"] == "another"
    assert "DATABRICKS_HOST" not in os.environ


def test_a_scripted_answer_has_the_fields_of_the_local_workspaces_own() -> None:
    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {name: shape(one) for name, one in value.items() if name not in ("usage", "finish_reason")}
        return [shape(one) for one in value[:1]] if isinstance(value, list) else None

    for task, kind, body in (
        ("llm/v1/chat", "chat", {"messages": []}),
        ("llm/v1/completions", "completions", {"prompt": "x"}),
    ):
        for tool in (None, "weather"):
            if tool and kind == "completions":
                continue
            head = local_responses.Head("x" * 24, 1, "m", task, tool)  # type: ignore[arg-type]
            tally = local_responses.Accumulator(1)
            tally.add(Piece(0, '{"a": 1}', "stop", Tokens(1, 1)))
            calls = tool_calls_of({tool: {"a": 1}}) if tool else ()
            answer = ScriptedAnswer(text="" if tool else '{"a": 1}', tool_calls=calls)
            made = json.loads(wire_answer(kind, body, "", answer).body)  # type: ignore[arg-type]
            assert shape(made) == shape(local_responses.whole(head, tally))


@pytest.mark.speed
def test_a_scripted_workspace_costs_a_test_less_than_fifty_milliseconds() -> None:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        with scripted_workspace() as scripted, Client() as client:
            scripted.reply("hi")
            client.endpoint("m").chat("hi")
        times.append(time.perf_counter() - began)
    print(f"a scripted workspace, a client and a call take {1000 * min(times):.1f} ms")
    assert min(times) < 0.05
