"""The example runs from beginning to end: 500 rows on the local workspace's real model, by a call and through SQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dbllm

from .conftest import CONNECT, LONG, MAIN

PROGRAM = Path(__file__).parents[2] / "examples" / "spark_table.py"


@pytest.fixture(scope="session")
def model() -> Path:
    """The model that this machine may have already: a test's own home folder has none."""
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    from dbllm.local.model.weights import default_model

    return default_model()


@pytest.mark.skipif(CONNECT, reason="it starts a classic session")
def test_a_real_model_answers_500_rows_by_a_call_and_through_sql(model: Path, tmp_path: Path) -> None:
    from dbllm.local import Workspace

    number = 500 if MAIN or LONG else 20
    with Workspace(model=model) as workspace:
        environment = {
            **os.environ,
            **workspace.env,
            "ROWS": str(number),
            "PYTHONPATH": str(Path(dbllm.__file__).parents[1]),
            "PYSPARK_SUBMIT_ARGS": "--conf spark.driver.memory=1g --conf spark.log.level=OFF pyspark-shell",
        }
        command = [sys.executable, str(PROGRAM)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, check=True, timeout=900)
    said = done.stdout.decode()
    print(said)
    assert f"answered: {number}\n" in said
    assert f"answered through SQL: {number}\n" in said
