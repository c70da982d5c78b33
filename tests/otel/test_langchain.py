"""LangChain's own instrumentations and dbllm's: a call of a model is counted once, whoever counts it.

Each in a process of its own, for an instrumentation is never quite turned off again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dbllm

INSTRUMENTORS = {  # OpenTelemetry's own, which stands on util-genai, and OpenLLMetry's
    "opentelemetry.instrumentation.genai.langchain": "LangChainInstrumentor",
    "opentelemetry.instrumentation.langchain": "LangchainInstrumentor",
}
for module in ("langchain", *INSTRUMENTORS):
    pytest.importorskip(module, reason=f"{module} is not installed: nox -s telemetry")

PROGRAM = '''
import asyncio, importlib, json, sys

from langchain.agents import create_agent
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dbllm import otel
from dbllm.langchain import ChatDatabricks, Databricks, DatabricksEmbeddings
from dbllm.testing import scripted_workspace

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers, meters = TracerProvider(), MeterProvider([reader])
tracers.add_span_processor(SimpleSpanProcessor(spans))
if sys.argv[1]:
    instrumentor = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    instrumentor().instrument(tracer_provider=tracers, meter_provider=meters)
otel.instrument(tracer_provider=tracers, meter_provider=meters)


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


async def collected(pieces):
    return [piece async for piece in pieces]


QUESTION = {"messages": [("user", "The weather in Oslo?")]}
model = ChatDatabricks(model="chat")
ways = {
    "invoke": lambda: model.invoke("hi"),
    "stream": lambda: list(model.stream("hi")),
    "ainvoke": lambda: asyncio.run(model.ainvoke("hi")),
    "astream": lambda: asyncio.run(collected(model.astream("hi"))),
    "batch": lambda: model.batch(["one", "two"]),
    "abatch": lambda: asyncio.run(model.abatch(["one", "two"])),
    "agent": lambda: create_agent(model, [weather]).invoke(QUESTION),
    "agent in a loop": lambda: asyncio.run(create_agent(model, [weather]).ainvoke(QUESTION)),
    "text": lambda: Databricks(endpoint_name="text").invoke("hi"),
    "embeddings": lambda: DatabricksEmbeddings(model="embedder").embed_query("hi"),
}
found = {}
with scripted_workspace() as scripted:
    scripted.embed([1.0], times=None)
    scripted.reply("hello", times=None)
    for name, run in ways.items():
        if "agent" in name:
            scripted.tool_call("weather", {"city": "Oslo"})
        run()
        models = [span for span in spans.get_finished_spans() if span.attributes.get("gen_ai.usage.input_tokens")]
        found[name] = [span.instrumentation_scope.name for span in models]
        spans.clear()
scopes = [scope for one in reader.get_metrics_data().resource_metrics for scope in one.scope_metrics]
durations = {scope.scope.name: [metric.name for metric in scope.metrics] for scope in scopes}
print(json.dumps([found, durations]))
'''


def run(folder: Path, module: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The scopes of the spans of each way, and the metrics of each scope."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(dbllm.__file__).parents[1])}
    command = [sys.executable, str(program), module, INSTRUMENTORS.get(module, "")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found: Any = json.loads(done.stdout.splitlines()[-1])
    return found[0], found[1]


CALLS = dict.fromkeys(("batch", "abatch", "agent", "agent in a loop"), 2)  # of a model; one in the other ways


@pytest.mark.parametrize("module", INSTRUMENTORS)
def test_a_call_of_a_chat_model_is_counted_once(module: str, tmp_path: Path) -> None:
    ways, metrics = run(tmp_path, module)
    assert ways.pop("embeddings") == ["dbllm"]  # which it does not count
    assert ways.pop("text") in ([module], ["dbllm"], [])  # OpenLLMetry counts its tokens nowhere
    assert ways == {way: [module] * CALLS.get(way, 1) for way in ways}
    assert "gen_ai.client.embeddings.duration" in metrics["dbllm"]
    assert "gen_ai.client.inference.time_to_first_chunk" not in metrics["dbllm"]


def test_without_an_instrumentation_of_langchain_dbllm_counts(tmp_path: Path) -> None:
    ways, metrics = run(tmp_path, "")
    assert ways == {way: ["dbllm"] * CALLS.get(way, 1) for way in ways}
    assert list(metrics) == ["dbllm"]
