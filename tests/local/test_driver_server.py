from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dbllm.local import LocalError
from dbllm.local.driver import server as module
from dbllm.local.driver.server import Answerer, DriverServer, RefusedError, create_app, gguf_answerer, read_prompt
from dbllm.local.invocation.callables import as_answerer
from dbllm.local.model.llama import Engine

EVENTS = {"accept": "text/event-stream"}


def echo(prompt: str, stop: list[str] | None = None, **params: object) -> str:
    return json.dumps({"prompt": prompt, "stop": stop, **params})


async def async_echo(prompt: str, stop: list[str] | None = None, **params: object) -> str:
    return echo(prompt, stop, **params)


def words(prompt: str, stop: list[str] | None = None) -> Iterator[str]:
    yield from ("", "How ", "are y", "ou? I a", "m fine.")


async def async_words(prompt: str) -> AsyncIterator[str]:
    for word in words(prompt):
        yield word


def ask(answerer: Answerer, body: object, headers: dict[str, str] | None = None, **options: int) -> httpx.Response:
    """Ask a driver app without a socket in between."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(as_answerer(answerer), **options), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.post(
                "/", content=content, headers={"content-type": "application/json", **(headers or {})}
            )

    return asyncio.run(send())


def pieces(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


@pytest.mark.parametrize("answerer", [echo, async_echo])
def test_prompt_stop_and_parameters_reach_the_callable(answerer: Answerer) -> None:
    sent = {"prompt": "How are you?", "stop": ["~"], "temperature": 0.1}
    answer = ask(answerer, sent)
    assert answer.status_code == 200
    assert answer.json() == json.dumps(sent)[: json.dumps(sent).index("~")]
    assert json.loads(ask(answerer, {"prompt": "x", "top_k": 3}).json()) == {"prompt": "x", "stop": None, "top_k": 3}


@pytest.mark.parametrize("answerer", [words, async_words])
def test_yielded_pieces_become_one_string_or_a_stream(answerer: Answerer) -> None:
    assert ask(answerer, {"prompt": "x"}).json() == "How are you? I am fine."
    assert pieces(ask(answerer, {"prompt": "x"}, EVENTS)) == ["How ", "are y", "ou? I a", "m fine."]


@pytest.mark.parametrize("answerer", [words, async_words])
def test_a_stop_string_split_over_pieces_is_cut_whether_or_not_the_callable_knows_stop(answerer: Answerer) -> None:
    body = {"prompt": "x", "stop": ["you?", "fine"]}
    assert ask(answerer, body).json() == "How are "
    assert "".join(pieces(ask(answerer, body, EVENTS))) == "How are "


def test_after_a_stop_string_the_callable_is_not_asked_for_more() -> None:
    closed: list[bool] = []

    def endless(prompt: str) -> Iterator[str]:
        try:
            while True:
                yield "more."
        finally:
            closed.append(True)

    assert ask(endless, {"prompt": "x", "stop": ["."]}).json() == "more"
    assert closed == [True]


def test_a_plain_text_is_a_stream_of_one_piece() -> None:
    assert pieces(ask(lambda prompt: f"{prompt}!", {"prompt": "x"}, EVENTS)) == ["x!"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b'{"prompt": NaN}', "NaN"),
        ([], "must be a JSON object with 'prompt', got array"),
        ({}, "'prompt' is missing"),
        ({"prompt": None}, "'prompt' must be a string, got null"),
        ({"prompt": ["x"]}, "'prompt' must be a string, got array"),
        ({"prompt": "x", "stop": "."}, "'stop' must be a list of strings"),
        ({"prompt": "x", "stop": [1]}, "'stop' must be a list of strings"),
        ({"prompt": "x", "stop": [""]}, "not empty"),
        ({"prompt": "x", "heat": 1}, "does not take a parameter 'heat'"),
    ],
)
def test_a_request_outside_the_schema_is_400_with_the_reason(body: object, reason: str) -> None:
    for headers in ({}, EVENTS):
        answer = ask(words, body, headers)
        assert answer.status_code == 400
        assert reason in answer.json()["message"]


def test_null_and_missing_stop_are_the_same() -> None:
    assert read_prompt({"prompt": "x", "stop": None}) == read_prompt({"prompt": "x"})


def test_a_callable_that_raises_is_a_500_without_its_traceback() -> None:
    def broken(prompt: str) -> str:
        raise ZeroDivisionError("secret detail")

    answer = ask(broken, {"prompt": "x"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("value", [None, 1, b"x", [1]])
def test_a_callable_that_returns_no_text_is_a_500(value: object) -> None:
    assert ask(lambda prompt: value, {"prompt": "x"}).status_code == 500


def test_a_callable_can_refuse_with_a_reason() -> None:
    def picky(prompt: str) -> str:
        raise RefusedError("too short")

    answer = ask(picky, {"prompt": "x"})
    assert (answer.status_code, answer.json()["message"]) == (400, "too short")


def test_what_breaks_in_the_middle_of_a_stream_is_an_error_frame() -> None:
    def breaking(prompt: str) -> Iterator[str]:
        yield "one"
        raise ZeroDivisionError("secret detail")

    answer = ask(breaking, {"prompt": "x"}, EVENTS)
    assert answer.status_code == 200
    one, error = pieces(answer)
    assert one == "one"
    assert error["error"]["error_code"] == "INTERNAL_ERROR"
    assert "secret" not in answer.text


def test_a_body_over_the_limit_is_413() -> None:
    body = {"prompt": "x" * 100}
    assert ask(echo, body, max_body=50).status_code == 413
    assert ask(echo, body, max_body=200).status_code == 200


def test_the_gguf_model_answers_and_streams_the_same_text(engine: Engine) -> None:
    body = {"prompt": "Where is the Eiffel Tower?", "temperature": 0, "max_tokens": 12}
    text = ask(gguf_answerer(engine), body).json()
    assert "Paris" in text
    streamed = pieces(ask(gguf_answerer(engine), body, EVENTS))
    assert len(streamed) > 3
    assert "".join(streamed) == text
    stop = text[5:14]
    assert ask(gguf_answerer(engine), {**body, "stop": [stop]}).json() == text[: text.index(stop)]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"heat": 1}, "unknown parameter 'heat'"),
        ({"temperature": "hot"}, "'temperature' must be a number"),
        ({"prompt": "hi " * 6000}, "context size"),
    ],
)
def test_the_gguf_model_refuses_what_it_cannot_take(engine: Engine, params: dict[str, object], reason: str) -> None:
    answer = ask(gguf_answerer(engine), {"prompt": "x", **params})
    assert answer.status_code == 400
    assert reason in answer.json()["message"]


# --- running it


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, workspace: SimpleNamespace | None) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_RUNTIME_VERSION"):
            patch.delenv(name, raising=False)
        if workspace is not None:
            patch.setenv("DATABRICKS_HOST", workspace.host)
            patch.setenv("DATABRICKS_TOKEN", workspace.identity.token)
        yield


def test_it_registers_with_the_local_workspace_and_is_reached_through_its_proxy(
    http: httpx.Client, workspace: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment(monkeypatch, workspace):
        with DriverServer(echo, port=0) as server:
            assert server.registration == f"registered with {workspace.host}"
            url = f"/driver-proxy-api/o/0/{workspace.identity.cluster_id}/{server.port}"
            assert json.loads(http.post(url, json={"prompt": "x"}).json())["prompt"] == "x"
            assert http.get(f"{url}/health").json() == {"status": "ok"}
            assert http.get(f"{url}/nowhere").status_code == 404
        assert http.post(url, json={"prompt": "x"}).status_code == 502


def test_a_stream_through_the_proxy_arrives_piece_by_piece(
    http: httpx.Client, workspace: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = threading.Event()

    def waiting(prompt: str) -> Iterator[str]:
        yield "one"
        assert read.wait(10), "the first piece did not get through"
        yield "two"

    with environment(monkeypatch, workspace), DriverServer(waiting, port=0) as server:
        url = f"/driver-proxy-api/o/0/{workspace.identity.cluster_id}/{server.port}/"
        with http.stream("POST", url, json={"prompt": "x"}, headers=EVENTS) as answer:
            lines = (line for line in answer.iter_lines() if line)
            assert next(lines) == 'data: "one"'
            read.set()
            assert list(lines) == ['data: "two"', "data: [DONE]"]


def test_without_a_workspace_it_says_that_it_is_not_registered_and_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment(monkeypatch, None), DriverServer(echo, port=0) as server:
        assert server.registration.startswith("not registered")
        assert f"dbllm up --driver {server.port}" in server.registration
        assert httpx.post(server.url, json={"prompt": "x"}, trust_env=False).status_code == 200


def test_a_workspace_that_is_not_on_this_machine_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "Client", lambda **_options: pytest.fail("it must not send anything"))
    elsewhere = SimpleNamespace(host="https://example.cloud.databricks.com", identity=SimpleNamespace(token="t"))
    with environment(monkeypatch, elsewhere), DriverServer(echo, port=0) as server:
        assert server.registration.startswith("not registered")


def test_a_workspace_that_refuses_is_named(workspace: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SimpleNamespace(host=workspace.host, identity=SimpleNamespace(token="wrong"))
    with environment(monkeypatch, wrong), DriverServer(echo, port=0) as server:
        assert server.registration.startswith(f"not registered with {workspace.host} (HTTP 403)")
        assert "wrong" not in server.registration


@pytest.mark.parametrize("port", [80, 2999, 8001, 65535])
def test_a_port_the_proxy_does_not_reach_is_refused_with_the_range(port: int) -> None:
    with pytest.raises(LocalError, match="3000 to 8000"):
        DriverServer(echo, port=port)


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment(monkeypatch, None), DriverServer(echo, port=0) as server:
        second = DriverServer(echo, port=server.port)
        with pytest.raises(LocalError, match=rf"Port {server.port} .*already in use.*--port"):
            second.__enter__()


def test_it_listens_on_loopback_and_on_a_cluster_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment(monkeypatch, None):
        sock = module.open_port(0)
        assert sock.getsockname()[0] == "127.0.0.1"
        sock.close()
        monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")
        sock = module.open_port(0)
        assert sock.getsockname()[0] == "0.0.0.0"  # noqa: S104
        sock.close()


def test_a_function_is_found_by_name_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model_module.py").write_text("def answer(prompt):\n    return prompt.upper()\nnumber = 1\n")
    monkeypatch.chdir(tmp_path)
    with environment(monkeypatch, None), DriverServer("my_model_module:answer", port=0) as server:
        assert httpx.post(server.url, json={"prompt": "x"}, trust_env=False).json() == "X"
    for name, reason in [
        ("no_such_module:answer", "no_such_module"),
        ("my_model_module:nothing", "nothing"),
        ("my_model_module:", "my_model_module:"),
        ("my_model_module:number", "is not a function"),
    ]:
        with pytest.raises(LocalError, match=reason):
            module.load_callable(name)


def test_the_repr_tells_the_port_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert repr(DriverServer(echo)) == "<DriverServer not running>"
    with environment(monkeypatch, None), DriverServer(echo, port=0) as server:
        assert repr(server) == f"<DriverServer {server.port}>"


def test_a_web_page_of_somebody_else_never_reaches_the_callable(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def answer(prompt: str) -> str:
        ran.append(prompt)
        return prompt

    table: list[tuple[dict[str, str], int]] = [
        ({}, 200),
        ({"host": "localhost:1"}, 200),
        ({"origin": "http://localhost:5173"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "text/plain;charset=UTF-8", "accept": "text/event-stream"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": ""}, 415),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example:7777", "host": "evil.example:7777"}, 403),
        ({"host": "evil.example:7777"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "accept": "text/event-stream"}, 403),
    ]
    with environment(monkeypatch, None), DriverServer(answer, port=0) as server:
        for number, (headers, status) in enumerate(table):
            sent = {"content-type": "application/json", **headers}
            got = httpx.post(server.url, content=f'{{"prompt": "{number}"}}', headers=sent, trust_env=False)
            assert got.status_code == status, (headers, got.text)
    assert ran == [str(number) for number, (_, status) in enumerate(table) if status == 200]


def test_behind_the_driver_proxy_of_a_cluster_any_name_will_do() -> None:
    assert ask(echo, {"prompt": "x"}, {"host": "cluster.example", "origin": "https://workspace.example"}).is_success
    assert ask(echo, {"prompt": "x"}, {"content-type": "text/plain"}).status_code == 415


def test_a_client_that_goes_away_stops_the_gguf_model(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    body = {"prompt": "Count to one thousand, number by number", "max_tokens": 3000, "temperature": 2}
    before = engine.metrics()["tokens_predicted_total"]
    with environment(monkeypatch, None), DriverServer(gguf_answerer(engine), port=0) as server:
        with httpx.stream("POST", server.url, json=body, headers=EVENTS, trust_env=False) as answer:
            next(answer.iter_lines())
        eventually(lambda: engine.metrics()["requests_processing"] == 0)
    assert engine.metrics()["tokens_predicted_total"] - before < 1000


# --- a text pipeline of transformers, known by its looks


class Pipeline:
    """What a `transformers` pipeline looks like from outside; it tells what it was called with."""

    task = "text-generation"

    def __call__(self, text: str, **options: object) -> list[list[dict[str, object]]]:
        return [[{"generated_text": f"{text}: {json.dumps(options, sort_keys=True)}"}]]


def test_a_pipeline_gets_its_own_words_for_the_usual_parameters() -> None:
    told = ask(Pipeline(), {"prompt": "x", "max_tokens": 5, "temperature": 0.5, "top_k": 3}).json()
    assert json.loads(told.removeprefix("x: ")) == {
        "max_new_tokens": 5,
        "temperature": 0.5,
        "do_sample": True,
        "top_k": 3,
        "return_full_text": False,
    }
    greedy = json.loads(ask(Pipeline(), {"prompt": "x", "temperature": 0}).json().removeprefix("x: "))
    assert greedy == {"do_sample": False, "return_full_text": False}


def test_a_pipelines_answer_is_cut_at_the_stop_string_and_streams_as_one_piece() -> None:
    assert ask(Pipeline(), {"prompt": "one two", "stop": ["two"]}).json() == "one "
    assert pieces(ask(Pipeline(), {"prompt": "one two", "stop": ["two"]}, EVENTS)) == ["one "]
    assert ask(Pipeline(), {"prompt": "x", "temperature": "hot"}).status_code == 400


def test_a_module_that_fails_to_import_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_module.py").write_text("raise RuntimeError('no GPU')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocalError, match=r"its module raised RuntimeError: no GPU"):
        module.load_callable("failing_module:answer")


def test_a_server_that_runs_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment(monkeypatch, None), DriverServer(echo, port=0) as server:
        with pytest.raises(LocalError, match="is running already"):
            server.__enter__()
        assert httpx.post(server.url, json={"prompt": "x"}, trust_env=False).status_code == 200
