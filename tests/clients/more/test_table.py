"""The README's table of frameworks is what this run found. `nox -s clients_more -- --write-table` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from more_reasons import LEFT_OUT
from table import MORE_CLIENTS, Outcomes, left_out, settle

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.usefixtures("whole")
def test_the_table_in_the_readme_is_what_this_run_found(outcomes: Outcomes, pytestconfig: pytest.Config) -> None:
    told = (
        f"{outcomes.table(MORE_CLIENTS)}\n\nWhat they have to be told, and what is not called:\n\n{left_out(LEFT_OUT)}"
    )
    settle(MORE_CLIENTS, told, README, write=pytestconfig.getoption("--write-table"))
