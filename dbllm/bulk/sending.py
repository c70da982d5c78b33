"""The loop of a job: sends its rows, records the answers, and ends as it was asked to, or as the disk demands."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import anyio
import anyio.to_thread

from .display import REFRESH_SECONDS, Pace
from .errors import BulkError, DiskError, Interrupted
from .failures import single_error
from .inputs import columns_of
from .job import BulkJob
from .journal import ANSWERED
from .progress import Item
from .report import Sample, thinned
from .results import RowError, RowResult
from .row_stream import Rows, rows

TICK_SECONDS = 0.1
SYNC_SECONDS = 1.0
MOST_WAITING = 64 << 20  # bytes of answers that are kept while the disk takes nothing
CRASHES_OF_A_POISON_ROW = 3


class Sending:
    """Sends the rows of a prepared job."""

    def __init__(self, job: BulkJob) -> None:
        self._job, self._settings, self._status = job, job.settings, job.status
        self._journal, self._stop = job.journal, job.stop
        self._pace = Pace()
        self._disk_failed: float | None = None
        self._draining: float | None = None
        self._cut = 0
        self._stream: Rows | None = None

    async def run(self) -> None:
        """Send what is to be sent, until it is all done.

        Raises:
            Interrupted, DiskError, TooManyErrors: it ended before; what was answered is in the journal.
        """
        why = "cancelled"
        self._job.manifest.state = "running"
        self._job.manifest.source = self._job.source_now
        await self._save(must=True)
        self._journal.begin()
        self._quarantine()
        try:
            while not await self._send():
                pass
            if self._job.has_work:
                raise Interrupted("it ended before its last row. The same again goes on from here.")
            why = "done"
        except BulkError as error:
            error.report = self._job.partial_report(type(error).__name__)
            why = type(error).__name__
            raise
        finally:
            if why != "DiskError":
                self._journal.stop(why, cut=self._cut)
                with anyio.CancelScope(shield=True):
                    await self._save()

    def _quarantine(self) -> None:
        for row, crashes in list(self._journal.suspects.items()):
            if crashes >= CRASHES_OF_A_POISON_ROW and not self._journal.done[row]:
                error = RowError(
                    "PoisonRowError",
                    f"the process died {crashes} times in succession while this row was in flight, so it is not sent "
                    "again; --retry-errors=PoisonRowError does.",
                    may_be_paid=True,
                )
                self._record(RowResult(row, error=error))
                self._job.quarantined += 1

    async def _send(self) -> bool:
        """Send rows until there are none, or until something stops it. False: go on, the disk takes answers again."""
        settings = self._settings
        stream = rows(
            self._job.mapper,
            self._items(),
            concurrency=settings.concurrency,
            limits=settings.limits,
            max_error_rate=settings.max_error_rate,
            on_send=self._sent,
            on_result=self._record,
        )
        stream._scheduler.refusals.is_proven = ANSWERED in self._journal.done  # by this run or an earlier one
        self._stream, failure = stream, None
        async with stream:
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch, stream)
                    try:
                        while await stream.batch():
                            pass  # each was recorded as it came
                    except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                        failure = error
                    self._progress(stream)
                    group.cancel_scope.cancel()
            except BaseException as error:  # cancelled, or what shows the progress failed
                self._cut = self._cut or len(stream.in_flight())
                if (single := single_error(error)) is error:
                    raise
                raise single from None
        if failure is not None:
            raise failure
        if self._disk_failed is not None or self._job.sync_error is not None:
            await self._wait_for_disk()
            return False
        if self._stop.level:
            done, total = self._status.done, self._status.total
            raise Interrupted(f"interrupted with {done:,} of {total:,} rows done. The same again goes on from here.")
        return True

    def _sent(self, row: int) -> None:
        if row not in self._journal.open:
            self._journal.start(row)
            self._check_disk()

    def _record(self, result: RowResult) -> None:
        """Write a result into the journal."""
        result.latency = round(result.latency, 4)
        content = {name: value for name, value in result.as_dict().items() if value is not None}
        del content["index"]
        tokens = (result.input_tokens or 0, result.output_tokens or 0)
        key = self._job.plan.keys[result.index]
        self._journal.answer(result.index, key, content, ok=result.error is None, tokens=tokens)
        self._check_disk()
        self._status.done += 1
        if result.error is not None:
            self._status.failed += 1
            self._status.errors[result.error.name] = self._status.errors.get(result.error.name, 0) + 1

    async def _items(self) -> AsyncIterator[Item]:
        """The rows that are to be sent, read in a thread."""
        pieces = self._pieces()
        while piece := await anyio.to_thread.run_sync(partial(next, pieces, None)):
            for item in piece:
                yield item

    def _pieces(self) -> Iterator[list[Item]]:
        done, leaders = self._journal.done, self._job.plan.leaders
        piece: list[Item] = []
        size = 0
        for number, row in enumerate(self._job.source.rows()):
            if number >= len(leaders):
                break
            if leaders[number] != number or done[number]:
                continue
            piece.append(Item(number, columns_of(row)))
            size += len(row.content)
            if len(piece) >= 64 or size > 1 << 18:
                self._job.check_unchanged()  # before a row is paid that is not the one that was planned
                yield piece
                piece, size = [], 0
        self._job.check_unchanged()
        if piece:
            yield piece

    async def _watch(self, stream: Rows) -> None:
        """Look at what is to be looked at now and then."""
        shown = synced = 0.0
        while True:
            await anyio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._look(stream, now)
            if now - shown >= REFRESH_SECONDS:
                shown = now
                self._progress(stream)
            if now - synced >= SYNC_SECONDS and not self._journal.waiting:
                synced = now
                self._sample()
                await self._save()

    def _check_disk(self) -> None:
        """Send nothing more as soon as the disk does not take an answer."""
        if self._journal.error is not None and self._disk_failed is None and self._stream is not None:
            self._disk_failed = time.monotonic()
            self._status.state = "the disk takes nothing"
            self._stream.stop()

    def _look(self, stream: Rows, now: float) -> None:
        """Stop or cut where that was asked for, or where the disk takes nothing."""
        if self._job.sync_error is not None:
            stream.stop()
        if self._stop.level and self._draining is None:
            self._draining = now
            self._status.state = "ending what is in flight"
            stream.stop()
        if self._stop.level > 1 or (self._draining is not None and now - self._draining > self._settings.drain_seconds):
            self._cut = self._cut or len(stream.in_flight())
            stream.cancel()

    async def _wait_for_disk(self) -> None:
        """Try until the disk takes what is waiting."""
        while self._job.sync_error is None and not self._journal.flush():
            too_long = self._disk_failed is not None and time.monotonic() - self._disk_failed > self._job.disk.patience
            if too_long or self._journal.waiting > MOST_WAITING or self._stop.level:
                break
            await anyio.sleep(TICK_SECONDS)
        error = self._job.sync_error or self._journal.error
        if error is not None:
            lost = f" {self._journal.waiting:,} bytes of answers were not written." if self._journal.waiting else ""
            raise DiskError(
                f"{self._job.paths['journal']} cannot be written: {error.strerror or error}.{lost} Make room and run "
                "the same again: what was written is not paid again."
            )
        self._disk_failed, self._status.state = None, "running"

    def _progress(self, stream: Rows) -> None:
        """Bring the status up to date, and show it."""
        status, said, now = self._status, stream.progress(), time.monotonic()
        self._pace.add(now, status.done)
        status.rate, status.seconds = self._pace.rate, now - self._job.began
        status.eta = self._pace.left(max(0, status.total - status.done))
        status.in_flight, status.limit, status.waiting = said.in_flight, said.limit, said.waiting
        status.retries, status.throttled = said.retries, said.throttled
        totals = self._journal.totals
        status.input_tokens, status.output_tokens = totals.prompt_tokens, totals.completion_tokens
        if self._settings.price is not None:
            status.cost = self._settings.price.cost(status.input_tokens, status.output_tokens)
        self._job.show(status)

    def _sample(self) -> None:
        status = self._status
        tokens = status.input_tokens + status.output_tokens
        self._job.history.append(
            Sample(round(self._job.seconds(), 2), status.done, status.failed, status.in_flight, status.limit, tokens)
        )
        self._job.history = thinned(self._job.history)

    async def _save(self, *, must: bool = False) -> None:
        mark = None if self._journal.waiting else self._journal.marked()  # here, where nothing is written meanwhile
        await anyio.to_thread.run_sync(partial(self._job.save, mark, must=must))
