"""Rows from files, from the standard input and from any iterable, one after another."""

from __future__ import annotations

import csv
import gzip
import io
import json
import select
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import BadInputError, InputMissingError
from .journal import Disk, encode_json, json_text
from .results import RowInputError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
PACKED = (".gz", ".zst")
_CHECK_SECONDS = 0.2
_OTHERS = {  # what a file begins with that is no text in UTF-8
    b"\x1f\x8b": "packed by gzip: call it .gz, or unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: call it .zst, or unpack it",
    b"PAR1": 'Parquet: call it .parquet, or pass --input-format parquet (input_format="parquet")',
    b"PK\x03\x04": "a zip archive, or a spreadsheet: save it as CSV or JSONL",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}
_PIECE = 1 << 14  # of a packed file: what it unpacks to is held at once


class RawRow(NamedTuple):
    """A row as its file has it: the number of its line (for Parquet of its row), and its bytes or its columns."""

    line: int
    content: bytes | dict[str, Any]


def file_format(name: str, *, packed: bool = True) -> str:
    """The format that a file's name tells: jsonl, csv, tsv or parquet.

    Raises:
        BadInputError: it tells none.
    """
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in PACKED and packed:
        suffixes.pop()
    if suffixes and suffixes[-1] in FORMATS:
        return FORMATS[suffixes[-1]]
    raise BadInputError(
        f"{name} has no ending that tells its format. Call it .jsonl, .csv, .tsv or .parquet (the first three also "
        "with .gz or .zst)."
    )


def import_pyarrow() -> Any:
    """pyarrow.

    Raises:
        BadInputError: it is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]  # pyright: ignore
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]  # pyright: ignore
    except ImportError:
        raise BadInputError("Parquet needs pyarrow: pip install 'dbllm[bulk]'.") from None
    return pyarrow


def open_zst(file: Any, mode: str) -> Any:
    """A zst stream, by the standard library where it has one, else by zstandard.

    Raises:
        BadInputError: neither is there.
    """
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # pyright: ignore  # Python 3.14
    except ImportError:
        pass
    else:
        return zstd.open(file, mode)
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInputError("zst needs zstandard: pip install 'dbllm[bulk]'.") from None
    if mode == "rb":
        return _ZstdFrames(file, zstandard.ZstdDecompressor)
    return zstandard.ZstdCompressor().stream_writer(file, closefd=False)


@dataclass(frozen=True)
class Source:
    """A file of rows.

    Attributes:
        path: where it lies.
        name: what messages call it.
        format: "jsonl", "csv", "tsv" or "parquet".
    """

    path: Path
    name: str
    format: str

    def rows(self, watch: Callable[[bytes], None] | None = None) -> Iterator[RawRow]:
        """All rows, in order. `watch` gets the file's bytes as they are read (of Parquet none).

        Raises:
            InputMissingError: the file cannot be opened.
            BadInputError: it is not of its format.
        """
        if self.format == "parquet":
            yield from self._parquet_rows()
            return
        try:
            with self.path.open("rb", buffering=0) as opened:
                file = self._unpacked(_Watched(opened, watch) if watch else opened)
                first = file.peek(4)
                if what := next((what for magic, what in _OTHERS.items() if first.startswith(magic)), None):
                    raise BadInputError(f"{self.name} is {what}.")
                yield from self._json_lines(file) if self.format == "jsonl" else self._csv_rows(file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            kind = "zst" if self.path.suffix.lower() == ".zst" else "gz"
            raise BadInputError(f"{self.name} is not a whole {kind} file: {error}.") from None
        except OSError as error:
            raise InputMissingError(f"{self.name} cannot be read: {error.strerror or error}.") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # of one of two modules, either of which may be missing
                raise
            raise BadInputError(f"{self.name} is not a whole zst file: {error}.") from None

    def _unpacked(self, raw: Any) -> io.BufferedReader:
        file, packed = io.BufferedReader(raw, 1 << 18), self.path.suffix.lower()
        if packed == ".gz":
            return io.BufferedReader(gzip.GzipFile(fileobj=file, mode="rb"), 1 << 18)
        return io.BufferedReader(_Readable(open_zst(file, "rb")), 1 << 18) if packed == ".zst" else file

    def _json_lines(self, file: BinaryIO) -> Iterator[RawRow]:
        """The lines that are not blank; a byte order mark is no part of them."""
        is_first = True
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf")  # files that were joined have one in the middle
            if line := line.strip(b" \t\r\n"):
                if is_first and (line in (b"[", b"{") or line.startswith((b"[{", b"[ {"))):
                    raise BadInputError(
                        f"{self.name}, line {number}: a whole JSON document begins here, and JSONL has one object a "
                        "line. `jq -c '.[]'` makes that of a list, `jq -c .` of objects over several lines."
                    )
                is_first = False
                yield RawRow(number, line)

    def _delimiter(self, file: io.BufferedReader) -> str:
        """What stands between the values: a comma, or what a header without one has (spreadsheets write that, too)."""
        header = file.peek(1).split(b"\n", 1)[0]
        signs = (
            [] if self.format == "tsv" or b"," in header else [sign for sign in (";", "\t") if sign.encode() in header]
        )
        return signs[0] if signs else "\t" if self.format == "tsv" else ","

    def _line_without_utf8(self) -> int:
        """The first line that is not UTF-8."""
        with self.path.open("rb", buffering=0) as opened, self._unpacked(opened) as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return number
        return 1

    def _csv_rows(self, file: io.BufferedReader) -> Iterator[RawRow]:
        delimiter = self._delimiter(file)
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        csv.field_size_limit(min(sys.maxsize, (1 << 31) - 1))
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        line = 1
        try:
            names = next(reader, None)
            if names is None:
                return
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise BadInputError(f"{self.name} has two columns {twice!r}. Give each column a name of its own.")
            line = reader.line_num + 1
            for values in reader:
                if values:
                    fits = len(values) == len(names)
                    yield RawRow(
                        line,
                        dict(zip(names, values)) if fits else UnevenRow(values, names, delimiter),  # noqa: B905
                    )
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            where = self._line_without_utf8()  # the decoder is ahead of the rows
            raise BadInputError(f"{self.name}, line {where}: no UTF-8 ({error.reason}). Save it as UTF-8.") from None
        except csv.Error as error:
            raise BadInputError(f"{self.name}, line {line}: {error}.") from None
        finally:
            text.close()

    def _parquet_rows(self) -> Iterator[RawRow]:
        pyarrow = import_pyarrow()
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(1024):
                    for values in batch.to_pylist():
                        number += 1
                        yield RawRow(number, values)
        except FileNotFoundError:
            raise InputMissingError(f"{self.name} cannot be read: no such file.") from None
        except (OSError, pyarrow.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise InputMissingError(f"{self.name} cannot be read: {error.strerror or error}.") from None
            raise BadInputError(
                f"{self.name} is no Parquet file that can be read (after row {number:,}): {error}"
            ) from None  # pyarrow tells damage as an OSError without a number too

    def fingerprint(self) -> dict[str, Any]:
        """The file's size and time, by which it is taken for unchanged.

        Raises:
            InputMissingError: there is no such file.
        """
        try:
            about = self.path.stat()
        except OSError as error:
            raise InputMissingError(f"{self.name} cannot be read: {error.strerror}.") from None
        return {"size": about.st_size, "modified": about.st_mtime_ns}

    def checksum(self) -> str:
        """A hash of all bytes of the file."""
        digest = blake2b(digest_size=16)
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()


class _Watched(io.RawIOBase):
    """A raw file that shows what is read of it."""

    def __init__(self, file: Any, watch: Callable[[bytes], None]) -> None:
        self._file, self._watch = file, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size: int = self._file.readinto(buffer)
        self._watch(bytes(memoryview(buffer)[:size]))
        return size


class _ZstdFrames(io.RawIOBase):
    """The content of zst frames, one after another; `zstandard.stream_reader` takes one that was cut for its end."""

    def __init__(self, file: Any, decompressor: Callable[[], Any]) -> None:
        self._file, self._new = file, decompressor
        self._frame: Any = None
        self._packed = self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain and self._unpack():
            pass
        piece, self._plain = self._plain[: len(buffer)], self._plain[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def _unpack(self) -> bool:
        """Unpack the next piece of the file; False: it has ended."""
        if packed := self._packed or self._file.read(_PIECE):
            self._frame = self._frame or self._new().decompressobj()
            self._plain, self._packed = self._frame.decompress(packed), b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        elif self._frame is not None:
            raise EOFError("it ends within a frame")
        return bool(packed)


class _Readable(io.RawIOBase):
    """A decompressor as a raw file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class UnevenRow(dict[str, Any]):
    """A row of CSV that has not as many values as there are columns: its text as the column `line`."""

    def __init__(self, values: list[str], names: list[str], delimiter: str) -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator="").writerow(values)
        super().__init__(line=text.getvalue())
        self.problem = (
            f"{len(values)} values, and the header has {len(names)}; quote values that hold the delimiter {delimiter!r}"
        )


def columns_of(row: RawRow) -> dict[str, Any]:
    """The columns of a row.

    Raises:
        RowInputError: it is no JSON object, or has not as many values as there are columns.
    """
    if isinstance(row.content, UnevenRow):
        raise RowInputError(row.content.problem)
    if isinstance(row.content, dict):
        return row.content
    try:
        value = json.loads(row.content.decode())  # of bytes it would take UTF-16 and half surrogate pairs, too
    except UnicodeDecodeError as error:
        raise RowInputError(f"no UTF-8 ({error.reason} at byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise RowInputError(f"not JSON ({error.msg}, column {error.colno})") from None
    except (RecursionError, ValueError) as error:  # too deep, or a number of thousands of digits
        raise RowInputError(f"JSON that cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise RowInputError(
            f'a JSON {_NAMES.get(type(value), "value")}, and a row is an object, such as {{"prompt": …}}'
        )
    return value


_NAMES: dict[type, str] = {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}


def spool(rows: Iterable[Any] | BinaryIO, path: Path, disk: Disk, check: Callable[[], object] = lambda: None) -> None:
    """Write rows of an iterable, or the bytes of a stream, into a file, so that the job can be resumed.

    A str is a row with a `prompt`, a list one with `messages`, a mapping is a row.

    Args:
        check: called now and then, also while a stream has nothing to read; what it raises ends the reading.

    Raises:
        TypeError: a row is something else.
    """
    draft = path.with_name(path.name + ".new")
    with removed_unless_replaced(draft), draft.open("wb") as file:
        if isinstance(rows, (io.RawIOBase, io.BufferedIOBase)):
            for piece in _pieces_of(rows, check):
                file.write(piece)
        else:
            for number, row in enumerate(rows, 1):
                check()
                file.write(_encoded_row(number, row) + b"\n")
        file.flush()
        disk.sync(file.fileno())
        disk.replace(draft, path)
        disk.sync_folder(path.parent)


def _pieces_of(stream: Any, check: Callable[[], object]) -> Iterator[bytes]:
    """The bytes of a stream. A thread that waits in `read` for a pipe would not be ended by Ctrl-C."""
    read = getattr(stream, "read1", stream.read)
    try:
        waited_for = [stream.fileno()] if sys.platform != "win32" else []
    except OSError:  # in memory
        waited_for = []
    while True:
        while waited_for and not select.select(waited_for, [], [], _CHECK_SECONDS)[0]:
            check()
        check()
        if not (piece := read(1 << 20)):
            return
        yield piece


@contextmanager
def removed_unless_replaced(draft: Path) -> Iterator[None]:
    """Leave no draft of a file behind, whatever happens."""
    try:
        yield
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _encoded_row(number: int, row: Any) -> bytes:
    try:
        return encode_json(_as_columns(number, row), default=json_text)
    except (ValueError, TypeError, RecursionError) as error:
        raise TypeError(f"row {number} cannot be written as JSON: {error}.") from None


def _as_columns(number: int, row: Any) -> Mapping[str, Any]:
    if isinstance(row, str):
        return {"prompt": row}
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, (list, tuple)):
        return {"messages": list(row)}
    raise TypeError(f"it is of type {type(row).__name__}; pass str, a dict of columns or a list of messages")
