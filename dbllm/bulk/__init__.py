"""Many rows for one model: none lost, none an exception, as many at once as the endpoint takes.

`rows` takes any iterable and gives the results as they come; `RowMapper` is one row's call for Spark, Ray, Dask, Daft.
"""

from __future__ import annotations

from .progress import Item, Progress
from .results import RowError, RowInputError, RowResult
from .row_mapper import RETRY, RowMapper
from .row_stream import PlainRows, Rows, rows, rows_sync

__all__ = [
    "RETRY",
    "Item",
    "PlainRows",
    "Progress",
    "RowError",
    "RowInputError",
    "RowMapper",
    "RowResult",
    "Rows",
    "rows",
    "rows_sync",
]
