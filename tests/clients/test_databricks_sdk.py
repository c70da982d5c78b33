"""Databricks' own SDK for Python: every method of its serving endpoints and secrets."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")
sdk = pytest.importorskip("databricks.sdk")

from databricks.sdk.errors import DatabricksError, NotFound, PermissionDenied, ResourceAlreadyExists
from databricks.sdk.service import serving
from databricks.sdk.service.workspace import AclPermission
from place import PRINCIPAL, SECRET, UPSTREAM_KEY, Up
from reasons import LEFT_OUT
from watch import Watched, methods

NAME = "databricks-sdk"
Fresh = Callable[[str], str]
SOON = timedelta(seconds=30)
DOLLY = "local.default.dolly"
DONE: dict[str, set[str]] = {"serving_endpoints": set(), "secrets": set()}


def does(*operations: str) -> Any:
    """Marks a test as cells of the table."""

    def mark(test: Any) -> Any:
        for operation in operations:
            test = pytest.mark.does(NAME, operation)(test)
        return test

    return mark


@pytest.fixture
def w(here: Up) -> SimpleNamespace:
    """A `WorkspaceClient`, watched."""
    made = sdk.WorkspaceClient()
    is_httpx_patched = {name: Watched(getattr(made, name), done) for name, done in DONE.items()}
    return SimpleNamespace(client=made, **is_httpx_patched)


def entity(name: str = "dolly", **more: Any) -> Any:
    return serving.ServedEntityInput(
        name=name, entity_name=DOLLY, entity_version="1", workload_size="Small", scale_to_zero_enabled=True, **more
    )


def config(name: str) -> Any:
    return serving.EndpointCoreConfigInput(name=name, served_entities=[entity()])


@pytest.fixture
def made(w: SimpleNamespace, fresh: Fresh) -> Iterator[str]:
    """An endpoint that is there and ready."""
    name = fresh("sdk")
    w.serving_endpoints.create_and_wait(name, config=config(name), timeout=SOON)
    yield name
    w.serving_endpoints.delete(name)


@pytest.fixture
def gpt(w: SimpleNamespace, fresh: Fresh) -> Iterator[str]:
    """An external model whose key is a secret."""
    scope, name = fresh("scope"), fresh("gpt")
    w.secrets.create_scope(scope)
    w.secrets.put_secret(scope, "key", string_value=UPSTREAM_KEY)
    external = serving.ExternalModel(
        provider=serving.ExternalModelProvider.OPENAI,
        name="gpt-4",
        task="llm/v1/chat",
        openai_config=serving.OpenAiConfig(openai_api_key="{{" + f"secrets/{scope}/key" + "}}"),
    )
    served = serving.ServedEntityInput(name="gpt", external_model=external)
    made = serving.EndpointCoreConfigInput(name=name, served_entities=[served])
    w.serving_endpoints.create_and_wait(name, config=made, timeout=SOON)
    yield name
    w.serving_endpoints.delete(name)


@does("create and update an endpoint", "list, get and delete endpoints")
def test_an_endpoint_is_made_changed_and_deleted(w: SimpleNamespace, fresh: Fresh) -> None:
    api, name = w.serving_endpoints, fresh("sdk")
    made = api.create(name, config=config(name), description="mine", tags=[serving.EndpointTag("team", "x")]).result(
        SOON
    )
    assert made.state.ready == serving.EndpointStateReady.READY
    assert made.description == "mine"
    assert [one.name for one in api.list()].count(name) == 1
    two = [entity("one"), entity("two")]
    traffic = serving.TrafficConfig(
        routes=[serving.Route(80, served_model_name="one"), serving.Route(20, served_model_name="two")]
    )
    api.update_config(name, served_entities=two, traffic_config=traffic)
    changed = api.wait_get_serving_endpoint_not_updating(name, SOON)
    assert [one.name for one in changed.config.served_entities] == ["one", "two"]
    assert [route.traffic_percentage for route in changed.config.traffic_config.routes] == [80, 20]
    again = api.update_config_and_wait(name, served_entities=[entity()], timeout=SOON)
    assert again.config.config_version > changed.config.config_version
    assert api.get(name).id == made.id
    api.delete(name)
    with pytest.raises(NotFound):
        api.get(name)


@does("create and update an endpoint")
def test_provisioned_throughput_is_kept(w: SimpleNamespace, fresh: Fresh) -> None:
    api = w.serving_endpoints

    def units(number: int) -> Any:
        served = serving.PtServedModel(DOLLY, provisioned_model_units=number, entity_version="1", name="dolly")
        return serving.PtEndpointCoreConfig(served_entities=[served])

    first, second = fresh("pt"), fresh("pt")
    assert api.create_provisioned_throughput_endpoint(first, units(50)).result(SOON).name == first
    assert api.create_provisioned_throughput_endpoint_and_wait(second, units(50), timeout=SOON).name == second
    api.update_provisioned_throughput_endpoint_config(first, units(100)).result(SOON)
    changed = api.update_provisioned_throughput_endpoint_config_and_wait(second, units(150), timeout=SOON)
    assert changed.config.served_entities[0].provisioned_model_units == 150
    assert api.get(first).config.served_entities[0].provisioned_model_units == 100
    api.delete(first)
    api.delete(second)


@does("tags")
def test_tags_notifications_and_telemetry_are_changed(w: SimpleNamespace, made: str) -> None:
    api = w.serving_endpoints
    tags = api.patch(made, add_tags=[serving.EndpointTag("a", "1"), serving.EndpointTag("b", "2")])
    assert {tag.key: tag.value for tag in tags.tags} == {"a": "1", "b": "2"}
    assert [tag.key for tag in api.patch(made, delete_tags=["a"]).tags] == ["b"]
    assert [tag.key for tag in api.get(made).tags] == ["b"]
    mail = serving.EmailNotifications(on_update_failure=["me@example.com"])
    assert api.update_notifications(made, email_notifications=mail).email_notifications == mail
    assert api.get(made).email_notifications == mail
    assert api.patch_telemetry_config(made, telemetry_config=serving.TelemetryConfig()).name == made


@does("rate limits and AI gateway")
def test_limits_are_kept_and_refuse(w: SimpleNamespace, made: str) -> None:
    api = w.serving_endpoints
    one = serving.RateLimit(1, serving.RateLimitRenewalPeriod.MINUTE, serving.RateLimitKey.ENDPOINT)
    assert api.put(made, rate_limits=[one]).rate_limits == [one]
    api.put(made, rate_limits=[])
    limit = serving.AiGatewayRateLimit(
        serving.AiGatewayRateLimitRenewalPeriod.MINUTE, calls=1, key=serving.AiGatewayRateLimitKey.ENDPOINT
    )
    usage = serving.AiGatewayUsageTrackingConfig(enabled=True)
    told = api.put_ai_gateway(made, rate_limits=[limit], usage_tracking_config=usage)
    assert told.rate_limits == [limit]
    assert api.get(made).ai_gateway.usage_tracking_config.enabled is True


@does("rate limits and AI gateway")
@pytest.mark.filterwarnings("ignore:get_open_ai_client:DeprecationWarning")
def test_a_call_beyond_the_limit_is_refused(w: SimpleNamespace, gpt: str) -> None:
    limit = serving.AiGatewayRateLimit(
        serving.AiGatewayRateLimitRenewalPeriod.MINUTE, calls=0, key=serving.AiGatewayRateLimitKey.ENDPOINT
    )
    w.serving_endpoints.put_ai_gateway(gpt, rate_limits=[limit])
    hello: Any = [{"role": "user", "content": "hello"}]
    # The SDK's own query waits as long as the workspace says, up to a minute: its OpenAI client can be told not to.
    with w.serving_endpoints.get_open_ai_client(max_retries=0) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=gpt, messages=hello, max_tokens=2)


@does("logs, metrics, OpenAPI")
def test_logs_metrics_and_the_document_are_there(w: SimpleNamespace, made: str) -> None:
    api = w.serving_endpoints
    api.query(made, dataframe_records=[{"prompt": "hello", "max_tokens": 2}])
    assert api.build_logs(made, "dolly").logs
    assert api.logs(made, "dolly").logs
    assert b"request" in api.export_metrics(made).contents.read()
    assert b"openapi" in api.get_open_api(made).contents.read()


@does("chat", "completions", "embeddings", "custom model")
def test_every_kind_of_endpoint_is_queried(w: SimpleNamespace) -> None:
    query = w.serving_endpoints.query
    hello = [serving.ChatMessage(content="hello", role=serving.ChatMessageRole.USER)]
    chat = query("smollm2-chat", messages=hello, max_tokens=8, temperature=0.0)
    assert chat.choices[0].message.content
    assert chat.usage.completion_tokens <= 8
    assert query("smollm2-completions", prompt="Rivers are", max_tokens=8).choices[0].text
    vectors = query("databricks-bge-large-en", input=["hello", "good morning"]).data
    assert [len(one.embedding) for one in vectors] == [256, 256]
    assert query("shout", dataframe_records=[{"prompt": "hi"}]).predictions == ["HI! I am fine. 0.5"]
    split = serving.DataframeSplitInput(columns=["prompt"], data=[["hi"]])
    assert query("shout", dataframe_split=split).predictions == ["HI! I am fine. 0.5"]
    assert query("shout", instances=[{"prompt": "hi"}]).predictions == ["HI! I am fine. 0.5"]
    assert query("shout", inputs={"prompt": ["hi"]}).predictions == ["HI! I am fine. 0.5"]


@does("chat")
def test_an_external_model_answers_with_a_key_from_a_secret(w: SimpleNamespace, gpt: str) -> None:
    hello = [serving.ChatMessage(content="hello", role=serving.ChatMessageRole.USER)]
    assert w.serving_endpoints.query(gpt, messages=hello, max_tokens=4).choices[0].message.content


@does("chat")
@pytest.mark.filterwarnings("ignore:get_open_ai_client:DeprecationWarning")
def test_its_openai_client_works(w: SimpleNamespace) -> None:
    with w.serving_endpoints.get_open_ai_client() as client:
        hello: Any = [{"role": "user", "content": "hello"}]
        assert client.chat.completions.create(model="smollm2-chat", messages=hello, max_tokens=4).choices


@does("permissions")
def test_permissions_are_set_and_read(w: SimpleNamespace, made: str) -> None:
    api = w.serving_endpoints
    identity = api.get(made).id
    levels = {level.permission_level.value for level in api.get_permission_levels(identity).permission_levels}
    assert levels == {"CAN_MANAGE", "CAN_QUERY", "CAN_VIEW"}
    wanted = serving.ServingEndpointAccessControlRequest(
        user_name="somebody@example.com", permission_level=serving.ServingEndpointPermissionLevel.CAN_VIEW
    )
    api.set_permissions(identity, access_control_list=[wanted])
    wanted.user_name = "another@example.com"
    api.update_permissions(identity, access_control_list=[wanted])
    told = {one.user_name for one in api.get_permissions(identity).access_control_list}
    assert {"somebody@example.com", "another@example.com"} <= told


@does("permissions")
def test_who_is_no_admin_may_do_what_the_list_says(w: SimpleNamespace, made: str, up: Up, fresh: Fresh) -> None:
    name = fresh("reader@example.com")
    with httpx.Client(base_url=up.host, headers={"authorization": f"Bearer {up.token}"}, trust_env=False) as http:
        http.post("/api/local/principals", json={"name": name, "service": False}).raise_for_status()
        token = http.post("/api/local/tokens", json={"principal": name}).raise_for_status().json()["token_value"]
    somebody = sdk.WorkspaceClient(host=up.host, token=token)
    assert somebody.current_user.me().user_name == name
    with pytest.raises(PermissionDenied):
        somebody.serving_endpoints.query(made, dataframe_records=[{"prompt": "hi", "max_tokens": 2}])
    assert made not in [one.name for one in somebody.serving_endpoints.list()]
    granted = serving.ServingEndpointAccessControlRequest(
        user_name=name, permission_level=serving.ServingEndpointPermissionLevel.CAN_QUERY
    )
    w.serving_endpoints.update_permissions(w.serving_endpoints.get(made).id, access_control_list=[granted])
    assert somebody.serving_endpoints.query(made, dataframe_records=[{"prompt": "hi", "max_tokens": 2}]).predictions
    with pytest.raises(PermissionDenied):
        somebody.serving_endpoints.delete(made)
    w.secrets.create_scope(scope := fresh("scope"))
    with pytest.raises(PermissionDenied):
        somebody.secrets.put_secret(scope, "k", string_value="v")


@does("secrets and ACLs")
def test_secrets_are_written_read_and_deleted(w: SimpleNamespace, fresh: Fresh) -> None:
    api, scope = w.secrets, fresh("scope")
    api.create_scope(scope)
    api.put_secret(scope, "text", string_value="välue")
    api.put_secret(scope, "bytes", bytes_value=base64.b64encode(b"\x00\xff").decode())
    assert base64.b64decode(api.get_secret(scope, "text").value).decode() == "välue"
    assert base64.b64decode(api.get_secret(scope, "bytes").value) == b"\x00\xff"
    assert {one.key for one in api.list_secrets(scope)} == {"text", "bytes"}
    assert scope in {one.name for one in api.list_scopes()}
    api.put_acl(scope, "users", AclPermission.READ)
    assert api.get_acl(scope, "users").permission == AclPermission.READ
    assert "users" in {one.principal for one in api.list_acls(scope)}
    api.delete_acl(scope, "users")
    assert "users" not in {one.principal for one in api.list_acls(scope)}
    api.delete_secret(scope, "text")
    assert {one.key for one in api.list_secrets(scope)} == {"bytes"}
    api.delete_scope(scope)
    assert scope not in {one.name for one in api.list_scopes()}


@does("M2M login")
def test_a_service_principal_logs_in(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    client = sdk.WorkspaceClient(host=up.host, client_id=PRINCIPAL, client_secret=SECRET)
    assert client.config.auth_type == "oauth-m2m"
    assert client.current_user.me().user_name == PRINCIPAL
    assert "dolly" in [one.name for one in client.serving_endpoints.list()]
    stranger = sdk.WorkspaceClient(host=up.host, client_id=PRINCIPAL, client_secret="wrong")
    with pytest.raises(ValueError, match=r"invalid_client|Client authentication failed"):
        stranger.current_user.me()


@does("errors are the client's own")
def test_refusals_are_the_errors_of_the_sdk(w: SimpleNamespace, fresh: Fresh, up: Up) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        w.serving_endpoints.get("nowhere")
    scope = fresh("scope")
    w.secrets.create_scope(scope)
    with pytest.raises(ResourceAlreadyExists, match=scope):
        w.secrets.create_scope(scope)
    with pytest.raises(NotFound):
        w.secrets.get_secret(scope, "nothing")
    with pytest.raises(DatabricksError):
        sdk.WorkspaceClient(host=up.host, token="dapi-wrong").current_user.me()
    method = serving.ExternalFunctionRequestHttpMethod.GET
    with pytest.raises(NotFound, match="no-connection"):
        w.serving_endpoints.http_request("no-connection", method, "/")


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("api", sorted(DONE))
def test_every_method_was_called(api: str) -> None:
    kind = type(getattr(sdk.WorkspaceClient(), api))
    expected = {one.split("`")[1] for one in LEFT_OUT if one.startswith(NAME)}
    missing = methods(kind) - DONE[api] - expected
    assert missing == set(), "test them, or say in reasons.py why not"
    assert not expected & DONE[api], "these are said to be left out, and are called"
