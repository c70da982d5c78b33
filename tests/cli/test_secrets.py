"""`dbllm secrets …`, at the wire: arguments in the notebook's order, and values that are shown to nobody."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import respx
from support.loopback import Server, answering

API = "https://workspace.example.com/api/2.0/secrets"
VALUE = "sk-välue-1234"

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


def terminal(monkeypatch: pytest.MonkeyPatch, *streams: str) -> None:
    for stream in streams:
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True, raising=False)


class TestTheNotebooksLines:
    def test_create_scope(self, run: Any, rest: respx.MockRouter) -> None:
        route = rest.post("/scopes/create").respond(json={})
        ended = run("secrets", "create-scope", "my-scope")
        assert (ended.status, ended.out, ended.err) == (0, "", "")
        assert body(route) == {"scope": "my-scope"}

    def test_put_secret(self, run: Any, rest: respx.MockRouter) -> None:
        route = rest.post("/put").respond(json={})
        ended = run("secrets", "put-secret", "my-scope", "openai-api-key", "--string-value", VALUE)
        assert (ended.status, ended.out, ended.err) == (0, "", "")
        assert body(route) == {"scope": "my-scope", "key": "openai-api-key", "string_value": VALUE}


class TestPutSecret:
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_from_a_pipe_it_is_the_standard_input(self, run: Any, rest: respx.MockRouter, end: str) -> None:
        route = rest.post("/put").respond(json={})
        assert run("secrets", "put-secret", "s", "k", stdin=f"a\n{VALUE}{end}".encode()).status == 0
        assert body(route)["string_value"] == f"a\n{VALUE}"

    def test_a_file_gives_its_bytes(self, run: Any, rest: respx.MockRouter, tmp_path: Path) -> None:
        route = rest.post("/put").respond(json={})
        (tmp_path / "key").write_bytes(b"\xff\n")
        assert run("secrets", "put-secret", "s", "k", "--binary-file", str(tmp_path / "key")).status == 0
        assert base64.b64decode(body(route)["bytes_value"]) == b"\xff\n"

    def test_two_sources_are_one_too_many(self, run: Any, rest: respx.MockRouter, tmp_path: Path) -> None:
        (tmp_path / "key").write_bytes(b"x")
        ended = run("secrets", "put-secret", "s", "k", "--string-value", "v", "--binary-file", str(tmp_path / "key"))
        assert ended.status == 2
        assert not rest.calls

    def test_what_is_not_text_is_refused_in_a_line(self, run: Any, rest: respx.MockRouter) -> None:
        ended = run("secrets", "put-secret", "s", "k", stdin=b"\xff\xfe")
        assert (ended.status, ended.err.count("\n")) == (1, 1)
        assert not rest.calls

    def test_a_refusal_is_a_line_without_the_value(self, run: Any, rest: respx.MockRouter) -> None:
        refusal = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"Scope s does not exist; {VALUE}"}
        rest.post("/put").respond(404, json=refusal)
        ended = run("secrets", "put-secret", "s", "k", "--string-value", VALUE)
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert VALUE not in ended.err
        assert "RESOURCE_DOES_NOT_EXIST" in ended.err


class TestGetSecret:
    @staticmethod
    def held(rest: respx.MockRouter, value: bytes) -> None:
        rest.get("/get").respond(json={"key": "k", "value": base64.b64encode(value).decode()})

    def test_prints_the_text(self, run: Any, rest: respx.MockRouter) -> None:
        self.held(rest, VALUE.encode())
        assert run("secrets", "get-secret", "s", "k").out == f"{VALUE}\n"

    def test_json_has_it_in_base64(self, run: Any, rest: respx.MockRouter) -> None:
        self.held(rest, b"\xff\xfe")
        assert json.loads(run("secrets", "get-secret", "s", "k", "--json").out) == {"key": "k", "value": "//4="}

    @pytest.mark.parametrize(
        ("held", "shown"), [(b"\xff\xfe", b"\xff\xfe"), ("\x1b[1m✓".encode(), "\x1b[1m✓\n".encode())]
    )
    def test_a_pipe_gets_the_bytes_as_they_are(self, serve: Callable[..., Server], held: bytes, shown: bytes) -> None:
        """In a process of its own, whose standard output is a pipe."""
        value = base64.b64encode(held).decode()
        server = serve(answering({"/api/2.0/secrets/get?scope=s&key=k": (200, {"key": "k", "value": value})}))
        environ = {**os.environ, "DATABRICKS_HOST": server.host, "DATABRICKS_TOKEN": "t", "PYTHONIOENCODING": "cp1252"}
        command = [sys.executable, "-m", "dbllm", "secrets", "get-secret", "s", "k"]
        ended = subprocess.run(command, capture_output=True, env=environ, check=True, timeout=60)
        assert ended.stdout == shown

    def test_other_bytes_do_not_go_to_a_terminal(
        self, run: Any, rest: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.held(rest, b"\xff\xfe")
        terminal(monkeypatch, "stdout")
        ended = run("secrets", "get-secret", "s", "k")
        assert (ended.status, ended.out) == (1, "")
        assert "--json" in ended.err


LISTS = [
    (("list-scopes",), "/scopes/list", {"scopes": [{"name": "a", "backend_type": "DATABRICKS"}]}, "a\tDATABRICKS\n"),
    (
        ("list-secrets", "s"),
        "/list",
        {"secrets": [{"key": "k", "last_updated_timestamp": 1520467595000}]},
        "k\t2018-03-08 00:06:35\n",
    ),
    (("list-acls", "s"), "/acls/list", {"items": [{"principal": "u", "permission": "READ"}]}, "u\tREAD\n"),
]


class TestLists:
    @pytest.mark.parametrize(("words", "path", "answer", "plain"), LISTS)
    def test_another_program_gets_tabs_or_json(
        self, run: Any, rest: respx.MockRouter, words: tuple[str, ...], path: str, answer: dict[str, Any], plain: str
    ) -> None:
        rest.get(path).respond(json=answer)
        assert run("secrets", *words).out == plain
        assert json.loads(run("secrets", *words, "--json").out) == next(iter(answer.values()))

    @pytest.mark.parametrize(("words", "path", "answer", "plain"), LISTS)
    def test_a_person_gets_a_table_with_titles(
        self,
        run: Any,
        rest: respx.MockRouter,
        monkeypatch: pytest.MonkeyPatch,
        words: tuple[str, ...],
        path: str,
        answer: dict[str, Any],
        plain: str,
    ) -> None:
        rest.get(path).respond(json=answer)
        terminal(monkeypatch, "stdout")
        titles, row = run("secrets", *words).out.splitlines()
        assert titles.strip()
        assert row.split() == plain.split()

    def test_a_name_cannot_move_the_cursor(
        self, run: Any, rest: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rest.get("/scopes/list").respond(json={"scopes": [{"name": "\x1b[2J[red]a\tb"}]})
        assert run("secrets", "list-scopes").out == "[2J[red]a b\t\n"
        terminal(monkeypatch, "stdout")
        shown = run("secrets", "list-scopes").out
        assert "[red]" in shown
        assert "\x1b[2J" not in shown


class TestTheRest:
    @pytest.mark.parametrize(
        ("words", "path", "sent"),
        [
            (("delete-scope", "s"), "/scopes/delete", {"scope": "s"}),
            (("delete-secret", "s", "k"), "/delete", {"scope": "s", "key": "k"}),
            (("put-acl", "s", "u", "read"), "/acls/put", {"scope": "s", "principal": "u", "permission": "READ"}),
            (("delete-acl", "s", "u"), "/acls/delete", {"scope": "s", "principal": "u"}),
        ],
    )
    def test_what_changes_something_says_nothing(
        self, run: Any, rest: respx.MockRouter, words: tuple[str, ...], path: str, sent: dict[str, str]
    ) -> None:
        route = rest.post(path).respond(json={})
        ended = run("secrets", *words)
        assert (ended.status, ended.out, ended.err) == (0, "", "")
        assert body(route) == sent

    def test_get_acl_prints_the_permission(self, run: Any, rest: respx.MockRouter) -> None:
        rest.get("/acls/get").respond(json={"principal": "u", "permission": "MANAGE"})
        assert run("secrets", "get-acl", "s", "u").out == "MANAGE\n"
        assert json.loads(run("secrets", "get-acl", "s", "u", "--json").out)["principal"] == "u"

    def test_a_missing_argument_is_wrong_usage(self, run: Any) -> None:
        assert run("secrets", "put-secret", "s").status == 2
        assert run("secrets", "nonsense").status == 2
