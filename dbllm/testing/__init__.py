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

`cancel_everywhere` cancels a call at each point where it waits, `leaks` finds what a block leaves open, and
`VirtualClock` makes hours of backoff pass in no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbllm.testing.cancellation import SweepReport, cancel_everywhere
from dbllm.testing.fault_plans import ALL_FAULTS, FAULT_KINDS, SAFE_FAULTS, FaultKind, FaultName
from dbllm.testing.leak_census import Census, leaks, take_census
from dbllm.testing.server import FaultServer, ServerReport, fault_server
from dbllm.testing.virtual_clock import VirtualClock

if TYPE_CHECKING:
    from dbllm.local.invocation.faults import Fault
    from dbllm.local.workspace import Workspace
    from dbllm.testing.workspaces import FAULTS, faults, workspace

__all__ = [
    "ALL_FAULTS",
    "FAULTS",
    "FAULT_KINDS",
    "SAFE_FAULTS",
    "Census",
    "Fault",
    "FaultKind",
    "FaultName",
    "FaultServer",
    "ServerReport",
    "SweepReport",
    "VirtualClock",
    "Workspace",
    "cancel_everywhere",
    "fault_server",
    "faults",
    "leaks",
    "take_census",
    "workspace",
]


def __getattr__(name: str) -> object:
    if name not in ("FAULTS", "Fault", "Workspace", "faults", "workspace"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dbllm.testing import workspaces  # needs the extra `local`, the others do not

    value: object = getattr(workspaces, name)
    return value
