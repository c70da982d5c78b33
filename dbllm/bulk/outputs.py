"""The output of a job, made of its input and its journal at the end: all at once or not at all."""

from __future__ import annotations

import gzip
import heapq
import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DiskError
from .inputs import RawRow, Source, columns_of, import_pyarrow, open_zst
from .journal import Disk, Journal, encode_json
from .plan import BAD, RowPlan
from .requests import Template
from .results import RowError, RowInputError, RowResult

COLUMNS = (
    *("output", "parsed", "finish_reason", "input_tokens", "output_tokens", "model", "request_id", "attempts"),
    *("latency", "same_as", "error"),
)
"""What an output row has beside the columns of its input row. One that the input has too is called dbllm_… ."""

STEPS = 50  # of a power of ten, in which latencies are counted
_BUFFER = 1 << 20
_MISSING = (1 << 64) - 1


class Slow(NamedTuple):
    """One of the slowest rows."""

    latency: float
    line: int
    attempts: int
    request_id: str
    text: str


@dataclass
class Findings:
    """What the output's rows add up to.

    Attributes:
        answered, failed: rows with an answer, and error rows.
        copied: answered rows that were not sent, because an equal row was.
        errors: error rows by class.
        may_be_paid: error rows that may have been paid although no answer came.
        input_tokens, output_tokens: the usage of the answers.
        attempts: how often the rows were sent.
        unclear: failed attempts that may have run and been paid, of all rows.
        latencies: how many rows took as long: counts by STEPS * log10(seconds), rounded.
        lengths: output tokens in the same steps.
        slowest: the slowest rows, in no order.
    """

    answered: int = 0
    failed: int = 0
    copied: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    may_be_paid: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 0
    unclear: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    slowest: list[Slow] = field(default_factory=list)

    def add(self, result: RowResult, row: RawRow, *, copied: bool) -> None:
        """Count a row."""
        if result.error is None:
            self.answered += 1
        else:
            self.failed += 1
            self.errors[result.error.name] += 1
            self.may_be_paid += result.error.may_be_paid
        if copied:
            self.copied += result.error is None
            return
        self.input_tokens += result.input_tokens or 0
        self.output_tokens += result.output_tokens or 0
        self.attempts += result.attempts
        self.unclear += result.unclear
        if result.output_tokens:
            self.lengths[round(STEPS * math.log10(result.output_tokens))] += 1
        if result.latency > 0:
            self.latencies[round(STEPS * math.log10(result.latency))] += 1
            slow = (result.latency, row.line, result.attempts, result.request_id or "")
            if len(self.slowest) < 20:
                heapq.heappush(self.slowest, Slow(*slow, _excerpt(row)))
            elif result.latency > self.slowest[0].latency:
                heapq.heapreplace(self.slowest, Slow(*slow, _excerpt(row)))


def quantile(steps: Counter[int], share: float) -> float | None:
    """What this share of the rows stayed below, to 3 percent; None without rows."""
    left = share * sum(steps.values())
    for step, count in sorted(steps.items()):
        left -= count
        if left <= 0:
            return float(10 ** (step / STEPS))
    return None


def _excerpt(row: RawRow) -> str:
    text = (
        row.content.decode("utf-8", "replace")
        if isinstance(row.content, bytes)
        else json.dumps(row.content, ensure_ascii=False, default=str)
    )
    return text[:200]


class OutputRow(NamedTuple):
    """An input row and its result; `same_as` is the line of the row that was sent in its place."""

    row: RawRow
    result: RowResult
    same_as: int | None


def joined(
    source: Source, plan: RowPlan, journal: Journal, findings: Findings | None = None, template: Template | None = None
) -> Iterator[OutputRow]:
    """The rows of the input with their results, in order. A row that has none yet is left out."""
    places = array("Q", [_MISSING]) * plan.summary.rows
    for index, place in journal.places():
        if index < plan.summary.rows:
            places[index] = place
    lines: dict[int, int] = {}  # of the rows that others copy
    wanted = {leader for index, leader in enumerate(plan.leaders) if leader not in (index, BAD)}
    for number, row in enumerate(source.rows()):
        leader = plan.leaders[number]
        if number in wanted:
            lines[number] = row.line
        if leader == BAD:
            result = bad_row(number, row, template)
        elif journal.done[leader] and places[leader] != _MISSING:
            result = RowResult.from_dict({"index": number, **journal.read(places[leader])})
        else:
            continue
        copied = leader not in (number, BAD)
        if copied:
            result.input_tokens = result.output_tokens = result.attempts = 0
            result.latency, result.unclear = 0.0, 0
        if findings is not None:
            findings.add(result, row, copied=copied)
        yield OutputRow(row, result, lines.get(leader) if copied else None)


def bad_row(number: int, row: RawRow, template: Template | None = None) -> RowResult:
    """The error row of a row that could not be sent."""
    try:
        columns = columns_of(row)
        if template is not None and "custom_id" not in columns and "url" not in columns:
            template.fill(columns)
        why = "the row has nothing to send; --dry-run says what is missing"
    except RowInputError as error:
        why = str(error).removesuffix(".")
    return RowResult(number, error=RowError("RowInputError", f"line {row.line}: {why}."))


def error_fields(error: RowError | None) -> dict[str, Any] | None:
    """An error as the output has it."""
    if error is None:
        return None
    fields = asdict(error)
    return {"class": fields.pop("name"), **fields}


class Shape:
    """How output rows look: the input's columns with those of the result, or OpenAI's Batch shape.

    Args:
        is_batch: the input has the Batch shape.
        columns: the input's columns.
        job: the job's id, part of the ids of the Batch shape.
    """

    def __init__(self, *, is_batch: bool, columns: Sequence[str], job: str) -> None:
        self.is_batch, self._job = is_batch, job
        self._names: dict[str, str] = {}
        for name in COLUMNS:
            free = name
            while free in columns:
                free = f"dbllm_{free}"
            self._names[name] = free

    def added(self, out: OutputRow) -> dict[str, Any]:
        """The columns that a row gets."""
        values = {**vars_of(out.result), "same_as": out.same_as, "error": error_fields(out.result.error)}
        return {self._names[name]: values[name] for name in COLUMNS}

    def line(self, out: OutputRow) -> bytes:
        """A row as a line of JSON. A plain row's own columns stay as they were written."""
        if self.is_batch:
            return encode_json(self.batch(out), default=str) + b"\n"
        added = encode_json(self.added(out), default=str)
        content = out.row.content
        if isinstance(content, dict):
            content = encode_json(content, default=_json_text)
        elif _is_bad(out):
            content = encode_json({"line": content.decode("utf-8", "replace")})
        head = content.rstrip()[:-1].rstrip()
        return head + (b"," if len(head) > 1 else b"") + added[1:] + b"\n"

    def record(self, out: OutputRow) -> dict[str, Any]:
        """A row as a dict, for Parquet."""
        if self.is_batch:
            return self.batch(out)
        try:
            return {**columns_of(out.row), **self.added(out)}
        except RowInputError:
            return self.added(out)

    def batch(self, out: OutputRow) -> dict[str, Any]:
        """A row in the shape of OpenAI's Batch output, with `meta` beside it."""
        try:
            columns = columns_of(out.row)
        except RowInputError:
            columns = {}
        result, error = out.result, error_fields(out.result.error)
        rest = {name: value for name, value in columns.items() if name not in ("custom_id", "method", "url", "body")}
        response = None
        if error is None:
            body = _batch_body(result, str(columns.get("url", "")))
            response = {"status_code": 200, "request_id": result.request_id, "body": body}
        elif error["status"]:
            body = {"error": {"code": error["code"], "message": error["message"]}}
            response = {"status_code": error["status"], "request_id": error["request_id"], "body": body}
        meta = {"row": result.index, "line": out.row.line, "attempts": result.attempts, "latency": result.latency}
        return {
            **rest,
            "id": f"batch_req_{self._job}_{result.index}",
            "custom_id": columns.get("custom_id"),
            "response": response,
            "error": error,
            "meta": {**meta, "same_as": out.same_as},
        }


def vars_of(result: RowResult) -> dict[str, Any]:
    """The attributes of a result."""
    return {name: getattr(result, name) for name in RowResult.__slots__}


def _is_bad(out: OutputRow) -> bool:
    """Whether a line is no JSON object, so that nothing can be added to it."""
    try:
        columns_of(out.row)
    except RowInputError:
        return True
    return False


def _batch_body(result: RowResult, url: str) -> dict[str, Any]:
    """An answer as OpenAI's API has it."""
    usage = {
        "prompt_tokens": result.input_tokens or 0,
        "completion_tokens": result.output_tokens or 0,
        "total_tokens": (result.input_tokens or 0) + (result.output_tokens or 0),
    }
    about = {"id": result.request_id, "model": result.model, "usage": usage}
    if "embeddings" in url:
        vectors = result.output
        if vectors and not isinstance(vectors[0], list):
            vectors = [vectors]
        data = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(vectors or [])]
        return {"object": "list", "data": data, **about}
    if "responses" in url:
        content = [{"type": "output_text", "text": result.output}]
        return {"object": "response", "output": [{"type": "message", "role": "assistant", "content": content}], **about}
    if "chat" in url or not url:
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": result.output}}
        return {"object": "chat.completion", "choices": [_batch_choice(choice, result)], **about}
    return {"object": "text_completion", "choices": [_batch_choice({"text": result.output}, result)], **about}


def _batch_choice(choice: dict[str, Any], result: RowResult) -> dict[str, Any]:
    return {"index": 0, **choice, "finish_reason": result.finish_reason}


def _json_text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# --- files ------------------------------------------------------------------------------------------------------------


def write_output(path: Path, form: str, rows: Callable[[], Iterable[OutputRow]], shape: Shape, disk: Disk) -> None:
    """Write the output under another name, and rename it when it is whole and on the disk.

    Args:
        rows: gives the rows; Parquet asks twice.

    Raises:
        DiskError: the disk does not take it.
    """
    draft = path.with_name(path.name + ".new")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if form == "parquet":
                _write_parquet(_File(handle, disk), rows, shape)
            else:
                _write_lines(_File(handle, disk), path.suffix.lower(), rows(), shape)
            disk.sync(handle)
        finally:
            os.close(handle)
        disk.replace(draft, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DiskError(
            f"{path} cannot be written: {error.strerror or error}. All answers are in the journal: make room and run "
            "the same again, which sends nothing."
        ) from None


class _File:
    """A file whose system calls can be made to fail, as far as writers of formats use it."""

    closed = False

    def __init__(self, handle: int, disk: Disk) -> None:
        self._handle, self._disk, self._place = handle, disk, 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._disk.write_all(self._handle, memoryview(data).cast("B"))
        self._place += size
        return size

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def tell(self) -> int:
        return self._place

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _write_lines(file: _File, suffix: str, rows: Iterable[OutputRow], shape: Shape) -> None:
    target: Any = file
    if suffix == ".gz":
        target = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    elif suffix == ".zst":
        target = open_zst(file, "wb")
    buffer = bytearray()
    for row in rows:
        buffer += shape.line(row)
        if len(buffer) >= _BUFFER:
            target.write(bytes(buffer))
            buffer.clear()
    target.write(bytes(buffer))
    if target is not file:
        target.close()


def _write_parquet(file: _File, rows: Callable[[], Iterable[OutputRow]], shape: Shape) -> None:
    pyarrow = import_pyarrow()
    types: dict[str, Any] = {}
    for records in _chunks(shape.record(row) for row in rows()):
        for name in dict.fromkeys(name for record in records for name in record):
            types[name] = _joined_type(pyarrow, types.get(name), [record.get(name) for record in records])
    types = {
        name: kind if kind is not None and kind != pyarrow.null() else pyarrow.string() for name, kind in types.items()
    }
    if not types:
        types = {name: pyarrow.string() for name in COLUMNS}
    schema = pyarrow.schema(list(types.items()))
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for records in _chunks(shape.record(row) for row in rows()):
            arrays = [_column(pyarrow, kind, [record.get(name) for record in records]) for name, kind in types.items()]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _chunks(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == 1000:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _joined_type(pyarrow: Any, known: Any, values: list[Any]) -> Any:
    """One type for the values and for those before; text (of JSON) where there is none."""
    try:
        kind = pyarrow.array(values).type
        if known is not None and known != kind:
            fields = [pyarrow.schema([("x", each)]) for each in (known, kind)]
            kind = pyarrow.unify_schemas(fields, promote_options="permissive").field(0).type
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        return pyarrow.string()
    return kind if _can_be_stored(pyarrow, kind) else pyarrow.string()


def _can_be_stored(pyarrow: Any, kind: Any) -> bool:
    """Whether Parquet has a form for it: it has none for a struct without fields."""
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return bool(inner or not pyarrow.types.is_struct(kind)) and all(_can_be_stored(pyarrow, each) for each in inner)


def _column(pyarrow: Any, kind: Any, values: list[Any]) -> Any:
    try:
        return pyarrow.array(values, kind)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        if pyarrow.types.is_floating(kind):  # integers of more digits than it has
            return pyarrow.array([None if value is None else float(value) for value in values], kind)
        texts = [
            value
            if value is None or isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, default=_json_text)
            for value in values
        ]
        return pyarrow.array(
            [None if text is None else text.encode("utf-8", "replace").decode() for text in texts], kind
        )
