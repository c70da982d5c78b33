"""Sends many rows: reads them only as fast as they are answered, keeps the limits, and tries again.

Four gates stand in this order: the reader stops when twice as many rows are under way as may be sent at once; the rate
limiter reserves requests and tokens; the concurrency adapts; a row that failed waits outside until its time has come,
and holds no place meanwhile. `Scheduler` runs inside one event loop, so nothing here needs a lock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import anyio
import anyio.to_thread

from dbllm import APIError, Limits, Retry

from .._transport.adaptive import AdaptiveConcurrency, FixedConcurrency
from .._transport.limits import Cost, RateLimiter, Reservation
from .event_loop import running_loop
from .failures import Refusals, failed_result, is_overload, is_throttled, may_be_paid, next_attempt_after, single_error
from .progress import Item, Progress, Tally
from .requests import RowRequest, most_tokens
from .results import RowResult
from .row_mapper import RowMapper, key_of, sending_once

TICK = 0.001  # seconds: a clock does not move by less
PATIENCE = 600.0  # seconds in which nothing is answered, until a row that is always turned away fails


@dataclass(slots=True, eq=False)
class _Job:
    """A row on its way."""

    index: int
    row: Any
    request: RowRequest
    cost: Cost
    errors: list[Exception] = field(default_factory=list)
    reservation: Reservation | None = None


class Scheduler:
    """Sends the rows of one job. `Rows` is what users hold; see `rows` for the arguments."""

    def __init__(
        self,
        mapper: RowMapper,
        items: Iterator[Item] | AsyncIterator[Item],
        *,
        concurrency: int | FixedConcurrency | None,
        limits: Limits | RateLimiter | None,
        retry: Retry,
        max_error_rate: float | None,
        on_send: Callable[[int], object] | None,
        on_result: Callable[[RowResult], object] | None = None,
    ) -> None:
        self.mapper, self.retry, self.max_error_rate, self.on_send = mapper, retry, max_error_rate, on_send
        self.on_result = on_result
        self.clock: Callable[[], float]  # the event loop's; and its kind of event, made without asking which loop it is
        self._event: Callable[[], Any]
        self._yield: Any = None
        # Whoever runs several, one after another, passes a limiter that knows what those before have used.
        self.limiter = limits if isinstance(limits, RateLimiter) else RateLimiter(limits or Limits())
        wanted = concurrency or self.limiter.limits.concurrency
        wanted = FixedConcurrency(wanted) if isinstance(wanted, int) else wanted
        self.concurrency = wanted if isinstance(wanted, FixedConcurrency) else AdaptiveConcurrency()
        self._items = items
        self._lazy = items if isinstance(items, Iterator) else None  # read where a worker needs it
        self._counts_tokens = self.limiter.limits.counts_tokens
        self.results: deque[RowResult] = deque()
        self.failure: BaseException | None = None
        self.finished = False
        self._ready: deque[_Job] = deque()
        self._parked: list[tuple[float, int, _Job]] = []  # a heap
        self._ticket = count()
        self._running: set[_Job] = set()
        self._idle: deque[Any] = deque()
        self._timer_at, self._workers = float("inf"), 0
        self._watch: Any = None  # the event of the worker that looks at the clock
        self._exhausted = self._stopped = self._cancelled = False
        self.most_ahead: int | None = (
            None  # rows read beyond those that the consumer has passed on; None: does not count
        )
        self._taken = self._passed_on = 0
        self._room: Any = None  # the reader of an async input waits for it
        self._came: Any = None  # the consumer waits for it
        self._ended: Any = None
        self._scope: anyio.CancelScope | None = None
        self._began: float | None = None
        self._last_answer = 0.0
        self.tally = Tally()
        self.refusals = Refusals(may_end=max_error_rate != 1)  # 1 means: whatever fails, go on

    # --- what a consumer does -----------------------------------------------------------------------------------------

    def spawn(self) -> None:
        """Begin, in a task of its own: no cancel scope may stay open while the user holds a row."""
        loop = running_loop()
        self.clock, self._event, self.call_soon, self._yield = loop.clock, loop.event, loop.call_soon, loop.yield_now
        self._ended = loop.event()
        self._task = loop.start(self._run)

    async def wait(self) -> bool:
        """Wait for a result; False at the end."""
        while not self.results:
            if self.finished:
                return False
            if self._came is None:
                self._came = self._event()
            await self._came.wait()
        return True

    def take(self) -> RowResult:
        """A result that is there."""
        result = self.results.popleft()
        self._taken += 1
        self._wake_reader()
        return result

    def pass_on(self, rows: int, most_ahead: int | None) -> None:
        """So many of the results that were taken are out of the consumer's hands.

        Args:
            rows: since the beginning.
            most_ahead: how many rows may be read beyond those; None: as many as serve the speed.
        """
        self._passed_on, self.most_ahead = rows, most_ahead
        self._wake_reader()

    def stop(self) -> None:
        """Send no further row; those in flight are awaited."""
        self._stopped = True
        self._wake_all()

    def cancel(self) -> None:
        """End what is in flight."""
        self._cancelled = self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    async def aclose(self) -> None:
        """Cancel, and wait until everything is closed."""
        self.cancel()
        await self._ended.wait()

    def progress(self) -> Progress:
        """Where the job is."""
        seconds = 0.0 if self._began is None else self.clock() - self._began
        return self.tally.progress(len(self._running), self.concurrency.limit(), len(self._parked), seconds)

    def in_flight(self) -> list[int]:
        """The indices of the rows that are being sent."""
        return [job.index for job in self._running]

    # --- the tasks ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope
                if self._cancelled:
                    scope.cancel()
                await self.mapper.start()
                # The core sends once: tries again are made here, where they hold no place.
                self.handle = sending_once(self.mapper.async_handle(), self.mapper.timeout)
                blocks = hasattr(self.handle, "_core")  # of a sync Client: each call takes a thread
                self._threads = anyio.CapacityLimiter(self.concurrency.most) if blocks else None
                self._began = self._last_answer = self.clock()
                async with anyio.create_task_group() as self._group:
                    if self._lazy is None:
                        self._group.start_soon(self._read_all)
                    # At once, not when each is needed: a task that the loop's end cancels before its first step warns.
                    for _ in range(self.concurrency.limit()):
                        self._hire()
                self._deliver_all(self.refusals.rest(was_stopped=self._stopped))
        except BaseException as error:
            self.failure = self.failure or single_error(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self.finished = True
            self._ended.set()
            self._tell()

    def _hire(self) -> None:
        """One more worker, or one that waits, as long as there is room."""
        if self._idle:
            self._idle.popleft().set()
        elif self._workers < self.concurrency.most:
            self._workers += 1
            self._group.start_soon(self._work)

    async def _work(self) -> None:
        while not self._is_over():
            job = self._next_job()
            if job is not None:
                await self._send(job)
                if self._room is not None:
                    self._wake_reader()  # a row that ended without a result leaves room, too
                if self._yield is not None:
                    await self._yield(0)  # what this turn of the loop woke is sent together: fewer system calls
                continue
            if self._is_over():
                break
            await self._rest()
        self._wake_all()

    async def _rest(self) -> None:
        """Wait for work; one of those that wait looks at the clock."""
        event = self._event()
        self._idle.append(event)
        if self._watch is not None or self._timer_at == float("inf"):
            await event.wait()
            return
        self._watch = event
        try:
            with anyio.move_on_after(max(0.0, self._timer_at - self.clock())):
                await event.wait()
        finally:
            self._watch = None
            if event in self._idle:
                self._idle.remove(event)

    def _is_over(self) -> bool:
        if self._stopped:
            return True
        return self._exhausted and not self._ready and not self._parked and not self._running

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.popleft().set()
        if self._room is not None:
            self._room.set()

    def _wake_at(self, when: float) -> None:
        """Somebody has to look again at that time."""
        if when < self._timer_at:
            self._timer_at = when
            if self._watch is not None:  # it may be waiting for a later time
                self._watch.set()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        ahead = len(self._ready) + len(self._parked) + len(self._running) + len(self.results)
        if self.most_ahead is not None and ahead + self._taken - self._passed_on >= self.most_ahead:
            return False
        return ahead < 2 * max(1, self.concurrency.limit())

    def _wake_reader(self) -> None:
        if self._room is not None and self._has_room():
            self._room.set()
        elif self._idle and self._lazy is not None and not self._exhausted and self._has_room():
            self._idle.popleft().set()

    async def _read_all(self) -> None:
        """Read an async input."""
        assert not isinstance(self._items, Iterator)  # noqa: S101
        try:
            async for item in self._items:
                self._admit(item)
                if self._idle:
                    self._idle.popleft().set()
                while not self._has_room() and not self._stopped:
                    self._room = self._event()
                    await self._room.wait()
                self._room = None
                if self._stopped:
                    break
        except Exception as error:  # noqa: BLE001 - raised to the consumer, after the rows that were sent
            self.failure = error
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True):
                    await close()
        self._exhausted = True
        self._wake_all()

    def _read_one(self) -> None:
        """Read a row of a plain input."""
        assert self._lazy is not None  # noqa: S101
        try:
            self._admit(next(self._lazy))
        except StopIteration:
            self._exhausted = True
            self._wake_all()
        except Exception as error:  # noqa: BLE001 - as above
            self.failure, self._exhausted = error, True
            self._wake_all()

    def _admit(self, item: Item) -> None:
        self.tally.read += 1
        if isinstance(item.row, RowResult):  # answered before: it only takes its turn
            self.results.append(item.row)
            self._tell()
            return
        try:
            request = self.mapper.request(item.row)
        except (ValueError, TypeError) as error:
            self._deliver(failed_result([error], item.index, key_of(item.row), sent=0))
            return
        self._ready.append(_Job(item.index, item.row, request, self._cost(request)))

    def _cost(self, request: RowRequest) -> Cost:
        if not self._counts_tokens:
            return _FREE
        content, most = request.content, most_tokens({**self.mapper.params, **request.params})
        return Cost(len(content.encode() if isinstance(content, str) else repr(content)), most)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _next_job(self) -> _Job | None:
        """The row to send now, with its reservation; None if there is none, or a gate is closed."""
        self._timer_at = float("inf")
        if len(self._running) >= self.concurrency.limit() or self._stopped:
            return None  # whoever ends next looks again
        now = self.clock()
        if pause := self.concurrency.pause(now):
            self._wake_at(now + max(pause, TICK))
            return None
        while self._parked and self._parked[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._parked)[2])
        while not self._ready and self._lazy is not None and not self._exhausted and self._has_room():
            self._read_one()
        if self._parked:
            self._wake_at(self._parked[0][0])
        if not self._ready:
            return None
        job = self._ready.popleft()
        reservation = self.limiter.reserve(job.cost, now)
        if not isinstance(reservation, Reservation):
            self._ready.appendleft(job)
            self._wake_at(now + max(reservation, TICK))
            return None
        job.reservation = reservation
        self._running.add(job)
        self.concurrency.started(now)
        if self._room is not None:
            self._wake_reader()
        if len(self._running) < self.concurrency.limit():
            self._hire()
        return job

    async def _send(self, job: _Job) -> None:
        """One attempt of a row."""
        self.tally.attempts += 1
        self.tally.retries += bool(job.errors)
        if self.on_send is not None:
            self.on_send(job.index)
        began = self.clock()
        try:
            if self._threads is None:
                reply = await self.mapper.send(self.handle, job.request)
            else:
                call = partial(self.mapper.send, self.handle, job.request)
                reply = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._threads)
            now = self.clock()
            result = self.mapper.result(job.request, reply, job.index, now - began)
        except Exception as error:  # noqa: BLE001 - a row's failure is a value
            self._running.discard(job)
            self._failed(job, error, began)
        except BaseException:  # cancelled: what it reserved stays counted, since it may have been sent
            self._running.discard(job)
            raise
        else:
            self._running.discard(job)
            self._answered(job, result, now)

    def _answered(self, job: _Job, result: RowResult, now: float) -> None:
        self._last_answer = now
        if job.errors:
            result.attempts = len(job.errors) + 1
            result.unclear = sum(map(may_be_paid, job.errors))
        if job.reservation is not None:
            self.limiter.settle(job.reservation, result.input_tokens, result.output_tokens)
        self.concurrency.ended(now, len(self._running), "ok", result.latency)
        self._deliver_all([*self.refusals.answered(), result])

    def _failed(self, job: _Job, error: Exception, began: float) -> None:
        now = self.clock()
        job.errors.append(error)
        throttled = is_throttled(error)
        self.tally.throttled += throttled
        self.tally.unclear += may_be_paid(error)
        if job.reservation is not None and (throttled or (isinstance(error, APIError) and not error.sent)):
            self.limiter.release(job.reservation)
        self.concurrency.ended(now, len(self._running), "lost" if is_overload(error) else "other", now - began)
        if throttled and isinstance(error, APIError) and error.retry_after:
            self.limiter.park(now + min(error.retry_after, self.retry.max_retry_after))
        pause = next_attempt_after(job.errors, self.retry)
        if pause is None and throttled and self.retry.attempts > 1 and now - self._last_answer < PATIENCE:
            pause = self.retry.max_backoff  # the endpoint does answer others: this row's turn comes
        if pause is None:
            result = failed_result(job.errors, job.index, job.request.key, now - began, sent=len(job.errors))
            self._deliver_all(self.refusals.failed(error, result))
        elif not self._stopped:
            heapq.heappush(self._parked, (now + pause, next(self._ticket), job))
            self._wake_at(now + pause)

    def _deliver_all(self, results: list[RowResult]) -> None:
        """Deliver rows that have failed, and end the job if the endpoint refuses all."""
        for result in results:
            self._deliver(result)
        if self.refusals.ended is not None and self.failure is None:
            self.failure = self.refusals.ended
            self.stop()

    def _deliver(self, result: RowResult) -> None:
        self.tally.count(result)
        failure = self.tally.fuse(self.max_error_rate)
        if failure is not None and not self._stopped:
            self.failure = failure
            self.stop()
        if self.on_result is not None:
            self.on_result(result)
        self.results.append(result)
        self._tell()

    def _tell(self) -> None:
        if self._came is not None:
            self._came.set()
            self._came = None


_FREE = Cost(0)
