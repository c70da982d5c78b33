"""The README's table of promises says what the proofs measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reliability import figures


def test_the_table_in_the_readme_is_made_from_the_file_of_figures() -> None:
    assert figures.inside(figures.README.read_text("utf-8")) == figures.table(figures.read())


def test_a_short_run_does_not_replace_what_a_long_one_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, notes = tmp_path / "figures.json", tmp_path / "notes"
    monkeypatch.setattr(figures, "FILE", file)
    monkeypatch.setenv("DBLLM_FIGURES", str(notes))
    for long, calls in ((False, 1), (True, 2), (False, 3)):
        monkeypatch.setattr(figures, "LONG", long)
        figures.record("shared", "threads", calls=calls, bad=0)
        figures.take_in(notes)
        notes.unlink()
    assert json.loads(file.read_text()) == {"shared": {"threads": {"long": True, "calls": 2, "bad": 0}}}
    assert figures.table(figures.read()).count("\n") == 2


def test_a_promise_without_figures_is_left_out() -> None:
    assert figures.table({}) == "| promise | proof | figures |\n|---|---|---|"
