"""Model services and model provider services: what is listed, made, changed and granted, and what survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.plane import OWNER, SECRETS, Plane
from support.services import UC, external_to, make_provider, own_to, provider, service

from dbllm.local.model.llama import Engine
from dbllm.local.storage.store import opened

LIST = f"{UC}/model-services"
CHAT_TYPES = ["mlflow/v1/chat/completions", "mlflow/v1/responses"]


@pytest.fixture
def plane(engine: Engine) -> Plane:
    return Plane(engine)


def make(plane: Plane, name: str, *destinations: dict[str, Any], token: str = OWNER, **more: Any) -> dict[str, Any]:
    path = f"{LIST}?parent=schemas/main.default&model_service_id={name}"
    made: dict[str, Any] = plane.do("POST", path, service(*(destinations or [own_to()]), **more), token)
    return made


def names(listed: dict[str, Any]) -> list[str]:
    return [one["name"].removeprefix("model-services/") for one in listed["model_services"]]


def test_the_workspaces_own_models_are_model_services_of_system_ai(plane: Plane) -> None:
    listed = plane.do("GET", f"{LIST}?parent=schemas/system.ai")
    assert names(listed) == ["system.ai.bge-large-en", "system.ai.smollm2-chat"]
    vectors, chat = listed["model_services"]
    assert set(CHAT_TYPES) < set(chat["supported_api_types"])
    assert vectors["supported_api_types"][0] == "mlflow/v1/embeddings"
    assert "destinations" not in chat["config"]["routing"], "the short view leaves them out"
    full = plane.do("GET", f"{LIST}/system.ai.smollm2-chat")
    (destination,) = full["config"]["routing"]["destinations"]
    assert destination["pay_per_token_config"] == {"model": "models/system.ai.smollm2-chat"}
    assert plane.do("GET", f"{LIST}?view=FULL&parent=schemas/system.ai")["model_services"][1] == full


def test_pages_name_each_service_once_also_while_others_are_made(plane: Plane) -> None:
    for name in "ceg":
        make(plane, name)
    first = plane.do("GET", f"{LIST}?page_size=2")
    make(plane, "a")  # before the place where the list goes on
    second = plane.do("GET", f"{LIST}?page_size=2&page_token={first['next_page_token']}")
    third = plane.do("GET", f"{LIST}?page_size=2&page_token={second['next_page_token']}")
    assert names(first) == ["main.default.c", "main.default.e"]
    assert names(second) == ["main.default.g", "system.ai.bge-large-en"]
    assert names(third) == ["system.ai.smollm2-chat"]
    assert "next_page_token" not in third
    for wrong in ("page_size=-1", "page_size=x", "page_token=%ff", "view=SOME", "parent=main.default"):
        assert plane.refused("GET", f"{LIST}?{wrong}")[:2] == (400, "INVALID_PARAMETER_VALUE"), wrong


def test_a_page_of_services_that_the_caller_may_not_see_is_empty_and_names_the_next(plane: Plane) -> None:
    ada = plane.somebody("ada@example.com")
    make(plane, "a")
    make(plane, "b")
    seen: list[str] = []
    token, sizes = "", []
    for _ in range(9):
        listed = plane.do("GET", f"{LIST}?page_size=1&page_token={token}", token=ada)
        seen += names(listed)
        sizes.append(len(listed["model_services"]))
        token = listed.get("next_page_token", "")
        if not token:
            break
    assert sizes == [0, 0, 1, 1]
    assert seen == ["system.ai.bge-large-en", "system.ai.smollm2-chat"]
    assert plane.refused("GET", f"{LIST}/main.default.a", token=ada) == (
        403,
        "PERMISSION_DENIED",
        "User does not have EXECUTE on MODEL_SERVICE 'main.default.a'.",
    )


def test_only_what_the_mask_names_is_changed_and_only_in_the_version_that_was_read(plane: Plane) -> None:
    limit = {"key": "RATE_LIMIT_KEY_SERVICE", "renewal_period": "RATE_LIMIT_RENEWAL_PERIOD_MINUTE", "requests": 5}
    made = make(plane, "mine", comment="before", rate_limits=[limit])
    path = f"{LIST}/main.default.mine"
    plane.at += 1
    changed = plane.do("PATCH", f"{path}?update_mask=comment&etag={made['etag']}", {"comment": "after", "config": {}})
    assert (changed["comment"], changed["config"]) == ("after", made["config"])
    assert changed["etag"] != made["etag"]
    assert changed["update_time"] > changed["create_time"] == made["create_time"]
    stale = plane.refused("PATCH", f"{path}?update_mask=comment&etag={made['etag']}", {"comment": "late"})
    assert stale[:2] == (409, "ABORTED")
    assert plane.refused("DELETE", f"{path}?etag={made['etag']}")[:2] == (409, "ABORTED")
    no_limits = plane.do("PATCH", f"{path}?update_mask=config.rate_limits", {"comment": "unread"})
    assert no_limits["comment"] == "after"
    assert "rate_limits" not in no_limits["config"]
    two = service(own_to("a", traffic_percentage=40), own_to("b", traffic_percentage=60))
    split = plane.do("PATCH", f"{path}?update_mask=config.routing.destinations", two)
    assert [one["name"] for one in split["config"]["routing"]["destinations"]] == ["a", "b"]
    for mask in ("", "config.routing", "name", "comment,owner"):
        assert plane.refused("PATCH", f"{path}?update_mask={mask}", two)[:2] == (400, "INVALID_PARAMETER_VALUE"), mask
    assert plane.refused("PATCH", f"{path}?update_mask=config", {})[:2] == (400, "INVALID_PARAMETER_VALUE")
    plane.do("DELETE", f"{path}?etag={split['etag']}")
    assert plane.refused("GET", path)[:2] == (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_config_that_cannot_route_is_refused_with_what_is_wrong(plane: Plane) -> None:
    make_provider(plane)
    limit = {"key": "RATE_LIMIT_KEY_USER", "renewal_period": "RATE_LIMIT_RENEWAL_PERIOD_MINUTE", "requests": 5}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "config is missing"),
        ({"config": {}}, "at least one destination"),
        ({"config": {"destinations": [own_to()]}}, "no field 'destinations'"),
        (service(own_to(model="models/system.ai.gpt-9")), "does not exist; there are"),
        (service(own_to(model="system.ai.smollm2-chat")), "resource name models/"),
        (service(own_to("ü\r\n")), "printable ASCII"),
        (service({**own_to(), "destination_type": "PAY_PER_TOKEN"}), "destination_type must be one of"),
        (service({**own_to(), "external_model_config": {}}), "and no other config"),
        (service(external_to("main.default.none")), "does not exist"),
        (service(external_to("main.default.up", "gpt-9")), "has no target 'gpt-9'"),
        (service(own_to("a"), own_to("b")), "add up to 100"),
        (service(own_to("a", traffic_percentage=50), own_to("b", traffic_percentage=40)), "add up to 100"),
        (service(own_to("a"), fallback=[own_to("a")]), "must differ"),
        (service(*(own_to(f"d{n}", traffic_percentage=0) for n in range(11))), "at most 10"),
        (service(own_to(), fallback=[own_to(f"f{n}") for n in range(6)]), "at most 5"),
        (service(own_to(), rate_limits=[limit]), "needs a principal"),
        (service(own_to(), rate_limits=[{**limit, "key": "user"}]), "The key of a rate limit"),
        (service(own_to(), inference_table={"parent": "main"}), "schemas/catalog.schema"),
    ]
    for body, reason in wrong:
        path = f"{LIST}?parent=schemas/main.default&model_service_id=bad"
        status, _, message = plane.refused("POST", path, body)
        assert status in (400, 404), body
        assert reason in message, (body, message)
    for query in ("parent=schemas/main.default", "parent=main.default&model_service_id=x", "model_service_id=x",
                  "parent=schemas/main.default&model_service_id=a.b"):  # fmt: skip
        assert plane.refused("POST", f"{LIST}?{query}", service(own_to()))[0] == 400, query
    make(plane, "good")
    again = f"{LIST}?parent=schemas/main.default&model_service_id=good"
    assert plane.refused("POST", again, service(own_to()))[:2] == (409, "RESOURCE_ALREADY_EXISTS")
    theirs = f"{LIST}?parent=schemas/system.ai&model_service_id=mine"
    assert plane.refused("POST", theirs, service(own_to()))[:2] == (403, "PERMISSION_DENIED")
    assert plane.refused("DELETE", f"{LIST}/system.ai.smollm2-chat")[:2] == (400, "INVALID_PARAMETER_VALUE")


def test_a_provider_service_takes_its_key_by_reference_only_and_only_one_that_its_maker_may_read(plane: Plane) -> None:
    ada = plane.somebody("ada@example.com")
    path = f"{UC}/model-provider-services?parent=schemas/main.default&model_provider_service_id=up"
    make_provider(plane, "first")  # with the scope and the secret
    assert plane.refused("POST", path, provider(), ada)[:2] == (403, "PERMISSION_DENIED")
    plain = {"openai": {"direct": {"api_key": {"plaintext": "sk-canary-plaintext"}}}}
    status, code, message = plane.refused("POST", path, provider(**plain))
    assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
    assert "must refer to a secret" in message
    assert "canary" not in message
    none = {"openai": {"direct": {"api_key": {"secret_reference": {"name": "secrets/main.default.none"}}}}}
    assert plane.refused("POST", path, provider(**none))[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    for changed in ({"provider_type": "OPENAI"}, {"targets": []}, {"anthropic": {}}, {"allow_all_targets": 1},
                    {"targets": [{"model": "m"}]}, {"openai": {}}, {"more": 1}, {"pricing": 5}):  # fmt: skip
        assert plane.refused("POST", path, provider(**changed))[0] == 400, changed
    for form in ("{{secrets/main.default/openai}}", "secrets/main.default/openai", "secrets/main.default.openai"):
        reference = {"openai": {"direct": {"api_key": {"secret_reference": {"name": form}}}}}
        made = plane.do("POST", path, provider(**reference))
        assert made["config"]["openai"] == reference["openai"]
        plane.do("DELETE", f"{UC}/model-provider-services/main.default.up")
    one = f"{UC}/model-provider-services/main.default.first"
    mask = "config.pricing.default_discount_basis_points"
    priced = plane.do("PATCH", f"{one}?update_mask={mask}", {"config": {"pricing": {mask.rpartition(".")[2]: 5}}})
    assert priced["config"]["pricing"] == {"default_discount_basis_points": 5}
    other = provider(provider_type="EXTERNAL_MODEL_PROVIDER_TYPE_ANTHROPIC")
    assert "cannot be changed" in plane.refused("PATCH", f"{one}?update_mask=config", other)[2]
    moved = provider(openai={"direct": {**provider()["config"]["openai"]["direct"], "base_url": "https://b.example"}})
    assert (
        plane.do("PATCH", f"{one}?update_mask=config.provider", moved)["config"]["openai"] == moved["config"]["openai"]
    )


def test_grants_are_added_and_removed_and_say_who_sees_changes_and_uses_a_service(plane: Plane) -> None:
    ada, bob = plane.somebody("ada@example.com"), plane.somebody("bob@example.com")
    make_provider(plane)
    grants = f"{UC}/permissions/MODEL_PROVIDER_SERVICE/main.default.up"
    body, path = service(external_to("main.default.up")), f"{LIST}?parent=schemas/main.default&model_service_id=hers"
    denied = plane.refused("POST", path, body, ada)
    assert denied[:2] == (403, "PERMISSION_DENIED")
    assert "EXECUTE on MODEL_PROVIDER_SERVICE 'main.default.up'" in denied[2]
    granted = plane.do("PATCH", grants, {"changes": [{"principal": "ada@example.com", "add": ["EXECUTE"]}]})
    assert granted == {"privilege_assignments": [{"principal": "ada@example.com", "privileges": ["EXECUTE"]}]}
    assert plane.do("GET", grants.replace("permissions", "privilege-assignments")) == granted
    assert plane.do("GET", f"{grants}?principal=bob@example.com") == {"privilege_assignments": []}
    plane.do("POST", path, body, ada)
    one = f"{LIST}/main.default.hers"
    assert plane.refused("PATCH", f"{one}?update_mask=comment", {"comment": "his"}, bob)[0] == 403
    hers = f"{UC}/permissions/model_service/main.default.hers"
    assert plane.refused("PATCH", hers, {"changes": [{"principal": "users", "add": ["MANAGE"]}]}, bob)[0] == 403
    plane.do("PATCH", hers, {"changes": [{"principal": "users", "add": ["ALL_PRIVILEGES"]}]}, ada)
    assert plane.do("GET", one, token=bob)["effective_owner"] == "ada@example.com"
    assert plane.refused("DELETE", one, token=bob)[0] == 403, "all privileges but MANAGE"
    change = {"principal": "users", "add": ["MANAGE"], "remove": ["ALL_PRIVILEGES"]}
    plane.do("PATCH", hers, {"changes": [change]}, ada)
    plane.do("DELETE", one, token=bob)
    for wrong in ({}, {"changes": [{"add": ["EXECUTE"]}]}, {"changes": [{"principal": "x", "add": ["FLY"]}]}):
        assert plane.refused("PATCH", grants, wrong)[:2] == (400, "INVALID_PARAMETER_VALUE"), wrong
    assert plane.refused("GET", f"{UC}/permissions/table/main.default.up")[0] == 400
    assert plane.refused("GET", f"{UC}/permissions/model_service/main.default.none")[0] == 404


def test_services_and_their_grants_survive_in_the_state_folder(engine: Engine, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        plane = Plane(engine, store)
        make_provider(plane)
        made = make(plane, "mine", external_to("main.default.up"))
        revoked = {"changes": [{"principal": "account users", "remove": ["EXECUTE"]}]}
        plane.do("PATCH", f"{UC}/permissions/model_service/system.ai.smollm2-chat", revoked)
        plane.do(
            "PATCH",
            f"{UC}/permissions/model_service/main.default.mine",
            {"changes": [{"principal": "users", "add": ["EXECUTE"]}]},
        )
    with opened(tmp_path) as store:
        plane = Plane(engine, store)
        assert plane.do("GET", f"{LIST}/main.default.mine") == made
        ada = plane.somebody("ada@example.com")
        assert names(plane.do("GET", LIST, token=ada)) == ["main.default.mine", "system.ai.bge-large-en"]
        plane.do("DELETE", f"{UC}/model-provider-services/main.default.up")
        shown = plane.do("GET", f"{LIST}/main.default.mine")
        assert shown["config"]["routing"]["destinations"][0]["is_deleted"] is True
        assert shown["supported_api_types"] == []
        told = plane.do("PATCH", f"{LIST}/main.default.mine?update_mask=comment", {"comment": "the provider is gone"})
        assert told["comment"] == "the provider is gone"


def test_a_workspace_without_the_gateway_says_so_everywhere(engine: Engine) -> None:
    plane = Plane(engine, ai_gateway=False)
    message = "AI Gateway is not available for this workspace."
    for method, path in (
        ("GET", LIST),
        ("GET", f"{LIST}/system.ai.smollm2-chat"),
        ("POST", f"{UC}/model-provider-services"),
        ("POST", "/ai-gateway/mlflow/v1/chat/completions"),
        ("GET", "/ai-gateway/anthropic/v1/models"),
    ):
        assert plane.refused(method, path, {}) == (404, "FEATURE_DISABLED", message), path
    answer = plane.answer("GET", LIST)
    (detail,) = answer.json()["details"]
    assert detail["request_id"] == answer.headers["x-request-id"]
    paths = plane.do("GET", "/api/local/openapi.json")["paths"]
    assert not [path for path in paths if path.startswith("/ai-gateway") or "unity-catalog" in path]
    assert plane.do("GET", f"{SECRETS}/scopes/list") == {"scopes": []}
