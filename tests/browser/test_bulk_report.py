"""The report page of a bulk job in a real browser: what a person sees, and that no row's script runs."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from dbllm.bulk import Report
from dbllm.bulk.findings import Slow
from dbllm.bulk.report import Sample

STORED = "</pre><img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script>"


def test_the_page_shows_the_job_and_runs_nothing_of_its_rows(browser: WebDriver, tmp_path: Path) -> None:
    report = Report(
        output=Path("answers.jsonl"),
        rows=100,
        answered=98,
        failed=2,
        errors={STORED: 2},
        seconds=12.0,
        latency={"p50": 0.2},
        slowest=[Slow(3.0, 17, 2, STORED, STORED)],
        history=[Sample(float(second), second * 8, 0, second, 16, 0) for second in range(12)],
        notes=[STORED],
    )
    (tmp_path / "report.html").write_text(report.to_html(), "utf-8")
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.title == "answers.jsonl: done"
    assert browser.find_element(By.TAG_NAME, "h2").text == "Rows a second"
    charts = browser.find_elements(By.TAG_NAME, "svg")
    assert len(charts) == 2
    assert all(chart.size["width"] > 300 and chart.size["height"] > 60 for chart in charts)
    assert not browser.find_elements(By.CSS_SELECTOR, "img, script")
    assert STORED in browser.find_element(By.CSS_SELECTOR, "td.t").text
    assert "98 of 100 rows answered" in browser.find_element(By.TAG_NAME, "body").text
