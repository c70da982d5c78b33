"""The README's table of clients is what this run found. `nox -s clients -- --write-table` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from reasons import LEFT_OUT
from table import CLIENTS, MORE_CLIENTS, Outcomes, left_out, settle

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("whole")
def test_the_table_in_the_readme_is_what_this_run_found(outcomes: Outcomes, pytestconfig: pytest.Config) -> None:
    told = f"{outcomes.table(CLIENTS)}\n\nNot called, and why:\n\n{left_out(LEFT_OUT)}"
    settle(CLIENTS, told, README, write=pytestconfig.getoption("--write-table"))


def test_a_cell_says_yes_only_if_every_test_of_it_passed() -> None:
    outcomes = Outcomes()
    outcomes.note("openai", "chat", worked=False)
    outcomes.note("openai", "chat", worked=True)
    outcomes.note("openai", "tools", worked=True)
    rows = {row.split(" | ")[0].strip("| "): row for row in outcomes.table(CLIENTS).splitlines()}
    assert "**fails**" in rows["chat"]
    assert "yes" in rows["tools"]
    assert "yes" not in rows["embeddings"]
    assert "yes" not in outcomes.table(MORE_CLIENTS)


def test_a_cell_that_no_table_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no table has a cell"):
        Outcomes().note("instructor", "permissions", worked=True)
