"""A browser for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

NEEDED = "this needs Chromium and its driver: apt-get install chromium chromium-driver"


def new_browser() -> WebDriver:
    browser, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    assert browser, NEEDED
    assert driver, NEEDED
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture
def browser() -> Iterator[WebDriver]:
    made = new_browser()
    yield made
    # Whatever the page complained of: a refused script, a failed request, an exception. None is expected.
    complaints = [entry["message"] for entry in made.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    made.quit()
    assert complaints == []
