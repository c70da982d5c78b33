"""The example runs from beginning to end: 500 rows on the local workspace's real model, by a call and through SQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dbllm

from .conftest import CONNECT

PROGRAM = Path(__file__).parents[2] / "examples" / "spark_table.py"


@pytest.mark.skipif(CONNECT, reason="it starts a classic session")
def test_a_real_model_answers_500_rows_by_a_call_and_through_sql(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    from dbllm.local import Workspace

    with Workspace() as workspace:
        environment = {
            **os.environ,
            **workspace.env,
            "PYTHONPATH": str(Path(dbllm.__file__).parents[1]),
            "PYSPARK_SUBMIT_ARGS": "--conf spark.driver.memory=1g --conf spark.log.level=OFF pyspark-shell",
        }
        command = [sys.executable, str(PROGRAM)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, check=True, timeout=900)
    said = done.stdout.decode()
    print(said)
    assert "answered: 500\n" in said
    assert "answered through SQL: 500\n" in said
