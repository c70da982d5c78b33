"""The README's table of these clients is what this run found. `nox -s clients_new -- --write-table` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from table import NEW_CLIENTS, Outcomes, settle

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.usefixtures("whole")
def test_the_table_in_the_readme_is_what_this_run_found(outcomes: Outcomes, pytestconfig: pytest.Config) -> None:
    settle(NEW_CLIENTS, outcomes.table(NEW_CLIENTS), README, write=pytestconfig.getoption("--write-table"))
