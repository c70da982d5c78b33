"""A table as the ledger: what it has is joined, what it lacks is called and appended.

Executors cannot write into a table by themselves, so the answers are there when the job ends, and a task that is tried
again pays its rows again. A folder records every 200 answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .columns import import_packages, quoted_column
from .ledger import LedgerError

KEY = "dbllm_key"


def is_table(ledger: str) -> bool:
    """Whether a ledger is named as a table is: `table`, `schema.table` or `catalog.schema.table`.

    A part in backticks may be any name.
    """
    part = r"(`[^`/]+`|[^\W\d]\w*)"
    return re.fullmatch(rf"{part}(\.{part}){{0,2}}", ledger) is not None


def with_table(
    df: Any,
    table: str,
    job: str,
    named_by: Sequence[str],
    column: str,
    kind: Any,
    call: Callable[[Any], Any],
    *,
    retry_errors: bool,
) -> Any:
    """The rows with their recorded answers, once those that are missing have been called and recorded.

    Args:
        job: answers of other jobs in the table do not count.
        named_by: the columns that name a row: the user's key, and those that the question is made of.
        kind: the type of an answer.
        call: adds the column of answers.

    Raises:
        LedgerError: the table cannot take the answers. Nothing was sent.
    """
    functions = import_packages("pyspark.sql.functions")
    names = df.columns
    if KEY in (lower := [name.lower() for name in names]) or len(set(lower)) < len(names):
        raise LedgerError(
            f"with a table as the ledger no column may be called {KEY}, and no two alike; the DataFrame's columns: "
            f"{', '.join(names)}. Rename them, or name a folder. Nothing was sent."
        )
    named = functions.struct(*(quoted_column(name) for name in named_by))
    keyed = df.withColumn(KEY, functions.sha2(functions.to_json(named), 256))
    _check_table(df.sparkSession, table, kind)
    recorded = df.sparkSession.table(table).where(functions.col("job") == job)
    known = recorded.where("answer.error IS NULL") if retry_errors else recorded
    missing = keyed.dropDuplicates([KEY]).join(known.select(functions.col("key").alias(KEY)), KEY, "left_anti")
    answered = call(missing).select(
        functions.lit(job).alias("job"), functions.col(KEY).alias("key"), quoted_column(column).alias("answer")
    )
    answered.write.mode("append").saveAsTable(table)
    recorded = df.sparkSession.table(table).where(functions.col("job") == job)
    best = recorded.groupBy(functions.col("key").alias(KEY)).agg(
        functions.expr("max_by(answer, answer.error IS NULL)").alias(column)
    )
    return keyed.join(best, KEY).select(*(quoted_column(name) for name in [*names, column]))


def _check_table(spark: Any, table: str, kind: Any) -> None:
    """Make the table if there is none, and see that it takes answers, before any is paid."""
    functions = import_packages("pyspark.sql.functions")
    fields = (("job", "string"), ("key", "string"), ("answer", kind))
    empty = spark.range(0).select(*(functions.lit(None).cast(of).alias(name) for name, of in fields))
    try:
        empty.write.mode("append").saveAsTable(table)
        spark.table(table).select("job", "key", "answer.error")
    except Exception as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise LedgerError(
            f"the table {table} cannot be a ledger (columns job, key and answer): {why}. Nothing was sent; name "
            "another."
        ) from error
