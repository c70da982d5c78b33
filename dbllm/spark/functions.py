"""`complete`, `chat`, `embed`, `predict`, `respond`: a model's answer for each row of a DataFrame."""

from __future__ import annotations

import logging
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dbllm import ConfigError
from dbllm._misnomers import explain_keywords

from ..bulk import RowInputError, RowMapper
from ..bulk.requests import CONTENT, Template
from .columns import TEXT, VECTOR, VECTORS, import_packages, quoted_column, spark_type
from .credentials import host_of
from .ledger import job_name, ledger_folder
from .options import JobOptions, check_options, job_limits, mapper_of, names_of
from .share import share_of
from .tables import is_table, with_table
from .worker import MapRows, TaskPlan

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("dbllm.spark")

DataFrame = Any
"""A DataFrame of classic Spark or of Spark Connect."""


@explain_keywords
def complete(
    df: DataFrame, endpoint: str | None = None, *, prompt: str | None = None, **options: Unpack[JobOptions]
) -> Any:
    """A text for each row, from any kind of endpoint or driver app.

    Args:
        df: the rows; all of their columns stay.
        endpoint: the name of a serving endpoint or of a model service.
        prompt: a column, or a template with columns in braces: "Summarise: {text}". Default: the column `prompt` or
            `text`.
        options: see `JobOptions`.

    Returns:
        The DataFrame with one column more, a struct: output, parsed, finish_reason, usage, model, request_id, attempts,
        latency, error. `error` is null where there is an answer. Rows come in the order of their answers. With
        `on_error="split"`, two of them: with an answer, and without.

    Raises:
        ValueError, TypeError, ConfigError: an argument cannot be used. Nothing was sent.
    """
    return _map(df, "complete", endpoint, prompt, options)


@explain_keywords
def chat(
    df: DataFrame,
    endpoint: str | None = None,
    *,
    prompt: str | None = None,
    response_model: type | None = None,
    **options: Unpack[JobOptions],
) -> Any:
    """A chat reply for each row.

    Args:
        df, endpoint, options: as for `complete`.
        prompt: as for `complete`; the column may hold messages (an array of structs with `role` and `content`).
            Default: the column `messages`, `prompt` or `text`.
        response_model: a class that the reply is read as; `parsed` is then its JSON.

    Returns, raises: as `complete`.
    """
    return _map(df, "chat", endpoint, prompt, options, response_model=response_model)


@explain_keywords
def embed(
    df: DataFrame, endpoint: str | None = None, *, prompt: str | None = None, **options: Unpack[JobOptions]
) -> Any:
    """A vector for each row: `output` is an array of doubles, or an array of them for a column of several texts.

    Args:
        df, endpoint, options: as for `complete`.
        prompt: as for `complete`. Default: the column `input`, `text` or `prompt`.

    Returns, raises: as `complete`.
    """
    return _map(df, "embed", endpoint, prompt, options)


@explain_keywords
def predict(
    df: DataFrame,
    endpoint: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    prompt: str | None = None,
    **options: Unpack[JobOptions],
) -> Any:
    """A custom model's prediction for each row: `output` is its text, or JSON.

    Args:
        df, endpoint, options: as for `complete`.
        columns: what the model is given; default: all.
        prompt: instead, a column or template that becomes the column `prompt`.

    Returns, raises: as `complete`.
    """
    return _map(df, "predict", endpoint, prompt, options, columns=columns)


@explain_keywords
def respond(
    df: DataFrame, endpoint: str | None = None, *, prompt: str | None = None, **options: Unpack[JobOptions]
) -> Any:
    """An agent's response for each row.

    Args:
        df, endpoint, options: as for `complete`.
        prompt: as for `complete`; the column may hold a conversation. Default: the column `input`, `messages`,
            `prompt` or `text`.

    Returns, raises: as `complete`.
    """
    return _map(df, "respond", endpoint, prompt, options)


# --- from a call to a plan --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowContent:
    """How a row of Spark becomes one of the mapper.

    Attributes:
        columns: those that are sent, or that the template names.
        name: the mapper's name for the one column that holds what is sent; "" where several columns are.
        records: the columns are the features of a custom model, whatever their names.
    """

    columns: tuple[str, ...]
    name: str = ""
    records: bool = False

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the mapper is given.

        Raises:
            RowInputError: the column that is sent is null.
        """
        if self.name:
            (column,) = self.columns
            if row[column] is None:
                raise RowInputError(f"column {column!r} is empty in this row.")
            return {self.name: _without_null_fields(row[column])}
        chosen = {name: row[name] for name in self.columns}
        return {"dataframe_records": [chosen]} if self.records else chosen


def _without_null_fields(value: Any, *, keep: str = "content") -> Any:
    """Messages without the fields that are null: in a column all messages have all fields."""
    if isinstance(value, dict):
        return {
            name: _without_null_fields(inner, keep="")
            for name, inner in value.items()
            if inner is not None or name == keep
        }
    return [_without_null_fields(inner, keep=keep) for inner in value] if isinstance(value, list) else value


def _map(
    df: DataFrame,
    verb: str,
    endpoint: str | None,
    prompt: str | None,
    options: JobOptions,
    *,
    response_model: type | None = None,
    columns: Sequence[str] | None = None,
) -> Any:
    require_dataframe(df)
    check_options(options)
    template, content = _row_content(df, verb, prompt, columns)
    needed = content.columns
    mapper = mapper_of(options, verb, endpoint, prompt=template, response_model=response_model)
    named = options.get("key")
    key = () if named is None else names_of(named, "key")
    _require(df, key, "key")
    column = options.get("column", "result")
    if column.lower() in [name.lower() for name in df.columns]:  # Spark tells no case apart, unless it is told to
        raise ValueError(f"the DataFrame has a column {column!r} already: name the new one with column=.")
    for name in (*needed, *key):
        if df.columns.count(name) > 1:
            raise ValueError(f"the DataFrame has several columns {name!r}: rename or drop all but one.")
    on_error = options.get("on_error", "row")
    ledger, table = options.get("ledger"), None
    if isinstance(ledger, str) and is_table(ledger):
        ledger, table = None, ledger
    if df.isStreaming and (table is not None or on_error == "split"):
        raise ValueError(
            'a streaming DataFrame takes no table as its ledger, and no on_error="split": call this for each batch, in '
            "the function of writeStream.foreachBatch."
        )
    identity = _identity(mapper, verb, content, key, options)
    share = share_of(
        job_limits(options),
        slots_of(df.sparkSession),
        tasks=options.get("tasks"),
        max_tokens=_max_tokens_of(mapper.params),
    )
    used = tuple(dict.fromkeys((*needed, *key)))
    plan = TaskPlan(
        uid=uuid.uuid4().hex,
        mapper=mapper,
        share=share,
        row_of=content,
        columns=used,
        output=_kind_of_output(verb, template),
        ledger=None if ledger is None else ledger_folder(ledger, identity),
        key=key,
        on_error="raise" if on_error == "raise" else "row",
        max_error_rate=options.get("max_error_rate"),
        retry_errors=options.get("retry_errors", False),
    )
    where = endpoint or f"driver app {options.get('driver_app')}"
    recorded = f"ledger {plan.ledger}" if table is None else f"ledger: the table {table}"
    if table is None and plan.ledger is None:
        recorded = "no ledger: each action on the result calls the model anew"
    _print(f"dbllm.spark: {verb} {where}: {share}; {recorded}")

    def call(rows: DataFrame) -> DataFrame:
        return _with_answers(rows, plan, column, verb)

    if table is None:
        result = call(df)
    else:
        job, kind = job_name(identity), spark_type(plan.output)
        result = with_table(df, table, job, used, column, kind, call, retry_errors=plan.retry_errors)
    if on_error != "split":
        return result
    if table is None and plan.ledger is None:  # both halves are made of the same answers
        result = result.persist()
    failed = quoted_column(column)["error"].isNotNull()
    return result.where(~failed), result.where(failed)


def _with_answers(rows: DataFrame, plan: TaskPlan, column: str, verb: str) -> DataFrame:
    """The rows with a column more.

    On their way the columns are called by their places: Spark has a name with a dot, or one that another differs from
    by its case alone, for that of something else.
    """
    types = import_packages("pyspark.sql.types")
    names, fields = rows.columns, rows.schema.fields
    inner = [f"c{place}" for place in range(len(names))]
    schema = [
        types.StructField(name, field.dataType, field.nullable, field.metadata)
        for name, field in zip(inner, fields, strict=True)
    ]
    schema.append(types.StructField(column_inside := f"c{len(names)}", spark_type(plan.output)))
    plan = replace(plan, places=tuple(map(names.index, plan.columns)))
    function = arrow_function(plan, column_inside, verb)
    spread = rows.toDF(*inner).repartition(plan.share.tasks)
    return spread.mapInArrow(function, types.StructType(schema)).toDF(*names, column)


def require_dataframe(df: Any) -> None:
    """Refuse what is no DataFrame of Spark.

    Raises:
        TypeError: it is none; the message says how one is made of it.
        ConfigError: its session has ended.
    """
    if hasattr(type(df), "mapInArrow"):
        return
    kind = f"{type(df).__module__}.{type(df).__name__}"
    how = "spark.createDataFrame(…) makes one, or take dbllm.bulk without Spark"
    for what, instead in _MADE_OF.items():
        if kind.startswith(what):
            how = instead
    raise TypeError(f"df must be a Spark DataFrame, got {type(df).__name__} ({kind.partition('.')[0]}): {how}.")


_MADE_OF = {
    "pyspark.pandas.": "df.to_spark() makes one",
    "pyspark.core.rdd.": "rdd.toDF() makes one",
    "pyspark.rdd.": "rdd.toDF() makes one",
    "pyspark.sql.group.": "aggregate first, with .agg(…)",
    "pyspark.sql.session.": 'spark.table("…") reads one',
    "pyspark.sql.classic.column.": "pass the DataFrame, and the column's name as prompt=",
    "pyspark.sql.column.": "pass the DataFrame, and the column's name as prompt=",
    "pyspark.sql.connect.column.": "pass the DataFrame, and the column's name as prompt=",
    "builtins.str": 'spark.table("…") reads one',
}


def arrow_function(plan: TaskPlan, column: str, verb: str) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """What `mapInArrow` is given. Its name is what `explain()` shows."""

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        return MapRows(plan).run(batches, column)

    run.__name__ = run.__qualname__ = f"dbllm_{verb}[{plan.share.sum}]"
    return run


def slots_of(spark: Any) -> int:
    """How many tasks Spark runs at once."""
    try:
        return max(1, int(spark.sparkContext.defaultParallelism))
    except Exception:  # noqa: BLE001 - Connect has no context, and says so with errors of several kinds
        functions = import_packages("pyspark.sql.functions")
    try:
        places = spark.range(1 << 16).select(functions.spark_partition_id().alias("place"))
        return 1 + int(places.agg(functions.max("place")).collect()[0][0])
    except Exception as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise ConfigError(
            f"the Spark session does not answer ({why:.200}). If it was stopped, start one, and make the DataFrame "
            "anew; nothing was sent to the model."
        ) from error


def _row_content(
    df: DataFrame, verb: str, prompt: str | None, columns: Sequence[str] | None
) -> tuple[str | None, RowContent]:
    """The template, and how rows are read."""
    if verb == "predict" and prompt is None:
        names = tuple(dict.fromkeys(names_of(df.columns if columns is None else columns, "columns")))
        if not names:
            raise ValueError("columns is empty: name those that the model is given, or leave it out (all of them).")
        _require(df, names, "columns")
        _refuse_binary(df, names)
        return None, RowContent(names, records=True)
    if columns is not None:
        raise ValueError("predict takes either columns= or prompt=.")
    if prompt is None:
        found = [name for name in CONTENT[verb] if name in df.columns]
        if not found:
            wanted = " or ".join(map(repr, CONTENT[verb]))
            raise ValueError(
                f"{verb} needs a column {wanted}, or prompt=; the DataFrame's columns: {', '.join(df.columns)}."
            )
        prompt = str(found[0])
    elif not isinstance(prompt, str):
        raise TypeError(f"prompt must be the name of a column or a template (str), got {type(prompt).__name__}.")
    if prompt in df.columns:
        _refuse_binary(df, [prompt])
        if verb != "predict" and _is_content(df, prompt, verb):
            return None, RowContent((prompt,), CONTENT[verb][0])
        called = re.sub(r"[^\w .-]", "_", prompt) or "column"  # no template can have a brace in a column's name
        return "{" + called + "}", RowContent((prompt,), called)
    template = Template(prompt)
    if not template.columns:
        raise ValueError(
            f"prompt={prompt!r} is neither a column nor a template with columns in braces; the DataFrame's columns: "
            f"{', '.join(df.columns)}."
        )
    _require(df, template.columns, "prompt")
    _refuse_binary(df, template.columns)
    return prompt, RowContent(template.columns)


def _refuse_binary(df: DataFrame, names: Sequence[str]) -> None:
    for name, field in zip(df.columns, df.schema.fields, strict=True):
        if name in names and _has_binary(field.dataType):
            quoted = "`" + name.replace("`", "``") + "`"
            raise ValueError(
                f"column {name!r} is {field.dataType.simpleString()}, and bytes are no text: decode({quoted}, 'UTF-8') "
                f"makes a text of them, base64({quoted}) what a model may read of other data."
            )


def _has_binary(kind: Any) -> bool:
    inner = [getattr(kind, name, None) for name in ("elementType", "keyType", "valueType")]
    inner += [field.dataType for field in getattr(kind, "fields", ())]
    return kind.typeName() == "binary" or any(_has_binary(each) for each in inner if each is not None)


def _require(df: DataFrame, names: Sequence[str], argument: str) -> None:
    missing = [name for name in names if name not in df.columns]
    if missing:
        raise ValueError(
            f"{argument}= names {', '.join(map(repr, missing))}; the DataFrame's columns: {', '.join(df.columns)}."
        )


def _is_content(df: DataFrame, column: str, verb: str) -> bool:
    """Whether a column holds what the verb sends as it is: messages, or texts; False: a value that becomes a text."""
    kind = df.schema.fields[df.columns.index(column)].dataType
    if kind.typeName() not in ("array", "struct", "map"):
        return False
    item = getattr(kind, "elementType", None)
    name = "" if item is None else item.typeName()
    if verb == "embed":
        wanted, fits = "a text or an array of texts", name == "string"
    elif verb == "complete":
        wanted, fits = "text alone (chat sends an array of structs with role and content)", False
    else:
        wanted = "a text or an array of structs with role and content"
        fits = name == "map" or (name == "struct" and bool({"role", "type"} & {*getattr(item, "names", ())}))
    if fits:
        return True
    raise ValueError(
        f"{verb} sends {wanted}, and column {column!r} is {kind.simpleString()}: array(…) makes an array of "
        'one, and a template ("{' + column + '}") a text.'
    )


def _kind_of_output(verb: str, template: str | None) -> str:
    if verb != "embed":
        return TEXT
    return VECTORS if template is None else VECTOR


def _max_tokens_of(params: Mapping[str, Any]) -> int | None:
    named = (params.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    return next((value for value in named if isinstance(value, int)), None)


def _identity(
    mapper: RowMapper, verb: str, content: RowContent, key: tuple[str, ...], options: JobOptions
) -> dict[str, Any]:
    """What makes two jobs ask the same."""
    model = mapper.response_model
    return {
        "endpoint": mapper.endpoint,
        "driver_app": [mapper.driver_app, mapper.cluster_id],
        "host": host_of(options.get("credential"), options.get("host")),
        "verb": verb,
        "prompt": mapper.prompt,
        "content": [content.columns, content.name],
        "params": mapper.params,
        "response_model": None if model is None else import_packages("pydantic").TypeAdapter(model).json_schema(),
        "key": key,
    }


def _print(line: str) -> None:
    log.info(line)
    print(line, file=sys.stderr)
