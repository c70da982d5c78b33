"""Who may call, and who may do what with an endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from support.plane import ENDPOINTS, Plane, config, own

from dbllm.local.model.llama import Engine

PRINCIPALS = "/api/local/principals"
TOKENS = "/api/local/tokens"
ROW = {"dataframe_records": [{"prompt": "hi", "max_tokens": 1}]}


@pytest.fixture
def plane(engine: Engine) -> Plane:
    plane = Plane(engine, deploy_seconds=0.0)
    plane.do("POST", ENDPOINTS, {"name": "mine", "config": config(own())})
    return plane


def permissions(plane: Plane) -> str:
    return f"/api/2.0/permissions/serving-endpoints/{plane.do('GET', f'{ENDPOINTS}/mine')['id']}"


def granted(**who: str) -> dict[str, Any]:
    return {"access_control_list": [who]}


def test_each_level_includes_those_below_it(plane: Plane) -> None:
    bob = plane.somebody("bob@example.com")

    def statuses() -> list[int]:
        return [
            plane.answer("GET", f"{ENDPOINTS}/mine", token=bob).status_code,
            plane.answer("POST", "/serving-endpoints/mine/invocations", ROW, bob).status_code,
            plane.answer("PATCH", f"{ENDPOINTS}/mine/tags", {}, bob).status_code,
        ]

    assert statuses() == [403, 403, 403]
    for level, expected in (
        ("CAN_VIEW", [200, 403, 403]),
        ("CAN_QUERY", [200, 200, 403]),
        ("CAN_MANAGE", [200, 200, 200]),
    ):
        plane.do("PATCH", permissions(plane), granted(user_name="bob@example.com", permission_level=level))
        assert statuses() == expected
    status, code, message = plane.refused("DELETE", f"{ENDPOINTS}/mine", token=plane.somebody("eve@example.com"))
    assert (status, code) == (403, "PERMISSION_DENIED")
    assert "'eve@example.com' does not have CAN_MANAGE on the serving endpoint 'mine'" in message


def test_one_sees_only_what_one_may_view(plane: Plane) -> None:
    bob = plane.somebody("bob@example.com")
    listed = plane.do("GET", ENDPOINTS, token=bob)["endpoints"]
    assert "mine" not in {one["name"] for one in listed}
    assert "dolly" in {one["name"] for one in listed}
    assert plane.do("GET", f"{ENDPOINTS}/dolly", token=bob)["permission_level"] == "CAN_QUERY"


def test_who_makes_an_endpoint_manages_it(plane: Plane) -> None:
    bob = plane.somebody("bob@example.com")
    made = plane.do("POST", ENDPOINTS, {"name": "bobs", "config": config(own())}, bob)
    assert (made["creator"], made["permission_level"]) == ("bob@example.com", "CAN_MANAGE")
    plane.do("DELETE", f"{ENDPOINTS}/bobs", token=bob)


def test_putting_permissions_replaces_them_and_admins_stay(plane: Plane) -> None:
    path = permissions(plane)
    plane.do("PUT", path, granted(group_name="users", permission_level="CAN_QUERY"))
    shown = plane.do("GET", path)
    assert shown["object_type"] == "serving-endpoint"
    first, admins = shown["access_control_list"]
    assert (first["group_name"], first["all_permissions"][0]["permission_level"]) == ("users", "CAN_QUERY")
    assert (admins["group_name"], admins["all_permissions"][0]["inherited"]) == ("admins", True)
    plane.do("GET", f"{ENDPOINTS}/mine", token=plane.somebody("bob@example.com"))
    levels = plane.do("GET", f"{path}/permissionLevels")["permission_levels"]
    assert [one["permission_level"] for one in levels] == ["CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_control_list": {}},
        {"access_control_list": ["x"]},
        granted(permission_level="CAN_VIEW"),
        granted(user_name="a", group_name="b", permission_level="CAN_VIEW"),
        granted(user_name="a", permission_level="CAN_DO"),
    ],
)
def test_permissions_that_make_no_sense_are_refused(plane: Plane, wrong: object) -> None:
    assert plane.refused("PUT", permissions(plane), wrong)[:2] == (400, "INVALID_PARAMETER_VALUE")


def test_permissions_go_by_id(plane: Plane) -> None:
    status, _, message = plane.refused("GET", "/api/2.0/permissions/serving-endpoints/mine")
    assert status == 404
    assert "not by name" in message


def test_a_service_principal_logs_in_with_its_secret_and_is_itself(plane: Plane) -> None:
    made = plane.do("POST", PRINCIPALS, {"name": "robot"})
    form = {"grant_type": "client_credentials", "scope": "all-apis"}
    answer = plane.answer("POST", "/oidc/v1/token", data=form, auth=(made["client_id"], made["client_secret"]))
    token = answer.json()["access_token"]
    assert plane.do("GET", "/api/2.0/preview/scim/v2/Me", token=token)["userName"] == "robot"
    assert plane.refused("GET", f"{ENDPOINTS}/mine", token=token)[0] == 403
    plane.do("PATCH", permissions(plane), granted(service_principal_name="robot", permission_level="CAN_VIEW"))
    plane.do("GET", f"{ENDPOINTS}/mine", token=token)
    assert plane.answer("POST", "/oidc/v1/token", data=form, auth=("robot", "wrong")).status_code == 401


def test_tokens_are_shown_once_end_and_can_be_taken_away(plane: Plane) -> None:
    plane.do("POST", PRINCIPALS, {"name": "bob@example.com", "service": False})
    made = plane.do("POST", TOKENS, {"principal": "bob@example.com", "comment": "c", "lifetime_seconds": 60})
    token, listed = made["token_value"], plane.answer("GET", TOKENS)
    assert token not in listed.text
    assert "digest" not in listed.text
    plane.do("GET", ENDPOINTS, token=token)
    plane.at += 60
    status, code, message = plane.refused("GET", ENDPOINTS, token=token)
    assert (status, code) == (403, 403)
    assert message.startswith("Access token has expired.")
    lasting = plane.do("POST", TOKENS, {"principal": "bob@example.com"})
    plane.do("GET", ENDPOINTS, token=lasting["token_value"])
    plane.do("DELETE", f"{TOKENS}/{lasting['token_id']}")
    assert plane.refused("GET", ENDPOINTS, token=lasting["token_value"])[2].startswith("Invalid access token.")


def test_a_principal_goes_with_its_tokens(plane: Plane) -> None:
    bob = plane.somebody("bob@example.com")
    plane.do("DELETE", f"{PRINCIPALS}/bob@example.com")
    assert plane.refused("GET", ENDPOINTS, token=bob)[:2] == (403, 403)
    assert plane.do("GET", PRINCIPALS) == {"principals": []}


def test_only_admins_make_principals_and_tokens(plane: Plane) -> None:
    bob = plane.somebody("bob@example.com")
    for method, path in (("GET", PRINCIPALS), ("POST", PRINCIPALS), ("GET", TOKENS), ("POST", TOKENS)):
        assert plane.refused(method, path, {}, bob)[:2] == (403, "PERMISSION_DENIED")
    plane.do("POST", PRINCIPALS, {"name": "boss@example.com", "service": False, "admin": True})
    boss = plane.do("POST", TOKENS, {"principal": "boss@example.com"})["token_value"]
    plane.do("GET", PRINCIPALS, token=boss)
    plane.do("GET", f"{ENDPOINTS}/mine", token=boss)


def test_principals_that_make_no_sense_are_refused(plane: Plane) -> None:
    plane.do("POST", PRINCIPALS, {"name": "robot"})
    for wrong in ({"name": "a:b"}, {"name": ""}, {"service": False}, {"name": "x", "admin": "yes"}):
        assert plane.refused("POST", PRINCIPALS, wrong)[:2] == (400, "INVALID_PARAMETER_VALUE")
    assert plane.refused("POST", PRINCIPALS, {"name": "robot"})[:2] == (409, "RESOURCE_ALREADY_EXISTS")
    assert plane.refused("POST", TOKENS, {"principal": "nobody"})[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    assert plane.refused("POST", TOKENS, {"principal": "robot", "lifetime_seconds": -1})[0] == 400
