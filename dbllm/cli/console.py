"""How the commands talk to people and to other programs: what they read, and how they say that something failed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone

import typer

# A model's words must not move the cursor, retitle the window or hide text: only line ends and tabs pass.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_error(error: object) -> None:
    """One line on the standard error, red on a terminal (unless NO_COLOR is set)."""
    line = f"dbllm: {' '.join(str(error).split())}"
    typer.secho(line, err=True, fg=None if os.environ.get("NO_COLOR") else typer.colors.RED)


@contextmanager
def failures() -> Iterator[None]:
    """What the SDK refuses or a workspace answers becomes one line and exit status 1, without a traceback.

    TypeError and ValueError belong to it: with them the SDK refuses arguments, which here are the user's words.
    """
    from dbllm import DbllmError

    try:
        yield
    except (DbllmError, TypeError, ValueError) as error:
        print_error(error)
        raise typer.Exit(1) from error


def write(text: str, *, end: str = "\n") -> None:
    """Write a model's words at once. On a terminal without control characters; elsewhere as they are."""
    typer.echo((_CONTROL.sub("", text) if sys.stdout.isatty() else text) + end, nl=False)


def write_json(value: object) -> None:
    """Write JSON, in several lines; JSON escapes control characters by itself."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people on a terminal; elsewhere one line a row, its cells separated by tabs, without titles."""
    cells = [[_CONTROL.sub("", str(cell)).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            typer.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))  # no markup: a name may hold brackets
    Console().print(shown)


def format_time(milliseconds: float | None) -> str:
    """A time of the wire, in epoch milliseconds, for people: UTC."""
    if milliseconds is None:
        return ""
    return f"{datetime.fromtimestamp(milliseconds / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}"


def read_stdin() -> str:
    """All of the standard input, as UTF-8, without the line end that `echo` adds.

    Raises:
        ValueError: it is not UTF-8.
    """
    text = sys.stdin.buffer.read().decode("utf-8")
    return text.removesuffix("\n").removesuffix("\r")


def read_argument(words: str) -> str:
    """An argument's text; "-" stands for the standard input."""
    return read_stdin() if words == "-" else words


def interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()
