"""One `dbllm up` process with the real model for all tests of this folder, and a note of what each client did there.

A test that is marked `does(client, operation)` is one cell of a table in the README's "Works with other clients"; the
last test, in test_table.py, compares that table with this run. The clients in `more` need an environment of their own.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside this file

from place import PRINCIPAL, SECRET, UPSTREAM_KEY, Up
from table import Outcomes

from dbllm.local.model.weights import default_model

OUTCOMES = pytest.StashKey[Outcomes]()
MODEL = '''
def shout(prompt, stop=None, temperature=0.5):
    """A custom model: the signature of the notebook's."""
    text = f"{prompt.upper()}! I am fine. {temperature}"
    return text[: text.index(stop[0])] if stop else text
'''
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write the README's table of these clients anew")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = Outcomes()
    # Other people's classes never close the HTTP clients inside them; dbllm runs in a process of its own here.
    config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")
    config.addinivalue_line("markers", "does(client, operation): a cell of the README's table of clients")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "test_table.py" in item.nodeid)  # stable: it comes last


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.when == "call" or report.failed or report.skipped:
        for mark in item.iter_markers("does"):
            item.config.stash[OUTCOMES].note(*mark.args, worked=report.passed)
    return report


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> Outcomes:
    return pytestconfig.stash[OUTCOMES]


@pytest.fixture(scope="session")
def whole(pytestconfig: pytest.Config) -> None:
    """Skips where only some of the tests were asked for: then nothing can be said about what is missing."""
    option = pytestconfig.option
    if option.keyword or option.markexpr or any("::" in argument for argument in pytestconfig.args):
        pytest.skip("only some of the tests run")


@pytest.fixture(scope="session", autouse=True)
def _collected_here() -> Iterator[None]:
    """What is left unclosed is collected while it may warn in silence; pytest's own last look comes after that."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`dbllm up` as a user starts it: with a state folder, a custom model, an upstream and a service principal."""
    folder = tmp_path_factory.mktemp("up")
    (folder / "shouting.py").write_text(MODEL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")}
    environment |= {"DBLLM_UPSTREAM_KEY": UPSTREAM_KEY, "DATABRICKS_CLIENT_SECRET": SECRET}
    environment |= {"DBLLM_CACHE_DIR": str(default_model().parent), "HOME": str(folder), "USERPROFILE": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", "-m", "dbllm", "up", "--port", "0", "--state", str(folder / "state")]
    command += ["--custom", "shout=shouting:shout", "--upstream", "openai=local", "--client-id", PRINCIPAL]
    log = folder / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, env=environment)
    try:
        found: dict[str, str] = {}
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                found[name] = value.strip("'\"")
            if line.startswith("# ready"):
                break
        assert len(found) >= 3, log.read_text()
        yield Up(found["DATABRICKS_HOST"], found["DATABRICKS_TOKEN"], found["DATABRICKS_CLUSTER_ID"])
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(autouse=True)
def here(up: Up, monkeypatch: pytest.MonkeyPatch, environment: None, tmp_path: Path) -> Up:
    """The environment names the workspace; the home is empty."""
    for name, value in up.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return up


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """A name that no other test has."""
    return lambda stem: f"{stem}-{next(_numbers)}"
