"""The state folder is its owner's alone: nobody else reads it, and nobody else put something into it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from dbllm.local.errors import LocalError


def make_private(folder: Path) -> None:
    """Make a folder, or take one that exists, so that only this user can enter it, with the files in it.

    Raises:
        LocalError: it is another user's, or a file in it is a link to somewhere else.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":  # a user's folders are the user's there
        return
    for place in (folder.lstat(), folder.stat()):  # a link of another user's may lead anywhere tomorrow
        if place.st_uid != os.geteuid():
            raise LocalError(f"The state folder {folder} belongs to another user: choose a --state folder of your own.")
    folder.chmod(0o700)
    for path in folder.iterdir():  # once nobody else can enter any more
        found = path.lstat()
        if path.name.startswith("workspace.") and not stat.S_ISREG(found.st_mode):
            raise LocalError(f"{path} must be a file, and is a link or something else: delete it.")
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o077:
            path.chmod(0o600)
