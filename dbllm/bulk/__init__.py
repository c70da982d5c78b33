"""Many rows for one model: none lost, none an exception, as many at once as the endpoint takes.

`run` takes a file to a file, and goes on where it was after any crash; `rows` takes any iterable and gives the results
as they come; `RowMapper` is one row's call for Spark, Ray, Dask, Daft.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .display import Status
from .dry_run import Estimate, estimate
from .entry import run, run_sync
from .errors import (
    BadInputError,
    BulkError,
    DiskError,
    EveryRowRefused,
    InputMissingError,
    Interrupted,
    JournalError,
    OutputError,
    TooManyErrors,
)
from .progress import Item, Progress
from .report import Report
from .results import RowError, RowInputError, RowResult
from .row_mapper import RETRY, RowMapper
from .row_stream import PlainRows, Rows, rows, rows_sync

__all__ = [
    "RETRY",
    "BadInputError",
    "BulkError",
    "DiskError",
    "Estimate",
    "EveryRowRefused",
    "InputMissingError",
    "Interrupted",
    "Item",
    "JournalError",
    "OutputError",
    "PlainRows",
    "Progress",
    "Report",
    "RowError",
    "RowInputError",
    "RowMapper",
    "RowResult",
    "Rows",
    "Status",
    "TooManyErrors",
    "estimate",
    "rows",
    "rows_sync",
    "run",
    "run_sync",
]


if not TYPE_CHECKING:  # a type checker finds the mistake by itself

    def __getattr__(name: str) -> object:
        from dbllm._misnomers import missing_name

        raise missing_name(__name__, name, __all__)
