"""The struct column that holds what became of each row: its Spark type, its Arrow type, its values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dbllm import ConfigError

from ..bulk import RowError, RowResult

TEXT, VECTOR, VECTORS = "text", "vector", "vectors"
"""What `output` is: text (JSON where the model returned something else), a vector, or several."""

_USAGE = {"input_tokens": "long", "output_tokens": "long"}
_ERROR = {
    "name": "string",
    "message": "string",
    "status": "int",
    "code": "string",
    "retryable": "boolean",
    "may_be_paid": "boolean",
}
_OUTPUT = {TEXT: "string", VECTOR: "vector", VECTORS: "vectors"}


def _fields(output: str) -> dict[str, Any]:
    return {
        "output": _OUTPUT[output],
        "parsed": "string",
        "finish_reason": "string",
        "usage": _USAGE,
        "model": "string",
        "request_id": "string",
        "attempts": "int",
        "latency": "double",
        "error": _ERROR,
    }


def spark_type(output: str, **more: str) -> Any:
    """The column's type for Spark; `more` fields come first."""
    types = import_packages("pyspark.sql.types")
    plain = {
        "string": types.StringType(),
        "long": types.LongType(),
        "int": types.IntegerType(),
        "double": types.DoubleType(),
        "boolean": types.BooleanType(),
        "vector": types.ArrayType(types.DoubleType()),
        "vectors": types.ArrayType(types.ArrayType(types.DoubleType())),
    }

    def build(kind: Any) -> Any:
        if isinstance(kind, str):
            return plain[kind]
        return types.StructType([types.StructField(name, build(inner)) for name, inner in kind.items()])

    return build({**more, **_fields(output)})


def arrow_type(output: str) -> Any:
    """The same for Arrow."""
    arrow = import_packages("pyarrow")
    plain = {
        "string": arrow.string(),
        "long": arrow.int64(),
        "int": arrow.int32(),
        "double": arrow.float64(),
        "boolean": arrow.bool_(),
        "vector": arrow.list_(arrow.float64()),
        "vectors": arrow.list_(arrow.list_(arrow.float64())),
    }

    def build(kind: Any) -> Any:
        if isinstance(kind, str):
            return plain[kind]
        return arrow.struct([(name, build(inner)) for name, inner in kind.items()])

    return build(_fields(output))


def value_of(result: RowResult, output: str) -> dict[str, Any]:
    """The struct of a result."""
    used = result.input_tokens is not None or result.output_tokens is not None
    error = result.error
    return {
        "output": _text_or_json(result.output) if output == TEXT else result.output,
        "parsed": _text_or_json(result.as_dict()["parsed"]) if result.parsed is not None else None,
        "finish_reason": result.finish_reason,
        "usage": {"input_tokens": result.input_tokens, "output_tokens": result.output_tokens} if used else None,
        "model": result.model,
        "request_id": result.request_id,
        "attempts": result.attempts,
        "latency": result.latency,
        "error": None if error is None else {name: getattr(error, name) for name in _ERROR},
    }


def result_of(value: Mapping[str, Any], index: int) -> RowResult:
    """The result that a struct was made of; `output` and `parsed` as they stand there."""
    usage, error = value["usage"] or {}, value["error"]
    return RowResult(
        index,
        output=value["output"],
        parsed=value["parsed"],
        finish_reason=value["finish_reason"],
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
        model=value["model"],
        request_id=value["request_id"],
        attempts=value["attempts"],
        latency=value["latency"],
        error=None if error is None else RowError(**error, attempts=value["attempts"]),
    )


def quoted_column(name: str) -> Any:
    """A column by its name, whatever characters that has."""
    return import_packages("pyspark.sql.functions").col("`" + name.replace("`", "``") + "`")


def python_values(column: Any) -> list[Any]:
    """The values of a column of Arrow; maps as dicts, which are lists of pairs for Arrow."""
    return [_with_dicts(value, column.type) for value in column.to_pylist()]


def _with_dicts(value: Any, kind: Any) -> Any:
    types = import_packages("pyarrow").types
    if value is None or not types.is_nested(kind):
        return value
    if types.is_map(kind):
        return {name: _with_dicts(inner, kind.item_type) for name, inner in value}
    if types.is_struct(kind):
        return {field.name: _with_dicts(value[field.name], field.type) for field in kind}
    return [_with_dicts(inner, kind.value_type) for inner in value]


def import_packages(name: str) -> Any:
    """A module of a package that the extra brings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).split(".")[0]
        raise ConfigError(f"dbllm.spark needs {missing}, which is not installed: pip install 'dbllm[spark]'.") from None


def _text_or_json(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
