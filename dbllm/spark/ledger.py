"""The ledger of a job: what has been answered, in small files that retries and later runs read before they call.

A segment holds some 200 answers. It is written under another name and renamed once it is whole, so a process that dies
leaves a whole segment or none. Its head has a checksum for the keys and one for the answers: a segment that is damaged
all the same is passed over, and its rows are called again. Files are never changed, so tasks need no lock, and any
folder that all executors see will do: `/Volumes/…`, `/dbfs/…`, a shared mount.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zlib import crc32

from ..errors import DbllmError
from .columns import import_packages

log = logging.getLogger("dbllm.spark")

SEGMENT_ROWS = 200
SEGMENT_SECONDS = 10.0
KEY_BYTES = 16
CHECK_BYTES = 1 << 20  # there must be room for these, some segments, before anything is sent

_MAGIC = b"dbllmS01"
_HEAD = struct.Struct("<8sIQII")  # magic, rows, bytes of the answers, checksums of the keys and of the answers
_ENDING = ".segment"
_KEPT_SEGMENTS = 32  # decoded ones: rows come in about the order in which they were answered
_READERS = 16  # at once; a mounted object store takes its time for each file


class LedgerError(DbllmError):
    """The ledger's folder cannot be read or written. What was answered may have to be paid again."""


def ledger_folder(path: str | os.PathLike[str], identity: Mapping[str, Any]) -> Path:
    """Where the answers lie of jobs that ask the same: another endpoint, template or parameter has another folder.

    Raises:
        LedgerError: the path is none that files can be opened at.
    """
    text = os.fspath(path)
    scheme, colon, rest = text.partition(":")
    if rest.startswith("/") and scheme == "dbfs":
        text = "/" + rest.lstrip("/")
        text = text if text.startswith("/Volumes/") else "/dbfs" + text
    elif rest.startswith("/") and scheme == "file" and (not rest.startswith("//") or rest.startswith("///")):
        text = "/" + unquote(rest).lstrip("/")
    elif (colon and rest.startswith("/") and len(scheme) > 1) or not text.strip() or "\0" in text:
        raise LedgerError(
            f"ledger={text!r} must be a folder that every executor can open as files: /Volumes/…, /dbfs/…, or a shared "
            "mount."
        )
    folder = Path(os.path.abspath(text))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise LedgerError(f"ledger={text!r} must be a folder, and {there} is a file: name another.")
    return folder / job_name(identity)


def job_name(identity: Mapping[str, Any]) -> str:
    """The name that jobs share which ask the same."""
    asked = json.dumps(identity, sort_keys=True, default=repr)
    return hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()


def key_of_values(values: Sequence[Any]) -> bytes:
    """The key of a row: 16 bytes of the values of its key columns."""
    text = json.dumps(list(values), separators=(",", ":"), ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


class LedgerWriter:
    """Writes the answers of one task, a segment at a time."""

    def __init__(self, folder: Path, name: str, kind: Any) -> None:
        self._folder, self._kind = folder, kind
        self._name, self._number = f"{name}.{uuid.uuid4().hex[:12]}", 0
        self._keys: list[bytes] = []
        self._errors: list[bool] = []
        self._values: list[Mapping[str, Any]] = []
        self._since = 0.0

    def check(self) -> None:
        """See whether the folder takes files, before anything is paid that could not be recorded.

        Raises:
            LedgerError: it does not.
        """
        path = self._folder / f"{self._name}.draft"
        try:
            self._write(path, bytes(CHECK_BYTES))
            path.unlink()
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise LedgerError(
                f"the ledger {self._folder} cannot be written: {error.strerror or error}. Make room or name another "
                "folder; this task has sent nothing."
            ) from None

    def add(self, key: bytes, value: Mapping[str, Any]) -> None:
        """An answer, or an error row; the segment is written once it is full."""
        if not self._keys:
            self._since = time.monotonic()
        self._keys.append(key)
        self._errors.append(value["error"] is not None)
        self._values.append(value)
        if len(self._keys) >= SEGMENT_ROWS:
            self.flush()

    def flush_if_old(self) -> None:
        """Write what has waited for long."""
        if self._keys and time.monotonic() - self._since >= SEGMENT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is there.

        Raises:
            LedgerError: the folder takes nothing. What is there stays.
        """
        if not self._keys:
            return
        content = encode_segment(self._keys, self._errors, self._values, self._kind)
        path = self._folder / f"{self._name}.{self._number:06d}{_ENDING}"
        draft = path.with_suffix(".draft")
        try:
            self._write(draft, content)
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise LedgerError(
                f"the ledger {self._folder} cannot be written: {error.strerror or error}. Make room or name another "
                f"folder; {len(self._keys)} answers were not recorded."
            ) from error
        self._number += 1
        self._keys, self._errors, self._values = [], [], []

    def _write(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def encode_segment(
    keys: Sequence[bytes], errors: Sequence[bool], values: Sequence[Mapping[str, Any]], kind: Any
) -> bytes:
    """A segment's bytes."""
    arrow = import_packages("pyarrow")
    batch = arrow.RecordBatch.from_arrays([arrow.array(values, kind)], ["value"])
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    answers: bytes = sink.getvalue().to_pybytes()
    head = b"".join(keys) + bytes(errors)
    return _HEAD.pack(_MAGIC, len(keys), len(answers), crc32(head), crc32(answers)) + head + answers


def read_keys(path: Path) -> tuple[bytes, bytes] | None:
    """The keys of a segment, and for each whether it is an error row; None if the segment is damaged."""
    try:
        with path.open("rb") as file:
            magic, rows, size, checksum, _ = _HEAD.unpack(file.read(_HEAD.size))
            head = file.read(rows * (KEY_BYTES + 1))
            whole = os.fstat(file.fileno()).st_size == _HEAD.size + len(head) + size
    except FileNotFoundError:
        return None
    except struct.error:
        magic, whole, checksum, head, rows = b"", False, 0, b"", 0
    except OSError as error:
        raise LedgerError(f"the ledger's segment {path} cannot be read: {error.strerror or error}.") from error
    if magic != _MAGIC or not whole or crc32(head) != checksum:
        log.warning("the ledger's segment %s is damaged: its rows are called again", path)
        return None
    return head[: rows * KEY_BYTES], head[rows * KEY_BYTES :]


def read_values(path: Path) -> list[dict[str, Any]] | None:
    """The answers of a segment; None if it is damaged."""
    arrow = import_packages("pyarrow")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"the ledger's segment {path} cannot be read: {error.strerror or error}.") from error
    _, rows, size, _, checksum = _HEAD.unpack_from(content)
    answers = content[_HEAD.size + rows * (KEY_BYTES + 1) :]
    if len(answers) != size or crc32(answers) != checksum:
        log.warning("the ledger's segment %s is damaged: its rows are called again", path)
        return None
    with arrow.ipc.open_stream(answers) as stream:
        values: list[dict[str, Any]] = stream.read_all().column("value").to_pylist()
    return values


class LedgerIndex:
    """Where the answer to each key lies. It takes 24 bytes a row, so that a million fit into any worker.

    Args:
        folder: of the job.
        with_errors: whether error rows count as answered.
    """

    def __init__(self, folder: Path, *, with_errors: bool = True) -> None:
        self._numpy = numpy = import_packages("numpy")
        self._paths: list[Path] = []
        self._decoded: OrderedDict[int, list[dict[str, Any]] | None] = OrderedDict()
        answered, failed = _Places(), _Places()
        for path, head in _heads(folder):
            if head is None:
                continue
            number = len(self._paths)
            self._paths.append(path)
            keys = numpy.frombuffer(head[0], dtype=f"S{KEY_BYTES}")
            is_error = numpy.frombuffer(head[1], dtype=bool)
            places = number * 2**32 + numpy.arange(len(keys), dtype=numpy.int64)
            answered.add(keys[~is_error], places[~is_error])
            if with_errors:
                failed.add(keys[is_error], places[is_error])
        keys = numpy.concatenate([numpy.empty(0, f"S{KEY_BYTES}"), *answered.keys, *failed.keys])
        places = numpy.concatenate([numpy.empty(0, numpy.int64), *answered.places, *failed.places])
        order = numpy.argsort(keys, kind="stable")  # of equal keys the first answer stands, and an answer before errors
        self._keys, self._places = keys[order], places[order]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: Sequence[bytes | None]) -> list[dict[str, Any] | None]:
        """The recorded answer to each key, or None."""
        found: list[dict[str, Any] | None] = [None] * len(keys)
        if not len(self._keys):
            return found
        wanted = self._numpy.array([key or b"" for key in keys], dtype=f"S{KEY_BYTES}")
        at = self._numpy.minimum(self._numpy.searchsorted(self._keys, wanted), len(self._keys) - 1)
        for place in self._numpy.flatnonzero(self._keys[at] == wanted):
            if keys[place] is not None:
                segment, row = divmod(int(self._places[at[place]]), 2**32)
                values = self._values(segment)
                found[place] = None if values is None else values[row]
        return found

    def _values(self, segment: int) -> list[dict[str, Any]] | None:
        if segment in self._decoded:
            self._decoded.move_to_end(segment)
        else:
            self._decoded[segment] = read_values(self._paths[segment])
            if len(self._decoded) > _KEPT_SEGMENTS:
                self._decoded.popitem(last=False)
        return self._decoded[segment]


class _Places:
    """Keys and where their answers lie, piece by piece."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.places: list[Any] = []

    def add(self, keys: Any, places: Any) -> None:
        self.keys.append(keys)
        self.places.append(places)


def _heads(folder: Path) -> list[tuple[Path, tuple[bytes, bytes] | None]]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(_ENDING))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LedgerError(f"the ledger {folder} cannot be read: {error.strerror or error}.") from error
    paths = [folder / name for name in names]
    if not paths:
        return []
    with ThreadPoolExecutor(min(_READERS, len(paths))) as readers:
        return list(zip(paths, readers.map(read_keys, paths), strict=True))
