"""A table as the ledger: what it has is joined, what it lacks is called and appended.

Executors cannot write into a table by themselves, so the answers are there when the job ends, and a task that is tried
again pays its rows again. A folder records every 200 answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .columns import import_packages

KEY = "dbllm_key"


def is_table(ledger: str) -> bool:
    """Whether a ledger is named as a table is: `table`, `schema.table` or `catalog.schema.table`."""
    return all(part.isidentifier() for part in ledger.replace("`", "").split("."))


def with_table(
    df: Any, table: str, job: str, key: Sequence[str], column: str, call: Callable[[Any], Any], *, retry_errors: bool
) -> Any:
    """The rows with their recorded answers, once those that are missing have been called and recorded.

    Args:
        job: answers of other jobs in the table do not count.
        key: the columns that name a row.
        call: adds the column of answers.
    """
    functions = import_packages("pyspark.sql.functions")
    spark = df.sparkSession
    named = functions.struct(*(functions.col(f"`{name}`") for name in key))
    keyed = df.withColumn(KEY, functions.sha2(functions.to_json(named), 256))
    missing = keyed.dropDuplicates([KEY])
    if spark.catalog.tableExists(table):
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
