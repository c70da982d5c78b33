"""What ends a job and what does not; and what a call that is wrong costs: nothing."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.jobs import read_rows, run_job, write_prompts
from support.loopback import Peer, Server
from support.samples import chat_answer

from dbllm import AsyncClient, NotFoundError, bulk
from dbllm.bulk.display import display
from dbllm.bulk.entry import _signals
from dbllm.bulk.journal import Disk
from dbllm.bulk.manifest import StopSignal
from dbllm.testing import FaultServer

ROWS = 60


def files_of(output: Path) -> dict[str, bytes]:
    """What tells of a job: its output, its journal and its manifest."""
    names = (output.name, f"{output.name}.part", f"{output.name}.job.json")
    return {name: path.read_bytes() for name in names if (path := output.with_name(name)).exists()}


def broken() -> Iterator[dict[str, Any]]:
    yield {"text": "one"}
    raise RuntimeError("the rows end here")


def test_a_wrong_call_that_would_overwrite_a_job_leaves_it_as_it_was(
    server: FaultServer, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    def none(peer: Any) -> None:
        for _ in iter(peer.request, None):
            peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such endpoint"}, 404)

    source = write_prompts(tmp_path / "in.jsonl", ROWS)
    (not_utf8 := tmp_path / "other.jsonl").write_bytes(b'{"text": "\xff"}\n')
    here = AsyncClient(server.host, "token").endpoint("m", task="chat")
    elsewhere = AsyncClient(serve(none).host, "token").endpoint("nope")
    wrong_calls: list[tuple[str, Any, dict[str, Any], type[Exception]]] = [
        ("no such endpoint", source, {"endpoint": elsewhere}, NotFoundError),
        ("no such column", source, {"prompt": "Say {txt}"}, bulk.BadInputError),
        ("not UTF-8", not_utf8, {}, bulk.BadInputError),
        ("no input", tmp_path / "none.jsonl", {}, bulk.InputMissingError),
        ("rows that break off", broken, {}, RuntimeError),
        ("a prompt that cannot be read", source, {"prompt": "Say {text"}, ValueError),
        ("no folder for the report", source, {"report": tmp_path / "none" / "r.html"}, bulk.OutputError),
    ]
    half = tmp_path / "half.jsonl"
    server.change(latency=0.05)
    with pytest.raises(bulk.Interrupted):
        run_job(server, source, half, concurrency=4, progress=stopping(stop := StopSignal()), stop=stop)
    server.change(latency=0.0)
    run_job(server, source, whole := tmp_path / "whole.jsonl")
    for output in (half, whole):
        before = files_of(output)
        for what, given, options, kind in wrong_calls:
            rows = given() if callable(given) else given
            handle = options.pop("endpoint", here)
            with pytest.raises(kind):
                bulk.run_sync(rows, output, endpoint=handle, overwrite=True, **{"prompt": "Say {text}", **options})
            options["endpoint"] = handle
            assert files_of(output) == before, f"{output.name}: {what}"
        run_job(server, source, output)
    assert all(len(server.history(f"Say row {place}")) == 2 for place in range(ROWS))  # once for each output
    run_job(server, source, whole, overwrite=True, prompt="Tell {text}")
    assert read_rows(whole)[0]["output"] == "Tell row 0"


def stopping(stop: StopSignal) -> Callable[[bulk.Status], None]:
    """A display that stops the job after its first rows."""

    def show(status: bulk.Status) -> None:
        if status.state == "running" and status.done and not stop.level:
            stop.request()

    return show


def test_another_journal_is_refused_where_the_output_has_one_beside_it(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    server.change(latency=0.02)
    with pytest.raises(bulk.Interrupted):
        run_job(server, source, output, concurrency=2, progress=stopping(stop := StopSignal()), stop=stop)
    with pytest.raises(bulk.OutputError, match=r"a job whose journal lies beside it \(out.jsonl.job.json\)"):
        run_job(server, source, output, journal=tmp_path / "j.part")
    assert not list(tmp_path.glob("j.part*"))
    run_job(server, source, output)
    assert server.report().executions == ROWS
    run_job(server, source, output, journal=tmp_path / "j.part", overwrite=True)


async def called_in_a_loop(plain: Callable[[], object]) -> None:
    plain()


@pytest.mark.usefixtures("hangups")
def test_a_signal_ends_a_plain_job_inside_a_running_loop_as_anywhere(server: FaultServer, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", ROWS)
    server.change(latency=0.02)
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for inside in (True, False):
        for name in names:
            output, sent = tmp_path / f"{name}{inside}.jsonl", []

            def show(status: bulk.Status, number: int = signal.Signals[name], sent: list[int] = sent) -> None:
                if status.state == "running" and status.done and not sent:
                    sent.append(number)
                    os.kill(os.getpid(), number)

            before, handler = server.report().executions, signal.getsignal(signal.Signals[name])
            plainly = partial(run_job, server, source, output, concurrency=2, progress=show)
            with pytest.raises(bulk.Interrupted, match=f"of {ROWS} rows done. The same again goes on from here."):
                asyncio.run(called_in_a_loop(plainly)) if inside else plainly()
            assert signal.getsignal(signal.Signals[name]) == handler
            run_job(server, source, output)
            assert server.report().executions == before + ROWS, name


@pytest.mark.skipif(sys.platform == "win32", reason="a loop takes no signals there")
def test_a_signal_that_comes_as_the_loop_goes_to_sleep_is_seen_all_the_same(
    server: FaultServer, tmp_path: Path
) -> None:
    output, ended = tmp_path / "out.jsonl", threading.Event()
    reader, writer = os.pipe()

    def interrupt() -> None:
        draft = tmp_path / "out.jsonl.input.new"
        while not draft.exists() and not ended.is_set():
            pass
        signal.raise_signal(signal.SIGINT)  # in this thread, so that no system call of the loop's is interrupted
        ended.wait(10)
        os.close(writer)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with open(reader, "rb") as rows, pytest.raises(bulk.Interrupted, match="while the input was read"):
            run_job(server, rows, output)
    finally:
        ended.set()
        thread.join()
    assert server.report().executions == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_hangup_that_is_ignored_stays_ignored_as_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals(StopSignal()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Gone(io.StringIO):
    """A pipe whose reader has gone, or a terminal that hung up."""

    def __init__(self, *, is_terminal: bool, error: Exception) -> None:
        super().__init__()
        self._is_terminal, self._error = is_terminal, error

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        raise self._error

    def flush(self) -> None:
        raise self._error


def test_a_terminal_or_pipe_that_is_gone_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for error in (BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error"), ValueError("closed file")):
        for is_terminal in (True, False):
            with display(True, stream=Gone(is_terminal=is_terminal, error=error)) as show:
                for seconds in (0.5, 100.0, 200.0):
                    show(bulk.Status(total=5, done=2, seconds=seconds))
                show(bulk.Status(total=5, done=5, state="done"))
    with pytest.raises(OSError, match="of the job"), display(True, stream=io.StringIO()):
        raise OSError("of the job")


def test_what_a_progress_function_raises_is_raised_and_what_it_cut_is_counted(
    server: FaultServer, tmp_path: Path
) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    server.change(latency=0.2)

    def show(status: bulk.Status) -> None:
        if status.in_flight:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run_job(server, source, output, concurrency=4, progress=show)
    server.change(latency=0.0)
    report = run_job(server, source, output)
    assert report.answered == ROWS
    assert 0 < report.paid_again <= 4
    assert server.report().executions <= ROWS + report.paid_again


def test_the_report_says_what_the_first_error_row_says(tmp_path: Path) -> None:
    def play(peer: Peer) -> None:
        while request := peer.request():
            asked = request.json["messages"][0]["content"] if request.body else "2"  # it is asked first without a row
            if "2" in asked or "3" in asked:
                peer.answer({"error_code": "BAD_REQUEST", "message": f"no\n{asked} " + 400 * "x"}, 400)
            else:
                peer.answer(chat_answer())

    server = Server((play,))
    endpoint = AsyncClient(server.host, "token").endpoint("m", task="chat")
    output = tmp_path / "out.jsonl"
    for _ in range(2):  # also of a finished job
        report = bulk.run_sync(["row 1", "row 2", "row 3"], output, endpoint=endpoint, verb="chat")
        (note,) = [line for line in str(report).splitlines() if "first error row" in line]
        assert note.startswith("the first error row is line 2: no row 2 xxx"), note
        assert len(note) < 350
    server.close()
    assert sum(bool(request.body) for request in server.requests) == 3


def test_the_report_says_how_error_rows_are_asked_again_and_if_a_class_was_none_of_theirs(
    server: FaultServer, tmp_path: Path
) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    server.change(mix={"early_413": 0.2}, seed=3)
    first = run_job(server, source, output)
    (name,) = first.errors
    assert f"{first.failed} error rows: {first.failed} {name}; --retry-errors asks them again" in str(first)
    server.change(mix={})
    before = server.report().executions
    again = run_job(server, source, output, retry_errors="RateLimitErorr")
    assert f"no error row was of class RateLimitErorr; there were: {name}" in str(again)
    assert (again.failed, server.report().executions) == (first.failed, before)
    last = run_job(server, source, output, retry_errors=name)
    assert (last.failed, last.notes) == (0, [])


def test_a_manifest_that_a_full_disk_does_not_take_leaves_no_draft(tmp_path: Path) -> None:
    class Full(Disk):
        def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
            raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(OSError, match="No space"):
        Full().put(tmp_path / "a", b"after")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"before"}
