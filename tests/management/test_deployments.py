"""MLflow's deployments client without MLflow: on the local workspace, and side by side with MLflow's own."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dbllm import APIError, Client, ConfigError, NotFoundError
from dbllm.deployments import DatabricksDeploymentClient, DatabricksEndpoint, get_deploy_client
from dbllm.local import Workspace

Fresh = Callable[[str], str]
Config = Callable[..., dict[str, Any]]
ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture
def scope(workspace: Workspace, fresh: Fresh) -> str:
    """A scope whose secret "key" opens the upstream."""
    name = fresh("scope")
    with Client(workspace.host, workspace.token) as client:
        client.secrets.create_scope(name)
        client.secrets.put(name, "key", workspace.upstream_key)
    return name


@pytest.fixture
def deploy(here: Workspace) -> DatabricksDeploymentClient:
    return get_deploy_client("databricks")


def ready(name: str) -> None:
    with Client() as client:
        client.endpoints.wait_until_ready(name, timeout=30)


class TestEndpoints:
    def test_the_notebooks_cell(self, deploy: DatabricksDeploymentClient, scope: str, fresh: Fresh) -> None:
        name, secret = fresh("my-chat"), f"secrets/{scope}/key"
        made = deploy.create_endpoint(
            name=name,
            config={
                "served_entities": [
                    {
                        "name": "my-chat",
                        "external_model": {
                            "name": "gpt-4",
                            "provider": "openai",
                            "task": "llm/v1/chat",
                            "openai_config": {"openai_api_key": "{{" + secret + "}}"},
                        },
                    }
                ]
            },
        )
        assert made.name == made["name"] == name
        assert made.state.config_update == "IN_PROGRESS"
        ready(name)
        answer = deploy.predict(endpoint=name, inputs=ASK)
        assert answer.choices[0]["message"]["content"]
        assert answer.usage.completion_tokens <= 8

    @pytest.mark.parametrize("form", ["name in the request", "name beside it", "both the same"])
    def test_the_new_way_to_create(
        self, deploy: DatabricksDeploymentClient, scope: str, fresh: Fresh, config: Config, form: str
    ) -> None:
        name = fresh("my-chat")
        request = {"config": config(scope), "tags": [{"key": "a", "value": "b"}]}
        inside = {} if form == "name beside it" else {"name": name}
        beside = None if form == "name in the request" else name
        made = deploy.create_endpoint(beside, {**request, **inside})
        assert (made.name, made.tags) == (name, [{"key": "a", "value": "b"}])

    def test_tags_beside_the_old_forms_config_are_the_endpoints(
        self, deploy: DatabricksDeploymentClient, scope: str, fresh: Fresh, config: Config
    ) -> None:
        given = {**config(scope), "tags": [{"key": "a", "value": "b"}]}
        made = deploy.create_endpoint(fresh("my-chat"), given)
        assert made.tags == [{"key": "a", "value": "b"}]
        assert "tags" in given, "what the caller holds stays as it is"

    @pytest.mark.parametrize("names", [(None, None), ("a", "b")])
    def test_an_endpoint_has_one_name(
        self, deploy: DatabricksDeploymentClient, config: Config, names: tuple[str | None, str | None]
    ) -> None:
        request = {"config": config("s"), **({"name": names[1]} if names[1] else {})}
        with pytest.raises(ValueError, match="one name"):
            deploy.create_endpoint(names[0], request)

    def test_an_external_model_that_cannot_work_is_refused(
        self, deploy: DatabricksDeploymentClient, config: Config
    ) -> None:
        wrong = config("s")
        wrong["served_entities"][0]["external_model"]["task"] = "chat"
        with pytest.raises(ConfigError, match="llm/v1/chat"):
            deploy.create_endpoint("any", wrong)
        with pytest.raises(ConfigError, match="llm/v1/chat"):
            deploy.update_endpoint_config("any", wrong)

    def test_looking_changing_and_deleting(
        self, deploy: DatabricksDeploymentClient, scope: str, fresh: Fresh, config: Config
    ) -> None:
        name = fresh("my-chat")
        deploy.create_endpoint(name, config(scope))
        ready(name)
        assert deploy.get_endpoint(name).config.served_entities[0]["name"] == "gpt-4"
        assert {"dolly", name} <= {found.name for found in deploy.list_endpoints()}
        deploy.update_endpoint_config(name, config(scope, model="gpt-5"))
        ready(name)
        deploy.update_endpoint(name, config(scope))
        ready(name)
        limits = {"rate_limits": [{"calls": 100, "key": "user", "renewal_period": "minute"}]}
        assert deploy.update_endpoint(name, limits) == limits
        assert deploy.update_endpoint_rate_limits(name, limits) == limits
        tags = {"tags": [{"key": "k", "value": "v"}]}
        assert deploy.update_endpoint_tags(name, {"add_tags": tags["tags"]}) == tags
        gateway = {"usage_tracking_config": {"enabled": True}}
        assert deploy.update_endpoint_ai_gateway(name, gateway) == gateway
        assert deploy.delete_endpoint(name) == {}
        with pytest.raises(NotFoundError, match=name):
            deploy.get_endpoint(name)


class TestPredict:
    @pytest.mark.parametrize(
        ("name", "inputs", "key"),
        [
            ("smollm2-chat", ASK, "choices"),
            ("smollm2-completions", {"prompt": "hello", "max_tokens": 4}, "choices"),
            ("databricks-bge-large-en", {"input": ["hello"]}, "data"),
            ("dolly", {"dataframe_records": [{"prompt": "hi"}], "params": {"max_tokens": 4}}, "predictions"),
        ],
    )
    def test_any_kind_of_endpoint(
        self, deploy: DatabricksDeploymentClient, name: str, inputs: dict[str, Any], key: str
    ) -> None:
        assert deploy.predict(endpoint=name, inputs=inputs)[key]

    def test_the_places_of_the_arguments_are_mlflows(self, deploy: DatabricksDeploymentClient) -> None:
        assert deploy.predict(None, ASK, "smollm2-chat").choices

    @pytest.mark.parametrize(
        ("name", "inputs", "text"),
        [
            ("smollm2-chat", ASK, lambda piece: piece["choices"][0]["delta"].get("content") or ""),
            (
                "smollm2-completions",
                {"prompt": "hello", "max_tokens": 8, "temperature": 0},
                lambda piece: piece["choices"][0].get("text") or "",
            ),
            (
                "smollm2-agent",
                {"input": [{"role": "user", "content": "hello"}], "max_output_tokens": 8, "temperature": 0},
                lambda piece: piece["delta"] if piece["type"] == "response.output_text.delta" else "",
            ),
        ],
    )
    def test_a_stream_gives_the_text_of_the_whole_answer(
        self, deploy: DatabricksDeploymentClient, name: str, inputs: dict[str, Any], text: Any
    ) -> None:
        before = dict(inputs)
        pieces = list(deploy.predict_stream(endpoint=name, inputs=inputs))
        assert inputs == before
        assert len(pieces) > 1
        whole = deploy.predict(endpoint=name, inputs=inputs)
        if "output" in whole:
            said = whole["output"][0]["content"][0]["text"]
        else:
            choice = whole.choices[0]
            said = choice["message"]["content"] if "message" in choice else choice["text"]
        assert "".join(text(piece) for piece in pieces if piece.get("choices", True)) == said

    def test_a_stream_that_is_left_is_closed(self, deploy: DatabricksDeploymentClient) -> None:
        pieces = deploy.predict_stream(endpoint="smollm2-chat", inputs={**ASK, "max_tokens": 200})
        assert next(pieces)["choices"]
        pieces.close()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("verb", ["predict", "predict_stream"])
    def test_an_endpoint_has_to_be_named(self, deploy: DatabricksDeploymentClient, verb: str) -> None:
        with pytest.raises(ValueError, match="endpoint='name'"):
            list(getattr(deploy, verb)(inputs=ASK))

    def test_an_error_keeps_its_status(self, deploy: DatabricksDeploymentClient) -> None:
        with pytest.raises(APIError) as caught:
            deploy.predict(endpoint="smollm2-chat", inputs={"messages": "x"})
        assert caught.value.status == 400


class TestMaking:
    def test_nothing_is_looked_for_before_it_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_DEPLOYMENTS_TARGET", raising=False)
        assert get_deploy_client().target_uri == "databricks"
        with pytest.raises(ConfigError, match="DATABRICKS_HOST"):
            get_deploy_client("databricks").list_endpoints()

    def test_the_target_may_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "databricks://there")
        assert get_deploy_client().target_uri == "databricks://there"

    @pytest.mark.parametrize(
        "target", ["openai", "databricks://", "databricks://scope:prefix", "http://x", "databricks:x"]
    )
    def test_another_target_is_refused(self, target: str) -> None:
        with pytest.raises(ConfigError, match="databricks://PROFILE"):
            get_deploy_client(target)

    def test_a_profile_names_the_workspace(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        (tmp_path / "cfg").write_text(f"[there]\nhost = {workspace.host}\ntoken = {workspace.token}\n")
        monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "cfg"))
        assert get_deploy_client("databricks://there").get_endpoint("dolly").name == "dolly"

    def test_a_client_of_the_users_serves(self, workspace: Workspace) -> None:
        with Client(workspace.host, workspace.token) as client:
            assert get_deploy_client(client=client).get_endpoint("dolly").name == "dolly"

    def test_it_can_be_pickled_before_and_after_use(self, deploy: DatabricksDeploymentClient, here: Workspace) -> None:
        for _ in range(2):
            data = pickle.dumps(deploy)
            assert here.token.encode() not in data
            assert pickle.loads(data).get_endpoint("dolly").name == "dolly"
            deploy.list_endpoints()

    def test_mlflow_is_never_imported(self, here: Workspace) -> None:
        program = (
            "import sys; from dbllm.deployments import get_deploy_client; "
            "get_deploy_client('databricks').list_endpoints(); "
            "print([name for name in sys.modules if name.split('.')[0] in ('mlflow', 'databricks', 'requests')])"
        )
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert said.stdout.strip() == "[]"


class TestAnswers:
    def test_keys_are_attributes_in_dicts_inside_too(self) -> None:
        answer = DatabricksEndpoint({"a": {"b": {"c": 1}}, "list": [{"d": 2}]})
        assert answer.a.b.c == answer["a"]["b"]["c"] == 1
        assert answer.list[0]["d"] == 2
        answer.new = 3
        assert answer["new"] == 3
        del answer.new
        assert "new" not in answer
        assert isinstance(answer, dict)

    def test_a_key_that_is_missing_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="it has a"):
            DatabricksEndpoint({"a": 1}).b  # noqa: B018
        assert not hasattr(DatabricksEndpoint(), "__deepcopy__")


class TestBesideMlflow:
    """The same calls to the same workspace by MLflow's own client; needs MLflow, and is left out without it."""

    @pytest.fixture
    def theirs(self, here: Workspace) -> Any:
        mlflow = pytest.importorskip("mlflow.deployments")
        return mlflow.get_deploy_client("databricks")

    def test_it_has_every_method_that_mlflow_implements(self, deploy: DatabricksDeploymentClient, theirs: Any) -> None:
        inherited = {"create_deployment", "update_deployment", "delete_deployment", "list_deployments"}
        inherited |= {"get_deployment", "explain", "predict_deployment"}  # not made for Databricks, in MLflow either
        wanted = {name for name in dir(theirs) if not name.startswith("_")} - inherited
        assert wanted <= set(dir(deploy)), wanted - set(dir(deploy))

    @pytest.mark.filterwarnings("ignore")
    def test_the_answers_are_the_same(
        self, deploy: DatabricksDeploymentClient, theirs: Any, scope: str, fresh: Fresh, config: Config
    ) -> None:
        def life(client: Any, name: str) -> list[Any]:
            """All that one client sees in an endpoint's life."""
            seen = [client.create_endpoint(name=name, config={**config(scope), "tags": [{"key": "a", "value": "b"}]})]
            ready(name)
            seen += [client.get_endpoint(endpoint=name), client.list_endpoints()[-1]["name"]]
            limits = {"rate_limits": [{"calls": 100, "key": "user", "renewal_period": "minute"}]}
            gateway = {"usage_tracking_config": {"enabled": True}}
            seen += [client.update_endpoint_tags(endpoint=name, config={"add_tags": [{"key": "c", "value": "d"}]})]
            seen += [client.update_endpoint_rate_limits(endpoint=name, config=limits)]
            seen += [client.update_endpoint_ai_gateway(endpoint=name, config=gateway)]
            seen += [client.update_endpoint_config(endpoint=name, config=config(scope, model="gpt-5"))]
            ready(name)
            seen += [client.update_endpoint(endpoint=name, config=limits)]
            seen += [client.predict(endpoint=name, inputs=ASK), list(client.predict_stream(endpoint=name, inputs=ASK))]
            return [*seen, client.delete_endpoint(endpoint=name)]

        def levelled(value: Any, name: str) -> Any:
            """Without what differs from one call to the next."""
            if isinstance(value, dict):
                loose = {"id", "created", "creation_timestamp", "last_updated_timestamp", "start_time"}
                return {key: levelled(item, name) for key, item in value.items() if key not in loose}
            if isinstance(value, list):
                return [levelled(item, name) for item in value]
            return "NAME" if value == name else value

        mine, other = fresh("mine"), fresh("theirs")
        ours = [levelled(value, mine) for value in life(deploy, mine)]
        for one, two in zip(ours, [levelled(value, other) for value in life(theirs, other)], strict=True):
            assert one == two

    def test_attributes_give_the_same(self, deploy: DatabricksDeploymentClient, theirs: Any) -> None:
        for client in (deploy, theirs):
            found = client.get_endpoint(endpoint="dolly")
            assert (found.name, found.state.ready, type(found).__name__) == ("dolly", "READY", "DatabricksEndpoint")
            answer = client.predict(endpoint="smollm2-chat", inputs=ASK)
            assert answer.usage.total_tokens == answer["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("inputs", "pieces"),
    [
        ({"dataframe_records": [{"q": "x"}]}, [{"predict_name": "p", "chunk": "The"}, {"chunk": None}]),
        ({"inputs": ["x"]}, ["a", "b", 3, ["c", None]]),
        (ASK, [{"delta": {"role": "assistant", "content": "a", "id": "1"}}, {"delta": {}, "finish_reason": "stop"}]),
        (ASK, [{"id": "c", "choices": [{"index": 195, "delta": None, "finish_reason": None}], "usage": None}]),
        (ASK, [{"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}]),
        ({"prompt": "x"}, [{"choices": [{"index": 0, "text": "a", "finish_reason": None}]}]),
        (
            {"input": [{"role": "user", "content": "x"}]},
            [
                {"type": "response.output_text.delta", "item_id": "m", "delta": "a"},
                {"type": "response.completed", "response": {"output": [], "usage": {"input_tokens": 1}}},
            ],
        ),
    ],
)
def test_a_stream_gives_the_pieces_as_they_are_on_the_wire(inputs: dict[str, Any], pieces: list[Any]) -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        text = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    with Client("https://workspace.example.com", "t", transport=httpx.MockTransport(answer)) as client:
        deploy = get_deploy_client("databricks", client=client)
        assert list(deploy.predict_stream(endpoint="m", inputs=inputs)) == pieces
    assert sent == [{**inputs, "stream": True}]


def test_names_that_are_none_are_refused_before_anything_is_sent() -> None:
    with Client("https://workspace.example.com", "t", transport=httpx.MockTransport(sent_nothing)) as client:
        deploy = DatabricksDeploymentClient("databricks", client)
        for name in ("a.b", ".", "..", "a..b"):
            for call in (
                lambda name: deploy.predict(endpoint=name, inputs=ASK),
                lambda name: [*deploy.predict_stream(endpoint=name, inputs=ASK)],
                deploy.delete_endpoint,
                lambda name: deploy.update_endpoint_tags(name, {}),
            ):
                with pytest.raises(ConfigError, match=r"has one dot|needs a name|has an empty part"):
                    call(name)


def sent_nothing(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"{request.method} {request.url} was sent")
