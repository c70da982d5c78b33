"""What a job has to do: which rows ask the same, and which cannot be sent. It lies on disk, in 12 bytes a row."""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

from .errors import BadInputError
from .inputs import RawRow, Source, columns_of, removed_unless_replaced
from .journal import Disk
from .requests import RowRequest, most_tokens
from .results import RowInputError

BAD = 0xFFFF_FFFF
"""Stands in place of a row that asks the same, where a row cannot be sent."""

OTHER_SHAPE = (
    "not in the shape of the first row: either all rows have custom_id and body (OpenAI's Batch shape), or none"
)

_BUCKETS = 64
_BUCKET_BYTES = 1 << 16
_ENTRY = 20  # 16 bytes of a hash, 4 of a number
_MOST_NOTED = 20


@dataclass
class Summary:
    """What is known of an input once it has been read; the manifest keeps it.

    Attributes:
        rows: how many there are, blank lines apart.
        distinct: how many of them ask something of their own.
        bad: how many cannot be sent.
        problems: (line, what is wrong) of the first bad rows.
        columns: all columns of the rows, in the order in which they came.
        is_batch: whether the rows have OpenAI's Batch shape.
        input_bytes: of what the distinct rows ask, as UTF-8.
        max_tokens: the sum of the rows' own max_tokens, and how many rows have one.
        unbound: how many rows have a verb whose output no max_tokens bounds: an agent's, or a custom model's.
        silent: how many rows have a verb that makes no output tokens (embed).
        checksum: of the rows' two numbers in the plan's file.
        verbs: what the endpoint did when the input was read.
    """

    rows: int = 0
    distinct: int = 0
    bad: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    is_batch: bool = False
    input_bytes: int = 0
    max_tokens: tuple[int, int] = (0, 0)
    unbound: int = 0
    silent: int = 0
    checksum: int = 0
    verbs: list[str] = field(default_factory=list)


class RowPlan:
    """The plan of a job, read from its file.

    Attributes:
        keys: a number for each row; equal for rows that ask the same.
        leaders: for each row the first that asks the same (itself, most often), or BAD.
    """

    def __init__(self, path: Path, summary: Summary) -> None:
        self.summary = summary
        self._file = path.open("rb")
        self._map: mmap.mmap | None = None
        data = memoryview(b"")
        if summary.rows:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            data = memoryview(self._map)
        self.keys, self.leaders = data[: 8 * summary.rows].cast("Q"), data[8 * summary.rows :].cast("I")
        self._views = (data, self.keys, self.leaders)

    def close(self) -> None:
        for view in reversed(self._views):
            view.release()
        if self._map is not None:
            self._map.close()
        self._file.close()


def load_plan(path: Path, summary: Summary) -> RowPlan | None:
    """The plan that lies there; None if it is missing or not the one of this summary."""
    crc = size = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                crc, size = crc32(piece, crc), size + len(piece)
    except OSError:
        return None
    return RowPlan(path, summary) if (size, crc) == (12 * summary.rows, summary.checksum) else None


def make_plan(
    source: Source,
    request: Callable[[dict[str, Any]], RowRequest],
    path: Path,
    disk: Disk,
    *,
    dedupe: bool = True,
    watch: Callable[[bytes], None] | None = None,
    tick: Callable[[int], None] = lambda rows: None,
) -> RowPlan:
    """Read the whole input once, and write its plan.

    Args:
        request: what a row asks; it raises RowInputError for one that cannot be sent.
        dedupe: False: each row is asked, whether another asks the same or not.
        watch: gets the input's bytes.
        tick: called with the number of rows now and then; what it raises ends the reading.

    Raises:
        BadInputError: two rows have one custom_id, or the file is not of its format.
    """
    summary, columns = Summary(), dict[str, None]()
    folder, keys = path.parent, bytearray()
    bad: list[int] = []
    draft = path.with_name(path.name + ".new")
    with (
        removed_unless_replaced(draft),
        _Groups(folder) as questions,
        _Groups(folder) as names,
        draft.open("wb") as file,
    ):
        for row in source.rows(watch):
            number = summary.rows
            summary.rows += 1
            try:
                hashed = _read_request(row, request, summary, columns, names)
                questions.add(hashed, number)
            except RowInputError as error:
                hashed = blake2b(str(error).encode("utf-8", "replace"), digest_size=16).digest()
                bad.append(number)
                if len(summary.problems) < _MOST_NOTED:
                    summary.problems.append((row.line, str(error)))
            keys += hashed[:8]
            if len(keys) >= 1 << 16:
                file.write(keys)
                keys.clear()
                tick(summary.rows)
        for first, second in names.equal():
            raise BadInputError(f"{source.name}, line {second}: its custom_id is also that of line {first}.")
        file.write(keys)
        leaders = array("I", range(summary.rows))
        summary.distinct = summary.rows - len(bad)
        if dedupe:
            for first, second in questions.equal():
                leaders[second] = first
                summary.distinct -= 1
        for number in bad:
            leaders[number] = BAD
        summary.bad, summary.columns = len(bad), list(columns)
        file.write(leaders.tobytes())
        file.flush()
        disk.sync(file.fileno())
    with draft.open("rb") as file:
        while piece := file.read(1 << 20):
            summary.checksum = crc32(piece, summary.checksum)
    disk.replace(draft, path)
    return RowPlan(path, summary)


def _read_request(
    row: RawRow,
    request: Callable[[dict[str, Any]], RowRequest],
    summary: Summary,
    columns: dict[str, None],
    names: _Groups,
) -> bytes:
    """Take a row into account; returns its hash."""
    content = columns_of(row)
    is_batch = has_batch_shape(content)
    if not columns:  # the first row that can be read
        summary.is_batch = is_batch
    if content.keys() - columns.keys():
        columns.update(dict.fromkeys(content))
    if is_batch != summary.is_batch:
        raise RowInputError(OTHER_SHAPE)
    asked = request(content)
    if is_batch and asked.key is not None:
        names.add(blake2b(asked.key.encode("utf-8", "surrogatepass"), digest_size=16).digest(), row.line)
    summary.input_bytes += (
        len(row.content)
        if isinstance(asked.content, dict) and isinstance(row.content, bytes)
        else (_size(asked.content))
    )
    most = most_tokens(asked.params)
    summary.unbound += asked.verb in ("respond", "predict")
    summary.silent += asked.verb == "embed"
    if most is not None and asked.verb in ("complete", "chat"):
        summary.max_tokens = (summary.max_tokens[0] + most, summary.max_tokens[1] + 1)
    return asked.fingerprint()


def has_batch_shape(columns: dict[str, Any]) -> bool:
    """Whether a row has OpenAI's Batch shape."""
    return columns.get("custom_id") is not None and isinstance(columns.get("body"), dict)


def _size(content: Any) -> int:
    """The bytes of the texts in it."""
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    if isinstance(content, dict):
        return sum(_size(value) for value in content.values())
    return sum(_size(value) for value in content) if isinstance(content, (list, tuple)) else 4


class _Groups:
    """Finds equal hashes among any number: they lie on disk, sorted into buckets, and one bucket is read at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filling = [bytearray() for _ in range(_BUCKETS)]
        self._files: dict[int, Any] = {}

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, hashed: bytes, number: int) -> None:
        bucket = self._filling[hashed[0] % _BUCKETS]
        bucket += hashed + number.to_bytes(4, "little")
        if len(bucket) >= _BUCKET_BYTES:
            place = hashed[0] % _BUCKETS
            if place not in self._files:
                self._files[place] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._files[place].write(bucket)
            bucket.clear()

    def equal(self) -> Iterator[tuple[int, int]]:
        """(the first number, a later number) of each hash that came before."""
        for place, rest in enumerate(self._filling):
            first: dict[bytes, bytes] = {}
            for piece in self._pieces(place, rest):
                for at in range(0, len(piece), _ENTRY):
                    number = piece[at + 16 : at + _ENTRY]
                    earlier = first.setdefault(piece[at : at + 16], number)
                    if earlier is not number:
                        yield int.from_bytes(earlier, "little"), int.from_bytes(number, "little")

    def _pieces(self, place: int, rest: bytearray) -> Iterator[bytes]:
        if file := self._files.get(place):
            file.seek(0)
            while piece := file.read(_ENTRY << 12):
                yield piece
        yield bytes(rest)
