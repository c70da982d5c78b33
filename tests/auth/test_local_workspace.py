"""Finding the workspaces that run on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbllm import AsyncClient, Client, ConfigError
from dbllm._auth.local_workspace import registry_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = registry_folder()
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True)
    return folder


def note(folder: Path, port: int, pid: int | None = None) -> None:
    noted = {
        "host": f"http://127.0.0.1:{port}",
        "token": "dapi-canary",
        "pid": pid or os.getpid(),
        "cluster_id": f"cluster-{port}",
    }
    (folder / f"{port}.json").write_text(json.dumps(noted))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_finds_the_workspace_that_runs(
    home: Path, kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.cloud.databricks.com")
    monkeypatch.setenv("DATABRICKS_CLUSTER_ID", "other")
    note(home, 8765)
    client = kind.local(timeout=5)
    assert client.host == "http://127.0.0.1:8765"
    assert client.driver_app(7777).name == "cluster-8765:7777"
    assert "dapi-canary" not in repr(client) + str(client.config)


def test_one_that_is_gone_or_half_written_is_passed_over(home: Path) -> None:
    note(home, 8765)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note(home, 8766, gone.pid)
    (home / "1.json").write_text("{")
    (home / "2.json").write_text("[]")
    (home / "3.json").write_text('{"host": "http://127.0.0.1:3"}')
    assert Client.local().host.endswith(":8765")
    with pytest.raises(ConfigError, match=r"no local workspace runs on port 8766 .*dbllm up"):
        Client.local(8766)


def test_of_several_the_environment_s_is_chosen_or_else_the_one_that_was_started_last(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbllm.local.running import running_env

    for place, port in enumerate((8765, 8766, 8767)):
        note(home, port)
        os.utime(home / f"{port}.json", (place, place))
    for named, chosen in (
        ("", 8767),
        ("http://127.0.0.1:8766", 8766),
        ("http://127.0.0.1:8765/", 8765),
        ("http://127.0.0.1:9999", 8767),
        ("https://other.cloud.databricks.com", 8767),
    ):
        monkeypatch.setenv("DATABRICKS_HOST", named)
        expected = f"http://127.0.0.1:{chosen}"
        assert [Client.local().host, AsyncClient.local().host] == [expected, expected], named
        assert running_env()["DATABRICKS_HOST"] == expected, named
        assert Client.local(8766).host == running_env(8766)["DATABRICKS_HOST"] == "http://127.0.0.1:8766"
    with pytest.raises(ConfigError, match=r"no local workspace runs on port 1 .*one runs on: 8765, 8766, 8767"):
        Client.local(1)


def test_none_that_runs_is_said_and_a_configured_workspace_is_not_taken_instead(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://w.cloud.databricks.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match="no local workspace runs on this machine: start one with `dbllm up`"):
            kind.local()


def test_a_workspace_that_runs_is_never_taken_for_a_configured_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(home, 8765)
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CONFIG_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(home / "none"))
    with pytest.raises(ConfigError):
        Client()


def test_a_workspace_that_starts_takes_away_the_notes_of_those_that_were_killed(home: Path) -> None:
    from dbllm.local.running import note_running

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note(home, 1, gone.pid)
    note(home, 2)
    (home / "3.json").write_text("{")
    env = {"DATABRICKS_HOST": "http://127.0.0.1:4", "DATABRICKS_TOKEN": "dapi-4", "DATABRICKS_CLUSTER_ID": "c"}
    with note_running(4, env):
        assert sorted(file.name for file in home.glob("*.json")) == ["2.json", "3.json", "4.json"]
    assert sorted(file.name for file in home.glob("*.json")) == ["2.json", "3.json"]
