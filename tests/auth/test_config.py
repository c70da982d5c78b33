"""Which workspace and which token: the address, the rules, the file; a token never goes where it does not belong."""

from __future__ import annotations

import itertools
import traceback
from pathlib import Path
from typing import Any

import pytest

import dbllm
from dbllm import ConfigError
from dbllm._auth.config import Config, normal_host, resolve
from dbllm._auth.profile import read_profile
from dbllm._auth.redaction import Secret
from dbllm._backends.backend import run_without_loop
from dbllm._backends.blocking import SyncBackend

CANARY = "dapi-canary"

# --- the address ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("https://h.com", "https://h.com"),
        ("h.com", "https://h.com"),
        ("https://h.com/", "https://h.com"),
        ("  https://h.com\n", "https://h.com"),
        ("HTTPS://H.COM", "https://h.com"),
        ("https://h.com:443", "https://h.com"),
        ("h.com:443", "https://h.com"),
        ("https://h.com:8443", "https://h.com:8443"),
        ("https://h.com:", "https://h.com"),
        ("h.com:80", "https://h.com:80"),
        ("https://h.com/?o=123", "https://h.com"),
        ("https://h.com?o=123", "https://h.com"),
        ("h.com/?o=123", "https://h.com"),
        ("https://h.com/?o=123#setting/clusters", "https://h.com"),
        ("https://h.com/#job/1", "https://h.com"),
        ("https://[::1]:443/", "https://[::1]"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("localhost:8080", "http://localhost:8080"),
        ("http://localhost", "http://localhost"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("https://localhost", "https://localhost"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://127.0.0.2", "http://127.0.0.2"),
        ("a.localhost", "http://a.localhost"),
        # names that begin with letters of "https://", which a careless strip would eat
        ("training.cloud.databricks.com", "https://training.cloud.databricks.com"),
        ("https://prod-x.net", "https://prod-x.net"),
        ("https://spt.h", "https://spt.h"),
        ("https-h.com", "https://https-h.com"),
        ("http.com", "https://http.com"),
        ("localhost.evil.com", "https://localhost.evil.com"),
        ("127.0.0.1.evil.com", "https://127.0.0.1.evil.com"),
    ],
)
def test_a_host_becomes_scheme_name_and_port(host: str, normal: str) -> None:
    assert normal_host(host) == normal
    assert normal_host(normal) == normal


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("", "host is empty: a host looks like https://"),
        ("  ", "host is empty"),
        ("https://h.com/ml/endpoints", "has a path or a query.*before it: https://h.com"),
        ("h.com/path", "has a path or a query.*before it: https://h.com"),
        ("http://127.0.0.1:8914/v1", "before it: http://127.0.0.1:8914."),
        ("localhost:8914/serving-endpoints/", "before it: http://localhost:8914."),
        ("https://h.com:8443/api/2.0", "before it: https://h.com:8443."),
        ("https://[fd00::1]:8443/x", r"before it: https://\[fd00::1\]:8443."),
        ("https://h.com/?o=1&x=2", "has a path or a query"),
        ("https://h.com?x=2", "has a path or a query"),
        ("https://u:p@h.com", "has a user name or password in it"),
        ("u@h.com", "has a user name or password in it"),
        ("https://good.com@evil.com", "has a user name or password in it"),
        ("https://good.com\\@evil.com", "has a user name or password in it"),
        ("http://h.com", "is an http address.*read on the way; use https://h.com"),
        ("http://0.0.0.0:8000", "is an http address"),
        ("http://10.0.0.1", "is an http address"),
        ("http://localhost.evil.com", "is an http address"),
        ("ftp://h.com", "no workspace address"),
        ("file:///etc/passwd", "no workspace address"),
        ("https://", "no workspace address"),
        ("https://h.com:99999", "is no address"),
        ("https://h.com:abc", "is no address"),
        ("https://[::1", "is no address"),
        ("h h", "no workspace address"),
        ("h\x00x", "no workspace address"),
        ("h.com\n.evil.com", "no workspace address"),
        ("h\tx", "no workspace address"),
        ("h,b", "no workspace address"),
        ("https://*", "no workspace address"),
        ("https://%68", "no workspace address"),
        ("https://h;x", "no workspace address"),
    ],
)
def test_what_is_no_address_of_a_workspace_is_refused(host: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        normal_host(host)


@pytest.mark.parametrize(
    "host",
    [
        f"https://h.com/?token={CANARY}",
        f"https://h.com/x?o=1&token={CANARY}",
        f"https://u:{CANARY}@h.com",
        f"https://{CANARY}@h.com:bad",
        f"{CANARY}@[h",
        f"http://{CANARY}@h.com",
        f"http://h.com?token={CANARY}",
        f"ftp://h.com/#{CANARY}",
    ],
)
def test_a_secret_inside_a_host_is_not_shown(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normal_host(host)
    assert CANARY not in str(caught.value)


# --- the rules --------------------------------------------------------------------------------------------------------

FILE = """
[DEFAULT]
host = https://default.com
token = t-default

[p]
host = https://p.com/
token = t-p
cluster_id = c-p

[no-host]
token = t-no-host

[no-token]
host = https://no-token.com
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".databrickscfg").write_text(FILE)
    return tmp_path


def env(host: str | None = None, token: str | None = None, profile: str | None = None) -> dict[str, str]:
    given = {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": token, "DATABRICKS_CONFIG_PROFILE": profile}
    return {name: value for name, value in given.items() if value is not None}


def sent(found: Config) -> str:
    """The token that goes over the wire."""
    backend = SyncBackend(found.host, 1, None, None, None)
    return run_without_loop(found.auth.headers(backend, float("inf")))["authorization"].removeprefix("Bearer ")


NOTHING: tuple[None, None, None] = (None, None, None)
A, E, P, D = "https://arg.com", "https://env.com", "https://p.com", "https://default.com"

RULES: list[tuple[tuple[Any, Any, Any], tuple[Any, Any, Any], tuple[str, str] | str]] = [
    # (host, token, profile) as arguments, the same from the environment, (host, token) used or a part of the message
    (NOTHING, NOTHING, (D, "t-default")),
    ((A, "t-arg", None), NOTHING, (A, "t-arg")),
    ((A, "t-arg", None), (E, "t-env", "p"), (A, "t-arg")),
    ((A, "t-arg", None), (None, None, "gone"), (A, "t-arg")),
    ((A, "t-arg", "p"), NOTHING, (A, "t-arg")),
    (NOTHING, (E, "t-env", None), (E, "t-env")),
    (NOTHING, (E, "t-env", "p"), (E, "t-env")),
    (NOTHING, (E, "t-env", "gone"), (E, "t-env")),
    ((A, None, None), (None, "t-env", None), (A, "t-env")),
    ((E, None, None), (E, "t-env", None), (E, "t-env")),
    (("env.com:443", None, None), (E + "/", "t-env", None), (E, "t-env")),
    ((None, "t-arg", None), (E, None, None), (E, "t-arg")),
    ((None, "t-arg", None), (E, "t-env", None), (E, "t-arg")),
    ((None, "t-arg", None), NOTHING, (D, "t-arg")),
    ((None, "t-arg", "p"), (E, "t-env", None), (P, "t-arg")),
    ((None, None, "p"), NOTHING, (P, "t-p")),
    ((None, None, "p"), (E, "t-env", None), (P, "t-p")),
    ((None, None, "p"), (None, "t-env", None), (P, "t-p")),
    ((None, None, "p"), (E, "t-env", "no-host"), (P, "t-p")),
    ((P, None, "p"), (E, "t-env", None), (P, "t-p")),
    (("p.com", None, "p"), NOTHING, (P, "t-p")),
    (NOTHING, (None, None, "p"), (P, "t-p")),
    (NOTHING, (None, "t-env", "p"), (P, "t-p")),
    (NOTHING, (None, "t-env", None), (D, "t-default")),
    ((D, None, None), NOTHING, (D, "t-default")),
    ((A, None, "no-host"), NOTHING, (A, "t-no-host")),
    ((A, None, "no-host"), (E, "t-env", None), (A, "t-no-host")),
    # never mixed
    ((A, None, None), NOTHING, f"belong to {D}"),
    ((A, None, None), (E, "t-env", None), f"of the environment .* belong to {E}"),
    ((A, None, None), (E, None, None), "no credentials are configured for https://arg.com"),
    ((A, None, "p"), NOTHING, r"profile \[p\].*belong to https://p.com"),
    ((A, None, "p"), (E, "t-env", None), r"profile \[p\].*belong to https://p.com"),
    ((A, None, "p"), (A, "t-env", None), r"profile \[p\].*belong to https://p.com"),
    (NOTHING, (E, None, None), f"belong to {D}"),
    (NOTHING, (E, None, "p"), "belong to https://p.com"),
    (("https://env.com:8443", None, None), (E, "t-env", None), f"belong to {E}"),
    (("https://sub.env.com", None, None), (E, "t-env", None), f"belong to {E}"),
    # missing
    ((None, None, "no-token"), (E, "t-env", None), "no credentials are configured for https://no-token.com"),
    ((None, None, "no-token"), (None, "t-env", None), "no credentials are configured"),
    ((None, None, "no-host"), (E, "t-env", None), r"\[no-host\] of .* has no host: write host = "),
    ((None, None, "gone"), (E, "t-env", None), "has no profile 'gone'; it has: DEFAULT, p, no-host, no-token"),
    (NOTHING, (None, None, "gone"), "has no profile 'gone'"),
    (("", None, None), (E, "t-env", None), "host= is empty"),
    ((A, "", None), (A, "t-env", None), "token= is empty"),
    ((None, None, ""), (E, "t-env", None), "profile= is empty"),
]


@pytest.mark.parametrize(("arguments", "environment", "outcome"), RULES)
def test_arguments_environment_and_profile_are_never_mixed(
    home: Path, arguments: tuple[Any, Any, Any], environment: tuple[Any, Any, Any], outcome: tuple[str, str] | str
) -> None:
    if isinstance(outcome, str):
        with pytest.raises(ConfigError, match=outcome) as caught:
            resolve(*arguments, env=env(*environment), home=home)
        assert "t-" not in str(caught.value).replace("no-token", "").replace(str(home), "").replace("no-host", "")
    else:
        found = resolve(*arguments, env=env(*environment), home=home)
        assert (found.host, sent(found)) == outcome


OWNERS = {"t-env": "environment", "t-default": D, "t-p": P, "t-no-host": "anywhere", "t-arg": "anywhere"}


def test_in_every_combination_a_token_goes_only_to_its_own_host(home: Path) -> None:
    hosts = [None, A, E, P, D]
    backend = SyncBackend(A, 1, None, None, None)  # such headers ask nobody
    calls = 0
    for host, token, profile, env_host, env_token, env_profile in itertools.product(
        hosts,
        [None, "t-arg"],
        [None, "p", "no-host", "no-token"],
        hosts,
        [None, "t-env"],
        [None, "p", "no-host", "no-token"],
    ):
        case = (host, token, profile, env_host, env_token, env_profile)
        try:
            found = resolve(host, token, profile, env=env(env_host, env_token, env_profile), home=home)
        except ConfigError as error:
            for secret in OWNERS:
                assert secret not in str(error).replace(str(home), ""), case  # noqa: PT017
            continue
        calls += 1
        assert host is None or found.host == host, case
        went = run_without_loop(found.auth.headers(backend, float("inf")))["authorization"].removeprefix("Bearer ")
        assert token is None or went == token, case
        owner = OWNERS[went]
        if owner == "environment":
            assert profile is None, case
            assert found.host == (env_host or host), case
        elif owner != "anywhere":
            assert found.host == owner, case
    assert calls > 200


def test_it_says_where_it_found_what_it_uses(home: Path) -> None:
    found = resolve(None, None, "p", env={}, home=home)
    assert found.host_from == found.auth_from == "profile [p] of ~/.databrickscfg"
    found = resolve(A, None, None, env=env(token="t-env"), home=home)
    assert (found.host_from, found.auth_from) == ("the argument host=", "DATABRICKS_TOKEN")
    assert "t-env" not in repr(found)


def test_the_cluster_comes_from_the_environment_then_from_the_profile(home: Path) -> None:
    assert resolve(None, None, "p", env={}, home=home).cluster_id == "c-p"
    assert resolve(None, None, "p", env={"DATABRICKS_CLUSTER_ID": "c-env"}, home=home).cluster_id == "c-env"
    assert resolve(A, "t", None, env={}, home=home).cluster_id is None


def test_another_file_may_be_named(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cfg"
    other.write_text("[DEFAULT]\nhost = https://other.com\ntoken = t-other\n")
    found = resolve(None, None, None, env={"DATABRICKS_CONFIG_FILE": str(other)}, home=home)
    assert (found.host, sent(found)) == ("https://other.com", "t-other")


def test_without_anything_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pass host=, set DATABRICKS_HOST.*`dbllm up`"):
        resolve(None, None, None, env={}, home=tmp_path)
    with pytest.raises(ConfigError, match=r"no credentials are configured for https://arg.com.*Pass token="):
        resolve(A, None, None, env={}, home=tmp_path)
    with pytest.raises(ConfigError, match="profile 'p' was asked for, and there is no file"):
        resolve(None, None, "p", env={}, home=tmp_path)


def test_a_broken_file_does_not_matter_where_it_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / ".databrickscfg").write_text("garbage")
    assert resolve(A, "t", None, env={}, home=tmp_path).host == A
    assert resolve(None, None, None, env=env(E, "t"), home=tmp_path).host == E


def test_a_token_function_is_taken_as_it_is(home: Path) -> None:
    def token() -> str:
        return "t"

    found = resolve(A, token, None, env={}, home=home)
    assert (found.kind, sent(found)) == ("function", "t")


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("[DEFAULT]\nhost=a\ncluster_id=b\n[x]\ntoken=t", "x", ("x", {"token": "t"})),
        ("[DEFAULT]\nhost=a", None, ("DEFAULT", {"host": "a"})),
        ("[DEFAULT]\nhost=a", "DEFAULT", ("DEFAULT", {"host": "a"})),
        ("[__settings__]\ndefault_profile = x\n[DEFAULT]\nhost=a\n[x]\nhost=b", None, ("x", {"host": "b"})),
        ("[__settings__]\ndefault_profile = x\n[x]\nhost=b\n[y]\nhost=c", "y", ("y", {"host": "c"})),
        ("[x]\nhost=a", None, ("DEFAULT", {})),
        ("", None, ("DEFAULT", {})),
        ("[x]\ntoken = t#not;a comment", "x", ("x", {"token": "t#not;a comment"})),
        ("[x]\ntoken = t;c", "x", ("x", {"token": "t;c"})),
        ("# c\n; c\n[x]\n# c\n  ; c\ntoken : t", "x", ("x", {"token": "t"})),
        ("[x]\nTOKEN = t\nHost=h", "x", ("x", {"token": "t", "host": "h"})),
        ("[x]\ntoken = %(host)s%", "x", ("x", {"token": "%(host)s%"})),
        ("[x]\ntoken = a=b:c", "x", ("x", {"token": "a=b:c"})),
        ("[x]\nskip_verify = maybe\nsomething new = 1", "x", ("x", {"skip_verify": "maybe", "something new": "1"})),
        ("[x]\ntoken =\nhost = h", "x", ("x", {"host": "h"})),
        ("[x]\r\ntoken = t\r\n", "x", ("x", {"token": "t"})),
        ("\ufeff[x]\ntoken = t", "x", ("x", {"token": "t"})),
        ("[my profile]\ntoken = t", "my profile", ("my profile", {"token": "t"})),
    ],
)
def test_the_grammar_of_the_file(
    tmp_path: Path, text: str, name: str | None, expected: tuple[str, dict[str, str]]
) -> None:
    path = tmp_path / "cfg"
    path.write_text(text, "utf-8", newline="")
    section, values = read_profile(path, name)
    shown = {key: value.reveal() if isinstance(value, Secret) else value for key, value in values.items()}
    assert (section, shown) == expected
    assert {key for key, value in values.items() if isinstance(value, Secret)} == {"token"} & values.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x]\nhost=a\n[x]\nhost=b", r"line 3: \[x\] stands twice"),
        ("[x]\nhost=a\nhost=b", r"line 3: 'host' stands twice in \[x\]"),
        ("[x]\nHOST=a\nhost=b", "line 3: 'host' stands twice"),
        (f"token={CANARY}\n[x]", "line 1: something stands before the first"),
        (f"[x]\n{CANARY}\n", "line 2: this is neither"),
        (f"[x]\nhost=a\n{CANARY}\n{CANARY}\n", "line 3, 4: this is neither"),
        (f"[x]\nhost=a\ntoken={CANARY}  # mine", r"line 3: token in \[x\] has a comment behind it"),
        ("[a]\n[__settings__]\nz=1\n[b]", "has no profile 'x'; it has: a, b"),
        ("", "has no profile 'x'; it has: none"),
    ],
)
def test_a_flaw_in_the_file_is_told_with_its_line_and_without_its_text(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cfg"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_profile(path, "x")
    assert CANARY not in str(caught.value)
    assert str(path) in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown  # the parser's own error would show the line


def test_the_settings_are_no_profile(tmp_path: Path) -> None:
    path = tmp_path / "cfg"
    path.write_text("[__settings__]\ndefault_profile = gone\n[a]\n")
    for name, said in (
        ("__settings__", "no profile '__settings__'; it has: a"),
        (None, r"no profile 'gone', which .* calls default_profile; it has: a"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_profile(path, name)


def test_a_file_that_cannot_be_read_is_an_error_and_a_missing_one_only_where_it_was_asked_for(tmp_path: Path) -> None:
    folder, bad = tmp_path / "folder", tmp_path / "bad"
    folder.mkdir()
    bad.write_bytes(b"[x]\ntoken=\xff\n")
    for path in (folder, bad):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_profile(path, None)
    assert read_profile(tmp_path / "none", None) == ("DEFAULT", {})
    with pytest.raises(ConfigError, match="no file"):
        read_profile(tmp_path / "none", "x")


# --- the client -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dbllm.Client, dbllm.AsyncClient])
def test_a_client_finds_its_workspace_in_the_environment(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "env.com/?o=1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "t-env")
    assert kind().host == E
    assert repr(kind()).startswith(f"{kind.__name__}(host={E!r}, engine=")
    with pytest.raises(ConfigError, match="belong to"):
        kind(A)


@pytest.mark.parametrize("kind", [dbllm.Client, dbllm.AsyncClient])
def test_neither_a_client_nor_what_it_makes_shows_the_token(kind: Any) -> None:
    client = kind("https://h.com", CANARY, headers={"x-key": CANARY})
    core = getattr(client, "_core", client)
    shown = [client, client.endpoint("e"), client.driver_app(7777, "c"), client.with_options(timeout=1)]
    shown += [core._config, core._options, core._transport, client.endpoint("e").stream_chat("x")]
    for thing in shown:
        assert CANARY not in repr(thing)
        assert CANARY not in str(thing)
