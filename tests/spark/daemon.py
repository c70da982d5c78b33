"""Spark's daemon, which forks the Python workers, with what each of them needs of others imported before.

A worker that is killed costs a new one, and these tests kill many: each would import pyarrow and pandas anew. dbllm is
imported in the worker, as everywhere.
"""

from __future__ import annotations

import pandas  # noqa: F401
import pyarrow  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
