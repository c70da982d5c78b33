"""What runs in a Spark task: rows come in, are sent by bulk's scheduler, and go out in the order of their answers.

Spark forks its Python workers and uses them again. So the event loop (in a thread) and the client are made in the
worker when its first task needs them; they serve its next tasks, and end when it has been idle for some seconds. The
task's own thread only hands over: it yields what is ready, and an empty batch now and then, so that Spark sees that the
worker lives.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from .._transport.adaptive import AdaptiveConcurrency
from .._transport.limits import BURST, BYTES_A_TOKEN, Cost, RateLimiter
from ..bulk import Item, RowInputError, RowMapper, RowResult, Rows
from ..bulk.failures import failed_result
from ..bulk.scheduler import Scheduler
from ..errors import DbllmError
from .columns import arrow_type, import_packages, python_values, result_of, value_of
from .ledger import LedgerIndex, LedgerWriter, key_of_values
from .share import Share

log = logging.getLogger("dbllm.spark")

T = TypeVar("T")

CHUNK_ROWS = 64  # read at a time; what is kept of the input while one of these rows is under way
YIELD_ROWS = 200  # of all tasks together: so many answers wait at the most until they are handed on
FEWEST_YIELD_ROWS = 8
YIELD_SECONDS = (0.05, 1.0)  # how long a ready row waits for others: little at first, so that a `limit` costs little
FIRST_LOOK_SECONDS = 0.2  # after the first rows: a `limit` may have enough of them, or what follows may fail
RETRY_ROWS = 8  # sent first by a task that is tried again: what follows may fail again; half of them the next time
HEARTBEAT_SECONDS = 1.0
IDLE_SECONDS = 2.0
STOP_SECONDS = 5.0


class RowFailedError(DbllmError):
    """With `on_error="raise"`: a row has no answer. The message says why."""


@dataclass(frozen=True)
class TaskPlan:
    """What a task needs to know; it travels in the closure, so it holds no credential.

    Attributes:
        uid: of the call that made the plan; a worker keeps its connections from task to task of one.
        mapper: calls the model.
        share: the limits.
        row_of: how a row of Spark becomes one of the mapper.
        columns: those that `row_of` needs.
        output: what `output` holds; see `columns`.
        places: where `columns` stand in a batch, whose own names are others.
        ledger: the folder of the job, or None.
        key: the columns whose values, with what is asked, name a row in the ledger.
        on_error: "row" or "raise".
    """

    uid: str
    mapper: RowMapper
    share: Share
    row_of: Callable[[dict[str, Any]], Any]
    columns: tuple[str, ...]
    output: str
    places: tuple[int, ...] = ()
    ledger: Path | None = None
    key: tuple[str, ...] = ()
    on_error: str = "row"
    max_error_rate: float | None = None
    retry_errors: bool = False


# --- what a worker keeps ----------------------------------------------------------------------------------------------


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dbllm.spark", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine there, and wait for what it returns."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread."""

        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        try:
            self.call(end(), STOP_SECONDS)
        except TimeoutError:
            log.warning("calls did not end in %s seconds", STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)


class WorkerState:
    """The loop, the client and the rate limiters of one plan in one Python worker."""

    def __init__(self, plan: TaskPlan) -> None:
        self.pid, self.uid, self.mapper = os.getpid(), plan.uid, plan.mapper
        self.loop = LoopThread()
        self._limiters: dict[Any, RateLimiter] = {}
        self._users = 0
        self._timer: threading.Timer | None = None

    def limiter(self, share: Share, partition: int) -> RateLimiter:
        """The rates of a partition. The tasks that a worker runs one after another share what they have used."""
        limits = share.limits_of(partition)
        return self._limiters.setdefault(limits, RateLimiter(limits))

    def close(self) -> None:
        """Close the connections, and end the thread."""
        try:
            self.loop.call(self.mapper.aclose(), STOP_SECONDS)
        except Exception as error:  # noqa: BLE001 - nobody is left who could handle it
            log.warning("the client did not close: %s", error)
        self.loop.close()


_lock = threading.Lock()
_state: WorkerState | None = None


def acquire_state(plan: TaskPlan) -> WorkerState:
    """The worker's state for a plan; that of another plan, or of the process that forked this one, is dropped."""
    global _state
    with _lock:
        state = _state
        if state is not None and (state.pid != os.getpid() or (state.uid != plan.uid and not state._users)):
            if state.pid == os.getpid():
                _drop_timer(state)
                state.close()
            state = None
        if state is None or state.uid != plan.uid:
            state = _state = WorkerState(plan)
        _drop_timer(state)
        state._users += 1
        return state


def release_state(state: WorkerState) -> None:
    """A task has ended; its connections stay for the next one, for some seconds."""
    with _lock:
        state._users -= 1
        if not state._users:
            state._timer = threading.Timer(IDLE_SECONDS, _close_idle, [state])
            state._timer.daemon = True
            state._timer.start()


def _close_idle(state: WorkerState) -> None:
    global _state
    with _lock:
        if state._users or state._timer is None:
            return
        state._timer = None
        _state = None if _state is state else _state
        state.close()


def _drop_timer(state: WorkerState) -> None:
    if state._timer is not None:
        state._timer.cancel()
        state._timer = None


# --- one task ---------------------------------------------------------------------------------------------------------


class TaskRows:
    """The rows of a task on their way. Its coroutines run in the worker's loop."""

    def __init__(self, plan: TaskPlan, state: WorkerState, pieces: Iterator[list[Item]], partition: int) -> None:
        self._pieces = pieces
        self.ended = False
        most = plan.share.concurrency(partition)
        self._scheduler = Scheduler(
            state.mapper,
            self._items(),
            concurrency=AdaptiveConcurrency(most, most),
            limits=state.limiter(plan.share, partition),
            retry=state.mapper.retry,
            max_error_rate=plan.max_error_rate,
            on_send=None,
        )
        self._rows = Rows(self._scheduler)

    async def _items(self) -> AsyncIterator[Item]:
        """The rows that are to be sent, read in a thread, since Spark's pipe blocks."""
        while piece := await anyio.to_thread.run_sync(partial(next, self._pieces, None), abandon_on_cancel=True):
            for item in piece:
                yield item

    async def take(self, seconds: float, passed_on: int, most_ahead: int | None) -> list[RowResult]:
        """What is ready, or nothing after some seconds. For the others see `Scheduler.pass_on`."""
        results: list[RowResult] = []
        self._scheduler.pass_on(passed_on, most_ahead)
        with anyio.move_on_after(seconds):
            results = await self._rows.batch()
            self.ended = not results
        return results

    async def aclose(self) -> None:
        await self._rows.aclose()


def use_up_burst(limiter: RateLimiter, now: float) -> None:
    """Count as used what may be sent at once: a task's attempt before this one has; how much died with it."""
    limits = limiter.limits
    given, made = limits.input_tokens_per_minute or 0.0, limits.output_tokens_per_minute or 0.0
    limiter.reserve(Cost(int(given * BURST * BYTES_A_TOKEN), max(1, int(made * BURST))), now)
    for _ in range(int((limits.requests_per_minute or 0.0) * BURST) - 1):
        limiter.reserve(Cost(0, 1), now)


def rows_of_retry(window: int, attempt: int) -> int:
    """How many rows an attempt sends before any has left: all attempts together few, however often Spark tries."""
    return min(window, max(1, RETRY_ROWS >> (attempt - 1)))


class TaskRun:
    """A context: the rows of one task, with the worker's state around them, and the pipe by which they leave.

    Whoever holds it takes results, yields rows when they are due, and says so. What is called beyond the rows that
    Spark has taken stays bounded: by the concurrency, and some rows that wait for others to be yielded together.

    Args:
        in_order: the rows leave in the order in which they came, so nothing is known of those that wait for a slow one.
    """

    def __init__(self, plan: TaskPlan, pieces: Iterator[list[Item]], *, in_order: bool = False) -> None:
        self._plan, self._pieces = plan, pieces
        self.partition, self.attempt = _partition_and_attempt()
        self._pipe = OutputPipe()
        self.yield_rows = max(FEWEST_YIELD_ROWS, YIELD_ROWS // plan.share.tasks)
        self._hold, self._since = YIELD_SECONDS[0], 0.0
        self._passed_on = 0
        window = plan.share.concurrency(self.partition)
        self._later_ahead = None if in_order else window + self.yield_rows
        first = None if in_order else window
        self._ahead = rows_of_retry(window, self.attempt) if self.attempt else first

    def __enter__(self) -> TaskRun:
        self._state = acquire_state(self._plan)
        self._rows = self._state.loop.call(self._begin())
        return self

    async def _begin(self) -> TaskRows:
        if self.attempt:
            use_up_burst(self._state.limiter(self._plan.share, self.partition), asyncio.get_running_loop().time())
        return TaskRows(self._plan, self._state, self._pieces, self.partition)

    @property
    def ended(self) -> bool:
        """Whether every row has its result."""
        return self._rows.ended

    def take(self, ready: int) -> list[RowResult]:
        """What has been answered; nothing after a while.

        Args:
            ready: how many rows wait to be yielded.

        Raises:
            BrokenPipeError: Spark needs no more rows, or the job was cancelled.
        """
        self._pipe.flush()
        wait = self._hold if ready else HEARTBEAT_SECONDS
        results = self._state.loop.call(self._rows.take(wait, self._passed_on, self._ahead))
        if not ready:
            self._since = time.monotonic()
        return results

    def is_due(self, ready: int) -> bool:
        """Whether the rows that are ready are to be yielded now."""
        return ready >= self.yield_rows or (ready > 0 and time.monotonic() - self._since >= self._hold)

    def pass_on(self, rows: int) -> None:
        """So many rows were yielded."""
        is_first, self._passed_on = not self._passed_on, self._passed_on + rows
        self._since, self._hold = time.monotonic(), min(YIELD_SECONDS[1], self._hold * 1.5)
        if is_first:  # until it is clear that Spark goes on, nothing more is sent
            self._pipe.flush()
            self._pipe.wait(FIRST_LOOK_SECONDS)
            self._ahead = self._later_ahead

    def __exit__(self, *_: object) -> None:
        try:
            self._state.loop.call(self._rows.aclose(), STOP_SECONDS)
        finally:
            release_state(self._state)


class OutputPipe:
    """The pipe to Spark, which Python's worker fills only by 64 KiB.

    A row that is ready would wait there until many more are, and `limit(10)` would have paid for all of them; nor would
    an empty batch tell Spark that the worker lives, or the worker that Spark has gone. No argument leads to the pipe,
    so it is looked for among the callers. Where a Spark has it elsewhere, rows come later, and nothing else changes.
    """

    def __init__(self) -> None:
        self._file: Any = None
        frame: Any = sys._getframe()
        while frame is not None and self._file is None:
            file = frame.f_locals.get("outfile")
            if hasattr(file, "flush") and not getattr(file, "closed", True):
                self._file = file
            frame = frame.f_back

    def flush(self) -> None:
        """Hand over what was yielded.

        Raises:
            BrokenPipeError: Spark has closed the pipe: it needs no more rows, or the job was cancelled.
        """
        if self._file is not None:
            self._file.flush()
            self.wait(0.0)

    def wait(self, seconds: float) -> None:
        """See whether Spark closes the pipe; raises as `flush`."""
        if self._file is None or not hasattr(select, "POLLRDHUP"):  # Linux alone tells without a write
            return
        poller = select.poll()
        poller.register(self._file.fileno(), select.POLLRDHUP)
        if poller.poll(seconds * 1000):
            raise BrokenPipeError("Spark has closed the pipe of this task: it needs no more rows, or was cancelled.")


def _partition_and_attempt() -> tuple[int, int]:
    """The partition of this task, and how many attempts of it failed."""
    context = import_packages("pyspark").TaskContext.get()
    return (context.partitionId(), context.attemptNumber()) if context is not None else (0, 0)


@dataclass(slots=True)
class _Chunk:
    """Rows of the input that were read together."""

    batch: Any
    keys: list[bytes | None]


def _raise_first_failure(results: Sequence[RowResult]) -> None:
    for result in results:
        if result.error is not None:
            raise RowFailedError(
                f"a row has no answer: {result.error.name}: {result.error.message} "
                'With on_error="row" it is a row with an error, and the others go on.'
            )


class MapRows:
    """The function of `mapInArrow`: batches of rows in, the same rows with one column more out."""

    def __init__(self, plan: TaskPlan) -> None:
        self._plan = plan
        self._arrow = import_packages("pyarrow")
        self._kind = arrow_type(plan.output)
        self._places: dict[int, tuple[_Chunk, int]] = {}
        self._schema: Any = None
        self._number = count()

    def run(self, batches: Iterator[Any], column: str) -> Iterator[Any]:
        """The results, a batch at a time.

        Raises:
            RowFailedError, TooManyErrors: as `on_error` and `max_error_rate` ask for.
            ConfigError, APIError: the worker has no credential, or there is no such endpoint.
            LedgerError: the ledger cannot be read or written.
        """
        task = TaskRun(self._plan, self._read(batches))
        writer = None
        if self._plan.ledger is not None:
            writer = LedgerWriter(self._plan.ledger, f"{task.partition:05d}.{task.attempt}", self._kind)
            writer.check()
        ready: list[tuple[_Chunk, int, dict[str, Any]]] = []
        try:
            with task:
                while not task.ended:
                    results = task.take(len(ready))
                    for result in results:
                        chunk, place = self._places.pop(result.index)
                        value = value_of(result, self._plan.output)
                        key = chunk.keys[place]
                        if writer is not None and key is not None:
                            writer.add(key, value)
                        ready.append((chunk, place, value))
                    if self._plan.on_error == "raise":  # what came beside it is paid, and recorded
                        _raise_first_failure(results)
                    if writer is not None:
                        writer.flush_if_old()
                    if not results and not ready and self._schema is not None:
                        yield self._batch([], column)
                    while task.is_due(len(ready)):
                        leaving, ready = ready[: task.yield_rows], ready[task.yield_rows :]
                        yield self._batch(leaving, column)
                        task.pass_on(len(leaving))
                if ready:
                    yield self._batch(ready, column)
        finally:
            if writer is not None:
                writer.flush()

    def _read(self, batches: Iterator[Any]) -> Iterator[list[Item]]:
        """The rows of the input in pieces; those that the ledger has come with their results."""
        plan = self._plan
        index = None
        if plan.ledger is not None:
            index = LedgerIndex(plan.ledger, with_errors=not plan.retry_errors)
        for batch in batches:
            if self._schema is None:
                self._schema = batch.schema
            for start in range(0, batch.num_rows, CHUNK_ROWS):
                # A copy: a slice would keep all of its batch while one of its rows is under way.
                rows = range(start, min(start + CHUNK_ROWS, batch.num_rows))
                part = batch.take(self._arrow.array(rows))
                values = [python_values(part.column(place)) for place in plan.places]
                content = [dict(zip(plan.columns, row, strict=True)) for row in zip(*values, strict=True)]
                chunk = _Chunk(part, [self._key(row) for row in content] if index is not None else [None] * len(rows))
                found = index.find(chunk.keys) if index is not None else chunk.keys
                piece: list[Item] = []
                for place, (row, value) in enumerate(zip(content, found, strict=True)):
                    number = next(self._number)
                    self._places[number] = chunk, place
                    if isinstance(value, dict):
                        chunk.keys[place] = None  # it is recorded
                        piece.append(Item(number, result_of(value, number)))
                    else:
                        piece.append(Item(number, self._asked(row, number)))
                yield piece

    def _asked(self, row: dict[str, Any], number: int) -> Any:
        """What the mapper is given, or the result of a row that asks nothing."""
        try:
            return self._plan.row_of(row)
        except RowInputError as error:
            return failed_result([error], number, None)

    def _key(self, row: dict[str, Any]) -> bytes | None:
        plan = self._plan
        try:
            asked = plan.mapper.request(plan.row_of(row)).fingerprint()
        except (ValueError, TypeError):
            return None  # it cannot be sent, so it costs nothing
        return key_of_values([*(row[name] for name in plan.key), asked.hex()]) if plan.key else asked

    def _batch(self, ready: Sequence[tuple[_Chunk, int, dict[str, Any]]], column: str) -> Any:
        arrow = self._arrow
        schema = self._schema.append(arrow.field(column, self._kind))
        places: dict[int, tuple[_Chunk, list[int], list[dict[str, Any]]]] = {}
        for chunk, place, value in ready:
            _, rows, values = places.setdefault(id(chunk), (chunk, [], []))
            rows.append(place)
            values.append(value)
        parts = []
        for chunk, rows, values in places.values():
            taken = chunk.batch.take(arrow.array(rows))
            parts.append(
                arrow.RecordBatch.from_arrays([*taken.columns, arrow.array(values, self._kind)], schema=schema)
            )
        table = arrow.Table.from_batches(parts, schema).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else arrow.RecordBatch.from_pylist([], schema=schema)
