"""`client.model_services` and `client.model_providers`, at the wire."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import httpx
import pytest
import respx
from support.services import endpoint_to, external_to, own_to, provider

from dbllm import APIResponseError, ConfigError, ConflictError, ModelProvider, ModelService, NotFoundError
from dbllm._management.model_services import AsyncModelProviders, AsyncModelServices

CATALOG = "/api/2.1/unity-catalog"
ALL = f"{CATALOG}/model-services"
ONE = f"{ALL}/main.ml.chat"
CONFIG = {
    "routing": {"destinations": [{"name": "a", "destination_type": "DESTINATION_TYPE_PAY_PER_TOKEN_FOUNDATION_MODEL"}]}
}
KEY = {"secret_reference": {"name": "secrets/main.ml.openai"}}


def service(name: str = "main.ml.chat", **fields: Any) -> dict[str, Any]:
    return {"name": f"model-services/{name}", "etag": "e==", "supported_api_types": ["mlflow/v1/embeddings"], **fields}


async def test_the_list_has_all_pages_also_after_empty_ones(make: Any, wire: respx.MockRouter) -> None:
    pages: dict[str | None, dict[str, Any]] = {
        None: {"next_page_token": "a/b=="},
        "a/b==": {"model_services": [], "next_page_token": "2"},
        "2": {"model_services": [service(), service("main.ml.other")], "next_page_token": "3"},
        "3": {"model_services": [service("main.ml.last")], "next_page_token": ""},
    }
    listed = wire.get(ALL).mock(
        side_effect=lambda request: httpx.Response(200, json=pages[request.url.params.get("page_token")])
    )
    async with make() as client:
        found = await client.model_services.list("main.ml", view="FULL")
    assert [each.full_name for each in found] == ["main.ml.chat", "main.ml.other", "main.ml.last"]
    first = listed.calls[0].request.url.params
    assert (first["parent"], first["page_size"], first["view"]) == ("schemas/main.ml", "100", "FULL")


@pytest.mark.parametrize(
    "page", [{"next_page_token": "same"}, {"model_services": {"a": 1}}, ["x"]], ids=["endless", "no list", "no object"]
)
async def test_a_list_that_is_none_or_has_no_end_is_an_error(make: Any, wire: respx.MockRouter, page: Any) -> None:
    wire.get(ALL).respond(json=page)
    async with make() as client:
        with pytest.raises(APIResponseError, match="list of model_services"):
            await client.model_services.list()


async def test_create_names_the_schema_and_the_service(make: Any, wire: respx.MockRouter) -> None:
    made = wire.post(ALL).respond(json=service(comment="c"))
    async with make() as client:
        created = await client.model_services.create("main.ml.chat", CONFIG, comment="c", extra_body={"new": 1})
    assert isinstance(created, ModelService)
    assert (created.full_name, created.comment, created.etag) == ("main.ml.chat", "c", "e==")
    assert dict(made.calls[0].request.url.params) == {"parent": "schemas/main.ml", "model_service_id": "chat"}
    assert json.loads(made.calls[0].request.content) == {"config": CONFIG, "comment": "c", "new": 1}


@pytest.mark.parametrize(
    ("given", "mask", "body"),
    [
        ({"config": CONFIG}, "config", {"config": CONFIG}),
        ({"comment": "c", "config": CONFIG}, "config,comment", {"config": CONFIG, "comment": "c"}),
        ({"update_mask": "comment"}, "comment", {}),
        ({"config": CONFIG, "update_mask": ["config.routing.destinations"]}, "config.routing.destinations", None),
    ],
)
async def test_update_sends_the_mask_and_the_etag(
    make: Any, wire: respx.MockRouter, given: dict[str, Any], mask: str, body: Any
) -> None:
    changed = wire.patch(ONE).respond(json=service())
    async with make() as client:
        assert (await client.model_services.update("main.ml.chat", etag="a+b/c==", **given)).name
    request = changed.calls[0].request
    assert dict(request.url.params) == {"update_mask": mask, "etag": "a+b/c=="}
    if body is not None:
        assert json.loads(request.content) == {"name": "model-services/main.ml.chat", **body}


async def test_what_somebody_else_has_changed_is_a_conflict(make: Any, wire: respx.MockRouter) -> None:
    wire.patch(ONE).respond(409, json={"error_code": "ABORTED", "message": "the etag is another by now"})
    async with make() as client:
        with pytest.raises(ConflictError, match="etag"):
            await client.model_services.update("main.ml.chat", comment="c", etag="old")


async def test_get_delete_and_grants(make: Any, wire: respx.MockRouter) -> None:
    wire.get(ONE).respond(json=service())
    gone = wire.delete(ONE).respond(json={})
    held = {"privilege_assignments": [{"principal": "a@b.c", "privileges": ["EXECUTE"]}]}
    path = f"{CATALOG}/permissions/model_service/main.ml.chat"
    wire.get(path).respond(json=held)
    changed = wire.patch(path).respond(json=held)
    async with make() as client:
        services = client.model_services
        assert (await services.get("model-services/main.ml.chat")).etag == "e=="
        assert await services.grants("main.ml.chat") == {"a@b.c": ["EXECUTE"]}
        assert await services.grant("main.ml.chat", "a@b.c") == {"a@b.c": ["EXECUTE"]}
        await services.revoke("main.ml.chat", "g", ["EXECUTE", "MANAGE"])
        await services.revoke("main.ml.chat", "g", "MANAGE")
        assert await services.delete("main.ml.chat", etag="e==") is None
    assert [json.loads(call.request.content)["changes"] for call in changed.calls] == [
        [{"principal": "a@b.c", "add": ["EXECUTE"]}],
        [{"principal": "g", "remove": ["EXECUTE", "MANAGE"]}],
        [{"principal": "g", "remove": ["MANAGE"]}],
    ]
    assert gone.calls[0].request.url.params["etag"] == "e=="


async def test_a_service_that_is_not_there_names_its_neighbours(make: Any, wire: respx.MockRouter) -> None:
    wire.get(ONE).respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"})
    wire.get(ALL).respond(json={"model_services": [service("main.ml.chat2")]})
    async with make() as client:
        with pytest.raises(NotFoundError, match=r"Did you mean 'main.ml.chat2'"):
            await client.model_services.get("main.ml.chat")


async def test_a_workspace_without_them_says_what_to_use(make: Any, wire: respx.MockRouter) -> None:
    wire.route(path__startswith=CATALOG).respond(404, json={"error_code": "FEATURE_DISABLED", "message": "off"})
    async with make() as client:
        for call in (client.model_services.list, client.model_providers.list):
            with pytest.raises(NotFoundError, match="call a serving endpoint by its name instead"):
                await call()
        with pytest.raises(NotFoundError, match="call a serving endpoint by its name instead"):
            await client.model_services.get("main.ml.chat")


@pytest.mark.parametrize("name", ["chat", "ml.chat", "", "a..b", None, 5])
async def test_a_name_that_is_no_services_is_refused_before_anything_is_sent(
    make: Any, wire: respx.MockRouter, name: Any
) -> None:
    async with make() as client:
        for call in (client.model_services.get, client.model_services.delete, client.model_providers.grants):
            with pytest.raises(ConfigError):
                await call(name)
        with pytest.raises(ConfigError, match=r"catalog\.schema"):
            await client.model_services.list(name if name != "ml.chat" else "ml")
        with pytest.raises(ConfigError, match="nothing to update"):
            await client.model_services.update("main.ml.chat")


async def test_providers_take_their_key_by_reference(make: Any, wire: respx.MockRouter) -> None:
    path = f"{CATALOG}/model-provider-services"
    made = wire.post(path).respond(json={"name": "model-provider-services/main.ml.openai"})
    config = {"openai": {"direct": {"api_key": KEY}}, "targets": [{"model": "gpt-5"}], "rate_limits": [{"key": "user"}]}
    async with make() as client:
        created = await client.model_providers.create("main.ml.openai", config)
    assert isinstance(created, ModelProvider)
    assert created.full_name == "main.ml.openai"
    assert made.calls[0].request.url.params["model_provider_service_id"] == "openai"
    assert json.loads(made.calls[0].request.content)["config"] == config


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"openai": {"direct": {"api_key": "sk-verysecret"}}}, "config.openai.direct.api_key"),
        ({"openai": {"direct": {"api_key": {"plaintext": "sk-verysecret"}}}}, "config.openai.direct.api_key.plaintext"),
        ({"amazon_bedrock": {"direct": {"aws": {"secret_access_key": "sk-verysecret"}}}}, "secret_access_key"),
        ({"microsoft_foundry": {"direct": {"entra": {"client_secret": b"sk-verysecret"}}}}, "client_secret"),
        ({"custom": [{"headers": [{"api_key_value": "sk-verysecret"}]}]}, r"custom\[0\].headers\[0\].api_key_value"),
    ],
)
async def test_a_key_in_the_config_itself_is_refused_and_not_shown(
    make: Any, wire: respx.MockRouter, config: Any, place: str
) -> None:
    async with make() as client:
        for call in (client.model_providers.create, client.model_providers.update):
            with pytest.raises(ConfigError, match=f"{place} holds a key itself.*secret_reference") as caught:
                await call("main.ml.p", config)
            assert "verysecret" not in str(caught.value)


def test_configs_that_the_classes_show_are_those_that_a_workspace_takes() -> None:
    blocks = [
        block
        for each in (AsyncModelServices, AsyncModelProviders)
        for block in re.findall(r"\n\n((?: {8}.*\n)+)\n", each.__doc__ or "")
    ]
    shown = [ast.literal_eval("[" + re.sub(r"}\n +{", "},{", block.strip()) + "]") for block in blocks]
    destinations = [
        own_to("claude", "models/system.ai.claude-sonnet-4-5"),
        endpoint_to("my-endpoint", "mine"),
        external_to("main.default.openai", "gpt-5", "gpt"),
    ]
    own = provider()["config"]
    own["openai"]["direct"].pop("base_url")
    own["targets"][0]["native_api_types"] = own["targets"][0]["native_api_types"][:1]
    assert shown == [destinations, [own]]
