"""The notebook runs from top to bottom on the local workspace; only values that belong to a workspace are put in."""

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


@pytest.fixture
def values(ambient: Workspace, app_port: int) -> dict[str, str]:
    """What a reader puts in: names of his own workspace."""
    return {
        "<scope>": "my-scope",
        "myworkspace.cloud.databricks.com": ambient.host,
        "0000-000000-xxxxxxxx": ambient.cluster_id,
        "7777": str(app_port),
    }


def put_in(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


class Session:
    """Runs cells as a notebook does, and keeps what their last lines showed."""

    def __init__(self, values: dict[str, str], ambient: Workspace, folder: Path) -> None:
        self.values, self.folder = values, folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.shown: list[Any] = []
        self.environment = {**os.environ, "OPENAI_API_KEY": ambient.upstream_key}

    def run(self, cell: str) -> None:
        text = put_in(body(cell), self.values)
        getattr(self, kind(cell))(text)

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
        assert text == "python dolly_app.py"
        self.process = subprocess.Popen([sys.executable, "dolly_app.py"], cwd=self.folder, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.values['7777']}/", trust_env=False)
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
            value = compile(ast.Expression(last.value), "cell", "eval")
            self.shown.append(eval(value, self.names))

    def close(self) -> None:
        if hasattr(self, "process"):
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture
def session(values: dict[str, str], ambient: Workspace, tmp_path: Path) -> Iterator[Session]:
    running = Session(values, ambient, tmp_path)
    yield running
    running.close()


def test_the_notebook_runs_from_top_to_bottom(session: Session) -> None:
    for cell in CELLS:
        session.run(cell)
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


def test_every_kind_of_cell_is_there() -> None:
    kinds = [kind(cell) for cell in CELLS]
    assert kinds.count("python") == 11
    assert {"pip", "shell", "app", "start"} < set(kinds)
    assert "app.run(" in next(cell for cell in CELLS if kind(cell) == "app")


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
    }
