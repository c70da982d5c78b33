"""The packages of the extra `local`, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from dbllm.local.errors import LocalError


def load(module: str) -> Any:
    """An optional module. Those without types come through here, so nothing else has to know that they have none.

    Raises:
        LocalError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LocalError(missing_extra(error.name or module)) from error


def missing_extra(package: str) -> str:
    """The one sentence for a package that only the extra brings."""
    return f"{package} is not installed. This needs the local workspace's packages: pip install 'dbllm[local]'"
