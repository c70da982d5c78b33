"""What users of other command lines type."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from dbllm.cli.main import app
from dbllm.cli.misnomers import BULK_OPTIONS, COMMANDS, MODEL_OPTIONS, OPTIONS, other_command, other_option


def commands_of(root: Any) -> dict[str, Any]:
    """All commands, by the words that call them."""
    found = {}
    for name, command in typer.main.get_command(root).commands.items():  # type: ignore[attr-defined]
        found[name] = command
        found.update({f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()})
    return found


def test_what_is_named_exists_and_nothing_that_exists_is_called_another() -> None:
    there = commands_of(app)
    wrong = []
    for group, table in COMMANDS.items():
        for names in table:
            for name in names.split():
                own = other_command(group, name)
                for command in re.findall(r"`dbllm ([a-z][a-z -]*[a-z])", own):
                    if command not in there:
                        wrong.append((group, name, own))
                if (name if group == "dbllm" else f"{group} {name}") in there:
                    wrong.append((group, name, "exists"))
    assert not wrong


def test_options_that_are_named_exist() -> None:
    there = commands_of(app)
    wrong = []
    for command, tables in {"chat": (MODEL_OPTIONS, OPTIONS), "bulk": (BULK_OPTIONS, OPTIONS)}.items():
        options = {option for parameter in there[command].params for option in parameter.opts}
        for names in {name for table in tables for name in table}:
            for name in names.split():
                own = other_option(command, name, of_models=True)
                if not own or name in options or not {*re.findall(r"--[a-z-]+", own)} <= options:
                    wrong.append((command, name, own))
    assert not wrong


def test_a_credential_that_was_typed_is_named_nowhere(run: Any) -> None:
    for words in (
        ("chat", "any", "hi", "--token", "dapi-typed"),
        ("chat", "any", "hi", "--api-key=dapi-typed"),
        ("bulk", "a.jsonl", "--token", "dapi-typed"),
        ("endpoints", "list", "--password", "dapi-typed"),
        ("secrets", "put-secret", "scope", "key", "dapi-typed"),
    ):
        ended = run(*words)
        said = ended.out + ended.err
        assert ended.status in (2, 64), words
        assert "dapi-typed" not in said, words
        assert "--param" not in said, words  # which would send it to a model
        assert "DATABRICKS_TOKEN" in said or "piped in" in said, words


def test_a_job_is_told_of_its_own_options(run: Any) -> None:
    for words, said in (
        (("a.jsonl", "b.jsonl"), "The output is named by -o FILE"),
        (("a.jsonl", "--model", "x"), "No such option: --model. It is named by --endpoint."),
    ):
        ended = run("bulk", *words)
        assert ended.status == 64, words
        assert said in ended.err, ended


def test_a_text_that_is_missing_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")  # where nothing is sent
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-test")
    for words, said in (
        (("chat", "hello"), "MESSAGE is missing"),
        (("respond", "hello"), "MESSAGE is missing"),
        (("complete", "hello"), "PROMPT is missing"),
        (("predict", "any", '{"prompt": "hi"}'), 'For one row write [{"prompt": …}].'),
    ):
        ended = run(*words, stdin=b"")
        assert ended.status == 1, words
        assert said in ended.err, ended
