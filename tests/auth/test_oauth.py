"""OAuth on the wire: discovery, M2M, federation, the metadata service, and where no credential may go."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

import dbllm
from dbllm import Retry
from dbllm._auth.oauth import require_trusted_url

HOST = "https://workspace.example.com"
PRINCIPAL = {"client_id": "the-principal", "client_secret": "dose-secret"}
TOKEN = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}
METADATA = "/.well-known/databricks-config"
RFC8414 = "/oidc/.well-known/oauth-authorization-server"
ME = "/api/2.0/preview/scim/v2/Me"


class Connection:
    """A transport of the user's, in both modes: it answers by path and records requests."""

    def __init__(self, **answers: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.answers: dict[str, Any] = {
            METADATA: {"oidc_endpoint": f"{HOST}/oidc"},
            RFC8414: {"token_endpoint": f"{HOST}/oidc/v1/token"},
            "/oidc/v1/token": TOKEN,
            ME: {"userName": "me"},
            **{path.replace("__", "/"): answer for path, answer in answers.items()},
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.get(request.url.path, 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(answer, json={}) if isinstance(answer, int) else httpx.Response(200, json=answer)

    @property
    def paths(self) -> list[str]:
        return [f"{request.url.host}{request.url.path}" for request in self.requests]

    def last(self, path: str) -> httpx.Request:
        return [request for request in self.requests if request.url.path == path][-1]


def ask(way: Any, wire: Connection, host: str = HOST, **options: Any) -> Any:
    async def body() -> Any:
        options.setdefault("retry", Retry(attempts=1))
        async with way.client(host, transport=httpx.MockTransport(wire), **options) as client:
            return await client.request("GET", ME)

    return way.run(body)


def test_a_service_principal_is_discovered_and_sends_its_secret_by_http_basic(way: Any) -> None:
    wire = Connection()
    assert ask(way, wire, **PRINCIPAL) == {"userName": "me"}
    assert wire.paths == [f"workspace.example.com{path}" for path in (METADATA, RFC8414, "/oidc/v1/token", ME)]
    request = wire.last("/oidc/v1/token")
    assert request.method == "POST"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"the-principal:dose-secret").decode()
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.content.decode()) == {"grant_type": ["client_credentials"], "scope": ["all-apis"]}
    assert wire.last(ME).headers["authorization"] == "Bearer at-1"
    assert "authorization" not in wire.last(METADATA).headers


def test_discovery_is_asked_once_and_a_host_without_it_has_the_usual_token_endpoint(way: Any) -> None:
    wire = Connection(**{METADATA: 404, RFC8414: 404})
    ask(way, wire, **PRINCIPAL)
    assert wire.paths[-2:] == ["workspace.example.com/oidc/v1/token", f"workspace.example.com{ME}"]


def test_an_accounts_discovery_gets_the_account_id(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "/oidc/accounts/acc-1/.well-known/oauth-authorization-server"
    wire = Connection(**{METADATA: {"oidc_endpoint": HOST + "/oidc/accounts/{account_id}"}})
    wire.answers[place] = {"token_endpoint": f"{HOST}/oidc/v1/token"}
    monkeypatch.setenv("DATABRICKS_HOST", HOST)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "i")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "s")
    with pytest.raises(dbllm.ConfigError, match="DATABRICKS_ACCOUNT_ID"):
        ask(way, wire, None)  # type: ignore[arg-type]
    monkeypatch.setenv("DATABRICKS_ACCOUNT_ID", "acc-1")
    assert ask(way, wire, None) == {"userName": "me"}  # type: ignore[arg-type]


def test_a_token_endpoint_on_another_host_is_used_by_https_when_discovery_names_it(way: Any) -> None:
    wire = Connection(**{RFC8414: {"token_endpoint": "https://accounts.example.com/oidc/v1/token"}})
    ask(way, wire, **PRINCIPAL)
    assert "accounts.example.com/oidc/v1/token" in wire.paths


@pytest.mark.parametrize(
    "endpoint",
    ["http://accounts.example.com/t", "http://workspace.example.com/t", "http://127.0.0.1/t", "ftp://a/t", "//x", ""],
)
def test_a_token_endpoint_without_https_gets_no_secret(way: Any, endpoint: str) -> None:
    wire = Connection(**{METADATA: {"oidc_endpoint": f"{HOST}/oidc"}, RFC8414: {"token_endpoint": endpoint}})
    if not endpoint:
        ask(way, wire, **PRINCIPAL)  # none is named: the usual one
        return
    with pytest.raises(dbllm.ConfigError, match="could be read on the way"):
        ask(way, wire, **PRINCIPAL)
    assert not any("authorization" in request.headers for request in wire.requests)


@pytest.mark.parametrize(
    ("url", "host", "fine"),
    [
        (f"{HOST}/t", HOST, True),
        ("https://other.example.com/t", HOST, True),
        ("http://127.0.0.1:1/t", "http://127.0.0.1:1", True),
        ("http://localhost:2/t", "http://127.0.0.1:1", True),
        ("http://127.0.0.1:1/t", HOST, False),
        ("https://user@other.example.com/t", HOST, False),
        ("file:///etc/passwd", HOST, False),
    ],
)
def test_where_a_credential_may_go(url: str, host: str, fine: bool) -> None:
    if fine:
        assert require_trusted_url(url, host) == url
    else:
        with pytest.raises(dbllm.ConfigError):
            require_trusted_url(url, host)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_of_a_token_request_is_followed(way: Any, status: int) -> None:
    away = httpx.Response(status, headers={"location": "https://elsewhere.example.com/token"})
    wire = Connection(**{"/oidc/v1/token": away})
    with pytest.raises(dbllm.APIStatusError, match="follows no redirect"):
        ask(way, wire, **PRINCIPAL)
    assert not any(request.url.host == "elsewhere.example.com" for request in wire.requests)


REFUSALS = [
    (401, {"error": "invalid_client", "error_description": "Client authentication failed"}),
    (400, {"error": "invalid_client", "error_description": "Client authentication failed"}),
    (400, {"error": "invalid_grant", "error_description": "no policy"}),
    (403, {"errorCode": "access_denied", "errorSummary": "no"}),
]


@pytest.mark.parametrize(("status", "content"), REFUSALS)
def test_a_refused_identity_is_an_authentication_error_that_names_it(way: Any, status: int, content: Any) -> None:
    wire = Connection(**{"/oidc/v1/token": httpx.Response(status, json=content)})
    with pytest.raises(dbllm.AuthenticationError) as caught:
        ask(way, wire, **PRINCIPAL)
    assert "no token for service principal the-principal from https://workspace.example.com" in str(caught.value)
    assert "Check client_id and client_secret" in str(caught.value)
    assert caught.value.status == status
    assert wire.paths.count("workspace.example.com/oidc/v1/token") == 1


@pytest.mark.parametrize("first", [500, 502, 503, 504, 429, httpx.ConnectError("x"), httpx.ReadTimeout("x")])
def test_a_token_request_that_fails_for_the_moment_is_tried_again_as_the_call_never_left(way: Any, first: Any) -> None:
    wire = Connection(**{"/oidc/v1/token": [first, TOKEN]})

    async def body() -> None:
        retry = Retry(attempts=2, backoff=0.0)
        async with way.client(HOST, transport=httpx.MockTransport(wire), retry=retry, **PRINCIPAL) as client:
            await client.request("POST", ME, json={})  # not idempotent: a call that had left would not be sent again

    way.run(body)
    assert wire.paths.count(f"workspace.example.com{ME}") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "not with JSON"),
        (b"[]", "without an access_token"),
        (b'{"access_token": "", "expires_in": 9}', "without an access_token"),
        (b'{"access_token": "canary"}', "without the time"),
        (b'{"access_token": "canary", "expires_in": "soon"}', "without the time"),
        (b'{"access_token": "canary", "expires_in": 0}', "has already expired"),
        (b'{"access_token": "canary", "expires_in": 1e999}', "has already expired"),
        (b'{"access_token": "canary", "expires_in": 1%s}' % (b"0" * 400), "without the time"),
        (b'{"access_token": "canary", "expires_on": 1%s}' % (b"0" * 400), "without the time"),
        (b'{"access_token": "canary", "token_type": "mac", "expires_in": 9}', "of another type than Bearer"),
    ],
)
def test_an_answer_that_is_no_token_says_what_is_wrong_with_it_and_shows_none_of_it(
    way: Any, content: bytes, said: str
) -> None:
    wire = Connection(**{"/oidc/v1/token": httpx.Response(200, content=content)})
    with pytest.raises(dbllm.APIResponseError, match=said) as caught:
        ask(way, wire, **PRINCIPAL)
    assert "canary" not in str(caught.value) + repr(caught.value.raw and caught.value.raw.body)


# --- federation and the metadata service


@pytest.fixture
def federated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def configure(**variables: str) -> None:
        monkeypatch.setenv("DATABRICKS_HOST", HOST)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return configure


def test_an_oidc_token_of_the_environment_is_exchanged(way: Any, federated: Any) -> None:
    federated(DATABRICKS_OIDC_TOKEN_ENV="CI_TOKEN", CI_TOKEN="jwt-1", DATABRICKS_CLIENT_ID="the-principal")
    wire = Connection()
    ask(way, wire, None)  # type: ignore[arg-type]
    request = wire.last("/oidc/v1/token")
    assert parse_qs(request.content.decode()) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "subject_token": ["jwt-1"],
        "subject_token_type": ["urn:ietf:params:oauth:token-type:jwt"],
        "scope": ["all-apis"],
        "client_id": ["the-principal"],
    }
    assert "authorization" not in request.headers


def test_an_oidc_token_file_is_read_anew_for_each_exchange(way: Any, federated: Any, tmp_path: Any) -> None:
    file = tmp_path / "token"
    federated(DATABRICKS_OIDC_TOKEN_FILE=str(file))
    expired = httpx.Response(403, json={"error_code": 403, "message": "Access token has expired."})
    wire = Connection(**{ME: [expired, {"userName": "me"}]})
    file.write_text("jwt-1\n")
    seen: list[str] = []
    answers = wire.__call__

    def watch(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/oidc/v1/token":
            seen.append(parse_qs(request.content.decode())["subject_token"][0])
            file.write_text("jwt-2\n")
        return answers(request)

    ask(way, watch, None)  # type: ignore[arg-type]
    assert seen == ["jwt-1", "jwt-2"]


def test_a_missing_oidc_token_file_is_told(way: Any, federated: Any, tmp_path: Any) -> None:
    federated(DATABRICKS_OIDC_TOKEN_FILEPATH=str(tmp_path / "none"))
    with pytest.raises(dbllm.ConfigError, match="none cannot be read: FileNotFoundError"):
        ask(way, Connection(), None)  # type: ignore[arg-type]


def test_the_metadata_service_is_asked_for_the_host_and_ends_its_token_at_a_moment(way: Any, federated: Any) -> None:
    federated(DATABRICKS_METADATA_SERVICE_URL="http://127.0.0.1:9/helper")
    wire = Connection()
    wire.answers["/helper"] = {"access_token": "from-helper", "token_type": "Bearer", "expires_on": 4_000_000_000}
    ask(way, wire, None)  # type: ignore[arg-type]
    request = wire.last("/helper")
    assert (request.headers["x-databricks-metadata-version"], request.headers["x-databricks-host"]) == ("1", HOST)
    assert wire.last(ME).headers["authorization"] == "Bearer from-helper"


def test_a_metadata_service_elsewhere_needs_https(federated: Any) -> None:
    federated(DATABRICKS_METADATA_SERVICE_URL="http://169.254.169.254/token")
    with pytest.raises(dbllm.ConfigError, match="must be an https address: over http"):
        dbllm.Client()


# --- the local workspace's own side


def test_the_local_workspace_gives_tokens_as_databricks_does(light: Any) -> None:
    workspace = light(subjects=frozenset({"jwt-1"}))
    http = httpx.Client(base_url=workspace.host, trust_env=False)
    with http:
        oidc = http.get(METADATA).json()["oidc_endpoint"]
        where = http.get(f"{oidc}/.well-known/oauth-authorization-server").json()["token_endpoint"]
        form = {"grant_type": "client_credentials", "scope": "all-apis"}
        name, secret = workspace.principal["client_id"], workspace.principal["client_secret"]
        basic = http.post(where, data=form, auth=(name, secret))
        assert basic.status_code == 200
        assert {"access_token", "token_type", "expires_in", "scope"} == basic.json().keys()
        in_body = http.post(where, data={**form, "client_id": name, "client_secret": secret})
        exchange = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": "jwt-1"}
        federated = http.post(where, data={**exchange, "scope": "all-apis"})
        for answer in (basic, in_body, federated):
            headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
            assert http.get(ME, headers=headers).status_code == 200
        wrong = http.post(where, data=form, auth=(name, "wrong"))
        assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
        assert http.post(where, data={**exchange, "subject_token": "x"}).json()["error"] == "invalid_grant"
        assert http.post(where, data={"grant_type": "password"}).json()["error"] == "unsupported_grant_type"
        assert http.post(where, data={"grant_type": "client_credentials"}, auth=(name, secret)).status_code == 400


def test_the_local_workspaces_tokens_end(light: Any) -> None:
    workspace = light()
    with dbllm.Client(**workspace.principal) as client:
        client.request("GET", ME)
    (token,) = workspace.oidc._ends
    workspace.oidc._clock = lambda: float("inf")
    with httpx.Client(base_url=workspace.host, trust_env=False) as http:
        answer = http.get(ME, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert json.loads(answer.content)["message"].startswith("Access token has expired.")
