"""Where a job reads and writes: links, pipes, devices and folders; and an input that changes under it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.jobs import read_rows, run_job, write_prompts

from dbllm import bulk
from dbllm.bulk import places
from dbllm.testing import FaultServer


def test_an_output_that_is_a_link_stays_one_and_its_target_is_written(server: FaultServer, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", 3)
    (target := tmp_path / "disk" / "answers.jsonl").parent.mkdir()
    (tmp_path / "out.jsonl").symlink_to(target)  # to nothing yet
    (tmp_path / "other.jsonl").symlink_to("out.jsonl")  # to a link
    report = run_job(server, source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").is_symlink()
    assert not target.is_symlink()
    assert (len(read_rows(target)), report.output) == (3, target)
    run_job(server, source, tmp_path / "other.jsonl")  # the same job by another name
    assert server.report().executions == 3
    run_job(server, source, tmp_path / "out.jsonl", overwrite=True)
    assert (tmp_path / "out.jsonl").is_symlink()
    assert server.report().executions == 6
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "disk", "out.jsonl", "other.jsonl"}


def refused(server: FaultServer, source: Path, output: Path, kind: type[bulk.BulkError] = bulk.OutputError) -> str:
    with pytest.raises(kind) as caught:
        run_job(server, source, output)
    assert server.report().requests == 0
    return str(caught.value)


def test_links_that_lead_nowhere_and_files_that_are_none_are_refused(server: FaultServer, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", 3)
    links = {
        "a.jsonl": ("a.jsonl", "leads back to itself"),
        "b.jsonl": ("gone/out.jsonl", "does not exist"),
        "c.jsonl": ("/dev/null", "must be called"),
        "d.jsonl": ("in.jsonl", "is the input itself"),
        "e.jsonl": ("folder.jsonl", "is a folder"),
    }
    (tmp_path / "folder.jsonl").mkdir()
    for name, (target, said) in links.items():
        (tmp_path / name).symlink_to(target)
        assert said in refused(server, source, tmp_path / name), name
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is a pipe or a device" in refused(server, source, tmp_path / "pipe.jsonl")
    assert "must be called" in refused(server, source, Path("/dev/stdout"))
    assert "cannot be read twice" in refused(
        server, tmp_path / "pipe.jsonl", tmp_path / "out.jsonl", bulk.InputMissingError
    )
    assert "Is a directory" in refused(
        server, tmp_path / "folder.jsonl", tmp_path / "out.jsonl", bulk.InputMissingError
    )
    with pytest.raises(bulk.OutputError, match="is no file"):
        run_job(server, source, tmp_path / "out.jsonl", journal=Path("/dev/null"))


def test_hard_links_are_the_same_file(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    before = source.read_bytes()
    for name in ("out.jsonl", "report.html", "j"):
        os.link(source, tmp_path / name)
    assert "is the input itself" in refused(server, source, output)
    output.unlink()
    for options in ({"report": tmp_path / "report.html"}, {"journal": tmp_path / "j"}):
        with pytest.raises(bulk.OutputError, match="and is the input itself"):
            run_job(server, source, output, **options)
    assert source.read_bytes() == before
    run_job(server, source, output)
    os.link(output, tmp_path / "copy.jsonl")  # a hard link to an output keeps what it had
    kept = output.read_bytes()
    run_job(server, source, output, overwrite=True, prompt="Tell {text}")
    assert (tmp_path / "copy.jsonl").read_bytes() == kept != output.read_bytes()


def test_a_folder_that_takes_no_file_is_told_before_anything_is_paid(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "full" / "out.jsonl"
    output.parent.mkdir()
    really = os.open

    def read_only(path: object, flags: int, *more: object) -> int:  # tests may run as root, whom no mode stops
        if str(path).startswith(str(output.parent)) and flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return really(path, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(places.os, "open", read_only)
    with pytest.raises(bulk.OutputError, match="cannot be made there: Read-only file system"):
        run_job(server, source, output, journal=tmp_path / "j")
    assert server.report().requests == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in.jsonl"]


def changing(when: Callable[[bulk.Status], bool], change: Callable[[], object]) -> Callable[[bulk.Status], None]:
    """A display that changes something once, when that is so."""
    done = []

    def show(status: bulk.Status) -> None:
        if not done and when(status):
            done.append(change())

    return show


def test_an_input_that_changes_while_the_job_runs_ends_it_and_no_answer_is_put_to_another_row(
    server: FaultServer, tmp_path: Path
) -> None:
    moments: dict[str, Callable[[bulk.Status], bool]] = {
        "reading": lambda status: status.state == "reading" and status.done > 0,
        "sending": lambda status: status.state == "running" and status.done > 0,
        "writing": lambda status: status.state == "writing the output",
    }
    changes: dict[str, Callable[[Path], object]] = {
        "grown": lambda path: path.write_text(path.read_text() + '{"text": "more", "place": 0}\n'),
        "cut": lambda path: path.write_text(path.read_text()[:100]),
        "another": lambda path: path.write_text(path.read_text().replace("row", "ROW")),
        "moved": lambda path: path.replace(path.with_name("away")),
    }
    wrong = []
    for moment, when in moments.items():
        number = 9000 if moment == "reading" else 600  # it looks around each 8,192 rows
        source = write_prompts(tmp_path / "in.jsonl", number, same=number - 60)
        before = source.read_text()
        for name, change in changes.items():
            source.write_text(before)
            output = tmp_path / f"{moment}-{name}.jsonl"
            server.change(latency=0.02 if moment == "sending" else 0.0)
            options = {"concurrency": 2, "progress": changing(when, lambda do=change, path=source: do(path))}
            with pytest.raises((bulk.BadInputError, bulk.InputMissingError)) as caught:
                run_job(server, source, output, **options)
            if name != "moved" and "was changed while the job ran" not in str(caught.value):
                wrong.append((moment, name, str(caught.value)))
            if output.exists():
                wrong.append((moment, name, "there is an output"))
            source.write_text(before)
            report = run_job(server, source, output)
            rows = read_rows(output)
            if report.failed or [row["output"] for row in rows] != [f"Say row {n % 60}" for n in range(number)]:
                wrong.append((moment, name, "another output"))
    assert not wrong, wrong
    assert server.report().executions <= 60 * 12 + 2
