"""Custom models: callables and scoring servers behind an endpoint, by MLflow's scoring protocol."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from support.providers import Provider

from dbllm.local import LocalError
from dbllm.local.http.middleware import ErrorMiddleware
from dbllm.local.http.server import listen
from dbllm.local.invocation.callables import Answerer, RefusedError
from dbllm.local.invocation.custom_models import Customs, scoring_url
from dbllm.local.management.served_entity import Entity, Kind

ENTITY = Entity("model-1", Kind.CUSTOM, None, "model", "1", "model")


class Application:
    """A workspace with nothing in it but one custom endpoint."""

    def __init__(self, customs: Customs) -> None:
        self.customs = customs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self.customs.call(request, ENTITY, await request.body())
        await response(scope, receive, send)


def run(target: str | Answerer, ask: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        customs = Customs({"model": target})
        customs.load()
        transport = httpx.ASGITransport(app=ErrorMiddleware(Application(customs)))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            try:
                return await ask(client)
            finally:
                await customs.close()

    return asyncio.run(main())


def post(target: str | Answerer, body: object, kind: str = "application/json") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return run(target, lambda client: client.post("/", content=content, headers={"content-type": kind}))


def echo(prompt: str, stop: list[str] | None = None, temperature: float | None = None) -> str:
    return f"{prompt}|{stop}|{temperature}"


async def async_echo(prompt: str, stop: list[str] | None = None, **params: object) -> str:
    return f"{prompt}|{stop}|{params.get('temperature')}"


@pytest.mark.parametrize("answerer", [echo, async_echo])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"dataframe_records": [{"prompt": "a"}, {"prompt": "b", "stop": ["~"]}]}, ["a|None|None", "b|['"]),
        ({"dataframe_split": {"columns": ["prompt"], "data": [["a"], ["b"]]}}, ["a|None|None", "b|None|None"]),
        ({"inputs": {"prompt": ["a", "b"]}}, ["a|None|None", "b|None|None"]),
        ({"instances": [{"prompt": "a"}]}, ["a|None|None"]),
    ],
)
def test_every_form_of_input_reaches_a_prompt_model_row_by_row(
    answerer: Answerer, body: dict[str, Any], told: list[str]
) -> None:
    assert post(answerer, body).json() == {"predictions": told}
    with_params = post(answerer, body | {"params": {"temperature": 0.5}}).json()["predictions"]
    assert next(text for text in with_params if "~" not in text).endswith("|0.5")


def test_an_unwrapped_request_has_an_unwrapped_answer() -> None:
    answer = post(echo, {"prompt": "a", "temperature": 0.1})
    assert answer.json() == ["a|None|0.1"]
    assert answer.headers["served-model-name"] == "model-1"


def test_columns_and_params_outside_the_signature_are_not_handed_over() -> None:
    body = {"dataframe_records": [{"prompt": "a", "color": "red"}], "params": {"top_k": 3}}
    assert post(echo, body).json() == {"predictions": ["a|None|None"]}


def shape(data: object) -> object:
    return data


def with_params(data: object, params: dict[str, object]) -> object:
    return [data, params]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"dataframe_records": [{"x": 1}]}, {"predictions": [{"x": 1}]}),
        ({"dataframe_split": {"columns": ["x"], "data": [[1], [2]]}}, {"predictions": [{"x": 1}, {"x": 2}]}),
        ({"inputs": [1, 2, 3]}, {"predictions": [1, 2, 3]}),
        ({"instances": [[1.5], [2.5]]}, {"predictions": [[1.5], [2.5]]}),
        ({"inputs": "text"}, {"predictions": "text"}),
        ({"messages": [{"role": "user"}], "stream": False}, {"messages": [{"role": "user"}]}),
    ],
)  # fmt: skip
def test_any_other_callable_gets_the_data_whole(body: dict[str, Any], told: object) -> None:
    assert post(shape, body).json() == told


def test_params_stand_beside_the_data_for_a_callable_that_takes_them() -> None:
    body = {"dataframe_records": [{"x": 1}], "params": {"k": 2}}
    assert post(with_params, body).json() == {"predictions": [[{"x": 1}], {"k": 2}]}
    assert post(with_params, {"inputs": [1]}).json() == {"predictions": [[1], {}]}


class Array:
    """What numpy's arrays and pandas' frames have in common with this model's answer."""

    def tolist(self) -> list[float]:
        return [0.5, 1.5]


class Frame:
    columns = ("x",)

    def to_dict(self, orient: str) -> list[dict[str, object]]:
        return [{"x": Array(), "orient": orient}]


def test_arrays_and_frames_become_lists_and_records() -> None:
    assert post(lambda data: Array(), {"inputs": [1]}).json() == {"predictions": [0.5, 1.5]}
    assert post(lambda data: Frame(), {"inputs": [1]}).json() == {
        "predictions": [{"x": [0.5, 1.5], "orient": "records"}]
    }


def words(prompt: str) -> Iterator[str]:
    yield from ("How ", "are y", "ou? Fine")


async def async_words(prompt: str) -> AsyncIterator[str]:
    for word in words(prompt):
        yield word


@pytest.mark.parametrize("answerer", [words, async_words])
def test_a_stream_comes_piece_by_piece_and_stops_exactly(answerer: Answerer) -> None:
    answer = post(answerer, {"dataframe_records": [{"prompt": "x", "stop": ["you?"]}], "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == 'data: "How "\n\ndata: "are "\n\ndata: [DONE]\n\n'
    assert post(answerer, {"prompt": "x"}).json() == ["How are you? Fine"]


def test_a_stream_of_values_is_one_frame_each() -> None:
    def rows(data: list[dict[str, int]]) -> Iterator[object]:
        yield from data

    answer = post(rows, {"dataframe_records": [{"x": 1}, {"x": 2}], "stream": True})
    assert answer.text == 'data: {"x": 1}\n\ndata: {"x": 2}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "invalid JSON"),
        ([], 400, "must be a JSON object"),
        ({}, 400, "exactly one of the input fields"),
        ({"inputs": [1], "instances": [1]}, 400, "exactly one of the input fields"),
        ({"dataframe_records": {"prompt": "a"}}, 400, "must be a list of records"),
        ({"dataframe_split": {"columns": ["prompt"], "data": [["a", "b"]]}}, 400, "has 2 values for 1 columns"),
        ({"prompt": "x", "params": 1}, 400, "'params' must be"),
    ],
)
@pytest.mark.parametrize("answerer", [echo, shape])
def test_a_request_outside_the_protocol_is_refused_as_mlflow_refuses_it(
    answerer: Answerer, body: object, status: int, reason: str
) -> None:
    answer = post(answerer, body)
    assert (answer.status_code, answer.json()["error_code"]) == (status, "BAD_REQUEST")
    assert reason in answer.json()["message"]


def test_a_row_without_a_prompt_is_refused() -> None:
    answer = post(echo, {"dataframe_records": [{"question": "a"}]})
    assert answer.status_code == 400
    assert "missing inputs ['prompt']" in answer.json()["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=latin-1", ""])
def test_other_content_types_are_415(kind: str) -> None:
    assert post(echo, {"prompt": "x"}, kind).status_code == 415


def broken(prompt: str) -> str:
    raise ZeroDivisionError("by nothing")


def broken_stream(prompt: str) -> Iterator[str]:
    yield "one"
    raise ZeroDivisionError("by nothing")


def test_a_callable_that_raises_is_mlflows_400_without_its_traceback() -> None:
    for body in ({"prompt": "x"}, {"prompt": "x", "stream": True}):
        answer = post(broken, body)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert "unexpected error while evaluating the model" in answer.json()["message"]
        assert "ZeroDivisionError: by nothing" in answer.json()["message"]
        assert "Traceback" not in answer.text
    assert '"one"' in post(broken_stream, {"prompt": "x", "stream": True}).text


def test_a_callable_can_refuse_with_a_reason() -> None:
    def picky(prompt: str) -> str:
        raise RefusedError("too short")

    answer = post(picky, {"prompt": "x"})
    assert (answer.status_code, answer.json()["message"]) == (400, "too short")


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x"])
def test_an_answer_that_is_no_json_is_a_500(value: object) -> None:
    answer = post(lambda data: value, {"inputs": [1]})
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")


def test_many_slow_callables_run_side_by_side() -> None:
    together = threading.Barrier(20)

    def slow(prompt: str) -> str:
        together.wait(20)  # passes only once all twenty are here; one that blocks the event loop would be alone
        return prompt

    async def ask(client: httpx.AsyncClient) -> list[Any]:
        answers = await asyncio.gather(*(client.post("/", json={"prompt": str(number)}) for number in range(20)))
        return [answer.json() for answer in answers]

    assert run(slow, ask) == [[str(number)] for number in range(20)]


def test_a_model_that_nothing_stands_behind_is_a_404_that_says_how_to_start_one() -> None:
    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/", json={"prompt": "x"})

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app=ErrorMiddleware(Application(Customs())))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await ask(client)

    answer = asyncio.run(main())
    assert answer.status_code == 404
    assert "--custom model=module:function" in answer.json()["message"]


def test_a_function_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "custom_model_module.py").write_text("def answer(prompt):\n    return prompt.upper()\n")
    monkeypatch.chdir(tmp_path)
    assert post("custom_model_module:answer", {"prompt": "x"}).json() == ["X"]
    with pytest.raises(LocalError, match="nothing"):
        Customs({"m": "custom_model_module:nothing"}).load()


# --- a scoring server


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.mark.parametrize("status", [200, 400, 415, 500])
def test_a_scoring_servers_answer_is_the_endpoints_whatever_it_is(running: Provider, status: int) -> None:
    running.got.clear()
    running.answer = lambda _request: Response('{"predictions": [1]}', status, media_type="application/json")
    answer = post(running.url, {"inputs": [1]})
    assert (answer.status_code, answer.json()) == (status, {"predictions": [1]})
    assert answer.headers["served-model-name"] == "model-1"
    assert (running.got[0].path, running.got[0].body) == ("/invocations", {"inputs": [1]})


def test_a_scoring_server_gets_the_content_type_but_no_credential(running: Provider) -> None:
    running.got.clear()
    headers = {"content-type": "text/csv", "authorization": "Bearer canary", "cookie": "c=1"}
    run(f"{running.url}/", lambda client: client.post("/", content=b'"1"', headers=headers))
    assert running.got[0].headers["content-type"] == "text/csv"
    assert not {"authorization", "cookie"} & running.got[0].headers.keys()


def test_a_scoring_server_that_is_not_there_is_a_503() -> None:
    sock = listen("127.0.0.1", 0, hint="")
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    sock.close()
    answer = post(url, {"inputs": [1]})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://10.0.0.1:5000"])
def test_what_cannot_be_a_scoring_server_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(LocalError):
        scoring_url(url)
