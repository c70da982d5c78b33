"""`register`: a function for Spark SQL, called as Databricks' `ai_query` with `failOnError => false`."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from dbllm import AsyncClient, ConfigError, Limits
from dbllm._misnomers import explain_keywords

from ..bulk import Item, RowInputError, RowMapper
from ..bulk.failures import failed_result
from ..bulk.requests import VERBS, RowRequest
from ..bulk.row_mapper import sending_once
from .columns import TEXT, VECTOR, arrow_type, import_packages, spark_type, value_of
from .functions import RowContent, slots_of
from .options import JobOptions, check_options, job_limits, mapper_of
from .share import share_of
from .worker import CHUNK_ROWS, TaskPlan, TaskRun

if TYPE_CHECKING:
    from typing_extensions import Unpack

AS_AI_QUERY = {"response": "string", "errorMessage": "string"}
"""The fields that `ai_query` returns with `failOnError => false`; ours follow."""

_HOW = "dbllm_query('dolly', text), or dbllm_query(text) where register was given an endpoint"

_NOT_HERE = {"ledger", "key", "retry_errors", "on_error", "column", "tasks", "max_error_rate"}


@explain_keywords
def register(
    spark: Any,
    name: str = "dbllm_query",
    endpoint: str | None = None,
    *,
    verb: str = "complete",
    **options: Unpack[JobOptions],
) -> Any:
    """Make a function for SQL: `SELECT dbllm_query('dolly', text) FROM rows`.

    Its arguments go by their places: Spark knows no names of them. It returns a struct: response and errorMessage, as
    `ai_query` does with `failOnError => false`, and then the fields of `complete`. Spark may run a query's parts again,
    and then pays again: for large jobs take `complete` with a ledger. Rows stay in order, so a slow one holds up those
    after it.

    Args:
        spark: the session.
        name: the function's name.
        endpoint: the endpoint of all rows; the function then takes the request alone: `dbllm_query(text)`. Default: its
            first argument.
        verb: "complete", "chat", "embed", "predict" or "respond". A request is a text; for `predict` also a
            struct, for `chat` and `respond` also an array of messages (structs with role and content).
        options: see `JobOptions`; `params`, `host`, `credential`, `retry`, `timeout`, and the limits, which the tasks
            that run at once share.

    Returns:
        The function, for DataFrames: `df.select(query(lit("dolly"), df.text))`.

    Raises:
        ValueError, TypeError, ConfigError: an argument cannot be used.
    """
    if not hasattr(type(spark), "udf"):
        raise TypeError(
            f"spark must be the Spark session, got {type(spark).__name__}: register(spark, name, endpoint)."
        )
    if not isinstance(name, str) or not name or set(name) & set(".`"):
        raise ValueError(f"the function's name must be a word for SQL, such as 'dbllm_query', got {name!r}.")
    if verb not in VERBS:
        raise ValueError(f"verb must be one of {', '.join(VERBS)}, got {verb!r}.")
    check_options(options)
    if unusable := sorted(_NOT_HERE & options.keys()):
        raise TypeError(f"{', '.join(unusable)}: a function for SQL has none; dbllm.spark.complete has.")
    fixed = endpoint is not None or options.get("driver_app") is not None
    mapper = mapper_of(options, verb, endpoint) if fixed else QueryMapper(mapper_of(options, verb, "endpoint"))
    share = share_of(job_limits(options), slots := slots_of(spark), tasks=slots)
    if share.tasks < slots:
        raise ValueError(
            f"Spark runs {slots} tasks at once, and the limits allow for {share.tasks}: allow more, or call "
            "dbllm.spark.complete, which runs as few tasks as it must."
        )
    output = VECTOR if verb == "embed" else TEXT
    more = {**AS_AI_QUERY, **({"response": "vector"} if output == VECTOR else {})}
    plan = TaskPlan(uuid.uuid4().hex, mapper, share, RowContent(()), (), output)
    print(f"dbllm.spark: {name}: {share} at most", file=sys.stderr)
    function = import_packages("pyspark.sql.functions").pandas_udf(
        query_function(plan, fixed), spark_type(output, **more)
    )
    return spark.udf.register(name, function.asNondeterministic())


def query_function(plan: TaskPlan, fixed: bool) -> Any:
    """What `pandas_udf` is given: series in, data frames out."""
    pandas = import_packages("pandas")

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        return QueryRows(plan, fixed).run(batches)

    # Spark reads the kind of function from these, not from text.
    series, frame = pandas.Series, pandas.DataFrame
    columns = series if fixed else tuple.__class_getitem__((series, series))
    run.__annotations__ = {
        "batches": Iterator.__class_getitem__(columns),  # type: ignore[attr-defined]
        "return": Iterator.__class_getitem__(frame),  # type: ignore[attr-defined]
    }
    run.__name__ = run.__qualname__ = f"dbllm_query[{plan.share.sum}]"
    return run


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """A row of SQL: the endpoint that it names, and its request."""

    endpoint: Any
    request: Any


class QueryMapper(RowMapper):
    """A `RowMapper` whose rows name their endpoints."""

    def __init__(self, mapper: RowMapper) -> None:
        vars(self).update(vars(mapper))
        self._handles: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_handles": {}}

    async def start(self, limits: Limits | None = None) -> None:
        """Nothing: each endpoint is learnt when its first row comes."""

    def request(self, row: Any) -> RowRequest:
        """What a row asks for; its key is the endpoint."""
        if not isinstance(row.endpoint, str) or not row.endpoint:
            raise RowInputError("the endpoint is NULL or no name.")
        self._handle_of(row.endpoint)
        return replace(super().request(row.request), key=row.endpoint)

    def send(self, handle: Any, request: RowRequest, **options: Any) -> Any:
        """Call the endpoint that the row names."""
        return super().send(self._handle_of(request.key or ""), request, **options)

    def _handle_of(self, name: str) -> Any:
        """The handle of an endpoint. A name that none can have is the mistake of its row."""
        if name not in self._handles:
            client = self._client(AsyncClient)
            try:
                self._handles[name] = sending_once(client.endpoint(name), self.timeout)
            except ConfigError as error:
                raise RowInputError(str(error)) from None
        return self._handles[name]


class QueryRows:
    """Rows of SQL: they leave in the order in which they came, each as soon as those before it are answered."""

    def __init__(self, plan: TaskPlan, fixed: bool) -> None:
        self._plan, self._fixed = plan, fixed
        self._pandas = import_packages("pandas")
        self._names = [*AS_AI_QUERY, *(field.name for field in arrow_type(plan.output))]

    def run(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The results, some rows at a time.

        Raises:
            ConfigError, APIError: the worker has no credential, or there is no such endpoint.
        """
        answered: dict[int, dict[str, Any]] = {}
        ready: list[dict[str, Any]] = []
        first = 0  # the number of the first row that is not ready
        with TaskRun(self._plan, self._read(batches), in_order=True) as task:
            while not task.ended:
                results = task.take(len(ready))
                for result in results:
                    value = value_of(result, self._plan.output)
                    error = value["error"]
                    more = {"response": value["output"], "errorMessage": None if error is None else error["message"]}
                    answered[result.index] = {**more, **value}
                while first in answered:
                    ready.append(answered.pop(first))
                    first += 1
                while task.is_due(len(ready)):
                    leaving, ready = ready[: task.yield_rows], ready[task.yield_rows :]
                    yield self._frame(leaving)
                    task.pass_on(len(leaving))
            if ready:
                yield self._frame(ready)

    def _frame(self, values: list[dict[str, Any]]) -> Any:
        return self._pandas.DataFrame(values, columns=self._names)

    def _read(self, batches: Iterator[Any]) -> Iterator[list[Item]]:
        numbers = count()
        for batch in batches:
            columns = batch if isinstance(batch, tuple) else (batch,)
            if len(columns) != (1 if self._fixed else 2):
                takes = "the request alone" if self._fixed else "an endpoint's name and the request"
                raise TypeError(f"this function takes {takes}, and was called with {len(columns)} arguments: {_HOW}.")
            size = len(columns[0])
            for start in range(0, size, CHUNK_ROWS):
                piece = []
                for place in range(start, min(start + CHUNK_ROWS, size)):
                    values = [_value_at(column, place) for column in columns]
                    number = next(numbers)
                    if isinstance(values[-1], list) and self._plan.output == VECTOR:
                        several = RowInputError("here embed takes one text a row, and got a list: explode it.")
                        piece.append(Item(number, failed_result([several], number, None)))
                    else:
                        piece.append(Item(number, values[0] if self._fixed else EndpointRow(*values)))
                yield piece


def _value_at(column: Any, place: int) -> Any:
    """A value of pandas; a struct, which is a row of a frame, as a dict."""
    if hasattr(column, "columns"):
        return {name: _python_value(column[name].iloc[place]) for name in column.columns}
    return _python_value(column.iloc[place])


def _python_value(value: Any) -> Any:
    """A value of pandas as Python has it."""
    if hasattr(value, "asDict"):  # a struct within another value
        value = value.asDict()
    if isinstance(value, Mapping):
        return {name: _python_value(inner) for name, inner in value.items()}
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, list):
        return [_python_value(inner) for inner in plain]
    return None if isinstance(plain, float) and plain != plain else plain  # NULL is NaN in a column of numbers
