"""The journal: a torn end is repaired, damage anywhere else is refused, and nothing that was written is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.jobs import sized

from dbllm.bulk import JournalError, OutputError
from dbllm.bulk.journal import ANSWERED, FAILED, NOT_DONE, TAIL_BYTES, Disk, Journal, open_locked

STEP = sized(4099, 97, 1)  # every so manieth byte of the tail is one to cut at
FLIPS = sized(20, 500, 5000)
ROWS = 400
JOB = "feed"


@contextmanager
def opened(path: Path, rows: int = ROWS, job: str = JOB) -> Iterator[Journal]:
    journal = Journal(open_locked(path), path, Disk(), job, rows)
    try:
        yield journal
    finally:
        journal.close()


def write_answers(journal: Journal, rows: range) -> None:
    for row in rows:
        journal.start(row)
        answer = {"output": "é" * (row % 90) + f"answer {row}", "index": row}
        journal.answer(row, row * 7, answer, ok=row % 9 != 0, tokens=(row, 1))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with opened(path) as journal:
        journal.begin()
        write_answers(journal, range(100))
        written = journal.totals
        journal.stop("done")
        mark, length = journal.marked()
    for known in (None, mark):
        with opened(path) as journal:
            journal.load(known, length)
            assert [journal.done[row] for row in range(ROWS)] == [
                NOT_DONE if row >= 100 else FAILED if row % 9 == 0 else ANSWERED for row in range(ROWS)
            ]
            assert journal.totals == written
            places = {row: place for row, place, _ in journal.answers()}
            assert {row: journal.read(place)["index"] for row, place in places.items()} == {n: n for n in range(100)}
            assert journal.read(places[89])["output"] == "é" * 89 + "answer 89"


def test_rows_in_flight_at_a_crash_are_counted_and_suspected_until_they_are_done(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for run in range(3):
        with opened(path) as journal:
            journal.load(None, 0)
            journal.begin()
            assert (journal.totals.crashes, journal.totals.paid_again) == (run, 2 * run)
            assert journal.suspects == ({5: run, 6: run} if run else {})
            journal.start(5)
            journal.start(6)
    with opened(path) as journal:
        journal.load(None, 0)
        journal.begin()
        write_answers(journal, range(5, 6))
        assert journal.suspects == {6: 3}
        journal.stop("drained")
    with opened(path) as journal:
        journal.load(None, 0)
        journal.begin()
        assert (journal.totals.runs, journal.totals.crashes) == (5, 3)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Any, int]:
    """A journal as kill -9 leaves it, longer than its tail; its last mark, and the length that the manifest knows."""
    path = tmp_path_factory.mktemp("journal") / "j"
    with opened(path, 2000) as journal:
        journal.begin()
        write_answers(journal, range(1000))
        journal.marked()
        write_answers(journal, range(1000, 1600))
        mark, length = journal.marked()
        write_answers(journal, range(1600, 1640))
    return path.read_bytes(), mark, length


@pytest.mark.timeout(7200)  # in long form it tries each byte
def test_a_journal_that_is_cut_in_its_tail_is_repaired_and_one_that_is_cut_before_is_refused(
    killed: tuple[bytes, Any, int], tmp_path: Path
) -> None:
    whole, mark, length = killed
    assert 0 < mark["size"] <= length - TAIL_BYTES
    path, wrong = tmp_path / "j", []
    for size in range(len(whole), len(whole) - TAIL_BYTES, -STEP):
        path.write_bytes(whole[:size])
        with opened(path, 2000) as journal:
            journal.load(mark, length)
            sound = whole[:size].rfind(b"\n") + 1
            sound += (whole[size : size + 1] == b"\n") * (size - sound + 1)  # all of a line but its end
            journal.begin()
            write_answers(journal, range(1700, 1701))
            if journal.lost != max(0, length - size):
                wrong.append((size, "lost", journal.lost))
        with opened(path, 2000) as journal:
            journal.load(None, 0)
            if path.read_bytes()[:sound] != whole[:sound] or journal.done[1700] == NOT_DONE:
                wrong.append((size, "not repaired"))
    assert not wrong, wrong[:3]
    for size in (0, 1, mark["size"] // 2, mark["size"] - 1):
        path.write_bytes(whole[:size])
        with opened(path, 2000) as journal, pytest.raises(JournalError, match="it was cut or replaced"):
            journal.load(mark, length)


@pytest.mark.timeout(7200)  # in long form it tries each byte
def test_a_changed_byte_is_refused_wherever_it_is_before_the_last_line(
    killed: tuple[bytes, Any, int], tmp_path: Path
) -> None:
    whole, mark, length = killed
    dice, path, wrong = random.Random(7), tmp_path / "j", []
    last = whole.rstrip(b"\n").rfind(b"\n")
    for _ in range(FLIPS):
        place = dice.randrange(last + 1)
        changed = bytearray(whole)
        changed[place] ^= 1 << dice.randrange(8)
        for known in (None, mark):
            path.write_bytes(changed)
            with opened(path, 2000) as journal:
                try:
                    journal.load(known, length)
                    wrong.append((place, "accepted", bool(known)))
                except JournalError as error:
                    if "is damaged in line" not in str(error) and "another job" not in str(error):
                        wrong.append((place, str(error), bool(known)))
            if path.read_bytes() != changed:
                wrong.append((place, "changed it", bool(known)))
    assert not wrong, wrong[:3]


def test_a_line_that_is_gone_or_doubled_or_moved_is_refused(killed: tuple[bytes, Any, int], tmp_path: Path) -> None:
    whole, _, _ = killed
    lines = whole.splitlines(keepends=True)
    for name, changed in {
        "gone": lines[:50] + lines[51:],
        "doubled": lines[:50] + lines[49:],
        "moved": [*lines[:50], lines[51], lines[50], *lines[52:]],
    }.items():
        path = tmp_path / name
        path.write_bytes(b"".join(changed))
        with opened(path, 2000) as journal, pytest.raises(JournalError, match=r"damaged in line 5[012]"):
            journal.load(None, 0)


def test_a_journal_of_another_job_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "j", job="beef") as journal:
        journal.begin()
    with opened(tmp_path / "j") as journal, pytest.raises(JournalError, match="of another job"):
        journal.load(None, 0)


def test_one_process_has_it_and_the_lock_goes_with_the_handle(tmp_path: Path) -> None:
    with opened(tmp_path / "j"), pytest.raises(OutputError, match="another process"):
        open_locked(tmp_path / "j")
    with opened(tmp_path / "j"):
        pass
