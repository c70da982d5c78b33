"""Encryption at rest: every value of the state is sealed with one key (AES-256-GCM, by `cryptography`).

The key is in the environment variable DBLLM_STATE_KEY (32 bytes as URL-safe base64), or in a file of the state folder
that only its owner can read. A value is bound to its place, so that two of them cannot be exchanged unnoticed.
"""

from __future__ import annotations

import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbllm.local.errors import LocalError
from dbllm.local.extras import load

VARIABLE = "DBLLM_STATE_KEY"
KEY_FILE = "workspace.key"
KEY_BYTES = 32
NONCE_BYTES = 12
MAKE_ONE = "python -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'"


class WrongKeyError(Exception):
    """The value was not sealed with this key at this place, or it was changed since."""


class Vault:
    """Seals and opens values with one key. The key is not in its repr."""

    def __init__(self, key: bytes) -> None:
        self._cipher: Any = load("cryptography.hazmat.primitives.ciphers.aead").AESGCM(key)
        self._invalid: type[Exception] = load("cryptography.exceptions").InvalidTag

    def seal(self, value: bytes, place: str) -> bytes:
        """`value`, unreadable without the key."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed: bytes = self._cipher.encrypt(nonce, value, place.encode())
        return nonce + sealed

    def open(self, sealed: bytes, place: str) -> bytes:
        """What was sealed at `place`.

        Raises:
            WrongKeyError: with another key, at another place, or changed since.
        """
        try:
            value: bytes = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        except (self._invalid, ValueError):
            raise WrongKeyError from None
        return value


def find_key(folder: Path, environ: Mapping[str, str], *, new: bool) -> bytes:
    """The key of a state folder: from the environment, else from its file, which a `new` state gets.

    Raises:
        LocalError: it is malformed, or there is a state and no key.
    """
    if given := environ.get(VARIABLE, ""):
        return _decoded(given, f"The environment variable {VARIABLE}")
    path = folder / KEY_FILE
    try:
        return _decoded(path.read_text("ascii", errors="replace").strip(), str(path))
    except FileNotFoundError:
        pass
    if not new:
        raise LocalError(
            f"The state in {folder} is encrypted, and its key is neither in {VARIABLE} nor in {path}. "
            "Bring the key back, or choose another --state folder."
        )
    key = secrets.token_bytes(KEY_BYTES)
    write_private(path, urlsafe_b64encode(key).decode() + "\n")
    return key


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read: whole or not at all, and on the disk when this returns."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    # Created with its final mode: it is never readable by others, not even for a moment.
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _decoded(text: str, where: str) -> bytes:
    try:
        key = urlsafe_b64decode(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise LocalError(
            f"{where} is not a key: it has to be {KEY_BYTES} bytes as URL-safe base64. Make one: {MAKE_ONE}"
        )
    return key
