"""Endpoints and secrets on a real local workspace: the whole way from a secret to an external model's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbllm import APIError, APIStatusError, ConfigError, NotFoundError
from dbllm.local import Workspace

Fresh = Callable[[str], str]
Config = Callable[..., dict[str, Any]]


@pytest.fixture
def client(make: Any, workspace: Workspace) -> Any:
    return make(workspace.host, workspace.token)


class TestSecrets:
    async def test_what_is_written_is_read(self, client: Any, fresh: Fresh) -> None:
        scope = fresh("scope")
        async with client:
            await client.secrets.create_scope(scope)
            for value in ("plain", "", "zwei\nZeilen, ä 日本", "x" * 100_000):
                await client.secrets.put(scope, "text", value)
                assert await client.secrets.get(scope, "text") == value
            await client.secrets.put(scope, "bytes", b"\x00\xff")
            assert await client.secrets.get_bytes(scope, "bytes") == b"\x00\xff"
            listed = {secret.key: secret.last_updated_timestamp for secret in await client.secrets.list(scope)}
            assert set(listed) == {"text", "bytes"}
            assert all(moment > 1_500_000_000_000 for moment in listed.values())
            await client.secrets.delete(scope, "bytes")
            with pytest.raises(NotFoundError, match="bytes"):
                await client.secrets.get(scope, "bytes")
            await client.secrets.delete_scope(scope)
            assert scope not in [found.name for found in await client.secrets.list_scopes()]

    async def test_acls_are_written_and_read(self, client: Any, fresh: Fresh) -> None:
        scope = fresh("scope")
        async with client:
            await client.secrets.create_scope(scope)
            await client.secrets.put_acl(scope, "users", "READ")
            assert (await client.secrets.get_acl(scope, "users")).permission == "READ"
            assert ("users", "READ") in [
                (acl.principal, acl.permission) for acl in await client.secrets.list_acls(scope)
            ]
            await client.secrets.delete_acl(scope, "users")
            assert "users" not in [acl.principal for acl in await client.secrets.list_acls(scope)]

    async def test_a_scope_that_exists_is_refused_by_its_name(self, client: Any, fresh: Fresh) -> None:
        scope = fresh("scope")
        async with client:
            await client.secrets.create_scope(scope)
            with pytest.raises(APIStatusError, match=scope) as caught:
                await client.secrets.create_scope(scope)
        assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"

    async def test_a_value_that_is_too_long_is_refused_without_showing_it(self, client: Any, fresh: Fresh) -> None:
        scope = fresh("scope")
        async with client:
            await client.secrets.create_scope(scope)
            with pytest.raises(APIStatusError) as caught:
                await client.secrets.put(scope, "k", "longvalue" * 20_000)
        assert "longvalue" not in str(caught.value)


class TestEndpoints:
    async def test_from_a_secret_to_an_answer(
        self, client: Any, workspace: Workspace, fresh: Fresh, config: Config
    ) -> None:
        scope, name = fresh("scope"), fresh("my-chat")
        async with client:
            await client.secrets.create_scope(scope)
            await client.secrets.put(scope, "key", workspace.upstream_key)
            made = await client.endpoints.create(name, config(scope), tags={"team": "x"}, wait=True, timeout=30)
            assert (made.name, made.is_ready, made.task) == (name, True, "llm/v1/chat")
            reply = await client.endpoint(name).chat("hello", temperature=0, max_tokens=8)
            assert reply.text
            assert reply.usage.completion_tokens > 0
            assert name in [found.name for found in await client.endpoints.list()]
            await client.endpoints.delete(name)
            with pytest.raises(NotFoundError):
                await client.endpoints.get(name)

    async def test_an_endpoint_is_updated_while_it_serves(
        self, client: Any, workspace: Workspace, fresh: Fresh, config: Config
    ) -> None:
        scope, name = fresh("scope"), fresh("my-chat")
        async with client:
            await client.secrets.create_scope(scope)
            await client.secrets.put(scope, "key", workspace.upstream_key)
            first = await client.endpoints.create(name, config(scope), wait=True, timeout=30)
            busy = await client.endpoints.update_config(name, config(scope, model="gpt-5"))
            assert (busy.state.ready, busy.is_ready) == ("READY", False)
            assert (await client.endpoint(name).chat("hello", max_tokens=4)).text is not None
            second = await client.endpoints.wait_until_ready(name, timeout=30)
            assert second.entities[0]["external_model"]["name"] == "gpt-5"
            assert second.config["config_version"] > first.config["config_version"]

    async def test_a_secret_that_is_missing_is_said_to_be(self, client: Any, fresh: Fresh, config: Config) -> None:
        async with client:
            with pytest.raises(APIError) as caught:
                await client.endpoints.create(fresh("my-chat"), config("no-such-scope"), wait=True, timeout=30)
        assert "no-such-scope" in str(caught.value)

    async def test_a_deployment_that_fails_names_the_entity_and_says_why(self, client: Any, fresh: Fresh) -> None:
        name = fresh("custom")
        broken = {"served_entities": [{"name": "it", "entity_name": "a.b.no_such_model", "entity_version": "1"}]}
        async with client:
            with pytest.raises(APIError) as caught:
                await client.endpoints.create(name, broken, wait=True, timeout=30)
            assert caught.value.error_code == "UPDATE_FAILED"
            assert "'it' is DEPLOYMENT_FAILED (" in str(caught.value)
            await client.endpoints.delete(name)

    async def test_all_that_can_be_set_is_set(
        self, client: Any, workspace: Workspace, fresh: Fresh, config: Config
    ) -> None:
        scope, name = fresh("scope"), fresh("my-chat")
        async with client:
            await client.secrets.create_scope(scope)
            await client.secrets.put(scope, "key", workspace.upstream_key)
            await client.endpoints.create(name, config(scope), wait=True, timeout=30)
            manage = client.endpoints
            assert await manage.update_tags(name, {"a": "1", "b": "2"}) == {"a": "1", "b": "2"}
            assert await manage.update_tags(name, delete=["a"]) == {"b": "2"}
            limits = [{"calls": 10, "key": "user", "renewal_period": "minute"}]
            assert await manage.set_rate_limits(name, limits) == limits
            gateway = {"usage_tracking_config": {"enabled": True}}
            assert await manage.set_ai_gateway(name, gateway) == gateway
            access = [{"user_name": "a@example.com", "permission_level": "CAN_QUERY"}]
            held = await manage.update_permissions(name, access)
            assert held == await manage.permissions(name)
            assert "a@example.com" in [entry.get("user_name") for entry in held]
            await manage.set_permissions(name, [])
            assert "a@example.com" not in [entry.get("user_name") for entry in await manage.permissions(name)]
            levels = {level["permission_level"] for level in await manage.permission_levels(name)}
            assert levels == {"CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"}
            assert isinstance(await manage.logs(name), str)
            assert await manage.build_logs(name)
            assert name in await manage.metrics(name)
            assert "openapi" in await manage.openapi(name)
            await manage.delete(name)

    async def test_a_key_given_as_plain_text_works_and_is_not_given_back(
        self, client: Any, workspace: Workspace, fresh: Fresh, config: Config
    ) -> None:
        name, plain = fresh("my-chat"), config("s")
        model = plain["served_entities"][0]["external_model"]
        model["openai_config"] = {"openai_api_key_plaintext": workspace.upstream_key}
        async with client:
            made = await client.endpoints.create(name, plain, wait=True, timeout=30)
            assert workspace.upstream_key not in made.model_dump_json()
            assert (await client.endpoint(name).chat("hello", max_tokens=4)).text is not None
            await client.endpoints.delete(name)

    async def test_what_cannot_work_never_reaches_the_workspace(
        self, client: Any, fresh: Fresh, config: Config
    ) -> None:
        name, wrong = fresh("my-chat"), config("s")
        wrong["served_entities"][0]["external_model"]["provider"] = "opnai"
        async with client:
            with pytest.raises(ConfigError, match="'openai'"):
                await client.endpoints.create(name, wrong)
            with pytest.raises(NotFoundError):
                await client.endpoints.get(name)
