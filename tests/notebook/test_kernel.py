"""The example notebook in a real kernel, "Run all", on the local workspace that it starts: what a reader then sees."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="`nox -s notebook` has it")
nbclient = pytest.importorskip("nbclient", reason="`nox -s notebook` has it")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "databricks.ipynb"
MANY_SECONDS = 240  # a small model may talk for long on a busy machine


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """The cells with their outputs. The environment names another workspace, as a reader's may."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_HOST", "https://nobody.invalid")
        patch.setenv("DATABRICKS_TOKEN", "of-another-workspace")
        client = nbclient.NotebookClient(
            notebook, timeout=MANY_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        asyncio.run(client.async_execute())
        assert list(folder.iterdir()) == []
        yield [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    """What stands below a cell."""
    texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "".join(texts).strip()


def find(cells: list[Any], word: str) -> str:
    return next(shown(cell) for cell in cells if word in cell.source)


def test_each_cell_with_a_value_at_its_end_shows_an_answer(cells: list[Any]) -> None:
    answered = [cell for cell in cells if re.search(r"\nllm\(|^llm\(|\nchat\(|\nembeddings\.", cell.source)]
    assert len(answered) == 11
    for cell in answered:
        (output,) = cell.outputs
        assert output.output_type == "execute_result", cell.source
        assert len(shown(cell)) > 3


def test_no_cell_shows_an_error_a_warning_or_a_credential(cells: list[Any]) -> None:
    everything = "\n".join(shown(cell) for cell in cells)
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{cell.source}\n{output.text}"
    assert "Traceback" not in everything
    assert "Warning" not in everything
    assert not re.search(r"dapi|local-[0-9a-f]{8}|of-another-workspace", everything)


def test_it_runs_on_the_workspace_that_it_starts_and_not_on_the_environment_s(cells: list[Any]) -> None:
    assert re.fullmatch(r"The workspace is http://127\.0\.0\.1:\d+", find(cells, "Workspace("))


def test_what_the_cells_say_they_show_is_what_they_show(cells: list[Any]) -> None:
    assert find(cells, "my-chat").startswith("AIMessage(content='")
    assert re.fullmatch(r"\[(-?[\d.e-]+(, )?){3}\]", find(cells, "embed_query"))
    assert "." not in find(cells, 'stop=["."]')
    assert find(cells, "%%writefile") == "Writing dolly_app.py"
    shouted = find(cells, "transform_output_fn=transform_output")
    assert shouted == shouted.upper().replace("\\N", "\\n")
