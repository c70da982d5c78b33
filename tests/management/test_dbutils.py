"""`from dbllm import dbutils`: secrets anywhere, and in a notebook the real `dbutils` behind the name."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import dbllm
from dbllm import APIError, Client, ConfigError, NotFoundError, dbutils
from dbllm.local import Workspace

Fresh = Callable[[str], str]


@pytest.fixture
def scope(here: Workspace, fresh: Fresh) -> str:
    name = fresh("scope")
    with Client() as client:
        client.secrets.create_scope(name)
        client.secrets.put(name, "api_token", "välue")
        client.secrets.put(name, "raw", b"\xff\x00")
    return name


def test_the_notebooks_line(scope: str) -> None:
    assert dbutils.secrets.get(scope, "api_token") == "välue"
    assert dbutils.secrets.get(scope=scope, key="api_token") == "välue"


def test_bytes_and_lists(scope: str) -> None:
    assert dbutils.secrets.getBytes(scope, "raw") == b"\xff\x00"
    assert {secret.key for secret in dbutils.secrets.list(scope)} == {"api_token", "raw"}
    assert scope in [found.name for found in dbutils.secrets.listScopes()]


def test_what_is_missing_is_not_found(scope: str) -> None:
    with pytest.raises(NotFoundError, match="nothing-here"):
        dbutils.secrets.get(scope, "nothing-here")
    with pytest.raises(APIError, match="no-such-scope"):
        dbutils.secrets.list("no-such-scope")


def test_without_a_workspace_it_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match="DATABRICKS_HOST"):
        dbutils.secrets.get("s", "k")


def test_outside_a_notebook_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="outside a Databricks notebook"):
        dbutils.fs  # noqa: B018


def program(text: str, **environ: str) -> str:
    """What a program prints that runs as a notebook's cells do, in `__main__`."""
    root = str(Path(dbllm.__file__).parents[1])
    environ = {"PYTHONPATH": root, "PATH": os.environ["PATH"], **environ}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


NOTEBOOK = """
    from types import SimpleNamespace as Of
    dbutils = Of(secrets=Of(get=lambda scope, key: f"[REDACTED {scope}/{key}]"), fs=Of(ls=lambda path: [path]))
    from dbllm import dbutils
    print(dbutils.secrets.get("s", "k"), dbutils.fs.ls("/"))
"""


def test_in_a_notebook_the_import_changes_nothing() -> None:
    assert program(NOTEBOOK, DATABRICKS_RUNTIME_VERSION="15.4") == "[REDACTED s/k] ['/']\n"


def test_in_a_notebook_it_may_be_imported_again_and_reloaded() -> None:
    again = (
        NOTEBOOK
        + """
    import importlib
    dbutils = importlib.reload(dbutils)
    from dbllm import dbutils
    print(dbutils.secrets.get("s", "k"), dbutils.fs.ls("/"))
    """
    )
    assert program(again, DATABRICKS_RUNTIME_VERSION="15.4").splitlines()[1] == "[REDACTED s/k] ['/']"


def test_elsewhere_a_name_of_the_programs_own_is_no_notebook() -> None:
    said = program("dbutils = 1\nfrom dbllm import dbutils\nprint(type(dbutils.secrets).__name__)")
    assert said == "Secrets\n"
