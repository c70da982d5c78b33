"""What a notebook shows, in a real kernel: the data of its outputs, as Jupyter gets them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Server, answering
from support.samples import chat_answer

import dbllm

nbformat = pytest.importorskip("nbformat", reason="`nox -s notebook` has it")
nbclient = pytest.importorskip("nbclient", reason="`nox -s notebook` has it")
pytest.importorskip("ipykernel", reason="`nox -s notebook` has it")

pytestmark = pytest.mark.filterwarnings("ignore")  # Jupyter's own

CELLS = (
    "import dbllm; client = dbllm.Client(); client",
    "client.endpoint('ep').chat('hello')",
    "await dbllm.AsyncClient().endpoint('ep').chat('hello')",
    "client.endpoint('vectors').embed(['a', 'b'])",
    "client.endpoints.list()",
    "client.endpoint('own').predict([{'a': 1}])",
    "client.endpoint('ep').stream_chat('hello')",
    "_ = client.endpoint('vectors').embed(['a', 'b'] * 2, batch_size=2, progress=True)",
)


def test_a_notebook_shows_replies_as_text_and_tables_in_which_nothing_runs(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = {"data": [{"index": place, "embedding": [0.5, 0.25]} for place in range(2)], "model": "small"}
    server = serve(
        answering(
            {
                "/serving-endpoints/ep/invocations": (200, chat_answer("<script>alert(1)</script> **hello**")),
                "/serving-endpoints/vectors/invocations": (200, vectors),
                "/serving-endpoints/own/invocations": (200, {"predictions": [{"score": 0.5}, {"score": "<b>"}]}),
                "/api/2.0/serving-endpoints": (200, {"endpoints": [{"name": "one"}, {"name": "two"}]}),
            }
        )
    )
    monkeypatch.setenv("DATABRICKS_HOST", server.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-canary")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(dbllm.__file__).parents[1])]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()

    def shown(place: int) -> Any:
        (output,) = notebook.cells[place].outputs
        return output.get("data") or output

    assert shown(0)["text/plain"].startswith(f"Client(host='{server.host}', engine='h11', closed=False)")
    for place in (1, 2):
        assert shown(place)["text/plain"].startswith("ChatCompletion(text='<script>alert(1)</script> **hello**'")
        assert "&lt;script&gt;alert(1)&lt;/script&gt; **hello**" in shown(place)["text/html"]
        assert "<script" not in shown(place)["text/html"]
        assert "text/markdown" not in shown(place)
    assert shown(3)["text/plain"].startswith("Embeddings(vectors=<2 of 2 numbers>, model='small'")
    assert shown(3)["text/html"].count("<tr>") == 3
    assert shown(4)["text/html"].count("<tr>") == 3
    assert ">one<" in shown(4)["text/html"]
    assert "&lt;b&gt;" in shown(5)["text/html"]
    assert [*shown(6)] == ["text/plain"]
    line = "".join(output["text"] for output in notebook.cells[7].outputs)
    assert line == "\r2 of 4 texts (50%)\r4 of 4 texts (100%)\n"
    assert "dapi-canary" not in str(notebook)
