"""A Databricks workspace on loopback that answers with a real small model.

    with Workspace() as workspace:                # host, token, cluster_id and env of the workspace
        os.environ.update(workspace.env)          # what a client needs to find it

`dbllm up` is the same in the foreground. Needs the extra: pip install 'dbllm[local]'. Importing this package
is cheap; the model engine and the web server are imported when a workspace is made.

`LocalError` is raised, with a sentence that says what to do, for everything that keeps a workspace or a driver
app from running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbllm.local.errors import LocalError
from dbllm.local.extras import load

if TYPE_CHECKING:
    from dbllm.local.options import Options
    from dbllm.local.workspace import Workspace

__all__ = ["LocalError", "Options", "Workspace"]

_LATER = {"Options": "dbllm.local.options", "Workspace": "dbllm.local.workspace"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        from dbllm._misnomers import missing_name

        raise missing_name(__name__, name, __all__)
    value: object = getattr(load(_LATER[name]), name)
    return value
