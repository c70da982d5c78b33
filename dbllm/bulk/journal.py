"""The journal of a job: an append-only file that is the only truth about what is done, and safe against any crash.

A record is one line of JSON that ends with a checksum over all bytes before it, back to the file's beginning. So a
changed, missing or repeated byte anywhere is noticed. A write that a crash has cut short leaves a last line without an
end; it is removed. The manifest beside the journal says how long it was, so a journal that was cut is noticed too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from .errors import JournalError, OutputError

TAIL_BYTES = 65_536
"""A power failure may take this much from the journal's end; more than that is missing only if somebody cut it."""

_END = b',"crc":"%08x"}\n'
_END_BYTES = len(_END % 0)
_CHUNK = 1 << 20

_ANSWER = re.compile(rb'\{"row":(\d+),"ok":([01]),')
_ANSWERS = re.compile(rb"\n" + _ANSWER.pattern)  # in many lines at once
_STARTED = re.compile(rb'\{"start":\[(\d+)\],')
_COUNTED = re.compile(rb'\{"row":(\d+),"ok":([01]),"key":"([0-9a-f]{16})","tokens":\[(\d+),(\d+)\],')


class Disk:
    """The system calls that change files. Tests put failures in their place.

    Attributes:
        patience: seconds in which a write that failed is tried again.
    """

    patience = 60.0

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        getattr(os, "fdatasync", os.fsync)(handle)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Make a rename last. Systems that cannot open folders need no help."""
        with suppress(PermissionError, IsADirectoryError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                with suppress(OSError):  # some network file systems refuse it
                    os.fsync(handle)
            finally:
                os.close(handle)

    def write_all(self, handle: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of it: a call may take less than it is given."""
        view = memoryview(data)
        while view:
            view = view[self.write(handle, view) :]

    def put(self, path: Path, data: bytes) -> None:
        """Replace a whole file, so that a crash leaves the old one or the new one."""
        draft = path.with_name(path.name + ".new")
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                self.write_all(handle, data)
                self.sync(handle)
            finally:
                os.close(handle)
            self.replace(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink()  # it would take room on a full disk
            raise
        self.sync_folder(path.parent)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, 1 << 62, os.SEEK_SET)  # a place that holds no data: a locked one could not be read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_at(handle: int, size: int, place: int) -> bytes:
    if sys.platform != "win32":
        return os.pread(handle, size, place)
    os.lseek(handle, place, os.SEEK_SET)  # writes go to the end all the same
    return os.read(handle, size)


def open_locked(path: Path, holder: Callable[[], str] = str) -> int:
    """A handle of the journal that no other process has, created if missing; the system frees it with the process.

    Raises:
        OutputError: another process has it; `holder` says which.
        OSError: it cannot be opened.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"the journal {path} is no file. Name one.")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _lock(handle)
    except OSError as error:
        os.close(handle)
        if isinstance(error, (BlockingIOError, PermissionError)):
            raise OutputError(f"another process{holder()} is at work on {path}. Wait for it, or end it.") from None
        raise
    return handle


@dataclass
class Totals:
    """What the records of a journal add up to."""

    calls: int = 0
    """Answers and failures that were recorded, a row's earlier ones included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    runs: int = 0
    """How many processes worked on the job."""
    crashes: int = 0
    """How many of them ended without a word."""
    paid_again: int = 0
    """Rows that were in flight at a crash: what may have been paid twice at most."""


@dataclass
class _Mark:
    """The state of a journal after a certain record, as the manifest keeps it."""

    size: int = 0
    crc: int = 0
    totals: Totals = field(default_factory=Totals)
    open: list[int] = field(default_factory=list)
    suspects: dict[int, int] = field(default_factory=dict)
    running: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "totals": vars(self.totals), "suspects": list(self.suspects.items())}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> _Mark:
        if not value:
            return cls()
        return cls(**{**value, "totals": Totals(**value["totals"]), "suspects": dict(value["suspects"])})


NOT_DONE, ANSWERED, FAILED = 0, 1, 2


class Journal:
    """An open journal that this process alone writes.

    Attributes:
        done: for each row NOT_DONE, ANSWERED or FAILED, by its last record.
        totals: what all records add up to.
        suspects: rows that were in flight at successive crashes, and at how many.
        error: why the last write failed; None while the disk takes what it is given.
    """

    def __init__(self, handle: int, path: Path, disk: Disk, job: str, rows: int) -> None:
        self.path, self.done = path, bytearray(rows)
        self._handle, self._disk, self._job = handle, disk, job
        self.error: OSError | None = None
        self.lost = 0  # bytes that the journal had once, and a power failure took
        self._pending = bytearray()
        self._set(_Mark())
        self._marks: deque[_Mark] = deque([_Mark()])

    def _set(self, mark: _Mark) -> None:
        self.size, self._crc, self.running = mark.size, mark.crc, mark.running
        self.totals, self.suspects = Totals(**vars(mark.totals)), dict(mark.suspects)
        self.open = set(mark.open)

    # --- reading ------------------------------------------------------------------------------------------------------

    def load(
        self, mark: Mapping[str, Any] | None, length: int, accept: Callable[[int, int], bool] | None = None
    ) -> None:
        """Read what is there, and repair a torn end.

        Args:
            mark: what `marked` gave for the manifest.
            length: the least length that the manifest knows of.
            accept: whether a record of (row, key) counts; default: each does.

        Raises:
            JournalError: the journal is damaged, or was cut.
        """
        known = _Mark.from_json(mark)
        have = os.fstat(self._handle).st_size
        self.lost = max(0, length - have)
        if have < known.size:
            raise JournalError(
                f"{self.path} has {have:,} bytes and had at least {known.size:,}: it was cut or replaced. Restore it, "
                "or move it away together with its .job.json to start anew (what it held is then paid again)."
            )
        if accept is None and known.size and self._crc_of(known.size) == known.crc:
            self._read_trusted(known)
        self._read_checked(have, accept)

    def _crc_of(self, size: int) -> int:
        crc, at = 0, 0
        while at < size and (piece := _read_at(self._handle, min(_CHUNK, size - at), at)):
            crc, at = crc32(piece, crc), at + len(piece)
        return crc

    def _lines(self, start: int, end: int) -> Iterator[bytes]:
        """The lines with their line ends; the last one may lack it."""
        rest, at = b"", start
        while at < end and (piece := _read_at(self._handle, min(_CHUNK, end - at), at)):
            at += len(piece)
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield line + b"\n"
        if rest:
            yield rest

    def _read_trusted(self, mark: _Mark) -> None:
        """Read the part whose checksum the manifest knows: only what is done is of interest."""
        done, at, rest = self.done, 0, b"\n"
        while at < mark.size and (piece := _read_at(self._handle, min(_CHUNK, mark.size - at), at)):
            at += len(piece)
            end = piece.rfind(b"\n")
            if end < 0:
                rest += piece
                continue
            for row, ok in _ANSWERS.findall(rest + piece[:end]):
                done[int(row)] = ANSWERED if ok == b"1" else FAILED
            rest = piece[end:]
        self._set(mark)
        self._marks.append(mark)

    def _read_checked(self, end: int, accept: Callable[[int, int], bool] | None) -> None:
        for line in self._lines(self.size, end):
            crc = crc32(line[:-_END_BYTES] if line.endswith(b"\n") else line[: 1 - _END_BYTES], self._crc)
            whole = line if line.endswith(b"\n") else line + b"\n"
            if len(whole) <= _END_BYTES or not whole.endswith(_END % crc):
                if line.endswith(b"\n"):
                    number = sum(1 for _ in self._lines(0, self.size)) + 1
                    raise JournalError(
                        f"{self.path} is damaged in line {number:,} (byte {self.size:,}): its checksum is wrong, and "
                        "no crash does that. Restore it from a copy, or move it away together with its .job.json to "
                        "start anew (what it held is then paid again)."
                    )
                self._disk.truncate(self._handle, self.size)
                return
            self._take(whole, accept)
            self._crc, self.size = crc32(whole[-_END_BYTES:], crc), self.size + len(whole)
            if whole is not line:
                self._disk.write_all(self._handle, b"\n")

    def _take(self, line: bytes, accept: Callable[[int, int], bool] | None) -> None:
        found = _COUNTED.match(line)
        if started := _STARTED.match(line):
            self.open.add(int(started[1]))
        elif found is None:
            self._apply(json.loads(line))
        elif (row := int(found[1])) < len(self.done):
            ok = found[2] == b"1"
            self._count(row, ok=ok, tokens=(int(found[4]), int(found[5])))
            if accept is not None and not accept(row, int(found[3], 16)):
                self.done[row] = NOT_DONE

    def _apply(self, record: Mapping[str, Any]) -> None:
        """What a record that is no answer changes."""
        if "start" in record:
            self.open.update(record["start"])
        elif "run" in record:
            if record["job"] != self._job:
                raise JournalError(
                    f"{self.path} is the journal of another job ({record['job']}, not {self._job}). Put back the one "
                    "that belongs to the .job.json beside it, or move both away to start anew."
                )
            self._crashed()
            self.totals.runs += 1
            self.running = True
        elif "stop" in record:
            self.totals.paid_again += record["cut"]
            self.open.clear()
            self.running = False

    def _crashed(self) -> None:
        """A new run began: what is still open was in flight at a crash."""
        if self.running:
            self.totals.crashes += 1
            self.totals.paid_again += len(self.open)
            self.suspects = {**self.suspects, **{row: self.suspects.get(row, 0) + 1 for row in self.open}}
            self.open.clear()

    def _count(self, row: int, *, ok: bool, tokens: tuple[int, int]) -> None:
        self.done[row] = ANSWERED if ok else FAILED
        self.open.discard(row)
        self.suspects.pop(row, None)
        self.totals.calls += 1
        self.totals.prompt_tokens += tokens[0]
        self.totals.completion_tokens += tokens[1]

    # --- writing ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Say that a process begins to work."""
        self._append({"run": self.totals.runs + 1, "job": self._job})

    def start(self, row: int) -> None:
        """Say that a row is about to be sent."""
        self._append({"start": [row]})

    def answer(self, row: int, key: int, content: Mapping[str, Any], *, ok: bool, tokens: tuple[int, int]) -> None:
        """Record a row's answer, or its failure, for good."""
        self._count(row, ok=ok, tokens=tokens)
        head = f'{{"row":{row},"ok":{int(ok)},"key":"{key:016x}","tokens":[{tokens[0]},{tokens[1]}],"is":'
        self._add(head.encode() + encode_json(content, default=json_text))

    def stop(self, why: str, *, cut: int = 0) -> None:
        """Say that the process ends in peace; `cut` requests were ended before their answer came."""
        self._append({"stop": why, "cut": cut})

    def _append(self, record: Mapping[str, Any]) -> None:
        self._apply(record)
        self._add(encode_json(record)[:-1])

    def _add(self, body: bytes) -> None:
        crc = crc32(body, self._crc)
        end = _END % crc
        self._crc = crc32(end, crc)
        self.size += len(body) + len(end)
        self._pending += body + end
        self.flush()

    def flush(self) -> bool:
        """Write what is to be written; False if the disk does not take it (`error` says why). It may be tried again."""
        while self._pending:
            try:
                del self._pending[: self._disk.write(self._handle, self._pending)]
            except OSError as error:
                self.error = error
                return False
        self.error = None
        return True

    @property
    def waiting(self) -> int:
        """Bytes that the disk has not taken."""
        return len(self._pending)

    def sync(self) -> None:
        """Make what was written safe against a power failure."""
        self._disk.sync(self._handle)

    def marked(self) -> tuple[dict[str, Any], int]:
        """A mark for the manifest, so far from the end that no power failure reaches it; and the length now.

        To be called after `sync`, with nothing waiting.
        """
        totals = Totals(**vars(self.totals))
        self._marks.append(
            _Mark(self.size, self._crc, totals, sorted(self.open), dict(self.suspects), running=self.running)
        )
        while len(self._marks) > 1 and self._marks[1].size <= self.size - TAIL_BYTES:
            self._marks.popleft()
        return self._marks[0].to_json(), self.size

    def close(self) -> None:
        os.close(self._handle)

    # --- the answers --------------------------------------------------------------------------------------------------

    def answers(self) -> Iterator[tuple[int, int, bytes]]:
        """(row, place in the file, line) of each answer, in the file's order; a row's last one counts."""
        at = 0
        for line in self._lines(0, self.size - self.waiting):
            if found := _ANSWER.match(line):
                yield int(found[1]), at, line
            at += len(line)

    def read(self, place: int) -> dict[str, Any]:
        """What the record at that place says of its row."""
        line = b""
        while not line.endswith(b"\n"):
            piece = _read_at(self._handle, max(4096, len(line)), place + len(line))
            line += piece[: piece.find(b"\n") + 1] or piece
        content: dict[str, Any] = json.loads(line)["is"]
        return content


def encode_json(value: object, default: Callable[[Any], Any] | None = None, *, allow_nan: bool = True) -> bytes:
    """Compact JSON in UTF-8; half a surrogate pair, which UTF-8 lacks, is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=default, allow_nan=allow_nan)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=default).encode()


def json_text(value: Any) -> Any:
    """What stands in JSON for a value that it has no form for: numpy's and pydantic's own plain data, else its text."""
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    for name in ("model_dump", "tolist"):
        if callable(plain := getattr(value, name, None)):
            return plain()
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' nothing
        return None
    return str(value)
