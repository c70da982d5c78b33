"""The output of a job, made of its input and its journal at the end: all at once or not at all."""

from __future__ import annotations

import gzip
import json
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from .errors import BulkError, DiskError
from .findings import MISSING, Findings, places_of
from .inputs import RawRow, Source, columns_of, import_pyarrow, open_zst
from .journal import Disk, Journal, encode_json, json_text
from .plan import BAD, OTHER_SHAPE, RowPlan, has_batch_shape
from .requests import RowRequest
from .results import RowError, RowInputError, RowResult

COLUMNS = (
    *("output", "parsed", "finish_reason", "input_tokens", "output_tokens", "model", "request_id", "attempts"),
    *("latency", "same_as", "error"),
)
"""What an output row has beside the columns of its input row. One that the input has too is called dbllm_… ."""

_ERROR_FIELDS = {"status": int, "code": str, "request_id": str, "attempts": int, "retryable": bool, "may_be_paid": bool}
_BUFFER = 1 << 20


class OutputRow(NamedTuple):
    """An input row and its result; `same_as` is the line of the row that was sent in its place."""

    row: RawRow
    result: RowResult
    same_as: int | None


def joined(
    source: Source,
    plan: RowPlan,
    journal: Journal,
    findings: Findings | None = None,
    request: Callable[[dict[str, Any]], RowRequest] | None = None,
) -> Iterator[OutputRow]:
    """The rows of the input with their results, in order. A row that has none yet is left out.

    Args:
        request: what a row asks; it raises RowInputError for one that cannot be sent.
    """
    places = places_of(plan, journal)
    lines = array("I", [0]) * plan.summary.rows
    for number, row in enumerate(source.rows()):
        if number >= plan.summary.rows:
            return  # the input grew meanwhile, which is noticed at the end
        leader, lines[number] = plan.leaders[number], row.line
        if leader == BAD:
            result = bad_row(number, row, request, is_batch=plan.summary.is_batch)
        elif journal.done[leader] and places[leader] != MISSING:
            result = RowResult.from_dict({"index": number, **journal.read(places[leader])})
        else:
            continue
        copied = leader not in (number, BAD)
        if copied:
            result.input_tokens = result.output_tokens = result.attempts = 0
            result.latency, result.unclear = 0.0, 0
        if findings is not None:
            findings.add(result, row, copied=copied)
        yield OutputRow(row, result, lines[leader] if copied else None)


def bad_row(
    number: int, row: RawRow, request: Callable[[dict[str, Any]], RowRequest] | None = None, *, is_batch: bool = False
) -> RowResult:
    """The error row of a row that could not be sent."""
    try:
        columns = columns_of(row)
        if has_batch_shape(columns) != is_batch:
            raise RowInputError(OTHER_SHAPE)
        if request is not None:
            request(columns).fingerprint()
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
        self.replaced = 0  # numbers that JSON does not have
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

    def types(self, pyarrow: Any) -> dict[str, Any]:
        """The Arrow types of the columns that are the same in every job, whatever its rows have."""
        if self.is_batch:
            return {}
        text, whole, yes_or_no = pyarrow.string(), pyarrow.int64(), pyarrow.bool_()
        kinds = {str: text, int: whole, bool: yes_or_no}
        error = [("class", text), ("message", text), *((name, kinds[kind]) for name, kind in _ERROR_FIELDS.items())]
        own = dict.fromkeys(("finish_reason", "model", "request_id"), text)
        own |= dict.fromkeys(("input_tokens", "output_tokens", "attempts", "same_as"), whole)
        own |= {"latency": pyarrow.float64(), "error": pyarrow.struct(error)}
        return {self._names[name]: kind for name, kind in own.items()}

    def line(self, out: OutputRow) -> bytes:
        """A row as a line of JSON. A plain row's own columns stay as they were written."""
        if self.is_batch:
            return self._encoded(self.batch(out)) + b"\n"
        added = self._encoded(self.added(out))
        content = out.row.content
        if isinstance(content, dict):
            content = self._encoded(content)
        elif _is_bad(out.row):
            content = encode_json({"line": content.decode("utf-8", "replace")})
        elif b"NaN" in content or b"Infinity" in content:  # which may also be words of a text
            before = self.replaced
            columns = json.loads(content, parse_constant=self._null)
            content = content if self.replaced == before else self._encoded(columns)
        head = content.rstrip()[:-1].rstrip()
        return head + (b"," if len(head) > 1 else b"") + added[1:] + b"\n"

    def _encoded(self, value: dict[str, Any]) -> bytes:
        """As JSON. What JSON has no number for becomes null, and is counted."""
        try:
            return encode_json(value, default=json_text, allow_nan=False)
        except ValueError:
            plain, number = without_nan(value)
            self.replaced += number
            return encode_json(plain, default=json_text)

    def _null(self, _: str) -> None:
        self.replaced += 1

    def record(self, out: OutputRow) -> dict[str, Any]:
        """A row as a dict, for Parquet."""
        if self.is_batch:
            return self.batch(out)
        try:
            return {**columns_of(out.row), **self.added(out)}
        except RowInputError:
            return {**(out.row.content if isinstance(out.row.content, dict) else {}), **self.added(out)}

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


def _is_bad(row: RawRow) -> bool:
    """Whether a line is no JSON object, so that nothing can be added to it."""
    try:
        columns_of(row)
    except RowInputError:
        return True
    return False


def without_nan(value: Any) -> tuple[Any, int]:
    """The value with None for each number that is none or infinite, and how many there were."""
    if isinstance(value, float):
        return (value, 0) if math.isfinite(value) else (None, 1)
    if isinstance(value, dict):
        inner = {name: without_nan(each) for name, each in value.items()}
        return {name: plain for name, (plain, _) in inner.items()}, sum(number for _, number in inner.values())
    if isinstance(value, (list, tuple)):
        items = [without_nan(each) for each in value]
        return [plain for plain, _ in items], sum(number for _, number in items)
    return value, 0


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


# --- files ------------------------------------------------------------------------------------------------------------


def write_output(
    path: Path,
    form: str,
    rows: Callable[[], Iterable[OutputRow]],
    shape: Shape,
    disk: Disk,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Write the output under another name, and rename it when it is whole and on the disk.

    Args:
        rows: gives the rows; Parquet asks twice.
        check: called before the rename; what it raises leaves no output.

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
        check()
        disk.replace(draft, path)
        disk.sync_folder(path.parent)
    except BulkError:
        draft.unlink(missing_ok=True)
        raise
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
    own = shape.types(pyarrow)
    types: dict[str, Any] = {}
    for records in _chunks(shape.record(row) for row in rows()):
        for name in dict.fromkeys(name for record in records for name in record):
            types[name] = own.get(name) or _joined_type(
                pyarrow, types.get(name), [record.get(name) for record in records]
            )
    types = {name: _without_null(pyarrow, kind) for name, kind in types.items()}
    if not types:
        types = {**{name: pyarrow.string() for name in COLUMNS}, **own}
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


def _without_null(pyarrow: Any, kind: Any) -> Any:
    """The type with text for what was null in all rows, also inside: other readers of Parquet know no type of null."""
    if kind is None or pyarrow.types.is_null(kind):
        return pyarrow.string()
    if pyarrow.types.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        return pyarrow.struct([field.with_type(_without_null(pyarrow, field.type)) for field in fields])
    return pyarrow.list_(_without_null(pyarrow, kind.value_type)) if pyarrow.types.is_list(kind) else kind


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
            else json.dumps(without_nan(value)[0], ensure_ascii=False, default=json_text)
            for value in values
        ]
        return pyarrow.array(
            [None if text is None else text.encode("utf-8", "replace").decode() for text in texts], kind
        )
