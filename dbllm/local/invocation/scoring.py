"""MLflow's scoring protocol, the body a custom model takes (source: mlflow's pyfunc scoring server).

A body is a JSON object with exactly one of `dataframe_records`, `dataframe_split`, `inputs`, `instances`, plus
`params`; the answer is `{"predictions": [...]}`. Or it is a unified LLM request: with a top-level `prompt`,
`messages` or `input` it goes to the model as it is, and the answer has no wrapper. All pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbllm.local.errors import Problem
from dbllm.local.json_values import json_type

INPUT_FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
UNIFIED = ("messages", "prompt", "input")
AROUND = ("stream", "model", "client_request_id", "usage_context", "databricks_options")
"""Keys beside the data that are for the server, not for the model."""

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is asked of a custom model.

    Attributes:
        rows: one mapping of column to value per prediction; the request's params are merged in below the columns.
        wrapped: whether the answer goes into `{"predictions": ...}`.
        stream: whether the answer is wanted piece by piece.
    """

    rows: tuple[Row, ...]
    wrapped: bool
    stream: bool


def parse_scoring(body: object) -> Scoring:
    """Read a decoded JSON body.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(body, dict):
        raise _bad_input(f"The input must be a JSON object, got {json_type(body)}.")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _bad_input(f"'stream' must be true or false, got {json_type(stream)}.")
    if any(key in body for key in UNIFIED):
        row = {key: value for key, value in body.items() if key not in AROUND and key != "params"}
        return Scoring((_params(body) | row,), wrapped=False, stream=bool(stream))
    forms = [key for key in INPUT_FORMS if key in body]
    if len(forms) != 1:
        raise _bad_input(
            f"The input must be a JSON dictionary with exactly one of the input fields {set_of(INPUT_FORMS)}. "
            f"Received dictionary with input fields: {list(body)}."
        )
    params = _params(body)
    rows = _READERS[forms[0]](body[forms[0]])
    return Scoring(tuple({**params, **row} for row in rows), wrapped=True, stream=bool(stream))


def check_content_type(header: str) -> None:
    """A custom model takes JSON in UTF-8 (MLflow scoring server: 415 otherwise).

    Raises:
        Problem: 415, the header says something else.
    """
    kind, *options = (part.strip().lower() for part in header.split(";"))
    if kind != "application/json":
        message = f"This predictor only supports the content type application/json. Got '{header}'."
        raise Problem(415, "BAD_REQUEST", message)
    for option in options:
        name, _, value = option.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Problem(415, "BAD_REQUEST", f"The scoring server only supports UTF-8. Got charset '{value}'.")


def _params(body: Mapping[str, object]) -> dict[str, object]:
    params = body.get("params")
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise _bad_input(f"'params' must be a JSON object, got {json_type(params)}.")
    return params


def _records(data: object) -> list[Row]:
    if not isinstance(data, list):
        raise _bad_input(f"'dataframe_records' must be a list of records, got {json_type(data)}.")
    for record in data:
        if not isinstance(record, dict):
            raise _bad_input(f"Each record must be a JSON object, got {json_type(record)}.")
    return data


def _split(data: object) -> list[Row]:
    if not isinstance(data, dict) or not {"columns", "data"} <= data.keys():
        raise _bad_input("'dataframe_split' must be a JSON object with 'columns' and 'data'.")
    columns, values = data["columns"], data["data"]
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise _bad_input("'dataframe_split.columns' must be a list of column names.")
    if not isinstance(values, list) or not all(isinstance(row, list) for row in values):
        raise _bad_input("'dataframe_split.data' must be a list of rows, each a list of values.")
    for number, row in enumerate(values):
        if len(row) != len(columns):
            raise _bad_input(
                f"Row {number} of 'dataframe_split.data' has {len(row)} values for {len(columns)} columns."
            )
    return [dict(zip(columns, row, strict=True)) for row in values]


def _named_inputs(data: object) -> list[Row]:
    """`inputs` and `instances`: a list of records, one record, or columns of equal length."""
    if isinstance(data, list):
        for record in data:
            if not isinstance(record, dict):
                raise _bad_input(
                    "This model has named inputs: send a list of JSON objects or an object of columns, "
                    f"not a list with {json_type(record)}."
                )
        return data
    if not isinstance(data, dict):
        raise _bad_input(f"The inputs must be a list or a JSON object, got {json_type(data)}.")
    prompts = data.get("prompt")
    if not isinstance(prompts, list):
        return [data]
    for name, column in data.items():
        if not isinstance(column, list) or len(column) != len(prompts):
            raise _bad_input(f"Column '{name}' must be a list of {len(prompts)} values, like 'prompt'.")
    return [{name: column[number] for name, column in data.items()} for number in range(len(prompts))]


_READERS = {
    "dataframe_records": _records,
    "dataframe_split": _split,
    "inputs": _named_inputs,
    "instances": _named_inputs,
}


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row for a model of the signature prompt/stop, with the parameters it knows."""

    prompt: str
    stop: tuple[str, ...]
    params: Mapping[str, object]


def read_row(row: Row, known: Sequence[str]) -> PromptRow:
    """A row by the model's signature: `prompt` string, `stop` optional list of strings, and the `known` params.

    Columns outside the signature are ignored and a null is a value that was not given, as in MLflow.

    Raises:
        Problem: 400 when prompt is missing or a type does not fit.
    """
    prompt = row.get("prompt")
    if prompt is None:
        raise _schema(f"Model is missing inputs ['prompt']. Note that there were extra inputs: {sorted(row)}.")
    if not isinstance(prompt, str):
        raise _schema(f"Incompatible input types for column prompt. Can not safely convert {json_type(prompt)} to str.")
    stop = row.get("stop")
    if stop is None:
        stop = []
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise _schema("Incompatible input types for column stop. It must be a list of strings that are not empty.")
    params = {name: row[name] for name in known if row.get(name) is not None}
    return PromptRow(prompt, tuple(stop), params)


def set_of(names: Sequence[str]) -> str:
    """Names as MLflow prints them: {'a', 'b'}."""
    return "{" + ", ".join(repr(name) for name in names) + "}"


def _bad_input(message: str) -> Problem:
    return Problem(400, "BAD_REQUEST", message)


def _schema(message: str) -> Problem:
    return Problem(400, "BAD_REQUEST", f"Failed to enforce schema of data. Error: {message}")
