"""Retries, as the wire sees them; the clock is the test's own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.loopback import Peer, head, keep_answering
from support.modes import permits
from support.samples import HELLO, chat_answer, piece, route, sse

import dbllm

GOOD = httpx.Response(200, json=chat_answer())
ONCE = dbllm.Retry(attempts=1)


def status(code: int, body: object = None, **headers: str) -> httpx.Response:
    return httpx.Response(
        code, json=body or {"message": "no"}, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


async def chat(client: Any, **options: Any) -> Any:
    return await client.endpoint("ep").chat("hi", **options)


# --- which failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 529])
async def test_failures_that_pass_are_tried_again(make, wire, clock, code):
    called = route(wire).mock(side_effect=[status(code), status(code), GOOD])
    async with make() as client:
        reply = await chat(clock.on(client))
    assert (reply.text, reply.attempts, called.call_count) == ("Hi there", 3, 3)
    scale = 1.0 if code in (429, 503, 529) else 0.25
    assert len(clock.waits) == 2
    assert clock.waits[0] <= scale
    assert clock.waits[1] <= 2 * scale


@pytest.mark.parametrize("code", [301, 400, 401, 403, 404, 409, 413, 418, 422, 501, 505])
async def test_failures_that_stay_are_not(make, wire, clock, code):
    wire.get(url__regex=".*").respond(404)
    called = route(wire).respond(code, json={"message": "no"})
    async with make() as client:
        with pytest.raises(dbllm.APIStatusError) as caught:
            await chat(clock.on(client))
    assert (called.call_count, caught.value.attempts, caught.value.status) == (1, 1, code)
    assert clock.waits == []


async def test_a_504_on_a_post_is_not_sent_again_since_the_model_may_have_run(make, wire, clock):
    called = route(wire).respond(504)
    async with make() as client:
        with pytest.raises(dbllm.InternalServerError):
            await chat(clock.on(client))
        assert called.call_count == 1
        with pytest.raises(dbllm.InternalServerError):
            await chat(client, retry=dbllm.Retry(attempts=3, retry_ambiguous=True))
    assert called.call_count == 4


async def test_a_504_on_a_get_is_tried_again(make, wire, clock):
    called = wire.get("/x").mock(side_effect=[status(504), httpx.Response(200, json=1)])
    async with make() as client:
        assert await clock.on(client).request("get", "/x") == 1
    assert called.call_count == 2


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (httpx.ConnectError("refused"), 5),
        (httpx.ConnectTimeout("slow"), 5),
        (httpx.ReadTimeout("slow"), 1),
        (httpx.WriteTimeout("slow"), 1),
        (httpx.RemoteProtocolError("hung up"), 1),
        (httpx.ReadError("reset"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_breaks_below_http_is_told_apart_by_whether_the_request_was_sent(make, wire, clock, failure, tries):
    called = route(wire).mock(side_effect=failure)
    async with make() as client:
        with pytest.raises((dbllm.APIConnectionError, dbllm.APITimeoutError)) as caught:
            await chat(clock.on(client))
    error = caught.value
    assert (called.call_count, error.attempts, len(error.previous)) == (tries, tries, tries - 1)
    assert error.sent is (tries != 5)
    assert isinstance(error, dbllm.APITimeoutError) == isinstance(failure, httpx.TimeoutException)
    if tries == 5:
        assert clock.waits[0] == 0.0


async def test_a_read_timeout_on_a_get_is_tried_again(make, wire, clock):
    called = wire.get("/x").mock(side_effect=[httpx.ReadTimeout("slow"), httpx.Response(200, json=1)])
    async with make() as client:
        assert await clock.on(client).request("GET", "/x") == 1
    assert called.call_count == 2


@pytest.mark.parametrize(
    ("code", "told", "tries"), [(500, "false", 1), (429, "false", 1), (400, "true", 4), (409, "TRUE", 4)]
)
async def test_x_should_retry_overrules_the_status(make, wire, clock, code, told, tries):
    called = route(wire).respond(code, headers={"x-should-retry": told})
    wire.get(url__regex=".*").respond(404)
    async with make() as client:
        with pytest.raises(dbllm.APIStatusError):
            await chat(clock.on(client))
    assert called.call_count == tries


async def test_an_answer_that_is_not_what_was_promised_is_not_asked_for_again(make, wire, clock):
    called = route(wire).respond(200, text="<html>")
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError):
            await chat(clock.on(client))
    assert called.call_count == 1


async def test_one_attempt_is_one_attempt_also_for_what_was_never_sent(make, wire, clock):
    called = route(wire).mock(side_effect=httpx.ConnectError("refused"))
    async with make(retry=ONCE) as client:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await chat(clock.on(client))
    assert (called.call_count, caught.value.attempts, caught.value.previous) == (1, 1, ())


async def test_every_attempts_error_is_kept(make, wire, clock):
    route(wire).mock(side_effect=[status(429, {"error_code": "A"}), status(500, {"error_code": "B"}), status(503)] * 2)
    async with make(retry=dbllm.Retry(attempts=3)) as client:
        with pytest.raises(dbllm.InternalServerError) as caught:
            await chat(clock.on(client))
    assert [(type(error), error.error_code) for error in caught.value.previous] == [
        (dbllm.RateLimitError, "A"),
        (dbllm.InternalServerError, "B"),
    ]
    assert (caught.value.status, caught.value.attempts) == (503, 3)
    assert "3 attempts" in str(caught.value)


async def test_a_call_may_have_a_policy_of_its_own(make, wire, clock):
    called = route(wire).respond(500)
    async with make(retry=dbllm.Retry(attempts=2)) as client:
        clock.on(client)
        for options, tries in (({}, 2), ({"retry": ONCE}, 1), ({"retry": dbllm.Retry(attempts=5)}, 5)):
            with pytest.raises(dbllm.InternalServerError):
                await chat(client, **options)
            assert called.call_count == tries
            called.reset()
        with pytest.raises(dbllm.InternalServerError):
            await chat(client.with_options(retry=ONCE))
        assert called.call_count == 1


@pytest.mark.parametrize("wrong", [3, None.__class__, False, "no"])
async def test_a_policy_of_a_wrong_type_is_refused(make, wrong):
    async with make() as client:
        with pytest.raises(TypeError, match="Retry"):
            await chat(client, retry=wrong)


# --- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3"}, 3),
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": "Tue, 14 Nov 2023 22:30:05 GMT"}, 5),
        ({"x_ratelimit_reset_tokens": "4s"}, 4),
    ],
)
async def test_the_servers_wish_is_waited_for(make, wire, clock, headers, seconds):
    clock.time = 600.0  # 1 700 000 600 is 22:30:00 on 14 November 2023, less 600 s
    clock.time += 1_700_001_000 - 1_700_000_600
    route(wire).mock(side_effect=[status(429, **headers), GOOD])
    async with make() as client:
        await chat(clock.on(client))
    assert seconds <= clock.waits[0] <= seconds * 1.1


@pytest.mark.parametrize("wish", ["0", "0.0", "Tue, 14 Nov 2023 22:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_at_once_keeps_the_usual_pause_as_the_floor(make, wire, clock, wish, monkeypatch):
    monkeypatch.setattr("dbllm._transport.retry.retry_delay.__kwdefaults__", {"draw": lambda: 1.0})
    called = route(wire).respond(429, headers={"retry-after": wish})
    async with make() as client:
        with pytest.raises(dbllm.RateLimitError):
            await chat(clock.on(client))
    assert called.call_count == 4
    assert clock.waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("wish", ["-3", "nan", "inf", "soon", ""])
async def test_a_senseless_wish_is_ignored(make, wire, clock, wish):
    route(wire).mock(side_effect=[status(429, retry_after=wish), GOOD])
    async with make() as client:
        await chat(clock.on(client))
    assert clock.waits[0] <= 1


async def test_a_wish_that_is_longer_than_allowed_fails_at_once_and_is_told(make, wire, clock):
    route(wire).respond(429, headers={"retry-after": "61"})
    async with make() as client:
        with pytest.raises(dbllm.RateLimitError) as caught:
            await chat(clock.on(client))
    assert (caught.value.retry_after, caught.value.attempts, clock.waits) == (61.0, 1, [])


async def test_no_wait_ends_after_the_deadline(make, wire, clock):
    called = route(wire).respond(503, headers={"retry-after": "4"})
    async with make() as client:
        with pytest.raises(dbllm.InternalServerError) as caught:
            await chat(clock.on(client), timeout=10)
    assert sum(clock.waits) < 10
    assert (called.call_count, caught.value.attempts) == (3, 3)
    assert clock.time - 1000 < 10


async def test_a_call_without_a_limit_has_no_deadline(make, wire, clock):
    called = route(wire).respond(503, headers={"retry-after": "60"})
    async with make(timeout=dbllm.Timeout(total=None)) as client:
        with pytest.raises(dbllm.InternalServerError):
            await chat(clock.on(client))
    assert (called.call_count, len(clock.waits)) == (4, 3)


# --- what is never ours to repeat -------------------------------------------------------------------------------------


class Odd(BaseException):
    """As KeyboardInterrupt is: no Exception."""


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, Odd, SystemExit, ZeroDivisionError, MemoryError])
async def test_what_is_not_ours_gets_one_attempt_also_as_the_second(make, clock, raised, before, mode):
    calls: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(1)
        if len(calls) <= before:
            return httpx.Response(500)
        raise raised

    async with make(transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(raised):
            await chat(clock.on(client))
        assert permits(client) == 0
    assert len(calls) == before + 1


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [status(500), status(429), httpx.ConnectError("refused")])
async def test_a_stream_is_tried_again_before_its_first_event(make, wire, clock, failure):
    called = route(wire).mock(side_effect=[failure, sse(*HELLO)])
    async with make() as client, clock.on(client).endpoint("ep").stream_chat("hi") as stream:
        assert (await stream.final()).text == "Hello"
        assert stream.attempts == 2
        assert (await stream.final()).attempts == 2
    assert called.call_count == 2


async def test_a_throttling_first_event_is_tried_again(make, wire, clock):
    busy = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}
    called = route(wire).mock(side_effect=[sse(busy, "[DONE]"), sse(*HELLO)])
    async with make() as client:
        assert (await clock.on(client).endpoint("ep").stream_chat("hi").final()).text == "Hello"
    assert called.call_count == 2


@pytest.mark.parametrize("events", [({"error": "boom"},), (), (b": only a comment\n\n",)])
async def test_a_stream_that_fails_with_nothing_is_not_asked_for_again_unless_that_is_wished(make, wire, clock, events):
    called = route(wire).mock(side_effect=[sse(*events), sse(*events), sse(*HELLO)])
    async with make() as client:
        clock.on(client)
        with pytest.raises(dbllm.StreamInterruptedError):
            await client.endpoint("ep").stream_chat("hi").final()
        assert called.call_count == 1
        wished = dbllm.Retry(retry_ambiguous=True)
        assert (await client.endpoint("ep").stream_chat("hi", retry=wished).final()).text == "Hello"


@pytest.mark.parametrize("wished", [False, True])
async def test_a_stream_is_never_tried_again_after_its_first_event(make, wire, clock, wished):
    called = route(wire).mock(return_value=sse(piece("Hel")))
    async with make(retry=dbllm.Retry(retry_ambiguous=wished)) as client:
        with pytest.raises(dbllm.StreamInterruptedError) as caught:
            await clock.on(client).endpoint("ep").stream_chat("hi").final()
    assert (called.call_count, caught.value.partial_text, clock.waits) == (1, "Hel", [])


# --- on real sockets --------------------------------------------------------------------------------------------------


def reset_after_request(peer: Peer) -> None:
    peer.request()
    peer.reset()


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
async def test_a_connection_that_breaks_before_the_answers_head_is_tried_again(make, serve, clock, verb):
    server = serve(reset_after_request, lambda peer: peer.request(), keep_answering)
    async with make(server.host) as client:
        assert await clock.on(client).request(verb, "/x") == "hello"
    assert len(server.requests) == 3


@pytest.mark.parametrize("verb", ["POST", "GET"])
async def test_an_answer_that_breaks_inside_is_asked_for_again_only_where_that_costs_nothing(make, serve, clock, verb):
    def half(peer: Peer) -> None:
        peer.request()
        peer.send(head(length=100) + b'"half')

    server = serve(half, keep_answering)
    async with make(server.host) as client:
        asked = clock.on(client).request(verb, "/x", json={} if verb == "POST" else None)
        if verb == "POST":
            with pytest.raises(dbllm.APIConnectionError) as caught:
                await asked
            assert (caught.value.status, caught.value.sent) == (200, True)
        else:
            assert await asked == "hello"
    assert len(server.requests) == (1 if verb == "POST" else 2)


async def test_a_kept_alive_connection_the_server_has_closed_is_replaced_at_once_and_runs_once(make, serve, clock):
    def one_only(peer: Peer) -> None:  # closes right after an answer that promised to keep alive
        peer.request()
        peer.answer()

    server = serve(one_only)
    async with make(server.host) as client:
        clock.on(client)
        for _ in range(30):
            assert await client.request("POST", "/x", json={}) == "hello"
    assert len(server.requests) == 30
    assert clock.waits in ([], [0.0] * len(clock.waits))


async def test_a_kept_alive_connection_that_closes_on_the_next_request_is_replaced_at_once(make, serve, clock):
    def close_on_second(peer: Peer) -> None:
        peer.request()
        peer.answer()
        peer.sock.recv(1)  # the race: the request is on its way while the server closes

    server = serve(close_on_second, keep_answering)
    async with make(server.host) as client:
        clock.on(client)
        assert await client.request("POST", "/a", json={}) == "hello"
        assert await client.request("POST", "/b", json={}) == "hello"
    assert [request.line.split()[1] for request in server.requests] == ["/a", "/b"]
    assert clock.waits == [0.0]


async def test_a_new_connection_that_breaks_counts_as_sent_also_after_good_calls(make, serve, clock):
    def farewell(peer: Peer) -> None:
        peer.request()
        peer.answer(connection="close")

    server = serve(farewell, reset_after_request)
    async with make(server.host, retry=ONCE) as client:
        clock.on(client)
        assert await client.request("POST", "/a", json={}) == "hello"
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await client.request("POST", "/b", json={})
    assert len(server.requests) == 2
    assert caught.value.sent is True


async def test_a_refused_connection_was_never_sent(make, serve, clock):
    server = serve()
    host = server.host
    server.close()
    async with make(host, retry=dbllm.Retry(attempts=2)) as client:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            await clock.on(client).request("POST", "/x", json={})
    assert (caught.value.sent, caught.value.attempts, clock.waits[0]) == (False, 3, 0.0)
