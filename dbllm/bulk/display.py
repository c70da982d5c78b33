"""What a job shows while it runs: a bar on a terminal, a line in a notebook, elsewhere JSON each ten seconds."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from .report import by_class, duration, money, plural, short

REFRESH_SECONDS = 0.5
JSON_SECONDS = 10.0
_RATE_SECONDS = 60.0


@dataclass
class Status:
    """Where a job is.

    Attributes:
        total: rows to ask, equal rows once.
        done: how many of them have a result, those of earlier runs included.
        before: how many of these had one when this run began.
        failed: error rows of this run.
        errors: the same by class.
        rate: rows a second, lately.
        eta: seconds until the end; None as long as nothing is known.
        in_flight, limit: requests under way, and how many may be.
        waiting: rows that failed and wait for another attempt.
        retries, throttled: requests that were sent again; requests that were turned away.
        input_tokens, output_tokens: the usage so far, earlier runs included.
        cost: what they cost, if a price was given.
        seconds: since this run began.
        state: "reading", "running", "draining", "the disk is full", "writing the output".
    """

    total: int = 0
    done: int = 0
    before: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    rate: float = 0.0
    eta: float | None = None
    in_flight: int = 0
    limit: int = 0
    waiting: int = 0
    retries: int = 0
    throttled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    state: str = "running"

    def as_json(self) -> str:
        """One line of JSON."""
        rounded: dict[str, Any] = {"rate": round(self.rate, 2), "seconds": round(self.seconds, 1)}
        rounded |= {"eta": None if self.eta is None else round(self.eta, 1)}
        return json.dumps({**asdict(self), **rounded})


class Pace:
    """The rate and the time that is left, by what happened in the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """So many rows are done now."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RATE_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Rows a second."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else 0.0

    def left(self, rows: int) -> float | None:
        """Seconds for so many more rows; None without a rate."""
        return rows / self.rate if self.rate > 0 else None


def status_lines(status: Status, width: int) -> list[str]:
    """What a terminal of that width shows: two lines, a third if there are errors, none longer than the width."""
    if status.state == "reading":
        return [f"reading the input: {status.done:,} rows"[:width]]
    share = status.done / status.total if status.total else 1.0
    eta = f"{duration(status.eta)} left" if status.eta is not None else ""
    counts = f"{status.done:,}/{status.total:,}"
    words = [f"{int(share * 100):3}%", counts, eta if status.state == "running" else status.state]
    after = "  ".join(word for word in words if word)
    room = min(40, width - len(after) - 1)
    first = after if room < 8 else f"{_bar(share, room)} {after}"
    facts = [f"{short(status.rate)} rows/s", f"{status.in_flight} of {status.limit} in flight"]
    facts += [f"{short(status.input_tokens)} in, {short(status.output_tokens)} out tokens"]
    facts += [f"cost {money(status.cost)}"] if status.cost is not None else []
    facts += [f"{short(status.waiting)} waiting"] if status.waiting else []
    facts += [f"{short(status.throttled)} throttled"] if status.throttled else []
    second = ""
    for fact in facts:  # what does not fit is left out whole
        longer = f"{second} · {fact}" if second else fact
        if len(longer) <= width:
            second = longer
    lines = [first[:width], second]
    if status.failed:
        text = f"{plural(status.failed, 'error', 'errors')}: {by_class(status.errors)}"
        lines.append(text if len(text) <= width else text[: width - 1] + "…")
    return lines


def _bar(share: float, width: int) -> str:
    eighths = int(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")).ljust(width, "░")


def status_line(status: Status) -> str:
    """All of it in one line, for a notebook."""
    lines = status_lines(status, 78)
    return " · ".join([lines[0].lstrip("█▏▎▍▌▋▊▉░ "), *lines[1:]])


Show = Callable[[Status], object]


@contextmanager
def display(wanted: bool | Show | None, *, json_lines: bool = False, stream: TextIO | None = None) -> Iterator[Show]:
    """A function that shows a status, whichever way suits where this runs. A terminal that is gone ends no job.

    Args:
        wanted: False shows nothing; a function gets each status; None shows on a terminal and in a notebook, True also
            elsewhere.
        json_lines: whether elsewhere means a line of JSON each ten seconds.
    """
    if callable(wanted):
        yield wanted
        return
    shown = _display(wanted, json_lines, stream if stream is not None else sys.stderr)
    show, is_gone = shown.__enter__(), False

    def show_if_it_can(status: Status) -> None:
        nonlocal is_gone
        if not is_gone:
            try:
                show(status)
            except (OSError, ValueError):  # a closed pipe, a terminal that hung up, a closed file
                is_gone = True

    try:
        yield show_if_it_can
    finally:
        with suppress(OSError, ValueError):
            shown.__exit__(None, None, None)


@contextmanager
def _display(wanted: bool | None, json_lines: bool, out: TextIO | None) -> Iterator[Show]:
    if wanted is False or out is None:
        yield lambda status: None
    elif out.isatty() and os.environ.get("TERM") != "dumb":
        with _terminal(out) as show:
            yield show
    elif "ipykernel" in sys.modules:
        with _notebook(sys.stdout) as show:
            yield show
    elif wanted or json_lines:
        yield _JsonLines(out)
    else:
        yield lambda status: None


@contextmanager
def _terminal(out: TextIO) -> Iterator[Show]:
    """Lines that stay in place, drawn by rich; without rich one line."""
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        with _notebook(out) as show:
            yield show
        return
    color = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(file=out, color_system=color, highlight=False)  # type: ignore[arg-type]
    if not _takes(out, "█…·"):
        with _notebook(out) as show:
            yield show
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def draw(status: Status) -> None:
            lines = status_lines(status, max(20, console.width))
            text = Text("\n".join(lines[:2]), no_wrap=True, overflow="crop")
            for line in lines[2:]:
                text.append("\n" + line, style="red")
            live.update(text, refresh=True)

        yield draw


def _takes(out: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@contextmanager
def _notebook(out: Any) -> Iterator[Show]:
    """One line that is written again over itself; it needs no widgets."""
    last = ""

    def show(status: Status) -> None:
        nonlocal last
        line = status_line(status)
        if not _takes(out, line):
            line = line.encode("ascii", "replace").decode()
        width = shutil.get_terminal_size().columns - 1 if out.isatty() else 200
        line = line[:width]
        out.write(f"\r{line}{' ' * max(0, len(last) - len(line))}")
        out.flush()
        last = line

    try:
        yield show
    finally:
        if last:
            out.write("\n")
            out.flush()


class _JsonLines:
    """One line of JSON each ten seconds, and one at the end."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._due = out, JSON_SECONDS

    def __call__(self, status: Status) -> None:
        if status.seconds >= self._due or status.state == "done":
            self._due = status.seconds + JSON_SECONDS
            print(status.as_json(), file=self._out, flush=True)
