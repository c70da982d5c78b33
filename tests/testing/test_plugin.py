"""The pytest plugin, in test runs of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dbllm
from dbllm.testing.plugin import recording_name
from dbllm.testing.recordings import Interaction, Recording, to_text

ROOT = str(Path(dbllm.__file__).parents[1])


def run(folder: Path, tests: str, *options: str) -> str:
    """The report of a run that has no plugin but ours, and those of `options`."""
    (folder / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-rA", "-W", "error", "--rootdir", str(folder), "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "DATABRICKS_HOST")}
    environment |= {"PYTHONPATH": ROOT, "HOME": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["COLUMNS"] = "300"
    command += ["-p", "dbllm.testing.plugin", *options]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False).stdout


TESTS = """
import sys

def test_nothing_is_loaded():
    loaded = {"httpx", "pydantic", "dbllm.errors", "dbllm.testing.server", "dbllm.testing.scripted_server"}
    assert not loaded & sys.modules.keys()

def answer(text):
    from dbllm import Client, DbllmError

    try:
        with Client() as client:
            return client.endpoint("m").chat(text).text
    except DbllmError:
        return "sorry"

def test_swallows(scripted):
    assert answer("hi") == "sorry"

def test_fails(scripted):
    scripted.reply("one")
    assert answer("hi") == "two"

def test_asks_twice(scripted):
    scripted.reply("one")
    answer("one")
    assert answer("two") == "two"

def test_passes(scripted):
    scripted.reply("one")
    assert answer("hi") == "one"

def test_replays(recorded):
    assert answer("hi") == "from the file"

def test_sends_another(recorded):
    assert answer("hello") == "sorry"

def test_sends_nothing(recorded):
    pass

def test_with_a_model(monkeypatch, request):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    request.getfixturevalue("workspace")
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    request = {"method": "POST", "path": "/serving-endpoints/m/invocations"}
    message = {"role": "assistant", "content": "from the file"}
    said = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    answer = {"status": 200, "headers": {"content-type": "application/json"}, "seconds": 0.1, "body": said}
    recordings = folder / "recordings" / "test_it"
    recordings.mkdir(parents=True)
    one = Interaction({**request, "body": {"messages": [{"role": "user", "content": "hi"}]}}, answer)
    for name in ("test_replays", "test_sends_another"):
        (recordings / f"{name}.json").write_text(to_text(Recording([one])))
    return run(folder, TESTS)


def test_a_call_beyond_the_script_fails_its_test_also_where_the_code_swallows_the_error(report: str) -> None:
    said = (
        "FAILED test_it.py::test_swallows - Failed: There is no answer for call 1, chat to 'm': 'hi': the test wrote no"
    )
    assert said in report
    assert "PASSED test_it.py::test_passes" in report
    assert "the test wrote 1 answer, and the calls before used all of them" in report
    assert "  1. chat to 'm': 'one' → 200\n  2. chat to 'm': 'two' → 418" in report


def test_the_journal_stands_in_the_report_of_a_test_that_fails(report: str) -> None:
    assert "FAILED test_it.py::test_fails - AssertionError" in report
    assert "1 call:\n  1. chat to 'm': 'hi' → 200" in report


def test_a_recording_lies_beside_its_test_and_a_request_that_is_not_in_it_fails_the_test(report: str) -> None:
    assert "PASSED test_it.py::test_replays" in report
    assert "FAILED test_it.py::test_sends_another - Failed: The recording" in report
    assert "body.messages[0].content: recorded 'hi', sent 'hello'" in report
    assert "FAILED test_it.py::test_sends_nothing - Failed: nothing was recorded: no client of dbllm" in report


def test_a_run_that_uses_no_fixture_loads_nothing(report: str) -> None:
    assert "PASSED test_it.py::test_nothing_is_loaded" in report


def test_the_workspace_is_skipped_with_a_sentence_without_its_extra(report: str) -> None:
    assert "5 failed, 3 passed, 1 skipped" in report
    assert "pip install 'dbllm[local]'" in report


def test_each_test_has_a_file_of_its_own() -> None:
    nodes = [
        "t.py::test_a",
        "t.py::A::test_a",
        "t.py::B::test_a",
        "t.py::test_a[x-1]",
        "t.py::test_a[a/b]",
        "t.py::test_a[a b]",
    ]
    names = [recording_name(node) for node in [*nodes, f"t.py::test_a[{'x' * 300}]", f"t.py::test_a[{'x' * 301}]"]]
    assert names[:4] == ["test_a", "A.test_a", "B.test_a", "test_a-x-1"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.-]{1,120}", name) for name in names)


PARALLEL = """
import pytest
from dbllm import Client

@pytest.mark.parametrize("number", range(12))
def test_own_answers(scripted, number):
    with Client() as client:
        for turn in range(5):
            scripted.reply(f"{number} {turn}")
            assert client.endpoint("m").chat(f"{number} {turn}").text == f"{number} {turn}"
    assert [call.prompt for call in scripted.calls] == [f"{number} {turn}" for turn in range(5)]
"""


def test_tests_in_several_processes_do_not_meet(tmp_path: Path) -> None:
    assert "12 passed" in run(tmp_path, PARALLEL, "-p", "xdist", "-n", "2")
