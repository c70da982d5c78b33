"""MLflow's deployments client: all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

deployments = pytest.importorskip("mlflow.deployments")

from mlflow.deployments.databricks import DatabricksDeploymentClient
from mlflow.exceptions import MlflowException
from place import UPSTREAM_KEY, Up
from reasons import LEFT_OUT
from watch import Watched, methods

NAME = "mlflow deployments"
Fresh = Callable[[str], str]
DONE: set[str] = set()


@pytest.fixture
def client(here: Up) -> Any:
    return Watched(deployments.get_deploy_client("databricks"), DONE)


def entity(name: str = "dolly") -> dict[str, Any]:
    return {"name": name, "entity_name": "local.default.dolly", "entity_version": "1"}


@pytest.mark.does(NAME, "create and update an endpoint")
@pytest.mark.does(NAME, "list, get and delete endpoints")
@pytest.mark.does(NAME, "tags")
@pytest.mark.does(NAME, "rate limits and AI gateway")
@pytest.mark.filterwarnings("ignore:The `update_endpoint` method is deprecated")
@pytest.mark.filterwarnings("ignore:.*update_endpoint.* is deprecated:FutureWarning")
def test_an_endpoint_is_made_changed_and_deleted(client: Any, fresh: Fresh) -> None:
    name = fresh("mlflow")
    made = client.create_endpoint(config={"name": name, "config": {"served_entities": [entity()]}})
    assert made.name == name
    assert name in [one["name"] for one in client.list_endpoints()]
    finished(client, name)
    client.update_endpoint_config(name, {"served_entities": [entity("other")]})
    finished(client, name)
    assert [one["name"] for one in client.get_endpoint(name).config["served_entities"]] == ["other"]
    client.update_endpoint_tags(name, {"add_tags": [{"key": "team", "value": "x"}]})
    assert client.get_endpoint(name).tags == [{"key": "team", "value": "x"}]
    limit = {"key": "endpoint", "calls": 100, "renewal_period": "minute"}
    client.update_endpoint_rate_limits(name, {"rate_limits": [limit]})
    client.update_endpoint_ai_gateway(name, {"usage_tracking_config": {"enabled": True}})
    assert client.get_endpoint(name).ai_gateway["usage_tracking_config"] == {"enabled": True}
    client.update_endpoint(name, {"served_entities": [entity()]})
    finished(client, name)
    client.delete_endpoint(name)
    assert name not in [one["name"] for one in client.list_endpoints()]


def finished(client: Any, name: str) -> None:
    """Wait until nothing is being deployed."""
    while (state := client.get_endpoint(name).state)["config_update"] != "NOT_UPDATING" or state["ready"] != "READY":
        pass  # the test's own timeout ends it


@pytest.mark.does(NAME, "chat")
def test_an_external_model_answers_with_a_key_in_plain_text(client: Any, fresh: Fresh) -> None:
    name = fresh("gpt")
    external = {
        "name": "gpt-4",
        "provider": "openai",
        "task": "llm/v1/chat",
        "openai_config": {"openai_api_key_plaintext": UPSTREAM_KEY},
    }
    config = {"served_entities": [{"name": "gpt", "external_model": external}]}
    client.create_endpoint(config={"name": name, "config": config})
    finished(client, name)
    told = client.predict(endpoint=name, inputs={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})
    assert told["choices"][0]["message"]["content"]
    assert UPSTREAM_KEY not in str(client.get_endpoint(name))


HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


@pytest.mark.does(NAME, "chat")
@pytest.mark.does(NAME, "completions")
@pytest.mark.does(NAME, "embeddings")
@pytest.mark.does(NAME, "custom model")
@pytest.mark.does(NAME, "responses")
def test_every_kind_of_endpoint_predicts(client: Any) -> None:
    assert client.predict(endpoint="smollm2-chat", inputs=HELLO)["choices"][0]["message"]["content"]
    text = client.predict(endpoint="smollm2-completions", inputs={"prompt": "Rivers are", "max_tokens": 8})
    assert text["choices"][0]["text"]
    vectors = client.predict(endpoint="databricks-bge-large-en", inputs={"input": ["hello"]})
    assert len(vectors["data"][0]["embedding"]) == 256
    rows = {"dataframe_records": [{"prompt": "hi"}], "params": {"temperature": 0.1}}
    assert client.predict(endpoint="shout", inputs=rows)["predictions"] == ["HI! I am fine. 0.1"]
    agent = client.predict(endpoint="smollm2-agent", inputs={"input": HELLO["messages"], "max_output_tokens": 8})
    assert agent["output"]


@pytest.mark.does(NAME, "chat, streamed")
@pytest.mark.does(NAME, "completions, streamed")
def test_answers_are_streamed(client: Any) -> None:
    whole = client.predict(endpoint="smollm2-chat", inputs=HELLO)["choices"][0]["message"]["content"]
    pieces = list(client.predict_stream(endpoint="smollm2-chat", inputs=HELLO))
    assert len(pieces) > 2
    texts = [one["choices"][0]["delta"].get("content") or "" for one in pieces if one["choices"]]
    assert "".join(texts) == whole
    prompt = {"prompt": "Rivers are", "max_tokens": 8}
    assert list(client.predict_stream(endpoint="smollm2-completions", inputs=prompt))


@pytest.mark.does(NAME, "errors are the client's own")
def test_refusals_are_errors_with_the_workspaces_words(client: Any) -> None:
    with pytest.raises(Exception, match="nowhere"):
        client.predict(endpoint="nowhere", inputs=HELLO)
    with pytest.raises(Exception, match="nowhere") as caught:
        client.get_endpoint("nowhere")
    assert caught.value.response.status_code == 404
    with pytest.raises(MlflowException):
        client.create_endpoint(name="one", config={"name": "another", "config": {}})


@pytest.mark.usefixtures("whole")
def test_every_method_was_called() -> None:
    expected = {one.split("`")[1] for one in LEFT_OUT if one.startswith(NAME)}
    missing = methods(DatabricksDeploymentClient) - DONE - expected
    assert missing == set(), "test them, or say in reasons.py why not"


@pytest.mark.parametrize("name", [one.split("`")[1] for one in LEFT_OUT if one.startswith(NAME)])
def test_what_is_left_out_is_not_made_for_databricks(name: str, client: Any) -> None:
    arguments = {"create_deployment": ("a", "b")}.get(name, () if name in ("explain", "list_deployments") else ("a",))
    with pytest.raises((NotImplementedError, MlflowException)):
        getattr(client, name)(*arguments)
