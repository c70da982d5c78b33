"""Recordings: what was sent and received comes back as it was, without secrets, and a request that is new is shown."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from dbllm import (
    APIConnectionError,
    APIStatusError,
    AsyncClient,
    Client,
    InternalServerError,
    Limits,
    Retry,
    StreamInterruptedError,
)
from dbllm._auth import local_workspace
from dbllm.testing import Scripted, VirtualClock, recording
from dbllm.testing.loopback_workspace import workspace_environment
from dbllm.testing.recorded_secrets import HIDDEN, SecretRemover, secrets_in_environment
from dbllm.testing.recordings import Interaction, Recording, body_of, content_of, event_of, frame_of, from_text, to_text

SECRETS = {  # form → one that is made up
    "Databricks": "dapi" + "0123456789abcdef" * 2,
    "OAuth secret": "dose" + "fedcba9876543210" * 2,
    "OpenAI": "sk-proj-" + "Ab3" * 12,
    "JWT": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl",
    "AWS": "AKIA" + "ABCDEFGH12345678",
    "GitHub": "ghp_" + "a1B2" * 9,
    "Hugging Face": "hf_" + "aB" * 15,
    "Slack": "xoxb-1234567890-abc",
    "Google": "AIza" + "Sy" * 17,
    "key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
}


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    """The workspace that is recorded: the environment names it, and clients are left as they are."""
    made = Scripted()
    made.start()
    with workspace_environment(made.env):
        yield made
    made.close()
    assert made.problem() == ""


def calls(client: Any) -> list[object]:
    with client.endpoint("m").stream_chat("a stream", tags={"team": "x"}) as stream:
        streamed = [chunk.text for chunk in stream]
    return [
        client.endpoint("m").chat("whole").text,
        streamed,
        client.endpoint("e").embed(["a", "b"]).vectors,
        client.driver_app(7777).complete("app"),
        client.agent("my-agent").respond("an agent").text,
    ]


def test_what_was_recorded_is_replayed_without_the_workspace(
    upstream: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deeper" / "one.json"
    upstream.task("e", "llm/v1/embeddings")
    for answer in ("streamed in four pieces", "the whole"):
        upstream.reply(answer)
    upstream.embed([[1], [2]])
    upstream.reply("of the app")
    upstream.reply("of the agent")
    with recording(file) as recorded, Client() as client:
        first = calls(client)
        assert not recorded.replays
    assert first[0] == "the whole"
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CLUSTER_ID"):
        monkeypatch.delenv(name)
    for mode in ("once", "replay"):
        with recording(file, mode) as recorded, Client() as client:  # type: ignore[arg-type]
            assert recorded.replays
            assert calls(client) == first
    assert len(upstream.calls) == 5


def test_the_file_reads_well(upstream: Scripted, tmp_path: Path) -> None:
    upstream.reply("Grüße aus Köln", tokens_per_second=200, first_token=0.01)
    with recording(tmp_path / "one.json"), Client() as client, client.endpoint("m").stream_chat("hi") as stream:
        stream.final()
    text = (tmp_path / "one.json").read_text("utf-8")
    lines = text.splitlines()
    assert '          "path": "/serving-endpoints/m/invocations",'[2:] in text
    events = [line.strip().rstrip(",") for line in lines if line.strip().startswith('{"at"')]
    assert len(events) == 6
    assert json.loads(events[1])["data"]["choices"][0]["delta"] == {"content": "Grüße "}
    assert json.loads(events[-1])["data"] == "[DONE]"
    times = [json.loads(event)["at"] for event in events]
    assert times == sorted(times)
    assert times[3] - times[1] >= 0.005
    assert "authorization" not in text.lower()
    assert upstream.token not in text
    assert upstream.host not in text
    assert to_text(from_text(text, "one.json")) == text


def test_a_replay_takes_the_recorded_time_where_it_is_asked_to(tmp_path: Path) -> None:
    data = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    request = {"method": "POST", "path": "/serving-endpoints/m/invocations"}
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"content-type": "text/event-stream"}
    events = [{"at": 0.2, "data": data}, {"at": 0.3, "data": "[DONE]"}]
    response = {"status": 200, "headers": headers, "seconds": 0.1, "events": events}
    file = tmp_path / "one.json"
    file.write_text(to_text(Recording([Interaction({**request, "body": body}, response)])))
    took = []
    for pace in (0.0, 1.0):
        began = time.monotonic()
        with recording(file, pace=pace), Client() as client:
            assert client.endpoint("m").stream_chat("hi").final().text == "x"
        took.append(time.monotonic() - began)
    assert took[1] >= 0.3


def test_errors_and_broken_streams_are_replayed_too(upstream: Scripted, tmp_path: Path) -> None:
    def run() -> list[str]:
        with Client(retry=Retry(attempts=1)) as client:
            said = []
            for _ in range(2):
                try:
                    said.append(client.endpoint("m").stream_chat("hi").final().text)
                except StreamInterruptedError as error:
                    said.append(f"cut after {error.partial_text!r}")
                except InternalServerError as error:
                    said.append(f"{error.status} {error.message.partition('.')[0]}")
        return said

    upstream.reply("one two three four", fault="stream_cut")
    upstream.error(500, "it broke")
    with recording(tmp_path / "one.json"):
        first = run()
    assert first == ["cut after 'one two '", "500 it broke"]
    with recording(tmp_path / "one.json", "replay"):
        assert run() == first


def test_a_request_that_does_not_fit_shows_the_nearest_and_the_difference(upstream: Scripted, tmp_path: Path) -> None:
    upstream.reply("ok", times=None)
    with recording(tmp_path / "one.json"), Client() as client:
        client.endpoint("m").chat("hello", temperature=0.5)
        client.endpoint("other").chat("something else")
    said = []

    def replay(prompt: str, times: int = 1, **params: Any) -> str:
        with recording(tmp_path / "one.json"), Client() as client:
            for _ in range(times):
                try:
                    client.endpoint("m").chat(prompt, **params)
                except APIStatusError as error:
                    said.append(error)
        return ""

    with pytest.raises(AssertionError) as caught:
        replay("hello!", temperature=0.5, max_tokens=3)
    for part in (
        "has no answer for POST /serving-endpoints/m/invocations. The nearest is its request 1, which differs in:",
        "  body.messages[0].content: recorded 'hello', sent 'hello!'",
        "  body.max_tokens: recorded nothing, sent 3",
        "record anew: delete the file",
        str(tmp_path / "one.json"),
    ):
        assert part in str(caught.value), part
    assert said[0].status == 418
    assert "recorded 'hello', sent 'hello!'" in said[0].message
    with pytest.raises(AssertionError, match="it was sent once when this was recorded, and once more now"):
        replay("hello", times=2, temperature=0.5)
    assert "The nearest is its request 1" in str(caught.value)


def test_files_and_modes_that_cannot_be_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(text: str | None, mode: Any = "once") -> None:
        file = tmp_path / "one.json"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        with recording(file, mode):
            pass

    for text, mode, match in (
        (None, "replay", "there is no recording .*one.json, and the mode `replay` makes none"),
        (None, "sometimes", "the mode of a recording is once, replay or none"),
        ("{", "once", r"one.json is not a recording \(JSONDecodeError: .*delete the file"),
        ('{"format": 1, "interactions": [{}]}', "once", "is not a recording"),
        ('{"format": 2}', "once", "has format 2, and this version of dbllm reads 1"),
        ("[]", "once", "is not a recording"),
    ):
        with pytest.raises(ValueError, match=match):
            enter(text, mode)
    with pytest.raises(AssertionError, match="nothing was recorded: no client of dbllm in this process"):
        enter(None, "once")
    with pytest.raises(ZeroDivisionError), recording(tmp_path / "two.json"):
        raise ZeroDivisionError  # an error of the test's own comes first


def test_a_file_that_a_hand_has_spoilt_says_where(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    request = {"method": "POST", "path": "/serving-endpoints/m/invocations", "body": {}}
    frame = {"data": {}, "at": 0}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"status": "x"}, "status must be an HTTP status, got 'x'"),
        ({"status": 900}, "status must be an HTTP status, got 900"),
        ({"status": 200, "headers": 5}, "AttributeError"),
        ({"status": 200, "headers": {"x-a": "1\r\nx-b: 2"}}, "the header x-a must be a text in one line"),
        ({"status": 200, "seconds": "soon"}, "seconds must be a number"),
        ({"status": 200, "events": 5}, "is not a recording"),
        ({"status": 200, "events": [{}]}, "is not a recording"),
        ({"status": 200, "events": [frame, {**frame, "at": "later"}]}, "at must be a number of seconds"),
        ({"status": 200, "base64": "abc"}, "is not a recording"),
    ]
    for spoilt, match in cases:
        file.write_text(json.dumps({"format": 1, "interactions": [{"request": request, "response": spoilt}]}))
        with pytest.raises(ValueError, match=match), recording(file):
            pass


def test_the_mode_none_leaves_everything_as_it_is(upstream: Scripted, tmp_path: Path) -> None:
    upstream.reply("from the workspace")
    with recording(tmp_path / "one.json", "none") as recorded, Client() as client:
        assert client.endpoint("m").chat("hi").text == "from the workspace"
        assert recorded.journal() == ""
    assert not (tmp_path / "one.json").exists()


def test_a_workspace_that_is_not_reached_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("DATABRICKS_TOKEN", "any-token")
    once = Retry(attempts=1)
    with (
        pytest.raises(AssertionError, match="nothing was recorded"),
        recording(tmp_path / "one.json"),
        Client(retry=once) as client,
        pytest.raises(APIConnectionError, match="no connection to"),
    ):
        client.endpoint("m").chat("hi")
    with recording(tmp_path / "one.json"):  # a client of others gets a sentence
        answer = httpx.post(f"{os.environ['DATABRICKS_HOST']}/serving-endpoints/chat/completions", json={})
        assert (answer.status_code, answer.text.partition(":")[0]) == (502, "no upstream")
    assert not (tmp_path / "one.json").exists()


NOWHERE = "https://nowhere.cloud.databricks.com"


class Place:
    """A workspace that only a client's own configuration names."""

    def __init__(self, host: str, file: Path) -> None:
        self.host, self.file = host, file
        self.others: list[Any] = []

    def make(self, way: str, kind: Any) -> Any:
        """A client, configured in this way."""
        if way == "profile":
            return kind(profile="prod")
        if way == "function":
            return kind(self.host, token=lambda: "a-token-of-the-function")
        if way == "oauth":
            return kind(self.host, client_id="an-id-of-mine", client_secret="a-secret-of-mine")
        other: dict[str, Any] = {}
        if way == "http client":
            self.others.append(httpx.AsyncClient() if kind is AsyncClient else httpx.Client())
            other = {"http_client": self.others[-1]}
        return kind(self.host, "a-token-of-the-argument", **other)


@pytest.fixture
def place(upstream: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CLUSTER_ID"):
        monkeypatch.delenv(name)
    config = tmp_path / "databrickscfg"
    config.write_text(f"[prod]\nhost = {upstream.host}\ntoken = a-token-of-the-profile\ncluster_id = c-1\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(config))
    return Place(upstream.host, tmp_path / "one.json")


@pytest.mark.parametrize("way", ["host", "profile", "function", "oauth", "http client"])
def test_a_client_is_recorded_however_it_is_configured_and_replayed_without_configuration(
    upstream: Scripted, place: Place, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for _ in range(2):
        upstream.reply("an app", endpoint="c-2:7777")
        upstream.reply("an agent", endpoint="my-agent")
        upstream.reply("in some pieces", when="stream")
        upstream.reply("whole", when="hi", endpoint="m")

    def plain() -> list[object]:
        with place.make(way, Client) as client:
            streamed = [chunk.text for chunk in client.endpoint("m").stream_chat("a stream")]
            app = client.driver_app(7777, "c-2").complete("hi")
            return [streamed, client.endpoint("m").chat("hi").text, app, client.agent("my-agent").respond("hi").text]

    async def in_a_loop() -> list[object]:
        async with place.make(way, AsyncClient) as client:
            streamed = [chunk.text async for chunk in client.endpoint("m").stream_chat("a stream")]
            app = await client.driver_app(7777, "c-2").complete("hi")
            agent = (await client.agent("my-agent").respond("hi")).text
            whole = (await client.endpoint("m").chat("hi")).text
        for other in place.others:
            await other.aclose() if isinstance(other, httpx.AsyncClient) else other.close()
        return [streamed, whole, app, agent]

    def run() -> list[object]:
        return [plain(), asyncio.run(in_a_loop())]

    with recording(place.file):
        first = run()
    assert first[0] == first[1]
    streamed, *others = first[0]  # type: ignore[misc]
    assert ("".join(streamed), others) == ("in some pieces", ["whole", "an app", "an agent"])
    calls = len(upstream.requests)
    monkeypatch.delenv("DATABRICKS_CONFIG_FILE")
    place.host = NOWHERE
    with recording(place.file, "replay"):
        assert run() == first
    assert len(upstream.requests) == calls
    text = place.file.read_text("utf-8")
    assert not re.search("of-the-argument|of-the-profile|of-the-function|of-mine|fault-server-token", text)


def test_clients_that_were_made_before_and_apps_by_their_address_are_replayed_too(place: Place) -> None:
    app = "my-agent-1.aws.databricksapps.com"
    request = {"app": app, "method": "POST", "path": "/api/invocations", "body": {"input": "*"}}
    answer = {"status": 200, "headers": {}, "body": {}}
    place.file.write_text(to_text(Recording([Interaction(request, answer)])))
    with (
        Client(NOWHERE, "a-token", retry=Retry(attempts=1)) as before,
        recording(place.file, "replay") as recorded,
        ExitStack() as stack,
    ):
        for client in (stack.enter_context(Client()), before):
            with pytest.raises(APIStatusError, match=r"The nearest is its request 1, which differs in") as caught:
                client.agent(url=f"https://{app}").respond("hi")
            assert "app" not in caught.value.message.partition("differs in")[2].replace("/api", "")
        with pytest.raises(APIStatusError, match="has no answer for POST /serving-endpoints/m/invocations"):
            before.endpoint("m").chat("hi")
        recorded._problems.clear()


def test_a_client_of_the_local_workspace_is_replayed_where_none_runs(
    upstream: Scripted, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.reply("local")
    found = local_workspace.LocalWorkspace(upstream.host, upstream.token, "c-9", 1)
    with monkeypatch.context() as running:
        running.setattr(local_workspace, "find_local_workspace", lambda *_: found)
        with recording(place.file), Client.local() as client:
            assert client.driver_app(8000, "c-9").complete("hi") == "local"
    with recording(place.file, "replay"), Client.local() as client:
        assert client.driver_app(8000, "c-9").complete("hi") == "local"


def test_a_clients_proxy_clock_and_limits_hold_in_a_recording_and_harm_no_replay(
    upstream: Scripted, place: Place
) -> None:
    """The proxy is the workspace itself: it answers requests whose target is a whole address."""
    upstream.reply("by the proxy")
    for mode, host in (("once", "http://localhost:9"), ("replay", NOWHERE)):
        with recording(place.file, mode) as recorded:  # type: ignore[arg-type]
            assert recorded.replays is (mode == "replay")
            with Client(host, "a-token", proxy=upstream.host, limits=Limits(concurrency=1)) as client:
                VirtualClock(seconds=1000).drive(client)
                assert client.endpoint("m").chat("hi").text == "by the proxy"
    assert len(upstream.calls) == 1


def test_answers_that_broke_are_recorded_and_break_again(upstream: Scripted, place: Place) -> None:
    def run() -> list[str]:
        said = []
        with Client(place.host, "a-token", retry=Retry(attempts=1)) as client:
            try:
                client.endpoint("m").chat("whole")
            except APIConnectionError as error:
                said.append(str(error.status))
            try:
                client.endpoint("m").stream_chat("a stream").final()
            except StreamInterruptedError as error:
                said.append(error.partial_text)
        return said

    upstream.reply("one two three four", fault="stream_cut", times=2)
    with recording(place.file):
        first = run()
    with recording(place.file, "replay"):
        assert run() == first
    assert (first[0], first[1][:4]) == ("200", "one ")


def test_clients_of_others_are_recorded_by_the_proxy_of_the_environment(
    upstream: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a workspace that only the proxy reaches."""
    monkeypatch.setenv("DATABRICKS_HOST", "http://workspace.invalid")
    monkeypatch.setenv("HTTP_PROXY", upstream.host)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    upstream.reply("one two", times=2)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

    def ask(**more: object) -> str:
        base = os.environ["DATABRICKS_HOST"]
        return httpx.post(f"{base}/serving-endpoints/chat/completions", json={**body, **more}, trust_env=False).text

    with recording(tmp_path / "one.json"):
        first = [ask(), ask(stream=True)]
    with recording(tmp_path / "one.json", "replay"):
        again = [ask(), ask(stream=True)]
    assert json.loads(again[0]) == json.loads(first[0])
    assert first[1].count("data: ") == again[1].count("data: ") == 5
    assert len(upstream.calls) == 2


def test_credentials_that_are_fetched_are_not_recorded(
    upstream: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "a-service-principal")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "the-secret-of-the-principal")
    upstream.reply("you are fault-server-token")  # the token that it was given, repeated by the model
    with recording(tmp_path / "one.json"), Client() as client:
        client.endpoint("m").chat("hi")
    text = (tmp_path / "one.json").read_text("utf-8")
    assert "/oidc/" not in text
    assert "fault-server-token" not in text
    assert "the-secret-of-the-principal" not in text
    with recording(tmp_path / "one.json", "replay"), Client() as client:
        assert client.endpoint("m").chat("hi").text == f"you are {HIDDEN}"


def test_tasks_at_once_get_their_own_answers_in_a_replay(upstream: Scripted, tmp_path: Path) -> None:
    for number in range(8):
        upstream.reply(f"answer {number}", when=f"question {number}", times=2)

    async def run() -> list[str]:
        async with AsyncClient() as client:
            replies = (client.endpoint("m").chat(f"question {number}") for number in [*range(8), *range(8)])
            return [reply.text for reply in await asyncio.gather(*replies)]

    with recording(tmp_path / "one.json"):
        first = asyncio.run(run())
    with recording(tmp_path / "one.json"):
        assert asyncio.run(run()) == first == [f"answer {number}" for number in [*range(8), *range(8)]]


# --- secrets ----------------------------------------------------------------------------------------------------------


def spellings(secret: str) -> list[str]:
    return [
        secret,
        quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode().rstrip("="),
        json.dumps(secret)[1:-1],
    ]


def test_no_planted_credential_is_in_a_recording(
    upstream: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stands: in the environment, a header, a request, an answer, or piece by piece in a stream."""
    plain = "a-quite-plain-password"  # no form gives it away
    monkeypatch.setenv("MY_SERVICE_PASSWORD", plain)
    planted = {**SECRETS, "environment": plain, "token": upstream.token, "own": "told to the recorder"}
    every = " and ".join(planted.values())
    upstream.reply(f"You said: {every}", headers={"x-request-id": planted["OpenAI"], "set-cookie": "id=c0okie-value"})
    upstream.reply(",".join(planted.values()))
    pieces = [SECRETS["Databricks"][place : place + 3] for place in range(0, 36, 3)]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in ["It is ", *pieces, " indeed"]]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    frames = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, end]) + "data: [DONE]\n\n"
    upstream.json(frames.encode(), headers={"content-type": "text/event-stream"}, endpoint="pieces")
    upstream.tool_call("login", {"user": "me", "password": "hunter2-hunter2"})
    upstream.error(400, f"you sent {every}")
    upstream.json({}, endpoint="/api/2.0/secrets/put")
    with recording(tmp_path / "one.json") as recorded, Client() as client:
        recorded.hide("told to the recorder")
        assert every in client.endpoint("m").chat(f"Repeat {every}").text
        client.endpoint("m").stream_chat(every).final()
        assert (
            client.endpoint("pieces").stream_chat("in pieces").final().text == f"It is {SECRETS['Databricks']} indeed"
        )
        client.endpoint("m").chat("tool", tools=[{"type": "function", "function": {"name": "login", "parameters": {}}}])
        with pytest.raises(APIStatusError):
            client.endpoint("m").chat("bad")
        client.secrets.put("scope", "key", "a value of a secret")
    text = (tmp_path / "one.json").read_text("utf-8")
    together = "".join(re.findall(r'"content": "((?:[^"\\]|\\.)*)"', text))
    more = ("hunter2-hunter2", "a value of a secret", "c0okie-value")
    hits = [name for name, secret in planted.items() for said in spellings(secret) if said in text or said in together]
    assert hits == [name for name in more if name in text] == []
    assert text.count(HIDDEN) > 20
    assert "You said: " in text
    assert '"It is [hidden] indeed"' in text
    with recording(tmp_path / "one.json"), Client() as client:  # what was hidden fits itself
        client.endpoint("m").chat(f"Repeat {every}")


def test_what_only_looks_like_a_secret_stays() -> None:
    kept = {
        "max_tokens": 5,
        "prompt": "The bearer of this letter has basic knowledge of secrets, tokens and passwords.",
        "openai_api_key": "{{secrets/scope/key}}",
        "secret_scope": "my-scope",
        "logprobs": {
            "content": [{"token": " Hello", "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -1}]}]
        },
        "usage": {"total_tokens": 3},
        "tools": [{"name": "login", "properties": {"password": {"type": "string"}}}],
        "url": "https://example.com/path?page_token=&q=x",
    }
    assert SecretRemover().value(kept) == kept


def test_names_that_say_secret_hide_what_stands_under_them() -> None:
    names = "token access_token client_secret openai_api_key openai_api_key_plaintext token_value string_value password"
    wrong = [name for name in names.split() if SecretRemover().value({name: "abc"}) != {name: HIDDEN}]
    assert wrong == []
    assert SecretRemover().value({"arguments": '{"api_key": "a\\"b", "x": 1}'}) == {
        "arguments": '{"api_key": "[hidden]", "x": 1}'
    }
    assert secrets_in_environment({"PATH": "/bin", "MY_API_KEY": "x", "GH_TOKEN": "y"}) == {"x", "y"}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_bodies_and_events_come_back_as_they_were() -> None:
    bodies = [b"", b'{"a": [1, "\xc3\xbc"]}', b'"text"', b"no json", b"\xff\x00", b'{"half": "\\ud800"}']
    for body in bodies:
        again = body_of(content_of(body))
        try:
            assert json.loads(again) == json.loads(body)
        except ValueError:
            assert again == body
    frames = [
        b'data: {"a":1}\n\n',
        b'id: 7\nevent: response.created\ndata: {"type": "x"}\n\n',
        b"data: [DONE]\n\n",
        b'data: "piece "\n\n',
        b": keep-alive\n\n",
        b"data: one\ndata: two\n\n",
        'data: {"a": "line\u2028separator"}\n\n'.encode(),
        b"retry: 10\ndata: {}\n\n",
    ]
    for frame in frames:
        again = frame_of(event_of(frame))
        assert again.replace(b" ", b"") == frame.replace(b" ", b""), frame
    interaction = Interaction(
        {"method": "GET", "path": "/"}, {"status": 200, "headers": {}, "body": {"half": "\ud800"}}
    )
    assert from_text(to_text(Recording([interaction])), "x").interactions[0].response == interaction.response
