"""The notebook's cells run on a workspace that the environment names, as on a reader's own; see also tests/notebook."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbllm.local import Workspace

NOTEBOOK = Path(__file__).parents[2] / "examples" / "databricks.ipynb"
CELLS = [
    "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"
]
SWITCH = "LOCAL = True"
START = 60.0  # seconds the app may take to listen


def kind(cell: str) -> str:
    """pip, shell, app (the file of the driver app), start (of the app) or python."""
    if cell.startswith("%pip"):
        return "pip"
    if cell.startswith("%%writefile"):
        return "app"
    if cell.startswith("%%bash --bg"):
        return "start"
    return "shell" if cell.startswith("%%bash") else "python"


def body(cell: str) -> str:
    """A cell without its magic."""
    return cell.split("\n", 1)[1] if cell.startswith("%%") else cell


def without_the_model(app: str) -> str:
    """The driver app with a plain function where it loads a large model and its tokenizer."""
    plain = "tokenizer = None\n"
    plain += "def dolly(prompt, stopping_criteria=(), **kwargs):\n"
    plain += "    return [{'generated_text': f'I am well. You said: {prompt}'}]\n"
    lines = app.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("tokenizer ="))
    last = next(number for number, line in enumerate(lines) if line.startswith("device ="))
    head = [line for line in lines[:first] if not line.startswith(("import torch", "from transformers"))]
    heavy = "import types\ntorch = types.SimpleNamespace(LongTensor=object, FloatTensor=object)\n"
    heavy += "class StoppingCriteria: pass\n"
    rest = "\n".join(lines[last + 1 :]).replace("tokenizer.encode(s, return_tensors='pt').to(device)", "s")
    return "\n".join([heavy, *head, plain, rest])


class Session:
    """Runs cells as a notebook does, and keeps what their last lines showed."""

    def __init__(self, port: int, ambient: Workspace, folder: Path) -> None:
        self.port, self.folder = str(port), folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.shown: list[Any] = []
        self.environment = {**os.environ, "OPENAI_API_KEY": ambient.upstream_key}

    def run(self, cell: str) -> None:
        getattr(self, kind(cell))(body(cell).replace("7777", self.port))

    def pip(self, text: str) -> None:
        """It is installed already."""

    def shell(self, text: str) -> None:
        script = f'dbllm() {{ "{sys.executable}" -m dbllm "$@"; }}\nset -e\n{text}'
        ended = subprocess.run(
            ["bash", "-c", script], env=self.environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr

    def app(self, text: str) -> None:
        (self.folder / "dolly_app.py").write_text(without_the_model(text))

    def start(self, text: str) -> None:
        assert "the app above instead: python dolly_app.py\n" in text
        assert f"\ndbllm serve --port {self.port}" in text
        self.process = subprocess.Popen([sys.executable, "dolly_app.py"], cwd=self.folder, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/", trust_env=False)
                return
            except httpx.ConnectError:
                assert self.process.poll() is None
                assert time.monotonic() - began < START
                time.sleep(0.05)

    def python(self, text: str) -> None:
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), self.names)  # noqa: S102 - the notebook's own code
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), self.names)
            if value is not None:
                self.shown.append(value)

    def close(self) -> None:
        if hasattr(self, "process"):
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture
def session(app_port: int, ambient: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.chdir(tmp_path)  # a cell changes it
    monkeypatch.setenv("PATH", os.environ["PATH"])  # and this
    running = Session(app_port, ambient, tmp_path)
    yield running
    running.close()


def test_the_notebook_runs_on_a_workspace_of_a_reader(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.environ["DATABRICKS_HOST"]
    for cell in CELLS:
        session.run(cell.replace(SWITCH, "LOCAL = False"))
    assert f"The workspace is {before}\n" in capsys.readouterr().out
    chat, vector, *texts, shouted = session.shown
    assert chat.content
    assert len(vector) == 3
    assert all(isinstance(number, float) for number in vector)
    assert len(texts) == 8
    assert all(isinstance(text, str) and text for text in texts)
    assert "." not in texts[1]  # stop=["."]
    assert texts[5].startswith("I am well. You said: How are you?")
    assert shouted == shouted.upper()
    assert "BE CONCISE." in shouted


def test_every_kind_of_cell_is_there_and_none_is_to_be_filled_in() -> None:
    kinds = [kind(cell) for cell in CELLS]
    assert kinds.count("python") == 14
    assert {"pip", "shell", "app", "start"} < set(kinds)
    assert "app.run(" in next(cell for cell in CELLS if kind(cell) == "app")
    assert [cell for cell in CELLS if re.search(r"<\w+>|xxxx|myworkspace\.cloud", cell)] == []


def test_the_cell_for_a_workspace_of_one_s_own_is_marked() -> None:
    all_cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    (place,) = [number for number, cell in enumerate(all_cells) if "".join(cell["source"]).startswith(SWITCH)]
    above = "".join(all_cells[place - 1]["source"])
    assert above.startswith("### ▶ Your own workspace")
    assert re.findall(r"`(DATABRICKS_\w+|OPENAI_API_KEY)`", above) == [
        "DATABRICKS_HOST",
        "DATABRICKS_TOKEN",
        "OPENAI_API_KEY",
        "DATABRICKS_CLUSTER_ID",
    ]


def test_the_notebook_imports_only_what_this_package_and_langchain_core_have() -> None:
    imports = {
        line for cell in CELLS if kind(cell) == "python" for line in re.findall(r"^(?:from|import) .*", cell, re.M)
    }
    assert imports == {
        "from dbllm import dbutils",
        "from dbllm.deployments import get_deploy_client",
        "from dbllm.langchain import ChatDatabricks",
        "from dbllm.langchain import Databricks",
        "from dbllm.langchain import DatabricksEmbeddings",
        "from langchain_core.messages import HumanMessage",
        "import os",
        "import socket",
        "import sys",
        "import tempfile",
        "import time",
    }
