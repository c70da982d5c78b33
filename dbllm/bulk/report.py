"""What a job came to: values, a short text, and one page of HTML."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from .findings import Slow


class Price(NamedTuple):
    """What a million tokens cost, in any currency."""

    input: float
    output: float

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """What tokens cost."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6

    @classmethod
    def of(cls, pair: Any) -> Price | None:
        """The price that was given, if one was.

        Raises:
            ValueError: it is no pair of numbers, 0 or more.
        """
        try:
            price = None if pair is None else cls(*(float(each) for each in pair))
        except (TypeError, ValueError):
            price = cls(-1, -1)
        if price is not None and not all(0 <= each < math.inf for each in price):
            raise ValueError(f"price must be two numbers, of a million input and output tokens, got {pair!r}.")
        return price


class Sample(NamedTuple):
    """Where the job was at a time."""

    seconds: float
    done: int
    errors: int
    in_flight: int
    limit: int
    tokens: int


@dataclass
class Report:
    """What a job came to, over all runs of it.

    Attributes:
        output: the output's path; None as long as there is none.
        state: "done", or why the job ended early: "interrupted", "too many errors" …
        rows: rows of the input.
        answered, failed: output rows with an answer, and error rows.
        copied: answered rows that were not sent, because an equal row was.
        bad_rows: rows that could not be sent; they are among the failed.
        errors: error rows by class.
        may_be_paid: error rows that may have been paid although no answer came.
        paid_again: how many rows were in flight at a crash: at most so many were paid twice.
        unclear: failed attempts that may have run and been paid, beside an answer or not.
        resumed: rows that earlier runs had done.
        runs, crashes: how many processes worked on the job, and how many of them died.
        quarantined: rows that were in flight at three successive crashes, and became error rows.
        attempts: how often rows were sent.
        input_tokens, output_tokens: the usage that the workspace reported.
        cost: what they cost, if a price was given.
        seconds: how long the job ran, all runs together.
        latency: seconds by share of the rows ("p50", "p95", "p99").
        output_p99: output tokens that 99 % of the answers stayed below.
        notes: what else is worth knowing, in sentences.
        slowest, history: for the page.
    """

    output: Path | None = None
    state: str = "done"
    rows: int = 0
    answered: int = 0
    failed: int = 0
    copied: int = 0
    bad_rows: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    may_be_paid: int = 0
    paid_again: int = 0
    unclear: int = 0
    resumed: int = 0
    runs: int = 0
    crashes: int = 0
    quarantined: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    latency: dict[str, float] = field(default_factory=dict)
    output_p99: int | None = None
    notes: list[str] = field(default_factory=list)
    slowest: list[Slow] = field(default_factory=list)
    history: list[Sample] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every row has an answer."""
        return self.state == "done" and self.failed == 0

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        slowest = [each._asdict() for each in self.slowest]
        history = [each._asdict() for each in self.history]
        output = None if self.output is None else str(self.output)
        return {**asdict(self), "output": output, "slowest": slowest, "history": history}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        same = f" ({self.copied:,} by an equal row)" if self.copied else ""
        lines = [f"{self.answered:,} of {plural(self.rows, 'row', 'rows')} answered{same} in {duration(self.seconds)}"]
        if self.seconds >= 1 and self.answered:
            lines[0] += f", {self.answered / self.seconds:,.1f} rows/s"
        if self.failed:
            lines.append(f"{plural(self.failed, 'error row', 'error rows')}: {by_class(self.errors)}")
        if self.may_be_paid:
            lines.append(
                f"{self.may_be_paid:,} of them may have been paid (may_be_paid); --retry-ambiguous asks them again"
            )
        if self.crashes:
            again = plural(self.paid_again, "row was", "rows were")
            lines.append(f"{plural(self.crashes, 'crash', 'crashes')}: at most {again} paid twice")
        if self.resumed:
            done = plural(self.resumed, "row was", "rows were")
            lines.append(f"{done} done before and not sent again")
        tokens = f"{self.input_tokens:,} input and {self.output_tokens:,} output tokens"
        price = f", cost {money(self.cost)}" if self.cost is not None else ""
        lines.append(f"{tokens}{price}, {plural(self.attempts, 'request', 'requests')}")
        if self.latency:
            lines.append("latency " + ", ".join(f"{name} {seconds(value)}" for name, value in self.latency.items()))
        lines += self.notes
        if self.output is not None:
            lines.append(f"output: {self.output}")
        return lines

    def to_html(self) -> str:
        """One page that needs no other file and runs no script."""
        return html_page(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


# --- words ------------------------------------------------------------------------------------------------------------


def duration(value: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def seconds(value: float) -> str:
    """A latency for people, to two digits."""
    number, unit = (value * 1000, "ms") if value < 0.995 else (value, "s")
    return f"{float(f'{number:.2g}'):g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"


def money(value: float) -> str:
    """An amount, with more digits where it is small."""
    return f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.4g}"


def plural(number: int, one: str, many: str) -> str:
    """A number and its noun."""
    return f"{number:,} {one if number == 1 else many}"


def by_class(errors: dict[str, int]) -> str:
    """Errors by class, the most frequent first."""
    return ", ".join(
        f"{number:,} {name}" for name, number in sorted(errors.items(), key=lambda each: (-each[1], each[0]))
    )


def short(value: float) -> str:
    """A number in few characters: 950, 1.2k, 34k, 5.6M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}" if value < 1000 * limit else f"{value / limit:.0f}{unit}"
    return f"{value:.3g}" if value != round(value) else f"{value:.0f}"


# --- the page ---------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --paper: #ffffff; --line: #d9dee4; --a: #1f6feb; --b: #b35900; --bad: #c0262d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa4b0; --paper: #14171b; --line: #30363d; --a: #6cb0ff; --b: #f0a458; --bad: #ff7b72; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .2rem 0; } .soft { color: var(--soft); } .bad { color: var(--bad); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl div { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .7rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } td.t { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11px; }
svg .grid { stroke: var(--line); } svg .a { stroke: var(--a); fill: none; stroke-width: 1.6; } svg .b { stroke: var(--b); fill: none; stroke-width: 1.6; }
svg .bar { fill: var(--a); } .key { display: inline-block; width: .8rem; height: .2rem; vertical-align: middle; margin: 0 .3rem 0 .8rem; }
""".strip()  # noqa: E501


def html_page(report: Report) -> str:
    """The report as a page. Whatever comes from rows or servers is escaped, and a policy forbids scripts."""
    esc = html.escape
    title = f"{report.output.name if report.output else 'dbllm bulk'}: {report.state}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{esc(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{esc(title)}</h1>",
        *(f"<p{' class=soft' if place else ''}>{esc(line)}</p>" for place, line in enumerate(report._lines())),
        _figures(report),
        "<h2>Rows a second</h2>",
        _over_time(report.history, _rates(report.history), [], "rows/s"),
        '<h2>Concurrency<span class="key" style="background:var(--a)"></span>'
        '<small class="soft">in flight</small><span class="key" style="background:var(--b)"></span>'
        '<small class="soft">limit</small></h2>',
        _over_time(
            report.history, [each.in_flight for each in report.history], [each.limit for each in report.history], ""
        ),
    ]
    if report.latency:
        parts += ["<h2>Latency</h2>", _table(("share of rows", "below"), report.latency.items(), seconds)]
    if report.errors:
        errors = sorted(report.errors.items(), key=lambda each: -each[1])
        parts += ["<h2>Errors</h2>", _table(("class", "rows"), errors, lambda number: f"{number:,}")]
    if report.slowest:
        parts += ["<h2>Slowest rows</h2>", _slowest(report.slowest)]
    return "\n".join([*parts, "</body></html>", ""])


def _figures(report: Report) -> str:
    figures = {
        "answered": f"{report.answered:,}",
        "error rows": f"{report.failed:,}",
        "not sent (equal rows)": f"{report.copied:,}",
        "time": duration(report.seconds),
        "requests": f"{report.attempts:,}",
        "input tokens": f"{report.input_tokens:,}",
        "output tokens": f"{report.output_tokens:,}",
    }
    if report.cost is not None:
        figures["cost"] = money(report.cost)
    if report.crashes:
        figures["paid twice at most"] = f"{report.paid_again:,}"
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items()) + "</dl>"


def _table(titles: tuple[str, str], rows: Any, show: Any) -> str:
    head = f'<tr><th>{titles[0]}</th><th class="n">{titles[1]}</th></tr>'
    body = "".join(
        f'<tr><td>{html.escape(str(name))}</td><td class="n">{show(value)}</td></tr>' for name, value in rows
    )
    return f"<table>{head}{body}</table>"


def _slowest(rows: Sequence[Slow]) -> str:
    numbers = "".join(f'<th class="n">{name}</th>' for name in ("latency", "line", "attempts"))
    head = f"<tr>{numbers}<th>row</th><th>request</th></tr>"
    body = "".join(
        f'<tr><td class="n">{seconds(each.latency)}</td><td class="n">{each.line:,}</td>'
        f'<td class="n">{each.attempts}</td>'
        f'<td class="t">{html.escape(each.text)}</td><td class="t soft">{html.escape(each.request_id)}</td></tr>'
        for each in rows
    )
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _rates(history: Sequence[Sample]) -> list[float]:
    rates = [0.0] if history else []
    for before, after in pairwise(history):
        passed = after.seconds - before.seconds
        rates.append((after.done - before.done) / passed if passed > 0 else 0.0)
    if len(rates) > 1:
        rates[0] = rates[1]
    return rates


_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 900, 200, 46, 20


def _over_time(history: Sequence[Sample], first: Sequence[float], second: Sequence[float], unit: str) -> str:
    """Two lines over time, as SVG."""
    if len(history) < 2:
        return '<p class="soft">The job was too short for a chart.</p>'
    most = max([*first, *second, 1e-9])
    start, end = history[0].seconds, max(history[-1].seconds, history[0].seconds + 1e-9)

    def line(values: Sequence[float], name: str) -> str:
        points = " ".join(
            f"{_LEFT + (each.seconds - start) / (end - start) * (_WIDTH - _LEFT - 8):.1f},"
            f"{8 + (1 - value / most) * (_HEIGHT - _BOTTOM - 8):.1f}"
            for each, value in zip(history, values)  # noqa: B905
        )
        return f'<polyline class="{name}" points="{points}"/>'

    marks = []
    for share in (0.0, 0.5, 1.0):
        y = 8 + (1 - share) * (_HEIGHT - _BOTTOM - 8)
        marks.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}"/>')
        marks.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(most * share)}</text>')
        x = _LEFT + share * (_WIDTH - _LEFT - 8)
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        time = duration(start + share * (end - start))
        marks.append(f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{time}</text>')
    label = f"{unit or 'requests'} over time, at most {short(most)}"
    lines = line(first, "a") + (line(second, "b") if second else "")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(marks)}{lines}</svg>'


def history_of(samples: Sequence[Sequence[float]]) -> list[Sample]:
    """Samples as the manifest keeps them."""
    return [Sample(float(each[0]), *(int(value) for value in each[1:])) for each in samples]


def thinned(samples: list[Sample], most: int = 600) -> list[Sample]:
    """At most so many samples: every second one is left out until they fit, never the last."""
    while len(samples) > most:
        samples = [*samples[:-1:2], samples[-1]]
    return samples


def dump(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(report.as_dict(), ensure_ascii=False)
