"""MLflow's traces have dbllm's spans: in a file store of its own, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dbllm

pytest.importorskip("mlflow", reason="mlflow is not installed: nox -s telemetry")

PROGRAM = """
import json, sys
import httpx, mlflow
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import dbllm
from dbllm import otel

mlflow.set_tracking_uri("file://" + sys.argv[1])
trace.set_tracer_provider(TracerProvider())
mlflow.set_experiment("calls")
otel.instrument()
answer = {"id": "c1", "model": "m", "choices": [{"message": {"role": "assistant", "content": "hi"}}],
          "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
server = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
with dbllm.Client("https://workspace.example.com", "t", transport=server) as client:
    chat = client.endpoint("ep", task="chat").chat
    with mlflow.start_span("a step"):
        chat("hello")
    chat("hello")
mlflow.flush_trace_async_logging()
traces = mlflow.search_traces(return_type="list")
print(json.dumps([[[span.name, span.parent_id is not None, span.attributes.get("gen_ai.usage.input_tokens")]
                   for span in each.data.spans] for each in traces]))
"""


def test_mlflow_sees_the_same_spans_below_its_own(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(dbllm.__file__).parents[1]),
        "MLFLOW_USE_DEFAULT_TRACER_PROVIDER": "false",  # the process's own provider, which dbllm uses too
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    command = [sys.executable, str(program), str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    traces = json.loads(done.stdout.splitlines()[-1])
    assert sorted(traces, key=len) == [[["chat ep", False, 3]], [["a step", False, None], ["chat ep", True, 3]]]
