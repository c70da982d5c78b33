"""The examples that are tests themselves pass, without a model, and a chain's takes ten lines and less than 100 ms."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbllm.testing import scripted_workspace
from dbllm.testing.recorded_secrets import SecretRemover
from dbllm.testing.recordings import from_text, to_text

EXAMPLES = Path(__file__).parents[2] / "examples"
CHAIN = EXAMPLES / "test_a_chain.py"


def run(folder: Path, *options: str) -> str:
    """The report of a run of the examples, copied to a folder, that has no plugin but dbllm's."""
    for file in EXAMPLES.glob("test_*.py"):
        shutil.copy(file, folder)
    shutil.copytree(EXAMPLES / "recordings", folder / "recordings")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-W",
        "error",
        "-p",
        "dbllm.testing.plugin",
        *options,
        str(folder),
    ]
    unset = {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")}
    environment = {**unset, "PYTHONPATH": str(EXAMPLES.parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_they_pass_without_a_workspace(tmp_path: Path) -> None:
    report = run(tmp_path, "-k", "not small_model")  # that one is run where a workspace is: test_scripts.py
    tests = re.findall(r"^def (test_\w+)", "".join(file.read_text() for file in EXAMPLES.glob("test_*.py")), re.M)
    assert len(tests) == 4
    for name in tests:
        if "small_model" in name:
            continue
        assert re.search(rf"PASSED .*::{name}$", report, re.M), report


@pytest.mark.speed
def test_a_test_of_a_chain_takes_less_than_a_tenth_of_a_second() -> None:
    test = runpy.run_path(str(CHAIN))["test_the_chain_asks_the_model_and_returns_its_text"]
    times = []
    for _ in range(6):  # the first imports LangChain's parts
        began = time.perf_counter()
        with scripted_workspace() as scripted:  # what the fixture does
            test(scripted)
        times.append(time.perf_counter() - began)
    print(f"a test of a chain takes {1000 * min(times[1:]):.0f} ms, the first one {1000 * times[0]:.0f} ms")
    assert min(times[1:]) < 0.1


def test_a_test_of_a_chain_has_ten_lines() -> None:
    tree = ast.parse(CHAIN.read_text())
    chain, test = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not re.search("streams|small_model", node.name)
    )
    lines = [node for function in (chain, test) for node in function.body]
    assert 2 + len(lines) <= 10


def test_no_recording_holds_a_secret_and_each_is_in_the_form_of_today() -> None:
    files = list((EXAMPLES / "recordings").rglob("*.json"))
    assert files
    for file in files:
        text = file.read_text("utf-8")
        assert to_text(from_text(text, file.name)) == text, file
        assert SecretRemover().text(text) == text, file
