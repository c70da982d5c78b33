"""What users of the official SDK and of LangChain's adapter stumble over, and that it is otherwise here."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

import dbllm
from dbllm.auth import Secret
from dbllm.config import normal_host, resolve
from dbllm.io import drive
from dbllm.outside import official_sdk

A, B = "https://a.example.com", "https://b.example.com"
ME = "/api/2.0/preview/scim/v2/Me"


def found(home: Path, profile: str | None = None, **env: str) -> Any:
    return resolve(None, None, profile, env=env, home=home)


def sent(config: Any) -> str:
    try:
        config.auth.headers(None, 0.0).send(None)
    except StopIteration as done:
        return str(done.value["authorization"])
    raise AssertionError


def test_an_environment_token_is_not_sent_to_a_named_profiles_host(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[x]\nhost = {A}\ntoken = own\n")
    assert sent(found(environment, "x", DATABRICKS_TOKEN="other")) == "Bearer own"
    assert sent(found(environment, DATABRICKS_CONFIG_PROFILE="x", DATABRICKS_TOKEN="other")) == "Bearer own"


def test_the_default_profile_is_found_for_an_environment_host_that_is_its_own(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[DEFAULT]\nhost = {A}\ntoken = own\n")
    assert sent(found(environment, DATABRICKS_HOST=A)) == "Bearer own"


def test_several_kinds_of_auth_at_once_are_no_error(environment: Path) -> None:
    env = {
        "DATABRICKS_CLIENT_ID": "i",
        "DATABRICKS_CLIENT_SECRET": "s",
        "ARM_USE_MSI": "false",
        "DATABRICKS_USERNAME": "u",
    }
    assert found(environment, DATABRICKS_HOST=A, DATABRICKS_TOKEN="t", **env).kind == "pat"
    assert resolve(A, "t", None, env=env).auth_from == "the argument token="


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "off"])
def test_false_is_false(word: str, environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[DEFAULT]\nhost = {A}\ntoken = t\nskip_verify = {word}\n")
    assert found(environment).verify is True


def test_a_comment_behind_a_token_is_refused_not_sent(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[DEFAULT]\nhost = {A}\ntoken = dapi1 # mine\n")
    with pytest.raises(dbllm.ConfigError, match="line 3"):
        found(environment)


def test_a_duplicate_section_is_an_error_of_ours_with_its_line(environment: Path) -> None:
    (environment / ".databrickscfg").write_text("[x]\n[x]\n")
    with pytest.raises(dbllm.ConfigError, match="line 2"):
        found(environment, "x")


def test_the_default_section_passes_nothing_on_and_a_percent_sign_is_one(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(
        f"[DEFAULT]\ntoken = other\n[x]\nHOST: {A}\nusername = u\npassword = 100%(y)s\nno_such_key = 1\n"
    )
    assert found(environment, "x").kind == "basic"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://h.example.com/?o=123", "https://h.example.com"),
        ("https://H.Example.com/", "https://h.example.com"),
        ("h.example.com:443", "https://h.example.com"),
        ("https://[::1]:443/", "https://[::1]"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("https://training.example.com", "https://training.example.com"),
        ("prod-x.example.com", "https://prod-x.example.com"),
        ("https://https.example.com", "https://https.example.com"),
    ],
)
def test_a_host_survives_the_ways_in_which_people_write_it(written: str, meant: str) -> None:
    assert normal_host(written) == meant


def test_making_a_client_sends_nothing_and_a_pat_asks_for_no_discovery(way: Any, light: Any) -> None:
    workspace = light()

    async def body() -> None:
        async with way.client(workspace.host, workspace.identity.token) as client:
            assert not any(workspace.tokens.paths)  # the server's own start has no path
            await client.request("GET", ME)
            assert [path for path in workspace.tokens.paths if path] == [ME]

    way.run(body)


def test_a_wrong_host_fails_within_its_timeout_instead_of_hanging(way: Any) -> None:
    async def body() -> None:
        began = time.monotonic()
        async with way.client("http://127.0.0.1:9", client_id="i", client_secret="s", timeout=2) as client:
            with pytest.raises(dbllm.APIConnectionError):
                await client.request("GET", ME)
        assert time.monotonic() - began < 3

    way.run(body)


def test_a_redirect_to_a_login_page_is_an_error_and_no_answer(way: Any) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": f"{A}/login.html?error=private-link-validation-error"})

    async def body() -> None:
        async with way.client(A, "t", transport=httpx.MockTransport(answer)) as client:
            with pytest.raises(dbllm.APIStatusError, match="follows no redirect"):
                await client.request("GET", ME)

    way.run(body)


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The official SDK as far as it is used here."""
    seen = SimpleNamespace(made=[], headers={"Authorization": "Bearer aad"}, seconds=0.0, fail="")

    class Config:
        @classmethod
        def attributes(cls) -> Any:
            names = ("host", "azure_client_id", "azure_client_secret", "azure_tenant_id", "token", "auth_type")
            return [SimpleNamespace(name=name) for name in names]

        def __init__(self, **options: Any) -> None:
            seen.made.append(options)

        def authenticate(self) -> dict[str, str]:
            time.sleep(seen.seconds)
            if seen.fail:
                raise ValueError(seen.fail)
            return dict(seen.headers)

    core = ModuleType("databricks.sdk.core")
    core.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", core)
    monkeypatch.setattr("dbllm.outside.sdk_there", lambda: True)
    variables = {"DATABRICKS_HOST": A, "ARM_CLIENT_ID": "i", "ARM_CLIENT_SECRET": "canary", "ARM_TENANT_ID": "t"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return seen


def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=dict(request.headers))


def test_all_headers_of_the_sdks_credentials_are_sent_and_only_one_places_values_go_in(way: Any, sdk: Any) -> None:
    sdk.headers |= {"X-Databricks-Azure-SP-Management-Token": "m", "X-Databricks-Azure-Workspace-Resource-Id": "/r"}

    async def body() -> None:
        async with way.client(transport=httpx.MockTransport(echo)) as client:
            got = await client.request("GET", ME)
            assert got["authorization"] == "Bearer aad"
            assert got["x-databricks-azure-sp-management-token"] == "m"
            assert got["x-databricks-azure-workspace-resource-id"] == "/r"
            await client.request("GET", ME)

    way.run(body)
    (options,) = sdk.made
    assert options == {
        "host": A,
        "auth_type": "azure-client-secret",
        "azure_client_id": "i",
        "azure_client_secret": "canary",
        "azure_tenant_id": "t",
    }


def test_the_sdks_credentials_do_not_hold_the_loop_up(sdk: Any, stalls: Any) -> None:
    sdk.seconds = 0.3

    async def body() -> float:
        watched = stalls()
        watcher = asyncio.create_task(watched.watch())
        async with dbllm.AsyncClient(transport=httpx.MockTransport(echo)) as client:
            await client.request("GET", ME)
        watcher.cancel()
        return float(watched.worst)

    assert min(asyncio.run(body()) for _ in range(3)) < 0.15


def test_the_sdks_error_is_told_without_the_secret_that_is_in_it(way: Any, sdk: Any) -> None:
    sdk.fail = "AADSTS7000215: canary is wrong"

    async def body() -> None:
        async with way.client(transport=httpx.MockTransport(echo)) as client:
            with pytest.raises(dbllm.AuthenticationError, match="AADSTS7000215") as caught:
                await client.request("GET", ME)
            assert "canary" not in str(caught.value)

    way.run(body)


def test_the_real_sdk_gets_one_places_values_and_neither_environment_nor_file(
    light: Any, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("databricks.sdk")
    import warnings

    workspace = light()
    (environment / ".databrickscfg").write_text(f"[DEFAULT]\nhost = {B}\ntoken = foreign\n")
    monkeypatch.setenv("DATABRICKS_TOKEN", "foreign")
    monkeypatch.setenv("DATABRICKS_HOST", B)
    values = {name: Secret(value) if "secret" in name else value for name, value in workspace.principal.items()}
    fetch = official_sdk("oauth-m2m", workspace.host, values, "a test")
    with warnings.catch_warnings(), dbllm.Client(workspace.host, "t") as client:
        warnings.simplefilter("ignore")  # the SDK's own
        lease = drive(fetch(client._core._transport.leaf, float("inf")))
    token = lease.headers["authorization"].removeprefix("Bearer ")
    assert token in workspace.oidc._ends


def test_importing_dbllm_imports_neither_the_sdk_nor_what_is_rare() -> None:
    import subprocess

    program = (
        "import sys, dbllm; print([m for m in ('databricks.sdk', 'truststore', 'subprocess', 'typer', 'tenacity') "
        "if m in sys.modules])"
    )
    root = str(Path(dbllm.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env={**os.environ, "PYTHONPATH": root})
    assert done.stdout.decode().strip() in ("[]", "['subprocess']"), done.stderr.decode()
