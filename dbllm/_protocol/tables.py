"""Data as people hold it (pandas, polars, pyarrow, numpy) in the forms of MLflow's scoring protocol. Pure.

It is known by what it can do, so none of these libraries is imported, and others of their kind do as well. A missing
value (None, NaN, NaT, NA) is null. What JSON has no form for is an error that names the column and the row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from .._misnomers import by_kind
from .json_encoder import plain_step


@dataclass(eq=False, repr=False)
class Table:
    """Named columns, and the rows below them. `index` has a name for each row, if they are not numbered."""

    columns: list[str | int]
    rows: list[list[Any]]
    index: list[Any] | None

    def records(self) -> list[dict[str, Any]]:
        """The rows as JSON objects."""
        names = [str(name) for name in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def scoring_form(data: object) -> dict[str, Any]:
    """The input form that fits some data: a table is `dataframe_split`, an array `inputs`, a list of dicts
    `dataframe_records`.

    Raises:
        TypeError: it is something else, or has a value that JSON has no form for.
        ValueError: it has no columns that can be named, or a number that is not finite.
    """
    if (table := read_table(data)) is not None:
        index = {} if table.index is None else {"index": table.index}
        return {"dataframe_split": {**index, "columns": table.columns, "data": table.rows}}
    if isinstance(data, (list, tuple)) and all(isinstance(row, Mapping) for row in data):
        return {
            "dataframe_records": [
                {name: _plain_cell(f"column {name!r}, row {place}", value) for name, value in row.items()}
                for place, row in enumerate(data)
            ]
        }
    if _has(data, "shape", "dtype") and not _is_series(data):
        return {"inputs": data}
    advice = ""
    if _is_series(data):
        advice = " Of one column make a table first: series.to_frame()."
    elif _has(data, "collect"):
        advice = " Call its collect() (or toPandas()) first."
    elif isinstance(data, Mapping):
        advice = " For one row pass [row]; for a whole request predict(**request); for named tensors inputs=."
    elif isinstance(data, (list, tuple)):
        advice = " For other lists there are inputs= and instances=; of models pass [row.model_dump() for row in rows]."
    raise TypeError(
        f"predict() takes a pandas or polars DataFrame, a numpy array or a list of dicts, "
        f"not {type(data).__name__}.{advice or by_kind('rows', data)}"
    )


_NO_FORMS = {"dataframe_records": (str, bytes, dict), "dataframe_split": (str, bytes)}


def named_form(name: str, value: object) -> object:
    """The value of an input form; a table that was passed by the form's name is brought into that form."""
    if isinstance(value, _NO_FORMS.get(name, ())):
        raise TypeError(f"{name}= does not take {type(value).__name__}.{by_kind('rows', value)}")
    if isinstance(value, (dict, list)) or (table := read_table(value)) is None:
        return value
    if name == "dataframe_split":
        return scoring_form(value)[name]
    if name == "inputs":
        columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.columns)
        return {str(column): [*values] for column, values in zip(table.columns, columns, strict=True)}
    return table.records()


def read_table(data: Any) -> Table | None:
    """A data frame (pandas, polars, pyarrow and their like) as a table of plain JSON; None if it is none.

    Raises:
        TypeError, ValueError: as for `scoring_form`.
    """
    if _has(data, "iloc", "columns"):
        names, columns = data.columns.tolist(), [data.iloc[:, place].tolist() for place in range(data.shape[1])]
    elif _has(data, "iter_rows", "columns"):
        names, columns = [*data.columns], [column.to_list() for column in data.get_columns()]
    elif _has(data, "column_names", "to_pylist"):
        names, columns = [*data.column_names], [column.to_pylist() for column in data.columns]
    else:
        return None
    known: set[str] = set()
    for place, name in enumerate(names):
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            advice = "name the columns with text first, such as df.columns = [...]."
            raise ValueError(f"column {place} of the table is called {name!r}, and a name in JSON is text: {advice}")
        if str(name) in known:
            raise ValueError(f"the table has two columns {str(name)!r}, which no model could tell apart: rename one.")
        known.add(str(name))
    plain = [_plain_column(f"column {name!r}", values) for name, values in zip(names, columns, strict=True)]
    rows = [[*row] for row in zip(*plain, strict=True)] if plain else [[] for _ in range(len(data))]
    return Table(names, rows, _row_names(getattr(data, "index", None), len(rows)))


def _row_names(index: Any, rows: int) -> list[Any] | None:
    """What the rows are called; nothing if they are numbered from 0, which is what a model's server assumes."""
    if index is None or not hasattr(index, "tolist"):
        return None
    if getattr(index, "nlevels", 1) > 1:
        raise ValueError("the table's rows have names of several levels: make columns of them with df.reset_index().")
    names = index.tolist()
    return None if names == [*range(rows)] else _plain_column("the index", names)


_AS_IT_IS = frozenset({str, int, bool, type(None)})


def _plain_column(what: str, values: Iterable[Any]) -> list[Any]:
    return [
        value
        if (kind := type(value)) in _AS_IT_IS or (kind is float and math.isfinite(value))
        else _plain_cell(f"{what}, row {row}", value)
        for row, value in enumerate(values)
    ]


def _plain_cell(place: str, value: Any) -> Any:
    try:
        return _plain_value(value)
    except RecursionError:
        raise ValueError(f"{place}: it is nested too deep, or in itself.") from None
    except (TypeError, ValueError) as flaw:
        if isinstance(flaw, TypeError):
            raise TypeError(f"{place}: {flaw}") from None
        raise ValueError(f"{place}: {flaw}") from None


def _plain_value(value: Any) -> Any:
    """A value of a cell as plain JSON."""
    if isinstance(value, (str, int)) or value is None:
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(
                f"JSON has no form for {float(value)}: replace it, by None where it means a missing value."
            )
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {name: _plain_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    if isinstance(value, (set, frozenset)):
        raise TypeError("a set has no order, and a list has one: pass sorted(value).")
    return _plain_value(plain_step(value))


def _is_series(data: object) -> bool:
    """Whether it is one column of a data frame: pandas' or polars'."""
    return _has(data, "to_frame") and not _has(data, "columns")


def _has(data: object, *names: str) -> bool:
    """Whether its class has these attributes; they are not read, for some libraries warn then."""
    return all(hasattr(type(data), name) for name in names)


_NO_LISTS = (bytes, bytearray, Mapping, BaseModel)


def read_texts(texts: Any) -> list[str]:
    """The texts to embed, as a list: one str, or any iterable of them in a fixed order; a column or an array, too.

    Raises:
        TypeError: something else; it names the first item that is no text.
        ValueError: no text at all.
    """
    kind, what = type(texts).__name__, "embed() takes a text, or several in a list, a column, an array or an iterator"
    if isinstance(texts, str):
        return [str(texts)]
    if _has(texts, "columns") or _has(texts, "column_names"):
        raise TypeError(f"{what}, not a whole {kind}: pass one column of it, such as df['text'].")
    if isinstance(texts, (set, frozenset)):
        raise TypeError(f"{what}, not a {kind}: it has no order that the vectors could have. Pass sorted(texts).")
    if isinstance(texts, _NO_LISTS) or not (hasattr(texts, "__iter__") or hasattr(texts, "tolist")):
        advice = " Collect its items in a list first." if hasattr(texts, "__aiter__") else by_kind("text", texts)
        raise TypeError(f"{what}, not {kind}.{advice}")
    lists = (getattr(texts, name, None) for name in ("tolist", "to_list", "to_pylist"))
    method = next((method for method in lists if callable(method)), None)
    items = method() if method else texts
    items = [items] if isinstance(items, str) else [*items] if isinstance(items, Iterable) else [items]
    for place, item in enumerate(items):
        if not isinstance(item, str):
            missing, section = ("missing", "missing text") if _is_missing(item) else (type(item).__name__, "text")
            raise TypeError(f"{what}; item {place} of the {kind} is {missing} and no text.{by_kind(section, item)}")
    if not items:
        raise ValueError(f"embed() needs at least one text, and the {kind} has none: skip the call then.")
    return [str(item) for item in items]


def _is_missing(value: object) -> bool:
    try:
        return not isinstance(value, (list, tuple, Mapping)) and _plain_value(value) is None
    except (TypeError, ValueError):
        return False
