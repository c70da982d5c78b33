"""For tests of your own code: scripted models, a workspace on this machine, recordings, and faults of every kind.

    def test_my_chain(scripted):                                     # the fixture of the pytest plugin: no model, 2 ms
        scripted.reply("Paris.")
        assert answer("The capital of France?") == "Paris."          # your function, with its own client
        scripted.assert_called_once(prompt="The capital of France?")

    def test_with_a_model(workspace): ...                            # a real small model, loaded once

`pip install 'dbllm[testing]'` has the plugin; the fixture `workspace` needs the extra `local` as well. Without pytest:

    with scripted_workspace() as scripted: ...
    with workspace() as local, faults(local, "smollm2-chat", Fault(statuses={429: 0.5}, retry_after=0)): ...
    with fault_server(mix=SAFE_FAULTS, seed=7) as server: ...        # by itself, or in front of any server

`cancel_everywhere` cancels a call at each point where it waits, `leaks` finds what a block leaves open, and
`VirtualClock` makes hours of backoff pass in no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbllm.local.invocation.faults import Fault
    from dbllm.local.workspace import Workspace
    from dbllm.testing.cancellation import SweepReport, cancel_everywhere
    from dbllm.testing.fault_plans import ALL_FAULTS, FAULT_KINDS, SAFE_FAULTS, FaultKind, FaultName
    from dbllm.testing.journal import ModelCall, ModelCalls
    from dbllm.testing.leak_census import Census, leaks, take_census
    from dbllm.testing.recorder import Recorder, recording
    from dbllm.testing.resilience import ResilienceReport, ResilienceRow, assert_resilient
    from dbllm.testing.resilience_faults import RESILIENCE_FAULTS
    from dbllm.testing.scripted_answers import STREAM_FAULTS
    from dbllm.testing.scripted_models import ScriptedModels
    from dbllm.testing.scripted_router import ScriptedRouter, respx_router
    from dbllm.testing.scripted_server import Scripted, scripted_workspace
    from dbllm.testing.server import FaultServer, ServerReport, fault_server
    from dbllm.testing.virtual_clock import VirtualClock
    from dbllm.testing.workspaces import FAULTS, faults, workspace

__all__ = [
    "ALL_FAULTS",
    "FAULTS",
    "FAULT_KINDS",
    "RESILIENCE_FAULTS",
    "SAFE_FAULTS",
    "STREAM_FAULTS",
    "Census",
    "Fault",
    "FaultKind",
    "FaultName",
    "FaultServer",
    "ModelCall",
    "ModelCalls",
    "Recorder",
    "ResilienceReport",
    "ResilienceRow",
    "Scripted",
    "ScriptedModels",
    "ScriptedRouter",
    "ServerReport",
    "SweepReport",
    "VirtualClock",
    "Workspace",
    "assert_resilient",
    "cancel_everywhere",
    "fault_server",
    "faults",
    "leaks",
    "recording",
    "respx_router",
    "scripted_workspace",
    "take_census",
    "workspace",
]

_NAMES = {  # where each name is; the pytest plugin imports this package, and a test run that uses none pays for none
    "cancellation": "SweepReport cancel_everywhere",
    "fault_plans": "ALL_FAULTS FAULT_KINDS SAFE_FAULTS FaultKind FaultName",
    "journal": "ModelCall ModelCalls",
    "leak_census": "Census leaks take_census",
    "recorder": "Recorder recording",
    "resilience": "ResilienceReport ResilienceRow assert_resilient",
    "resilience_faults": "RESILIENCE_FAULTS",
    "scripted_answers": "STREAM_FAULTS",
    "scripted_models": "ScriptedModels",
    "scripted_router": "ScriptedRouter respx_router",
    "scripted_server": "Scripted scripted_workspace",
    "server": "FaultServer ServerReport fault_server",
    "virtual_clock": "VirtualClock",
    "workspaces": "FAULTS Fault Workspace faults workspace",  # needs the extra `local`, the others do not
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        from dbllm._misnomers import missing_name

        raise missing_name(__name__, name, __all__)
    value: object = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value
