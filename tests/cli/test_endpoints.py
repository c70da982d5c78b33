"""`dbllm endpoints …`, at the wire."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import respx

API = "https://workspace.example.com/api/2.0"
ALL = "/serving-endpoints"
ONE = "/serving-endpoints/my-chat"
KEY = "sk-live-1234567"
MODEL = {
    "name": "gpt-4",
    "provider": "openai",
    "task": "llm/v1/chat",
    "openai_config": {"openai_api_key": "{{secrets/s/k}}"},
}
CONFIG = {"served_entities": [{"name": "my-chat", "external_model": MODEL}]}
ENDPOINT = {
    "name": "my-chat",
    "id": "e1",
    "creator": "dev@example.com",
    "task": "llm/v1/chat",
    "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
    "config": CONFIG,
    "tags": [{"key": "team", "value": "x"}],
}
BUSY = {**ENDPOINT, "state": {"ready": "NOT_READY", "config_update": "IN_PROGRESS"}}

pytestmark = pytest.mark.usefixtures("configured")


@pytest.fixture
def configured(no_workspace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://workspace.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-test")


@pytest.fixture
def rest() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=API, assert_all_called=False) as router:
        yield router


def body(route: respx.Route) -> Any:
    return json.loads(route.calls[-1].request.content)


class TestLooking:
    def test_list_is_one_line_each_or_json(self, run: Any, rest: respx.MockRouter) -> None:
        rest.get(ALL).respond(json={"endpoints": [ENDPOINT, {"name": "other"}]})
        lines = run("endpoints", "list").out.splitlines()
        assert lines[0].split("\t") == ["my-chat", "READY/NOT_UPDATING", "llm/v1/chat", "dev@example.com"]
        assert lines[1].startswith("other\t")
        assert json.loads(run("endpoints", "list", "--json").out) == [ENDPOINT, {"name": "other"}]

    def test_list_is_a_table_on_a_terminal(
        self, run: Any, rest: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rest.get(ALL).respond(json={"endpoints": [ENDPOINT]})
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        titles, row = run("endpoints", "list").out.splitlines()
        assert [title in titles for title in ("Name", "State", "Task", "Creator")] == [True] * 4
        assert row.split()[:3] == ["my-chat", "READY", "llm/v1/chat"]  # what is usual tells nothing

    def test_get_tells_what_matters_or_all(self, run: Any, rest: respx.MockRouter) -> None:
        rest.get(ONE).respond(json=ENDPOINT)
        said = run("endpoints", "get", "my-chat").out
        for words in ("state\tREADY/NOT_UPDATING", "serves\tmy-chat = openai gpt-4", "tags\tteam=x"):
            assert words in said
        assert json.loads(run("endpoints", "get", "my-chat", "--json").out) == ENDPOINT

    def test_an_unknown_one_is_a_line_and_status_1(self, run: Any, rest: respx.MockRouter) -> None:
        rest.get(ONE).respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "It does not exist."})
        rest.get(ALL).respond(json={"endpoints": [{"name": "my-chats"}]})
        ended = run("endpoints", "get", "my-chat")
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert "my-chats" in ended.err

    def test_logs_metrics_and_openapi_print_what_came(self, run: Any, rest: respx.MockRouter) -> None:
        rest.get(ONE).respond(json=ENDPOINT)
        for path, content in (("logs", "a\nb\n"), ("build-logs", "built")):
            rest.get(f"{ONE}/served-models/my-chat/{path}").respond(json={"logs": content})
        rest.get(f"{ONE}/metrics").respond(text="up 1\n")
        rest.get(f"{ONE}/openapi").respond(json={"openapi": "3.1.0"})
        assert run("endpoints", "logs", "my-chat").out == "a\nb\n"
        assert run("endpoints", "logs", "my-chat", "my-chat", "--build").out == "built\n"
        assert run("endpoints", "metrics", "my-chat").out == "up 1\n"
        assert json.loads(run("endpoints", "openapi", "my-chat").out) == {"openapi": "3.1.0"}


class TestMaking:
    @pytest.mark.parametrize("how", ["argument", "file", "stdin", "pipe", "whole request"])
    def test_the_config_comes_in_five_ways(self, run: Any, rest: respx.MockRouter, tmp_path: Path, how: str) -> None:
        route = rest.post(ALL).respond(json=BUSY)
        text = json.dumps({"config": CONFIG, "description": "d"} if how == "whole request" else CONFIG)
        (tmp_path / "config.json").write_text(text)
        given = {"file": f"@{tmp_path / 'config.json'}", "stdin": "-"}.get(how, text)
        words = () if how == "pipe" else (given,)
        ended = run("endpoints", "create", "my-chat", *words, stdin=text.encode())
        assert (ended.status, ended.err) == (0, "")
        expected = {"name": "my-chat", "config": CONFIG}
        assert body(route) == {**expected, "description": "d"} if how == "whole request" else expected

    def test_each_command_that_takes_json_reads_a_pipe(self, run: Any, rest: respx.MockRouter) -> None:
        limits = {"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}
        rest.get(ONE).respond(json=ENDPOINT)
        for command, path, sent in (
            ("update", "config", CONFIG),
            ("rate-limits", "rate-limits", limits),
            ("ai-gateway", "ai-gateway", limits),
        ):
            route = rest.put(f"{ONE}/{path}").respond(json=ENDPOINT)
            ended = run("endpoints", command, "my-chat", stdin=json.dumps(sent).encode())
            assert (ended.status, ended.err, body(route)) == (0, "", sent), command
            ended = run("endpoints", command, "my-chat", stdin=b"")
            assert (ended.status, ended.err.count("\n"), route.call_count) == (1, 1, 1), command
            assert "the standard input is empty" in ended.err

    def test_it_can_wait_until_the_endpoint_is_ready(self, run: Any, rest: respx.MockRouter) -> None:
        rest.post(ALL).respond(json=ENDPOINT)
        rest.put(f"{ONE}/config").respond(json=ENDPOINT)
        rest.get(ONE).respond(json=ENDPOINT)
        for words in (("create", "my-chat", json.dumps(CONFIG)), ("update", "my-chat", json.dumps(CONFIG))):
            ended = run("endpoints", *words, "--wait", "--timeout", "5", "--json")
            assert (ended.status, json.loads(ended.out)) == (0, ENDPOINT)
        assert json.loads(run("endpoints", "wait", "my-chat", "--json").out) == ENDPOINT

    def test_what_is_not_ready_in_time_is_status_1(self, run: Any, rest: respx.MockRouter) -> None:
        rest.get(ONE).respond(json=BUSY)
        ended = run("endpoints", "wait", "my-chat", "--timeout", "0.1")
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert "NOT_READY/IN_PROGRESS" in ended.err

    def test_a_literal_key_is_refused_without_showing_it(self, run: Any, rest: respx.MockRouter) -> None:
        ended = run("endpoints", "create", "my-chat", json.dumps(CONFIG).replace("{{secrets/s/k}}", KEY))
        assert ended.status == 1
        assert "openai_api_key_plaintext" in ended.err
        assert KEY not in ended.err
        assert not rest.calls

    @pytest.mark.parametrize("given", ["{", f'{{"a": {KEY}', "[1]", "@missing.json", "@"])
    def test_what_is_no_config_is_refused_in_a_line(self, run: Any, rest: respx.MockRouter, given: str) -> None:
        ended = run("endpoints", "create", "my-chat", given)
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert KEY not in ended.err
        assert not rest.calls

    def test_delete_says_nothing(self, run: Any, rest: respx.MockRouter) -> None:
        route = rest.delete(ONE).respond(json={})
        ended = run("endpoints", "delete", "my-chat")
        assert (ended.status, ended.out, ended.err, route.called) == (0, "", "", True)


class TestChanging:
    def test_tags(self, run: Any, rest: respx.MockRouter) -> None:
        route = rest.patch(f"{ONE}/tags").respond(json={"tags": [{"key": "a", "value": "b=c"}]})
        said = run("endpoints", "tags", "my-chat", "--add", "a=b=c", "--delete", "old")
        assert (said.status, said.out) == (0, "a\tb=c\n")
        assert body(route) == {"add_tags": [{"key": "a", "value": "b=c"}], "delete_tags": ["old"]}
        assert run("endpoints", "tags", "my-chat", "--add", "a").status == 2

    def test_rate_limits_and_gateway(self, run: Any, rest: respx.MockRouter) -> None:
        limits = {"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}
        gateway = {"fallback_config": {"enabled": True}}
        rest.put(f"{ONE}/rate-limits").respond(json=limits)
        rest.put(f"{ONE}/ai-gateway").respond(json=gateway)
        said = run("endpoints", "rate-limits", "my-chat", json.dumps(limits)).out
        assert json.loads(said) == limits["rate_limits"]
        assert json.loads(run("endpoints", "ai-gateway", "my-chat", json.dumps(gateway)).out) == gateway
        assert run("endpoints", "rate-limits", "my-chat", "{}").status == 1

    def test_permissions_are_shown_and_changed(self, run: Any, rest: respx.MockRouter) -> None:
        held = [
            {"user_name": "a@b.c", "all_permissions": [{"permission_level": "CAN_QUERY", "inherited": False}]},
            {"group_name": "admins", "all_permissions": [{"permission_level": "CAN_MANAGE", "inherited": True}]},
        ]
        rest.get(ONE).respond(json=ENDPOINT)
        path = "/permissions/serving-endpoints/e1"
        rest.get(path).respond(json={"access_control_list": held})
        patch = rest.patch(path).respond(json={"access_control_list": held})
        shown = "a@b.c\tCAN_QUERY\nadmins\tCAN_MANAGE (inherited)\n"
        assert run("endpoints", "permissions", "my-chat").out == shown
        assert not patch.called
        changed = run("endpoints", "permissions", "my-chat", "--user", "a@b.c=can_query", "--group", "g=CAN_VIEW")
        assert changed.out == shown
        assert body(patch) == {
            "access_control_list": [
                {"user_name": "a@b.c", "permission_level": "CAN_QUERY"},
                {"group_name": "g", "permission_level": "CAN_VIEW"},
            ]
        }
        assert json.loads(run("endpoints", "permissions", "my-chat", "--json").out) == held


def test_no_command_takes_a_token(run: Any) -> None:
    for command in ("endpoints list", "endpoints create", "secrets put-secret", "secrets get-secret"):
        assert "--token" not in run(*command.split(), "--help").out
