"""What stands where something else belongs: exchanged arguments, other types, placeholders, spellings, absent files."""

from __future__ import annotations

import pwd
import re
import uuid
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest

import dbllm
from dbllm import ConfigError
from dbllm._auth.config import resolve
from dbllm._auth.redaction import hide_tokens, repr_or_mask

W = "https://w.cloud.databricks.com"
HEX = "0123456789abcdef0123456789abcdef"
TOKENS = [
    f"dapi{HEX}",
    f"dapi{HEX}-2",
    "dapi-local",
    f"dkea{HEX}",
    f"dose{HEX}",
    "doau0123456789abcdef",
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjMifQ.c2lnbmF0dXJl",
    HEX,
    str(uuid.UUID(int=1 << 100)),
    "AbCdEf0123GhIjKlMnOp",
    "Xy9z" * 20,
    "sk-proj-abcdefghijklmnop12",
]
HOSTS = [
    "localhost",
    "dapi.example.com",
    "dapi-gateway.example.com",
    "dbc-a1b2345c-d6e7.cloud.databricks.com",
    "adb-1234567890123456.7.azuredatabricks.net",
    f"{HEX}.serving.cloud.databricks.com",
    "databricks-gateway",
    "workspace-proxy-production",
    "workspaceproduction2024",
    "x_y.example.com",
]


def test_no_token_is_taken_for_a_host_and_no_host_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for token in TOKENS:
        ways: list[tuple[dict[str, Any], dict[str, str]]] = [
            ({"host": token, "token": W}, {}),
            ({"host": token}, {}),
            ({"host": f"https://{token}", "token": "t"}, {}),
            ({}, {"DATABRICKS_HOST": token, "DATABRICKS_TOKEN": W}),
        ]
        for arguments, variables in ways:
            with monkeypatch.context() as changed:
                for name, value in variables.items():
                    changed.setenv(name, value)
                try:
                    taken.append(dbllm.Client(**arguments))
                except ConfigError as error:
                    name = "DATABRICKS_HOST" if variables else "the argument host="
                    assert str(error).startswith(name)  # noqa: PT017
                    assert token not in str(error)  # noqa: PT017
                    assert "exchanged" in str(error)  # noqa: PT017
    assert taken == []
    for host in HOSTS:
        assert dbllm.Client(host, "t").host.endswith(f"//{host}")


@pytest.mark.parametrize("address", [W, "w.azuredatabricks.net", "http://localhost:8914", "127.0.0.1:8914"])
def test_an_address_is_no_token(address: str) -> None:
    for arguments in ({"host": "hunter2"}, {"host": "a.example.com"}, {"host": W}):
        with pytest.raises(ConfigError, match="exchanged") as caught:
            dbllm.Client(token=address, **arguments)
        assert "hunter2" not in str(caught.value)


def test_what_is_no_str_is_refused_by_name_and_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://env.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "environment-token")
    dropped = []
    for value in (Path("/x"), b"https://w", 5, 1.5, True, ["a"], {"a": 1}, object(), pydantic.SecretBytes(b"x")):
        for name in ("host", "token", "profile", "auth_type", "client_id", "client_secret"):
            pair = {"client_id": "i", "client_secret": "s"} if name.startswith("client") else {"token": "t"}
            try:
                dropped.append(dbllm.Client(**{"host": W, **pair, name: value}).host)
            except ConfigError as error:
                kind = "bytes" if isinstance(value, pydantic.SecretBytes) else type(value).__name__
                assert re.match(f"the argument {name}= must be a str( or a function.*)?, got {kind}", str(error))  # noqa: PT017
    assert dropped == []


@pytest.mark.parametrize(
    "host", [pydantic.HttpUrl(W), pydantic.AnyUrl(W), httpx.URL(W), httpx.URL(f"{W}/?o=1"), pydantic.SecretStr(W)]
)
def test_a_url_of_another_library_is_a_host(host: Any) -> None:
    assert dbllm.Client(host, "t").host == W


def test_a_secret_str_is_taken_wherever_a_str_is_meant(environment: Path) -> None:
    secret = pydantic.SecretStr
    (environment / ".databrickscfg").write_text(f"[dev]\nhost = {W}\ntoken = t\n")
    made: list[dict[str, Any]] = [
        {"host": W, "token": secret("dapi-x")},
        {"host": W, "token": lambda: secret("dapi-x")},
        {"host": W, "client_id": secret("i"), "client_secret": secret("s")},
        {"profile": secret("dev")},
        {"host": W, "token": "t", "auth_type": secret("pat")},
    ]
    for arguments in made:
        answer = httpx.MockTransport(lambda request: httpx.Response(200, json=request.headers["authorization"]))
        with dbllm.Client(transport=answer, **arguments) as client:
            assert client.host == W
            if "client_id" not in arguments:
                token = "dapi-x" if "token" in arguments and "auth_type" not in arguments else "t"
                assert client.request("GET", "/") == f"Bearer {token}"


PLACEHOLDERS = ['"{}"', "'{}'", "`{}`", "<{}>", "[{}]", "${{{}}}", "${}", "%{}%", "{{{{secrets/s/{}}}}}", "Bearer {}"]


def test_a_token_with_something_around_it_is_refused_by_name_before_it_is_sent(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    transport = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(200))  # type: ignore[func-returns-value]
    for around in PLACEHOLDERS:
        wrong = around.format("dapi0123")
        (environment / ".databrickscfg").write_text(f"[dev]\nhost = {W}\ntoken = {wrong}\n")
        with monkeypatch.context() as changed:
            changed.setenv("DATABRICKS_HOST", W)
            changed.setenv("DATABRICKS_TOKEN", wrong)
            for arguments, name in (
                ({"host": W, "token": wrong}, "the argument token="),
                ({"host": W, "client_id": "i", "client_secret": wrong}, "the argument client_secret="),
                ({}, "DATABRICKS_TOKEN"),
                ({"profile": "dev"}, "token of profile [dev] of ~/.databrickscfg"),
                ({"host": W, "token": lambda wrong=wrong: wrong}, "the token that the function returned"),
            ):
                with (
                    pytest.raises(ConfigError, match=re.escape(name)) as caught,
                    dbllm.Client(transport=transport, **arguments) as client,  # type: ignore[arg-type]
                ):
                    client.request("GET", "/")
                assert "dapi0123" not in str(caught.value)
    assert sent == []


def test_what_a_message_quotes_is_never_what_may_hold_a_credential() -> None:
    for harmless in ("dev", "my profile", "oauth-m2m", "/opt/databricks cli/databricks", "C:\\x.exe", "Größe"):
        assert repr_or_mask(harmless) == repr(harmless)
    for swallowed in (
        *(f"dev {token}" for token in TOKENS),
        "dev\ntoken = x",
        "dev password: hunter2",
        "pat;DATABRICKS_CLIENT_SECRET=hunter2",
        "pat,ARM_CLIENT_SECRET = hunter2",
        "x" * 5000,
    ):
        assert repr_or_mask(swallowed) == "(not shown: it may hold a credential)", swallowed
    assert hide_tokens(f"Error: {TOKENS[0]} has expired") == "Error: *** has expired"


# --- spellings and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["pat", "PAT", "Pat", '"pat"', "'PAT'", " pat "])
def test_auth_type_is_read_as_people_write_it(written: str, environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[dev]\nhost = {W}\ntoken = t\nauth_type = {written}\n")
    assert resolve(None, None, "dev", env={}, home=environment).kind == "pat"
    assert resolve(W, "t", None, env={}, auth_type=written).kind == "pat"


@pytest.mark.parametrize("written", ["oauth-m2m", "oauth_m2m", "OAUTH_M2M", '"oauth-m2m"'])
def test_the_kind_that_auth_type_names_wins_however_it_is_written(written: str, environment: Path) -> None:
    pair = {"DATABRICKS_CLIENT_ID": "i", "DATABRICKS_CLIENT_SECRET": "s", "DATABRICKS_TOKEN": "t"}
    env = {"DATABRICKS_HOST": W, **pair, "DATABRICKS_AUTH_TYPE": written}
    assert resolve(None, None, None, env=env, home=environment).kind == "oauth-m2m"
    rows = f"host = {W}\ntoken = t\nclient_id = i\nclient_secret = s\nauth_type = {written}"
    (environment / ".databrickscfg").write_text(f"[DEFAULT]\n{rows}\n")
    assert resolve(None, None, None, env={}, home=environment).kind == "oauth-m2m"


def test_an_auth_type_of_a_profile_that_is_unknown_is_named(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[dev]\nhost = {W}\ntoken = t\nauth_type = oauth9\n")
    with pytest.raises(
        ConfigError, match=r"auth_type 'oauth9' \(from profile \[dev\].* is not known. There are: azure"
    ):
        resolve(None, None, "dev", env={}, home=environment)


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t\n"])
def test_a_line_break_at_the_end_of_a_variable_is_not_part_of_it(end: str, environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[dev]\nhost = {W}\ntoken = t\n")
    env = {"DATABRICKS_CONFIG_PROFILE": f"dev{end}", "DATABRICKS_CONFIG_FILE": f"{environment}/.databrickscfg{end}"}
    assert resolve(None, None, None, env=env, home=environment).host == W


def test_a_file_without_the_profile_that_is_looked_for_names_those_it_has(environment: Path) -> None:
    (environment / ".databrickscfg").write_text(f"[dev]\nhost = {W}\ntoken = t\n[prod]\nhost = {W}\n")
    for host in (None, W):
        with pytest.raises(
            ConfigError, match=r"~/.databrickscfg has: dev, prod. Choose one with profile= or"
        ) as caught:
            resolve(host, None, None, env={}, home=environment)
        assert "DATABRICKS_CONFIG_PROFILE" in str(caught.value)


def test_a_config_file_that_is_not_there_is_named(environment: Path) -> None:
    env = {"DATABRICKS_CONFIG_FILE": "/nowhere/cfg"}
    for host, profile in ((None, None), (W, None), (None, "dev")):
        with pytest.raises(ConfigError, match="here is no file /nowhere/cfg"):
            resolve(host, None, profile, env=env, home=environment)
    assert resolve(W, "t", None, env=env, home=environment).host == W


def test_without_a_home_folder_all_works_that_needs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(_: int) -> Any:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert dbllm.Client(W, "t").host == W
    both = {"DATABRICKS_HOST": W, "DATABRICKS_TOKEN": "t"}
    assert resolve(None, None, None, env=both).host == W
    (tmp_path / "cfg").write_text(f"[dev]\nhost = {W}\ntoken = t\n")
    assert resolve(None, None, "dev", env={"DATABRICKS_CONFIG_FILE": str(tmp_path / "cfg")}).host == W
    with pytest.raises(ConfigError, match="no workspace host is configured"):
        resolve(None, None, None, env={})
    with pytest.raises(ConfigError, match="no credentials are configured"):
        resolve(W, None, None, env={})
    for env in ({}, {"DATABRICKS_CONFIG_FILE": "~/cfg"}):
        with pytest.raises(ConfigError, match=r"has no home folder: set HOME or DATABRICKS_CONFIG_FILE"):
            resolve(None, None, "dev", env=env)


def test_the_variable_of_the_command_line_tool_is_the_one_that_databricks_documents(
    environment: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="databricks_cli_path must be a program that can be run, got '/no/such'"):
        resolve(W, None, None, env={"DATABRICKS_CLI_PATH": "/no/such"}, home=environment)


# --- the Databricks CLI -----------------------------------------------------------------------------------------------

GOOD = '{"access_token": "cli-token", "expiry": "2999-01-01T00:00:00Z"}'
CLI_WORKS = {
    "nothing else": f"echo '{GOOD}'",
    "a warning before it": f"echo 'Warn: a new version is available {{0.299}}'; echo '{GOOD}'",
    "a warning of two lines, in braces": f"printf '{{not json}}\\n  {{neither\\n'; echo '{GOOD}'",
    "advice after it": f"echo '{GOOD}'; echo 'See https://docs.databricks.com'",
    "warnings beside it": f"echo 'Error: never mind' >&2; echo '{GOOD}'",
    "a byte order mark": f"printf '\\357\\273\\277'; echo '{GOOD}'",
    "over several lines": 'printf \'{\\n  "access_token": "cli-token",\\n  "expiry": "2999-01-01T00:00:00Z"\\n}\\n\'',
}
LEGACY = """echo "Usage: databricks [OPTIONS] COMMAND [ARGS]..." >&2
echo "Try 'databricks -h' for help." >&2
echo "Error: No such command 'auth'." >&2
exit 2"""
CLI_FAILS = {
    LEGACY: "is the old Python version of the Databricks CLI.* Install version 0.205 or newer",
    'echo \'Error: unknown command "auth" for "databricks"\' >&2; exit 1': "is the old Python version",
    "echo 'Warn: new version' >&2; echo 'Error: refresh token is expired' >&2; exit 1": "refresh token is expired",
    "echo 'error: no login' >&2; echo 'Try databricks auth login' >&2; exit 1": "no token: error: no login",
    "echo 'no login here' >&2; exit 1": "no token: no login here",
    "echo 'WARNING: only this' >&2; exit 1": "no token: WARNING: only this",
    "echo 'Error: on stdout'; exit 1": "no token: Error: on stdout",
    f"echo 'Error: dapi{HEX} was refused' >&2; exit 1": r"no token: Error: \*\*\* was refused",
    "exit 3": "no token: it failed",
    "echo 'hello {'": "the answer of the Databricks CLI has no token in it",
    "echo '{\"expiry\": 1}'": "the answer of the Databricks CLI has no token in it",
}


def _ask_the_cli(way: Any, folder: Path, script: str) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "databricks").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "databricks").chmod(0o755)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=request.headers["authorization"])

    async def body() -> Any:
        async with way.client("http://127.0.0.1:9", transport=httpx.MockTransport(answer)) as client:
            return await client.request("GET", "/")

    return way.run(body)


def test_what_comes_before_and_after_the_answer_of_the_command_does_no_harm(way: Any, tmp_path: Path) -> None:
    got = {name: _ask_the_cli(way, tmp_path / "bin", script) for name, script in CLI_WORKS.items()}
    assert set(got.values()) == {"Bearer cli-token"}, got


def test_of_what_the_command_says_the_line_that_tells_why_is_shown(way: Any, tmp_path: Path) -> None:
    for script, said in CLI_FAILS.items():
        with pytest.raises(dbllm.AuthenticationError, match=said):
            _ask_the_cli(way, tmp_path / "bin", script)
