"""`fallback=`: the next endpoint is asked exactly where a call may be sent again, and the reply says who answered."""

from __future__ import annotations

import httpx
import pytest
from support.samples import HELLO, chat_answer, route, sent, speaks, sse, vectors_answer

import dbllm
from dbllm._inference.fallback import COOL_SECONDS

FAST = dbllm.Retry(attempts=2, backoff=0)


@pytest.mark.parametrize(
    ("failure", "moves_on"),
    [
        (429, True),
        (500, True),
        (502, True),
        (503, True),
        (529, True),
        (httpx.ConnectError("refused"), True),
        (504, False),
        (400, False),
        (401, False),
        (403, False),
        (httpx.ReadTimeout("late"), False),
        (httpx.ReadError("reset"), False),
    ],
    ids=str,
)
async def test_it_moves_on_exactly_where_a_retry_may(make, wire, failure, moves_on):
    speaks(wire, "llm/v1/chat", "a")
    first = route(wire, "a").mock(
        side_effect=lambda _: httpx.Response(failure) if isinstance(failure, int) else _fail(failure)
    )
    second = route(wire, "b").respond(json=chat_answer("from b"))
    async with make(retry=FAST) as client:
        endpoint = client.endpoint("a", fallback=["b"])
        if moves_on:
            reply = await endpoint.chat("x")
            assert (reply.text, reply.answered_by) == ("from b", "b")
            assert first.call_count == 2 + (not isinstance(failure, int))  # a connection that failed is tried once more
        else:
            with pytest.raises(dbllm.APIError):
                await endpoint.chat("x")
            assert not second.called


def _fail(error: Exception) -> httpx.Response:
    raise error


async def test_who_may_repeat_what_is_ambiguous_may_move_on_then_too(make, wire):
    route(wire, "a").respond(504)
    route(wire, "b").respond(json=chat_answer())
    async with make(retry=dbllm.Retry(attempts=1, retry_ambiguous=True)) as client:
        assert (await client.endpoint("a", fallback=["b"]).chat("x")).answered_by == "b"


async def test_each_speaks_its_own_wire_and_the_first_is_asked_first(make, wire):
    speaks(wire, "llm/v1/chat", "a")
    speaks(wire, None, "b")
    first = route(wire, "a").respond(json=chat_answer("from a"))
    second = route(wire, "b").respond(json={"predictions": ["from b"]})
    async with make(retry=FAST) as client:
        endpoint = client.endpoint("a", fallback="b")
        assert (await endpoint.generate("x")).answered_by == "a"
        first.respond(503)
        reply = await endpoint.generate("x")
        assert (reply.text, reply.answered_by) == ("from b", "b")
    assert sent(second) == {"dataframe_records": [{"prompt": "x"}]}


async def test_a_stream_moves_on_before_its_first_event_and_never_after(make, wire):
    first = route(wire, "a").respond(503)
    route(wire, "b").mock(side_effect=lambda _: sse(*HELLO))
    async with (
        make(retry=dbllm.Retry(attempts=1)) as client,
        client.endpoint("a", fallback=["b"]).stream_chat("x") as stream,
    ):
        assert (await stream.final()).answered_by == stream.answered_by == "b"
    first.mock(side_effect=lambda _: sse(HELLO[0]))  # it breaks after its first event
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        with pytest.raises(dbllm.StreamInterruptedError):
            async with client.endpoint("a", fallback=["b"]).stream_chat("x") as stream:
                await stream.final()


async def test_an_endpoint_that_has_failed_is_passed_over_for_a_while(make, wire, clock):
    first = route(wire, "a").respond(503)
    second = route(wire, "b").respond(json=chat_answer())
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        clock.on(client)
        for _ in range(3):
            assert (await client.endpoint("a", fallback=["b"]).chat("x")).answered_by == "b"
        assert (first.call_count, second.call_count) == (1, 3)
        clock.time += COOL_SECONDS + 1
        first.respond(json=chat_answer())
        assert (await client.endpoint("a", fallback=["b"]).chat("x")).answered_by == "a"


async def test_where_all_have_failed_all_are_asked_again_and_the_error_names_all(make, wire):
    first, second = route(wire, "a").respond(503), route(wire, "b").respond(429)
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        for asked in (1, 2):
            with pytest.raises(dbllm.RateLimitError) as caught:
                await client.endpoint("a", fallback=["b"]).chat("x")
            assert [error.status for error in caught.value.previous] == [503]
            assert (first.call_count, second.call_count) == (asked, asked)


async def test_vectors_are_of_one_model_whichever_it_is(make, wire):
    answers = iter([httpx.Response(200, json=vectors_answer([1.0])), httpx.Response(503)])
    route(wire, "a").mock(side_effect=lambda _: next(answers, httpx.Response(503)))
    route(wire, "b").respond(json=vectors_answer([2.0]))
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        reply = await client.endpoint("a", fallback=["b"]).embed(["x", "y"], batch_size=1, concurrency=1)
    assert (reply.vectors, reply.answered_by) == ([[2.0], [2.0]], "b")


async def test_model_services_may_stand_in_for_endpoints(make, wire):
    route(wire, "databricks-gpt-5").respond(503)
    called = wire.post("/ai-gateway/mlflow/v1/chat/completions").respond(json=chat_answer())
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        reply = await client.endpoint("databricks-gpt-5", fallback=["system.ai.gpt-5-mini"]).chat("x")
    assert reply.answered_by == "system.ai.gpt-5-mini"
    assert sent(called)["model"] == "system.ai.gpt-5-mini"


@pytest.mark.parametrize(
    ("fallback", "words"),
    [
        (["a"], "names itself"),
        ("a", "names itself"),
        (["b", "b"], "names 'b' twice"),
        (["x.y"], "one dot"),
        ([""], "name"),
    ],
)
async def test_a_fallback_that_names_itself_is_refused(make, wire, fallback, words):
    async with make() as client:
        with pytest.raises(dbllm.ConfigError, match=words):
            client.endpoint("a", fallback=fallback)


async def test_no_fallback_is_none_an_empty_list_or_nothing_and_a_number_is_refused(make, wire):
    async with make() as client:
        for nothing in (None, (), []):
            assert client.endpoint("a", fallback=nothing).name == "a"
        with pytest.raises(TypeError, match="fallback is a list of names of endpoints, not int"):
            client.endpoint("a", fallback=3)


async def test_a_reply_names_its_endpoint_also_without_a_fallback(make, wire):
    speaks(wire, "llm/v1/chat", "a")
    route(wire, "a").respond(json=chat_answer())
    async with make() as client:
        assert (await client.endpoint("a").chat("x")).answered_by == "a"
        assert "answered_by" not in (await client.endpoint("a").generate("x")).model_dump()
