"""Many texts to embed: the requests they go in, side by side and bounded, and one answer in the order of the texts."""

from __future__ import annotations

import base64
import io
import itertools
import json
import struct
import sys
import threading
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.modes import permits
from support.samples import route, vectors_answer

import dbllm
from dbllm._inference.batching import split

ONCE = dbllm.Retry(attempts=1)


def texts_of(request: httpx.Request) -> list[str]:
    return list(json.loads(request.content)["input"])


def answer_for(request: httpx.Request) -> httpx.Response:
    """Each text is a number, and its vector holds it; the data come in reverse, with their indexes."""
    answer = vectors_answer(*([float(text)] for text in texts_of(request)))
    answer["data"].reverse()
    answer["usage"] = {"prompt_tokens": len(answer["data"]), "total_tokens": 2 * len(answer["data"])}
    return httpx.Response(200, json=answer, headers={"x-request-id": f"r-{texts_of(request)[0]}"})


NUMBERS = [str(number) for number in range(25)]


async def test_many_texts_go_in_several_requests_and_come_back_as_one_answer_in_order(make, wire):
    called = route(wire).mock(side_effect=answer_for)
    async with make() as client:
        reply = await client.endpoint("ep").embed(NUMBERS, batch_size=10, dimensions=1)
    assert sorted(len(texts_of(call.request)) for call in called.calls) == [5, 10, 10]
    assert all(json.loads(call.request.content)["dimensions"] == 1 for call in called.calls)
    assert reply.vectors == [[float(number)] for number in NUMBERS]
    assert [item.index for item in reply.data] == list(range(25))
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens, reply.usage.completion_tokens) == (25, 50, None)
    assert (reply.model, reply.request_id, reply.attempts) == ("m", "r-0", 1)


async def test_few_texts_go_in_one_request(make, wire):
    called = route(wire).mock(side_effect=answer_for)
    async with make() as client:
        reply = await client.endpoint("ep").embed(NUMBERS)
    assert called.call_count == 1
    assert reply.vectors == [[float(number)] for number in NUMBERS]


async def test_usage_that_no_request_tells_is_none(make, wire):
    def bare(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"embedding": [1.0]} for _ in texts_of(request)]})

    route(wire).mock(side_effect=bare)
    async with make() as client:
        reply = await client.endpoint("ep").embed(["a", "b", "c"], batch_size=1)
    assert (reply.usage, len(reply.vectors)) == (None, 3)


@pytest.mark.parametrize(("concurrency", "most"), [(3, 3), (100, 25)])
async def test_requests_are_under_way_side_by_side_and_never_more_than_allowed(make, mode, concurrency, most):
    under_way, seen, lock = 0, [], threading.Lock()

    def begin() -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append(under_way)

    def end(request: httpx.Request) -> httpx.Response:
        nonlocal under_way
        with lock:
            under_way -= 1
        return answer_for(request)

    async def slow(request: httpx.Request) -> httpx.Response:
        begin()
        for _ in range(50):  # every other request has time to begin
            await anyio.lowlevel.checkpoint()
        return end(request)

    def plain(request: httpx.Request) -> httpx.Response:
        begin()
        return end(request)

    async with make(transport=httpx.MockTransport(plain if mode == "sync" else slow)) as client:
        reply = await client.endpoint("ep").embed(NUMBERS, batch_size=1, concurrency=concurrency)
    assert reply.vectors == [[float(number)] for number in NUMBERS]
    assert max(seen) == (1 if mode == "sync" else most)


async def test_a_request_that_fails_ends_the_others_and_says_which_texts_it_had(make, wire):
    def some(request: httpx.Request) -> httpx.Response:
        if "13" in texts_of(request):
            return httpx.Response(400, json={"error_code": "BAD_REQUEST", "message": "too long"})
        return answer_for(request)

    wire.get("/api/2.0/serving-endpoints/ep").respond(json={"task": "llm/v1/embeddings"})
    called = route(wire).mock(side_effect=some)
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError, match=r"too long.*input\[12:14\]"):
            await client.endpoint("ep").embed(NUMBERS, batch_size=2, concurrency=1)
        assert permits(client) == 0
    assert called.call_count == 7


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
async def test_a_failure_gives_up_the_requests_that_are_under_way(make, wire):
    wire.get("/api/2.0/serving-endpoints/ep").respond(json={"task": "llm/v1/embeddings"})
    begun, given_up = [], []

    async def some(request: httpx.Request) -> httpx.Response:
        if texts_of(request) == ["7"]:
            while len(begun) < 9:
                await anyio.lowlevel.checkpoint()
            return httpx.Response(400, json={"message": "too long"})
        begun.append(texts_of(request))
        try:
            await anyio.sleep_forever()
        finally:
            given_up.append(texts_of(request))

    route(wire).mock(side_effect=some)
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError, match=r"input\[7:8\]"):
            await client.endpoint("ep").embed(NUMBERS, batch_size=1, concurrency=10)
        assert permits(client) == 0
    assert len(begun) == 9
    assert sorted(given_up) == sorted(begun)


async def test_the_error_of_one_request_for_all_texts_names_no_part_of_them(make, wire):
    wire.get("/api/2.0/serving-endpoints/ep").respond(json={"task": "llm/v1/embeddings"})
    route(wire).respond(400, json={"message": "too long"})
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError) as caught:
            await client.endpoint("ep").embed(NUMBERS)
    assert "input[" not in caught.value.message


async def test_a_missing_vector_is_noticed_in_the_request_that_misses_it(make, wire):
    def short(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=vectors_answer(*[[1.0]] * min(2, len(texts_of(request)))))

    route(wire).mock(side_effect=short)
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="3 texts were sent and 2 vectors"):
            await client.endpoint("ep").embed(NUMBERS[:5], batch_size=3)


async def test_all_requests_share_one_time(make, wire, clock):
    def slow(request: httpx.Request) -> httpx.Response:
        clock.time += 4
        return httpx.Response(500)

    route(wire).mock(side_effect=slow)
    async with make(retry=dbllm.Retry(attempts=9, backoff=0)) as client:
        clock.on(client)
        began = clock.time
        with pytest.raises(dbllm.APIError):
            await client.endpoint("ep").embed(NUMBERS, batch_size=5, concurrency=1, timeout=10)
    assert clock.time - began <= 12


@pytest.mark.parametrize("name", ["batch_size", "batch_bytes", "concurrency"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
async def test_a_limit_is_a_whole_number_from_one(make, wire, name, value):
    async with make() as client:
        with pytest.raises(ValueError, match=f"{name} must be (1 or more|an integer), got {value!r}"):
            await client.endpoint("ep").embed(NUMBERS, **{name: value})
    assert not wire.calls


@given(st.lists(st.text(max_size=12), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 30))
def test_every_text_is_in_one_batch_within_the_limits(texts: list[str], size: int, most: int) -> None:
    batches = split(texts, size, most)
    assert [text for batch in batches for text in batch.texts] == texts
    for batch in batches:
        held = sum(len(text.encode()) for text in batch.texts)
        assert len(batch.texts) <= size
        assert held <= most or len(batch.texts) == 1
        assert texts[batch.begin : batch.begin + len(batch.texts)] == batch.texts
    for batch, after in itertools.pairwise(batches):  # none is begun too early
        whole = sum(len(text.encode()) for text in [*batch.texts, after.texts[0]])
        assert len(batch.texts) == size or whole > most


# --- vectors as arrays ------------------------------------------------------------------------------------------------

VECTORS = [[0.5, -1.25, 3.0], [1.0, 0.0, -0.0]]


def coded(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_lists_of_floats_and_a_float32_array_whatever_their_encoding(encoding: str) -> None:
    numpy = pytest.importorskip("numpy")
    rows = [coded(vector) if encoding == "base64" else vector for vector in VECTORS]
    data = [{"index": place, "embedding": row} for place, row in reversed(list(enumerate(rows)))]
    reply = dbllm.Embeddings.model_validate_json(json.dumps({"data": data}))
    assert reply.vectors == VECTORS
    assert all(type(number) is float for vector in reply.vectors for number in vector)
    array = reply.as_numpy()
    assert (array.dtype, array.shape) == (numpy.float32, (2, 3))
    assert array.tolist() == VECTORS
    assert reply.model_dump(exclude_unset=True) == {"data": data}


def test_without_numpy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match="pip install numpy"):
        dbllm.Embeddings.model_validate({"data": [{"embedding": [1.0]}]}).as_numpy()


async def test_base64_is_asked_for_as_any_parameter(make, wire):
    numpy = pytest.importorskip("numpy")

    def encoded(request: httpx.Request) -> httpx.Response:
        body: dict[str, Any] = json.loads(request.content)
        assert body["encoding_format"] == "base64"
        return httpx.Response(200, json={"data": [{"embedding": coded([float(text)])} for text in body["input"]]})

    route(wire).mock(side_effect=encoded)
    async with make() as client:
        reply = await client.endpoint("ep").embed(NUMBERS, batch_size=10, encoding_format="base64")
    assert (reply.as_numpy()[:, 0] == numpy.arange(25)).all()


# --- progress ---------------------------------------------------------------------------------------------------------


async def test_a_function_is_told_after_each_request_how_many_texts_are_done(make, wire):
    route(wire).mock(side_effect=answer_for)
    told: list[tuple[int, int]] = []
    async with make() as client:
        endpoint = client.endpoint("ep")
        await endpoint.embed(NUMBERS, batch_size=10, progress=lambda done, total: told.append((done, total)))
        assert sorted(told) == told  # never backwards
        assert (len(told), told[-1]) == (3, (25, 25))
        assert {done for done, _ in told} <= {5, 10, 15, 20, 25}
        del told[:]
        await endpoint.embed("1", progress=lambda done, total: told.append((done, total)))
        assert told == [(1, 1)]
        await endpoint.embed(["1"], progress=False)


async def test_the_function_may_be_async(make, wire, mode):
    route(wire).mock(side_effect=answer_for)
    told = []

    async def tell(done: int, total: int) -> None:
        if mode != "sync":
            await anyio.lowlevel.checkpoint()
        told.append((done, total))

    async with make() as client:
        await client.endpoint("ep").embed(NUMBERS, batch_size=20, progress=tell)
    assert sorted(told)[-1] == (25, 25)
    assert len(told) == 2


async def test_what_it_raises_is_logged_and_the_texts_are_embedded(make, wire, caplog):
    route(wire).mock(side_effect=answer_for)

    def broken(done: int, total: int) -> None:
        raise LookupError("no bar")

    async with make() as client:
        reply = await client.endpoint("ep").embed(NUMBERS, batch_size=20, progress=broken)
    assert len(reply.vectors) == 25
    assert [record.message for record in caplog.records] == ["progress raised an exception, and is called no more"]
    assert "no bar" in caplog.text


async def test_progress_begins_anew_where_the_fallback_takes_over(make, wire):
    def first(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503) if "20" in texts_of(request) else answer_for(request)

    route(wire).mock(side_effect=first)
    wire.post("/serving-endpoints/other/invocations").mock(side_effect=answer_for)
    told: list[int] = []
    async with make(retry=ONCE) as client:
        endpoint = client.endpoint("ep", fallback=["other"])
        reply = await endpoint.embed(
            NUMBERS, batch_size=20, concurrency=1, progress=lambda done, total: told.append(done)
        )
    assert (reply.answered_by, told) == ("other", [20, 20, 25])


async def test_progress_that_cannot_be_called_is_refused_before_anything_is_sent(make, wire):
    async with make() as client:
        for wrong in (1, "bar", []):
            with pytest.raises(TypeError, match=r"progress takes a function of \(done, total\), or True, not"):
                await client.endpoint("ep").embed(NUMBERS, progress=wrong)
    assert not wire.calls


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_true_shows_a_line_on_a_terminal_and_in_a_notebook_and_nothing_elsewhere(make, wire, monkeypatch):
    route(wire).mock(side_effect=answer_for)
    shown = []
    async with make() as client:
        for place in ("terminal", "notebook", "pipe", "no stderr"):
            out, err = io.StringIO(), Screen() if place == "terminal" else io.StringIO()
            with monkeypatch.context() as patch:
                if place == "notebook":
                    patch.setitem(sys.modules, "ipykernel", sys)
                patch.setattr(sys, "stdout", out)
                patch.setattr(sys, "stderr", None if place == "no stderr" else err)
                await client.endpoint("ep").embed(NUMBERS, batch_size=20, concurrency=1, progress=True)
            shown.append((out.getvalue(), err.getvalue()))
    line = "\r20 of 25 texts (80%)\r25 of 25 texts (100%)\n"
    assert shown == [("", line), (line, ""), ("", ""), ("", "")]
