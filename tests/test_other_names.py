"""Names that packages do not have, arguments that functions do not take, attributes that nothing has to be set."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

import dbllm

bulk: Any = pytest.importorskip("dbllm.bulk", reason="these are tests of the extra dbllm[bulk]")


def test_packages_answer_a_name_that_they_do_not_have() -> None:
    table = {
        "bulk": {"arows": "rows(", "BulkJob": "run(", "RowMaper": "did you mean RowMapper?"},
        "langchain": {"ChatOpenAI": "use ChatDatabricks", "ChatDatabrick": "did you mean ChatDatabricks?"},
        "testing": {"mock": "use scripted_workspace()", "scripted_workspce": "did you mean scripted_workspace?"},
        "local": {"LocalWorkspace": "use Workspace", "Workspce": "did you mean Workspace?"},
        "otel": {"Instrumentor": "use instrument()", "instrumnt": "did you mean instrument?"},
    }
    wrong, tried = [], 0
    for package, names in table.items():
        try:
            module = importlib.import_module(f"dbllm.{package}")
        except ImportError:
            continue  # of an extra that is not installed
        assert not hasattr(module, "_nothing")
        for name, said in names.items():
            with pytest.raises(AttributeError) as attribute:
                getattr(module, name)
            with pytest.raises(ImportError) as imported:
                exec(f"from dbllm.{package} import {name}", {})  # noqa: S102
            texts = (str(attribute.value), str(imported.value))
            wrong += [text for text in texts if said not in text or f"dbllm.{package} has no attribute" not in text]
            tried += 1
    assert not wrong
    assert tried >= 3


def test_a_module_is_still_imported_from_its_package() -> None:
    spaces: dict[str, Any] = {}
    exec("from dbllm.bulk import job, plan\nfrom dbllm import bulk, errors", spaces)  # noqa: S102
    assert (spaces["job"].__name__, spaces["errors"].__name__) == ("dbllm.bulk.job", "dbllm.errors")


def test_functions_of_bulk_answer_arguments_that_they_do_not_have() -> None:
    handle = dbllm.AsyncClient("https://w.example.com", "t").endpoint("m")
    threads = threading.active_count()
    table: list[tuple[Callable[[], Any], str]] = [
        (lambda: bulk.rows(["a"], endpoint="m"), "rows() has no argument endpoint=: use the first argument"),
        (lambda: bulk.rows(handle), "rows() needs prompts, by place or by name."),
        (lambda: bulk.rows_sync(handle, ["a"], concurency=3), "did you mean concurrency?"),
        (lambda: bulk.rows_sync(handle, ["a"], concurrency="x"), "concurrency must be an integer"),
        (lambda: bulk.rows_sync(handle, "a"), "rows() takes many rows"),
        (lambda: bulk.run(["a"]), "run() needs output, by place or by name."),
        (lambda: bulk.run_sync(["a"], "out.jsonl", model="m"), "run() has no argument model=: use endpoint=."),
        (lambda: bulk.estimate(), "estimate() needs source"),
        (lambda: bulk.RowMapper(model="m"), "RowMapper has no argument model=: use endpoint=."),
        (lambda: list(bulk.rows(handle, ["a"])), "Rows is asynchronous: write `async for`"),
    ]
    for call, said in table:
        with pytest.raises((TypeError, ValueError), match=re.escape(said)):
            call()
    assert threading.active_count() == threads  # nothing that was begun goes on


def test_what_a_client_has_can_be_replaced_and_a_subclass_holds_what_it_likes() -> None:
    class Mine(dbllm.Client):
        def __init__(self) -> None:
            super().__init__("https://w.example.com", "t")
            self.purpose = "tests"

    client: Any = dbllm.Client("https://w.example.com", "t")
    client.endpoint = lambda name: name  # as a test of somebody's program does
    assert client.endpoint("m") == "m"
    assert Mine().purpose == "tests"
    handle: Any = Mine().endpoint("m")
    with pytest.raises(AttributeError, match=r"Endpoint has no attribute 'max_tokens': use client\.endpoint\(NAME"):
        handle.max_tokens = 4
