"""The README's table of clients is what this run found. `nox -s clients -- --write-table` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from reasons import LEFT_OUT
from table import Outcomes, found, left_out, replaced

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("whole")
def test_the_table_in_the_readme_is_what_this_run_found(outcomes: Outcomes, pytestconfig: pytest.Config) -> None:
    told = f"{outcomes.table()}\n\nNot called, and why:\n\n{left_out(LEFT_OUT)}"
    page = README.read_text("utf-8")
    if pytestconfig.getoption("--write-table"):
        README.write_text(replaced(page, told), "utf-8")
        return
    assert found(page) == told, "the README's table is stale: nox -s clients -- --write-table"


def test_a_cell_says_yes_only_if_every_test_of_it_passed() -> None:
    outcomes = Outcomes()
    outcomes.note("openai", "chat", worked=False)
    outcomes.note("openai", "chat", worked=True)
    outcomes.note("openai", "tools", worked=True)
    rows = {row.split(" | ")[0].strip("| "): row for row in outcomes.table().splitlines()}
    assert "**fails**" in rows["chat"]
    assert "yes" in rows["tools"]
    assert "yes" not in rows["embeddings"]
