"""Other people's servers behind the workspace: Flask behind the driver proxy, `mlflow models serve` behind an endpoint.

Each runs where its package is installed: the sessions of nox install both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dbllm import Client
from dbllm.local.app import create_workspace_app
from dbllm.local.driver.server import open_port
from dbllm.local.http.server import WebServer, listen
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine
from dbllm.local.options import Options
from dbllm.local.storage.identity import new_identity

FLASK_APP = """
import sys
from flask import Flask, jsonify, request

app = Flask("echo")

def llm(prompt, stop=None, **params):
    text = f"{prompt} I am fine. {params.get('temperature')}"
    return text[:text.index(stop[0])] if stop else text

@app.route("/", methods=["POST"])
def answer():
    return jsonify(llm(**request.json))

app.run(host="0.0.0.0", port=sys.argv[1])
"""
MLFLOW_MODEL = """
import sys
import mlflow
import pandas
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

class Shout(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        heat = (params or {}).get("temperature")
        return [f"{prompt.upper()}! {heat}" for prompt in pandas.DataFrame(model_input)["prompt"]]

signature = ModelSignature(
    inputs=Schema([ColSpec("string", "prompt")]),
    outputs=Schema([ColSpec("string")]),
    params=ParamSchema([ParamSpec("temperature", "double", 0.5)]),
)
mlflow.pyfunc.save_model(sys.argv[1], python_model=Shout(), signature=signature, pip_requirements=[])
"""
MLFLOW_AGENT = """
import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse

class Agent(ResponsesAgent):
    def predict(self, request):
        return ResponsesAgentResponse(output=[self.create_text_output_item("hi", "m")])

mlflow.models.set_model(Agent())
"""
UP = 90.0  # seconds to come up: MLflow imports pandas and more


@contextmanager
def process(command: list[str], url: str, folder: Path) -> Iterator[None]:
    """A server while it runs, once it takes connections."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    log = folder / "log"
    with log.open("wb") as told:
        run = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PATH": beside}, stdout=told, stderr=told, start_new_session=True
        )
        try:
            end = time.monotonic() + UP
            while not answers(url):
                assert run.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield
        finally:
            os.killpg(run.pid, 15)  # MLflow starts its server as a child of its own
            run.wait(20)


def answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def free_port() -> int:
    with open_port(0) as sock:
        port: int = sock.getsockname()[1]
        return port


def test_a_flask_app_of_the_usual_form_works_behind_the_driver_proxy(
    workspace: SimpleNamespace, http: httpx.Client, tmp_path: Path
) -> None:
    pytest.importorskip("flask")
    port = free_port()
    with process([sys.executable, "-c", FLASK_APP, str(port)], f"http://127.0.0.1:{port}", tmp_path):
        http.post("/api/local/driver-apps", json={"port": port}).raise_for_status()
        with Client(workspace.host, workspace.identity.token) as client:
            app = client.driver_app(port, cluster_id=workspace.identity.cluster_id)
            assert app.complete("How are you?") == "How are you? I am fine. None"
            assert app.complete("How are you?", stop=["."], temperature=0.1) == "How are you? I am fine"
        url = f"/driver-proxy-api/o/0/{workspace.identity.cluster_id}/{port}"
        assert http.post(url, json={"prompt": "a"}).json() == http.post(f"{url}/", json={"prompt": "a"}).json()
        assert http.get(f"{url}/nowhere").status_code == 404
    assert http.post(url, json={"prompt": "a"}).status_code == 502


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real scoring server's URL."""
    pytest.importorskip("mlflow.pyfunc")
    folder = tmp_path_factory.mktemp("mlflow")
    subprocess.run([sys.executable, "-c", MLFLOW_MODEL, "model"], cwd=folder, check=True, capture_output=True)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "model", "--env-manager", "local"]
    with process([*command, "-h", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}/ping", folder):
        yield f"http://127.0.0.1:{port}"


def shout(prompt: str, temperature: float = 0.5) -> str:
    return f"{prompt.upper()}! {temperature}"


@pytest.fixture(scope="module")
def through(mlflow_server: str, engine: Engine) -> Iterator[httpx.Client]:
    """A workspace with the scoring server behind one endpoint, and the same model as a function behind another."""
    identity = new_identity()
    options = Options(customs={"served": mlflow_server, "function": shout})
    sock = listen("127.0.0.1", 0, hint="")
    server = WebServer(create_workspace_app(engine, Vectors(), identity, options=options), sock)
    server.start()
    headers = {"authorization": f"Bearer {identity.token}"}
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        yield client
    server.stop()


BODIES: list[dict[str, Any]] = [
    {"dataframe_records": [{"prompt": "a"}, {"prompt": "b"}]},
    {"dataframe_records": [{"prompt": "a"}], "params": {"temperature": 0.1}},
    {"dataframe_split": {"columns": ["prompt"], "data": [["a"]]}},
    {"inputs": {"prompt": ["a", "b"]}},
    {"instances": [{"prompt": "a"}]},
    {"prompt": "a", "temperature": 0.1},
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: "+".join(body))
def test_a_function_answers_as_the_same_model_does_in_mlflow(through: httpx.Client, body: dict[str, Any]) -> None:
    served = through.post("/serving-endpoints/served/invocations", json=body)
    function = through.post("/serving-endpoints/function/invocations", json=body)
    assert (function.status_code, function.json()) == (served.status_code, served.json())
    assert served.status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "application/json"),
        (b"[]", "application/json"),
        (b"{", "application/json"),
        (b'{"inputs": 1, "instances": 1}', "application/json"),
        (b'{"dataframe_records": [{"question": "a"}]}', "application/json"),
        (b"prompt", "text/plain"),
        (b'{"prompt": "a"}', "application/json; charset=latin-1"),
    ],
)
def test_a_function_refuses_what_mlflow_refuses_and_the_servers_answer_comes_through_unchanged(
    through: httpx.Client, mlflow_server: str, content: bytes, kind: str
) -> None:
    headers = {"content-type": kind}
    direct = httpx.post(f"{mlflow_server}/invocations", content=content, headers=headers, trust_env=False)
    served = through.post("/serving-endpoints/served/invocations", content=content, headers=headers)
    function = through.post("/serving-endpoints/function/invocations", content=content, headers=headers)
    assert (served.status_code, served.content) == (direct.status_code, direct.content)
    assert function.status_code == direct.status_code


def test_csv_goes_to_a_scoring_server(through: httpx.Client) -> None:
    headers = {"content-type": "text/csv"}
    told = through.post("/serving-endpoints/served/invocations", content=b"prompt\na\nb\n", headers=headers)
    assert told.json() == {"predictions": ["A! 0.5", "B! 0.5"]}


def test_dbllm_calls_a_model_in_mlflow(through: httpx.Client) -> None:
    token = through.headers["authorization"].removeprefix("Bearer ")
    with Client(str(through.base_url), token) as client:
        served = client.endpoint("served")
        assert served.complete("hello") == "HELLO! 0.5"
        rows = [{"prompt": "a"}, {"prompt": "b"}]
        assert served.predict(dataframe_records=rows, params={"temperature": 0.1}).predictions == ["A! 0.1", "B! 0.1"]


ITEMS = [{"role": "user", "content": "hi"}]
AGENT_REQUESTS: list[dict[str, Any]] = [
    {"input": ITEMS},
    {"input": "hi"},
    {"input": {"role": "user", "content": "hi"}},
    {"messages": ITEMS},
    {"max_output_tokens": 3},
    {"input": ["hi"]},
    {"input": [{"type": "item_reference", "id": "x"}]},
    {"input": [{"role": "robot", "content": "hi"}]},
    {"input": ITEMS, "background": False},
    {"input": ITEMS, "background": True},
    {"input": ITEMS, "background": None},
    {"input": ITEMS, "background": "yes"},
    {"input": ITEMS, "store": "yes"},
    {"input": ITEMS, "user": "u", "truncation": "auto", "metadata": {"a": "b"}},
    {"input": ITEMS, "user": 7},
    {"input": ITEMS, "metadata": {"a": 1}},
    {"input": ITEMS, "temperature": "hot"},
    {"input": ITEMS, "custom_inputs": {"a": [1]}, "context": {"conversation_id": "c"}},
    {"input": ITEMS, "custom_inputs": [1]},
    {"input": ITEMS, "context": "c"},
    {"input": ITEMS, "reasoning": {"effort": "low"}},
    {"input": ITEMS, "reasoning": "low"},
    {"input": ITEMS, "prompt_cache_key": "x", "safety_identifier": "u", "max_tool_calls": 3, "include": ["a"]},
    {"input": ITEMS, "previous_response_id": "r", "model": 7, "stop": {}, "messages": "any", "top_logprobs": "no"},
    {"input": ITEMS, "text": {"format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}},
    {"input": ITEMS, "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}},
    {"input": ITEMS, "tool_choice": {"type": "function", "function": {"name": "a"}}},
]


@pytest.mark.timeout(400)  # MLflow imports pandas and more, twice
def test_an_agent_takes_and_refuses_what_mlflows_server_does(http: httpx.Client, tmp_path: Path) -> None:
    pytest.importorskip("mlflow.pyfunc")
    (tmp_path / "agent.py").write_text(MLFLOW_AGENT)
    save = "import mlflow; mlflow.pyfunc.save_model('model', python_model='agent.py', pip_requirements=[])"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True, capture_output=True)
    port, differ = free_port(), []
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "model", "--env-manager", "local"]
    with process([*command, "-h", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}/ping", tmp_path):
        for body in AGENT_REQUESTS:
            theirs = httpx.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60, trust_env=False)
            ours = http.post("/serving-endpoints/smollm2-agent/invocations", json={"max_output_tokens": 1, **body})
            if theirs.status_code != ours.status_code:
                differ.append((body, theirs.status_code, ours.text))
    assert differ == []
