"""How replies show themselves: short on a prompt and in a log, as text or a table in a notebook. Pure."""

from __future__ import annotations

import html
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MOST_ITEMS = 20  # of a list that are shown on a prompt
MOST_ROWS = 50  # of a table that are shown in a notebook
MOST_COLUMNS = 20
MOST_LETTERS = 20_000  # of a text that are shown in a notebook

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxarray = 3
_SHORT.maxdict, _SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 4, 3, 80, 40, 160


class Shown(str):
    """Text that stands in a repr as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def brief(value: object) -> Shown:
    """A value in a few words."""
    return value if isinstance(value, Shown) else Shown(_SHORT.repr(value))


def attributes(thing: object, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Those attributes that say something; one that cannot be read is left out."""
    for name in names:
        try:
            value = getattr(thing, name)
        except (AttributeError, LookupError, TypeError, ValueError):  # it is not whole: a repr shows what there is
            continue
        if value is not None and (value or not isinstance(value, (str, list, dict))):
            yield name.lstrip("_"), value


class Listing(list[T]):
    """A list that shows its items one a line, and in a notebook as a table. A copy or a pickle of it is a list."""

    def __repr__(self) -> str:
        shown = [repr(item) for item in self[:MOST_ITEMS]]
        more = [f"… and {len(self) - MOST_ITEMS:,} more"] if len(self) > MOST_ITEMS else []
        return f"[{(',' + chr(10) + ' ').join([*shown, *more])}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, ([*self],)

    def _repr_html_(self) -> str:
        facts = [dict(item._attributes()) for item in self[:MOST_ROWS]]  # type: ignore[attr-defined]  # models
        titles = [*dict.fromkeys(name for fact in facts for name in fact)]
        rows = [[fact.get(title, "") for title in titles] for fact in facts]
        return html_table(titles, rows, len(self))


def html_text(text: str, facts: Mapping[str, object], aside: str = "") -> str:
    """A text for a notebook, and small below it what is known of the call; `aside` can be unfolded above it.

    All of it is escaped: what a model or a server wrote runs nowhere, and loads nothing.
    """
    folded = f"<details><summary>reasoning</summary>{_block(aside)}</details>" if aside else ""
    return f"<div>{folded}{_block(text)}{_facts(facts)}</div>"


def html_table(
    titles: Sequence[object], rows: Sequence[Sequence[object]], total: int, facts: Mapping[str, object] | None = None
) -> str:
    """A table for a notebook, of the first rows and columns; `total` says how many rows there are. All is escaped."""
    titles = [*titles[:MOST_COLUMNS], *(["…"] if len(titles) > MOST_COLUMNS else [])]
    head = "".join(f"<th>{_escaped(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, row[:MOST_COLUMNS]))}</tr>" for row in rows[:MOST_ROWS])
    more = f"<p>… and {total - MOST_ROWS:,} more rows</p>" if total > MOST_ROWS else ""
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}{_facts(facts or {})}</div>"


def _block(text: str) -> str:
    cut = "…" if len(text) > MOST_LETTERS else ""
    return f'<pre style="white-space: pre-wrap">{_escaped(text[:MOST_LETTERS])}{cut}</pre>' if text else ""


def _cell(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    text = value[:200] if isinstance(value, str) else f"{value:.5g}" if isinstance(value, float) else _SHORT.repr(value)
    return f'<td style="text-align: left">{_escaped(text)}</td>'


def _facts(facts: Mapping[str, object]) -> str:
    said = " · ".join(f"{_escaped(name)}: {_escaped(value)}" for name, value in facts.items() if value is not None)
    return f"<small>{said}</small>" if said else ""


def _escaped(value: object) -> str:
    return html.escape(str(value))


def prediction_table(predictions: object) -> tuple[list[Any], list[list[Any]]]:
    """The columns and the rows of a custom model's answer, whatever its form.

    Rows that are objects have the columns of all of them; lists have numbered ones; a plain value is the column
    "prediction". An object of lists of one length is columns, and any other value is one row.
    """
    rows: list[Any] = predictions if isinstance(predictions, list) else [predictions]
    if isinstance(predictions, dict) and predictions:
        lists = [value for value in predictions.values() if isinstance(value, list)]
        if len(lists) == len(predictions) and len({len(value) for value in lists}) == 1:
            return [*predictions], [list(row) for row in zip(*lists, strict=True)]
    if rows and all(isinstance(row, dict) for row in rows):
        names = [*dict.fromkeys(name for row in rows for name in row)]
        return names, [[row.get(name) for name in names] for row in rows]
    if rows and all(isinstance(row, list) for row in rows):
        width = max(map(len, rows))
        return [*range(width)], [[*row, *[None] * (width - len(row))] for row in rows]
    return ["prediction"], [[row] for row in rows]
