"""One body on a serving endpoint, a model service and an agent's app: the same verbs, the same results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dbllm import BadRequestError, Client, ConfigError, NotFoundError
from dbllm.local import Workspace

SHORT = "Say hello."


@pytest.fixture(scope="module")
def running() -> Iterator[Workspace]:
    with Workspace() as workspace:
        yield workspace


@pytest.fixture(scope="module")
def principal(running: Workspace) -> dict[str, str]:
    """The id and secret of a service principal: apps take OAuth alone."""
    with Client(running.host, running.token) as client:
        made = client.request("POST", "/api/local/principals", json={"name": "caller", "admin": True})
    return {name: made[name] for name in ("client_id", "client_secret")}


@pytest.fixture
def connect(make: Any, running: Workspace, principal: dict[str, str]) -> Any:
    return lambda: make(running.host, None, **principal)


PLACES = {
    "a serving endpoint": lambda client: client.endpoint("smollm2-agent"),
    "a foundation model": lambda client: client.endpoint("smollm2-chat"),
    "a model service": lambda client: client.endpoint("system.ai.smollm2-chat"),
    "an app": lambda client: client.agent("smollm2-agent"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_complete_respond_and_streams(connect, mode, place):
    async with connect() as client:
        model = PLACES[place](client)
        limit = {} if place == "an app" else {"max_output_tokens": 6}
        reply = await model.respond(SHORT, **limit)
        assert reply.text.strip()
        assert reply.request_id
        assert [item.type for item in reply.output] == ["message"]
        async with model.stream_respond(SHORT, **limit) as stream:
            text = "".join([event.text async for event in stream])
            whole = await stream.final()
        assert text
        assert whole.text == text == stream.text
        assert (await model.complete(SHORT, **({} if place == "an app" else {"max_tokens": 6}))).strip()


async def test_the_verbs_of_models_are_the_same_by_either_name(connect, mode):
    async with connect() as client:
        for name in ("smollm2-chat", "system.ai.smollm2-chat"):
            model = client.endpoint(name)
            reply = await model.chat(SHORT, max_tokens=5, temperature=0)
            assert (reply.usage.completion_tokens, reply.served_model is not None) == (5, True)
            async with model.stream_chat(SHORT, max_tokens=5, temperature=0) as stream:
                assert (await stream.final()).text == reply.text
            assert (await model.generate(SHORT, max_tokens=5, temperature=0)).text == reply.text
        for name in ("databricks-bge-large-en", "system.ai.bge-large-en"):
            (vector,) = (await client.endpoint(name).embed(SHORT)).vectors
            assert len(vector) == 256


async def test_a_run_of_an_app_is_started_followed_and_awaited(connect, mode):
    async with connect() as client:
        agent = client.agent("smollm2-agent")
        run = await agent.start(SHORT)
        async with run.events() as stream:
            numbers = [stream.cursor async for _ in stream]
            whole = await stream.final()
        assert numbers == list(range(1, len(numbers) + 1))
        async with agent.run(run.id).events(after=numbers[-3]) as rest:
            assert [rest.cursor async for _ in rest] == numbers[-2:]
        assert await run.status() == "completed"
        assert (await run.result()).text == whole.text


async def test_an_app_takes_no_personal_access_token(make, mode, running):
    async with make(running.host, running.token) as client:
        with pytest.raises(ConfigError, match="OAuth alone"):
            await client.agent("smollm2-agent").respond(SHORT)


async def test_model_services_are_listed_made_changed_granted_and_deleted(connect, mode, running):
    name = f"main.default.mine-{mode}"
    async with connect() as client:
        listed = await client.model_services.list()
        assert {"system.ai.smollm2-chat", "system.ai.bge-large-en"} <= {service.full_name for service in listed}
        config = (await client.model_services.get("system.ai.smollm2-chat")).config
        made = await client.model_services.create(name, config)
        assert made.full_name == name
        assert (await client.endpoint(name).chat(SHORT, max_tokens=5, temperature=0)).text
        changed = await client.model_services.update(name, comment="mine", etag=made.etag)
        assert changed.comment == "mine"
        assert await client.model_services.grant(name, "team") == {"team": ["EXECUTE"]}
        assert await client.model_services.revoke(name, "team") == {}
        await client.model_services.delete(name)
        with pytest.raises(NotFoundError, match=r"schema main\.default has"):
            await client.endpoint(name).chat(SHORT)


async def test_a_route_optimised_endpoint_is_called_like_any_other(connect, make, mode, running):
    entity = {"name": "m", "entity_name": "system.ai.smollm2-chat", "entity_version": "1"}
    name = f"fast-{mode}"
    async with connect() as client:
        await client.endpoints.create(
            name, {"served_entities": [entity]}, extra_body={"route_optimized": True}, wait=True
        )
        assert (await client.endpoint(name).chat(SHORT, max_tokens=5, temperature=0)).text
        async with client.endpoint(name).stream_complete(SHORT, max_tokens=5, temperature=0) as stream:
            assert await stream.final()
    async with make(running.host, running.token) as client:
        with pytest.raises(BadRequestError, match="OAuth alone"):
            await client.endpoint(name).chat(SHORT, max_tokens=2)
