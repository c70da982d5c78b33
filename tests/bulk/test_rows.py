"""Many rows for one model: all of them come back, failures as values, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from support.loopback import Peer, Server
from support.modes import idle, permits

import dbllm
from dbllm import Limits, Retry, bulk
from dbllm.bulk import Item, RowError, RowInputError, RowMapper, RowResult
from dbllm.bulk.errors import EveryRowRefused, TooManyErrors
from dbllm.bulk.requests import Template
from dbllm.bulk.row_mapper import default_verb
from dbllm.bulk.scheduler import Scheduler
from dbllm.testing import ALL_FAULTS, SAFE_FAULTS, fault_server

QUICK = Retry(attempts=8, backoff=0.001, max_backoff=0.02)
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
ROWS = int(os.environ.get("DBLLM_BULK_ROWS", "400"))


def run(loop: str, body: Callable[[], Any]) -> Any:
    return asyncio.run(body()) if loop == "asyncio" else trio.run(body)


def client_of(server: Any, **options: Any) -> dbllm.AsyncClient:
    return dbllm.AsyncClient(server.host, "t", **options)


async def listed(rows: bulk.Rows) -> list[RowResult]:
    return [row async for row in rows]


class Slow:
    """A server whose answers wait until they are let go; it knows how many wait."""

    def __init__(self, serve: Callable[..., Server]) -> None:
        self.open, self.arrived, self.most = threading.Event(), threading.Semaphore(0), 0
        self.waiting, self.lock = 0, threading.Lock()
        self.host = serve(self._play).host

    def _play(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            with self.lock:
                self.waiting += 1
                self.most = max(self.most, self.waiting)
            self.arrived.release()
            if request.line.startswith("POST"):
                self.open.wait(5)
            with self.lock:
                self.waiting -= 1
            text = {"index": 0, "message": {"role": "assistant", "content": "hi"}}
            try:
                peer.answer({"name": "m", "task": "llm/v1/chat", "choices": [text]})
            except OSError:
                return


@LOOPS
def test_every_row_comes_back_once_with_its_answer_and_its_usage(loop: str) -> None:
    async def body(server: Any) -> None:
        async with client_of(server) as client:
            rows = await listed(bulk.rows(client.endpoint("m"), (f"prompt {n}" for n in range(100)), concurrency=16))
        assert sorted(row.index for row in rows) == list(range(100))
        for row in rows:
            assert (row.output, row.ok, row.attempts) == (f"prompt {row.index}", True, 1)
            assert (row.input_tokens, row.output_tokens, row.finish_reason, row.model) == (1, 1, "stop", "echo")

    with fault_server() as server:
        run(loop, lambda: body(server))
        assert server.report().executions == 100 + 1  # the look-up


def keeping_rows(host: str, concurrency: int) -> tuple[Scheduler, bulk.Rows]:
    """60 rows whose consumer says what it has passed on, as that of a Spark task does."""

    async def source() -> AsyncIterator[Item]:
        for place in range(60):
            for _ in range(20):  # those who send are idle meanwhile
                await anyio.lowlevel.checkpoint()
            yield Item(place, {"text": f"prompt {place}"})

    mapper = RowMapper("m", verb="chat", prompt="{text}", host=host, token=lambda: "t", retry=QUICK)
    scheduler = Scheduler(
        mapper, source(), concurrency=concurrency, limits=None, retry=QUICK, max_error_rate=None, on_send=None
    )
    return scheduler, bulk.Rows(scheduler)


@LOOPS
def test_no_more_is_sent_than_may_be_ahead_of_what_the_consumer_has_passed_on(loop: str) -> None:
    async def body(server: Any, concurrency: int, most_ahead: int) -> tuple[int, int]:
        scheduler, rows = keeping_rows(server.host, concurrency)
        scheduler.pass_on(0, most_ahead)
        kept = 0
        while kept < most_ahead:  # it takes, and keeps what it has
            kept += len(await rows.batch())
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        sent = scheduler.tally.attempts
        scheduler.pass_on(kept, most_ahead)
        while batch := await rows.batch():
            kept += len(batch)
            scheduler.pass_on(kept, most_ahead)
        await scheduler.mapper.aclose()
        return sent, kept

    with fault_server() as server:
        for concurrency, most_ahead in ((1, 1), (1, 5), (4, 4), (16, 8), (4, 30)):
            found = run(loop, partial(body, server, concurrency, most_ahead))
            assert found == (most_ahead, 60), (concurrency, most_ahead)


@LOOPS
def test_a_consumer_that_keeps_all_still_learns_that_every_row_is_refused(
    loop: str, serve: Callable[..., Server]
) -> None:
    def play(peer: Peer) -> None:
        for request in iter(peer.request, None):
            found = request.line.startswith("GET")
            peer.answer({"name": "m", "task": "llm/v1/chat"} if found else {"message": "no"}, 200 if found else 404)

    async def body(host: str) -> None:
        scheduler, rows = keeping_rows(host, 16)
        scheduler.pass_on(0, 3)  # fewer than the refusals that are held back until it is clear that all are
        with pytest.raises(EveryRowRefused), anyio.fail_after(20):
            await listed(rows)
        await scheduler.mapper.aclose()

    run(loop, partial(body, serve(play).host))


@LOOPS
def test_an_async_source_is_read_as_its_rows_are_needed_and_closed(loop: str) -> None:
    closed = []

    async def source() -> AsyncIterator[str]:
        try:
            for number in range(60):
                await anyio.lowlevel.checkpoint()
                yield f"p{number}"
        finally:
            closed.append(True)

    async def body(server: Any) -> None:
        async with client_of(server) as client:
            assert len(await listed(bulk.rows(client.endpoint("m"), source(), concurrency=4))) == 60
            async with bulk.rows(client.endpoint("m"), source(), concurrency=4) as rows:
                await rows.__anext__()
        assert len(closed) == 2

    with fault_server() as server:
        run(loop, lambda: body(server))


def test_plain_code_gets_the_same_rows_inside_a_running_loop_and_of_either_client() -> None:
    async def inside(server: Any) -> None:
        with dbllm.Client(server.host, "t") as client:
            rows = list(bulk.rows_sync(client.endpoint("m"), ["a", "b", "c"], concurrency=2))
        assert sorted(row.output for row in rows) == ["a", "b", "c"]

    with fault_server() as server:
        asyncio.run(inside(server))
        client = client_of(server)
        with bulk.rows_sync(client.endpoint("m"), ["a", "b", "c"]) as rows:
            assert sorted(row.output for row in rows) == ["a", "b", "c"]
            assert rows.progress().done == 3
        with bulk.rows_sync(client.endpoint("m"), (f"p{n}" for n in range(500)), concurrency=4) as rows:
            assert next(rows).ok
        threads = [one.name for one in threading.enumerate() if one.name.startswith("AnyIO")]
        assert not [name for name in threads if "portal" in name.lower()]


@LOOPS
def test_a_bad_row_is_an_error_row_and_ends_nothing(loop: str) -> None:
    rows = ["good", {"prompt": "good"}, {"other": 1}, 7, None, {"prompt": "x" * 10}, {"messages": []}, ["no messages"]]

    async def body(server: Any) -> None:
        async with client_of(server) as client:
            results = {row.index: row for row in await listed(bulk.rows(client.endpoint("m"), rows, concurrency=2))}
        assert [results[place].ok for place in range(8)] == [True, True, False, False, False, True, False, False]
        error = results[2].error
        assert error is not None
        assert (error.name, error.attempts, error.may_be_paid) == ("RowInputError", 0, False)
        assert "needs a column 'prompt'" in error.message
        again = RowResult.from_dict(results[2].as_dict())
        assert again == results[2]
        assert results[7].error is not None
        assert results[7].error.name in ("TypeError", "RowInputError")

    with fault_server() as server:
        run(loop, lambda: body(server))


@LOOPS
def test_the_reader_stays_within_twice_the_concurrency(loop: str, serve: Callable[..., Server]) -> None:
    slow, read = Slow(serve), []

    def source() -> Iterator[str]:
        for number in range(1000):
            read.append(number)
            yield f"p{number}"

    async def body() -> None:
        async with client_of(slow) as client:
            rows = bulk.rows(client.endpoint("m", task="chat"), source(), concurrency=5)
            async with anyio.create_task_group() as group:
                group.start_soon(rows.__anext__)
                for _ in range(5):
                    await anyio.to_thread.run_sync(slow.arrived.acquire)
                assert rows.progress().in_flight == 5
                assert len(read) <= 10
                slow.open.set()
            for _ in range(20):  # results that nobody takes hold the reader back as well
                await anyio.lowlevel.checkpoint()
            taken = 1
            async for _ in rows:
                taken += 1
                assert len(read) - taken <= 10
                if taken == 200:
                    break
            await rows.aclose()
        assert slow.most <= 5

    run(loop, body)


@LOOPS
@pytest.mark.parametrize("how", ["aclose", "drop", "cancel", "with"])
def test_leaving_early_cancels_what_is_in_flight_and_leaves_nothing(
    loop: str, how: str, serve: Callable[..., Server]
) -> None:
    slow = Slow(serve)

    async def body() -> None:
        async with client_of(slow) as client:
            rows: Any = bulk.rows(client.endpoint("m", task="chat"), (f"p{n}" for n in range(100)), concurrency=8)
            with anyio.move_on_after(30) as scope:
                async with anyio.create_task_group() as group:

                    async def wait_for_all() -> None:
                        for _ in range(8):
                            await anyio.to_thread.run_sync(slow.arrived.acquire)
                        group.cancel_scope.cancel()

                    group.start_soon(wait_for_all)
                    await rows.__anext__()
            assert not scope.cancelled_caught
            assert permits(client) == 8
            if how == "aclose":
                await rows.aclose()
                await rows.aclose()
            elif how == "cancel":
                rows.cancel()
                assert await listed(rows) == []
            elif how == "with":
                async with rows:
                    pass
            else:
                del rows
                gc.collect()
            with anyio.fail_after(10):
                while permits(client):  # noqa: ASYNC110 - nothing tells of it
                    await anyio.sleep(0.001)
            assert idle(client) == 0

    try:
        run(loop, body)
    finally:
        slow.open.set()


@LOOPS
def test_stopping_awaits_what_is_in_flight(loop: str, serve: Callable[..., Server]) -> None:
    slow = Slow(serve)

    async def body() -> None:
        async with client_of(slow) as client:
            rows = bulk.rows(client.endpoint("m", task="chat"), (f"p{n}" for n in range(100)), concurrency=8)
            results: list[RowResult] = []

            async def read() -> None:
                results.extend(await listed(rows))

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                for _ in range(8):
                    await anyio.to_thread.run_sync(slow.arrived.acquire)
                rows.stop()
                slow.open.set()
            assert sorted(row.index for row in results) == list(range(8))

    run(loop, body)


@LOOPS
def test_what_the_source_raises_comes_after_the_rows_before_it(loop: str) -> None:
    def plain() -> Iterator[str]:
        yield from ("a", "b")
        raise OSError("the disk is gone")

    async def waiting() -> AsyncIterator[str]:
        for one in plain():
            yield one

    async def body(server: Any) -> None:
        async with client_of(server) as client:
            for source in (plain(), waiting()):
                rows = bulk.rows(client.endpoint("m"), source)
                assert sorted([(await rows.__anext__()).output, (await rows.__anext__()).output]) == ["a", "b"]
                with pytest.raises(OSError, match="the disk is gone"):
                    await rows.__anext__()
                assert await listed(rows) == []

    with fault_server() as server:
        run(loop, lambda: body(server))


@LOOPS
def test_an_endpoint_that_does_not_exist_ends_the_job_before_a_row_is_sent(
    loop: str, serve: Callable[..., Server]
) -> None:
    read: list[int] = []
    server = serve(
        lambda peer: [peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST"}, 404) for _ in iter(peer.request, None)]
    )

    async def body() -> None:
        async with client_of(server) as client:
            with pytest.raises(dbllm.NotFoundError):
                await listed(bulk.rows(client.endpoint("m"), (read.append(n) or "p" for n in range(9))))

    run(loop, body)
    assert not read


@LOOPS
def test_too_many_errors_stop_the_job_and_say_which(loop: str) -> None:
    async def body(server: Any) -> None:
        async with client_of(server) as client:
            rows = bulk.rows(client.endpoint("m"), ({"n": n} for n in range(10_000)), max_error_rate=0.2)
            with pytest.raises(TooManyErrors, match=r"100% of the last 200 rows failed \(\d+ RowInputError\)"):
                await listed(rows)
            assert 200 <= rows.progress().done <= 300

    with fault_server() as server:
        run(loop, lambda: body(server))


@LOOPS
def test_safe_faults_are_tried_again_until_the_row_is_answered(loop: str) -> None:
    async def body(server: Any) -> None:
        async with client_of(server) as client:
            rows = bulk.rows(
                client.endpoint("m", task="chat"), (f"p{n}" for n in range(ROWS)), concurrency=32, retry=QUICK
            )
            results = await listed(rows)
            progress = rows.progress()
        failed = [row.error for row in results if row.error]
        assert sorted(row.index for row in results) == list(range(ROWS))
        assert len(failed) <= max(1, ROWS * 0.0005), failed
        assert progress.retries == progress.attempts - ROWS > 0.1 * ROWS
        assert sum(row.input_tokens or 0 for row in results) == ROWS - len(failed)

    mix = {**SAFE_FAULTS, "close_race": 0.0}  # what counts as never sent there depends on how fast this machine is
    with fault_server(mix=mix, seed=3, pause=0.02) as server:
        run(loop, lambda: body(server))


@pytest.mark.parametrize("again", [False, True])
def test_what_may_have_been_paid_is_sent_again_only_where_it_is_asked_for(again: bool) -> None:
    retry = Retry(attempts=8, backoff=0.001, max_backoff=0.02, retry_ambiguous=again)

    async def body(server: Any) -> None:
        async with client_of(server, timeout=2.0) as client:
            rows = bulk.rows(
                client.endpoint("m", task="chat"), (f"p{n}" for n in range(ROWS)), concurrency=64, retry=retry
            )
            results = await listed(rows)
        errors = [row.error for row in results if row.error]
        assert sorted(row.index for row in results) == list(range(ROWS))
        if again:
            assert len(errors) <= max(1, ROWS * 0.0005), errors
            assert sum(row.unclear > 0 for row in results) > 0.02 * ROWS
        else:
            assert errors
            assert all(error.may_be_paid for error in errors), errors

    mix = {**ALL_FAULTS, "early_413": 0.0}
    with fault_server(mix=mix, seed=5, pause=0.02, stall=0.3, run=0.15) as server:
        asyncio.run(body(server))
        report = server.report()
        if not again:  # 500 and 502 are sent again by the table of who may be sent twice
            assert set(report.ran_again) <= {"500", "502"}


def test_a_row_without_a_retry_tells_its_error_in_full() -> None:
    async def body(server: Any) -> dict[str, RowError]:
        async with client_of(server, timeout=1.0) as client:
            rows = bulk.rows(client.endpoint("m", task="chat"), [f"p{n}" for n in range(60)], retry=Retry(attempts=1))
            return {row.error.name: row.error for row in await listed(rows) if row.error}

    with fault_server(mix={"429": 0.3, "500": 0.3, "truncated_json": 0.3}, seed=1) as server:
        errors = asyncio.run(body(server))
    assert set(errors) == {"RateLimitError", "InternalServerError", "APIResponseError"}
    assert (errors["RateLimitError"].status, errors["RateLimitError"].may_be_paid) == (429, False)
    assert (errors["InternalServerError"].status, errors["InternalServerError"].may_be_paid) == (500, True)
    assert (errors["APIResponseError"].status, errors["APIResponseError"].may_be_paid) == (200, True)
    assert errors["RateLimitError"].retryable
    assert {error.attempts for error in errors.values()} == {1}


def test_a_row_has_the_index_it_was_given_and_the_hook_is_told_of_each_attempt() -> None:
    sent: Counter[int] = Counter()

    async def body(server: Any) -> list[RowResult]:
        async with client_of(server) as client:
            items = [Item(7, "a"), Item(3, {"custom_id": "x", "prompt": "b"})]
            return await listed(bulk.rows(client.endpoint("m"), items, on_send=lambda index: sent.update([index])))

    with fault_server() as server:
        results = asyncio.run(body(server))
    assert {row.index: (row.key, row.output) for row in results} == {7: (None, "a"), 3: ("x", "b")}
    assert sent == {7: 1, 3: 1}


def test_arguments_that_cannot_be_used_say_so() -> None:
    client = dbllm.AsyncClient("https://workspace.example.com", "t")
    handle = client.endpoint("m")
    for wrong, options, why in (
        ("one prompt", {}, r"rows\(\) takes many rows, got one str"),
        (["a"], {"concurrency": 0}, "concurrency must be an integer, 1 or more"),
        (["a"], {"max_error_rate": 2}, "max_error_rate must be between 0 and 1"),
        (["a"], {"verb": "summarise"}, "verb must be one of complete, chat"),
        (["a"], {"prompt": "{"}, "the prompt template"),
    ):
        with pytest.raises((TypeError, ValueError), match=why):
            bulk.rows(handle, wrong, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the RowMapper has its own verb"):
        bulk.rows(RowMapper("m"), ["a"], verb="chat")


# --- the mapper -----------------------------------------------------------------------------------------------------


def test_a_mapper_travels_by_pickle_and_makes_its_client_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = RowMapper("m", prompt="Say {word}", params={"max_tokens": 5})
    packed = pickle.dumps(mapper)
    with fault_server() as server:
        monkeypatch.setenv("DATABRICKS_HOST", server.host)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-secret")
        assert b"dapi-secret" not in packed
        there = pickle.loads(packed)
        assert there.call({"word": "hi"}).output == "Say hi"

        async def body() -> None:
            assert (await there({"word": "ho"})).output == "Say ho"
            missing = await there({"wrd": "ho"}, index=4)
            assert missing.index == 4
            assert missing.error is not None
            assert missing.error.name == "RowInputError"
            await there.aclose()

        asyncio.run(body())
        trio.run(body)
        assert b"dapi-secret" not in pickle.dumps(there)
        there.call({"word": "hi"})
        assert b"dapi-secret" not in pickle.dumps(there)
        asyncio.run(there.aclose())


def test_a_mapper_takes_no_token_and_a_handle_stays_in_its_process() -> None:
    with pytest.raises(TypeError, match="RowMapper takes no token") as caught:
        RowMapper("m", token="dapi-secret")  # type: ignore[arg-type]
    assert "dapi-secret" not in str(caught.value)
    client = dbllm.AsyncClient("https://workspace.example.com", "t")
    mapper = RowMapper(handle=client.endpoint("m"))
    with pytest.raises(TypeError, match="cannot be pickled: pass endpoint="):
        pickle.dumps(mapper)
    assert "RowMapper" in repr(mapper)
    for wrong in ({}, {"endpoint": "a", "driver_app": 7777}):
        with pytest.raises(TypeError, match="takes one of endpoint="):
            RowMapper(**wrong)
    assert mapper.call("hello").error is not None  # a handle of an AsyncClient cannot be called plainly
    assert "await the mapper" in mapper.call("hello").error.message  # type: ignore[union-attr]


def test_a_mapper_that_is_called_row_by_row_keeps_its_limits(serve: Callable[..., Server]) -> None:
    server = Slow(serve)
    mapper = RowMapper("m", verb="chat", host=server.host, token=lambda: "t", limits=Limits(concurrency=2))

    async def ask() -> None:
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(mapper, f"row {number}")
            for _ in range(2):
                await anyio.to_thread.run_sync(server.arrived.acquire)
            await anyio.wait_all_tasks_blocked()
            server.open.set()
        await mapper.aclose()

    asyncio.run(ask())
    assert server.most == 2


def test_a_failure_of_the_mapper_is_an_error_row(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda peer: [peer.answer({"message": "no"}, 403) for _ in iter(peer.request, None)])
    mapper = RowMapper("m", host=server.host, token=lambda: "t")
    result = mapper.call("hello")
    assert result.error is not None
    assert (result.error.name, result.error.status) == ("PermissionDeniedError", 403)
    asyncio.run(mapper.aclose())


@pytest.mark.parametrize(
    ("task", "row", "verb"),
    [
        ("llm/v1/chat", "hello", "complete"),
        ("llm/v1/chat", {"messages": [{"role": "user", "content": "hello"}]}, "chat"),
        ("llm/v1/embeddings", "hello", "embed"),
        ("agent/v1/responses", {"input": "hello"}, "respond"),
        (None, {"a": 1}, "predict"),
        (None, {"prompt": "hello"}, "complete"),
        (None, "hello", "complete"),
    ],
)
def test_the_verb_is_what_the_endpoint_speaks(
    task: str | None, row: Any, verb: str, serve: Callable[..., Server]
) -> None:
    def play(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.line.startswith("GET"):
                peer.answer({"name": "m"} | ({"task": task} if task else {}))
                continue
            asked.append(request.json)
            peer.answer(
                {
                    "complete": {"predictions": ["yes"], "choices": [{"index": 0, "message": {"content": "yes"}}]},
                    "chat": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}]},
                    "embed": {"data": [{"index": 0, "embedding": [1.0]}]},
                    "respond": {"output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]},
                    "predict": {"predictions": ["yes"]},
                }[verb]
            )

    asked: list[Any] = []
    mapper = RowMapper("m", host=serve(play).host, token=lambda: "t")
    result = mapper.call(row)
    assert result.error is None, result.error
    assert result.output == ([1.0] if verb == "embed" else "yes")
    assert len(asked) == 1
    asyncio.run(mapper.aclose())


def test_a_chat_model_that_does_responses_too_is_asked_as_a_chat_model() -> None:
    both, agent = ("complete", "chat", "respond"), ("complete", "respond")
    messages = [{"role": "user", "content": "hello"}]
    table: list[tuple[Any, tuple[str, ...], Template | None, str]] = [
        ({"text": "a"}, both, Template("Say {text}"), "complete"),
        ({"prompt": "a"}, both, None, "complete"),
        ("a", both, None, "complete"),
        ({"messages": messages}, both, None, "chat"),
        ({"custom_id": "a", "body": {"messages": messages}}, both, None, "chat"),
        ({"input": "a", "text": "b"}, both, Template("Say {text}"), "complete"),
        ({"input": "a", "prompt": "b"}, both, None, "complete"),
        ({"input": "a"}, both, None, "respond"),
        ({"custom_id": "a", "body": {"input": "a"}}, both, None, "respond"),
        ({"text": "a"}, agent, Template("Say {text}"), "respond"),
        ({"messages": messages}, agent, None, "respond"),
        ("a", agent, None, "respond"),
    ]
    found = [(row, verbs, default_verb(row, verbs, template)) for row, verbs, template, _ in table]
    assert found == [(row, verbs, verb) for row, verbs, _, verb in table]


def test_limits_hold_for_rows_on_a_real_server() -> None:
    async def body(server: Any) -> float:
        async with client_of(server) as client:
            limits = Limits(requests_per_minute=6000, concurrency=4)
            rows = bulk.rows(client.endpoint("m", task="chat"), [f"p{n}" for n in range(1100)], limits=limits)
            assert all(row.ok for row in await listed(rows))
            return rows.progress().seconds

    with fault_server() as server:
        assert asyncio.run(body(server)) >= 0.9  # the burst is 1,000; 100 more take a second


def test_an_error_row_is_a_plain_value() -> None:
    error = RowError.of(RowInputError("column 'a' is missing"))
    assert pickle.loads(pickle.dumps(error)) == error
    row = RowResult(1, "k", {"x": 1}, error=error)
    assert RowResult.from_dict(row.as_dict()) == row
    assert not row.ok
