"""For tests of your own code: a workspace on this machine, and faults of every kind.

    from dbllm.testing import Fault, faults, workspace

    with workspace() as local:                                       # a real small model; clients find it without help
        with faults(local, "smollm2-chat", Fault(statuses={429: 0.5}, retry_after=0)):
            ...                                                      # what does your code do when half the calls fail?

Loading the model takes some seconds, so make it a pytest fixture of scope `session`:

    @pytest.fixture(scope="session")
    def local():
        with workspace() as running:
            yield running

The workspace needs the extra: pip install 'dbllm[local]'. What follows needs none:

    from dbllm.testing import SAFE_FAULTS, fault_server

    with fault_server(mix=SAFE_FAULTS, seed=7) as server:            # by itself, or in front of any server
        client = Client(server.host, "any token")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbllm.testing.fault_plans import ALL_FAULTS, FAULT_KINDS, SAFE_FAULTS, FaultKind, FaultName
from dbllm.testing.server import FaultServer, ServerReport, fault_server

if TYPE_CHECKING:
    from dbllm.local.invocation.faults import Fault
    from dbllm.local.workspace import Workspace
    from dbllm.testing.workspaces import FAULTS, faults, workspace

__all__ = [
    "ALL_FAULTS",
    "FAULTS",
    "FAULT_KINDS",
    "SAFE_FAULTS",
    "Fault",
    "FaultKind",
    "FaultName",
    "FaultServer",
    "ServerReport",
    "Workspace",
    "fault_server",
    "faults",
    "workspace",
]


def __getattr__(name: str) -> object:
    if name not in ("FAULTS", "Fault", "Workspace", "faults", "workspace"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dbllm.testing import workspaces  # needs the extra `local`, the others do not

    value: object = getattr(workspaces, name)
    return value
