"""The retry budget: it closes in an outage and not in noise. Simulations run the real decisions on a virtual clock."""

from __future__ import annotations

import heapq
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import httpx
import pytest
from support.loopback import Peer, head, keep_answering
from support.modes import together
from support.samples import chat_answer, route

import dbllm
from dbllm import APIConnectionError, APIError, APITimeoutError, InternalServerError, RateLimitError, Raw, Retry
from dbllm._transport.health import MAX_ENDPOINTS, MAX_TOKENS, Counts, EndpointHealth, HealthRecords
from dbllm._transport.retry import FailedAttempts, failure_cost

DENIED = "no further attempt: most recent calls to this endpoint fail"
SAFE: list[Callable[[], APIError]] = [  # failures of a POST that may be sent again
    lambda: InternalServerError("no", raw=Raw(500)),
    lambda: InternalServerError("no", raw=Raw(502)),
    lambda: InternalServerError("no", raw=Raw(503)),
    lambda: RateLimitError("no", raw=Raw(429)),
    lambda: RateLimitError("no", raw=Raw(429), retry_after=1.0),
]


class Simulation:
    """Calls of a policy to one endpoint, on a clock that no test waits for."""

    def __init__(self, retry: Retry, fails: Callable[[float], APIError | None], took: float = 0.1) -> None:
        self.retry, self.fails, self.took = retry, fails, took
        self.time = 0.0
        self.health = EndpointHealth(Counts())
        self.requests: Counter[int] = Counter()  # by the second in which they begin
        self.ended: list[tuple[float, bool]] = []  # when each call began, and whether it succeeded

    def call(self, began: float) -> Iterator[float]:
        """One call: yields the moments of its attempts."""
        failed = FailedAttempts("POST", self.retry, began + 300, lambda: self.time, self.health, began)
        self.health.begin_call(began)
        for _ in count():
            self.requests[int(self.time)] += 1
            error = self.fails(self.time)
            yield self.time + self.took
            if error is None:
                self.health.attempt_succeeded()
            elif (pause := failed.pause_after(error)) is not None:
                yield self.time + pause
                continue
            self.ended.append((began, error is None))
            return

    def run(self, calls: int, every: float) -> Simulation:
        order = count()
        waiting = [(place * every, next(order), None) for place in range(calls)]
        heapq.heapify(waiting)
        while waiting:
            self.time, _, call = heapq.heappop(waiting)
            call = self.call(self.time) if call is None else call
            if (following := next(call, None)) is not None:
                heapq.heappush(waiting, (following, next(order), call))
        return self

    @property
    def requests_a_call(self) -> float:
        return sum(self.requests.values()) / len(self.ended)

    def success(self, begin: float = 0.0, end: float = float("inf")) -> float:
        ended = [good for began, good in self.ended if begin <= began < end]
        return sum(ended) / len(ended)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(5)  # pauses are drawn from the module's own generator


def test_it_stays_open_while_three_in_ten_attempts_fail() -> None:
    draw = random.Random(1)
    noise = Simulation(Retry(attempts=6), lambda _: draw.choice(SAFE)() if draw.random() < 0.3 else None)
    noise.run(100_000, 0.005)
    assert noise.success() >= 0.999
    assert noise.requests_a_call <= 1.45


OUTAGES: dict[str, Callable[[], APIError]] = {
    "500": SAFE[0],
    "503": SAFE[2],
    "429": SAFE[3],
    "503, all told to come back at the same time": lambda: InternalServerError("no", raw=Raw(503), retry_after=5.0),
    "429, all told to come back at the same time": lambda: RateLimitError("no", raw=Raw(429), retry_after=5.0),
    "refused connections": lambda: APIConnectionError("refused", sent=False),
}


@pytest.mark.parametrize("seconds", [20, 60])
def test_an_outage_gets_no_storm_and_ends_at_once(seconds: int) -> None:
    """200 calls a second, before, while and after."""
    wrong: list[str] = []
    for name, failure in OUTAGES.items():

        def fails(time: float, failure: Callable[[], APIError] = failure) -> APIError | None:
            if not 10 <= time < 10 + seconds:
                return None
            error = failure()
            error.unreachable = not error.sent
            return error

        outage = Simulation(Retry(), fails).run(200 * (seconds + 30), 0.005)
        during = sum(outage.requests[second] for second in range(10, 10 + seconds)) / (200 * seconds)
        busiest = max(outage.requests.values())
        after = outage.success(10 + seconds, 20 + seconds)
        if during > 1.2 or busiest > 2 * 200 or after < 0.95:
            wrong.append(f"{name}: {during:.3f} requests a call, busiest second {busiest}, {after:.1%} afterwards")
    assert wrong == []


def test_an_outage_amid_noise_is_told_apart_from_it() -> None:
    draw = random.Random(2)
    share = lambda time: 1.0 if 10 <= time < 40 else 0.1  # noqa: E731
    both = Simulation(Retry(attempts=6), lambda time: SAFE[2]() if draw.random() < share(time) else None)
    both.run(200 * 60, 0.005)
    assert sum(both.requests[second] for second in range(10, 40)) <= 1.2 * 200 * 30
    assert both.success(50) >= 0.999


def test_a_few_calls_that_fail_again_and_again_are_tried_again() -> None:
    for calls in (3, 12):
        outcomes = iter([SAFE[2](), SAFE[2](), None] * calls)
        few = Simulation(Retry(), lambda _, outcomes=outcomes: next(outcomes)).run(calls, 10.0)
        assert few.success() == 1


def test_a_minute_without_a_call_opens_it_again() -> None:
    health = EndpointHealth(Counts())
    for _ in range(200):
        health.attempt_failed("throttled", 1.0, 1.0)
    health.begin_call(30.0)
    assert not health.may_retry
    health.begin_call(90.1)
    assert health.may_retry


def test_what_a_failure_costs() -> None:
    unreachable = APITimeoutError("slow", sent=False)
    unreachable.unreachable = True
    table = [
        ("never sent", unreachable, 1.0),
        ("never sent", APIConnectionError("a kept-alive connection was closed", sent=False), 0.0),
        ("throttled", RateLimitError("no", raw=Raw(429), retry_after=2.0), 1 / 3),
        ("throttled", RateLimitError("no", raw=Raw(429), retry_after=0.0), 1.0),
        ("throttled", RateLimitError("no", raw=Raw(429)), 1.0),
        ("throttled", InternalServerError("no", raw=Raw(503), retry_after=2.0), 1.0),
        ("transient", InternalServerError("no", raw=Raw(500)), 1.0),
        ("ambiguous", APITimeoutError("late"), 1.0),
        ("final", dbllm.NotFoundError("no", raw=Raw(404)), 0.0),
    ]
    assert [(kind, failure_cost(kind, error)) for kind, error, _ in table] == [(row[0], row[2]) for row in table]


def test_the_tokens_stay_within_their_bounds() -> None:
    health = EndpointHealth(Counts())
    for _ in range(50):
        health.attempt_succeeded()
    assert health.tokens == MAX_TOKENS
    for _ in range(1000):
        health.attempt_failed("ambiguous", 1.0, 0.0)
    assert health.tokens == 0
    health.attempt_succeeded()
    assert health.tokens == 0.5


def test_a_client_remembers_a_bounded_number_of_endpoints_the_last_used() -> None:
    records = HealthRecords()
    calls = MAX_ENDPOINTS + 500
    for place in range(calls):
        records.of(None, f"/x/{place}?secret=1").begin_call(float(place))
        records.of(None, "/often").begin_call(float(place))
    kept = records.snapshot()
    assert 0.9 * MAX_ENDPOINTS <= len(kept) <= MAX_ENDPOINTS
    assert f"/x/{calls - 1}" in kept
    assert "/x/0" not in kept
    assert kept["/often"].calls == calls
    assert records.total.calls == 2 * calls
    assert not any("secret" in path for path in kept)
    assert records.of("https://elsewhere", "/often") is not records.of(None, "/often")


# --- on the wire ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "status"), [(200, 429), (400, 503)])
async def test_a_server_that_fails_every_call_gets_few_more_than_one_request_each(
    make, serve, clock, mode, calls, status
):
    def failing(peer: Peer) -> None:
        while peer.request():
            peer.send(head(status, 2) + b"{}")

    server = serve(failing)
    async with make(server.host, max_connections=50, retry=Retry(backoff=0.01)) as client:
        chat = clock.on(client).endpoint("m", task="chat").chat
        if mode == "sync":
            errors = []
            for _ in range(calls):
                with pytest.raises(dbllm.APIStatusError) as caught:
                    await chat("x")
                errors.append(caught.value)
        else:
            errors = await together(mode, [lambda: chat("x") for _ in range(calls)])
        stats = client.stats()
    assert len(server.requests) <= 1.2 * calls
    assert all(isinstance(error, dbllm.APIStatusError) and error.status == status for error in errors)
    assert (stats.attempts, stats.failed) == (len(server.requests), calls)
    assert stats.denied == sum(DENIED in str(error) for error in errors) > 0


async def test_the_error_says_that_the_budget_denied_it(make, wire, clock):
    called = route(wire).respond(503)
    async with make() as client:
        chat = clock.on(client).endpoint("ep").chat
        for _ in range(38):
            with pytest.raises(dbllm.InternalServerError):
                await chat("hi", retry=Retry(attempts=1))
        with pytest.raises(dbllm.InternalServerError) as caught:
            await chat("hi")
        assert (caught.value.attempts, str(caught.value)) == (
            2,
            f"HTTP 503 (2 attempts, {DENIED}): {caught.value.message}",
        )
        with pytest.raises(dbllm.InternalServerError) as caught:
            await chat("hi")
        assert str(caught.value).startswith(f"HTTP 503 (1 attempt, {DENIED}): ")
        before = called.call_count
        with pytest.raises(dbllm.InternalServerError) as caught:
            await chat("hi", retry=Retry(budget=False))
        assert called.call_count - before == 4
        assert DENIED not in str(caught.value)


async def test_each_endpoint_has_a_budget_of_its_own_and_clones_share_it(make, wire, clock):
    route(wire).respond(503)
    other = wire.post("/serving-endpoints/other/invocations").mock(
        side_effect=[httpx.Response(503), httpx.Response(200, json=chat_answer())]
    )
    async with make(retry=Retry(attempts=100)) as client:
        clock.on(client)
        with pytest.raises(dbllm.InternalServerError, match=f"40 attempts, {DENIED}"):
            await client.endpoint("ep").chat("hi")
        with pytest.raises(dbllm.InternalServerError, match="1 attempt, "):
            await client.with_options(timeout=5).endpoint("ep").chat("hi")
        assert (await client.endpoint("other").chat("hi")).attempts == 2
    assert other.call_count == 2


async def test_each_model_service_has_a_budget_of_its_own_though_one_path_serves_them_all(make, wire, clock):
    other = [httpx.Response(503), httpx.Response(200, json=chat_answer())]

    def by_model(request: httpx.Request) -> httpx.Response:
        return other.pop(0) if json.loads(request.content)["model"] == "main.ai.other" else httpx.Response(503)

    path = "/ai-gateway/mlflow/v1/chat/completions"
    wire.post(path).mock(side_effect=by_model)
    async with make(retry=Retry(attempts=100)) as client:
        clock.on(client)
        with pytest.raises(dbllm.InternalServerError, match=f"40 attempts, {DENIED}"):
            await client.endpoint("main.ai.failing").chat("hi")
        assert (await client.endpoint("main.ai.other").chat("hi")).attempts == 2
        assert set(client.stats().endpoints) == {f"{path} main.ai.failing", f"{path} main.ai.other"}


async def test_a_port_where_nobody_listens_is_not_dialled_twice_for_ever(make, serve, clock):
    server = serve()
    host = server.host
    server.close()
    async with make(host) as client:
        clock.on(client)
        for _ in range(60):
            with pytest.raises(dbllm.APIConnectionError) as caught:
                await client.request("POST", "/x", json={})
        assert (caught.value.attempts, caught.value.unreachable) == (1, True)
        assert DENIED in str(caught.value)
        assert caught.value.hint.startswith("Nothing listens there: start a workspace with `dbllm up`")
        assert client.stats().attempts <= 60 + 40


async def test_kept_alive_connections_that_were_closed_never_close_it(make, serve, clock):
    """A server may close each connection after one answer, as many calls as there are."""

    def one_only(peer: Peer) -> None:
        peer.request()
        peer.answer()
        peer.sock.recv(1)

    server = serve(one_only)
    async with make(server.host) as client:
        clock.on(client)
        for _ in range(150):
            assert await client.request("POST", "/x", json={}) == "hello"
        assert client.stats().denied == 0
    assert len(server.requests) == 150


async def test_threads_and_tasks_lose_no_count(make, serve, mode):
    server = serve(keep_answering)
    async with make(server.host, max_connections=8) as client:

        async def several() -> None:
            for _ in range(20):
                await client.request("POST", "/x", json={})

        await together(mode, [several] * 32)
        stats = client.stats()
    assert (stats.calls, stats.attempts, stats.retries) == (
        640,
        640 + stats.retries,
        stats.failures.get("never sent", 0),
    )
    assert len(server.requests) == 640
