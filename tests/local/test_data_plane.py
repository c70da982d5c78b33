"""Route-optimized endpoints: their own URL, the tokens that open it, and that nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.plane import ENDPOINTS, OWNER, Plane, ServedPlane, config, own

from dbllm.local.model.llama import Engine

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
CREATE = {"config": config(own("chat", "system.ai.smollm2-chat")), "route_optimized": True}
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture(scope="module")
def plane(engine: Engine) -> Iterator[ServedPlane]:
    with ServedPlane(engine, deploy_seconds=0.0) as plane:
        yield plane


@pytest.fixture(scope="module")
def fast(plane: ServedPlane) -> dict[str, Any]:
    """The description of a route-optimized endpoint that `job` may query."""
    made: dict[str, Any] = plane.do("POST", ENDPOINTS, {"name": "fast", **CREATE})
    grant = {"access_control_list": [{"service_principal_name": "job", "permission_level": "CAN_QUERY"}]}
    plane.do("PATCH", f"/api/2.0/permissions/serving-endpoints/{made['id']}", grant)
    return made


@pytest.fixture(scope="module")
def job(plane: ServedPlane) -> str:
    return plane.login("job")


def narrowed(plane: ServedPlane, token: str, details: str) -> str:
    return str(plane.token(grant_type=JWT_BEARER, assertion=token, authorization_details=details)["access_token"])


def ask(url: str, token: str, **more: object) -> httpx.Response:
    return httpx.post(url, json={**CHAT, **more}, headers={"authorization": f"Bearer {token}"}, trust_env=False)


def test_the_description_names_the_url_and_what_a_token_is_asked_for(plane: ServedPlane, fast: dict[str, Any]) -> None:
    info = fast["data_plane_info"]["query_info"]
    assert fast["route_optimized"] is True
    assert (
        fast["endpoint_url"]
        == info["endpoint_url"]
        == f"{plane.origins.data_plane}/1/serving-endpoints/fast/invocations"
    )
    (wanted,) = json.loads(info["authorization_details"])
    assert wanted["object_path"] == f"/serving-endpoints/{fast['id']}"
    assert plane.do("GET", f"{ENDPOINTS}/fast")["data_plane_info"] == fast["data_plane_info"]
    assert plane.do("GET", f"{ENDPOINTS}/smollm2-chat")["route_optimized"] is False


def test_tokens_of_both_grants_open_it_also_for_streams(plane: ServedPlane, fast: dict[str, Any], job: str) -> None:
    details = fast["data_plane_info"]["query_info"]["authorization_details"]
    made = plane.do("POST", "/api/local/principals", {"name": "admin", "admin": True})
    secret = (made["client_id"], made["client_secret"])
    by_secret = plane.token(auth=secret, grant_type="client_credentials", authorization_details=details)["access_token"]
    for token in (narrowed(plane, job, details), by_secret):
        answer = ask(fast["endpoint_url"], token)
        assert answer.json()["usage"]["completion_tokens"] == 3, answer.text
        assert answer.headers["served-model-name"] == "chat"
        assert ask(fast["endpoint_url"], token, stream=True).text.endswith("data: [DONE]\n\n")
        assert ask(fast["endpoint_url"], token, inputs=[]).status_code == 400


def test_no_other_credential_opens_it_and_its_tokens_open_nothing_else(
    plane: ServedPlane, fast: dict[str, Any], job: str
) -> None:
    url, details = fast["endpoint_url"], fast["data_plane_info"]["query_info"]["authorization_details"]
    other = plane.do("POST", ENDPOINTS, {"name": "other", **CREATE})
    others = other["data_plane_info"]["query_info"]["authorization_details"]
    token = narrowed(plane, job, details)
    assert ask(url, OWNER).status_code == 401, "a personal access token"
    assert ask(url, job).status_code == 403, "a token for all APIs"
    assert ask(url, narrowed(plane, job, others)).status_code == 403
    assert ask(other["endpoint_url"], narrowed(plane, job, others)).status_code == 403, "no CAN_QUERY"
    assert ask(url, "nobody").status_code == 403
    assert plane.answer("GET", ENDPOINTS, token=token).status_code == 403
    assert ask(url.replace("fast", "none"), token).status_code == 404
    assert ask(url.replace("fast", "smollm2-chat"), token).json()["error_code"] == "ENDPOINT_NOT_FOUND"
    assert ask(f"{plane.origins.data_plane}{ENDPOINTS}", token).status_code == 404


def test_it_answers_nowhere_else(plane: ServedPlane, fast: dict[str, Any], job: str) -> None:
    for path, body in (
        ("/serving-endpoints/fast/invocations", CHAT),
        ("/serving-endpoints/fast/served-models/chat/invocations", CHAT),
        ("/serving-endpoints/chat/completions", {**CHAT, "model": "fast"}),
        ("/serving-endpoints/responses", {"input": "hello", "model": "fast"}),
    ):
        status, code, message = plane.refused("POST", path, body, job)
        assert (status, code) == (400, "BAD_REQUEST"), path
        assert fast["endpoint_url"] in message


def test_what_the_token_endpoint_refuses(plane: ServedPlane, fast: dict[str, Any], job: str) -> None:
    details = fast["data_plane_info"]["query_info"]["authorization_details"]
    refused = {
        "invalid_grant": ({"assertion": OWNER, "authorization_details": details}, {"authorization_details": details}),
        "invalid_request": ({"assertion": job},),
        "invalid_authorization_details": (
            {"assertion": job, "authorization_details": "x"},
            {"assertion": job, "authorization_details": '["x"]'},
        ),
    }
    for error, forms in refused.items():
        for form in forms:
            assert plane.token(status=400, grant_type=JWT_BEARER, **form)["error"] == error, form
    narrow = narrowed(plane, job, details)
    again = {"assertion": narrow, "authorization_details": details}
    assert plane.token(status=400, grant_type=JWT_BEARER, **again)["error"] == "invalid_grant", "it cannot be widened"


def test_without_a_second_port_there_is_no_route_optimization(engine: Engine) -> None:
    plane = Plane(engine)
    assert plane.refused("POST", ENDPOINTS, {"name": "fast", **CREATE})[:2] == (400, "INVALID_PARAMETER_VALUE")
    (app,) = plane.do("GET", "/api/2.0/apps")["apps"]
    assert "url" not in app
