"""One job: its files, its plan, and its report at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from .display import Show, Status
from .errors import BadInputError, DiskError, Interrupted, JournalError, OutputError
from .findings import Findings, count_rows, quantile
from .inputs import Source, file_format, import_pyarrow, spool
from .journal import FAILED, NOT_DONE, Disk, Journal, encode_json, open_locked
from .manifest import Manifest, Settings, StopSignal, describe_bad_rows, describe_changes
from .outputs import Shape, joined, write_output
from .places import check_places
from .plan import RowPlan, Summary, load_plan, make_plan
from .report import Report, Sample, history_of
from .requests import RowRequest, request_of
from .row_mapper import RowMapper, default_verb


class BulkJob:
    """A job from its opening to its report. `open`, `prepare` and `finish` block: they belong into a thread."""

    def __init__(self, settings: Settings, mapper: RowMapper, stop: StopSignal, show: Show, disk: Disk) -> None:
        self.settings, self.mapper, self.stop, self.show, self.disk = settings, mapper, stop, show, disk
        output = settings.output
        journal = settings.journal or output.with_name(output.name + ".part")
        own = settings.journal or output  # outputs of one name may have their journals in one folder
        self.paths = {"journal": journal, **{name: journal.with_name(own.name + end) for name, end in _ENDINGS.items()}}
        self.status = Status(state="reading")
        self._handle: int | None = None
        self._journal: Journal | None = None
        self._plan: RowPlan | None = None
        self.began = time.monotonic()
        self._before = 0.0
        self.history: list[Sample] = []
        self.quarantined = 0
        self.sync_error: OSError | None = None
        self._resumed = 0
        self._changed = False  # the input
        self._reset: list[str] = []  # the settings that were changed
        self._notes: list[str] = []
        self._was, self._asks = "", True  # what these were; whether there is a row to ask

    @property
    def journal(self) -> Journal:
        assert self._journal is not None  # noqa: S101 - once prepared
        return self._journal

    @property
    def plan(self) -> RowPlan:
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
                f"the journal {path} cannot be opened: {error.strerror or error}. It needs a disk that takes appends "
                "and locks; --journal names another place."
            ) from None
        # What --overwrite is to forget is dropped in `prepare`, once all is known to be right.
        self.manifest = (None if self.settings.overwrite else Manifest.read(self.paths["manifest"])) or Manifest()
        if not self.settings.overwrite:
            self._check_journal()
        if self.settings.journal is not None:
            self._check_owner()
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
        if output.exists() and not output.is_file():
            raise OutputError(f"the output {output} is a pipe or a device. Name a file.")
        if settings.path is not None:
            Source(settings.path, settings.name, settings.input_format).fingerprint()
            if (output.exists() and output.samefile(settings.path)) or output.absolute() == settings.path.absolute():
                raise OutputError(f"the output {output} is the input itself. Name another file.")
        check_places(settings, self.paths)
        if "parquet" in (self.output_format, settings.input_format):
            import_pyarrow()

    def _start_anew(self) -> None:
        assert self._handle is not None  # noqa: S101
        self.disk.truncate(self._handle, 0)
        self.paths["manifest"].unlink(missing_ok=True)  # after the journal: one without a manifest would be refused

    def _check_journal(self) -> None:
        path, output = self.paths["journal"], self.settings.output
        size = path.stat().st_size
        if self.manifest.state == "new":
            if size:
                raise JournalError(
                    f"{path} has no {self.paths['manifest'].name} beside it, which says what it is of. Put it back, or "
                    "move the journal away to start anew (what it holds is then paid again)."
                )
            self._check_foreign()
        elif not size and self.manifest.length and not (self.manifest.state == "done" and output.exists()):
            raise JournalError(
                f"the journal {path} is gone, and had {self.manifest.length:,} bytes. Restore it, or pass --overwrite "
                "to start anew (what it held is then paid again)."
            )

    def _check_owner(self) -> None:
        """A journal that lies elsewhere may have been of another output; and the output may have one beside it."""
        output = self.settings.output
        beside = output.with_name(output.name + _ENDINGS["manifest"])
        if self.manifest.state == "new" and not self.settings.overwrite and beside.exists():
            raise OutputError(
                f"the output {output} has a job whose journal lies beside it ({beside.name}). Leave --journal out to "
                "go on with that one, name another output, or pass --overwrite."
            )
        if self.manifest.output not in (None, str(output.absolute())):
            self._check_foreign()
        self.manifest.output = str(output.absolute())

    def _check_foreign(self) -> None:
        if self.settings.output.exists() and not self.settings.overwrite:
            raise OutputError(
                f"{self.settings.output} exists, and is of no known job. Name another, or pass --overwrite."
            )

    def _read_source(self) -> None:
        settings = self.settings
        if settings.path is None:
            spool(settings.rows, self.paths["input"], self.disk, self._check_stop)
            self.source = Source(self.paths["input"], settings.name, settings.input_format)
        else:
            self.source = Source(settings.path, settings.name, settings.input_format)
        known, now = self.manifest.source, self.source.fingerprint()
        if not known or all(known[name] == value for name, value in now.items()):
            self.source_now = {**known, **now}
            return
        self.source_now = {**now, "checksum": self.source.checksum() if known["size"] == now["size"] else ""}
        self._changed = self.source_now["checksum"] != known["checksum"]
        if self._changed and not settings.accept_changes:
            raise BadInputError(
                f"{settings.name} is not what the job of {settings.output} began with: it had {known['size']:,} bytes "
                f"and has {now['size']:,}. Name another output, or pass --accept-changes: rows that ask the same in "
                "the same place stay done."
            )

    def _check_config(self) -> None:
        known, settings = self.manifest.config, self.settings
        about = {**self.mapper.identity(), "dedupe": settings.dedupe, "input_format": self.source.format}
        now = json.loads(encode_json(about, default=repr))
        self._reset = [name for name in now if name in known and known[name] != now[name]]
        if self._reset and not settings.accept_changes:
            finished = "is finished. It " if self.manifest.state == "done" else ""
            raise JournalError(
                f"the job of {settings.output} {finished}began with {describe_changes(known, now, self._reset)}. Name "
                "another output, pass --accept-changes to go on with the rest so, or --overwrite to ask all rows anew."
            )
        self._changed |= "input_format" in self._reset  # other rows
        self._was = describe_changes(known, now, self._reset)
        self.manifest.config = now

    # --- what there is to do ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the input once, if that was not done before, and the journal."""
        assert self._handle is not None  # noqa: S101
        manifest, settings = self.manifest, self.settings
        if manifest.plan and not self._changed and not {"prompt", "verb", "dedupe"} & set(self._reset):
            self._plan = load_plan(self.paths["plan"], Summary(**manifest.plan))
        if self._plan is None:
            self._read_input()
        summary = self.plan.summary
        if summary.bad and not settings.keep_bad_rows:
            raise BadInputError(describe_bad_rows(settings.name, summary))
        if settings.overwrite:
            self._start_anew()
        manifest.accepted |= self._changed
        journal = Journal(self._handle, self.paths["journal"], self.disk, manifest.job, summary.rows)
        keys = self.plan.keys
        journal.load(manifest.mark, manifest.length, (lambda row, key: keys[row] == key) if manifest.accepted else None)
        if self._changed:  # marks are of the journal as it was read before
            manifest.mark = None
        self._journal = journal
        if settings.retry_errors or settings.retry_ambiguous:
            self._forget_errors()
        self._resumed = len(journal.done) - journal.done.count(NOT_DONE)
        self._asks = self.has_work
        self._before, self.history = manifest.seconds, history_of(manifest.history)
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
            self.disk,
            dedupe=self.settings.dedupe,
            watch=watch,
            tick=self._reading,
        )
        checksum = digest.hexdigest() if watch else self.source.checksum()
        self.check_unchanged()
        self.source_now["checksum"] = checksum
        self._plan.summary.verbs = list(self.mapper._verbs or ())
        self.manifest.plan = asdict(self._plan.summary)

    def _request(self, row: dict[str, Any]) -> RowRequest:
        """What a row asked for when the input was read."""
        mapper, verbs = self.mapper, tuple(self.plan.summary.verbs)
        return request_of(row, mapper.verb or default_verb(row, verbs, mapper.template), mapper.template)

    def check_unchanged(self) -> None:
        """Raise BadInputError if the input is no longer the file that was planned."""
        now = self.source.fingerprint()
        if any(self.source_now[name] != value for name, value in now.items()):
            raise BadInputError(
                f"{self.settings.name} was changed while the job ran. Bring it back as it was and run the same again, "
                "which goes on; or pass --accept-changes: rows that ask the same in the same place stay done."
            )

    def _check_stop(self) -> None:
        if self.stop.level:
            raise Interrupted("interrupted while the input was read; nothing was sent.")

    def _reading(self, number: int) -> None:
        self._check_stop()
        self.status.done = number
        self.show(self.status)

    def _forget_errors(self) -> None:
        """Rows whose errors are to be tried again are not done."""
        wanted, settings, journal = self.settings.retry_errors, self.settings, self.journal
        found: set[str] = set()
        last = {
            row: place for row, place, _ in journal.answers() if row < len(journal.done) and journal.done[row] == FAILED
        }
        for row, place in last.items():
            error = journal.read(place)["error"]
            found.add(error["name"])
            named = wanted is True or (wanted and error["name"] in wanted)
            if named or (settings.retry_ambiguous and error["may_be_paid"]):
                journal.done[row] = NOT_DONE
        if wanted and wanted is not True and (unknown := sorted(set(wanted) - found)):
            has = ", ".join(sorted(found)) or "none"
            self._notes.append(f"no error row was of class {', '.join(unknown)}; there were: {has}")

    @property
    def is_over(self) -> bool:
        """Whether the last run finished, nothing has changed since, and nothing is to be tried again."""
        settings = self.settings
        more = settings.retry_errors or settings.retry_ambiguous or settings.page or self._changed or self._reset
        report = self.manifest.report or {}
        same = str(report.get("output")) == str(settings.output) or settings.journal is None
        return self.manifest.state == "done" and settings.output.exists() and same and not more

    @property
    def has_work(self) -> bool:
        """Whether a row is to be asked."""
        done, leaders = self.journal.done, self.plan.leaders
        row = done.find(NOT_DONE)
        while row >= 0 and leaders[row] != row:
            row = done.find(NOT_DONE, row + 1)
        return row >= 0

    def seconds(self) -> float:
        """How long the job has run, all runs together."""
        return self._before + time.monotonic() - self.began

    def save(self, mark: tuple[dict[str, Any], int] | None, *, must: bool = False) -> None:
        """Make the journal last, and say in the manifest how far it is; `mark` is `Journal.marked`.

        Raises:
            DiskError: the manifest cannot be written, and `must` be.
        """
        manifest = self.manifest
        manifest.seconds, manifest.history = self.seconds(), [list(each) for each in self.history]
        try:
            if mark is not None:
                self.journal.sync()
                manifest.mark, manifest.length = mark
        except OSError as error:
            self.sync_error = error
            return
        try:
            self.disk.put(self.paths["manifest"], encode_json(vars(manifest)))
        except OSError as error:
            if must:
                raise DiskError(f"{self.paths['manifest']} cannot be written: {error.strerror or error}.") from None

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> Report:
        """Write the output, and say what the job came to."""
        self.status.state = "writing the output"
        self.show(self.status)
        findings = Findings()

        def all_rows() -> Iterator[Any]:
            nonlocal findings
            findings = Findings()
            return joined(self.source, self.plan, self.journal, findings, self._request)

        summary = self.plan.summary
        shape = Shape(is_batch=summary.is_batch, columns=summary.columns, job=self.manifest.job)
        self.check_unchanged()
        write_output(self.settings.output, self.output_format, all_rows, shape, self.disk, self.check_unchanged)
        report = self._report("done", findings)
        report.output, report.slowest = self.settings.output, sorted(findings.slowest, reverse=True)
        report.notes += [*self._notes, *self._advice(report)]
        if self._reset and not self._asks:
            report.notes.append(
                f"every row was done before the change (the job began with {self._was}), so none was asked again; "
                "--overwrite asks all anew"
            )
        if shape.replaced:
            report.notes.append(
                f"{shape.replaced:,} numbers were NaN or infinite, which JSON does not have: null stands for them"
            )
        self.manifest.state, self.manifest.source = "done", self.source_now
        self.manifest.report = {**report.as_dict(), "slowest": [], "history": []}
        self.save(self.journal.marked(), must=True)
        self.status.state = "done"
        self.show(self.status)
        return report

    def _advice(self, report: Report) -> list[str]:
        most = self.mapper.params.get("max_tokens")
        if report.output_p99 and isinstance(most, int) and most > 4 * report.output_p99 and report.answered >= 100:
            return [
                f"max_tokens={most:,}, and 99 % of the answers have at most about {report.output_p99:,} tokens: "
                "Databricks reserves max_tokens for each request, so a lower one lets more of them through"
            ]
        return []

    def partial_report(self, state: str) -> Report:
        """What the job came to up to here, in all its runs."""
        return self._report(state, count_rows(self.plan, self.journal))

    def _report(self, state: str, findings: Findings) -> Report:
        journal, summary, totals = self.journal, self.plan.summary, self.journal.totals
        report = Report(
            state=state,
            rows=summary.rows,
            bad_rows=summary.bad,
            paid_again=totals.paid_again,
            resumed=self._resumed,
            runs=totals.runs,
            crashes=totals.crashes,
            quarantined=self.quarantined,
            input_tokens=totals.prompt_tokens,
            output_tokens=totals.completion_tokens,
            seconds=self.seconds(),
            history=list(self.history),
        )
        report.answered, report.failed = findings.answered, findings.failed
        report.copied, report.errors, report.may_be_paid = findings.copied, dict(findings.errors), findings.may_be_paid
        report.attempts, report.unclear = findings.attempts, findings.unclear
        named = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        found = ((name, quantile(findings.latencies, share)) for name, share in named)
        report.latency = {name: value for name, value in found if value is not None}
        longest = quantile(findings.lengths, 0.99)
        report.output_p99 = None if longest is None else round(longest)
        if self.settings.price is not None:
            report.cost = self.settings.price.cost(totals.prompt_tokens, totals.completion_tokens)
        report.notes += [findings.first] if findings.first else []
        if journal.lost:
            lost = f"the journal was {journal.lost:,} bytes longer before a power failure or a cut; its rows go again"
            report.notes.append(lost)
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
        is_new = manifest is not None and manifest.state == "new" and not self.paths["manifest"].exists()
        return is_new and not self.paths["journal"].stat().st_size


_ENDINGS = {"manifest": ".job.json", "plan": ".plan", "input": ".input"}
