"""`run`, `run_sync` and `estimate`: a whole file of rows, from input to output."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import AsyncIterable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from dbllm import Limits, Retry, Timeout
from dbllm._misnomers import explain_keywords

from .display import Show, display
from .errors import InputMissingError, OutputError
from .inputs import FORMATS, file_format
from .job import BulkJob
from .journal import Disk
from .manifest import Settings, StopSignal
from .report import Price, Report
from .row_mapper import RETRY, RowMapper
from .row_stream import check_numbers
from .sending import Sending

Many = Iterable[Any] | AsyncIterable[Any]
Input = str | os.PathLike[str] | Many


@explain_keywords
async def run(
    source: Input,
    output: str | os.PathLike[str],
    *,
    endpoint: Any = None,
    driver_app: int | str | None = None,
    cluster_id: str | None = None,
    client: Any = None,
    verb: str | None = None,
    prompt: str | None = None,
    params: Mapping[str, Any] | None = None,
    response_model: type | None = None,
    tags: Mapping[str, str] | None = None,
    concurrency: int | None = None,
    limits: Limits | None = None,
    retry: Retry | None = None,
    timeout: float | Timeout | None = None,
    host: str | None = None,
    profile: str | None = None,
    input_format: str | None = None,
    dedupe: bool = True,
    keep_bad_rows: bool = False,
    retry_errors: bool | str | Collection[str] = False,
    retry_ambiguous: bool = False,
    max_error_rate: float | None = None,
    accept_changes: bool = False,
    overwrite: bool = False,
    price: tuple[float, float] | None = None,
    journal: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    progress: bool | Show | None = None,
    stop: StopSignal | None = None,
    disk: Disk | None = None,
) -> Report:
    """Call a model for each row of a file, and write a file with the answers.

    Each answer is written into a journal beside the output (`answers.jsonl.part`) when it comes. If the process dies,
    the same call goes on from there; at most the requests that were in flight are paid again. The output is made at
    the end, in the order of the input.

    Args:
        source: a file (.jsonl, .csv, .tsv, also .gz or .zst; .parquet), "-" for the standard input, or any iterable of
            prompts (str), messages (lists) or rows (mappings), plain or async.
        output: a .jsonl file (also .gz, .zst) or a .parquet file. It has the columns of the input, and `output`,
            `finish_reason`, `input_tokens`, `output_tokens`, `model`, `request_id`, `attempts`, `latency` (seconds of
            the last attempt), `same_as` (the line of an equal row that was sent in its place) and `error` (null, or
            class, message, status, code, attempts, request_id, retryable, may_be_paid). For rows in OpenAI's Batch
            shape it has that of Batch's output.
        endpoint: the name of a serving endpoint or model service, a handle of your client, or a `RowMapper`.
        driver_app, cluster_id: a driver proxy app instead.
        client: your client; default: one of the usual configuration, or of `host` and `profile`.
        verb: "complete", "chat", "embed", "predict" or "respond"; default: what the endpoint speaks.
        prompt: a template with columns in braces: "Summarise: {text}". Without one, rows have `prompt`, `messages` or
            `input`, or OpenAI's Batch shape.
        params: the model's parameters, for all rows.
        response_model: as for `chat`.
        tags: names and values for the workspace's usage tables, with the call of each row.
        concurrency: how many calls at once; default: what serves best, found out on the way.
        limits: rates to keep; see `Limits`.
        retry: the policy; default: 8 attempts.
        timeout: seconds of one attempt, or a `Timeout`.
        input_format: "jsonl", "csv", "tsv" or "parquet", if the name of the input does not tell.
        dedupe: equal rows are asked once, and answered all.
        keep_bad_rows: rows that cannot be sent become error rows; otherwise nothing is sent if there is one.
        retry_errors: ask the error rows of earlier runs again; or only those of these classes.
        retry_ambiguous: ask again what may have been paid although no answer came, in this run and of earlier ones.
        max_error_rate: stop when more than this share of the last 200 rows failed; 1 never stops, even if the endpoint
            refuses every row.
        accept_changes: go on although the input or the settings are not those the job began with.
        overwrite: start anew, and forget an earlier job of this output, once endpoint and input are known to be right.
        price: of a million input tokens and a million output tokens.
        journal: where the journal lies, if the output's folder takes no appends (as /Volumes).
        report: write the report as an HTML page here.
        progress: False shows nothing; a function gets each `Status`; default: on terminals and in notebooks.

    Raises:
        BulkError: the job could not start, or ended early; its class says why, its `report` how far it came.
        ConfigError, APIError: the configuration is incomplete, or there is no such endpoint. Nothing was sent.
        TypeError, ValueError: an argument cannot be used.
    """
    check_numbers(concurrency, max_error_rate)
    if retry_ambiguous:
        retry = replace(retry or RETRY, retry_ambiguous=True)
    mapper, owned = _mapper(
        endpoint,
        client,
        {
            "driver_app": driver_app,
            "cluster_id": cluster_id,
            "verb": verb,
            "prompt": prompt,
            "params": params,
            "response_model": response_model,
            "tags": tags,
            "retry": retry,
            "timeout": timeout,
            "host": host,
            "profile": profile,
        },
    )
    settings = Settings(
        output=_followed(Path(output)),
        journal=None if journal is None else Path(journal),
        page=None if report is None else Path(report),
        dedupe=dedupe,
        keep_bad_rows=keep_bad_rows,
        retry_errors={retry_errors} if isinstance(retry_errors, str) else retry_errors,
        retry_ambiguous=retry_ambiguous,
        accept_changes=accept_changes,
        overwrite=overwrite,
        concurrency=concurrency,
        limits=limits,
        max_error_rate=max_error_rate,
        price=Price.of(price),
    )
    if isinstance(source, AsyncIterable):
        source = [row async for row in source]
    set_source(settings, source, input_format)
    if report is not None:
        _check_folder(Path(report))
    with display(progress) as show:
        job = BulkJob(settings, mapper, stop or StopSignal(), show, disk or Disk())
        try:
            result = await _run_job(job)
        except BaseException as error:
            failed = getattr(error, "report", None)
            if report is not None and isinstance(failed, Report):
                with suppress(OutputError):  # what ended the job is told
                    write_page(failed, report)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                job.close()
                if owned:
                    await mapper.aclose()
    if report is not None:
        write_page(result, report)
    return result


def _followed(output: Path) -> Path:
    """The file that a link stands for, so that the link stays, and two links to one file are one job."""
    if not output.is_symlink():
        return output
    target = Path(os.path.realpath(output))
    if target.is_symlink():
        raise OutputError(f"the output {output} is a link that leads back to itself. Name another.")
    return target


def _check_folder(page: Path) -> None:
    if not page.absolute().parent.is_dir():
        raise OutputError(f"the folder {page.parent} of the report does not exist. Make it, or name another.")
    if os.path.isdir(page):  # False also for a name that cannot be
        raise OutputError(f"the report {page} is a folder. Name a file.")
    if not os.access(page if os.path.exists(page) else page.absolute().parent, os.W_OK):
        raise OutputError(f"the report {page} cannot be written there. Name another place.")


async def _run_job(job: BulkJob) -> Report:
    await anyio.to_thread.run_sync(job.open)
    if job.is_over and job.manifest.report is not None:
        return _report_of(job.manifest.report, job.settings.price)
    if job.manifest.state != "done":
        await job.mapper.start()  # an endpoint that does not exist is told before the input is read
    await anyio.to_thread.run_sync(job.prepare)
    if job.has_work or job.manifest.state == "new":
        await Sending(job).run()
    return await anyio.to_thread.run_sync(job.finish)


@explain_keywords
def run_sync(source: Input, output: str | os.PathLike[str], **options: Any) -> Report:
    """As `run`, in plain code; also where an event loop runs, as in a notebook.

    Ctrl-C, SIGTERM and SIGHUP let what is in flight end, for up to 30 seconds; the second one cuts it. Then
    `Interrupted` is raised, and the same call goes on with the job.
    """
    stop = options.pop("stop", None) or StopSignal()
    work = partial(run, source, output, stop=stop, **options)
    try:
        import asyncio

        asyncio.get_running_loop()
    except RuntimeError:
        with _signals(stop):
            return anyio.run(_run_awake, work, stop)
    return _run_beside(work, stop)


async def _run_awake(work: Any, stop: StopSignal) -> Report:
    """Run it in a loop that signals wake: one that comes as the loop goes to sleep would else be seen much later."""
    import asyncio

    with _signals(stop, None if sys.platform == "win32" else asyncio.get_running_loop()):
        return await work()  # type: ignore[no-any-return]


def _run_beside(work: Any, stop: StopSignal) -> Report:
    """Run it in a loop of a thread's own; a signal to this thread is passed on."""
    result: list[Report] = []
    failure: list[BaseException] = []

    def play() -> None:
        try:
            result.append(anyio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failure.append(error)

        finally:
            ended.set()

    ended = threading.Event()  # an interrupt in `Thread.join` would make it take a thread that runs for one that ended
    thread = threading.Thread(target=play, name="dbllm bulk")
    with _signals(stop):  # also those that asyncio has taken: it would cancel a task that this call blocks
        thread.start()
        while not ended.wait(0.5):
            pass
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def _signals(stop: StopSignal, loop: Any = None) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that closes ask the job to end. Only the main thread can take signals.

    With a `loop`, which is asyncio's, it is that which takes them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        names.append(signal.SIGHUP)
    before = {name: signal.getsignal(name) for name in names}
    for name in names:
        if loop is None:
            signal.signal(name, stop.request)
        else:
            loop.add_signal_handler(name, stop.request)
    try:
        yield
    finally:
        for name, handler in before.items():
            if loop is not None:
                loop.remove_signal_handler(name)
            if handler is not None:  # one that was not set in Python cannot be put back
                signal.signal(name, handler)


def _mapper(endpoint: Any, client: Any, options: dict[str, Any]) -> tuple[RowMapper, bool]:
    """The mapper of a job, and whether it is the job's own."""
    if isinstance(endpoint, RowMapper):
        return endpoint, False
    if client is not None and isinstance(endpoint, str):
        handle = client.endpoint(endpoint)
    elif client is not None and endpoint is None:
        handle = client.driver_app(options["driver_app"], options["cluster_id"])
    else:
        handle = None if endpoint is None or isinstance(endpoint, str) else endpoint
    if handle is not None:
        own = {"driver_app", "cluster_id", "host", "profile"}
        return RowMapper(handle=handle, **{name: value for name, value in options.items() if name not in own}), True
    return RowMapper(endpoint, **options), True


def set_source(settings: Settings, source: Any, input_format: str | None) -> None:
    """Where the rows come from."""
    if input_format is not None and input_format not in FORMATS.values():
        raise ValueError(f"input_format must be one of jsonl, csv, tsv and parquet, got {input_format!r}.")
    if isinstance(source, (str, os.PathLike)) and str(source) != "-":
        settings.name = str(source)
        settings.path = Path(source)
        if settings.path.exists() and not (settings.path.is_file() or settings.path.is_dir()):
            raise InputMissingError(
                f"{settings.name} is a pipe or a device, which cannot be read twice. Pipe it in, with - for the input."
            )
        settings.input_format = input_format or file_format(settings.name)
        return
    settings.input_format = "jsonl"
    if isinstance(source, io.TextIOBase):  # its lines are those of a file, and no prompts
        source = getattr(source, "buffer", None) or io.BytesIO(source.read().encode("utf-8", "surrogatepass"))
    if isinstance(source, (str, io.RawIOBase, io.BufferedIOBase)):
        settings.name = "the standard input" if isinstance(source, str) else "the input"
        if isinstance(source, str) and sys.stdin is None:
            raise InputMissingError("the standard input is closed. Pipe the rows in, or name a file.")
        settings.rows = sys.stdin.buffer if isinstance(source, str) else source
        settings.input_format = input_format or "jsonl"
    elif isinstance(source, (Mapping, bytes, bytearray)) or not isinstance(source, Iterable):
        raise TypeError(f"the input is a file's name or an iterable of rows, got {type(source).__name__}.")
    else:
        settings.rows = source


def _report_of(content: Mapping[str, Any], price: Price | None) -> Report:
    """The report of a finished job, which was kept as plain data; the price is that of today's call."""
    made = Report(**content)
    made.output = None if content.get("output") is None else Path(content["output"])
    made.cost = None if price is None else price.cost(made.input_tokens, made.output_tokens)
    return made


def write_page(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the report as a page.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        Path(path).write_text(report.to_html(), "utf-8")
    except OSError as error:
        raise OutputError(
            f"the report {path} cannot be written: {error.strerror or error}. The answers are kept: name another place "
            "and run the same again, which sends nothing."
        ) from None
