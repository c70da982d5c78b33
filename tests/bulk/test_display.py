"""What a job shows: never wider than the terminal, one line in a notebook, JSON elsewhere; and the page about it."""

from __future__ import annotations

import html.parser
import io
import json
import random
import sys
import time
from pathlib import Path

import pytest
from support.jobs import SIZE

from dbllm.bulk import Report, Status
from dbllm.bulk.display import REFRESH_SECONDS, Pace, display, status_line, status_lines
from dbllm.bulk.findings import Slow
from dbllm.bulk.report import Sample, duration, money, seconds, short, thinned

BUSY = Status(
    total=1_234_567,
    done=345_678,
    failed=1234,
    errors={"RateLimitError": 1000, "BadRequestError": 234},
    rate=734.2,
    eta=1211.0,
    in_flight=128,
    limit=160,
    waiting=12,
    throttled=345,
    input_tokens=123_456_789,
    output_tokens=9_876_543,
    cost=123.45,
    seconds=471.0,
)
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class Screen(io.StringIO):
    """A terminal of a width, as a stream."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_no_line_is_wider_than_the_terminal_and_the_facts_are_there() -> None:
    wide = status_lines(BUSY, 200)
    assert "345,678/1,234,567" in wide[0]
    assert "20 min 11 s left" in wide[0]
    for fact in ("734 rows/s", "128 of 160 in flight", "123M in, 9.88M out tokens", "cost 123.45", "345 throttled"):
        assert fact in wide[1]
    assert wide[2] == "1,234 errors: 1,000 RateLimitError, 234 BadRequestError"
    for status in (BUSY, Status(), Status(total=10, done=10), Status(state="reading", done=5)):
        for width in (20, 40, 60, 80, 200):
            assert all(len(line) <= width for line in status_lines(status, width)), (status, width)
    assert "345,678/1,234,567" in status_lines(BUSY, 60)[0]
    assert "rows/s" in status_lines(BUSY, 60)[1]


def test_a_terminal_shows_lines_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="the extra `cli` is not installed")
    for width in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        screen = Screen()
        with display(None, stream=screen) as show:
            for done in (0, 500_000, 1_234_567):
                show(Status(**{**vars(BUSY), "done": done}))
        shown = screen.getvalue()
        assert "1,234,567/1,234,567" in shown, width
        assert "1,234 errors" in shown, width


def test_elsewhere_it_is_a_line_of_json_each_ten_seconds_and_one_at_the_end() -> None:
    out = io.StringIO()
    with display(True, stream=out) as show:
        for second in range(35):
            show(Status(total=35, done=second, seconds=float(second)))
        show(Status(total=35, done=35, seconds=35.0, state="done"))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["seconds"] for line in lines] == [10.0, 20.0, 30.0, 35.0]
    assert lines[0]["errors"] == {}


def test_a_notebook_gets_one_line_that_is_written_over_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with display(None, stream=io.StringIO()) as show:
        show(BUSY)
        show(Status(total=3, done=3))
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert shown.count("\r") == 2
    assert "345,678/1,234,567" in status_line(BUSY)


def test_nothing_is_shown_where_nobody_asked_for_it() -> None:
    out, screen = io.StringIO(), Screen()
    with display(None, stream=out) as show:
        show(BUSY)
    with display(False, stream=screen) as show:
        show(BUSY)
    seen: list[Status] = []
    with display(seen.append, stream=screen) as show:
        show(BUSY)
    assert (out.getvalue(), screen.getvalue(), seen) == ("", "", [BUSY])


def test_the_time_that_is_left_is_known_within_15_percent_after_a_fifth() -> None:
    dice, wrong = random.Random(5), []
    for rows, each in ((300, 0.4), (20_000, 0.01), (5000, 0.1)):
        pace, now, done, seen = Pace(), 0.0, 0, []
        while done < rows:
            now += 0.5
            warm = min(1.0, now / 3.0)  # it begins slowly, as adaptive concurrency does
            done = min(rows, done + round(0.5 / each * warm * dice.uniform(0.7, 1.3)))
            pace.add(now, done)
            seen.append((now, done, pace.left(rows - done)))
        for moment, at, left in seen:
            real = now - moment
            if at > rows / 5 and real > 3 and left is not None and abs(left - real) > 0.15 * real + 1:
                wrong.append((rows, at, left, real))
    assert not wrong, wrong[:5]


@pytest.mark.skipif(SIZE == "short", reason="a figure of time: nox -s bulk")
def test_showing_costs_less_than_a_hundredth_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with display(None, stream=Screen()) as show:
        show(BUSY)
        began = time.process_time()
        for done in range(100):
            show(Status(**{**vars(BUSY), "done": done}))
        share = (time.process_time() - began) / 100 / REFRESH_SECONDS
    print(f"the bar takes {share:.2%} of a core")
    assert share <= 0.01


def test_words_for_times_amounts_and_large_numbers() -> None:
    assert [duration(value) for value in (0.42, 12, 185, 7620)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 07 min"]
    assert [seconds(value) for value in (0.0042, 0.158, 0.999, 3.16, 31.6, 316.2)] == [
        *("4.2 ms", "160 ms", "1 s", "3.2 s", "32 s", "320 s")
    ]
    assert [money(value) for value in (0, 0.00012345, 12.3456, 12345.678)] == [
        "0.00",
        "0.0001234",
        "12.35",
        "12,345.68",
    ]
    assert [short(value) for value in (0, 950, 1234, 34_000, 5_600_000, 999_999)] == [
        *("0", "950", "1.23k", "34k", "5.6M", "1M")
    ]


def test_samples_are_thinned_to_so_many_and_keep_the_last() -> None:
    samples = [Sample(float(n), n, 0, 1, 1, 1) for n in range(5000)]
    kept = thinned(samples)
    assert len(kept) <= 600
    assert (kept[0], kept[-1]) == (samples[0], samples[-1])


def report() -> Report:
    return Report(
        output=Path(SCRIPT.replace("/", "")),
        rows=100,
        answered=97,
        failed=3,
        seconds=12.0,
        errors={SCRIPT: 2, "BadRequestError": 1},
        attempts=120,
        cost=0.5,
        crashes=1,
        paid_again=8,
        latency={"p50": 0.2, "p95": 0.9, "p99": 3.0},
        slowest=[Slow(3.0, 17, 2, SCRIPT, f'{{"text": "{SCRIPT}"}}')],
        history=[Sample(float(n), n * 8, 0, n, 16, n * 100) for n in range(12)],
        notes=[SCRIPT],
    )


class Tags(html.parser.HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or "://" in (value or "") for name, value in attrs), attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_what_the_job_came_to_and_runs_no_script_of_a_row() -> None:
    page = Tags(made := report().to_html())
    assert not {"script", "img", "iframe", "link"} & set(page.tags)
    assert page.tags.count("svg") == 2
    assert SCRIPT in page.text
    assert "Content-Security-Policy" in made
    for words in ("97 of 100 rows answered", "Slowest rows", "BadRequestError", "at most 8 rows were paid twice"):
        assert words in page.text, words


def test_a_report_is_a_short_text_and_plain_data() -> None:
    text = str(report())
    assert len(text.splitlines()) <= 9
    assert "97 of 100 rows answered in 12 s, 8.1 rows/s" in text
    assert json.loads(json.dumps(report().as_dict()))["answered"] == 97
    assert "script" in Report(notes=["<script>"])._repr_html_()
    assert "<script>" not in Report(notes=["<script>"])._repr_html_()
