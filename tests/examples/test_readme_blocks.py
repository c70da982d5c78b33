"""The README's code for LangChain runs as it stands; `tests/cli` runs the rest of its code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
BLOCKS = [block for block in re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M) if "dbllm.langchain" in block]


def test_there_is_code_for_all_three_classes() -> None:
    for name in ("Databricks(", "ChatDatabricks(", "DatabricksEmbeddings("):
        assert any(name in block for block in BLOCKS), name


@pytest.mark.usefixtures("ambient")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "chain" if "chain" in block else "structured output")
def test_a_block_runs_and_prints(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - the README's own code
    assert capsys.readouterr().out.strip()
