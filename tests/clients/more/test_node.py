"""Clients for Node.js: OpenAI's own, and the Vercel AI SDK. Each operation is a program of its own in `node`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from place import Up

FOLDER = os.environ.get("DBLLM_NODE", "")
NAMES = {"openai": "openai (Node.js)", "ai_sdk": "Vercel AI SDK"}
pytestmark = pytest.mark.skipif(not FOLDER, reason="DBLLM_NODE names no folder that npm has filled")


def does(operation: str) -> Any:
    """Marks a test as cells of the table; it runs with both clients."""

    def mark(test: Any) -> Any:
        cells = [pytest.param(client, marks=pytest.mark.does(name, operation)) for client, name in NAMES.items()]
        return pytest.mark.parametrize("client", cells)(test)

    return mark


def run(client: str, operation: str, up: Up) -> Any:
    node = shutil.which("node")
    assert node, "Node.js is not installed"
    command = [node, str(Path(FOLDER, f"{client}.mjs")), operation]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **up.env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@does("chat")
def test_a_model_answers(client: str, here: Up) -> None:
    told = run(client, "chat", here)
    assert told["text"]
    assert told["total"] > 0


@does("chat, streamed")
def test_a_model_streams_what_it_answers(client: str, here: Up) -> None:
    told = run(client, "stream", here)
    assert len(told["pieces"]) > 2
    assert "".join(told["pieces"]) == run(client, "chat", here)["text"]


@pytest.mark.does(NAMES["openai"], "chat, streamed")
def test_the_helper_of_openais_client_gathers_a_stream(here: Up) -> None:
    told = run("openai", "stream_helper", here)
    assert "".join(told["pieces"]) == told["text"] == run("openai", "chat", here)["text"]


@does("tools")
def test_a_tool_is_called(client: str, here: Up) -> None:
    told = run(client, "tools", here)
    assert (told["name"], told["arguments"]) == ("get_weather", {"city": "Paris"})
    assert told["reason"].replace("-", "_") == "tool_calls"


@does("an agent with tools")
def test_an_agent_answers_with_the_result_of_its_tool(client: str, here: Up) -> None:
    told = run(client, "agent", here)
    assert told["called"] == ["Paris"]
    assert "18" in told["text"]


@does("structured output")
def test_an_answer_fits_a_schema(client: str, here: Up) -> None:
    parsed = run(client, "schema", here)["parsed"]
    assert isinstance(parsed["name"], str)
    assert isinstance(parsed["people"], int)


@does("completions")
def test_a_prompt_is_completed(client: str, here: Up) -> None:
    assert run(client, "completions", here)["text"]


@does("embeddings")
def test_texts_are_embedded(client: str, here: Up) -> None:
    assert run(client, "embeddings", here) == {"sizes": [256, 256], "number": "number"}


@does("responses")
def test_an_agent_endpoint_answers(client: str, here: Up) -> None:
    told = run(client, "responses", here)
    assert told["text"]
    assert told["total"] > 0


@does("responses, streamed")
def test_an_agent_endpoint_streams(client: str, here: Up) -> None:
    told = run(client, "responses_stream", here)
    assert len(told["pieces"]) > 2
    assert "".join(told["pieces"]) == told["text"]


@does("errors are the client's own")
def test_a_refusal_is_told_by_the_clients_own_class(client: str, here: Up) -> None:
    told = run(client, "errors", here)
    assert told["missing"][:2] == [True, 404]
    assert told["token"][:2] == [True, 403]
    if client == "ai_sdk":  # OpenAI's client tells no body that is not of OpenAI's form
        assert "nowhere" in told["missing"][2]
