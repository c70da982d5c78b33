"""A workspace for tests, and faults of its endpoints. Needs the extra: pip install 'dbllm[local]'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from dbllm import Client
from dbllm.local.extras import load
from dbllm.testing.loopback_workspace import workspace_environment

if TYPE_CHECKING:
    from dbllm.local.invocation.faults import Fault
    from dbllm.local.workspace import Workspace

__all__ = ["Fault", "Workspace", "faults", "workspace"]

FAULTS = "/api/local/faults"


@contextmanager
def workspace(
    *,
    customs: Mapping[str, str | Callable[..., object]] | None = None,
    upstreams: Mapping[str, str] | None = None,
    drivers: Sequence[int] = (),
) -> Iterator[Workspace]:
    """A running workspace. Every client that is made without a host inside the block uses it.

    The environment's DATABRICKS_* variables are removed until the end of the block, so that no real workspace is
    called.

    Args:
        customs: custom models. Maps the name of an endpoint to a callable, "module:function", or the URL of an MLflow
            scoring server.
        upstreams: maps a provider of external models to the base URL to call in place of its own. "local" is the
            workspace's own model in OpenAI's wire format, with the key `workspace.upstream_key`.
        drivers: ports of driver apps that the driver proxy reaches.

    Raises:
        LocalError: the workspace cannot start; the message says what to do.
    """
    module = load("dbllm.local.workspace")
    options = load("dbllm.local").Options(customs=customs or {}, upstreams=upstreams or {})
    with module.Workspace(drivers=drivers, options=options) as running, workspace_environment(running.env):
        yield running


@contextmanager
def faults(local: Workspace, endpoint: str, fault: Fault) -> Iterator[None]:
    """Give an endpoint faults until the end of the block; "*" means every endpoint that has none of its own.

    Each time the block is entered, the same calls in the same order get the same faults.

    Raises:
        BadRequestError: the workspace does not know such a fault.
    """
    with Client(local.host, local.token) as client:
        client.request("PUT", FAULTS, json={"endpoint": endpoint, **asdict(fault)})
        try:
            yield
        finally:
            client.request("DELETE", FAULTS, json={"endpoint": endpoint})


def __getattr__(name: str) -> object:
    if name not in ("Fault", "Workspace"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module: object = load("dbllm.local.invocation.faults" if name == "Fault" else "dbllm.local.workspace")
    return getattr(module, name)
