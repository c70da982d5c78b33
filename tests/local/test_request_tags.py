"""Tags of requests: what is one, and where they are counted."""

from __future__ import annotations

import json

import pytest
from support.plane import Plane

from dbllm.local.invocation.request_tags import read_request_tags
from dbllm.local.management.metrics import MAX_TAGS, Metrics
from dbllm.local.model.llama import Engine

HEADER = "Databricks-Ai-Gateway-Request-Tags"
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}


def test_tags_are_counted_for_endpoints_and_model_services(engine: Engine) -> None:
    plane = Plane(engine)
    tags = {"project": "x", 'a "b"\n': "\\"}
    for path, model in (
        ("/serving-endpoints/smollm2-chat/invocations", None),
        ("/serving-endpoints/chat/completions", "smollm2-chat"),
        ("/ai-gateway/mlflow/v1/chat/completions", "system.ai.smollm2-chat"),
    ):
        body = {**CHAT, "model": model}
        for headers in ({HEADER: json.dumps(tags)}, {HEADER: '{"project": "y"}'}, {HEADER: "{}"}, {}):
            assert plane.answer("POST", path, body, headers=headers).status_code == 200
    counted = {
        one["name"]: {(tag["key"], tag["value"]): tag["requests"] for tag in one["tags"]}
        for one in plane.do("GET", "/api/local/request-tags")["endpoints"]
    }
    expected = {("project", "x"): 2, ('a "b"\n', "\\"): 2, ("project", "y"): 2}
    assert counted == {
        "smollm2-chat": expected,
        "system.ai.smollm2-chat": {tag: count // 2 for tag, count in expected.items()},
    }
    metrics = plane.answer("GET", "/api/2.0/serving-endpoints/smollm2-chat/metrics").text
    assert 'request_tag_count_total{endpoint_name="smollm2-chat",key="project",value="x"} 2\n' in metrics
    assert 'key="a \\"b\\"\\n",value="\\\\"} 2\n' in metrics
    assert plane.refused("GET", "/api/local/request-tags", token=plane.somebody("ada@example.com"))[0] == 403


def test_what_is_no_object_of_strings_is_refused_and_nothing_is_counted(engine: Engine) -> None:
    plane = Plane(engine)
    for header in (
        "",
        "x",
        "[]",
        '"x"',
        "null",
        '{"a": 1}',
        '{"a": null}',
        '{"a": {"b": "c"}}',
        '{"": "x"}',
        "[" * 9999,
    ):
        answer = plane.answer("POST", "/serving-endpoints/smollm2-chat/invocations", CHAT, headers={HEADER: header})
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST"), header
        assert HEADER in answer.json()["message"]
    assert plane.do("GET", "/api/local/request-tags") == {"endpoints": []}
    assert read_request_tags(None) == {}


@pytest.mark.parametrize("more", [0, 7])
def test_a_caller_who_makes_up_tags_does_not_fill_the_memory(more: int) -> None:
    metrics = Metrics()
    for number in range(MAX_TAGS + more):
        metrics.tagged("e", {"n": str(number)})
    metrics.tagged("e", {"n": "0"})
    counted = dict(metrics.tags()["e"])
    assert (len(counted), counted["n", "0"]) == (MAX_TAGS, 2)
    metrics.forget("e")
    assert metrics.tags() == {}
