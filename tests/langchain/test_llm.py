"""`Databricks`: what it sends, and what it refuses before anything is sent."""

from __future__ import annotations

import json
import pickle
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError
from recorded import answering

from dbllm.langchain import Databricks

LOOK_UP = "/api/2.0/serving-endpoints/ep"


class Served:
    """One endpoint of a task, or a driver app; keeps the bodies it got."""

    def __init__(self, task: str | None, answer: Any) -> None:
        self.task, self.answer = task, answer
        self.bodies: list[Any] = []
        self.paths: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"name": "ep", **({"task": self.task} if self.task else {})})
        self.paths.append(request.url.path)
        self.bodies.append(json.loads(request.content))
        return httpx.Response(200, json=self.answer)


def custom() -> Served:
    return Served(None, {"predictions": ["Good"]})


def chat() -> Served:
    return Served("llm/v1/chat", {"choices": [{"message": {"role": "assistant", "content": "Good"}}]})


def completions() -> Served:
    return Served("llm/v1/completions", {"choices": [{"text": "Good"}]})


def llm_on(served: Served, **fields: Any) -> Databricks:
    return Databricks(endpoint_name="ep", **answering(served), **fields)


def test_a_custom_model_gets_one_row() -> None:
    served = custom()
    llm = llm_on(served, model_kwargs={"temperature": 0.1})
    assert llm("How are you?", stop=["."]) == "Good"
    assert served.bodies == [{"dataframe_records": [{"prompt": "How are you?", "stop": ["."], "temperature": 0.1}]}]


def test_a_chat_endpoint_gets_messages_and_no_prompt() -> None:
    served = chat()
    assert llm_on(served)("How are you?") == "Good"
    assert served.bodies == [{"messages": [{"role": "user", "content": "How are you?"}]}]


def test_a_completions_endpoint_gets_the_prompt() -> None:
    served = completions()
    assert llm_on(served, max_tokens=5)("How are you?") == "Good"
    assert served.bodies == [{"prompt": "How are you?", "max_tokens": 5}]


def test_the_defaults_go_to_tasks_that_are_known_to_sample() -> None:
    served = completions()
    llm_on(served, task="llm/v1/completions")("hi")
    assert served.bodies == [{"prompt": "hi", "temperature": 0.0}]
    unknown = custom()
    llm_on(unknown)("hi")
    assert unknown.bodies == [{"dataframe_records": [{"prompt": "hi"}]}]


def test_what_was_set_goes_everywhere() -> None:
    served = custom()
    llm_on(served, temperature=0.5, max_tokens=9, extra_params={"top_k": 3})("hi", top_p=0.2)
    row = {"prompt": "hi", "temperature": 0.5, "max_tokens": 9, "top_k": 3, "top_p": 0.2}
    assert served.bodies == [{"dataframe_records": [row]}]


def test_the_stop_of_the_call_is_heeded_before_the_constructor_s() -> None:
    served = custom()
    llm = llm_on(served, stop=["a"])
    llm("hi")
    llm("hi", stop=["b"])
    llm("hi", stop=[])
    assert [body["dataframe_records"][0].get("stop") for body in served.bodies] == [["a"], ["b"], None]


def test_llama2_chat_answers_are_read() -> None:
    served = Served(None, {"predictions": [{"candidates": [{"text": "Good"}]}]})
    assert llm_on(served, task="llama2/chat")("hi") == "Good"


def test_transforms_frame_the_call_and_streams_of_transformed_answers_are_one_piece() -> None:
    def concise(**request: Any) -> dict[str, Any]:
        return {**request, "prompt": request["prompt"] + " Be concise."}

    served = custom()
    llm = llm_on(served, transform_input_fn=concise, transform_output_fn=str.upper)
    assert llm("Hi.", stop=["."]) == "GOOD"
    assert list(llm.stream("Hi.")) == ["GOOD"]
    assert served.bodies[0] == {"dataframe_records": [{"prompt": "Hi. Be concise.", "stop": ["."]}]}


def test_a_driver_app_gets_the_bare_request() -> None:
    app = Served(None, "I am well.")
    llm = Databricks(cluster_id="0000-000000-xxxxxxxx", cluster_driver_port=7777, **answering(app))
    assert llm("How are you?") == "I am well."
    assert app.paths == ["/driver-proxy-api/o/0/0000-000000-xxxxxxxx/7777"]
    assert app.bodies == [{"prompt": "How are you?"}]
    assert llm.cluster_driver_port == "7777"


def test_several_answers_are_asked_for_one_by_one_and_all_returned() -> None:
    served = custom()
    result = llm_on(served, n=3).generate(["a", "b"])
    assert [len(group) for group in result.generations] == [3, 3]
    assert len(served.bodies) == 6
    assert all("n" not in body["dataframe_records"][0] for body in served.bodies)


def upper(text: str) -> str:
    return text.upper()


def test_a_function_in_a_pickle_is_loaded_only_where_that_was_allowed() -> None:
    saved = pickle.dumps(str.upper).hex()
    with pytest.raises(ValidationError, match="allow_dangerous_deserialization"):
        llm_on(custom(), transform_output_fn=saved)
    llm = llm_on(custom(), transform_output_fn=saved, allow_dangerous_deserialization=True)
    assert llm("hi") == "GOOD"
    with pytest.raises(ValidationError, match="hexadecimal"):
        llm_on(custom(), transform_output_fn="not hex", allow_dangerous_deserialization=True)
    with pytest.raises(ValidationError, match="not a function"):
        llm_on(custom(), transform_output_fn=pickle.dumps(3).hex(), allow_dangerous_deserialization=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Set endpoint_name"),
        ({"cluster_id": "c"}, "Must set cluster_driver_port"),
        ({"endpoint_name": "e", "cluster_id": "c"}, "in one place"),
        ({"endpoint_name": "e", "cluster_driver_port": "7777"}, "in one place"),
        ({"cluster_driver_port": "abc"}, "3000 to 8000"),
        ({"cluster_driver_port": 2999}, "3000 to 8000"),
        ({"cluster_driver_port": 8001}, "3000 to 8000"),
        ({"cluster_driver_port": True}, "3000 to 8000"),
        ({"cluster_driver_port": ""}, "3000 to 8000"),
        ({"endpoint_name": "e", "model_kwargs": {"prompt": "x"}}, "must not contain 'prompt'"),
        ({"endpoint_name": "e", "model_kwargs": {"stop": ["x"]}}, "must not contain 'stop'"),
        ({"endpoint_name": "e", "model_kwargs": {"a": 1}, "extra_params": {"b": 2}}, "set one of them"),
        ({"endpoint_name": "e", "databricks_uri": "http://x"}, "databricks://"),
        ({"endpoint_name": "e", "databricks_uri": "databricks://scope:prefix"}, "databricks://"),
        ({"endpoint_name": "e", "n": 0}, "greater than or equal to 1"),
        ({"endpoint_name": "e", "temprature": 0.1}, "Did you mean 'temperature'"),
        ({"endpoint_name": "e", "top_k": 3}, "extra_params"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Databricks(**fields)


def test_both_names_of_the_extra_parameters_do() -> None:
    for name in ("model_kwargs", "extra_params"):
        served = custom()
        llm_on(served, **{name: {"top_k": 3}})("hi")
        assert served.bodies == [{"dataframe_records": [{"prompt": "hi", "top_k": 3}]}]


def test_a_prompt_is_a_text() -> None:
    with pytest.raises(ValueError, match="batch"):
        llm_on(custom())(["a", "b"])  # type: ignore[arg-type]


def test_what_traces_show_has_the_settings_and_names_the_functions() -> None:
    llm = Databricks(endpoint_name="ep", api_token="dapi-secret", transform_output_fn=upper, max_tokens=3)
    shown = llm._identifying_params
    assert shown["endpoint_name"] == "ep"
    assert shown["max_tokens"] == 3
    assert shown["transform_output_fn"].endswith("upper")
    assert "dapi-secret" not in str(shown)


async def test_a_failed_prompt_ends_those_that_wait_behind_it() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        prompt = json.loads(request.content)["dataframe_records"][0]["prompt"]
        asked.append(prompt)
        if prompt == "bad":
            return httpx.Response(400, json={"error_code": "BAD_REQUEST", "message": "no"})
        return httpx.Response(200, json={"predictions": ["Good"]})

    llm = Databricks(endpoint_name="ep", task="custom", max_concurrency=1, **answering(answer))
    with pytest.raises(Exception, match="no"):
        await llm.agenerate(["bad", "a", "b", "c"])
    assert asked == ["bad"]


def test_a_batch_inside_a_chain_keeps_the_order() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, json={"predictions": [json.loads(request.content)["dataframe_records"][0]["prompt"]]}
        )

    llm = Databricks(endpoint_name="ep", task="custom", **answering(answer))
    prompts = [str(number) for number in range(50)]
    assert (llm | RunnableLambda(lambda text: text)).batch(prompts) == prompts
    assert llm.batch(prompts, {"max_concurrency": 3}) == prompts
    assert [group[0].text for group in llm.generate(prompts).generations] == prompts
