"""The page at a workspace's address in a real browser: what a person sees and can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from dbllm import Client
from dbllm.local import Workspace
from dbllm.local.model.weights import default_model

STORED = "</pre><img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script>"


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with Workspace(model=default_model()) as one:
        yield one


@pytest.fixture
def page(browser: WebDriver, workspace: Workspace) -> WebDriver:
    assert workspace.page_url
    browser.get(workspace.page_url)
    until(browser, lambda: "smollm2-chat" in text(browser, "list"))
    return browser


def until(browser: WebDriver, holds: Callable[[], object]) -> None:
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: holds())


def text(browser: WebDriver, name: str) -> str:
    return browser.find_element(By.ID, name).text


def choose(browser: WebDriver, name: str, value: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"#{name} option[value='{value}']").click()


def ask(browser: WebDriver, endpoint: str, prompt: str) -> str:
    choose(browser, "endpoint", endpoint)
    field = browser.find_element(By.ID, "prompt")
    field.clear()
    field.send_keys(prompt)
    limit = browser.find_element(By.ID, "max_tokens")
    limit.clear()
    limit.send_keys("12")
    browser.find_element(By.ID, "send").click()
    until(browser, lambda: " s" in text(browser, "speed"))
    return text(browser, "answer")


def test_the_printed_link_opens_it_and_the_session_leaves_the_address(page: WebDriver, workspace: Workspace) -> None:
    assert page.current_url == f"{workspace.host}/"
    for name in ("smollm2-chat", "smollm2-completions", "databricks-bge-large-en", "smollm2-agent", "dolly"):
        assert name in text(page, "list")
    assert workspace.token not in page.page_source
    page.refresh()
    until(page, lambda: "dolly" in text(page, "list"))


def test_without_the_link_it_says_what_to_do_and_shows_nothing(browser: WebDriver, workspace: Workspace) -> None:
    browser.get(f"{workspace.host}/")
    until(browser, lambda: "dbllm up" in text(browser, "closed"))
    assert not browser.find_element(By.ID, "main").is_displayed()


def test_the_playground_calls_every_kind_of_endpoint(page: WebDriver) -> None:
    assert len(ask(page, "smollm2-chat", "Tell me about rivers.")) > 5
    assert "tokens" in text(page, "speed")
    assert len(ask(page, "smollm2-completions", "Once upon a time")) > 5
    vectors = ask(page, "databricks-bge-large-en", "a dog\na cat")
    assert vectors.count("numbers") == 2
    assert "predictions" in ask(page, "dolly", "How are you?")
    assert len(ask(page, "smollm2-agent", "hello")) > 3


def test_the_keyboard_alone_asks_and_opens_a_request(page: WebDriver, workspace: Workspace) -> None:
    choose(page, "endpoint", "smollm2-chat")
    field = page.find_element(By.ID, "prompt")
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    until(page, lambda: " s" in text(page, "speed"))
    until(page, lambda: "smollm2-chat" in text(page, "log"))
    row = page.find_element(By.CSS_SELECTOR, "#log tbody tr[aria-expanded]")
    row.send_keys(Keys.ENTER)
    until(page, lambda: "As dbllm code" in text(page, "log"))
    assert row.get_attribute("aria-expanded") == "true"
    assert "curl -X POST" in text(page, "log")
    assert workspace.token not in page.page_source


def test_another_program_s_requests_appear_and_can_be_filtered(page: WebDriver, workspace: Workspace) -> None:
    with Client(workspace.host, workspace.token) as client:
        client.endpoint("dolly").complete("hello", max_tokens=1)
        client.endpoint("databricks-bge-large-en").embed("hello")
    until(page, lambda: "dbllm/" in text(page, "log") and "databricks-bge-large-en" in text(page, "log"))
    page.find_element(By.ID, "filter").send_keys("bge")
    rows = [row for row in page.find_elements(By.CSS_SELECTOR, "#log tbody tr") if row.is_displayed()]
    assert rows
    assert all("bge" in row.text for row in rows)


def test_a_script_in_a_prompt_stays_text(page: WebDriver, workspace: Workspace) -> None:
    with Client(workspace.host, workspace.token, headers={"user-agent": "<b onclick=alert(1)>agent</b>"}) as client:
        client.endpoint("dolly").complete(STORED, max_tokens=1)
    until(page, lambda: "<b" in text(page, "log"))
    page.find_element(By.CSS_SELECTOR, "#log tbody tr[aria-expanded]").click()
    until(page, lambda: "broken into" in text(page, "log"))
    assert page.title == "dbllm: local workspace"
    assert not page.find_elements(By.CSS_SELECTOR, "#log b, #log img, #log script")


def test_faults_are_set_and_ended(page: WebDriver, workspace: Workspace) -> None:
    choose(page, "fault_endpoint", "smollm2-completions")
    share = page.find_element(By.ID, "f503")
    share.clear()
    share.send_keys("1")
    page.find_element(By.CSS_SELECTOR, "#fault button").click()
    until(page, lambda: "smollm2-completions" in text(page, "fault_list"))
    page.find_element(By.ID, "heal").click()
    until(page, lambda: text(page, "fault_list") == "None.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark_and_on_a_narrow_screen(page: WebDriver, scheme: str) -> None:
    page.execute_cdp_cmd(  # type: ignore[attr-defined]
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.set_window_size(500, 900)
    colours = page.execute_script(  # type: ignore[no-untyped-call]
        "return [getComputedStyle(document.body).color, matchMedia('(prefers-color-scheme: dark)').matches,"
        " document.documentElement.scrollWidth <= window.innerWidth]"
    )
    assert colours == ["rgb(255, 255, 255)" if scheme == "dark" else "rgb(0, 0, 0)", scheme == "dark", True]
