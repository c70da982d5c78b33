"""The page at a workspace's address in a real browser: what a person sees and can do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from dbllm import Client
from dbllm.local import Workspace
from dbllm.local.model.weights import default_model

ROW = "#log tbody tr[aria-expanded]"
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
    assert ask(page, "smollm2-chat", "Tell me about rivers.")  # what it says is up to the model
    assert "tokens" in text(page, "speed")
    assert ask(page, "smollm2-completions", "Once upon a time")
    vectors = ask(page, "databricks-bge-large-en", "a dog\na cat")
    assert vectors.count("numbers") == 2
    assert "predictions" in ask(page, "dolly", "How are you?")
    assert ask(page, "smollm2-agent", "hello")


def test_the_keyboard_alone_asks_and_opens_a_request(page: WebDriver, workspace: Workspace) -> None:
    choose(page, "endpoint", "smollm2-chat")
    field = page.find_element(By.ID, "prompt")
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    until(page, lambda: " s" in text(page, "speed"))
    until(page, lambda: "smollm2-chat" in text(page, "log"))
    row = page.find_element(By.CSS_SELECTOR, ROW)
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
    page.find_element(By.CSS_SELECTOR, ROW).click()
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


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}])


def write(browser: WebDriver, name: str, words: str) -> None:
    browser.execute_script("document.getElementById(arguments[0]).value = arguments[1]", name, words)  # type: ignore[no-untyped-call]


def test_other_addresses_lead_to_the_page_and_keep_the_session(browser: WebDriver, workspace: Workspace) -> None:
    assert workspace.page_url
    for path in ("/index.html", "/ui"):
        browser.get(workspace.page_url.replace("/#", f"{path}#"))
        until(browser, lambda: "smollm2-chat" in text(browser, "list"))
        assert browser.current_url == f"{workspace.host}/"
        browser.execute_script("sessionStorage.clear()")  # type: ignore[no-untyped-call]


def test_a_streamed_call_of_a_tool_is_shown_whole(page: WebDriver) -> None:
    choose(page, "endpoint", "smollm2-chat")
    page.execute_script("document.getElementById('tools_box').open = true")  # type: ignore[no-untyped-call]
    write(page, "tools", TOOL)
    write(page, "prompt", "What is the weather in Paris?")
    write(page, "max_tokens", "200")
    page.execute_script(  # type: ignore[no-untyped-call]
        "const asked = request; request = () => ({ ...asked(), tool_choice: 'required', temperature: 0 })"
    )
    page.find_element(By.ID, "send").click()
    until(page, lambda: " s" in text(page, "speed"))
    assert re.fullmatch(r'get_weather\(\{.*"city".*\}\)', text(page, "answer"), re.DOTALL), text(page, "answer")


@pytest.mark.parametrize(
    ("endpoint", "field", "words", "said"),
    [
        ("dolly", "prompt", '{"dataframe_records": [', "not JSON"),
        ("dolly", "prompt", "[{'prompt': 'x'}]", "not JSON"),
        ("smollm2-chat", "tools", "[{", "not JSON"),
        ("smollm2-chat", "tools", "{}", "a list"),
    ],
)
def test_what_is_broken_is_refused_where_it_stands(
    page: WebDriver, endpoint: str, field: str, words: str, said: str
) -> None:
    choose(page, "endpoint", endpoint)
    write(page, field, words)
    sent = page.execute_script("return performance.getEntriesByType('resource').length")  # type: ignore[no-untyped-call]
    page.find_element(By.ID, "send").click()
    assert said in text(page, f"{field}_problem")
    assert "Nothing was sent" in text(page, f"{field}_problem") or "nothing was sent" in text(page, f"{field}_problem")
    assert page.switch_to.active_element.get_attribute("id") == field
    resources = "return performance.getEntriesByType('resource').slice(arguments[0]).map(one => one.name).join()"
    assert "invocations" not in page.execute_script(resources, sent)  # type: ignore[no-untyped-call]
    write(page, field, "[]" if field == "tools" else '[{"prompt": "hi"}]')
    write(page, "max_tokens", "3")
    page.find_element(By.ID, "send").click()
    until(page, lambda: " s" in text(page, "speed"))
    assert not page.find_element(By.ID, f"{field}_problem").is_displayed()


def test_it_says_that_it_waits_and_can_be_stopped(page: WebDriver) -> None:
    page.execute_script(  # type: ignore[no-untyped-call]
        "setFault('PUT', { endpoint: 'smollm2-completions', latency: 60 })"
    )
    until(page, lambda: "smollm2-completions" in text(page, "fault_list"))
    choose(page, "endpoint", "smollm2-completions")
    page.find_element(By.ID, "send").click()
    until(page, lambda: text(page, "waiting") == "waiting… 1 s")
    page.find_element(By.ID, "stop").click()
    until(page, lambda: text(page, "speed").startswith("stopped after"))
    assert text(page, "waiting") == ""
    page.find_element(By.ID, "heal")
    page.execute_script("setFault('DELETE', { endpoint: 'smollm2-completions' })")  # type: ignore[no-untyped-call]
    until(page, lambda: text(page, "fault_list") == "None.")


def test_the_code_of_each_request_has_its_verb_and_does_what_it_did(
    page: WebDriver, workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    messages = [{"role": "user", "content": 'It\'s\n"x" é'}]
    few: dict[str, object] = {"messages": messages, "max_tokens": 3}
    prompt: dict[str, object] = {"prompt": "x", "max_tokens": 3, "stream": True}
    rows: dict[str, object] = {"dataframe_records": [{"prompt": "hi"}], "params": {"max_tokens": 3}}
    requests: list[tuple[str, dict[str, object], str]] = [
        ("smollm2-chat/invocations", {**few, "stream": True}, '.endpoint("smollm2-chat").stream_chat('),
        ("smollm2-chat/invocations", {**few, "stop": None}, '.endpoint("smollm2-chat").chat('),
        ("chat/completions", {**few, "model": "smollm2-chat"}, '.endpoint("smollm2-chat").chat('),
        ("smollm2-completions/invocations", prompt, ".stream_complete("),
        ("smollm2-completions/invocations", {"prompt": ["x", "y"], "max_tokens": 3}, ".request("),
        ("smollm2-agent/invocations", {"input": messages, "stream": True, "max_output_tokens": 3}, ".stream_respond("),
        ("databricks-bge-large-en/invocations", {"input": ["a", "b"]}, ".embed("),
        ("dolly/invocations", rows, ".predict("),
    ]
    with httpx.Client(base_url=workspace.host, trust_env=False, timeout=60) as http:
        for place, (path, body, verb) in enumerate(requests):
            headers = {"authorization": f"Bearer {workspace.token}", "user-agent": f"probe/{place}"}
            assert http.post(f"/serving-endpoints/{path}", json=body, headers=headers).status_code == 200, path
            row = f"//*[@id='log']//tr[td[2]='probe/{place}' and td[5]='200']"
            until(page, lambda: page.find_elements(By.XPATH, row))  # noqa: B023
            page.find_element(By.XPATH, row).click()
            code = f"{row}/following-sibling::tr[1]//pre"
            until(page, lambda: len(page.find_elements(By.XPATH, code)) == 4)  # noqa: B023
            copied = page.find_elements(By.XPATH, code)[-1].text
            assert verb in copied, (path, copied)
            exec(compile(copied, "copied", "exec"), {})  # noqa: S102
            assert capsys.readouterr().out.strip(), copied
            page.find_element(By.XPATH, row).click()


WIDE = """return [...document.querySelectorAll("body, body *")].filter(one => {
  const right = one.getClientRects().length && one.getBoundingClientRect().right, free = getComputedStyle(one).display;
  const inner = free !== "inline" && one.clientWidth > 1 && !/SELECT|INPUT|TEXTAREA|THEAD|TR|TH/.test(one.tagName);
  return right > innerWidth + 1 || (inner && one.scrollWidth > one.clientWidth + 1);
}).map(one => one.tagName + "#" + one.id)"""


def test_it_fits_a_screen_of_400_pixels(page: WebDriver, workspace: Workspace) -> None:
    path = "/api/2.0/" + "a-long-path" * 30
    httpx.get(workspace.host + path, trust_env=False)
    until(page, lambda: "a-long-path" in text(page, "log"))
    page.execute_cdp_cmd(  # type: ignore[attr-defined]
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    )
    page.find_element(By.CSS_SELECTOR, ROW).click()
    wide = page.execute_script(WIDE)  # type: ignore[no-untyped-call]
    assert wide == []
