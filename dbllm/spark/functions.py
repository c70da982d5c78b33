"""`complete`, `chat`, `embed`, `predict`, `respond`: a model's answer for each row of a DataFrame."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from dbllm import AsyncClient, Limits, Retry, Timeout

from ..bulk import RowMapper
from ..bulk.requests import CONTENT, Template
from .columns import TEXT, VECTOR, VECTORS, import_packages, spark_type
from .credentials import settings_of
from .ledger import job_name, ledger_folder
from .share import share_of
from .tables import is_table, with_table
from .worker import MapRows, TaskPlan

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("dbllm.spark")

DataFrame = Any
"""A DataFrame of classic Spark or of Spark Connect."""


class JobOptions(TypedDict, total=False):
    """What every function here takes, too.

    The limits are those of the whole job: the tasks that run at once share them, and a printed line says how.

    Attributes:
        concurrency: how many calls at once, at the most; default 64. Each task's share goes down when the endpoint
            turns calls away, and up again.
        rpm, tpm: requests and tokens per minute. `tpm` is what input tokens and output tokens (reserved as
            `max_tokens`) may come to, each; a pair names them apart: `tpm=(200_000, 20_000)`.
        limits: instead of these, a `Limits`.
        tasks: how many tasks; the DataFrame is repartitioned into so many. Default: as many as run at once, but at
            least 8 calls for each.
        ledger: a folder that all executors see: what is answered is recorded there, some 200 rows at a time, and never
            paid again by a retry, another action or another run. Or the name of a table: the model is then called at
            once, and the answers are recorded when all are there. Without one each action calls the model anew, and so
            does each attempt of a task that fails (Spark makes four).
        key: columns whose values name a row in the ledger; default: what the row asks.
        retry_errors: call rows again whose recorded result is an error.
        on_error: "row": a row that fails is a row with an `error`. "raise": the first one ends the job. "split": two
            DataFrames come back, the rows with an answer and those without.
        max_error_rate: end the job when more than this share of a task's last 200 rows failed.
        column: the name of the column that is added; default "result".
        params: the model's parameters, for all rows.
        driver_app, cluster_id: instead of an endpoint, a driver proxy app; see `AsyncClient.driver_app`.
        host: of the workspace; default: as in every client.
        credential: where each worker finds its credential: "env:NAME", "profile:NAME" or "secret:scope/key". Default:
            as in every client (environment, profile, Databricks runtime). A credential itself is never taken.
        retry: the policy; default `dbllm.bulk.RETRY`, 8 attempts.
        timeout: of one attempt: seconds, or a `Timeout`.
    """

    concurrency: int
    rpm: float | None
    tpm: float | tuple[float | None, float | None] | None
    limits: Limits | None
    tasks: int | None
    ledger: str | os.PathLike[str] | None
    key: str | Sequence[str] | None
    retry_errors: bool
    on_error: Literal["row", "raise", "split"]
    max_error_rate: float | None
    column: str
    params: Mapping[str, Any] | None
    driver_app: int | str | None
    cluster_id: str | None
    host: str | None
    credential: str | None
    retry: Retry | None
    timeout: float | Timeout | None


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
    """How a row of Spark becomes one of the mapper: a column under the mapper's name for it, or the columns."""

    column: str | None = None
    name: str = ""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {self.name: row[self.column]} if self.column is not None else dict(row)


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
    if not hasattr(df, "mapInArrow"):
        kind = f"{type(df).__module__.partition('.')[0]}.{type(df).__name__}"
        raise TypeError(
            f"df must be a Spark DataFrame, got a {kind}: spark.createDataFrame(df), or dbllm.bulk without Spark."
        )
    _check(options)
    template, content, needed = _row_content(df, verb, prompt, columns)
    mapper = mapper_of(options, verb, endpoint, prompt=template, response_model=response_model)
    key = _as_names(options.get("key"))
    _require(df, key, "key")
    share = share_of(
        job_limits(options),
        slots_of(df.sparkSession),
        tasks=options.get("tasks"),
        max_tokens=_max_tokens_of(mapper.params),
    )
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
    identity = _identity(mapper, verb, content, key, columns, options)
    plan = TaskPlan(
        uid=uuid.uuid4().hex,
        mapper=mapper,
        share=share,
        row_of=content,
        columns=tuple(dict.fromkeys((*needed, *key))),
        output=_kind_of_output(df, verb, content),
        ledger=None if ledger is None else ledger_folder(ledger, identity),
        key=key,
        on_error="raise" if on_error == "raise" else "row",
        max_error_rate=options.get("max_error_rate"),
        retry_errors=options.get("retry_errors", False),
    )
    where = endpoint or f"driver app {options.get('driver_app')}"
    recorded = table or plan.ledger or "no ledger: each action on the result calls the model anew"
    _print(f"dbllm.spark: {verb} {where}: {share}; {recorded}")
    # Rows that ask the same meet in one partition, so that a ledger can tell.
    by = [_quoted_column(name) for name in (key or needed)] if plan.ledger is not None else []
    types = import_packages("pyspark.sql.types")

    def call(rows: DataFrame) -> DataFrame:
        schema = types.StructType([*rows.schema.fields, types.StructField(column, spark_type(plan.output))])
        return rows.repartition(share.tasks, *by).mapInArrow(arrow_function(plan, column, verb), schema)

    if table is None:
        result = call(df)
    else:
        job, kind = job_name(identity), spark_type(plan.output)
        result = with_table(df, table, job, key or needed, needed, column, kind, call, retry_errors=plan.retry_errors)
    if on_error != "split":
        return result
    if table is None and plan.ledger is None:  # both halves are made of the same answers
        result = result.persist()
    failed = result[column]["error"].isNotNull()
    return result.where(~failed), result.where(failed)


def arrow_function(plan: TaskPlan, column: str, verb: str) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """What `mapInArrow` is given. Its name is what `explain()` shows."""

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        return MapRows(plan).run(batches, column)

    run.__name__ = run.__qualname__ = f"dbllm_{verb}[{plan.share.sum}]"
    return run


def _check(options: JobOptions) -> None:
    known = JobOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"there is no argument {name!r}; there are {', '.join(known)}.")
    if (on_error := options.get("on_error", "row")) not in ("row", "raise", "split"):
        raise ValueError(f'on_error must be "row", "raise" or "split", got {on_error!r}.')
    kinds: dict[str, type] = {"params": Mapping, "limits": Limits, "retry": Retry, "column": str}
    for name, kind in kinds.items():
        if (given := options.get(name)) is not None and not isinstance(given, kind):
            what = "a mapping" if kind is Mapping else "a str" if kind is str else f"a dbllm.{kind.__name__}"
            raise TypeError(f"{name} must be {what}, got {given!r}.")
    for name in ("concurrency", "tasks"):
        value: Any = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer, 1 or more, got {value!r}.")
    rate = options.get("max_error_rate")
    if rate is not None and not 0 <= rate <= 1:
        raise ValueError(f"max_error_rate must be between 0 and 1, got {rate!r}.")


def job_limits(options: JobOptions) -> Limits:
    """The limits of the whole job."""
    rpm, tpm, limits = options.get("rpm"), options.get("tpm"), options.get("limits")
    if limits is not None:
        if any(options.get(name) is not None for name in ("rpm", "tpm", "concurrency")):
            raise ValueError("limits= says all of it: leave out concurrency=, rpm= and tpm=.")
        return limits
    if isinstance(tpm, (tuple, list)) and len(tpm) != 2:
        raise ValueError(f"tpm must be a number, or a pair (of input tokens, of output tokens), got {tpm!r}.")
    given, made = tpm if isinstance(tpm, (tuple, list)) else (tpm, tpm)
    return Limits(
        requests_per_minute=rpm,
        input_tokens_per_minute=given,
        output_tokens_per_minute=made,
        concurrency=options.get("concurrency", 64),
    )


def mapper_of(
    options: JobOptions,
    verb: str | None,
    endpoint: str | None,
    *,
    prompt: str | None = None,
    response_model: type | None = None,
) -> RowMapper:
    """What calls the model for one row, in whatever process."""
    if (endpoint is None) == (options.get("driver_app") is None):
        raise TypeError('say what is called: the name of an endpoint ("dolly"), or driver_app=, and not both.')
    if endpoint is not None:  # a name or a host that cannot be is said here, not by every worker
        AsyncClient(options.get("host") or "https://localhost", "token").endpoint(endpoint)
    mapper = RowMapper(
        endpoint,
        driver_app=options.get("driver_app"),
        cluster_id=options.get("cluster_id"),
        verb=verb,
        prompt=prompt,
        params=options.get("params"),
        response_model=response_model,
        retry=options.get("retry"),
        timeout=options.get("timeout"),
        **settings_of(options.get("credential"), options.get("host")),
    )
    # The verb is known, so no worker looks the endpoint up: a task whose rows the ledger has sends nothing at all.
    mapper._verbs = ()
    return mapper


def slots_of(spark: Any) -> int:
    """How many tasks Spark runs at once."""
    try:
        return max(1, int(spark.sparkContext.defaultParallelism))
    except Exception:  # noqa: BLE001 - Connect has no context, and says so with errors of several kinds
        functions = import_packages("pyspark.sql.functions")
        places = spark.range(1 << 16).select(functions.spark_partition_id().alias("place"))
        return 1 + int(places.agg(functions.max("place")).collect()[0][0])


def _row_content(
    df: DataFrame, verb: str, prompt: str | None, columns: Sequence[str] | None
) -> tuple[str | None, RowContent, list[str]]:
    """The template, how rows are read, and the columns that this needs."""
    if columns is not None:
        if prompt is not None:
            raise ValueError("predict takes either columns= or prompt=.")
        _require(df, columns, "columns")
        return None, RowContent(), list(columns)
    if prompt is None:
        if verb == "predict":
            return None, RowContent(), list(df.columns)
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
        if verb != "predict" and _is_content(df, prompt, verb):
            return None, RowContent(prompt, CONTENT[verb][0]), [prompt]
        return "{" + prompt + "}", RowContent(), [prompt]
    template = Template(prompt)
    if not template.columns:
        raise ValueError(
            f"prompt={prompt!r} is neither a column nor a template with columns in braces; the DataFrame's columns: "
            f"{', '.join(df.columns)}."
        )
    _require(df, template.columns, "prompt")
    return prompt, RowContent(), list(template.columns)


def _require(df: DataFrame, names: Sequence[str], argument: str) -> None:
    missing = [name for name in names if name not in df.columns]
    if missing:
        raise ValueError(
            f"{argument}= names {', '.join(map(repr, missing))}; the DataFrame's columns: {', '.join(df.columns)}."
        )


def _as_names(key: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if key is None else (key,) if isinstance(key, str) else tuple(key)


def _is_content(df: DataFrame, column: str, verb: str) -> bool:
    """Whether a column holds what the verb sends as it is: messages, or texts; False: a value that becomes a text."""
    kind = df.schema[column].dataType
    if kind.typeName() not in ("array", "struct", "map"):
        return False
    item = kind.elementType.typeName() if kind.typeName() == "array" else ""
    if item in (("string",) if verb == "embed" else ("struct", "map")):
        return True
    wanted = "an array of texts" if verb == "embed" else "an array of structs with role and content"
    raise ValueError(
        f"{verb} sends a text or {wanted}, and column {column!r} is {kind.simpleString()}: array(…) makes an array of "
        'one, and a template ("{' + column + '}") a text.'
    )


def _kind_of_output(df: DataFrame, verb: str, content: RowContent) -> str:
    if verb != "embed":
        return TEXT
    return VECTOR if content.column is None else VECTORS


def _max_tokens_of(params: Mapping[str, Any]) -> int | None:
    named = (params.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    return next((value for value in named if isinstance(value, int)), None)


def _identity(
    mapper: RowMapper,
    verb: str,
    content: RowContent,
    key: tuple[str, ...],
    columns: Sequence[str] | None,
    options: JobOptions,
) -> dict[str, Any]:
    """What makes two jobs ask the same."""
    model = mapper.response_model
    schema = getattr(model, "model_json_schema", lambda: repr(model))
    return {
        "endpoint": mapper.endpoint,
        "driver_app": [mapper.driver_app, mapper.cluster_id],
        "host": options.get("host"),
        "verb": verb,
        "prompt": mapper.prompt,
        "content": content.column,
        "columns": columns,
        "params": mapper.params,
        "response_model": None if model is None else schema(),
        "key": key,
    }


def _quoted_column(name: str) -> Any:
    quoted = "`" + name.replace("`", "``") + "`"
    return import_packages("pyspark.sql.functions").col(quoted)


def _print(line: str) -> None:
    log.info(line)
    print(line, file=sys.stderr)
