"""`dbllm services …` at the wire, and commands that call a model service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import respx
from support.samples import chat_answer

CATALOG = "/api/2.1/unity-catalog"
SERVICE = {"name": "model-services/main.ml.chat", "supported_api_types": ["mlflow/v1/chat/completions"]}


@pytest.fixture
def rest(no_workspace: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[respx.MockRouter]:
    monkeypatch.setenv("DATABRICKS_HOST", "https://workspace.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-test")
    with respx.mock(base_url="https://workspace.example.com", assert_all_called=False) as router:
        yield router


def test_services_are_listed_shown_made_changed_granted_and_deleted(run: Any, rest: respx.MockRouter) -> None:
    listed = rest.get(f"{CATALOG}/model-services").respond(json={"model_services": [SERVICE]})
    one, held = f"{CATALOG}/model-services/main.ml.chat", f"{CATALOG}/permissions/model_service/main.ml.chat"
    rest.get(one).respond(json=SERVICE)
    made = rest.post(f"{CATALOG}/model-services").respond(json=SERVICE)
    changed = rest.patch(one).respond(json=SERVICE)
    gone = rest.delete(one).respond(json={})
    rest.get(held).respond(json={"privilege_assignments": [{"principal": "team", "privileges": ["EXECUTE"]}]})
    granted = rest.patch(held).respond(json={})
    assert run("services", "list", "main.ml").out == "main.ml.chat\tmlflow/v1/chat/completions\t\n"
    assert listed.calls[0].request.url.params["parent"] == "schemas/main.ml"
    assert json.loads(run("services", "get", "main.ml.chat").out) == SERVICE
    assert run("services", "create", "main.ml.chat", '{"routing": {}}', "--comment", "c").status == 0
    assert json.loads(made.calls[0].request.content) == {"config": {"routing": {}}, "comment": "c"}
    assert run("services", "update", "main.ml.chat", "--comment", "d", "--etag", "e").status == 0
    assert dict(changed.calls[0].request.url.params) == {"update_mask": "comment", "etag": "e"}
    assert run("services", "create", "main.ml.chat", stdin=b'{"routing": {"a": 1}}').status == 0
    assert json.loads(made.calls[1].request.content) == {"config": {"routing": {"a": 1}}}
    assert run("services", "update", "main.ml.chat", stdin=b'{"routing": {}}').status == 0
    assert json.loads(changed.calls[1].request.content)["config"] == {"routing": {}}
    assert run("services", "grants", "main.ml.chat", "--grant", "team", "--revoke", "old").out == "team\tEXECUTE\n"
    assert [json.loads(call.request.content)["changes"][0]["principal"] for call in granted.calls] == ["team", "old"]
    assert run("services", "delete", "main.ml.chat").status == 0
    assert gone.called


def test_providers_refuse_a_key_in_the_config(run: Any, rest: respx.MockRouter) -> None:
    config = '{"openai": {"direct": {"api_key": {"plaintext": "sk-hidden"}}}}'
    ended = run("services", "create", "main.ml.openai", config, "--providers")
    assert ended.status == 1
    assert "holds a key itself" in ended.err
    assert "sk-hidden" not in ended.err


def test_complete_and_chat_take_the_name_of_a_service(run: Any, rest: respx.MockRouter) -> None:
    rest.get(f"{CATALOG}/model-services/main.ml.chat").respond(json=SERVICE)
    called = rest.post("/ai-gateway/mlflow/v1/chat/completions").respond(json=chat_answer())
    assert run("complete", "main.ml.chat", "hi").out == "Hi there\n"
    assert run("chat", "main.ml.chat", "hi", "--no-stream").out == "Hi there\n"
    assert json.loads(called.calls[0].request.content)["model"] == "main.ml.chat"
    ended = run("complete", "ml.chat", "hi")
    assert (ended.status, "has one dot" in ended.err) == (1, True)
