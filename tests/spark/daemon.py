"""Spark's daemon, which forks the Python workers, with what each of them needs of others imported before.

A worker that is killed or fails costs a new one, and these tests have many: each would import pyarrow, pandas and what
dbllm needs anew. dbllm is imported in the worker, as everywhere.
"""

from __future__ import annotations

import anyio.to_thread  # noqa: F401
import httpx  # noqa: F401
import pandas  # noqa: F401
import pyarrow  # noqa: F401
import pydantic.json_schema  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
