"""A model's answer for each of 500 rows of a Spark table, by one call and through SQL, on the local workspace's model.

pip install 'dbllm[local,spark]'          # and a Java: apt-get install openjdk-17-jre-headless
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python spark_table.py
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile

from dbllm import DbllmError
from dbllm.spark import chat, java_home, register

ROWS = int(os.environ.get("ROWS", "500"))


def main() -> None:
    os.environ["JAVA_HOME"], os.environ["PYSPARK_PYTHON"] = str(java_home()), sys.executable
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    rows = spark.range(ROWS).selectExpr("id", "concat('What is ', id div 10, ' years old?') AS text")

    with tempfile.TemporaryDirectory() as ledger:
        options = {"params": {"max_tokens": 3, "temperature": 0}, "concurrency": 4}
        answers = chat(rows, "smollm2-chat", prompt="text", ledger=ledger, key="id", **options)
        answers.selectExpr("id", "result.output", "result.usage.output_tokens", "result.error").show(5, truncate=False)
        print("answered:", answers.where("result.error IS NULL").count())  # the ledger has them: nothing is paid again

    register(spark, "dbllm_query", **options)
    rows.createOrReplaceTempView("rows")
    asked = spark.sql("SELECT id, dbllm_query('smollm2-chat', text) AS answer FROM rows")
    print("answered through SQL:", asked.where("answer.errorMessage IS NULL").count())
    spark.stop()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        main()
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
