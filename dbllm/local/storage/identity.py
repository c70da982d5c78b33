"""Who a workspace is, from start to start: its token and ids, kept in a folder or made up anew."""

from __future__ import annotations

import json
import secrets
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dbllm.local.errors import LocalError
from dbllm.local.storage.encryption import write_private
from dbllm.local.storage.file_lock import locked
from dbllm.local.storage.private_folder import make_private

IDENTITY_FILE = "workspace.json"
LOCK = "workspace.lock"


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies one workspace.

    Attributes:
        token: the personal access token that opens it; not in the repr.
        cluster_id: of its one cluster, in Databricks' shape MMDD-HHMMSS-xxxxxxxx.
        workspace_id: its number, the org of its URLs.
        created_ms: when it was first started, milliseconds since 1970.
    """

    token: str = field(repr=False)
    cluster_id: str
    workspace_id: str
    created_ms: int


def new_identity() -> Identity:
    """A random identity."""
    letters = string.ascii_lowercase + string.digits
    tail = "".join(secrets.choice(letters) for _ in range(8))
    return Identity(
        token=f"dapi{secrets.token_hex(16)}",
        cluster_id=f"{time.strftime('%m%d-%H%M%S', time.gmtime())}-{tail}",
        workspace_id=str(10**15 + secrets.randbelow(9 * 10**15)),
        created_ms=int(time.time() * 1000),
    )


@contextmanager
def identity(folder: Path | None, token: str | None) -> Iterator[Identity]:
    """The identity kept in `folder` (made at the first start), or a throw-away one without a folder.

    The folder is held until the block ends: one workspace at a time. A given `token` wins over the kept one and is
    not written down.

    Raises:
        LocalError: another workspace runs on the folder, or it cannot be used.
    """
    if folder is None:
        yield _with_token(new_identity(), token)
        return
    try:
        make_private(folder)
        holding = locked(folder / LOCK, wait=False)
        holding.__enter__()
    except BlockingIOError as error:
        raise LocalError(
            f"Another workspace is running on the state folder {folder}. Stop it, or choose another --state folder."
        ) from error
    except OSError as error:
        raise LocalError(f"The state folder {folder} cannot be used: {error}.") from error
    try:
        yield _with_token(_load_identity(folder / IDENTITY_FILE), token)
    finally:
        holding.__exit__(None, None, None)


def _with_token(one: Identity, token: str | None) -> Identity:
    return replace(one, token=token) if token is not None else one


def _load_identity(path: Path) -> Identity:
    try:
        return _read(path)
    except FileNotFoundError:
        new = new_identity()
        write_private(path, json.dumps(asdict(new)))
        return new


def _read(path: Path) -> Identity:
    try:
        return Identity(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise LocalError(f"{path} is not the state of a workspace. Delete it to start with a new one.") from error
