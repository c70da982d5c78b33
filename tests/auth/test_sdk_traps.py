"""What users of the official SDK and of LangChain's adapter stumble over, and that it is otherwise here.

Each trap and the test that shows it is not one here; those not in this file are in the one that is named.

The sources
- the file is skipped entirely where a host is in the environment:
  test_the_default_profile_is_found_for_an_environment_host_that_is_its_own
- an environment's token goes to a named profile's host:
  test_an_environment_token_is_not_sent_to_a_named_profiles_host
- an explicit argument beside another kind in the environment is "more than one authorization method":
  test_several_kinds_of_auth_at_once_are_no_error
- ARM_USE_MSI=false alone is a kind of auth: test_several_kinds_of_auth_at_once_are_no_error
- a boolean is true as soon as it is written, `false` too: test_false_is_false
- skip_verify is read and never used:
  test_tls_and_proxies.py: test_a_profile_that_skips_verification_does_so_for_its_own_host_only
- a source that raises ends the search: test_a_source_that_is_broken_does_not_hide_those_after_it
- logins are tried by starting their programs, at the construction: test_making_a_client_starts_no_program

The file
- a comment behind a value becomes part of the token: test_a_comment_behind_a_token_is_refused_not_sent
- a section that stands twice is an error of configparser's: test_a_duplicate_section_is_an_error_of_ours_with_its_line
- [DEFAULT] is inherited and % interpolated by a plain parser:
  test_the_default_section_passes_nothing_on_and_a_percent_sign_is_one
- keys are written in upper case, and with a colon:
  test_the_default_section_passes_nothing_on_and_a_percent_sign_is_one
- default_profile of [__settings__] names the default, and [__settings__] is no profile:
  test_the_settings_name_the_default_profile_and_are_none
- a profile that is missing is a ValueError that names no other:
  test_a_missing_profile_is_told_with_those_that_there_are

The host
- a query, a fragment, a port, upper case or brackets break every call:
  test_a_host_survives_the_ways_in_which_people_write_it
- letters of "https://" are eaten from the name (LangChain): test_a_host_survives_the_ways_in_which_people_write_it
- a path is kept, and every call ends at the wrong place: test_a_path_behind_the_host_is_refused
- a wrong host hangs for five minutes: test_a_wrong_host_fails_within_its_timeout_instead_of_hanging
- a redirect to a login page is taken for an answer: test_a_redirect_to_a_login_page_is_an_error_and_no_answer

OAuth
- every construction asks for discovery, of a token too:
  test_making_a_client_sends_nothing_and_a_pat_asks_for_no_discovery
- without the first discovery document a service principal gets "Invalid URL 'None'":
  test_oauth.py: test_discovery_is_asked_once_and_a_host_without_it_has_the_usual_token_endpoint
- a refusal without a content type is a KeyError: test_a_refusal_without_a_content_type_is_told
- an answer without expires_in or token_type is a KeyError:
  test_oauth.py: test_an_answer_that_is_no_token_says_what_is_wrong_with_it_and_shows_none_of_it
- a token request has no timeout: test_refresh.py: test_a_token_request_ends_with_the_deadline_of_its_call
- a token request is never tried again:
  test_oauth.py: test_a_token_request_that_fails_for_the_moment_is_tried_again_as_the_call_never_left
- "Token is expiring within 30 seconds": test_refresh.py:
  test_the_stale_window_is_forty_seconds_or_a_fifth_of_a_short_life,
  test_only_a_401_or_403_that_says_expired_forces_a_refresh
- a failed refresh is told to callers whose token still serves: test_refresh.py:
  test_a_failed_refresh_costs_nobody_a_call_while_the_old_token_serves_and_rests_before_the_next_try
- refreshes race each other: test_refresh.py:
  test_only_an_expired_token_makes_callers_wait_and_they_share_one_refresh

The rest
- only `authorization` is copied from the credentials of Azure and GCP:
  test_all_headers_of_the_sdks_credentials_are_sent_and_only_one_places_values_go_in
- the SDK's blocking requests hold an event loop up: test_the_sdks_credentials_do_not_hold_the_loop_up
- a notebook's token is kept from the start on:
  test_resolution_table.py: test_in_a_notebook_the_token_is_read_again_for_every_request
- model serving's flag has to be "true" to the letter: test_model_servings_flag_is_read_as_people_write_it
- there is no way to name a CA bundle or a client certificate: test_tls_and_proxies.py:
  test_a_ca_file_is_trusted_and_without_it_the_certificate_is_not,
  test_a_client_certificate_is_shown_to_a_server_that_wants_one
- importing it takes long: test_importing_dbllm_imports_neither_the_sdk_nor_what_is_rare
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

import dbllm
from dbllm._auth.config import normal_host, resolve
from dbllm._auth.external_tokens import official_sdk
from dbllm._auth.redaction import Secret
from dbllm._backends.backend import run_without_loop

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
        assert time.monotonic() - began < 15

    way.run(body)


def test_a_redirect_to_a_login_page_is_an_error_and_no_answer(way: Any) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": f"{A}/login.html?error=private-link-validation-error"})

    async def body() -> None:
        async with way.client(A, "t", transport=httpx.MockTransport(answer)) as client:
            with pytest.raises(dbllm.APIStatusError, match="follows no redirect"):
                await client.request("GET", ME)

    way.run(body)


def test_the_table_above_names_tests_that_there_are() -> None:
    text = "".join(file.read_text("utf-8").split('"""', 2)[2] for file in Path(__file__).parent.glob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))
    named = set(re.findall(r"\b(test_\w+)(?!\w|\.py)", __doc__ or ""))
    assert len(named) > 25
    assert named <= there


@pytest.mark.parametrize("broken", ["notebook", "serving"])
def test_a_source_that_is_broken_does_not_hide_those_after_it(
    broken: str, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("dbruntime.databricks_repl_context")  # of another year: it has not what is looked for
    monkeypatch.setitem(sys.modules, "dbruntime", ModuleType("dbruntime"))
    monkeypatch.setitem(sys.modules, "dbruntime.databricks_repl_context", module)
    env = {
        "notebook": {"DATABRICKS_RUNTIME_VERSION": "99"},
        "serving": {"IS_IN_DB_MODEL_SERVING_ENV": "true", "SERVING_CREDENTIALS_DIR": str(tmp_path / "none")},
    }
    program(tmp_path, "exit 1")
    given = {"PATH": str(tmp_path / "bin"), "DATABRICKS_HOST": A, **env[broken]}
    assert found(environment, **given).kind == "databricks-cli"


def program(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name in ("databricks", "az"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)


def test_making_a_client_starts_no_program(way: Any, tmp_path: Path) -> None:
    program(tmp_path, f"echo started >> {tmp_path}/started; exit 1")

    async def body() -> None:
        async with way.client("http://127.0.0.1:9", retry=dbllm.Retry(attempts=1)) as client:
            assert client.config.kind == "databricks-cli"
            assert not (tmp_path / "started").exists()
            with pytest.raises(dbllm.AuthenticationError):
                await client.request("GET", ME)
            assert (tmp_path / "started").exists()

    way.run(body)


def test_the_settings_name_the_default_profile_and_are_none(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(
        f"[__settings__]\ndefault_profile = dev\n[DEFAULT]\nhost = {B}\ntoken = b\n[dev]\nhost = {A}\ntoken = a\n"
    )
    assert sent(found(environment)) == "Bearer a"
    with pytest.raises(dbllm.ConfigError, match="has no profile '__settings__'; it has: DEFAULT, dev"):
        found(environment, "__settings__")


def test_a_missing_profile_is_told_with_those_that_there_are(environment: Path) -> None:
    (environment / ".databrickscfg").write_text("[dev]\ntoken = t\n[prod]\ntoken = t\n")
    with pytest.raises(dbllm.ConfigError, match="has no profile 'test'; it has: dev, prod"):
        found(environment, "test")


@pytest.mark.parametrize("written", [f"{A}/ml/endpoints?o=1", f"{A}/api/2.0", "a.example.com/serving-endpoints"])
def test_a_path_behind_the_host_is_refused(written: str) -> None:
    with pytest.raises(dbllm.ConfigError, match=f"give only the part before it: {A}"):
        normal_host(written)


def test_a_refusal_without_a_content_type_is_told(way: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/token"):
            return httpx.Response(404)
        return httpx.Response(401, content=b'{"error": "invalid_client", "error_description": "unknown principal"}')

    async def body() -> None:
        principal = {"client_id": "i", "client_secret": "s", "transport": httpx.MockTransport(answer)}
        async with way.client(A, **principal, retry=dbllm.Retry(attempts=1)) as client:
            with pytest.raises(dbllm.AuthenticationError, match="unknown principal"):
                await client.request("GET", ME)

    way.run(body)


@pytest.mark.parametrize(
    ("word", "kind"), [("true", "model-serving"), ("True", "model-serving"), ("1", "model-serving")]
)
def test_model_servings_flag_is_read_as_people_write_it(
    word: str, kind: str, environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "model-dependencies-oauth-token").write_text("{}")
    env = {"SERVING_CREDENTIALS_DIR": str(tmp_path), "DB_MODEL_SERVING_HOST_URL": A}
    assert found(environment, IS_IN_DB_MODEL_SERVING_ENV=word, **env).kind == kind
    with pytest.raises(dbllm.ConfigError, match="no workspace host"):
        found(environment, IS_IN_DB_MODEL_SERVING_ENV="false", **env)


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
    monkeypatch.setattr("dbllm._auth.external_tokens.is_sdk_installed", lambda: True)
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
        is_httpx_patched = stalls()
        watcher = asyncio.create_task(is_httpx_patched.watch())
        async with dbllm.AsyncClient(transport=httpx.MockTransport(echo)) as client:
            await client.request("GET", ME)
        watcher.cancel()
        return float(is_httpx_patched.worst)

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
        lease = run_without_loop(fetch(client._core._transport.backend, float("inf")))
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
