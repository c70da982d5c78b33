"""Recordings: what was sent and received comes back as it was, without secrets, and a request that is new is shown."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dbllm import APIStatusError, AsyncClient, Client, InternalServerError, Retry, StreamInterruptedError
from dbllm.testing import Scripted, recording
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
def upstream(scripted: Scripted) -> Scripted:
    """The workspace that is recorded: the environment names it."""
    return scripted


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
        (None, "once", "there is nothing to record: set DATABRICKS_HOST"),
        (None, "sometimes", "the mode of a recording is once, replay or none"),
        ("{", "once", r"one.json is not a recording \(JSONDecodeError: .*delete the file"),
        ('{"format": 1, "interactions": [{}]}', "once", "is not a recording"),
        ('{"format": 2}', "once", "has format 2, and this version of dbllm reads 1"),
        ("[]", "once", "is not a recording"),
    ):
        with pytest.raises(ValueError, match=match):
            enter(text, mode)


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
        recording(tmp_path / "one.json"),
        Client(retry=once) as client,
        pytest.raises(InternalServerError, match="no upstream"),
    ):
        client.endpoint("m").chat("hi")
    assert not (tmp_path / "one.json").exists()


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
