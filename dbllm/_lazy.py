"""Imports that wait until something is needed, and survive an interrupt. Pure."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.machinery import ExtensionFileLoader


class WholeImport:
    """Around an import that is made late: an interrupt within it leaves no package behind that is loaded in part.

    Python takes back the module whose code was interrupted, but not those which that had imported. The package, loaded
    again, finds them loaded and lacks them as attributes: from then on every use of it fails. So all that came
    is taken back, and loaded again. Not what is written in C: that is never there in part, and some loads only once.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = len(sys.modules)  # new ones come at the end

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for name, module in [] if error is None else list(sys.modules.items())[self._before :]:
            spec = getattr(module, "__spec__", None)
            busy = getattr(spec, "_initializing", False)  # another thread loads it
            if not busy and not isinstance(getattr(spec, "loader", None), ExtensionFileLoader):
                sys.modules.pop(name, None)


@lru_cache
def own_version() -> str:
    """The version of dbllm that is installed; "0" in a source tree that never was."""
    with WholeImport():
        from importlib import metadata  # slow to import, and needed once

    try:
        return metadata.version("dbllm")
    except metadata.PackageNotFoundError:
        return "0"
