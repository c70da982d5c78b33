"""The workspace against its own OpenAPI document: whatever is sent, there is an answer, and it is no 5xx."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from support.services import UC, own_to, provider, service

pytest.importorskip("schemathesis", reason="it has a nox session of its own: nox -s fuzz")

SECONDS = 300 if os.environ.get("DBLLM_SOAK") else 90
LONGEST = 60
"""Seconds for one answer: a model may be told to write until its context is full."""


@pytest.mark.timeout(SECONDS + 120)
def test_no_request_takes_the_workspace_down_or_hangs(
    workspace: SimpleNamespace, http: httpx.Client, tmp_path: Path
) -> None:
    entity = {"entity_name": "local.default.dolly", "entity_version": "1", "name": "dolly-1"}
    for path, body in (
        ("/api/2.0/serving-endpoints", {"name": "mine", "config": {"served_entities": [entity]}}),
        ("/api/2.0/secrets/scopes/create", {"scope": "s"}),
        ("/api/2.0/secrets/put", {"scope": "s", "key": "k", "string_value": "v"}),
        (f"{UC}/model-services?parent=schemas/main.default&model_service_id=mine", service(own_to())),
        (
            f"{UC}/model-provider-services?parent=schemas/main.default&model_provider_service_id=mine",
            provider(openai={"direct": {"api_key": {"secret_reference": {"name": "{{secrets/s/k}}"}}}}),
        ),
    ):
        http.post(path, json=body).raise_for_status()
    # The token stands in the environment, not among the arguments; /api/local/faults is there to make errors.
    settings = tmp_path / "schemathesis.toml"
    settings.write_text('[headers]\nAuthorization = "Bearer ${DATABRICKS_TOKEN}"\n')
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "--no-color", "run"),
        *("--max-time", str(SECONDS), "--max-examples", "10000", "--checks", "not_a_server_error"),
        *("--request-timeout", str(LONGEST), "--exclude-path", "/api/local/faults", "--continue-on-failure"),
        f"{workspace.host}/api/local/openapi.json",
    ]
    environ = {**os.environ, "DATABRICKS_TOKEN": workspace.identity.token, "NO_PROXY": "*"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted, done.stdout[-2000:]
    print(counted[0])
    assert int(counted[1]) > 500, "that is no test of it"
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    assert http.post("/serving-endpoints/smollm2-chat/invocations", json=chat).status_code == 200
