"""Whom an invocation asks: shares of traffic, fallbacks, limits, and what is counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.plane import ENDPOINTS, Plane, config, external, own

from dbllm.local.model.llama import Engine
from dbllm.local.storage.store import opened

PATH = "/serving-endpoints/mine/invocations"
ROW = {"dataframe_records": [{"prompt": "hi"}]}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def shouting(prompt: str) -> str:
    return prompt.upper()


@pytest.fixture
def plane(engine: Engine) -> Plane:
    return Plane(engine, deploy_seconds=0.0, seed=7, customs={"shout": shouting}, allowed_upstreams=["127.0.0.1:9"])


def make(plane: Plane, *entities: dict[str, Any], shares: list[int] | None = None, **more: Any) -> None:
    plane.do("POST", ENDPOINTS, {"name": "mine", "config": config(*entities, shares=shares), **more})


def test_calls_are_split_by_the_shares(plane: Plane) -> None:
    make(plane, own("a", "shout"), own("b", "shout"), own("c", "shout"), shares=[20, 80, 0])
    answered = Counter(plane.answer("POST", PATH, ROW).headers["served-model-name"] for _ in range(100))
    assert answered.keys() == {"a", "b"}
    assert 8 <= answered["a"] <= 35  # six standard deviations around 20 are 0 to 44; the seed is fixed


def test_a_seed_makes_the_split_repeatable(engine: Engine) -> None:
    seen = []
    for _ in range(2):
        plane = Plane(engine, deploy_seconds=0.0, seed=3, customs={"shout": shouting})
        make(plane, own("a", "shout"), own("b", "shout"), shares=[50, 50])
        seen.append([plane.answer("POST", PATH, ROW).headers["served-model-name"] for _ in range(12)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {"a", "b"}


def test_one_served_entity_can_be_asked_by_its_name_whatever_its_share(plane: Plane) -> None:
    make(plane, own("a", "shout"), own("b", "shout"), shares=[100, 0])
    answer = plane.answer("POST", "/serving-endpoints/mine/served-models/b/invocations", ROW)
    assert (answer.headers["served-model-name"], answer.json()) == ("b", {"predictions": ["HI"]})
    assert plane.refused("POST", "/serving-endpoints/mine/served-models/z/invocations", ROW)[0] == 404


def unreachable(name: str) -> dict[str, Any]:
    return external(name, openai_api_key_plaintext="sk-hidden", openai_api_base="http://127.0.0.1:9")


def test_without_a_fallback_the_error_is_the_answer(plane: Plane) -> None:
    make(plane, unreachable("dead"), unreachable("dead2"), shares=[100, 0])
    status, _, message = plane.refused("POST", PATH, CHAT)
    assert status == 503
    assert "sk-hidden" not in message


def test_with_a_fallback_the_next_entity_is_asked_and_the_last_answer_stands(plane: Plane) -> None:
    palm = {"provider": "palm", "name": "p", "task": "llm/v1/chat", "palm_config": {"palm_api_key_plaintext": "x"}}
    gateway = {"fallback_config": {"enabled": True}}
    make(plane, unreachable("dead"), {"name": "palm", "external_model": palm}, shares=[100, 0], ai_gateway=gateway)
    status, code, _ = plane.refused("POST", PATH, CHAT)
    assert (status, code) == (501, "NOT_IMPLEMENTED")
    plane.refused("POST", PATH, {"messages": "wrong"})
    metrics = plane.answer("GET", f"{ENDPOINTS}/mine/metrics").text
    assert 'request_count_total{endpoint_name="mine"} 2' in metrics


def test_a_mistake_of_the_caller_falls_back_to_nobody(plane: Plane) -> None:
    make(
        plane,
        unreachable("dead"),
        unreachable("dead2"),
        shares=[100, 0],
        ai_gateway={"fallback_config": {"enabled": True}},
    )
    plane.refused("POST", PATH, {"messages": 7})
    assert " 400 " in plane.do("GET", f"{ENDPOINTS}/mine/served-models/dead/logs")["logs"]
    assert plane.do("GET", f"{ENDPOINTS}/mine/served-models/dead2/logs")["logs"] == ""


def test_a_limit_of_calls_answers_429_until_the_minute_is_over(plane: Plane) -> None:
    plane.at = 60 * 1000 + 45
    make(plane, own("a", "shout"), rate_limits=[{"calls": 2, "renewal_period": "minute"}])
    assert [plane.answer("POST", PATH, ROW).status_code for _ in range(3)] == [200, 200, 429]
    answer = plane.answer("POST", PATH, ROW)
    assert answer.headers["retry-after"] == "15"
    assert answer.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert "2 calls per minute for endpoint 'mine'" in answer.json()["message"]
    plane.at += 15
    assert plane.answer("POST", PATH, ROW).status_code == 200


def test_a_limit_by_user_counts_each_one_for_himself(plane: Plane) -> None:
    make(plane, own("a", "shout"))
    limits = [{"calls": 1, "renewal_period": "minute", "key": "user"}]
    plane.do("PUT", f"{ENDPOINTS}/mine/ai-gateway", {"rate_limits": limits})
    bob = plane.somebody("bob@example.com")
    grant = {"access_control_list": [{"user_name": "bob@example.com", "permission_level": "CAN_QUERY"}]}
    one = plane.do("GET", f"{ENDPOINTS}/mine")["id"]
    plane.do("PATCH", f"/api/2.0/permissions/serving-endpoints/{one}", grant)
    assert [plane.answer("POST", PATH, ROW, token).status_code for token in ("owner", bob, "owner", bob)] == [
        200,
        200,
        429,
        429,
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_of_tokens_counts_what_answers_took(plane: Plane, stream: bool) -> None:
    make(
        plane,
        own("a", "system.ai.smollm2-chat"),
        ai_gateway={"rate_limits": [{"tokens": 5, "renewal_period": "minute"}]},
    )
    first = plane.answer("POST", PATH, {**CHAT, "stream": stream})
    assert first.status_code == 200
    answer = plane.answer("POST", PATH, CHAT)
    assert answer.status_code == 429
    assert "5 tokens per minute" in answer.json()["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_of_an_agent_count_too(plane: Plane, stream: bool) -> None:
    limits = {"rate_limits": [{"tokens": 5, "renewal_period": "minute"}]}
    make(plane, own("a", "local.default.smollm2-agent"), ai_gateway=limits)
    ask = {"input": [{"role": "user", "content": "hi"}], "max_output_tokens": 2, "stream": stream}
    assert [plane.answer("POST", PATH, ask).status_code for _ in range(2)] == [200, 429]


def test_what_was_counted_survives_a_restart(engine: Engine, tmp_path: Path) -> None:
    for expected in (200, 429):
        with opened(tmp_path, {}) as store:
            plane = Plane(engine, store, deploy_seconds=0.0, customs={"shout": shouting})
            if expected == 200:
                make(plane, own("a", "shout"), rate_limits=[{"calls": 1, "renewal_period": "minute"}])
            assert plane.answer("POST", PATH, ROW).status_code == expected


@pytest.mark.parametrize(
    "wrong",
    [
        [{"renewal_period": "minute"}],
        [{"calls": -1}],
        [{"calls": 1, "key": "planet"}],
        [{"calls": 1, "renewal_period": "hour"}],
        [{"calls": 1, "key": "user_group"}],
        {},
    ],
)
def test_limits_that_make_no_sense_are_refused(plane: Plane, wrong: object) -> None:
    make(plane, own("a", "shout"))
    assert plane.refused("PUT", f"{ENDPOINTS}/mine/ai-gateway", {"rate_limits": wrong})[0] == 400


def test_the_openai_paths_reach_made_endpoints_too(plane: Plane) -> None:
    make(plane, own("a", "system.ai.smollm2-chat"))
    reply = plane.do("POST", "/serving-endpoints/chat/completions", {"model": "mine", **CHAT})
    assert reply["object"] == "chat.completion"
    status, _, message = plane.refused("POST", "/serving-endpoints/embeddings", {"model": "mine", "input": "x"})
    assert status == 400
    assert "llm/v1/chat, not llm/v1/embeddings" in message


def test_metrics_and_logs_tell_what_happened_but_no_text(plane: Plane) -> None:
    make(plane, own("a", "shout"))
    plane.answer("POST", PATH, {"dataframe_records": [{"prompt": "private words"}]})
    plane.answer("POST", PATH, content=b"{")
    metrics = plane.answer("GET", f"{ENDPOINTS}/mine/metrics").text
    assert 'request_count_total{endpoint_name="mine"} 2' in metrics
    assert 'request_4xx_count_total{endpoint_name="mine"} 1' in metrics
    logs = plane.do("GET", f"{ENDPOINTS}/mine/served-models/a/logs")["logs"]
    assert len(logs.splitlines()) == 2
    assert "private" not in metrics + logs + json.dumps(plane.do("GET", f"{ENDPOINTS}/mine"))


def test_calls_over_the_limit_wait_and_are_all_answered(engine: Engine) -> None:
    working, most = 0, 0

    async def slow(prompt: str) -> str:
        nonlocal working, most
        working += 1
        most = max(most, working)
        for _ in range(20):
            await asyncio.sleep(0)
        working -= 1
        return prompt

    plane = Plane(engine, deploy_seconds=0.0, at_once=3, customs={"slow": slow})

    async def all_of_them() -> list[int]:
        transport = httpx.ASGITransport(app=plane.app)
        headers = {"authorization": "Bearer owner"}
        async with httpx.AsyncClient(transport=transport, base_url="http://w", headers=headers) as client:
            calls = (client.post("/serving-endpoints/slow/invocations", json=ROW) for _ in range(20))
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    assert asyncio.run(all_of_them()) == [200] * 20
    assert most == 3


def test_who_gives_up_waiting_takes_no_turn(engine: Engine) -> None:
    """The one turn is taken; a client that goes away while it waits leaves the turn to the next."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def held(prompt: str) -> str:
        asked.append(prompt)
        begun.set()
        await go_on.wait()
        return prompt

    plane = Plane(engine, deploy_seconds=0.0, at_once=1, customs={"held": held})

    async def call(word: str, gone: asyncio.Event) -> None:
        body = json.dumps({"dataframe_records": [{"prompt": word}]}).encode()
        parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_message: Any) -> None:
            pass

        path = "/serving-endpoints/held/invocations"
        headers = [(b"authorization", b"Bearer owner"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        await plane.app(scope, receive, send)  # type: ignore[arg-type]

    async def story() -> None:
        never, backends = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(call("first", never))
        await begun.wait()
        second = asyncio.ensure_future(call("second", backends))
        third = asyncio.ensure_future(call("third", never))
        await asyncio.sleep(0.05)
        backends.set()
        await asyncio.wait_for(second, 5)
        go_on.set()
        await asyncio.wait_for(asyncio.gather(first, third), 5)

    asyncio.run(story())
    assert asked == ["first", "third"]
