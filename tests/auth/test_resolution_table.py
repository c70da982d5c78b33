"""Which host and which credentials are taken, from where, and what is refused: every combination, and the words."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dbllm import Client, ConfigError
from dbllm._auth.config import Config, resolve

A, B = "https://a.example.com", "https://b.example.com"


def headers(config: Config) -> Mapping[str, str]:
    """What a kind that asks nobody sends."""
    coroutine = config.auth.headers(None, 0.0)  # type: ignore[arg-type]
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return dict(done.value)
    raise AssertionError("it waits")


@pytest.fixture
def profiles(environment: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = environment / ".databrickscfg"
        file.write_text(text)
        file.chmod(0o600)
        return environment

    return write


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    def enter(host: str = "b.example.com", token: str = "notebook-token") -> SimpleNamespace:  # noqa: S107
        context = SimpleNamespace(workspaceUrl=host, browserHostName=None, apiToken=token, clusterId="1-2-3")
        package, module = ModuleType("dbruntime"), ModuleType("dbruntime.databricks_repl_context")
        module.get_context = lambda: context  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dbruntime", package)
        monkeypatch.setitem(sys.modules, "dbruntime.databricks_repl_context", module)
        return context

    return enter


# --- every combination ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One combination; a pair is (host, kind of credentials), each may be missing."""

    argument: tuple[str | None, str | None]
    env: tuple[str | None, str | None]
    saved: tuple[str | None, str | None]
    named: str  # "", "argument" or "variable": who names the profile
    notebook: str | None


def expected(case: Case) -> tuple[str, str] | None:
    """(host, credentials) by the rule, written a second time: places in order, credentials bound to their host."""
    places = [
        ("argument", *case.argument),
        ("env", *case.env),
        ("saved", *case.saved),
        ("notebook", case.notebook, "pat"),
    ]
    if case.named == "argument":
        places = [place for place in places if place[0] in ("argument", "saved")]
    if case.notebook is None:
        places = [place for place in places if place[0] != "notebook"]
    target = next((host for _, host, _ in places if host), None)
    if target is None:
        return None
    for name, host, kind in places:
        if kind and (name == "argument" or host == target or (host is None and case.argument[0])):
            return target, f"{name} {kind}"
    return None


HOSTS, KINDS = (None, A, B), (None, "pat", "m2m")
CASES = [
    Case(argument, env, saved, named, notebook)
    for argument, env, saved, named, notebook in itertools.product(
        itertools.product(HOSTS, KINDS),
        itertools.product(HOSTS, KINDS),
        itertools.product(HOSTS, KINDS),
        ("", "argument", "variable"),
        (None, A, B),
    )
]


def _arguments(case: Case) -> dict[str, Any]:
    host, kind = case.argument
    credentials = {"pat": {"token": "argument-pat"}, "m2m": {"client_id": "argument-m2m", "client_secret": "s"}}
    return {"host": host, "token": None, **credentials.get(kind or "", {})}


def _pairs(prefix: str, host: str | None, kind: str | None, separator: str) -> dict[str, str]:
    pairs = {"pat": {"token": f"{prefix}-pat"}, "m2m": {"client_id": f"{prefix}-m2m", "client_secret": "s"}}
    return {**({"host": host} if host else {}), **pairs.get(kind or "", {})}


def _outcome(case: Case, home: Path) -> tuple[str, str] | None:
    env = {f"DATABRICKS_{name.upper()}": value for name, value in _pairs("env", *case.env, "_").items()}
    env |= {"DATABRICKS_RUNTIME_VERSION": "16"} if case.notebook else {}
    env |= {"DATABRICKS_CONFIG_PROFILE": "dev"} if case.named == "variable" else {}
    profile = "dev" if case.named == "argument" else None
    try:
        found = resolve(profile=profile, env=env, home=home, **_arguments(case))
    except ConfigError:
        return None
    if found.kind == "oauth-m2m":
        place = found.auth_from.split(" ")[0]
        names = {"the": "argument", "DATABRICKS_CLIENT_ID": "env", "profile": "saved"}
        return found.host, f"{names[place]} m2m"
    token = headers(found)["authorization"].removeprefix("Bearer ")
    return found.host, token.replace("-", " ")


def test_there_are_as_many_combinations_as_the_places_allow() -> None:
    assert len(CASES) == 9 * 9 * 9 * 3 * 3


@pytest.mark.parametrize("saved", list(itertools.product(HOSTS, KINDS)))
def test_every_combination_of_places_and_conflicts_has_the_outcome_of_the_rule(
    saved: tuple[str | None, str | None], profiles: Any, in_notebook: Any
) -> None:
    context = in_notebook(token="notebook-pat")
    values = "".join(f"{name} = {value}\n" for name, value in _pairs("saved", *saved, "").items())
    home = profiles(f"[DEFAULT]\n{values}[dev]\nx = 1\n{values}")
    for case in CASES:
        if case.saved == saved:
            context.workspaceUrl = (case.notebook or "").removeprefix("https://")
            assert _outcome(case, home) == expected(case), case


# --- every kind -------------------------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, dict[str, str]] = {
    "pat": {"token": "t"},
    "basic": {"username": "ada", "password": "lovelace"},
    "metadata-service": {"metadata_service_url": "http://127.0.0.1:9/token"},
    "oauth-m2m": {"client_id": "i", "client_secret": "s"},
    "env-oidc": {"oidc_token_env": "MY_JWT", "client_id": "i"},
    "file-oidc": {"oidc_token_filepath": "/run/jwt"},
    "azure-client-secret": {"azure_client_id": "i", "azure_client_secret": "s", "azure_tenant_id": "t"},
    "google-credentials": {"google_credentials": "{}"},
    "google-id": {"google_service_account": "me@example.com"},
}
OTHER_VARIABLES = {
    "azure_client_id": "ARM_CLIENT_ID",
    "azure_client_secret": "ARM_CLIENT_SECRET",
    "azure_tenant_id": "ARM_TENANT_ID",
    "google_credentials": "GOOGLE_CREDENTIALS",
}
LAST = ("", "runtime", "model-serving", "databricks-cli")  # what there is behind environment and profile, of host B


@dataclass(frozen=True)
class KindCase:
    """One combination of kinds; of the arguments only a host and an auth_type."""

    host: str | None
    auth_type: str | None
    env: tuple[str | None, str | None]
    saved: tuple[str | None, str | None]
    named: bool  # profile= is given
    last: str


def expected_kind(case: KindCase) -> tuple[str, str] | None:
    """(host, kind) by the rule: the first place that has the kind that is wanted, and whose host is the target."""
    places = [(case.host, None)] if case.named else [(case.host, None), case.env]
    places.append(case.saved)
    if case.last in ("runtime", "model-serving") and not case.named:
        places.append((B, case.last))
    target = next((host for host, _ in places if host), None)
    if target is None:
        return None
    wanted = [(host, kind) for host, kind in places if kind and case.auth_type in (None, kind)]
    for host, kind in wanted:
        if host == target or (host is None and case.host):
            return target, str(kind)
    there = case.last == "databricks-cli"
    if there and (case.auth_type == "databricks-cli" or (case.auth_type is None and not wanted)):
        return target, "databricks-cli"
    return None


PAIRS = [*itertools.product(HOSTS, (None, *ATTRIBUTES))]


def kind_cases(saved: tuple[str | None, str | None]) -> Iterator[KindCase]:
    for host, env, (named, last) in itertools.product(
        (None, A), PAIRS, [(False, one) for one in LAST] + [(True, LAST[-1])]
    ):
        for auth_type in dict.fromkeys((None, env[1], saved[1], last or None, "azure-client-secret")):
            yield KindCase(host, auth_type, env, saved, named, last)


@pytest.mark.parametrize("saved", PAIRS, ids=lambda saved: f"{saved[0]}-{saved[1]}")
def test_every_kind_in_every_place_has_the_outcome_of_the_rule(
    saved: tuple[str | None, str | None], profiles: Any, in_notebook: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("dbllm._auth.external_tokens.is_sdk_installed", lambda: True)
    in_notebook(B)
    (tmp_path / "model-dependencies-oauth-token").write_text("{}")
    _fake_cli(tmp_path / "bin", "exit 1")
    behind = {
        "": {},
        "runtime": {"DATABRICKS_RUNTIME_VERSION": "16"},
        "model-serving": {
            "IS_IN_DB_MODEL_SERVING_ENV": "true",
            "SERVING_CREDENTIALS_DIR": str(tmp_path),
            "DB_MODEL_SERVING_HOST_URL": B,
        },
        "databricks-cli": {"PATH": str(tmp_path / "bin")},
    }

    def written(host: str | None, kind: str | None) -> dict[str, str]:
        return {**({"host": host} if host else {}), **ATTRIBUTES.get(kind or "", {})}

    values = "".join(f"{name} = {value}\n" for name, value in written(*saved).items())
    home = profiles(f"[DEFAULT]\nx = 1\n{values}")
    for case in kind_cases(saved):
        env = {"MY_JWT": "jwt", "PATH": "", **behind[case.last]}
        for name, value in written(*case.env).items():
            env[OTHER_VARIABLES.get(name, f"DATABRICKS_{name.upper()}")] = value
        try:
            config = resolve(
                case.host, None, "DEFAULT" if case.named else None, env=env, home=home, auth_type=case.auth_type
            )
            outcome = (config.host, config.kind)
        except ConfigError:
            outcome = None
        assert outcome == expected_kind(case), case


# --- the words --------------------------------------------------------------------------------------------------------

FILE = """\
[__settings__]
default_profile = dev

[DEFAULT]
host = https://default.example.com
token = default-token

[dev]
host = https://a.example.com
token = dev-token
cluster_id = 0123-456789-abcdefgh

[principal]
host = https://b.example.com
client_id = the-principal
client_secret = dose-secret

[both]
host = https://b.example.com
token = both-token
client_id = the-principal
client_secret = dose-secret

[chosen]
host = https://b.example.com
auth_type = oauth-m2m
token = chosen-token
client_id = the-principal
client_secret = dose-secret

[person]
host = https://b.example.com
username = ada
password = lovelace # 1

[tokenless]
host = https://b.example.com
"""

FOUND: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"host": A, "token": "t"}, {}, f"host {A} from the argument host=, PAT from the argument token="),
    (
        {"token": "t"},
        {"DATABRICKS_HOST": B, "DATABRICKS_TOKEN": "e"},
        f"host {B} from DATABRICKS_HOST, PAT from the argument token=",
    ),
    ({"host": A}, {"DATABRICKS_TOKEN": "e"}, f"host {A} from the argument host=, PAT from DATABRICKS_TOKEN"),
    ({}, {"DATABRICKS_HOST": A}, f"host {A} from DATABRICKS_HOST, PAT from profile [dev] of ~/.databrickscfg"),
    ({}, {}, f"host {A} from profile [dev] of ~/.databrickscfg, PAT from profile [dev] of ~/.databrickscfg"),
    (
        {"profile": "DEFAULT"},
        {"DATABRICKS_HOST": B, "DATABRICKS_TOKEN": "e"},
        "host https://default.example.com from profile [DEFAULT] of ~/.databrickscfg, "
        "PAT from profile [DEFAULT] of ~/.databrickscfg",
    ),
    (
        {},
        {"DATABRICKS_CONFIG_PROFILE": "principal"},
        f"host {B} from profile [principal] of ~/.databrickscfg, "
        "OAuth service principal from profile [principal] of ~/.databrickscfg",
    ),
    (
        {"profile": "both"},
        {},
        f"host {B} from profile [both] of ~/.databrickscfg, PAT from profile [both] of ~/.databrickscfg",
    ),
    (
        {"profile": "chosen"},
        {},
        f"host {B} from profile [chosen] of ~/.databrickscfg, "
        "OAuth service principal from profile [chosen] of ~/.databrickscfg",
    ),
    (
        {"profile": "both", "auth_type": "oauth-m2m"},
        {},
        f"host {B} from profile [both] of ~/.databrickscfg, "
        "OAuth service principal from profile [both] of ~/.databrickscfg",
    ),
    (
        {"profile": "person"},
        {},
        f"host {B} from profile [person] of ~/.databrickscfg, "
        "user name and password from profile [person] of ~/.databrickscfg",
    ),
    (
        {"token": "t"},
        {"DATABRICKS_HOST": A, "DATABRICKS_CLIENT_ID": "i", "DATABRICKS_CLIENT_SECRET": "s", "ARM_USE_MSI": "false"},
        f"host {A} from DATABRICKS_HOST, PAT from the argument token=",
    ),
    (
        {"token": "t"},
        {"DATABRICKS_HOST": A, "DATABRICKS_AUTH_TYPE": "oauth-m2m"},
        f"host {A} from DATABRICKS_HOST, PAT from the argument token=",
    ),
    (
        {"client_id": "i", "client_secret": "s"},
        {"DATABRICKS_HOST": A, "DATABRICKS_TOKEN": "e"},
        f"host {A} from DATABRICKS_HOST, OAuth service principal from the argument client_id=",
    ),
    (
        {},
        {
            "DATABRICKS_HOST": A,
            "DATABRICKS_TOKEN": "e",
            "DATABRICKS_CLIENT_ID": "i",
            "DATABRICKS_CLIENT_SECRET": "s",
            "DATABRICKS_AUTH_TYPE": "oauth-m2m",
        },
        f"host {A} from DATABRICKS_HOST, OAuth service principal from DATABRICKS_CLIENT_ID",
    ),
    (
        {},
        {"DATABRICKS_HOST": A, "DATABRICKS_OIDC_TOKEN": "jwt", "DATABRICKS_CLIENT_ID": "i"},
        f"host {A} from DATABRICKS_HOST, OIDC federation from DATABRICKS_OIDC_TOKEN",
    ),
    (
        {},
        {"DATABRICKS_HOST": A, "DATABRICKS_METADATA_SERVICE_URL": "http://127.0.0.1:9/t"},
        f"host {A} from DATABRICKS_HOST, metadata-service from DATABRICKS_METADATA_SERVICE_URL",
    ),
]


@pytest.mark.parametrize(("arguments", "env", "sentence"), FOUND)
def test_the_config_says_in_a_sentence_what_was_taken_and_from_where(
    arguments: dict[str, Any], env: dict[str, str], sentence: str, profiles: Any
) -> None:
    given = {"host": None, "token": None, "profile": None, **arguments}
    assert str(resolve(env=env, home=profiles(FILE), **given)) == sentence


REFUSED: list[tuple[dict[str, Any], dict[str, str], list[str]]] = [
    ({}, {}, ["no workspace host is configured", "DATABRICKS_HOST", "dbllm up"]),
    ({"host": A}, {}, ["no credentials are configured", A, "token="]),
    (
        {"host": A},
        {"DATABRICKS_HOST": B, "DATABRICKS_TOKEN": "canary-e"},
        [A, f"The credentials of the environment (pat) belong to {B}, and go nowhere else."],
    ),
    ({"host": "a.example.com/", "token": ""}, {}, ["token= is empty"]),
    ({"token": "canary-t", "client_id": "i", "client_secret": "s"}, {}, ["either token=, or client_id="]),
    ({"client_id": "i"}, {"DATABRICKS_CLIENT_SECRET": "canary-s"}, ["client_id= and client_secret= together"]),
    ({"token": "canary-t", "auth_type": "oauth-m2m"}, {}, ["does not go with token="]),
    ({"host": A, "auth_type": "oauth"}, {}, ["'oauth'", "the argument auth_type=", "oauth-m2m"]),
    ({"host": A}, {"DATABRICKS_CLIENT_ID": "i"}, ["DATABRICKS_CLIENT_ID is there, but no client_secret beside it"]),
    (
        {"host": A},
        {"DATABRICKS_TOKEN": "canary-e", "DATABRICKS_AUTH_TYPE": "oauth-m2m"},
        ["of the kind oauth-m2m (from DATABRICKS_AUTH_TYPE)"],
    ),
    ({"host": A, "auth_type": "databricks-cli"}, {}, ["no `databricks` command"]),
    (
        {},
        {"DATABRICKS_HOST": "http://a.example.com"},
        ["DATABRICKS_HOST is an http address", "use https://a.example.com"],
    ),
    ({"profile": "none"}, {}, ["profile 'none'", "no file"]),
]


@pytest.mark.parametrize(("arguments", "env", "words"), REFUSED)
def test_what_cannot_be_used_is_refused_with_what_is_wrong_where_and_what_to_do(
    arguments: dict[str, Any], env: dict[str, str], words: list[str], environment: Path
) -> None:
    given = {"host": None, "token": None, "profile": None, **arguments}
    with pytest.raises(ConfigError) as caught:
        resolve(env=env, home=environment, **given)
    for word in words:
        assert word in str(caught.value)
    assert "canary" not in str(caught.value)


def test_an_environment_token_without_a_host_is_never_guessed_into_a_profiles_host(profiles: Any) -> None:
    home = profiles("[DEFAULT]\nhost = https://a.example.com\n")
    with pytest.raises(ConfigError, match=r"the environment \(pat\) belong to no host"):
        resolve(None, None, None, env={"DATABRICKS_TOKEN": "t"}, home=home)


def test_an_environment_host_is_not_mixed_with_the_default_profiles_token(profiles: Any) -> None:
    home = profiles("[DEFAULT]\nhost = https://a.example.com\ntoken = t\n")
    with pytest.raises(ConfigError, match=f"{B}.*{A}"):
        resolve(None, None, None, env={"DATABRICKS_HOST": B}, home=home)


def test_the_same_host_written_otherwise_is_the_same_host(profiles: Any) -> None:
    env = {"DATABRICKS_HOST": "https://A.example.com:443/", "DATABRICKS_TOKEN": "t"}
    assert resolve("a.example.com/?o=123", None, None, env=env).host == A


def test_the_file_is_not_even_read_where_what_is_before_it_suffices(profiles: Any) -> None:
    home = profiles("this is no profile")
    env = {"DATABRICKS_HOST": A, "DATABRICKS_TOKEN": "t", "DATABRICKS_CONFIG_PROFILE": "dev"}
    assert resolve(None, None, None, env=env, home=home).auth_from == "DATABRICKS_TOKEN"


# --- the file ---------------------------------------------------------------------------------------------------------

FLAWS = [
    ("[dev]\nhost = a.example.com\ntoken = dapi-canary # mine\n", "line 3: token in \\[dev\\] has a comment behind it"),
    ("[dev]\nhost = a.example.com\ntoken = dapi-canary ; mine\n", "line 3: token in \\[dev\\] has a comment behind it"),
    ("[dev]\nhost = a.example.com # prod\ntoken = t\n", "line 2: host in \\[dev\\]"),
    ("[dev]\nhost = a.example.com\n[dev]\ntoken = canary\n", r"line 3: \[dev\] stands twice"),
    ("[dev]\ntoken = canary\ntoken = canary\n", "line 3: 'token' stands twice"),
    ("token = canary\n", "line 1: something stands before"),
    ("[dev]\ncanary\n", "line 2: this is neither"),
    ("[__settings__]\ndefault_profile = nobody\n[dev]\ntoken = t\n", "no profile 'nobody', which .__settings__. calls"),
    ("[dev]\nhost = a.example.com\ntoken = t\nskip_verify = perhaps\n", "skip_verify of profile .dev.* 'perhaps'"),
]


@pytest.mark.parametrize(("text", "said"), FLAWS)
def test_a_flaw_in_the_file_is_told_with_its_line_and_without_its_secrets(text: str, said: str, profiles: Any) -> None:
    home = profiles(text)
    env = {} if "__settings__" in text else {"DATABRICKS_CONFIG_PROFILE": "dev"}
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(None, None, None, env=env, home=home)
    assert "canary" not in str(caught.value)
    assert ".databrickscfg" in str(caught.value)


def test_a_file_that_is_not_utf_8_or_a_folder_is_told(environment: Path) -> None:
    (environment / ".databrickscfg").write_bytes(b"[dev]\ntoken = \xff\n")
    with pytest.raises(ConfigError, match="cannot be read: it is not UTF-8"):
        resolve(None, None, "dev", env={}, home=environment)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        resolve(None, None, "dev", env={"DATABRICKS_CONFIG_FILE": str(environment)}, home=environment)


def test_a_file_that_everybody_may_read_is_warned_of_once(profiles: Any, caplog: pytest.LogCaptureFixture) -> None:
    home = profiles(FILE)
    (home / ".databrickscfg").chmod(0o644)
    for _ in range(3):
        resolve(None, None, None, env={}, home=home)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "chmod 600" in said
    assert "dev-token" not in said


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (word, word.lower() in ("true", "yes", "1", "on"))
        for word in ["true", "True", "yes", "1", "on", "false", "False", "no", "0", "off"]
    ],
)
def test_booleans_mean_what_people_write(written: str, means: bool, profiles: Any) -> None:
    home = profiles(f"[DEFAULT]\nhost = {A}\ntoken = t\nskip_verify = {written}\n")
    assert resolve(None, None, None, env={}, home=home).verify is not means


# --- the places that are no file --------------------------------------------------------------------------------------


def test_in_a_notebook_the_token_is_read_again_for_every_request(in_notebook: Any, environment: Path) -> None:
    context = in_notebook()
    config = resolve(None, None, None, env={"DATABRICKS_RUNTIME_VERSION": "16.4"}, home=environment)
    assert (config.host, config.kind) == (B, "runtime")
    assert headers(config)["authorization"] == "Bearer notebook-token"
    context.apiToken = "another"
    assert headers(config)["authorization"] == "Bearer another"


def test_the_runtimes_own_credentials_come_first_and_keep_all_their_headers(
    in_notebook: Any, monkeypatch: pytest.MonkeyPatch, environment: Path
) -> None:
    in_notebook()
    native = ModuleType("dbruntime.sdk_credential_provider")
    sent = {"Authorization": "Bearer native", "X-Databricks-Extra": "1"}
    native.init_runtime_native_auth = lambda: (A, lambda: sent)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dbruntime.sdk_credential_provider", native)
    config = resolve(None, None, None, env={"DATABRICKS_RUNTIME_VERSION": "16.4"}, home=environment)
    assert dict(headers(config)) == {"authorization": "Bearer native", "x-databricks-extra": "1"}


def test_in_model_serving_the_platforms_token_file_is_used(
    way: Any, light: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    workspace = light()
    file = tmp_path / "model-dependencies-oauth-token"
    file.write_text(f'{{"OAUTH_TOKEN": [{{"oauthTokenValue": "{workspace.identity.token}"}}]}}')
    for name, value in {
        "IS_IN_DB_MODEL_SERVING_ENV": "True",
        "SERVING_CREDENTIALS_DIR": str(tmp_path),
        "DATABRICKS_MODEL_SERVING_HOST_URL": workspace.host,
    }.items():
        monkeypatch.setenv(name, value)

    async def body() -> None:
        async with way.client() as client:
            assert client.config.kind == "model-serving"
            assert (await client.request("GET", "/api/2.0/preview/scim/v2/Me"))["active"]

    way.run(body)


def _fake_cli(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "databricks").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "databricks").chmod(0o755)


def test_the_login_of_the_databricks_command_is_the_last_place(
    way: Any, light: Any, tmp_path: Path, environment: Path
) -> None:
    workspace = light()
    content = f'{{"access_token": "{workspace.identity.token}", "expiry": "2999-01-01T00:00:00.123456789Z"}}'
    _fake_cli(tmp_path / "bin", f"echo \"$@\" > {tmp_path}/said; echo '{content}'")

    async def body() -> None:
        async with way.client(workspace.host) as client:
            assert str(client.config).endswith("CLI login from the databricks command")
            await client.request("GET", "/api/2.0/preview/scim/v2/Me")

    way.run(body)
    assert (tmp_path / "said").read_text() == f"auth token --host {workspace.host}\n"


def test_a_profile_of_a_login_asks_the_command_for_that_profile(tmp_path: Path, profiles: Any) -> None:
    _fake_cli(tmp_path / "bin", "exit 1")
    home = profiles(f"[me]\nhost = {A}\nauth_type = databricks-cli\n")
    config = resolve(None, None, "me", env={"PATH": str(tmp_path / "bin")}, home=home)
    assert (config.host, config.kind) == (A, "databricks-cli")


def test_a_login_that_has_ended_says_what_to_type(way: Any, tmp_path: Path) -> None:
    _fake_cli(tmp_path / "bin", "echo 'Error: no token cached' >&2; exit 1")

    async def body() -> None:
        async with way.client("http://127.0.0.1:9") as client:
            await client.request("GET", "/")

    with pytest.raises(Exception, match=r"no token cached.*databricks auth login --host http://127\.0\.0\.1:9"):
        way.run(body)


def test_the_command_is_not_asked_where_credentials_for_another_host_lie_around(tmp_path: Path) -> None:
    _fake_cli(tmp_path / "bin", "exit 1")
    env = {"PATH": str(tmp_path / "bin"), "DATABRICKS_HOST": B, "DATABRICKS_TOKEN": "t"}
    with pytest.raises(ConfigError, match=B):
        resolve(A, None, None, env=env)


def test_a_user_name_and_password_become_http_basic(profiles: Any) -> None:
    config = resolve(None, None, "person", env={}, home=profiles(FILE))
    assert headers(config)["authorization"] == "Basic YWRhOmxvdmVsYWNlICMgMQ=="


def test_what_needs_the_official_sdk_says_so_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbllm._auth.external_tokens.is_sdk_installed", lambda: False)
    env = {"ARM_CLIENT_ID": "i", "ARM_CLIENT_SECRET": "s", "ARM_TENANT_ID": "t"}
    with pytest.raises(ConfigError, match=r"azure-client-secret \(from the environment\).*pip install 'dbllm\[sdk\]'"):
        resolve(A, None, None, env=env)


def test_the_client_shows_its_config() -> None:
    with Client(A, "dapi-canary") as client:
        assert str(client.config) == f"host {A} from the argument host=, PAT from the argument token="
        assert "canary" not in repr(client.config)
