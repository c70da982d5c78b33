"""A job on a cluster, as a program of its own: each row with what was answered, a line of JSON.

`cluster_job.py MASTER HOST ROWS CONCURRENCY TASKS [LEDGER]`: on a cluster there is one executor for each core, which
may be killed while it runs. With a ledger the rows are printed by a second action, too.
"""

from __future__ import annotations

import json
import sys

from pyspark.sql import SparkSession

from dbllm.spark import chat

SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executor.cores": "1",
    "spark.executor.memory": "512m",
    "spark.default.parallelism": "2",
    "spark.python.daemon.module": "tests.spark.daemon",
    "spark.task.maxFailures": "25",
    "spark.ui.enabled": "false",
    "spark.log.level": "OFF",
}


def main(master: str, host: str, number: str, concurrency: str, tasks: str, ledger: str | None = None) -> None:
    builder = SparkSession.builder.master(master)
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    rows = spark.range(int(number)).selectExpr("id", "concat('row ', id) as text")
    limits = {"concurrency": int(concurrency), "tasks": int(tasks)}
    where = {"host": host, "credential": "env:SPARK_WORKERS_TOKEN"}
    answers = chat(rows, "m", prompt="Say {text}", ledger=ledger, key="id", **limits, **where)
    for _ in range(2 if ledger else 1):
        print(json.dumps({row["id"]: row["result"]["output"] for row in answers.collect()}), flush=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
