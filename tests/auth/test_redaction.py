"""No secret is seen anywhere: every event times every sink, and each scanner is shown to find one that is planted."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import io
import json
import logging
import os
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import rich.traceback

import dbllm
from dbllm import Retry
from dbllm._auth.redaction import RedactedMapping, Secret

PAT = "dapi-canary-personal-0001"
CLIENT_SECRET = "dose-canary-client-0002"
ACCESS = "eyJ-canary-access-0003"
PASSWORD = "canary-password-0004"
PROXY = "canary-proxy-0005"
SUBJECT = "eyJ-canary-subject-0006"
QUERY = "canary-query-0007"  # in the query of a path that the caller wrote
CANARIES = (PAT, CLIENT_SECRET, ACCESS, PASSWORD, PROXY, SUBJECT, QUERY)
ONE = Retry(attempts=1)


def forms(secret: str) -> set[str]:
    """How a secret may look where it is seen."""
    encoded = {base64.b64encode(f"{name}:{secret}".encode()).decode() for name in ("the-principal", "ada", "u")}
    return {secret, quote(secret), secret[::-1], *encoded, base64.b64encode(secret.encode()).decode()}


def hits(text: str) -> list[str]:
    return [secret for secret in CANARIES if any(form in text for form in forms(secret))]


# --- a server that misbehaves -----------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers by `mode`; hands out the canary as its access token."""

    daemon_threads = True
    mode = "good"
    token_mode = "good"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", "0"))))

    def answer(self, body: bytes) -> None:
        if self.path.startswith("/.well-known"):
            self.reply(200, {"oidc_endpoint": f"{self.server.url}/oidc"})
        elif self.path.startswith("/oidc/.well-known"):
            self.reply(200, {"token_endpoint": f"{self.server.url}/oidc/v1/token"})
        elif self.path.startswith("/oidc"):
            self.play(self.server.token_mode, body, {"access_token": ACCESS, "token_type": "Bearer", "expires_in": 60})
        else:
            self.play(self.server.mode, body, {"ok": True})

    def play(self, mode: str, body: bytes, good: Any) -> None:
        if mode == "good":
            self.reply(200, good)
        elif mode == "echo":
            said = f"{dict(self.headers)} {body.decode()} {self.path}"
            self.reply(403, {"error_code": 403, "message": said})
        elif mode == "redirect":
            self.reply(302, {}, location=f"http://elsewhere.example.com/?t={self.headers.get('authorization', '')}")
        elif mode == "cut":
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nhalf")
        elif mode == "drop":
            self.close_connection = True
        elif mode == "odd":
            self.reply(200, {"access_token": ACCESS, "token_type": "mac", "expires_in": "soon"})
        elif mode == "half":
            self.raw(200, f'{{"access_token": "{ACCESS}", "expir'.encode())
        else:
            self.reply(int(mode), {"error": "invalid_client", "error_description": "no"})

    def reply(self, status: int, content: Any, **headers: str) -> None:
        self.raw(status, json.dumps(content).encode(), **headers)

    def raw(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()
    thread.join()


# --- events: what a client is made of, and what then happens ---------------------------------------------------------


def identity(kind: str, url: str) -> dict[str, Any]:
    """Arguments of a client; all but the tokens of the first lie in the environment."""
    if kind == "pat":
        return {"host": url, "token": PAT}
    if kind == "function":
        return {"host": url, "token": lambda: PAT}
    if kind == "m2m":
        return {"host": url, "client_id": "the-principal", "client_secret": CLIENT_SECRET}
    if kind == "basic":
        os.environ.update(DATABRICKS_HOST=url, DATABRICKS_USERNAME="ada", DATABRICKS_PASSWORD=PASSWORD)
    if kind == "federation":
        os.environ.update(DATABRICKS_HOST=url, DATABRICKS_OIDC_TOKEN=SUBJECT)
    return {}


IDENTITIES = ("pat", "function", "m2m", "basic", "federation")
MODES = ("good", "echo", "redirect", "cut", "drop", "401", "403", "500", "429")
TOKEN_MODES = ("echo", "redirect", "cut", "drop", "odd", "half", "401", "500")
BROKEN: dict[str, Callable[[], Any]] = {
    "a token with a space": lambda: dbllm.Client("a.example.com", f"{PAT} "),
    "an empty profile": lambda: dbllm.Client("a.example.com", PAT, profile="none"),
    "a proxy that is none": lambda: dbllm.Client("a.example.com", PAT, proxy=f"ftp://u:{PROXY}@p.example.com"),
    "a half pair": lambda: dbllm.Client("a.example.com", client_secret=CLIENT_SECRET),
    "a bound token": lambda: dbllm.Client("a.example.com"),
    "two kinds": lambda: dbllm.Client("a.example.com", PAT, client_id="i", client_secret=CLIENT_SECRET),
    "a wrong transport": lambda: dbllm.Client("a.example.com", PAT, transport=3),
    "a host with a password": lambda: dbllm.Client(f"https://u:{PASSWORD}@a.example.com", PAT),
    "a host with a password, async": lambda: dbllm.AsyncClient(f"u:{PASSWORD}@a.example.com/?o=1", PAT),
    "an environment's host with a password": lambda: dbllm.Client(token=PAT),
    "a profile's host with a password": lambda: dbllm.Client(profile="dev"),
    "a metadata service with a password": lambda: dbllm.Client(),
}

W = "https://w.cloud.databricks.com"
AGAIN = {"host": W, "token": PAT}  # beside the setting that is wrong


def _profile(**settings: str) -> str:
    return "[dev]\n" + "".join(f"{name} = {value}\n" for name, value in {**AGAIN, **settings}.items())


# What a credential came into that is no place for one: arguments, environment, the file.
MISPLACED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "host and token exchanged": ({"host": PAT, "token": W}, {}, ""),
    "host and token exchanged, of no known form": ({"host": PASSWORD, "token": W}, {}, ""),
    "host and token exchanged, on loopback": ({"host": PASSWORD, "token": "127.0.0.1:8914"}, {}, ""),
    "host and token exchanged, without a scheme": ({"host": PASSWORD, "token": "w.azuredatabricks.net"}, {}, ""),
    "a token alone": ({"host": PAT}, {}, ""),
    "an OAuth secret alone": ({"host": CLIENT_SECRET}, {}, ""),
    "a JSON web token alone": ({"host": f"{SUBJECT}.{SUBJECT}.sig"}, {}, ""),
    "a token with a scheme": ({"host": f"https://{PAT}", "token": "t"}, {}, ""),
    "a token as the path": ({"host": f"{W}/{PAT}", "token": "t"}, {}, ""),
    "a password as the path": ({"host": f"{W}/{PASSWORD}", "token": "t"}, {}, ""),
    "a password as the port": ({"host": f"{W}:{PASSWORD}", "token": "t"}, {}, ""),
    "a password after a space": ({"host": f"{W} {PASSWORD}", "token": "t"}, {}, ""),
    "variables exchanged": ({}, {"DATABRICKS_HOST": PAT, "DATABRICKS_TOKEN": W}, ""),
    "variables exchanged, of no known form": ({}, {"DATABRICKS_HOST": PASSWORD, "DATABRICKS_TOKEN": W}, ""),
    "settings of a profile exchanged": ({"profile": "dev"}, {}, _profile(host=PAT, token=W)),
    "bytes": ({"host": W, "token": PAT.encode()}, {}, ""),
    "bytes as secret": ({"host": W, "client_id": "i", "client_secret": CLIENT_SECRET.encode()}, {}, ""),
    "a token in quotes": ({"host": W, "token": f'"{PAT}"'}, {}, ""),
    "a token in angle brackets": ({}, {"DATABRICKS_HOST": W, "DATABRICKS_TOKEN": f"<{PAT}>"}, ""),
    "a token in quotes in a profile": ({"profile": "dev"}, {}, _profile(token=f"'{PAT}'")),
    "a secret in quotes": ({"host": W, "client_id": "i", "client_secret": f"`{CLIENT_SECRET}`"}, {}, ""),
    "a token as auth_type": ({"host": W, "auth_type": PAT}, {}, ""),
    "a token as profile": ({"profile": PAT}, {}, _profile()),
    "a token as the default profile": ({}, {}, f"[__settings__]\ndefault_profile = {PAT}\n[dev]\nhost = {W}\n"),
    "the default profile": ({}, {}, f"[__settings__]\ndefault_profile = dev\n token = {PAT}\n[dev]\nhost = {W}\n"),
    "a token as the name of a profile": ({"profile": "gone"}, {}, f"[{PAT}]\nhost = {W}\n"),
    "a token as the name of a key": ({"profile": "dev"}, {}, f"[dev]\n{PAT}: 1\n{PAT}: 2\n"),
    "a profile in the environment": ({}, {"DATABRICKS_CONFIG_PROFILE": f"dev\nDATABRICKS_TOKEN={PAT}"}, _profile()),
    "a file": ({}, {"DATABRICKS_CONFIG_FILE": f"/x DATABRICKS_TOKEN={PAT}"}, ""),
}
_BESIDE = {  # what makes a setting count
    "client_id": {"client_secret": CLIENT_SECRET},
    "account_id": {"client_id": "i", "client_secret": CLIENT_SECRET},
    "discovery_url": {"client_id": "i", "client_secret": CLIENT_SECRET},
    "username": {"password": PASSWORD},
}
for _name, _value in {
    "host": W,
    "auth_type": "pat",
    "cluster_id": "0123-456789-abcdefgh",
    "client_id": "the-principal",
    "account_id": "an-account",
    "discovery_url": f"{W}/oidc",
    "username": "ada",
    "metadata_service_url": "http://127.0.0.1:9/token",
    "oidc_token_env": "MY_JWT",
    "oidc_token_filepath": "/run/jwt",
    "databricks_cli_path": "/bin/true",
}.items():
    _variable = "DATABRICKS_CLI_PATH" if _name == "databricks_cli_path" else f"DATABRICKS_{_name.upper()}"
    _rest: dict[str, str] = _BESIDE.get(_name, {"token": "t"} if _name in ("host", "auth_type", "cluster_id") else {})
    for _how in (
        f"{_value}\n  token = {PAT}",
        f"{_value}\n\tpassword = {PASSWORD}",
        f"{_value} DATABRICKS_TOKEN={PAT}",
        f"{_value};DATABRICKS_PASSWORD={PASSWORD}",
        f"{_value} {PAT}",
    ):
        _lines = "".join(f"{key} = {value}\n" for key, value in {"host": W, **_rest, _name: _how}.items())
        MISPLACED[f"{_name} of a profile: {_how!r}"] = ({"profile": "dev"}, {}, f"[dev]\n{_lines}")
        _env = {f"DATABRICKS_{key.upper()}": value for key, value in {"host": W, **_rest}.items()}
        MISPLACED[f"{_variable}: {_how!r}"] = ({}, {**_env, _variable: _how}, "")
MISPLACED["skip_verify"] = ({"profile": "dev"}, {}, _profile(skip_verify=f"true\n token = {PAT}"))
MISPLACED["skip_verify, of no known form"] = (
    {"profile": "dev"},
    {},
    _profile(skip_verify=f"true password: {PASSWORD}"),
)


@dataclasses.dataclass
class Seen:
    """What an event leaves behind."""

    client: Any = dataclasses.field(default=None, repr=False)
    error: BaseException | None = dataclasses.field(default=None, repr=False)
    logged: str = dataclasses.field(default="", repr=False)
    written: str = dataclasses.field(default="", repr=False)


# --- sinks: where it might be seen -----------------------------------------------------------------------------------


def frames_with_locals(seen: Seen) -> str:
    if seen.error is None:
        return ""
    shown = traceback.TracebackException.from_exception(seen.error, capture_locals=True)
    return "".join(shown.format())


def rich_traceback(seen: Seen) -> str:
    """What rich would draw, before it is coloured (which takes over a second)."""
    if (error := seen.error) is None:
        return ""
    options = {"show_locals": True, "locals_max_length": 999, "locals_max_string": 9999, "locals_hide_dunder": False}
    drawn = rich.traceback.Traceback.extract(type(error), error, error.__traceback__, **options)
    parts = [stack.exc_value for stack in drawn.stacks]
    for stack in drawn.stacks:
        parts += [node.render(9999) for frame in stack.frames for node in (frame.locals or {}).values()]
    return "\n".join(parts)


def pickled(seen: Seen) -> str:
    parts = []
    core = getattr(seen.client, "_core", seen.client)
    things = [seen.error, seen.client, core and core.config, core and core._transport._auth, core and core._options]
    for thing in things:
        try:
            parts.append(pickle.dumps(thing).decode("latin-1"))
        except Exception as refused:
            parts.append(repr(refused))
    return "".join(parts)


def insides(seen: Seen) -> str:
    """Reprs of everything that hangs on the client, down to what is not ours."""
    todo, done, parts = [getattr(seen.client, "_core", seen.client)], set(), []
    while todo:
        thing = todo.pop()
        if id(thing) in done or thing is None:
            continue
        done.add(id(thing))
        parts += [repr(thing), str(thing), f"{thing}"]
        if type(thing).__module__.startswith("dbllm"):
            fields = vars(thing) if hasattr(thing, "__dict__") else {}
            todo += fields.values()
            if dataclasses.is_dataclass(thing):
                todo += [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    return "\n".join(parts)


def config_as_dict(seen: Seen) -> str:
    core = getattr(seen.client, "_core", seen.client)
    return repr(dataclasses.asdict(core.config)) if core is not None else ""


def copied(seen: Seen) -> str:
    core = getattr(seen.client, "_core", seen.client)
    return repr(copy.deepcopy(core.config)) + repr(copy.copy(core._transport._auth)) if core is not None else ""


def error_attributes(seen: Seen) -> str:
    error = seen.error
    raw = getattr(error, "raw", None)
    parts = [repr(vars(error)) if error is not None else "", repr(getattr(error, "args", ""))]
    if raw is not None and raw.status != 200:  # a success is the caller's own data
        parts += [raw.text, repr(dict(raw.headers))]
    return "".join(parts)


SINKS: dict[str, Callable[[Seen], str]] = {
    "repr of the client": lambda seen: repr(seen.client),
    "str of the client": lambda seen: str(seen.client),
    "vars of the client": lambda seen: repr(vars(seen.client)) if seen.client is not None else "",
    "everything inside the client": insides,
    "config as a dict": config_as_dict,
    "copies": copied,
    "pickles": pickled,
    "all loggers at DEBUG": lambda seen: seen.logged,
    "stdout, stderr, warnings": lambda seen: seen.written,
    "str of the error": lambda seen: str(seen.error),
    "repr of the error": lambda seen: repr(seen.error),
    "attributes of the error": error_attributes,
    "traceback": lambda seen: "".join(traceback.format_exception(seen.error)) if seen.error else "",
    "traceback with locals": frames_with_locals,
    "rich traceback with locals": rich_traceback,
}


def is_httpx_patched(event: Callable[[Seen], Any], capsys: pytest.CaptureFixture[str]) -> Seen:
    """What an event leaves behind, with every logger at DEBUG."""
    seen, out = Seen(), io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                event(seen)
            except BaseException as error:
                seen.error = error
                logging.getLogger("a.service").exception("the call failed")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    captured = capsys.readouterr()
    seen.logged = out.getvalue()
    seen.written = captured.out + captured.err + "".join(str(one.message) for one in warned)
    return seen


def assert_clean(seen: Seen) -> None:
    found = {name: hits(sink(seen)) for name, sink in SINKS.items()}
    assert {name: secrets for name, secrets in found.items() if secrets} == {}


def call(seen: Seen, options: Callable[[], dict[str, Any]], mode: str, verb: str) -> None:
    """One call with a new client."""
    if mode == "sync":
        with dbllm.Client(retry=ONE, timeout=5, **options()) as seen.client:
            if verb == "request":
                seen.client.request("POST", f"/api/2.0/anything?token={QUERY}", json={"a": 1})
            else:
                with seen.client.endpoint("e", task="chat").stream_chat("hi") as stream:
                    list(stream)
        return

    async def body() -> None:
        async with dbllm.AsyncClient(retry=ONE, timeout=5, **options()) as seen.client:
            if verb == "request":
                await seen.client.request("POST", f"/api/2.0/anything?token={QUERY}", json={"a": 1})
            else:
                async with seen.client.endpoint("e", task="chat").stream_chat("hi") as stream:
                    async for _ in stream:
                        pass

    asyncio.run(body(), debug=True)


@pytest.mark.parametrize("verb", ["request", "stream"])
@pytest.mark.parametrize("mode", ["asyncio", "sync"])
@pytest.mark.parametrize("kind", IDENTITIES)
def test_no_call_shows_a_secret_however_it_ends(
    kind: str, mode: str, verb: str, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for reply in MODES:
        server.mode = reply
        seen = is_httpx_patched(lambda seen: call(seen, lambda: identity(kind, server.url), mode, verb), capsys)
        assert (seen.error is None) == (reply == "good" and verb == "request"), (reply, seen.error)
        assert_clean(seen)


@pytest.mark.parametrize("mode", ["asyncio", "sync"])
@pytest.mark.parametrize("kind", ["m2m", "federation"])
def test_no_failing_token_request_shows_a_secret(
    kind: str, mode: str, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for reply in TOKEN_MODES:
        server.token_mode = reply
        seen = is_httpx_patched(lambda seen: call(seen, lambda: identity(kind, server.url), mode, "request"), capsys)
        assert isinstance(seen.error, dbllm.APIError), reply
        assert_clean(seen)


@pytest.mark.parametrize("name", BROKEN)
def test_no_refused_configuration_shows_a_secret(
    name: str, environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "a bound token":
        monkeypatch.setenv("DATABRICKS_HOST", "https://b.example.com")
        monkeypatch.setenv("DATABRICKS_TOKEN", PAT)
    if "with a password" in name:
        host = "b.example.com" if "metadata" in name else f"https://u:{PASSWORD}@b.example.com"
        monkeypatch.setenv("DATABRICKS_HOST", host)
        monkeypatch.setenv("DATABRICKS_METADATA_SERVICE_URL", f"http://u:{PASSWORD}@127.0.0.1:9/token")
        (environment / ".databrickscfg").write_text(f"[dev]\nhost = u:{PASSWORD}@a.example.com\ntoken = {PAT}\n")
    seen = is_httpx_patched(lambda _: BROKEN[name](), capsys)
    assert isinstance(seen.error, dbllm.ConfigError)
    assert "with a password" not in name or "has a user name or password in it" in str(seen.error)
    assert_clean(seen)


class Making:
    """Makes a client; no frame of it has the arguments in a local variable of its own."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments

    def __call__(self, seen: Seen) -> None:
        dbllm.Client(**self._arguments)


def test_a_credential_in_the_place_of_another_setting_is_refused_and_not_shown(
    environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flaws = {}
    for name, (arguments, variables, text) in MISPLACED.items():
        (environment / ".databrickscfg").write_text(text)
        with monkeypatch.context() as changed:
            for variable, value in variables.items():
                changed.setenv(variable, value)
            seen = is_httpx_patched(Making(arguments), capsys)
        found = {sink: secrets for sink, scan in SINKS.items() if (secrets := hits(scan(seen)))}
        if found or not isinstance(seen.error, dbllm.ConfigError):
            flaws[name] = found or repr(seen.error)
    assert flaws == {}


@pytest.mark.parametrize("mode", ["asyncio", "sync"])
@pytest.mark.parametrize("reply", ["echo", "drop", "404"])
def test_a_secret_among_the_params_of_a_request_is_not_shown(
    reply: str, mode: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.mode = reply

    def event(seen: Seen) -> None:
        if mode == "sync":
            with dbllm.Client(server.url, PAT, retry=ONE) as seen.client:
                seen.client.request("GET", "/api/x", params={"access_token": QUERY, "name": "harmless-words"})

        async def body() -> None:
            async with dbllm.AsyncClient(server.url, PAT, retry=ONE) as seen.client:
                await seen.client.request("GET", "/api/x", params={"access_token": QUERY, "name": "harmless-words"})

        asyncio.run(body())

    seen = is_httpx_patched(event, capsys)
    assert isinstance(seen.error, dbllm.APIError)
    assert_clean(seen)
    assert reply != "echo" or "access_token=***&name=harmless-words" in str(seen.error)


def test_a_flawed_profile_file_shows_no_secret(
    environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (
        f"[dev]\nhost = a.example.com\ntoken = {PAT} # mine\n",
        f"[dev]\n{PAT}\n",
        f"[dev]\ntoken = {PAT}\ntoken = {PAT}\n",
        f"{PAT}\n",
        f"[dev]\nhost = ftp://a\ntoken = {PAT}\n",
    ):
        (environment / ".databrickscfg").write_text(text)
        seen = is_httpx_patched(lambda _: dbllm.Client(profile="dev"), capsys)
        assert isinstance(seen.error, dbllm.ConfigError)
        assert_clean(seen)


@pytest.mark.parametrize("mode", ["asyncio", "sync"])
def test_a_proxys_password_is_not_shown(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    def options() -> dict[str, Any]:
        return {"host": "https://a.example.com", "token": PAT, "proxy": f"http://u:{PROXY}@127.0.0.1:9"}

    seen = is_httpx_patched(lambda seen: call(seen, options, mode, "request"), capsys)
    assert isinstance(seen.error, dbllm.APIConnectionError)
    assert_clean(seen)


def test_what_httpx_and_httpcore_log_is_discreet_about_our_requests_and_as_it_was_about_others(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.mode = "redirect"
    plain = httpx.Client()

    def event(seen: Seen) -> None:
        with dbllm.Client(server.url, PAT, retry=ONE, http_client=plain) as seen.client:
            seen.client.request("POST", f"/api/2.0/anything?token={QUERY}")

    seen = is_httpx_patched(event, capsys)
    assert isinstance(seen.error, dbllm.APIStatusError)
    assert '/api/2.0/anything "HTTP/1.' in seen.logged
    assert_clean(seen)
    seen = is_httpx_patched(
        lambda _: plain.post(f"{server.url}/x?page=2", headers={"authorization": "mine-alone"}), capsys
    )
    assert '/x?page=2 "HTTP/1.' in seen.logged
    assert "http://elsewhere.example.com/?t=mine-alone" in seen.logged
    plain.close()


@pytest.mark.parametrize("sink", SINKS)
def test_the_scanner_of_each_sink_finds_a_secret_that_is_planted(sink: str) -> None:
    class Leaky:
        """A client that does everything wrong."""

        def __init__(self) -> None:
            self.config = _LeakyConfig(PAT)
            self._transport = self
            self._auth = _LeakyConfig(PAT)
            self._options = None

        def __repr__(self) -> str:
            return f"Leaky({PAT})"

    def fail() -> None:
        inner = PAT
        raise dbllm.APIError(inner, raw=dbllm.Raw(403, {}, inner.encode()))

    seen = Seen(client=Leaky(), logged=f"INFO {PAT}", written=PAT)
    try:
        fail()
    except dbllm.APIError as error:
        seen.error = error
    assert hits(SINKS[sink](seen)) == [PAT]


@dataclasses.dataclass
class _LeakyConfig:
    token: str


@pytest.mark.parametrize("secret", CANARIES)
def test_the_scanner_knows_each_secret_in_each_form(secret: str) -> None:
    for form in forms(secret):
        assert hits(f"before{form}after") == [secret]


@pytest.mark.parametrize("thing", [Secret(PAT), RedactedMapping({"authorization": PAT})])
def test_what_holds_a_secret_refuses_to_be_pickled_and_says_what_to_do(thing: object) -> None:
    with pytest.raises(TypeError, match="not pickled: make the client where it is used"):
        pickle.dumps(thing)
    assert copy.deepcopy(thing) is thing


def test_no_program_is_started_with_a_secret_in_its_arguments(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    content = f'{{"access_token": "{ACCESS}", "expiry": "2999-01-01T00:00:00Z"}}'
    (folder / "databricks").write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/said; echo '{content}'\n")
    (folder / "databricks").chmod(0o755)
    with dbllm.Client(server.url) as client:
        client.request("GET", "/")
    assert (tmp_path / "said").read_text().split() == ["auth", "token", "--host", server.url]


def test_the_matrix_is_as_large_as_its_tables() -> None:
    events = len(IDENTITIES) * 2 * 2 * len(MODES) + 2 * 2 * len(TOKEN_MODES) + len(BROKEN) + len(MISPLACED) + 5 + 2 + 6
    assert (events, len(SINKS), len(CANARIES)) == (378, 15, 7), "say so in the docs when the matrix changes"
    assert sys.version_info >= (3, 10)
