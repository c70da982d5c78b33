"""`dbllm demo` as a newcomer runs it, and the parts that its figures come from."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbllm import ChatCompletion, Embeddings
from dbllm.cli import demo

DEMO = [sys.executable, "-m", "dbllm", "demo"]


def test_the_demo_shows_the_code_of_every_example_and_ends_well(environ: dict[str, str]) -> None:
    environ["DATABRICKS_HOST"] = "https://not-to-be-called.invalid"
    environ["HTTP_PROXY"] = "http://127.0.0.1:1"  # nothing listens there
    ended = subprocess.run(DEMO, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stderr) == (0, "")
    for _, example in demo.EXAMPLES:
        assert inspect.getsource(example) in ended.stdout
    for said in ("SmolLM2-135M-Instruct", "wordllama", "tokens/s", "dbllm up", "DATABRICKS_TOKEN", "profile"):
        assert said in ended.stdout
    assert "\x1b" not in ended.stdout


def test_what_fails_is_told_in_a_sentence(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ["DBLLM_CACHE_DIR"] = str(tmp_path / "file" / "folder")
    ended = subprocess.run(DEMO, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert ended.returncode == 1
    assert ended.stderr.startswith("dbllm: the demo stopped. ")
    assert ended.stderr.count("\n") == 1


def test_the_environment_s_own_workspace_is_hidden_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "work")
    with demo.environment({"DATABRICKS_HOST": "http://127.0.0.1:1"}):
        names = {name for name in os.environ if name.startswith("DATABRICKS_")}
        assert names == {"DATABRICKS_HOST"}
    assert os.environ["DATABRICKS_CONFIG_PROFILE"] == "work"


def test_an_account_has_the_tokens_that_the_model_reported() -> None:
    usage = {"prompt_tokens": 31, "completion_tokens": 10, "total_tokens": 41}
    reply = ChatCompletion.model_validate({"model": "small", "choices": [{"message": {}}], "usage": usage})
    assert demo.account(reply, 0.5) == "0.50 s, 31 tokens in, 10 out, 20 tokens/s; by small"


def test_an_account_claims_no_speed_for_embeddings() -> None:
    reply = Embeddings.model_validate(
        {"model": "vectors", "data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    )
    assert demo.account(reply, 0.5) == "0.50 s, 3 tokens in; by vectors"


def test_an_account_without_usage_says_so() -> None:
    assert "no token counts" in demo.account(None, 1.0)
