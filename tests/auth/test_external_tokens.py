"""What other programs give in place of a token: an error that says so, whatever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dbllm
from dbllm._auth import external_tokens
from dbllm._backends.backend import run_without_loop
from dbllm._backends.blocking import SyncBackend

EXPIRY = "2099-01-01T00:00:00Z"
NO_TOKENS: tuple[Any, ...] = (None, 5, "", [], ["canary"], {"canary": 1}, True)


def fetched(fetch: Any) -> Any:
    backend = SyncBackend("https://h.com", 1, None, None, None)
    return run_without_loop(fetch(backend, backend.clock() + 20.0))


def said_by(output: bytes, tmp_path: Path) -> Any:
    """The headers after the Databricks CLI has written this."""
    (tmp_path / "output").write_bytes(output)
    program = tmp_path / "databricks"
    program.write_text(f"#!/bin/sh\n/bin/cat '{tmp_path / 'output'}'\n")
    program.chmod(0o755)
    return fetched(external_tokens.cli_login(str(program), "https://h.com", None))


def test_a_token_of_the_cli_is_taken(tmp_path: Path) -> None:
    said = json.dumps({"access_token": "abc", "expiry": EXPIRY}).encode()
    assert said_by(said, tmp_path).headers == {"authorization": "Bearer abc"}


def test_what_is_no_token_of_the_cli_is_told(tmp_path: Path) -> None:
    answers = [json.dumps({"access_token": token, "expiry": EXPIRY}).encode() for token in NO_TOKENS]
    answers += [json.dumps({"access_token": "canary", "expiry": expiry}).encode() for expiry in (None, 5, [], "soon")]
    answers += [b"", b"null", b"[1]", b'{"a": ' * 100_000, b'{"expiry": ' + b"[" * 100_000, b"\xff{}"]
    for answer in answers:
        with pytest.raises(dbllm.AuthenticationError, match="has no token in it") as caught:
            said_by(answer, tmp_path)
        assert "canary" not in str(caught.value)


def test_what_is_no_token_in_the_file_of_model_serving_is_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    contents = [json.dumps({"OAUTH_TOKEN": [{"oauthTokenValue": token}]}) for token in NO_TOKENS]
    for content in (*contents, "", "null", "{}", "[" * 100_000):
        file.write_text(content)
        with pytest.raises(dbllm.ConfigError, match="cannot be read or has no token") as caught:
            fetched(external_tokens.serving_file(file))
        assert "canary" not in str(caught.value)
    file.write_text(json.dumps({"OAUTH_TOKEN": [{"oauthTokenValue": "abc"}]}))
    assert fetched(external_tokens.serving_file(file)).headers == {"authorization": "Bearer abc"}
