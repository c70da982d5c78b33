"""What is tried again, when, and what never is."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from dbllm import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APITimeoutError,
    BadRequestError,
    ConfigError,
    RateLimitError,
    Raw,
    Retry,
    StreamInterruptedError,
    Timeout,
)
from dbllm._backends.backend import run_without_loop
from dbllm._protocol import error_responses
from dbllm._transport import retry
from dbllm._transport.health import Counts, EndpointHealth
from dbllm._transport.retry import FailedAttempts, classify, retry_call, retry_delay

HEAD = Raw(200, {})


def status(number: int, **headers: str) -> APIError:
    return error_responses.status_error(
        Raw(number, {name.replace("_", "-"): value for name, value in headers.items()}), wall=0.0
    )


def undecodable(cause: Exception) -> APIError:
    error = APIResponseError("the answer cannot be decompressed", raw=HEAD)
    error.__cause__ = cause
    return error


TABLE: list[tuple[APIError, str, str]] = [
    # failure, class on POST, class on GET
    (APIConnectionError("dns", sent=False), "never sent", "never sent"),
    (APITimeoutError("connect", sent=False), "never sent", "never sent"),
    (APIConnectionError("reset before the head"), "ambiguous", "transient"),
    (APIConnectionError("no head", raw=Raw(0, {}, b"junk")), "ambiguous", "transient"),
    (undecodable(zlib.error("cut")), "ambiguous", "transient"),
    (undecodable(ValueError("a bomb")), "final", "final"),
    (APIConnectionError("reset inside the answer", raw=HEAD), "ambiguous", "transient"),
    (APITimeoutError("read"), "ambiguous", "transient"),
    (APITimeoutError("inside the answer", raw=HEAD), "ambiguous", "transient"),
    (StreamInterruptedError("before the first event"), "ambiguous", "ambiguous"),
    (StreamInterruptedError("overloaded", error_code="429"), "throttled", "throttled"),
    (StreamInterruptedError("overloaded", error_code="REQUEST_LIMIT_EXCEEDED"), "throttled", "throttled"),
    (StreamInterruptedError("overloaded", error_code="RESOURCE_EXHAUSTED"), "throttled", "throttled"),
    (APIResponseError("no JSON", raw=HEAD), "final", "final"),
    *((status(number), "throttled", "throttled") for number in (429, 503, 529)),
    *((status(number), "transient", "transient") for number in (408, 500, 502)),
    (status(504), "ambiguous", "transient"),
    *(
        (status(number), "final", "final")
        for number in (302, 400, 401, 403, 404, 405, 409, 413, 418, 422, 499, 501, 505)
    ),
    (status(409, x_should_retry="true"), "transient", "transient"),
    (status(409, x_should_retry="TRUE"), "transient", "transient"),
    (status(429, x_should_retry="true"), "throttled", "throttled"),
    (status(429, x_should_retry="false"), "final", "final"),
    (status(500, x_should_retry="false"), "final", "final"),
    (status(404, x_should_retry="maybe"), "final", "final"),
]


@pytest.mark.parametrize(("error", "on_post", "on_get"), TABLE, ids=lambda value: str(value)[:24])
def test_every_failure_has_its_class(error: APIError, on_post: str, on_get: str) -> None:
    assert classify(error, "POST") == on_post
    assert classify(error, "PATCH") == on_post
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        assert classify(error, method) == on_get


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), ConfigError("x"), asyncio.CancelledError()])
def test_what_is_not_an_api_error_is_final(error: BaseException) -> None:
    assert classify(error, "GET") == "final"


@pytest.mark.parametrize(("error", "on_post", "on_get"), TABLE, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ambiguous", [False, True])
def test_whether_to_go_on_follows_from_the_class(
    error: APIError, on_post: str, on_get: str, method: str, ambiguous: bool
) -> None:
    kind = on_post if method == "POST" else on_get
    policy = Retry(attempts=3, retry_ambiguous=ambiguous)
    goes_on = kind in ("never sent", "throttled", "transient") or (kind == "ambiguous" and ambiguous)
    for failures in (1, 2):
        wait = retry_delay(error, failures=failures, method=method, retry=policy, draw=lambda: 0.5)
        assert (wait is not None) is goes_on
    for failures in (3, 4, 100):
        assert retry_delay(error, failures=failures, method=method, retry=policy) is None
    assert retry_delay(error, failures=1, method=method, retry=Retry(attempts=1)) is None


def waits(error: APIError, draw: float, policy: Retry | None = None, count: int = 12) -> list[float | None]:
    policy = policy or Retry(attempts=100)
    return [
        retry_delay(error, failures=failures, method="POST", retry=policy, draw=lambda: draw)
        for failures in range(1, count + 1)
    ]


def test_the_wait_is_drawn_from_nothing_up_to_a_doubling_bound() -> None:
    assert waits(status(500), 0.0, count=4) == [0.0] * 4
    assert waits(status(500), 1.0, count=7) == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert waits(status(500), 0.5, count=3) == [0.125, 0.25, 0.5]


def test_throttling_waits_four_times_as_long_up_to_the_same_cap() -> None:
    assert waits(status(429), 1.0, count=6) == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_what_was_never_sent_goes_again_at_once_and_then_waits() -> None:
    assert waits(APIConnectionError("x", sent=False), 1.0, count=4) == [0.0, 0.5, 1.0, 2.0]


def test_the_policy_sets_base_and_cap() -> None:
    assert waits(status(500), 1.0, Retry(attempts=9, backoff=1, max_backoff=3), 4) == [1.0, 2.0, 3.0, 3.0]
    assert waits(status(500), 1.0, Retry(attempts=9, backoff=0), 3) == [0.0] * 3
    assert waits(status(429), 1.0, Retry(attempts=9, max_backoff=0), 3) == [0.0] * 3


def test_a_very_patient_policy_never_overflows() -> None:
    for failures in (100, 1024, 1025, 5000, 10**6):
        wait = retry_delay(status(500), failures=failures, method="POST", retry=Retry(attempts=10**9), draw=lambda: 1.0)
        assert wait == 8.0


@pytest.mark.parametrize(("hint", "lowest", "highest"), [(1.0, 1.0, 1.1), (2.0, 2.0, 2.2), (60.0, 60.0, 66.0)])
def test_the_servers_hint_is_waited_and_up_to_a_tenth_more(hint: float, lowest: float, highest: float) -> None:
    error = RateLimitError("slow", raw=Raw(429), retry_after=hint)
    assert waits(error, 0.0, count=3) == [lowest] * 3
    assert waits(error, 1.0, count=3) == [pytest.approx(highest)] * 3


@pytest.mark.parametrize("hint", [0.0, 0.001, 0.2])
def test_a_hint_of_next_to_nothing_does_not_shorten_the_usual_pause(hint: float) -> None:
    error = RateLimitError("slow", raw=Raw(429), retry_after=hint)
    assert waits(error, 0.0, count=3) == [hint] * 3
    assert waits(error, 1.0, count=4) == [1.0, 2.0, 4.0, 8.0]
    assert waits(error, 1.0, Retry(attempts=9, backoff=0), 2) == [pytest.approx(hint * 1.1)] * 2


def test_a_hint_above_the_bound_ends_the_call() -> None:
    error = RateLimitError("slow", raw=Raw(429), retry_after=60.1)
    assert waits(error, 0.0, count=2) == [None, None]
    assert waits(error, 0.0, Retry(max_retry_after=61), 1) == [60.1]
    assert waits(RateLimitError("x", raw=Raw(429), retry_after=0.1), 0.0, Retry(max_retry_after=0), 1) == [None]


def test_the_default_draw_is_random_and_within_its_bounds() -> None:
    drawn = {retry_delay(status(500), failures=3, method="POST", retry=Retry()) for _ in range(200)}
    assert len(drawn) > 150
    assert all(wait is not None and 0 <= wait <= 1 for wait in drawn)


@pytest.mark.parametrize("attempts", [0, -1, True, False, 1.5, "3", None])
def test_attempts_is_a_whole_number_from_one_up(attempts: Any) -> None:
    with pytest.raises(ValueError, match="attempts must be an integer, 1 or more"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("name", ["backoff", "max_backoff", "max_retry_after"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), "1", None])
def test_seconds_of_a_policy_are_zero_or_more(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"Retry: {name} must be 0 seconds or more"):
        Retry(**{name: value})


@pytest.mark.parametrize("name", ["total", "connect", "read", "queue"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "5", (1, 2)])
def test_seconds_of_a_time_limit_are_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Timeout: {name} must be more than 0 seconds"):
        Timeout(**{name: value})


def test_a_number_is_the_total_and_none_is_no_limit() -> None:
    assert Timeout.of(5) == Timeout(total=5)
    assert Timeout.of(Timeout(read=1)) == Timeout(read=1)
    assert Timeout(total=None).total is None
    assert (Timeout().total, Retry().attempts, Retry().retry_ambiguous) == (300.0, 4, False)


@pytest.mark.parametrize("name", ["retry_ambiguous", "budget", "breaker"])
@pytest.mark.parametrize("value", [None, 1, 0.2, "yes"])
def test_a_switch_of_a_policy_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be True or False"):
        Retry(**{name: value})


def test_policies_are_values() -> None:
    assert Retry() == Retry()
    assert len({Retry(), Retry(), Timeout(), Timeout()}) == 2
    with pytest.raises(AttributeError):
        Retry().attempts = 5  # type: ignore[misc]


# --- the loop ---------------------------------------------------------------------------------------------------------


class Script:
    """An attempt that fails as it is told to, on a clock that only its own sleeping moves."""

    def __init__(self, *outcomes: BaseException | str, cost: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.cost = cost
        self.time = 100.0
        self.slept: list[float] = []
        self.tries = 0

    async def attempt(self) -> str:
        self.tries += 1
        self.time += self.cost
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def run(
        self, first: APIError, policy: Retry | None = None, method: str = "POST", deadline: float = float("inf")
    ) -> tuple[str, int]:
        return run_without_loop(retry_call(self.attempt, self.failed(policy, method, deadline), first, self.sleep))

    def failed(
        self, policy: Retry | None = None, method: str = "POST", deadline: float = float("inf")
    ) -> FailedAttempts:
        return FailedAttempts(method, policy or Retry(), deadline, self.now, EndpointHealth(Counts()), self.time)


@pytest.fixture
def highest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    real = retry_delay

    def always(*args: Any, **options: Any) -> float | None:
        return real(*args, **{**options, "draw": lambda: 1.0})

    monkeypatch.setattr(retry, "retry_delay", always)


@pytest.mark.usefixtures("highest_draw")
def test_it_goes_on_until_it_works_and_counts_the_attempts() -> None:
    script = Script(status(500), "done")
    assert script.run(status(502)) == ("done", 3)
    assert script.slept == [0.25, 0.5]
    assert script.tries == 2


def test_the_last_failure_knows_those_before_it() -> None:
    failures = [status(500), status(502), status(503), status(429)]
    script = Script(*failures[1:])
    with pytest.raises(RateLimitError) as caught:
        script.run(failures[0])
    assert caught.value is failures[3]
    assert caught.value.attempts == 4
    assert caught.value.previous == tuple(failures[:3])
    assert script.tries == 3


def test_a_first_failure_that_is_final_is_raised_without_another_attempt() -> None:
    script = Script()
    first = status(400)
    with pytest.raises(BadRequestError) as caught:
        script.run(first)
    assert caught.value is first
    assert (first.attempts, first.previous, script.tries, script.slept) == (1, (), 0, [])


def test_a_final_failure_later_ends_it_too() -> None:
    script = Script(status(403))
    with pytest.raises(APIError) as caught:
        script.run(status(500))
    assert (caught.value.status, caught.value.attempts, len(caught.value.previous)) == (403, 2, 1)


def test_one_attempt_means_one_attempt_whatever_happened() -> None:
    for first in (status(500), status(429), APIConnectionError("dns", sent=False)):
        script = Script()
        with pytest.raises(APIError):
            script.run(first, Retry(attempts=1))
        assert script.tries == 0
        assert first.attempts == 1


def test_a_first_attempt_that_was_never_sent_does_not_count() -> None:
    script = Script(status(500), "done")
    assert script.run(APIConnectionError("dns", sent=False), Retry(attempts=2)) == ("done", 3)
    assert script.slept[0] == 0.0


def test_only_the_first_is_free() -> None:
    script = Script(*(APIConnectionError("dns", sent=False) for _ in range(9)))
    with pytest.raises(APIConnectionError) as caught:
        script.run(APIConnectionError("dns", sent=False), Retry(attempts=2))
    assert caught.value.attempts == 3


def test_it_never_sleeps_past_the_deadline() -> None:
    script = Script("never")
    hinted = RateLimitError("slow", raw=Raw(429), retry_after=10.0)
    with pytest.raises(RateLimitError) as caught:
        script.run(hinted, deadline=109.0)
    assert caught.value is hinted
    assert (script.slept, script.tries, script.time) == ([], 0, 100.0)


def test_it_sleeps_when_there_is_time() -> None:
    script = Script("done")
    hinted = RateLimitError("slow", raw=Raw(429), retry_after=10.0)
    assert script.run(hinted, deadline=112.0) == ("done", 2)


def test_a_deadline_that_has_passed_ends_it_at_once() -> None:
    script = Script("never", cost=5.0)
    with pytest.raises(APIConnectionError):
        script.run(APIConnectionError("dns", sent=False), deadline=100.0)
    assert script.tries == 0


def test_time_that_attempts_take_counts_against_the_deadline() -> None:
    script = Script(*(status(500) for _ in range(50)), cost=3.0)
    with pytest.raises(APIError):
        script.run(status(500), Retry(attempts=50, backoff=0), deadline=110.0)
    assert script.tries == 4  # they end at 103, 106, 109 and 112


@pytest.mark.parametrize(
    "stranger", [KeyboardInterrupt(), asyncio.CancelledError(), ValueError("a bug"), ConfigError("x"), SystemExit(3)]
)
def test_what_is_not_ours_to_repeat_passes_through(stranger: BaseException) -> None:
    script = Script(stranger, "never")
    with pytest.raises(type(stranger)) as caught:
        script.run(status(500))
    assert caught.value is stranger
    assert script.tries == 1


def test_an_interrupt_while_sleeping_passes_through() -> None:
    script = Script("never")

    async def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_without_loop(retry_call(script.attempt, script.failed(), status(500), interrupted))
    assert script.tries == 0


def test_a_hint_is_slept_as_it_was_given() -> None:
    script = Script("done")
    script.run(RateLimitError("slow", raw=Raw(429), retry_after=7.0))
    (slept,) = script.slept
    assert 7.0 <= slept <= 7.7


def test_the_method_decides_about_a_time_out() -> None:
    for method, tries in (("POST", 0), ("GET", 1)):
        script = Script("done")
        if tries:
            assert script.run(APITimeoutError("late"), method=method) == ("done", 2)
        else:
            with pytest.raises(APITimeoutError):
                script.run(APITimeoutError("late"), method=method)
        assert script.tries == tries


def test_an_ambiguous_post_goes_again_only_when_allowed() -> None:
    assert Script("done").run(APITimeoutError("late"), Retry(retry_ambiguous=True)) == ("done", 2)


CALL = """
import logging, sys, httpx, dbllm
logging.getLogger("dbllm").addHandler(logging.NullHandler())
status = {status}
def answer(request):
    return httpx.Response(status.pop(0), json={{"choices": [{{"message": {{"content": "hi"}}}}]}})
with dbllm.Client("https://h", "t", transport=httpx.MockTransport(answer), retry=dbllm.Retry(backoff=0)) as client:
    assert client.endpoint("e", task="chat").chat("x").text == "hi"
print("tenacity" in sys.modules)
"""


def test_tenacity_is_not_imported_before_something_has_failed(script: Callable[..., str]) -> None:
    assert script("import sys, dbllm; print('tenacity' in sys.modules)").strip() == "False"
    assert script(CALL.format(status=[200])).strip() == "False"


def test_tenacity_runs_the_retries(script: Callable[..., str]) -> None:
    assert script(CALL.format(status=[500, 200])).strip() == "True"
