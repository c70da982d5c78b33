"""Where a job writes: each file has a place of its own, and one that can be written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError
from .manifest import Settings


def check_places(settings: Settings, paths: Mapping[str, Path]) -> None:
    """See that no file of a job is written over another or the input, and that the output can be made.

    Args:
        paths: the job's own files by name, the journal among them.

    Raises:
        OutputError: one would be, or it cannot.
    """
    taken = dict.fromkeys(_names_of(settings.output), "the output")
    if settings.path is not None:
        taken |= dict.fromkeys(_names_of(settings.path), "the input")
    written = {f"the {name}": path for name, path in paths.items()}
    drafted = [settings.output, *(path for name, path in paths.items() if name != "journal")]
    drafts = {f"the draft of {path.name}": path.with_name(path.name + ".new") for path in drafted}
    for what, path in {**written, **drafts, **({"the report": settings.page} if settings.page else {})}.items():
        names = _names_of(path)
        if other := next((taken[name] for name in names if name in taken), None):
            raise OutputError(f"{path} would be {what}, and is {other} itself. Name another.")
        taken |= dict.fromkeys(names, what)
    _try_draft(settings.output)


def _names_of(path: Path) -> list[Any]:
    """What a file is known by: its place, and, if it is there, its number on its disk, which hard links share."""
    try:
        about = path.stat()
    except OSError:
        return [os.path.realpath(path)]
    return [os.path.realpath(path), (about.st_dev, about.st_ino)]


def _try_draft(output: Path) -> None:
    """Make the output's draft and take it away, so that a folder that takes none is told before anything is paid."""
    draft = output.with_name(output.name + ".new")
    try:
        had = draft.exists()
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o666))
        if not had:
            draft.unlink()
    except OSError as error:
        raise OutputError(
            f"the output {output} cannot be made there: {error.strerror or error}. Name another place."
        ) from None
