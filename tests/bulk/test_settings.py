"""What makes a job another job, what a finished one says, and what a report counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model
from support.jobs import read_rows, run_job, write_prompts

from dbllm import bulk
from dbllm.bulk.manifest import StopSignal
from dbllm.testing import FaultServer, fault_server


def test_a_finished_job_that_is_called_with_other_settings_says_which_it_was_made_with(
    server: FaultServer, tmp_path: Path
) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 12, same=4), tmp_path / "out.jsonl"
    run_job(server, source, output)
    table: list[tuple[dict[str, Any], str]] = [
        ({"dedupe": False}, "dedupe=True, and now it is False"),
        ({"prompt": "Tell {text}"}, "prompt='Say {text}', and now it is 'Tell {text}'"),
        ({"params": {"max_tokens": 3}}, "params={}"),
        ({"verb": "chat"}, "verb=None, and now it is 'chat'"),
        ({"defaults": {"temperature": 0.5}}, "handle={'params': {}"),
        ({"input_format": "csv"}, "input_format='jsonl', and now it is 'csv'"),
        ({"dedupe": False, "params": {"n": 1}}, "params={}, and now it is {'n': 1}; dedupe=True"),
    ]
    wrong = []
    for options, said in table:
        with pytest.raises(bulk.JournalError) as caught:
            run_job(server, source, output, **options)
        text = str(caught.value)
        if said not in text or "is finished" not in text or "--overwrite" not in text:
            wrong.append((options, text))
    assert not wrong, wrong
    assert server.report().executions == 8


def test_a_model_of_answers_with_other_fields_is_another_setting(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    one, other = (create_model("Answer", **{name: (str, ...)}) for name in ("text", "words"))  # type: ignore[call-overload]
    run_job(server, source, output, response_model=one, max_error_rate=1)
    run_job(server, source, output, response_model=one, max_error_rate=1)
    with pytest.raises(bulk.JournalError, match="response_model="):
        run_job(server, source, output, response_model=other, max_error_rate=1)


def test_another_workspace_is_another_job(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    server.change(mix={"early_413": 0.4}, seed=3)
    run_job(server, source, output)
    server.change(mix={})
    with fault_server() as other:
        with pytest.raises(bulk.JournalError, match=rf"host='{server.host}', and now it is '{other.host}'"):
            run_job(other, source, output, retry_errors=True)
        run_job(other, source, output, retry_errors=True, accept_changes=True)
        run_job(other, source, output)  # and from then on it is the job's


def test_accepted_changes_ask_what_is_open_and_say_if_that_is_nothing(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 12, same=4), tmp_path / "out.jsonl"
    run_job(server, source, output)
    report = run_job(server, source, output, params={"n": 1}, accept_changes=True)
    assert "so none was asked again" in str(report)
    assert "params={}, and now it is {'n': 1}" in str(report)
    assert server.report().executions == 8
    each = run_job(server, source, output, params={"n": 1}, dedupe=False, accept_changes=True)
    assert (each.copied, each.answered, server.report().executions) == (0, 12, 12)
    assert [row["same_as"] for row in read_rows(output)] == [None] * 12


def test_another_prompt_for_the_rest_tells_rows_apart_by_it(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"a": n // 2, "b": n}) + "\n" for n in range(200)))
    output, stop = tmp_path / "out.jsonl", StopSignal()
    server.change(latency=0.01)

    def once_some_are_done(status: bulk.Status) -> None:
        stop.level = int(status.done > 0)

    with pytest.raises(bulk.Interrupted):
        run_job(server, tmp_path / "in.jsonl", output, prompt="{a}", stop=stop, progress=once_some_are_done)
    before = {row for row in range(200) if len(server.history(str(row // 2))) and row % 2 == 0}
    server.change(latency=0.0)
    run_job(server, tmp_path / "in.jsonl", output, prompt="{a} {b}", accept_changes=True)
    answers = [row["output"] for row in read_rows(output)]
    assert answers == [str(n // 2) if n in before else f"{n // 2} {n}" for n in range(200)]


def test_one_journal_for_two_outputs_writes_over_neither_what_is_foreign(server: FaultServer, tmp_path: Path) -> None:
    source, journal = write_prompts(tmp_path / "in.jsonl", 4), tmp_path / "j"
    run_job(server, source, tmp_path / "a.jsonl", journal=journal)
    (tmp_path / "b.jsonl").write_text("precious")
    with pytest.raises(bulk.OutputError, match="is of no known job"):
        run_job(server, source, tmp_path / "b.jsonl", journal=journal)
    report = run_job(server, source, tmp_path / "c.jsonl", journal=journal)
    assert (report.output, len(read_rows(tmp_path / "c.jsonl"))) == (tmp_path / "c.jsonl", 4)
    assert (tmp_path / "b.jsonl").read_text() == "precious"
    assert server.report().executions == 4


def test_a_finished_job_reckons_with_the_price_of_today_and_writes_its_page_whole(
    server: FaultServer, tmp_path: Path
) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    first = run_job(server, source, output, price=(1.0, 1.0))
    assert first.cost == pytest.approx(20e-6)
    assert run_job(server, source, output, price=(2.0, 2.0)).cost == pytest.approx(40e-6)
    assert run_job(server, source, output).cost is None
    run_job(server, source, output, report=tmp_path / "page.html")
    assert "Slowest rows" in (tmp_path / "page.html").read_text("utf-8")
    assert server.report().executions == 10


def test_a_report_of_a_job_that_was_stopped_counts_all_its_runs(server: FaultServer, tmp_path: Path) -> None:
    rows = (
        [{"text": f"row {place}"} for place in range(700)] + [{"text": f"row {n}"} for n in range(20)] + [{"other": 1}]
    )
    output, stop = tmp_path / "out.jsonl", StopSignal()

    def soon(status: bulk.Status) -> None:
        stop.level = int(status.done >= 50)

    server.change(latency=0.005, mix={"early_413": 0.2}, seed=4)
    with pytest.raises(bulk.Interrupted) as first:
        run_job(server, rows, output, keep_bad_rows=True, stop=stop, progress=soon, concurrency=8)
    server.change(latency=0.0, mix={"early_413": 0.6})
    with pytest.raises(bulk.TooManyErrors) as caught:
        run_job(server, rows, output, keep_bad_rows=True, max_error_rate=0.4, concurrency=8)
    before, report = first.value.report, caught.value.report
    assert report.answered > before.answered >= 30
    assert report.failed == sum(report.errors.values()) > before.failed == sum(before.errors.values()) > 1
    assert (report.errors["RowInputError"], report.bad_rows) == (1, 1)
    assert 0 < report.copied < 20  # of the first twenty, some failed, and so did those that ask the same
    assert report.attempts == report.answered + report.errors["RequestTooLargeError"] - 20
    whole = run_job(server, rows, output, keep_bad_rows=True, concurrency=8)
    assert (whole.answered + whole.failed, whole.errors["RowInputError"]) == (721, 1)
