"""The code for LangChain of the README and the guides runs as it stands; `tests/cli` runs the rest of their code."""

from __future__ import annotations

import pytest
from support.documents import WITH_CODE, blocks, named, needs_langchain

BLOCKS = [(document, block) for document in WITH_CODE for block in blocks(document, "python") if needs_langchain(block)]


def test_there_is_code_for_all_three_classes() -> None:
    for name in ("Databricks(", "ChatDatabricks(", "DatabricksEmbeddings("):
        assert any(name in block for _, block in BLOCKS), name


@pytest.mark.usefixtures("ambient")
def test_each_block_runs_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for document, block in BLOCKS:
        exec(compile(block, named(document), "exec"), {"__name__": "readme"})  # noqa: S102 - the document's own code
        assert capsys.readouterr().out.strip(), block
