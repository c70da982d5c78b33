"""Faults on demand, around real answers on a socket."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dbllm.local import LocalError
from dbllm.local.http.asgi import EventStream
from dbllm.local.http.middleware import ErrorMiddleware
from dbllm.local.http.server import WebServer, listen
from dbllm.local.invocation.faults import MAX_EVENTS, Fault, Faults, parse_fault, plan, read_fault


class Workspace:
    """Two endpoints with faults: /stream counts until its client goes away, any other answers once."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.calls = 0
        self.length = 10
        self.ended = threading.Event()
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()
        name = scope["path"].strip("/")

        async def answer() -> Response:
            self.calls += 1
            return EventStream(self.count) if name == "stream" else JSONResponse({"text": "x" * 100})

        response = await self.faults.around(name, request, answer)
        await response(scope, receive, send)

    async def count(self, emit: Callable[[object], Awaitable[None]]) -> None:
        try:
            for number in range(self.length):
                await emit(number)
                await asyncio.sleep(0)
        finally:
            self.ended.set()


@pytest.fixture(scope="module")
def app() -> Iterator[Workspace]:
    made = Workspace()
    sock = listen("127.0.0.1", 0, hint="")
    server = WebServer(ErrorMiddleware(made), sock)
    server.start()
    made.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    yield made
    server.stop()


@contextmanager
def wrong(app: Workspace, name: str, fault: Fault) -> Iterator[httpx.Client]:
    app.faults.set(name, fault)
    app.ended.clear()
    with httpx.Client(base_url=app.url, trust_env=False, timeout=20) as http:
        yield http
    app.faults.set(name, None)


def test_without_a_fault_nothing_is_different(app: Workspace) -> None:
    with httpx.Client(base_url=app.url, trust_env=False) as http:
        assert http.post("/chat").json() == {"text": "x" * 100}
        assert http.post("/stream").text.endswith("data: 9\n\ndata: [DONE]\n\n")


def test_a_share_of_the_calls_is_refused_before_a_model_is_asked(app: Workspace) -> None:
    before = app.calls
    with wrong(app, "chat", Fault(statuses={429: 0.3, 503: 0.2}, retry_after=7, seed=1)) as http:
        answers = [http.post("/chat") for _ in range(60)]
    counts = {status: sum(answer.status_code == status for answer in answers) for status in (200, 429, 503)}
    assert sum(counts.values()) == 60
    assert min(counts.values()) > 3
    assert app.calls - before == counts[200]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "7"
    assert refused.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"


def test_the_same_seed_hits_the_same_calls_and_another_one_others(app: Workspace) -> None:
    def statuses(seed: int) -> list[int]:
        with wrong(app, "chat", Fault(statuses={500: 0.5}, seed=seed)) as http:
            return [http.post("/chat").status_code for _ in range(20)]

    assert statuses(3) == statuses(3)
    assert statuses(3) != statuses(4)


def test_one_endpoint_may_stand_for_every_other(app: Workspace) -> None:
    with wrong(app, "*", Fault(statuses={500: 1})) as http, wrong(app, "chat", Fault()) as again:
        assert again.post("/chat").status_code == 200
        assert http.post("/anything").status_code == 500


def test_latency_and_a_cold_start_make_calls_wait(app: Workspace) -> None:
    def took(fault: Fault, calls: int = 1) -> list[float]:
        with wrong(app, "chat", fault) as http:
            began, ends = time.monotonic(), list[float]()
            for _ in range(calls):
                assert http.post("/chat").status_code == 200
                ends.append(time.monotonic() - began)
            return ends

    [late] = took(Fault(latency=0.2))
    assert late >= 0.2
    first, second = took(Fault(cold_start=0.3), calls=2)
    assert first >= 0.3
    assert second - first < 0.3


def test_who_waits_for_a_late_answer_and_goes_is_let_go(app: Workspace) -> None:
    before = app.calls
    with wrong(app, "chat", Fault(latency=5)) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/chat", timeout=0.2)
    assert app.calls == before


def test_a_cut_answer_ends_in_its_middle(app: Workspace) -> None:
    with wrong(app, "chat", Fault(cut=1)) as http, pytest.raises(httpx.RemoteProtocolError):
        http.post("/chat")


def test_a_cut_stream_ends_after_some_events_and_its_model_is_stopped(app: Workspace) -> None:
    app.length = 10**9
    with wrong(app, "stream", Fault(cut=1)) as http:
        seen: list[str] = []
        with pytest.raises(httpx.RemoteProtocolError), http.stream("POST", "/stream") as answer:
            seen.extend(line for line in answer.iter_lines() if line)
        assert 1 <= len(seen) <= MAX_EVENTS
        assert seen == [f"data: {number}" for number in range(len(seen))]
        assert app.ended.wait(10), "the stream's maker was not stopped"
    app.length = 10


def test_an_error_frame_ends_a_stream_and_leaves_other_answers_alone(app: Workspace) -> None:
    with wrong(app, "stream", Fault(error_frame=1)) as http:
        *_, error, done = (line for line in http.post("/stream").text.split("\n\n") if line)
        assert "An injected fault ended this stream" in error
        assert done == "data: [DONE]"
    with wrong(app, "chat", Fault(error_frame=1)) as http:
        assert http.post("/chat").status_code == 200


def test_shares_are_drawn_independently_of_each_other() -> None:
    def drawn(fault: Fault) -> list[bool]:
        draw = random.Random(0)
        return [plan(fault, draw).ending == "cut" for _ in range(100)]

    assert drawn(Fault(cut=0.5)) == drawn(Fault(cut=0.5, statuses={500: 0.5}, latency=1))
    assert 30 < sum(drawn(Fault(cut=0.5))) < 70


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"latency": -1}, "'latency' is in seconds"),
        ({"latency": float("nan")}, "'latency' is in seconds"),
        ({"latency": "1"}, "'latency' is a number"),
        ({"cut": 1.5}, "'cut' is a share"),
        ({"cut": True}, "'cut' is a number"),
        ({"cut": 0.6, "error_frame": 0.6}, "1 at most"),
        ({"statuses": {"429": 0.6, "500": 0.6}}, "1 at most"),
        ({"statuses": {"200": 0.5}}, "from 400 to 599"),
        ({"statuses": {"often": 0.5}}, "'statuses' is an object"),
        ({"statuses": [429]}, "'statuses' is an object"),
        ({"retry_after": "one\ntwo"}, "printable ASCII"),
        ({"retry_after": [1]}, "'retry_after' is a number"),
        ({"seed": 1.5}, "'seed' is an integer"),
        ({"latencies": 1}, "there is no fault 'latencies'; there are latency, jitter"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_the_reason(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_fault(given)


def test_the_command_line_has_a_form_for_every_fault() -> None:
    text = "my-chat:latency=0.2,jitter=0.1,429=0.1,500=0.05,retry_after=1,cold_start=2,cut=0.2,error_frame=0.1,seed=7"
    assert parse_fault(text) == ("my-chat", Fault(0.2, 0.1, {429: 0.1, 500: 0.05}, "1", 2, 0.2, 0.1, 7))


@pytest.mark.parametrize("text", ["", "chat", "chat:", ":latency=1", "chat:latency", "chat:late=1", "chat:latency=x"])
def test_another_form_is_refused_with_what_it_should_be(text: str) -> None:
    with pytest.raises(LocalError, match="--fault"):
        parse_fault(text)
