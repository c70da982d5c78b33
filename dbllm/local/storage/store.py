"""What a workspace remembers: JSON values by kind and key in one SQLite file, sealed by the vault.

A commit is on the disk when it returns (write-ahead log, synchronous=FULL), so whatever was acknowledged after it
survives a `kill -9` and a power cut. Its users keep their values in memory, and commit before they change them.
One thread uses a store at a time.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbllm.local.errors import LocalError, Problem
from dbllm.local.storage.encryption import Vault, WrongKeyError, find_key

STORE_FILE = "workspace.db"
STORE_VERSION = 1
PROOF = ("proof", "key")
"""The first value of a store: it opens with the right key only."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value to keep, or, with None, to forget."""

    kind: str
    key: str
    value: object | None


class Store:
    """Values by kind and key.

    Args:
        path: the database file; None keeps everything in memory.
        vault: seals the values; None with memory alone.

    Raises:
        LocalError: the file is no state of a workspace, or was sealed with another key.
    """

    def __init__(self, path: Path | None = None, vault: Vault | None = None) -> None:
        self._vault = vault
        self._db = sqlite3.connect(str(path or ":memory:"), isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except sqlite3.Error as error:
            self._db.close()
            raise LocalError(
                f"{path} is not the state of a workspace ({error}). Choose another --state folder."
            ) from error
        except WrongKeyError:
            self._db.close()
            raise LocalError(
                f"{path} was encrypted with another key. Give the one it was made with, "
                "or choose another --state folder."
            ) from None
        except LocalError:
            self._db.close()
            raise

    def load(self, kind: str) -> dict[str, object]:
        """All values of a kind by their keys."""
        rows = self._db.execute("SELECT key, value FROM kept WHERE kind = ? ORDER BY rowid", (kind,))
        return {key: self._opened(kind, key, value) for key, value in rows}

    def commit(self, *changes: Change, durable: bool = True) -> None:
        """Make all changes or none. With `durable` they survive a power cut; without, the end of the process.

        Raises:
            Problem: 500, nothing was changed: the disk is full, or the file is gone.
        """
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    self._apply(change)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise Problem(500, "INTERNAL_ERROR", f"The change could not be saved: {error}.") from error

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._db.close()

    def _apply(self, change: Change) -> None:
        if change.value is None:
            self._db.execute("DELETE FROM kept WHERE kind = ? AND key = ?", (change.kind, change.key))
            return
        text = json.dumps(change.value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        value = self._vault.seal(text, f"{change.kind}/{change.key}") if self._vault else text
        self._db.execute(
            "INSERT INTO kept (kind, key, value) VALUES (?, ?, ?) "
            "ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
            (change.kind, change.key, value),
        )

    def _opened(self, kind: str, key: str, value: bytes) -> object:
        text = self._vault.open(value, f"{kind}/{key}") if self._vault else value
        decoded: object = json.loads(text.decode("utf-8", "surrogatepass"))
        return decoded

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > STORE_VERSION:
            raise LocalError("The state was written by a newer dbllm. Use that one, or choose another --state folder.")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS kept (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, "
            "UNIQUE (kind, key))"
        )
        self._db.execute(f"PRAGMA user_version = {STORE_VERSION}")
        if not self.load(PROOF[0]):
            self.commit(Change(*PROOF, True))


@contextmanager
def opened(folder: Path | None, environ: Mapping[str, str] = os.environ) -> Iterator[Store]:
    """The store of a state folder, whose lock is held; one in memory without a folder.

    Raises:
        LocalError: it cannot be used; the text says why.
    """
    if folder is None:
        store = Store()
    else:
        path = folder / STORE_FILE
        key = find_key(folder, environ, new=not path.exists())
        store = Store(_private(path), Vault(key))
    try:
        yield store
    finally:
        store.close()


def _private(path: Path) -> Path:
    """SQLite gives its side files the mode of the database, which only its owner can read."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    except OSError as error:
        raise LocalError(f"The state file {path} cannot be used: {error}.") from error
    return path
