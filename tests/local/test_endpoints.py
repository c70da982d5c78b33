"""Serving endpoints: their states, their checks, and what survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.plane import ENDPOINTS, SECRETS, Plane, config, external, own

from dbllm.local.model.llama import Engine
from dbllm.local.storage.store import opened

CREATE = {"name": "mine", "config": config(own())}


@pytest.fixture
def plane(engine: Engine) -> Plane:
    return Plane(engine)


def state(plane: Plane, name: str = "mine") -> tuple[str, str]:
    shown = plane.do("GET", f"{ENDPOINTS}/{name}")["state"]
    return shown["ready"], shown["config_update"]


def test_a_new_endpoint_gets_ready_when_its_time_has_come(plane: Plane) -> None:
    made = plane.do("POST", ENDPOINTS, CREATE)
    assert made["state"] == {"ready": "NOT_READY", "config_update": "IN_PROGRESS"}
    (entity,) = made["pending_config"]["served_entities"]
    assert entity["state"]["deployment"] == "DEPLOYMENT_CREATING"
    plane.at += 9.9
    assert state(plane) == ("NOT_READY", "IN_PROGRESS")
    assert plane.refused("POST", "/serving-endpoints/mine/invocations", {})[:2] == (503, "TEMPORARILY_UNAVAILABLE")
    plane.at += 0.1
    shown = plane.do("GET", f"{ENDPOINTS}/mine")
    assert shown["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}
    assert "pending_config" not in shown
    assert shown["config"]["config_version"] == 1
    assert shown["config"]["served_entities"][0]["state"]["deployment"] == "DEPLOYMENT_READY"


def test_a_deployment_that_takes_no_time_is_over_in_its_own_answer(engine: Engine) -> None:
    plane = Plane(engine, deploy_seconds=0.0)
    made = plane.do("POST", ENDPOINTS, CREATE)
    assert made["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}


def test_the_old_config_serves_until_the_new_one_is_there(plane: Plane) -> None:
    plane.do("POST", ENDPOINTS, CREATE)
    plane.at += 10
    plane.do("PUT", f"{ENDPOINTS}/mine/config", config(own("second")))
    shown = plane.do("GET", f"{ENDPOINTS}/mine")
    assert shown["state"] == {"ready": "READY", "config_update": "IN_PROGRESS"}
    assert (shown["config"]["config_version"], shown["pending_config"]["config_version"]) == (1, 2)
    row = {"dataframe_records": [{"prompt": "hi", "max_tokens": 1}]}
    path = "/serving-endpoints/mine/invocations"
    assert plane.answer("POST", path, row).headers["served-model-name"] == "local-default-dolly-1"
    status, code, message = plane.refused("PUT", f"{ENDPOINTS}/mine/config", config(own("third")))
    assert (status, code) == (409, "RESOURCE_CONFLICT")
    assert "being updated" in message
    plane.at += 10
    assert state(plane) == ("READY", "NOT_UPDATING")
    assert plane.answer("POST", path, row).headers["served-model-name"] == "second"


def test_an_entity_that_cannot_be_loaded_fails_with_a_reason_and_the_old_config_goes_on(plane: Plane) -> None:
    plane.do("POST", ENDPOINTS, CREATE)
    plane.at += 10
    wrong = config(own("good"), own("bad", "cat.schema.unknown"), shares=[50, 50])
    plane.do("PUT", f"{ENDPOINTS}/mine/config", wrong)
    plane.at += 10
    shown = plane.do("GET", f"{ENDPOINTS}/mine")
    assert shown["state"] == {"ready": "READY", "config_update": "UPDATE_FAILED"}
    states = {one["name"]: one["state"] for one in shown["pending_config"]["served_entities"]}
    assert states["bad"]["deployment"] == "DEPLOYMENT_FAILED"
    assert "cat.schema.unknown" in states["bad"]["deployment_state_message"]
    assert states["good"]["deployment"] == "DEPLOYMENT_ABORTED"
    assert shown["config"]["config_version"] == 1
    logs = plane.do("GET", f"{ENDPOINTS}/mine/served-models/bad/build-logs")["logs"]
    assert "--custom cat.schema.unknown=" in logs
    plane.do("PUT", f"{ENDPOINTS}/mine/config", config(own("better")))
    plane.at += 10
    assert state(plane) == ("READY", "NOT_UPDATING")


def test_an_endpoint_whose_first_deployment_failed_is_not_ready_and_says_why(plane: Plane) -> None:
    plane.do("POST", ENDPOINTS, {"name": "mine", "config": config(own("bad", "cat.schema.unknown"))})
    plane.at += 10
    shown = plane.do("GET", f"{ENDPOINTS}/mine")
    assert shown["state"] == {"ready": "NOT_READY", "config_update": "UPDATE_FAILED"}
    (entity,) = shown["config"]["served_entities"]
    assert entity["state"]["deployment"] == "DEPLOYMENT_FAILED"
    assert plane.refused("POST", "/serving-endpoints/mine/invocations", {})[:2] == (400, "INVALID_STATE")


def test_names_that_are_taken_or_wrong_are_refused(plane: Plane) -> None:
    plane.do("POST", ENDPOINTS, CREATE)
    assert plane.refused("POST", ENDPOINTS, CREATE)[:2] == (409, "RESOURCE_ALREADY_EXISTS")
    assert plane.refused("POST", ENDPOINTS, {**CREATE, "name": "dolly"})[:2] == (409, "RESOURCE_ALREADY_EXISTS")
    for name in ("", "two words", "a/b", "ü", "x" * 64, None, 7):
        assert plane.refused("POST", ENDPOINTS, {**CREATE, "name": name})[:2] == (400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (None, "config is missing"),
        ([], "config must be an object"),
        ({}, "served_entities is missing"),
        (config(), "1 to 15 served entities"),
        (config(*(own(f"e{number}") for number in range(16))), "1 to 15 served entities"),
        (config(own("a"), own("a"), shares=[50, 50]), "must differ"),
        (config(own("a"), own("b")), "how the calls are split"),
        (config(own("a"), own("b"), shares=[50, 49]), "add up to 100"),
        (config(own("a"), own("b"), shares=[-50, 150]), "not negative"),
        (config({"name": "a"}), "exactly one of external_model and entity_name"),
        (config({**external(), "entity_name": "m"}), "exactly one of external_model and entity_name"),
        (config(external("a"), own("b"), shares=[50, 50]), "not both"),
        (config(own("a b")), "served entity's name"),
        (config(own(workload_size="Huge")), "workload_size must be one of"),
        (config(own(environment_vars={"A": 1})), "must be text"),
        (config(own(environment_vars=dict.fromkeys(map(str, range(31)), "x"))), "at most 30"),
        (config(own("a"), own("b", "system.ai.smollm2-chat"), shares=[50, 50]), "same type and task"),
        (config(external(provider="nobody")), "must be one of ai21labs"),
        (config(external(openai_api_key="sk-raw")), "openai_api_key"),
        ({**config(own("a")), "traffic_config": {"routes": [{"served_model_name": "z"}]}}, "names no served entity"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_the_reason(plane: Plane, wrong: Any, reason: str) -> None:
    status, code, message = plane.refused("POST", ENDPOINTS, {"name": "mine", "config": wrong})
    assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
    assert reason in message
    assert "sk-" not in message
    assert plane.refused("GET", f"{ENDPOINTS}/mine")[0] == 404


def test_the_old_form_of_served_entities_and_unknown_keys_are_taken(plane: Plane) -> None:
    model = {"model_name": "local.default.dolly", "model_version": "1", "scale_to_zero_enabled": True, "x": 1}
    made = plane.do("POST", ENDPOINTS, {"name": "mine", "config": {"served_models": [model], "route_optimized": False}})
    (entity,) = made["pending_config"]["served_entities"]
    assert (entity["entity_name"], entity["name"]) == ("local.default.dolly", "local-default-dolly-1")


def test_a_plaintext_key_is_never_shown(plane: Plane) -> None:
    answers = [
        plane.answer("POST", ENDPOINTS, {"name": "mine", "config": config(external())}),
        plane.answer("GET", f"{ENDPOINTS}/mine"),
        plane.answer("GET", ENDPOINTS),
        plane.answer("GET", f"{ENDPOINTS}/mine/openapi"),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert "sk-hidden" not in answer.text


def test_a_reference_needs_a_secret_that_its_writer_may_read(plane: Plane) -> None:
    body = {"name": "mine", "config": config(external(openai_api_key="{{secrets/s/k}}"))}
    assert plane.refused("POST", ENDPOINTS, body)[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    plane.do("POST", f"{SECRETS}/scopes/create", {"scope": "s"})
    status, _, message = plane.refused("POST", ENDPOINTS, body)
    assert (status, message) == (404, "Secret does not exist with scope: s and key: k")
    plane.do("POST", f"{SECRETS}/put", {"scope": "s", "key": "k", "string_value": "v"})
    bob = plane.somebody("bob@example.com")
    assert plane.refused("POST", ENDPOINTS, body, bob)[:2] == (403, "PERMISSION_DENIED")
    plane.do("POST", f"{SECRETS}/acls/put", {"scope": "s", "principal": "bob@example.com", "permission": "READ"})
    plane.do("POST", ENDPOINTS, body, bob)


def test_a_ready_endpoint_cannot_be_reconfigured_or_deleted_but_tagged(plane: Plane) -> None:
    for method, path in (("PUT", "/smollm2-chat/config"), ("DELETE", "/smollm2-chat"), ("DELETE", "/dolly")):
        status, code, message = plane.refused(method, f"{ENDPOINTS}{path}", config(own()))
        assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
        assert "made by the workspace itself" in message
    plane.do("PATCH", f"{ENDPOINTS}/dolly/tags", {"add_tags": [{"key": "a", "value": "b"}]})
    assert plane.do("GET", f"{ENDPOINTS}/dolly")["tags"] == [{"key": "a", "value": "b"}]


def test_the_kind_of_an_endpoint_cannot_change(plane: Plane) -> None:
    plane.do("POST", ENDPOINTS, CREATE)
    plane.at += 10
    status, _, message = plane.refused("PUT", f"{ENDPOINTS}/mine/config", config(external()))
    assert status == 400
    assert "CUSTOM_MODEL cannot become" in message


def test_tags_limits_gateway_notifications_and_telemetry_are_kept(plane: Plane) -> None:
    plane.do("POST", ENDPOINTS, {**CREATE, "tags": [{"key": "a", "value": "1"}, {"key": "b"}]})
    path = f"{ENDPOINTS}/mine"
    tags = plane.do("PATCH", f"{path}/tags", {"add_tags": [{"key": "c", "value": "3"}], "delete_tags": ["a"]})
    assert tags == {"tags": [{"key": "b"}, {"key": "c", "value": "3"}]}
    limits = plane.do("PUT", f"{path}/rate-limits", {"rate_limits": [{"calls": 5, "renewal_period": "minute"}]})
    assert limits == {"rate_limits": [{"calls": 5, "renewal_period": "minute", "key": "endpoint"}]}
    gateway = plane.do("PUT", f"{path}/ai-gateway", {"usage_tracking_config": {"enabled": True}})
    assert gateway == {"usage_tracking_config": {"enabled": True}}
    plane.do("PATCH", f"{path}/notifications", {"email_notifications": {"on_update_failure": ["a@example.com"]}})
    shown = plane.do("PATCH", f"{path}/telemetry-config", {"telemetry_config": {"table": "t"}})
    assert shown["rate_limits"] == limits["rate_limits"]
    assert shown["ai_gateway"] == gateway
    assert shown["email_notifications"] == {"on_update_failure": ["a@example.com"]}
    assert shown["telemetry_config"] == {"table": "t"}


def test_everything_is_there_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, {}) as store:
        plane = Plane(engine, store)
        plane.do("POST", ENDPOINTS, {"name": "mine", "config": config(external("one"))})
        plane.do("PATCH", f"{ENDPOINTS}/mine/tags", {"add_tags": [{"key": "a"}]})
        plane.do("PATCH", f"{ENDPOINTS}/dolly/tags", {"add_tags": [{"key": "b"}]})
        plane.do("POST", ENDPOINTS, {"name": "gone", "config": config(own())})
        plane.do("DELETE", f"{ENDPOINTS}/gone")
        before = plane.do("GET", f"{ENDPOINTS}/mine")
    with opened(tmp_path, {}) as store:
        plane = Plane(engine, store)
        assert plane.do("GET", f"{ENDPOINTS}/mine") == before
        assert plane.do("GET", f"{ENDPOINTS}/dolly")["tags"] == [{"key": "b"}]
        assert plane.refused("GET", f"{ENDPOINTS}/gone")[0] == 404
        plane.at += 10
        assert state(plane) == ("READY", "NOT_UPDATING")


def test_provisioned_throughput_is_the_workspaces_own_model(plane: Plane) -> None:
    entity = {"entity_name": "system.ai.smollm2-chat", "entity_version": "1", "provisioned_model_units": 1}
    made = plane.do("POST", f"{ENDPOINTS}/pt", {"name": "mine", "config": {"served_entities": [entity]}})
    assert (made["endpoint_type"], made["task"]) == ("FOUNDATION_MODEL_API", "llm/v1/chat")
    plane.at += 10
    body = {"config": {"served_entities": [{**entity, "provisioned_model_units": 2}]}}
    assert plane.do("PUT", f"{ENDPOINTS}/pt/mine/config", body)["pending_config"]["config_version"] == 2


def test_an_endpoint_can_be_deleted_and_made_again(plane: Plane) -> None:
    first = plane.do("POST", ENDPOINTS, CREATE)["id"]
    assert plane.do("DELETE", f"{ENDPOINTS}/mine") == {}
    assert plane.refused("DELETE", f"{ENDPOINTS}/mine")[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    assert plane.do("POST", ENDPOINTS, CREATE)["id"] != first


def test_a_body_that_is_no_object_is_malformed(plane: Plane) -> None:
    assert plane.refused("POST", ENDPOINTS, [1])[:2] == (400, "MALFORMED_REQUEST")
    assert plane.answer("POST", ENDPOINTS, content=b"{").status_code == 400
    assert plane.answer("POST", ENDPOINTS, content=b" " * (2**20 + 1)).status_code == 413


def test_headers_that_are_too_large_are_refused(plane: Plane) -> None:
    assert plane.answer("GET", ENDPOINTS, headers={"x": "y" * 40_000}).status_code == 431


def test_the_document_describes_every_operation_with_its_parameters(plane: Plane) -> None:
    document = plane.do("GET", "/api/local/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert {"get", "delete"} <= document["paths"][f"{ENDPOINTS}/{{name}}"].keys()
    for path, methods in document["paths"].items():
        for described in methods.values():
            named = {one["name"] for one in described["parameters"] if one["in"] == "path"}
            assert all(f"{{{name}}}" in path for name in named)
            assert path.count("{") == len(named)
