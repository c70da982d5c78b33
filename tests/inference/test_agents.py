"""Agents on Databricks Apps: both wire formats, runs that outlive connections, and where the token may go."""

from __future__ import annotations

import json
import uuid
import weakref
from typing import Any

import httpx
import pytest
import respx
from support.loopback import STREAM_HEAD, Peer, chunk
from support.samples import sse

import dbllm

APP = "https://my-agent-123.aws.databricksapps.com"
OAUTH = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"
USER = [{"role": "user", "content": "hi"}]
TEXT = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
NOT_FOUND = {"detail": "Not Found"}
CALLS = "/api/invocations"
RUN = "5b91da03-5439-4a8d-b2ae-fab57b5505df"


def done(**fields: Any) -> dict[str, Any]:
    return {"id": RUN, "status": "completed", "output": {"output": [TEXT]}, **fields}


def event(number: int, text: str) -> bytes:
    data = json.dumps({"type": "response.output_text.delta", "item_id": "m", "delta": text})
    return f"id: {number}\nevent: message\ndata: {data}\n\n".encode()


@pytest.fixture
def app() -> Any:
    with respx.mock(base_url=APP, assert_all_called=False) as router:
        yield router


@pytest.fixture
def asking(make: Any) -> Any:
    return lambda **options: make(token=OAUTH, retry=dbllm.Retry(backoff=0), **options)


async def test_the_app_is_looked_up_once_and_called_with_an_id_of_the_clients(asking, wire, app):
    described = wire.get("/api/2.0/apps/my-agent").respond(json={"name": "my-agent", "url": APP})
    called = app.post(CALLS).respond(json=done())
    async with asking() as client:
        agent = client.agent("my-agent")
        for _ in range(2):
            reply = await agent.respond("hi", session_id="s")
            assert (reply.text, reply.id) == ("Hello", RUN)
        assert await client.agent("my-agent").complete("hi") == "Hello"
    assert described.call_count == 1
    bodies = [json.loads(call.request.content) for call in called.calls]
    assert bodies[0] == {"id": bodies[0]["id"], "input": USER, "session_id": "s"}
    assert len({str(uuid.UUID(body["id"])) for body in bodies}) == 3
    assert called.calls[0].request.headers["authorization"] == f"Bearer {OAUTH}"


@pytest.mark.parametrize(
    "output",
    [{"output": [TEXT]}, [TEXT], "Hello", ["Hello"], {"role": "assistant", "content": "Hello"}],
    ids=["a response", "items", "a text", "texts", "a message"],
)
async def test_whatever_an_agent_returns_is_a_response(asking, app, output):
    app.post(CALLS).respond(json=done(output=output))
    async with asking() as client:
        assert (await client.agent(url=APP).respond("hi")).text == "Hello"


@pytest.mark.parametrize("failure", [502, 504, httpx.ReadError("cut"), httpx.ReadTimeout("late")], ids=str)
async def test_a_post_with_an_id_is_sent_again_after_any_failure_as_the_same_run(asking, app, failure):
    again = httpx.Response(failure) if isinstance(failure, int) else failure
    called = app.post(CALLS).mock(side_effect=[again, httpx.Response(200, json=done())])
    async with asking() as client:
        assert (await client.agent(url=APP).respond("hi")).attempts == 2
    assert called.calls[0].request.content == called.calls[1].request.content


async def test_the_older_format_is_learned_once_and_its_posts_are_not_repeated(asking, app):
    newer = app.post(CALLS).respond(404, json=NOT_FOUND)
    older = app.post("/responses").respond(json={"object": "response", "output": [TEXT]})
    async with asking() as client:
        agent = client.agent(url=APP)
        for _ in range(2):
            reply = await agent.respond("hi", custom_inputs={"a": 1}, max_output_tokens=5)
            assert reply.text == "Hello"
        assert newer.call_count <= 1
        assert json.loads(older.calls.last.request.content) == {
            "input": USER,
            "custom_inputs": {"a": 1},
            "max_output_tokens": 5,
        }
        assert await client.agent(url=APP + "/").complete("hi") == "Hello"
        older.mock(side_effect=httpx.ReadError("cut"))
        before = older.call_count
        with pytest.raises(dbllm.APIConnectionError):
            await agent.respond("hi")
    assert older.call_count == before + 1


async def test_what_an_invocation_has_no_place_for_is_refused_before_it_is_sent(asking, app):
    called = app.post(CALLS).respond(json=done())
    async with asking() as client:
        agent = client.agent(url=APP)
        await agent.respond("hi")
        for options in ({"temperature": 1}, {"custom_inputs": {}}):
            with pytest.raises(dbllm.ConfigError, match=f"takes no {next(iter(options))}"):
                await agent.respond("hi", **options)
    assert called.call_count == 1


async def test_a_run_is_started_watched_awaited_and_taken_up_again(asking, app):
    started = app.post(CALLS).mock(
        side_effect=lambda request: httpx.Response(202, json={**json.loads(request.content), "status": "queued"})
    )
    states = [{"status": "queued"}, {"status": "active"}, {"status": "active"}, done(), done()]
    app.get(f"{CALLS}/{RUN}").mock(side_effect=[httpx.Response(200, json=state) for state in states])
    async with asking() as client:
        agent = client.agent(url=APP)
        run = await agent.start("hi", id=RUN.upper())
        assert run.id == RUN
        assert json.loads(started.calls[0].request.content) == {"id": RUN, "input": USER, "background": True}
        assert await run.status() == "queued"
        assert (await run.result()).text == "Hello"
        assert await agent.run(RUN).status() == "completed"


async def test_a_run_that_takes_too_long_goes_on_and_one_that_failed_says_why(asking, app, clock):
    app.post(CALLS).respond(202, json={"id": RUN, "status": "queued"})
    state = app.get(f"{CALLS}/{RUN}").respond(json={"id": RUN, "status": "active"})
    async with asking() as client:
        clock.on(client)
        run = await client.agent(url=APP).start("hi", id=RUN)
        with pytest.raises(dbllm.APITimeoutError, match=r"has not ended in time: it is active.*It goes on"):
            await run.result(timeout=20)
        assert clock.waits[:3] == [0.25, 0.5, 1.0]
        state.respond(json={"id": RUN, "status": "failed", "error": "agent invocation failed"})
        with pytest.raises(dbllm.APIError, match="the agent failed: agent invocation failed"):
            await run.result()
        state.respond(404, json={"detail": "invocation not found"})
        with pytest.raises(dbllm.NotFoundError, match="knows no run"):
            await run.status()


async def test_an_id_that_was_used_for_another_request_and_one_that_is_no_uuid(asking, app):
    app.post(CALLS).respond(409, json={"detail": "id was already used for another request"})
    async with asking() as client:
        agent = client.agent(url=APP)
        with pytest.raises(dbllm.ConflictError, match="leave out id=, or take the run that has it"):
            await agent.start("hi", id=RUN)
        for wrong in ("my-run", "", 5):
            with pytest.raises(ValueError, match="must be a UUID"):
                await agent.start("hi", id=wrong)
        with pytest.raises(ValueError, match="cursor of an earlier stream"):
            agent.run(RUN).events(after=-1)


async def test_a_cursor_that_is_too_old_says_what_to_do(asking, app):
    app.get(f"{CALLS}/{RUN}").respond(json=done())
    app.get(f"{CALLS}/{RUN}/events").respond(410, json={"detail": "events before 7 are gone"})
    async with asking() as client:
        with pytest.raises(dbllm.APIStatusError, match=r"events before 7 are gone.*without after="):
            async with client.agent(url=APP).run(RUN).events(after=3) as stream:
                await stream.final()


async def test_a_cursor_behind_the_last_event_of_a_run_that_has_ended_gives_no_event_and_the_response(asking, app):
    app.get(f"{CALLS}/{RUN}").respond(json=done())
    app.get(f"{CALLS}/{RUN}/events").mock(side_effect=lambda _: sse())
    async with asking() as client:
        for after in (58, 1_000_000):
            async with client.agent(url=APP).run(RUN).events(after=after) as stream:
                assert [chunk async for chunk in stream] == []
                assert (await stream.final()).text == "Hello"
                assert stream.cursor == after


async def test_a_cursor_behind_the_last_event_of_the_older_format_gives_the_response_too(asking, app):
    whole = {"id": "resp_1", "status": "completed", "output": [TEXT]}
    app.get("/responses/resp_1").mock(
        side_effect=lambda request: sse("[DONE]") if "stream" in request.url.params else httpx.Response(200, json=whole)
    )
    async with asking() as client, client.agent(url=APP).run("resp_1").events(after=58) as stream:
        assert [chunk async for chunk in stream] == []
        assert (await stream.final()).text == "Hello"


async def test_a_cursor_behind_the_last_event_of_a_run_that_goes_on_waits_for_the_next(asking, app, clock):
    app.get(f"{CALLS}/{RUN}").respond(json={"id": RUN, "status": "active"})
    later = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=event(59, "more"))
    app.get(f"{CALLS}/{RUN}/events").mock(side_effect=[sse(), sse(), later])
    async with asking() as client:
        clock.on(client)
        async with client.agent(url=APP).run(RUN).events(after=58) as stream:
            async for piece in stream:
                assert (piece.text, stream.cursor) == ("more", 59)
                break
        assert clock.waits == [0.25, 0.5]


async def test_a_cursor_behind_the_last_event_of_a_run_that_failed_says_why(asking, app):
    app.get(f"{CALLS}/{RUN}").respond(json={"id": RUN, "status": "failed", "error": "no such tool"})
    app.get(f"{CALLS}/{RUN}/events").mock(side_effect=lambda _: sse())
    async with asking() as client:
        with pytest.raises(dbllm.StreamInterruptedError, match="run is failed: no such tool"):
            async with client.agent(url=APP).run(RUN).events(after=58):
                pass


async def test_a_run_that_the_app_does_not_know_is_named(asking, app):
    app.get(f"{CALLS}/{RUN}").respond(json=done())
    app.get(f"{CALLS}/{RUN}/events").respond(404, json={"detail": "invocation not found"})
    async with asking() as client:
        with pytest.raises(dbllm.NotFoundError, match=f"knows no run '{RUN}', or knows it no longer"):
            async with client.agent(url=APP).run(RUN).events():
                pass


async def test_a_run_whose_id_is_no_uuid_is_one_of_the_older_format_whatever_else_the_app_speaks(asking, app):
    newer = app.post(CALLS).respond(json=done())
    app.get("/responses/resp_1").respond(json={"id": "resp_1", "status": "in_progress"})
    async with asking() as client:
        agent = client.agent(url=APP)
        assert await agent.run("resp_1").status() == "in_progress"
        await agent.respond("hi")
        assert await agent.run("resp_1").status() == "in_progress"
        await agent.respond("hi")
    assert newer.call_count == 2


async def test_an_id_that_no_path_can_have_is_refused_before_anything_is_sent(asking, app):
    async with asking() as client:
        for wrong in ("..", ".", "\ud800"):
            with pytest.raises(dbllm.ConfigError, match="a run needs a name"):
                await client.agent(url=APP).run(wrong).status()
    assert not app.calls


async def test_what_agents_have_not_is_refused_with_what_there_is_instead(asking, app):
    async with asking() as client:
        agent, endpoint = client.agent(url=APP), client.endpoint("agent")
        for call in (agent.respond, agent.complete, agent.start, endpoint.respond):
            with pytest.raises(TypeError, match=r"respond\(\) has no stop=: .* cut the text yourself"):
                await call("hi", stop=["."])
        for call in (agent.respond, agent.complete, agent.start):
            with pytest.raises(TypeError, match=r"the client's tags: .*with_options\(tags="):
                await call("hi", tags={"a": "b"})
    assert not app.calls


async def test_runs_of_the_older_format_have_the_ids_of_the_app_and_can_be_cancelled(asking, app):
    app.post(CALLS).respond(405, json={"detail": "Method Not Allowed"})
    app.post("/responses").respond(json={"id": "resp_1", "status": "in_progress", "output": []})
    app.get("/responses/resp_1").mock(
        side_effect=lambda request: (
            sse({"type": "response.output_text.delta", "delta": "Hel", "sequence_number": 0}, "[DONE]")
            if "stream" in request.url.params
            else httpx.Response(200, json={"id": "resp_1", "status": "in_progress"})
        )
    )
    cancelled = app.post("/responses/resp_1/cancel").respond(json={"id": "resp_1", "status": "cancelled"})
    async with asking() as client:
        run = await client.agent(url=APP).start("hi")
        assert (run.id, await run.status()) == ("resp_1", "in_progress")
        async with run.events() as stream:
            assert (await stream.final()).text == "Hel"
            assert stream.cursor == 0
        assert await run.cancel() == "cancelled"
    assert cancelled.called


async def test_an_app_that_cannot_cancel_says_so(asking, app):
    app.get(f"{CALLS}/{RUN}").respond(json={"id": RUN, "status": "active"})
    app.post(f"{CALLS}/{RUN}/cancel").respond(404, json=NOT_FOUND)
    async with asking() as client:
        with pytest.raises(dbllm.NotFoundError, match="cannot cancel"):
            await client.agent(url=APP).run(RUN).cancel()


# --- streams that are cut ---------------------------------------------------------------------------------------------


class Cutting:
    """An app whose connections are killed after every two events; its run has `of` events."""

    def __init__(self, of: int, doubled: bool = False) -> None:
        self.of, self.doubled, self.asked = of, doubled, [0][:0]
        self.posts = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            path = request.line.split()[1]
            if path.endswith(CALLS):
                self.posts += 1
                after = 0
            elif "/events?after=" in path:
                after = int(path.partition("after=")[2])
                self.asked.append(after)
            else:
                peer.answer(done(output=None))
                continue
            peer.send(STREAM_HEAD)
            for number in range(max(1, after + 1 - self.doubled), min(after + 2, self.of) + 1):
                peer.send(chunk(event(number, f"{number} ")))
            if after + 2 < self.of:
                peer.reset()
                return
            peer.send(b"0\r\n\r\n")


@pytest.mark.parametrize("doubled", [False, True], ids=["exact", "an event again after each break"])
async def test_a_run_that_is_cut_ten_times_gives_each_event_once(make, serve, doubled):
    script = Cutting(22, doubled)
    server = serve(script)
    async with make(server.host, OAUTH, retry=dbllm.Retry(backoff=0)) as client:
        other = serve(script)
        async with client.agent(url=other.host).stream_respond("hi") as stream:
            texts = [chunk.text async for chunk in stream]
            assert stream.cursor == 22
            assert (await stream.final()).text == "".join(texts)
    assert texts == [f"{number} " for number in range(1, 23)]
    assert script.posts == 1
    assert script.asked == list(range(2, 22, 2))


async def test_events_behind_a_cursor_go_on_from_there(make, serve):
    server, script = serve(), Cutting(9)
    app = serve(script)
    async with (
        make(server.host, OAUTH, retry=dbllm.Retry(backoff=0)) as client,
        client.agent(url=app.host).run(RUN).events(after=4) as stream,
    ):
        assert [chunk.text async for chunk in stream] == ["5 ", "6 ", "7 ", "8 ", "9 "]


# --- where the token may go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://my-agent.aws.databricksapps.com",
        "https://databricksapps.com",
        "https://my-agent.databricksapps.com.evil.example",
        "https://evildatabricksapps.com",
        "https://my-agent.aws.databricksapps.com@evil.example",
        "https://user:pw@my-agent.aws.databricksapps.com",
        "https://evil.example/my-agent.aws.databricksapps.com",
        "https://my-agent.aws.databricksapps.com:8443",
        "https://my-agent.aws.databricksapps.com/api/invocations",
        "http://127.0.0.1:8000",
        "ftp://my-agent.aws.databricksapps.com",
        "https://.databricksapps.com",
        "https://my-agent..databricksapps.com",
        "",
    ],
)
async def test_the_token_goes_to_no_address_that_is_not_databricks_apps(asking, wire, url):
    wire.get("/api/2.0/apps/evil").respond(json={"name": "evil", "url": url or "x"})
    async with asking() as client:
        with pytest.raises(dbllm.ConfigError, match="url"):
            client.agent(url=url)
        with pytest.raises(dbllm.ConfigError, match="url"):  # nor where the workspace itself says so
            await client.agent("evil").respond("hi")


async def test_an_address_that_is_no_apps_is_told_in_terms_of_apps(asking):
    said = {
        "http://my-agent.aws.databricksapps.com": "use https://my-agent.aws.databricksapps.com: it looks like",
        "https://evil.example/x": "has a path or a query; give only the part before it: it looks like",
        "https://user:pw@my-agent.aws.databricksapps.com": "give the address alone|before an @",
        "ftp://my-agent.aws.databricksapps.com": "is no address of an app, for it begins with ftp://.*: it looks like",
    }
    async with asking() as client:
        for url, words in said.items():
            with pytest.raises(dbllm.ConfigError, match=words) as caught:
                client.agent(url=url)
            assert "workspace" not in str(caught.value)
            assert "DATABRICKS_TOKEN" not in str(caught.value)


async def test_a_personal_access_token_is_refused_before_anything_is_sent(make, wire, app, mode):
    async def slow() -> str:
        return "dapi0123456789abcdef"

    tokens = ["dapi0123456789abcdef", lambda: "dapi0123456789abcdef", *([] if mode == "sync" else [slow])]
    for token in tokens:
        async with make(token=token) as client:
            for agent in (client.agent("my-agent"), client.agent(url=APP)):
                with pytest.raises(dbllm.ConfigError, match=r"personal access token.*OAuth alone") as caught:
                    await agent.respond("hi")
                assert "0123456789abcdef" not in str(caught.value)
    assert not wire.calls
    assert not app.calls


async def test_an_agent_has_a_name_or_a_url(asking):
    async with asking() as client:
        for options in ({}, {"name": "a", "url": APP}):
            with pytest.raises(dbllm.ConfigError, match="either its name or its url="):
                client.agent(**options)
        with pytest.raises(dbllm.ConfigError, match="needs a name"):
            client.agent(" ")


async def test_an_app_that_is_not_there_names_those_that_are(asking, wire):
    wire.get("/api/2.0/apps/my-agnt").respond(404, json={"error_code": "NOT_FOUND", "message": "no app"})
    wire.get("/api/2.0/apps").respond(json={"apps": [{"name": "my-agent"}]})
    async with asking() as client:
        with pytest.raises(dbllm.NotFoundError, match="Did you mean 'my-agent'"):
            await client.agent("my-agnt").respond("hi")


async def test_an_app_that_lets_nobody_in_says_which_permission_is_missing(asking, app):
    app.post(CALLS).respond(302, headers={"location": "https://workspace.example.com/login?next=x"})
    async with asking() as client:
        with pytest.raises(dbllm.APIStatusError, match="CAN_USE"):
            await client.agent(url=APP).respond("hi")


async def test_a_stream_that_is_dropped_is_gone_at_once(make):
    """In a cycle it would wait for the collector, which closes the sockets in one first, with a warning."""
    async with make("https://ws") as client:
        endpoint, agent = client.endpoint("m"), client.agent("a")
        streams = {
            "chat": lambda: endpoint.stream_chat("x"),
            "respond": lambda: endpoint.stream_respond("x"),
            "complete": lambda: endpoint.stream_complete("x"),
            "app": lambda: client.driver_app(7777, "c").stream_complete("x"),
            "agent": lambda: agent.stream_respond("x"),
            "run": lambda: agent.run("r").events(),
        }
        kept = []
        for name, made in streams.items():
            stream = made()
            known = weakref.ref(stream), weakref.ref(getattr(stream, "_core", stream))
            del stream
            kept += [name] if any(each() is not None for each in known) else []
        assert kept == []
