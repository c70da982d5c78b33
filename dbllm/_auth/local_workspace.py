"""The local workspaces that run on this machine, as `dbllm up` leaves word of them in a folder of the user's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class LocalWorkspace:
    """Where a local workspace answers, and what opens it."""

    host: str
    token: str = field(repr=False)
    cluster_id: str
    pid: int


def registry_folder() -> Path:
    """Where each running workspace has a file, named by its port.

    Raises:
        ConfigError: the user has no home folder.
    """
    try:
        return Path.home() / ".dbllm" / "workspaces"
    except RuntimeError:
        raise ConfigError("the user this runs as has no home folder, where running workspaces are noted.") from None


def find_local_workspace(port: int | None = None, options: Iterable[str] = ()) -> LocalWorkspace:
    """The workspace on this port; without one the one that DATABRICKS_HOST names, if it runs, or the one started last.

    It asks only this machine.

    Args:
        port: its port.
        options: what the client is made with beside it, by name.

    Raises:
        ConfigError: none runs, or the client is given another one.
    """
    if own := {"host", "token", "profile", "client_id", "client_secret"} & {*options}:
        raise ConfigError(
            f"local() finds its host and token, and takes no {min(own)}=: call the class with it, or a port."
        )
    if port is not None and not str(port).isdecimal():
        raise ConfigError(f"local() takes the port of a workspace on this machine, such as 8765, got {port!r:.80}.")
    running = running_workspaces()
    named = os.environ.get("DATABRICKS_HOST", "").strip().rstrip("/")
    for found in running:
        if found.host == named if port is None else urlsplit(found.host).port == int(port):
            return found
    if running and port is None:
        return running[0]
    where = "" if port is None else f" on port {port}"
    others = ", ".join(sorted(str(urlsplit(found.host).port) for found in running))
    others = f" (one runs on: {others})" if others else ""
    raise ConfigError(f"no local workspace runs{where} on this machine{others}: start one with `dbllm up`.")


def running_workspaces() -> list[LocalWorkspace]:
    """The workspaces that run on this machine, the one that was started last first."""
    return [found for found in _noted(registry_folder()) if runs(found.pid)]


def _noted(folder: Path) -> Iterator[LocalWorkspace]:
    files = folder.glob("*.json")
    for file in sorted((file for file in files if file.is_file()), key=lambda file: -file.stat().st_mtime):
        try:
            noted = json.loads(file.read_text("utf-8"))
            yield LocalWorkspace(str(noted["host"]), str(noted["token"]), str(noted["cluster_id"]), int(noted["pid"]))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # half written, or of another kind


def runs(pid: int) -> bool:
    """Whether a process is there."""
    if os.name != "posix":
        return True  # elsewhere to ask would end it; one that was killed then shows as a refused connection
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
