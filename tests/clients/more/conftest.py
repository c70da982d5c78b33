"""Frameworks of Python and of Node.js, which need an environment of their own: `nox -s clients_more`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside this file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What these packages warn of is theirs; the workspace takes warnings for errors, in a process of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is to look for anything elsewhere, or to report there."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("DSPY_CACHEDIR", "")
