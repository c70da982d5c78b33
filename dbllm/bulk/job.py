"""One job: its files, what is done and what is to be done, and the loop that sends rows and records their answers."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from .errors import BadInputError, BulkError, DiskError, Interrupted, JournalError, OutputError
from .inputs import Source, columns_of, file_format, import_pyarrow, spool
from .journal import FAILED, NOT_DONE, Disk, Journal, open_locked, to_json
from .outputs import Findings, Shape, joined, quantile, write_output
from .plan import Plan, Summary, load_plan, make_plan
from .display import REFRESH_SECONDS, Pace, Show, Status
from .report import Price, Report, Sample, history_of, thinned
from .results import RowError, RowResult
from .row_mapper import RowMapper
from .row_stream import Rows, rows
from .progress import Item

TICK_SECONDS = 0.1
SYNC_SECONDS = 1.0
MOST_WAITING = 64 << 20  # bytes of answers that are kept while the disk takes nothing
CRASHES_OF_A_POISON_ROW = 3


class StopSignal:
    """Asks a job to end: once to let what is in flight end, twice to cut it. Any thread or signal handler may ask."""

    def __init__(self) -> None:
        self.level = 0

    def request(self, *_: object) -> None:
        self.level += 1


@dataclass
class Settings:
    """What a user asked of a job, beside its calls; `run` describes each."""

    output: Path
    config: dict[str, Any]
    name: str = "the input"
    path: Path | None = None
    input_format: str = "jsonl"
    rows: Any = None
    journal: Path | None = None
    dedupe: bool = True
    keep_bad_rows: bool = False
    retry_errors: bool | Collection[str] = False
    retry_ambiguous: bool = False
    accept_changes: bool = False
    overwrite: bool = False
    concurrency: int | None = None
    limits: Any = None
    max_error_rate: float | None = None
    price: Price | None = None
    drain_seconds: float = 30.0
    disk_seconds: float = 60.0


@dataclass
class Manifest:
    """The file beside the journal: of what input and settings the job is, and how far its journal was."""

    job: str = field(default_factory=lambda: secrets.token_hex(8))
    config: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    dedupe: bool = True
    accepted: bool = False
    mark: dict[str, Any] | None = None
    length: int = 0
    seconds: float = 0.0
    state: str = "new"
    history: list[Any] = field(default_factory=list)
    report: dict[str, Any] | None = None
    version: int = 1

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest that lies there, or None.

        Raises:
            JournalError: it is no manifest.
        """
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise JournalError(
                f"{path} is no manifest of a job that this version of dbllm knows. Restore it, or move it away together "
                "with the .part beside it to start anew (what that holds is then paid again)."
            ) from None


class Job:
    """A job from its opening to its report. `open`, `prepare` and `finish` block: they belong into a thread."""

    def __init__(self, settings: Settings, mapper: RowMapper, stop: StopSignal, show: Show, disk: Disk) -> None:
        self.settings, self.mapper, self._stop, self._show, self._disk = settings, mapper, stop, show, disk
        output = settings.output
        beside = settings.journal if settings.journal is not None else output.with_name(output.name + ".part")
        self.paths = {
            "journal": beside,
            **{name: beside.with_name(output.name + end) for name, end in _ENDINGS.items()},
        }
        self.status = Status(state="reading")
        self._handle: int | None = None
        self._journal: Journal | None = None
        self._plan: Plan | None = None
        self._pace = Pace()
        self._began = time.monotonic()
        self._before = 0.0
        self._history: list[Sample] = []
        self._quarantined = 0
        self._disk_failed: float | None = None
        self._sync_error: OSError | None = None
        self._draining: float | None = None
        self._cut = 0
        self._resumed = 0
        self._changed = False

    @property
    def journal(self) -> Journal:
        assert self._journal is not None  # noqa: S101 - once prepared
        return self._journal

    @property
    def plan(self) -> Plan:
        assert self._plan is not None  # noqa: S101 - once prepared
        return self._plan

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Check what can be checked without reading the input, and take the journal for this process."""
        self._check_output()
        path = self.paths["journal"]
        try:
            self._handle = open_locked(path)
        except OSError as error:
            raise OutputError(
                f"the journal {path} cannot be opened: {error.strerror or error}. It needs a folder on a disk that takes "
                "appends and locks; --journal names another place."
            ) from None
        self.manifest = Manifest.read(self.paths["manifest"]) or Manifest()
        if self.settings.overwrite:
            self._start_anew()
        self._check_journal()
        self._read_source()
        self._check_config()

    def _check_output(self) -> None:
        output, settings = self.settings.output, self.settings
        try:
            self.output_format = file_format(output.name)
        except BadInputError:
            self.output_format = ""
        if self.output_format not in ("jsonl", "parquet"):
            raise OutputError(f"the output {output} must be called .jsonl (also .jsonl.gz, .jsonl.zst) or .parquet.")
        if not output.parent.is_dir():
            raise OutputError(f"the folder {output.parent} of the output does not exist. Make it, or name another.")
        if output.is_dir():
            raise OutputError(f"the output {output} is a folder. Name a file.")
        if settings.path is not None:
            Source(settings.path, settings.name, settings.input_format).fingerprint()
            if output.exists() and output.samefile(settings.path) or output.absolute() == settings.path.absolute():
                raise OutputError(f"the output {output} is the input itself. Name another file.")
        if "parquet" in (self.output_format, settings.input_format):
            import_pyarrow()

    def _start_anew(self) -> None:
        assert self._handle is not None  # noqa: S101
        self.manifest = Manifest()
        self.paths["manifest"].unlink(missing_ok=True)
        self._disk.truncate(self._handle, 0)

    def _check_journal(self) -> None:
        path, output = self.paths["journal"], self.settings.output
        size = path.stat().st_size
        if self.manifest.state == "new":
            if size:
                raise JournalError(
                    f"{path} has no {self.paths['manifest'].name} beside it that says what job it is of. Put it back, or "
                    "move the journal away to start anew (what it holds is then paid again)."
                )
            if output.exists() and not self.settings.overwrite:
                raise OutputError(f"{output} exists, and no job of its name is known. Name another, or pass --overwrite.")
        elif not size and self.manifest.length and not (self.manifest.state == "done" and output.exists()):
            raise JournalError(
                f"the journal {path} is gone, and had {self.manifest.length:,} bytes. Restore it, or pass --overwrite to "
                "start anew (what it held is then paid again)."
            )

    def _read_source(self) -> None:
        settings = self.settings
        if settings.path is None:
            spool(settings.rows, self.paths["input"], self._disk)
            self.source = Source(self.paths["input"], settings.name, settings.input_format)
        else:
            self.source = Source(settings.path, settings.name, settings.input_format)
        known, now = self.manifest.source, self.source.fingerprint()
        if not known or all(known[name] == value for name, value in now.items()):
            self._source_now = {**known, **now}
            return
        self._source_now = {**now, "checksum": self.source.checksum() if known["size"] == now["size"] else ""}
        self._changed = self._source_now["checksum"] != known["checksum"]
        if self._changed and not settings.accept_changes:
            raise BadInputError(
                f"{settings.name} is not what the job of {settings.output} began with: it had {known['size']:,} bytes and "
                f"has {now['size']:,}. Name another output, or pass --accept-changes: rows that ask the same in the same "
                "place stay done."
            )

    def _check_config(self) -> None:
        known, settings = self.manifest.config, self.settings
        now = json.loads(to_json(settings.config, default=repr))
        if known and known != now and not settings.accept_changes:
            name = next(name for name in now if known.get(name) != now[name])
            raise JournalError(
                f"the job of {settings.output} began with {name}={_shortened(known.get(name))}, and now it is "
                f"{_shortened(now[name])}. Name another output, or pass --accept-changes to go on with the rest so."
            )
        self.manifest.config = now

    # --- what there is to do ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the input once, if that was not done before, and the journal."""
        assert self._handle is not None  # noqa: S101
        manifest, settings = self.manifest, self.settings
        if manifest.plan and manifest.dedupe == settings.dedupe and not self._changed:
            self._plan = load_plan(self.paths["plan"], Summary(**manifest.plan))
        if self._plan is None:
            self._read_input()
        summary = self.plan.summary
        if summary.bad and not settings.keep_bad_rows:
            raise BadInputError(describe_bad_rows(settings.name, summary))
        manifest.accepted |= self._changed
        journal = Journal(self._handle, self.paths["journal"], self._disk, manifest.job, summary.rows)
        keys = self.plan.keys
        journal.load(manifest.mark, manifest.length, (lambda row, key: keys[row] == key) if manifest.accepted else None)
        if self._changed:  # marks are of the journal as it was read before
            manifest.mark = None
        self._journal = journal
        if settings.retry_errors or settings.retry_ambiguous:
            self._forget_errors()
        self._resumed = len(journal.done) - journal.done.count(NOT_DONE)
        self._before, self._history = manifest.seconds, history_of(manifest.history)
        self.status = Status(
            total=summary.distinct, done=self._resumed, before=self._resumed, cost=0.0 if settings.price else None
        )

    def _read_input(self) -> None:
        digest = blake2b(digest_size=16)
        watch = None if self.source.format == "parquet" else digest.update
        self._plan = make_plan(
            self.source,
            self.mapper.request,
            self.paths["plan"],
            self._disk,
            dedupe=self.settings.dedupe,
            watch=watch,
            tick=self._reading,
        )
        checksum = digest.hexdigest() if watch else self.source.checksum()
        self._source_now["checksum"] = checksum
        self.manifest.plan, self.manifest.dedupe = asdict(self._plan.summary), self.settings.dedupe

    def _reading(self, number: int) -> None:
        if self._stop.level:
            raise Interrupted("interrupted while the input was read; nothing was sent.")
        self.status.done = number
        self._show(self.status)

    def _forget_errors(self) -> None:
        """Rows whose errors are to be tried again are not done."""
        wanted, settings, journal = self.settings.retry_errors, self.settings, self.journal
        last = {row: place for row, place in journal.places() if row < len(journal.done) and journal.done[row] == FAILED}
        for row, place in last.items():
            error = journal.read(place)["error"]
            named = wanted is True or (wanted and error["name"] in wanted)  # type: ignore[operator]
            if named or (settings.retry_ambiguous and error["may_be_paid"]):
                journal.done[row] = NOT_DONE

    @property
    def is_over(self) -> bool:
        """Whether the last run finished, nothing has changed since, and nothing is to be tried again."""
        retry = self.settings.retry_errors or self.settings.retry_ambiguous
        return self.manifest.state == "done" and self.settings.output.exists() and not retry and not self._changed

    @property
    def has_work(self) -> bool:
        """Whether a row is to be asked."""
        done = self.journal.done
        return any(leader == row and not done[row] for row, leader in enumerate(self.plan.leaders))

    # --- work ---------------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Send what is to be sent, until it is all done.

        Raises:
            Interrupted, DiskError, TooManyErrors: it ended before; what was answered is in the journal.
        """
        why = "cancelled"
        self.manifest.state = "running"
        self.manifest.source = self._source_now
        await anyio.to_thread.run_sync(self._save)
        self.journal.begin()
        self._quarantine()
        try:
            while not await self._stream():
                pass
            why = "done"
        except BulkError as error:
            error.report = self.partial_report(type(error).__name__)
            why = type(error).__name__
            raise
        finally:
            if why != "DiskError":
                self.journal.stop(why, cut=self._cut)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._save)

    def _quarantine(self) -> None:
        for row, crashes in list(self.journal.suspects.items()):
            if crashes >= CRASHES_OF_A_POISON_ROW and not self.journal.done[row]:
                error = RowError(
                    "PoisonRowError",
                    f"the process died {crashes} times in succession while this row was in flight, so it is not sent again; "
                    "--retry-errors=PoisonRowError does.",
                    may_be_paid=True,
                )
                self._record(RowResult(row, error=error))
                self._quarantined += 1

    async def _stream(self) -> bool:
        """Send rows until there are none, or until something stops it. False: go on, the disk takes answers again."""
        settings = self.settings
        stream = rows(
            self.mapper,
            self._items(),
            concurrency=settings.concurrency,
            limits=settings.limits,
            max_error_rate=settings.max_error_rate,
            on_send=self._sent,
        )
        failure: Exception | None = None
        async with stream, anyio.create_task_group() as group:
            group.start_soon(self._watch, stream)
            try:
                while batch := await stream.batch():
                    for result in batch:
                        self._record(result)
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                failure = error
            self._progress(stream)
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._disk_failed is not None or self._sync_error is not None:
            await self._wait_for_disk()
            return False
        if self._stop.level:
            done, total = self.status.done, self.status.total
            raise Interrupted(f"interrupted with {done:,} of {total:,} rows done. The same again goes on from here.")
        return True

    def _sent(self, row: int) -> None:
        if row not in self.journal.open:
            self.journal.start(row)

    def _record(self, result: RowResult) -> None:
        """Write a result into the journal."""
        content = {name: value for name, value in result.as_dict().items() if value is not None and name != "index"}
        tokens = (result.input_tokens or 0, result.output_tokens or 0)
        self.journal.answer(result.index, self.plan.keys[result.index], content, ok=result.error is None, tokens=tokens)
        self.status.done += 1
        if result.error is not None:
            self.status.failed += 1
            self.status.errors[result.error.name] = self.status.errors.get(result.error.name, 0) + 1

    async def _items(self) -> AsyncIterator[Item]:
        """The rows that are to be sent, read in a thread."""
        pieces = self._pieces()
        while piece := await anyio.to_thread.run_sync(partial(next, pieces, None)):
            for item in piece:
                yield item

    def _pieces(self) -> Iterator[list[Item]]:
        done, leaders = self.journal.done, self.plan.leaders
        piece: list[Item] = []
        size = 0
        for number, row in enumerate(self.source.rows()):
            if leaders[number] != number or done[number]:
                continue
            piece.append(Item(number, columns_of(row)))
            size += len(row.content)
            if len(piece) >= 64 or size > 1 << 18:
                yield piece
                piece, size = [], 0
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
            if now - synced >= SYNC_SECONDS and not self.journal.waiting:
                synced = now
                self._sample()
                await anyio.to_thread.run_sync(self._save)

    def _look(self, stream: Rows, now: float) -> None:
        """Stop or cut where that was asked for, or where the disk takes nothing."""
        if self.journal.error is not None and self._disk_failed is None:
            self._disk_failed = now
            self.status.state = "the disk takes nothing"
        if self._disk_failed is not None or self._sync_error is not None:
            stream.stop()
        if self._stop.level and self._draining is None:
            self._draining = now
            self.status.state = "ending what is in flight"
            stream.stop()
        if self._stop.level > 1 or (self._draining is not None and now - self._draining > self.settings.drain_seconds):
            self._cut = self._cut or len(stream.in_flight())
            stream.cancel()

    async def _wait_for_disk(self) -> None:
        """Try until the disk takes what is waiting."""
        while self._sync_error is None and not self.journal.flush():
            too_long = self._disk_failed is not None and time.monotonic() - self._disk_failed > self.settings.disk_seconds
            if too_long or self.journal.waiting > MOST_WAITING or self._stop.level:
                break
            await anyio.sleep(TICK_SECONDS)
        error = self._sync_error or self.journal.error
        if error is not None:
            lost = f" {self.journal.waiting:,} bytes of answers were not written." if self.journal.waiting else ""
            raise DiskError(
                f"{self.paths['journal']} cannot be written: {error.strerror or error}.{lost} Make room and run the same "
                "again: what was written is not paid again."
            )
        self._disk_failed, self.status.state = None, "running"

    def _progress(self, stream: Rows) -> None:
        """Bring the status up to date, and show it."""
        status, said, now = self.status, stream.progress(), time.monotonic()
        self._pace.add(now, status.done)
        status.rate, status.seconds = self._pace.rate, now - self._began
        status.eta = self._pace.left(max(0, status.total - status.done))
        status.in_flight, status.limit, status.waiting = said.in_flight, said.limit, said.waiting
        status.retries, status.throttled = said.retries, said.throttled
        totals = self.journal.totals
        status.input_tokens, status.output_tokens = totals.prompt_tokens, totals.completion_tokens
        if self.settings.price is not None:
            status.cost = self.settings.price.cost(status.input_tokens, status.output_tokens)
        self._show(status)

    def _sample(self) -> None:
        status = self.status
        tokens = status.input_tokens + status.output_tokens
        self._history.append(
            Sample(round(self._seconds(), 2), status.done, status.failed, status.in_flight, status.limit, tokens)
        )
        self._history = thinned(self._history)

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _save(self) -> None:
        """Make the journal last, and say in the manifest how far it is."""
        manifest = self.manifest
        manifest.seconds, manifest.history = self._seconds(), [list(each) for each in self._history]
        try:
            if self._journal is not None and not self.journal.waiting:
                mark, length = self.journal.marked()
                self.journal.sync()
                manifest.mark, manifest.length = mark, length
        except OSError as error:
            self._sync_error = error
            return
        try:
            self._disk.put(self.paths["manifest"], to_json(vars(manifest)))
        except OSError as error:
            if self._journal is None or manifest.state == "done":
                raise DiskError(f"{self.paths['manifest']} cannot be written: {error.strerror or error}.") from None

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> Report:
        """Write the output, and say what the job came to."""
        self.status.state = "writing the output"
        self._show(self.status)
        findings = Findings()

        def all_rows() -> Iterator[Any]:
            nonlocal findings
            findings = Findings()
            return joined(self.source, self.plan, self.journal, findings)

        summary = self.plan.summary
        shape = Shape(is_batch=summary.is_batch, columns=summary.columns, job=self.manifest.job)
        write_output(self.settings.output, self.output_format, all_rows, shape, self._disk)
        report = self.partial_report("done")
        report.output, report.answered, report.failed = self.settings.output, findings.answered, findings.failed
        report.copied, report.errors, report.may_be_paid = findings.copied, dict(findings.errors), findings.may_be_paid
        report.attempts, report.unclear = findings.attempts, findings.unclear
        named = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        found = ((name, quantile(findings.latencies, share)) for name, share in named)
        report.latency = {name: value for name, value in found if value is not None}
        longest = quantile(findings.lengths, 0.99)
        report.output_p99 = None if longest is None else round(longest)
        report.slowest = sorted(findings.slowest, reverse=True)
        report.notes += self._advice(report)
        self.manifest.state, self.manifest.source = "done", self._source_now
        self.manifest.report = {**report.as_dict(), "slowest": [], "history": []}
        self._save()
        self.status.state = "done"
        self._show(self.status)
        return report

    def _advice(self, report: Report) -> list[str]:
        most = self.mapper.params.get("max_tokens")
        if report.output_p99 and isinstance(most, int) and most > 4 * report.output_p99 and report.answered >= 100:
            return [
                f"max_tokens={most:,}, and 99 % of the answers have at most about {report.output_p99:,} tokens: Databricks "
                "reserves max_tokens for each request, so a lower one lets more of them through"
            ]
        return []

    def partial_report(self, state: str) -> Report:
        """What can be said without the output's rows."""
        journal, summary, totals = self.journal, self.plan.summary, self.journal.totals
        failed = journal.done.count(FAILED)
        report = Report(
            state=state,
            rows=summary.rows,
            answered=len(journal.done) - journal.done.count(NOT_DONE) - failed,
            failed=failed,
            bad_rows=summary.bad,
            errors=dict(self.status.errors),
            paid_again=totals.paid_again,
            resumed=self._resumed,
            runs=totals.runs,
            crashes=totals.crashes,
            quarantined=self._quarantined,
            input_tokens=totals.prompt_tokens,
            output_tokens=totals.completion_tokens,
            seconds=self._seconds(),
            history=list(self._history),
        )
        if self.settings.price is not None:
            report.cost = self.settings.price.cost(totals.prompt_tokens, totals.completion_tokens)
        if journal.lost:
            report.notes.append(
                f"the journal was {journal.lost:,} bytes longer before a power failure or a cut; those rows were asked again"
            )
        return report

    def close(self) -> None:
        """Free what the job holds. A job that never began leaves no files."""
        if self._plan is not None:
            self._plan.close()
        if self._handle is None:
            return
        if self.manifest_is_new():
            for name in ("journal", "plan", "input"):
                self.paths[name].unlink(missing_ok=True)
        if self._journal is not None:
            self._journal.close()
        else:
            os.close(self._handle)

    def manifest_is_new(self) -> bool:
        """Whether nothing was ever written for this job."""
        manifest = self.__dict__.get("manifest")
        return manifest is not None and manifest.state == "new" and not self.paths["journal"].stat().st_size


_ENDINGS = {"manifest": ".job.json", "plan": ".plan", "input": ".input"}


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def describe_bad_rows(name: str, summary: Summary, most: int = 3) -> str:
    """The rows that cannot be sent, in one sentence."""
    first = "; ".join(f"line {line}: {problem.rstrip('.')}" for line, problem in summary.problems[:most])
    more = f" (and {summary.bad - most:,} more)" if summary.bad > most else ""
    return (
        f"{name}, {first}{more}. Nothing was sent. Mend the input, or pass --keep-bad-rows: the others are answered, and "
        "these become error rows."
    )
