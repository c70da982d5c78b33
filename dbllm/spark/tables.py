"""A table as the ledger: what it has is joined, what it lacks is called and appended.

Executors cannot write into a table by themselves, so the answers are there when the job ends, and a task that is tried
again pays its rows again. A folder records every 200 answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .columns import import_packages
from .ledger import LedgerError, key_is_wrong

KEY = "dbllm_key"


def is_table(ledger: str) -> bool:
    """Whether a ledger is named as a table is: `table`, `schema.table` or `catalog.schema.table`."""
    return all(part.isidentifier() for part in ledger.replace("`", "").split("."))


def with_table(
    df: Any,
    table: str,
    job: str,
    key: Sequence[str],
    needed: Sequence[str],
    column: str,
    kind: Any,
    call: Callable[[Any], Any],
    *,
    retry_errors: bool,
) -> Any:
    """The rows with their recorded answers, once those that are missing have been called and recorded.

    Args:
        job: answers of other jobs in the table do not count.
        key: the columns that name a row.
        needed: the columns that the question is made of.
        kind: the type of an answer.
        call: adds the column of answers.

    Raises:
        LedgerError: the table cannot take the answers, or the key names several rows. Nothing was sent.
    """
    functions = import_packages("pyspark.sql.functions")
    spark = df.sparkSession
    named = functions.struct(*(functions.col(f"`{name}`") for name in key))
    keyed = df.withColumn(KEY, functions.sha2(functions.to_json(named), 256))
    _check_table(spark, table, kind)
    if not set(needed) <= set(key):
        asked = functions.to_json(functions.struct(*(functions.col(f"`{name}`") for name in needed)))
        both = (
            keyed.select(KEY, asked.alias("asked"))
            .groupBy(KEY)
            .agg(functions.min("asked").alias("one"), functions.max("asked").alias("other"))
        )
        if both.where("one <> other").limit(1).collect():
            raise LedgerError(key_is_wrong(key))
    missing = keyed.dropDuplicates([KEY])
    known = spark.table(table).where(functions.col("job") == job)
    if retry_errors:
        known = known.where("answer.error IS NULL")
    missing = missing.join(known.select(functions.col("key").alias(KEY)), KEY, "left_anti")
    answered = call(missing).select(
        functions.lit(job).alias("job"), functions.col(KEY).alias("key"), functions.col(f"`{column}`").alias("answer")
    )
    answered.write.mode("append").saveAsTable(table)
    recorded = spark.table(table).where(functions.col("job") == job)
    best = recorded.groupBy(functions.col("key").alias(KEY)).agg(
        functions.expr("max_by(answer, answer.error IS NULL)").alias(column)
    )
    return keyed.join(best, KEY).select(*(functions.col(f"`{name}`") for name in [*df.columns, column]))


def _check_table(spark: Any, table: str, kind: Any) -> None:
    """Make the table if there is none, and see that it takes answers, before any is paid."""
    functions = import_packages("pyspark.sql.functions")
    fields = (("job", "string"), ("key", "string"), ("answer", kind))
    empty = spark.range(0).select(*(functions.lit(None).cast(of).alias(name) for name, of in fields))
    try:
        empty.write.mode("append").saveAsTable(table)
    except Exception as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise LedgerError(
            f"the table {table} cannot be a ledger (columns job, key and answer): {why}. Nothing was sent; name "
            "another."
        ) from error
