"""How the commands talk to people and to other programs: what they read and print, and how they report a failure."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import select
import shutil
import stat
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

# A server's words must not move the cursor, retitle the window or hide text: only line ends and tabs pass.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


PIPE_SECONDS = 1.0
"""Seconds that a pipe beside an argument may be silent before it is told that it is waited for."""

LEAST_WIDTH = 5
"""Letters that a table's column beside the names has at least."""


def prepare_streams() -> None:
    """Let the standard streams be used: whatever their encoding is, and although one may be closed."""
    codecs.register_error("json_escape", _json_escape)
    # A closed stream is opened the wrong way round: its use fails as on a closed one, and no socket gets its number.
    for name, flags, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8", closefd=False))
    if getattr(sys.stdout, "errors", "") in ("strict", "surrogateescape", "backslashreplace"):
        sys.stdout.reconfigure(errors="json_escape")  # type: ignore[union-attr]


def _json_escape(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks (an emoji, half a surrogate pair) so that text stays readable, and JSON is JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def decode_argument(words: str) -> str:
    """An argument as the UTF-8 that it is, also where the terminal's settings have another encoding."""
    if not any("\udc80" <= letter <= "\udcff" for letter in words):
        return words
    try:
        return os.fsencode(words).decode("utf-8")
    except UnicodeError:
        return words


def drop_unwritten() -> None:
    """Drop what a standard stream did not take: the interpreter would try it once more, and show a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_plain(stream: TextIO) -> bool:
    """Whether a stream gets text alone, without colours: it is no terminal, or NO_COLOR or TERM say so."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")


def colored(text: str, color: str, stream: TextIO) -> str:
    """Text in a colour, if the stream shows colours."""
    return text if is_plain(stream) else typer.style(text, fg=color)


def printable(text: object) -> str:
    """Text without control characters, except line ends and tabs."""
    return _CONTROL.sub("", str(text))


def wrapped(text: str, stream: TextIO, indent: str = "") -> str:
    """Text as a terminal shows it, with no word and no name cut at the end of a line; for other programs as it is."""
    if not stream.isatty():
        return text
    width = max(20, shutil.get_terminal_size().columns)
    folded = (
        textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )
    return "\n".join("\n".join(lines) for lines in folded)


class _Line:
    """Whether the terminal's last line, which is part of an answer, has not ended yet."""

    open = False


def end_line() -> None:
    """End the line of a streamed answer on the terminal, so that what comes stands on a line of its own."""
    if _Line.open and sys.stderr.isatty():
        with suppress(OSError):
            write("")


def note(text: str, color: str = "") -> None:
    """Write a line to the standard error."""
    end_line()
    text = wrapped(text, sys.stderr)
    with suppress(OSError):  # nobody can be told
        typer.echo(colored(text, color, sys.stderr) if color else text, err=True)


def print_error(error: object) -> None:
    """One line on the standard error, red on a terminal, in the terminal's words.

    An OSError is a file's, or else the standard output's.
    """
    from dbllm.cli.words import in_terminal_words  # here: no command needs it that does not fail

    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}."
    elif isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        error = f"the standard output cannot be written: {reason}. Redirect it to a file, or to {os.devnull}."
    else:
        unreached = any(one.__name__ == "APIConnectionError" for one in type(error).__mro__)  # without importing it
        advice = " `dbllm doctor` shows how far a call gets." if unreached else ""
        error = in_terminal_words(str(error)) + advice
    note(f"dbllm: {printable(' '.join(str(error).split()))}", typer.colors.RED)


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 call, 2 calls."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def join_surrogates(text: str, *, lone: str = "surrogatepass") -> str:
    """Text in which the two halves of a surrogate pair are one character; `lone` decides about a half alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", lone)


def write(text: str, *, end: str = "\n") -> None:
    """Write text at once: to a terminal without control characters, elsewhere as it is."""
    shown = sys.stdout.isatty()
    text = (printable(text) if shown else text) + end
    sys.stdout.write(text)
    sys.stdout.flush()
    if text:
        _Line.open = shown and not text.endswith("\n")


def end_text(rest: str = "") -> None:
    """End a text that was written in pieces; on a terminal its line may have ended for a note."""
    if rest or _Line.open or not sys.stdout.isatty():
        write(rest)


def write_bytes(data: bytes) -> None:
    """Write bytes as they are."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def announce(*lines: str) -> None:
    """Write what a server says when it is ready. It runs on although nobody can read it."""
    try:
        write("\n".join(lines))
    except OSError as error:
        print_error(error)
        drop_unwritten()


def write_json(value: object, *, indent: int | None = 2) -> None:
    """Write JSON, answers of the SDK included; JSON escapes control characters by itself, except DEL and C1."""
    text = json.dumps(
        value,
        ensure_ascii=False,
        indent=indent,
        default=lambda answer: answer.model_dump(mode="json", exclude_unset=True),
    )
    write(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def show(value: object, titles: Sequence[str], rows: Sequence[Sequence[object]], *, as_json: bool) -> None:
    """Print JSON; or a table on a terminal, and elsewhere a line for each row, with tabs and without titles."""
    if as_json:
        write_json(value)
        return
    cells = [[" ".join(re.split(r"[\n\t]", printable(cell))) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            write("\t".join(row))
        return
    from rich.table import Table
    from rich.text import Text

    console = rich_console()
    # A name that is cut or folded is no name, nor is a state or a task: no column is narrower than its longest word.
    columns = list(zip(*cells, strict=True)) or [()] * len(titles)
    least = [max(map(len, columns[0]), default=0)]
    least += [max([LEAST_WIDTH, *(len(word) for cell in column for word in cell.split())]) for column in columns[1:]]
    least = [max(len(title), width) for title, width in zip(titles, least, strict=True)]
    if sum(least) + 2 * (len(titles) - 1) > console.width:  # the name on a line of its own, and the rest below
        indent: Any = {"initial_indent": "  ", "subsequent_indent": "  "}
        for row in cells:
            rest = "  ".join(filter(None, row[1:]))
            whole = textwrap.wrap(rest, console.width, break_on_hyphens=False, break_long_words=False, **indent)
            write("\n".join([row[0], *whole]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(titles))
    for place, title in enumerate(titles):
        table.add_column(title, overflow="fold", no_wrap=place == 0, min_width=least[place])
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # no markup: a name may hold brackets
    console.print(table)


def rich_console() -> Console:
    """The standard output for rich, with colours if it shows them."""
    from rich.console import Console

    color = None if is_plain(sys.stdout) else "auto"
    return Console(color_system=color, highlight=False)  # type: ignore[arg-type]


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on the standard error, for as long as the block lasts, where that is a terminal; else None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    color = None if is_plain(sys.stderr) else "auto"
    console = Console(stderr=True, color_system=color, highlight=False)  # type: ignore[arg-type]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, _total: bar.update(task, completed=done)


def format_time(milliseconds: float | None) -> str:
    """A time of the wire, in epoch milliseconds, for people: UTC."""
    if milliseconds is None:
        return ""
    return f"{datetime.fromtimestamp(milliseconds / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}"


def read_stdin(instead_of: str = "") -> str:
    """All of the standard input as text, without the line end that `echo` adds; of an argument that was left out.

    Raises:
        ValueError: it is empty, cannot be read, or is no text.
    """
    if sys.stdin.isatty():
        note(f"Reading the standard input; {'Ctrl-Z and Enter end' if os.name == 'nt' else 'Ctrl-D ends'} it.")
    try:
        text = decode_text(sys.stdin.buffer.read(), "the standard input")
    except OSError as error:
        raise ValueError(f"the standard input cannot be read: {error.strerror}. Pipe text into it.") from None
    if not (text := text.removesuffix("\n").removesuffix("\r")):
        if instead_of:
            raise ValueError(
                f"{instead_of} is missing, the standard input is empty, and nothing was sent. Pipe text into it, or "
                f"give {instead_of}."
            )
        raise ValueError("the standard input is empty, and nothing was sent. Pipe text into it.")
    return text


def decode_text(data: bytes, source: str) -> str:
    """Bytes as text: UTF-8, or what a byte order mark says; the mark is no part of the text.

    Raises:
        ValueError: it is no text. The message does not show it, for it may be a secret.
    """
    encoding = json.detect_encoding(data)  # by the mark; without one it guesses as well, which would spoil a secret
    if encoding not in ("utf-8-sig", "utf-16", "utf-32"):
        encoding = "utf-8"
    try:
        text = data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is no text in {encoding} (at byte {error.start}): save it as UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"{source} has NUL characters, as UTF-16 without a byte order mark has: save it as UTF-8.")
    return text


def read_pipe() -> str:
    """What was piped in beside an argument, or "" where nothing was; without the line end that `echo` adds.

    A terminal is not read, nor a file that somebody read from before (the loop `while read … done < file`).

    Raises:
        ValueError: it is no text.
    """
    try:
        if sys.stdin.isatty() or not _has_text_for_us(sys.stdin.fileno()):
            return ""
    except OSError:  # it is closed, or not of the system's
        if not isinstance(getattr(sys.stdin, "buffer", None), io.BytesIO):
            return ""
    text = decode_text(sys.stdin.buffer.read(), "the standard input")
    return text.removesuffix("\n").removesuffix("\r")


def _has_text_for_us(number: int) -> bool:
    kind = os.fstat(number).st_mode
    if stat.S_ISREG(kind):
        return os.lseek(number, 0, os.SEEK_CUR) == 0
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return False  # /dev/null, for one
    if os.name == "posix" and not select.select([number], [], [], PIPE_SECONDS)[0]:
        note("Reading the standard input, a pipe, until it ends; </dev/null leaves it out.")
    return True


def with_pipe(words: str | None, what: str) -> str:
    """A text of an argument, then an empty line and what was piped in; "-" stands for the pipe alone, as None does.

    Raises:
        ValueError: there is no text at all, or it cannot be read; `what` is the argument's name.
    """
    if words is None or words == "-":
        return read_stdin("" if words else what)
    text = "\n\n".join(filter(None, (words, read_pipe())))
    if not text:
        raise ValueError(f"{what} is empty, and nothing was sent. Give it a text, or pipe one in.")
    return text


def read_argument(words: str) -> str:
    """An argument's text; "-" stands for the standard input."""
    return read_stdin() if words == "-" else words


def load_json(text: str, rows: str = "") -> dict[str, Any]:
    """A JSON object from an argument, a file (@FILE) or the standard input (-); with `rows`, a list goes in that field.

    Raises:
        ValueError: it is something else, or the file cannot be read. The message does not show it: it may hold a key.
    """
    source = "the standard input" if text == "-" else text[1:] if text.startswith("@") else "the argument"
    try:
        text = decode_text(Path(source).read_bytes(), source) if text.startswith("@") else read_argument(text)
    except OSError as error:
        raise ValueError(
            f"{source or '@'} cannot be read: {error.strerror}. Write @FILE, JSON, or - for stdin."
        ) from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {error}. Write @FILE, JSON in quotes, or - for stdin.") from None
    if rows and isinstance(value, list):
        return {rows: value}
    if not isinstance(value, dict):
        raise ValueError(f'{source} is a JSON {type(value).__name__}; an object is needed, such as {{"inputs": [1]}}.')
    return value
