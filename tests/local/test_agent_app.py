"""The agent's app: runs that an id makes repeatable, events that can be read again, and the older wire of responses."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.plane import OWNER, ServedPlane

from dbllm.local.model.llama import Engine

HELLO = [{"role": "user", "content": "hello"}]
SHORT = {"input": HELLO, "max_output_tokens": 6}


@pytest.fixture(scope="module")
def plane(engine: Engine) -> Iterator[ServedPlane]:
    with ServedPlane(engine) as plane:
        yield plane


@pytest.fixture(scope="module")
def app(plane: ServedPlane) -> Iterator[httpx.Client]:
    """A caller of the app, which it found by its name."""
    token = plane.login("job")
    url = plane.do("GET", "/api/2.0/apps/smollm2-agent", token=token)["url"]
    with httpx.Client(
        base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60, trust_env=False
    ) as client:
        yield client


def invocation(**more: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "input": SHORT, **more}


def frames(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    """The events of the first wire: cursor, type and data."""
    read = []
    for frame in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        read.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return read


def data(text: str) -> list[dict[str, Any]]:
    """The events of the older wire, without the last `[DONE]`."""
    *events, last, end = text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text_of(response: dict[str, Any]) -> str:
    return str(response["output"][0]["content"][0]["text"])


def test_the_app_is_at_an_origin_of_its_own_and_takes_no_personal_access_token(plane: ServedPlane) -> None:
    (listed,) = plane.do("GET", "/api/2.0/apps")["apps"]
    assert listed["url"] == plane.origins.agent_app != plane.host
    assert listed["app_status"]["state"] == "RUNNING"
    assert plane.refused("GET", "/api/2.0/apps/none")[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    url = f"{listed['url']}/api/invocations"
    ada = plane.somebody("ada@example.com")
    for token, status in ((OWNER, 401), (ada, 401), ("dapi-nobody", 403)):
        answer = httpx.post(url, json=invocation(), headers={"authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == status, answer.text
    assert httpx.post(url, json=invocation(), trust_env=False).status_code == 401
    assert plane.refused("POST", "/api/invocations", invocation())[:2] == (404, "ENDPOINT_NOT_FOUND")


def test_a_repeated_id_is_the_same_run_and_another_request_with_it_is_a_conflict(app: httpx.Client) -> None:
    asked = invocation(session_id="s")
    first = app.post("/api/invocations", json=asked).json()
    assert (first["id"], first["status"]) == (asked["id"], "completed")
    assert text_of(first["output"])
    assert app.post("/api/invocations", json=asked).json() == first
    assert app.post("/api/invocations", json={**asked, "background": True}).json()["status"] == "completed"
    for other in ({"session_id": "t"}, {"session_id": None}, {"input": HELLO}):
        answer = app.post("/api/invocations", json={**asked, **other})
        assert (answer.status_code, answer.json()) == (409, {"detail": "id was already used for another request"})


def test_work_in_the_background_is_followed_from_any_cursor_without_a_gap(app: httpx.Client) -> None:
    asked = invocation(background=True, stream=True)
    accepted = app.post("/api/invocations", json=asked)
    assert accepted.status_code == 202
    assert accepted.json()["status"] in ("queued", "active")
    assert "events_url" not in app.post("/api/invocations", json=invocation(background=True)).json()
    seen: list[tuple[int, str, dict[str, Any]]] = []
    events = accepted.json()["events_url"]
    for wanted in (1, 3):  # two readers that go away in the middle
        with app.stream("GET", events, params={"after": len(seen)}) as answer:
            read = ""
            for part in answer.iter_text():
                read += part
                if read.count("\n\n") >= wanted:
                    break
        seen += frames(read.rpartition("\n\n")[0] + "\n\n")
    seen += frames(app.get(events, params={"after": len(seen)}).text)
    assert [cursor for cursor, _, _ in seen] == list(range(1, len(seen) + 1))
    assert [kind for _, kind, _ in seen] == [event["type"] for _, _, event in seen]
    whole = app.get(accepted.json()["status_url"]).json()
    assert whole["status"] == "completed"
    deltas = (event["delta"] for _, kind, event in seen if kind == "response.output_text.delta")
    assert "".join(deltas) == text_of(whole["output"])
    assert seen[-1][2]["response"] == whole["output"]
    assert app.get(events, params={"after": len(seen)}).text == ""
    assert frames(app.get(events).text) == seen
    assert frames(app.post("/api/invocations", json={**asked, "background": False}).text) == seen


def test_what_the_app_cannot_read_is_said_in_its_frameworks_words(app: httpx.Client) -> None:
    def refused(body: object) -> tuple[int, str, list[Any]]:
        answer = app.post("/api/invocations", json=body)
        (detail,) = answer.json()["detail"]
        return answer.status_code, detail["type"], detail["loc"]

    assert refused(invocation(custom_inputs={})) == (422, "extra_forbidden", ["body", "custom_inputs"])
    assert refused({"input": HELLO}) == (422, "missing", ["body", "id"])
    assert refused({"id": "x"}) == (422, "uuid_parsing", ["body", "id"])
    assert refused(invocation(session_id="")) == (422, "string_too_short", ["body", "session_id"])
    assert app.post("/api/invocations", content=b"{").json()["detail"][0]["type"] == "json_invalid"
    one = f"/api/invocations/{uuid.uuid4()}"
    assert (app.get(one).status_code, app.get(one).json()) == (404, {"detail": "invocation not found"})
    assert app.get(f"{one}/events").status_code == 404
    assert app.get("/api/invocations/x").status_code == 422
    asked = invocation(background=True)
    app.post("/api/invocations", json=asked)
    assert app.get(f"/api/invocations/{asked['id']}/events?after=x").status_code == 422
    assert app.get("/nothing").json() == {"detail": "Not Found"}


def test_a_run_that_fails_says_so_on_every_way(app: httpx.Client) -> None:
    asked = invocation(input=[{"role": "user", "content": [{"type": "input_image"}]}])
    answer = app.post("/api/invocations", json=asked)
    assert answer.status_code == 500
    assert answer.json()["detail"].startswith("agent invocation failed")
    state = app.get(f"/api/invocations/{asked['id']}").json()
    assert (state["status"], state["error"]) == ("failed", answer.json()["detail"])
    assert app.get(f"/api/invocations/{asked['id']}/events").text == ""


def test_the_older_wire_answers_whole_streamed_and_in_the_background(app: httpx.Client) -> None:
    for path in ("/responses", "/invocations"):
        whole = app.post(path, json=SHORT).json()
        assert (whole["object"], whole["status"]) == ("response", "incomplete")
        assert text_of(whole)
    streamed = data(app.post("/responses", json={**SHORT, "stream": True}).text)
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    assert streamed[-1]["response"]["id"] == streamed[0]["response_id"]
    started = app.post("/responses", json={**SHORT, "background": True}).json()
    assert (started["status"], started["output"]) == ("in_progress", [])
    one = f"/responses/{started['id']}"
    events = data(app.get(one, params={"stream": "true"}).text)
    assert events[-1]["type"] == "response.incomplete"
    later = data(app.get(one, params={"stream": "true", "starting_after": 4}).text)
    assert later == [event for event in events if event["sequence_number"] > 4]
    assert data(app.get(one, params={"stream": "true", "starting_after": 0}).text) == events
    assert app.get(one).json() == events[-1]["response"]


def test_a_response_in_the_background_can_be_cancelled_and_then_stays_so(app: httpx.Client) -> None:
    long = {"input": [{"role": "user", "content": "Tell a very long story."}], "max_output_tokens": 500}
    one = f"/responses/{app.post('/responses', json={**long, 'background': True}).json()['id']}"
    with app.stream("GET", one, params={"stream": "true"}) as answer:
        parts = answer.iter_text()
        read = next(parts)
        assert app.post(f"{one}/cancel").json()["status"] == "cancelled"
        read += "".join(parts)
    assert data(read)[-1]["type"] == "response.cancelled"
    assert app.get(one).json()["status"] == "cancelled"
    done = app.post("/responses", json={**SHORT, "background": True, "stream": True})
    finished = f"/responses/{data(done.text)[0]['response_id']}"
    assert app.post(f"{finished}/cancel").json()["status"] == "incomplete"
    assert app.post("/responses/resp_none/cancel").json() == {"detail": "Response not found"}
    assert app.get("/responses/resp_none").status_code == 404


def test_what_the_older_wire_refuses(app: httpx.Client) -> None:
    started = app.post("/responses", json={**SHORT, "background": True}).json()["id"]
    for method, path, options, status, words in (
        ("POST", "/responses", {"content": b"{"}, 400, "Invalid JSON"),
        (
            "POST",
            "/responses",
            {"json": {}},
            400,
            "Invalid parameters for ResponsesAgent: missing required field 'input'",
        ),
        ("GET", f"/responses/{started}?starting_after=3", {}, 400, "only supported when stream=true"),
        ("GET", f"/responses/{started}?stream=true&starting_after=-1", {}, 422, "greater than or equal"),
    ):
        answer = app.request(method, path, **options)  # type: ignore[arg-type]
        assert answer.status_code == status, answer.text
        assert words in answer.text


def test_a_run_outlives_connections_that_are_cut_again_and_again(plane: ServedPlane, app: httpx.Client) -> None:
    plane.do("PUT", "/api/local/faults", {"endpoint": "apps/smollm2-agent", "cut": 1, "seed": 3})
    seen: list[int] = []
    try:
        asked = invocation(stream=True, input={**SHORT, "max_output_tokens": 24})
        path, params, cuts = "/api/invocations", {}, 0
        while not seen or cuts < 50:
            request = app.build_request("GET" if seen else "POST", path, params=params, json=None if seen else asked)
            try:
                answer = app.send(request, stream=True)
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        seen.append(int(line.removeprefix("id: ")))
                break
            except httpx.RemoteProtocolError:
                cuts += 1
                path, params = f"/api/invocations/{asked['id']}/events", {"after": seen[-1]}
            finally:
                answer.close()
        assert cuts >= 5
    finally:
        plane.do("DELETE", "/api/local/faults", {"endpoint": "apps/smollm2-agent"})
    seen += [cursor for cursor, _, _ in frames(app.get(path, params={"after": seen[-1]}).text)]
    assert seen == list(range(1, len(seen) + 1))
    assert app.get(f"/api/invocations/{asked['id']}").json()["status"] == "completed"
