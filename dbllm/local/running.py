"""A running workspace leaves word of itself, so that clients on this machine find it when they ask for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from dbllm._auth.local_workspace import find_local_workspace, registry_folder, running_workspaces, runs
from dbllm.local.storage.encryption import write_private

VARIABLES = {"host": "DATABRICKS_HOST", "token": "DATABRICKS_TOKEN", "cluster_id": "DATABRICKS_CLUSTER_ID"}


def runs_alone() -> bool:
    """Whether at most one workspace runs on this machine: then nobody need say which one is meant."""
    return len(running_workspaces()) < 2


def taken_port_hint(port: int) -> str:
    """What to do where a port is taken: by a workspace, or by another program."""
    if any(found.host.endswith(f":{port}") for found in running_workspaces()):
        return (
            f"A local workspace runs there: use it (`dbllm env --port {port}` prints its variables), or start another "
            "one with --port 0."
        )
    return "Stop what listens there, or choose another port with --port (0 takes a free one)."


def running_env(port: int | None = None) -> dict[str, str]:
    """The variables by which clients find the workspace that runs on this machine; of several, as `Client.local()`.

    Raises:
        ConfigError: none runs.
    """
    found = find_local_workspace(port)
    return {variable: getattr(found, name) for name, variable in VARIABLES.items()}


@contextmanager
def note_running(port: int, env: Mapping[str, str]) -> Iterator[None]:
    """Note a workspace for as long as the block lasts, for its user alone; where that cannot be, go on without."""
    file = registry_folder() / f"{port}.json"
    text = json.dumps({name: env[variable] for name, variable in VARIABLES.items()} | {"pid": os.getpid()})
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in file.parent.glob("*.json"):  # those of workspaces that were killed
            with suppress(OSError, ValueError, LookupError, TypeError):
                if not runs(int(json.loads(other.read_text("utf-8"))["pid"])):
                    other.unlink()
        write_private(file, text)
    try:
        yield
    finally:
        with suppress(OSError):
            if file.read_text("utf-8") == text:  # and not that of another one, which has the port now
                file.unlink()
