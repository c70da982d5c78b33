"""The AI gateway, apps and data plane with databricks-sdk, databricks-openai and databricks-langchain."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

sdk = pytest.importorskip("databricks.sdk")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what this package imports is deprecated by the packages it imports
    langchain = pytest.importorskip("databricks_langchain")
databricks_openai = pytest.importorskip("databricks_openai")

from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.errors import Aborted, NotFound
from databricks.sdk.service import catalog, serving
from place import PRINCIPAL, SECRET, UPSTREAM_KEY, Up

SDK, OPENAI, LANGCHAIN = "databricks-sdk", "databricks-openai", "databricks-langchain"
GATEWAY, SERVICES, OPTIMIZED, APP = "AI gateway", "model services and grants", "route-optimized endpoint", "agent app"
Fresh = Callable[[str], str]
HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:databricks_langchain")


@pytest.fixture
def w(here: Up) -> Any:
    return sdk.WorkspaceClient()


@pytest.fixture
def service(here: Up) -> Any:
    """The SDK, logged in as a service principal: by OAuth."""
    return sdk.WorkspaceClient(host=here.host, client_id=PRINCIPAL, client_secret=SECRET, auth_type="oauth-m2m")


@pytest.fixture
def gpt(w: Any, here: Up, fresh: Fresh) -> Iterator[str]:
    """A model service on an external model, whose key is a secret."""
    scope, name = f"main.{fresh('s')}", fresh("gpt")
    w.secrets.create_scope(scope)
    w.secrets.put_secret(scope, "key", string_value=UPSTREAM_KEY)
    key = catalog.ModelProviderServiceConfigProviderSecret(
        secret_reference=catalog.ModelProviderServiceConfigSecretReference(f"secrets/{scope}.key")
    )
    direct = catalog.ModelProviderServiceConfigOpenAiProviderDirectConfig(
        api_key=key, base_url=f"{here.host}/upstream/openai/v1"
    )
    types = [f"openai/v1/{path}" for path in ("chat/completions", "responses", "embeddings")]
    config = catalog.ModelProviderServiceConfig(
        provider_type=catalog.ModelProviderServiceConfigExternalModelProviderType.EXTERNAL_MODEL_PROVIDER_TYPE_OPENAI,
        openai=catalog.ModelProviderServiceConfigOpenAiProviderConfig(direct),
        targets=[catalog.ModelProviderServiceConfigModelTargetConfig("gpt-5", native_api_types=types)],
    )
    provider = w.ai_gateway.create_model_provider_service(
        catalog.ModelProviderService(config=config), "schemas/main.default", name
    )
    external = catalog.ModelServiceConfigExternalModelConfig(
        provider.name, catalog.ModelProviderServiceConfigModelTargetConfig("gpt-5")
    )
    kind = catalog.ModelServiceConfigDestinationConfigDestinationType
    destination = catalog.ModelServiceConfigDestinationConfig(
        "gpt", kind.DESTINATION_TYPE_EXTERNAL_FOUNDATION_MODEL, external_model_config=external
    )
    made = w.ai_gateway.create_model_service(
        catalog.ModelService(
            config=catalog.ModelServiceConfig(routing=catalog.ModelServiceConfigRoutingConfig([destination]))
        ),
        "schemas/main.default",
        name,
    )
    yield str(made.name).removeprefix("model-services/")
    w.ai_gateway.delete_model_service(made.name)
    w.ai_gateway.delete_model_provider_service(provider.name)


@pytest.mark.does(SDK, SERVICES)
def test_model_services_are_listed_over_pages_changed_and_deleted(w: Any, gpt: str) -> None:
    api = w.ai_gateway
    ready = [one.name for one in api.list_model_services(parent="schemas/system.ai", page_size=1)]
    assert ready == ["model-services/system.ai.bge-large-en", "model-services/system.ai.smollm2-chat"]
    read = api.get_model_service(f"model-services/{gpt}")
    assert "mlflow/v1/chat/completions" in read.supported_api_types
    assert read.create_time is not None
    read.comment = "mine"
    changed = api.update_model_service(read.name, read, FieldMask(["comment"]), etag=read.etag)
    assert (changed.comment, changed.config) == ("mine", read.config)
    with pytest.raises(Aborted, match="changed since"):
        api.update_model_service(read.name, read, FieldMask(["comment"]), etag=read.etag)
    with pytest.raises(NotFound):
        api.get_model_service("model-services/main.default.none")
    providers = list(api.list_model_provider_services(parent="schemas/main.default"))
    shown = next(one for one in providers if one.name.endswith(gpt))
    assert shown.config.openai.direct.api_key.plaintext is None
    shown.config.allow_all_targets = True
    mask = FieldMask(["config.allow_all_targets"])
    assert api.update_model_provider_service(shown.name, shown, mask).config.allow_all_targets


@pytest.mark.does(SDK, SERVICES)
def test_execute_is_granted_and_revoked(w: Any, gpt: str) -> None:
    def change(**privileges: Any) -> Any:
        made = catalog.PermissionsChange(principal="users", **privileges)
        return w.grants.update("model_service", gpt, changes=[made]).privilege_assignments

    (granted,) = change(add=[catalog.Privilege.EXECUTE])
    assert (granted.principal, granted.privileges) == ("users", [catalog.Privilege.EXECUTE])
    assert w.grants.get("model_service", gpt).privilege_assignments == [granted]
    assert list(w.grants.list("MODEL_SERVICE", gpt)) == [granted]
    assert not change(remove=[catalog.Privilege.EXECUTE])


@pytest.mark.does(SDK, OPTIMIZED)
def test_a_route_optimized_endpoint_is_queried_on_the_data_plane(w: Any, service: Any, fresh: Fresh) -> None:
    name = fresh("fast")
    entity = serving.ServedEntityInput(entity_name="system.ai.smollm2-chat", entity_version="1")
    config = serving.EndpointCoreConfigInput(name=name, served_entities=[entity])
    soon = timedelta(seconds=30)
    made = w.serving_endpoints.create_and_wait(name, config=config, route_optimized=True, timeout=soon)
    try:
        assert made.data_plane_info.query_info.endpoint_url == made.endpoint_url
        message = serving.ChatMessage(content="hello", role=serving.ChatMessageRole.USER)
        reply = service.serving_endpoints_data_plane.query(name, messages=[message], max_tokens=6)
        assert reply.choices[0].message.content
        with pytest.raises(sdk.errors.BadRequest, match="route-optimized"):
            w.serving_endpoints.query(name, messages=[message], max_tokens=6)
    finally:
        w.serving_endpoints.delete(name)


@pytest.mark.does(SDK, APP)
@pytest.mark.does(OPENAI, APP)
def test_the_agents_app_is_found_by_its_name(w: Any, service: Any) -> None:
    assert service.apps.get("smollm2-agent").url in [app.url for app in w.apps.list()]
    client = databricks_openai.DatabricksOpenAI(workspace_client=service)
    asked: Any = {"model": "apps/smollm2-agent", "input": HELLO, "max_output_tokens": 8}
    assert client.responses.create(**asked).output[0].content[0].text
    events = [event.type for event in client.responses.create(**asked, stream=True)]
    assert events.count("response.output_text.delta") > 2
    with pytest.raises(ValueError, match="OAuth"):
        databricks_openai.DatabricksOpenAI(workspace_client=w).responses.create(**asked)


@pytest.fixture(params=["use_ai_gateway", "use_ai_gateway_native_api"])
def way(request: pytest.FixtureRequest) -> dict[str, bool]:
    """Which of the gateway's APIs is used: the unified one, or OpenAI's own."""
    return {str(request.param): True}


@pytest.mark.does(OPENAI, "chat")
@pytest.mark.does(OPENAI, "chat, streamed")
@pytest.mark.does(OPENAI, "tools")
@pytest.mark.does(OPENAI, "responses")
@pytest.mark.does(OPENAI, "responses, streamed")
@pytest.mark.does(OPENAI, "embeddings")
def test_databricks_openai_calls_serving_endpoints(here: Up) -> None:
    everything(databricks_openai.DatabricksOpenAI(), "smollm2-chat", "databricks-bge-large-en")


@pytest.mark.does(OPENAI, GATEWAY)
@pytest.mark.parametrize("old", [False, True], ids=["model service", "old name"])
def test_databricks_openai_calls_the_gateway(here: Up, way: dict[str, bool], old: bool) -> None:
    names = ("smollm2-chat", "databricks-bge-large-en") if old else ("system.ai.smollm2-chat", "system.ai.bge-large-en")
    everything(databricks_openai.DatabricksOpenAI(**way), *names)


@pytest.mark.does(OPENAI, GATEWAY)
def test_databricks_openai_calls_an_external_model_by_its_service(gpt: str, way: dict[str, bool]) -> None:
    everything(databricks_openai.DatabricksOpenAI(**way), gpt, gpt)


def everything(client: Any, model: str, embedding: str) -> None:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole
    assert whole
    called = client.chat.completions.create(
        model=model, messages=HELLO, tools=[WEATHER], tool_choice="required", max_tokens=60
    )
    (call,) = called.choices[0].message.tool_calls
    assert "city" in json.loads(call.function.arguments)
    response: Any = {"model": model, "input": "hello", "max_output_tokens": 8, "temperature": 0}
    text = client.responses.create(**response).output_text
    events = client.responses.create(**response, stream=True)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    vectors = client.embeddings.create(model=embedding, input=["a", "b"], encoding_format="float").data
    assert [len(one.embedding) for one in vectors] == [256, 256]


@pytest.mark.does(OPENAI, GATEWAY)
def test_the_async_client_calls_the_gateway(here: Up, way: dict[str, bool]) -> None:
    async def ask() -> Any:
        async with databricks_openai.AsyncDatabricksOpenAI(**way) as client:
            asked: Any = {"model": "system.ai.smollm2-chat", "messages": HELLO, "max_tokens": 6}
            return await client.chat.completions.create(**asked)

    assert asyncio.run(ask()).choices[0].message.content


@pytest.mark.does(LANGCHAIN, GATEWAY)
def test_chat_databricks_calls_the_gateway(here: Up, way: dict[str, bool]) -> None:
    chat = langchain.ChatDatabricks(model="system.ai.smollm2-chat", temperature=0, max_tokens=12, **way)
    reply = chat.invoke("hello")
    assert reply.content
    pieces = [piece.content for piece in chat.stream("hello")]
    assert len(pieces) > 3
    assert "".join(pieces) == reply.content
    called = chat.bind_tools([weather], tool_choice="required").invoke("What is the weather in Paris?")
    assert called.tool_calls[0]["name"] == "weather"


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"
