"""What a server repeats of a call's credentials: they are known however they were given and however they come back."""

from __future__ import annotations

import base64
import html
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
import respx
from support.modes import run

import dbllm
from dbllm import APIStatusError, Raw, Retry
from dbllm._auth.redaction import RedactedMapping, Redaction, hide_frames, hide_headers
from dbllm._transport.call import Call
from dbllm._transport.retry import Timeout
from dbllm.errors import APIError, StreamInterruptedError

KEY = "CANARY/key+1&\"<ü>'0007"
ENCODERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON with its own letters": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text)))[3:-3],
    "JSON with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "unicode escapes": lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
    "HTML": html.escape,
    "HTML with named quotes alone": lambda text: html.escape(text, quote=False),
    "entities": lambda text: "".join(f"&#{ord(one)};" for one in text),
    "entities in hex": lambda text: "".join(f"&#x{ord(one):x};" for one in text),
    "entities in HEX": lambda text: "".join(f"&#x{ord(one):X};" for one in text),
    "unicode escapes in capitals": lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
    "Python's escapes": lambda text: "".join(f"\\x{ord(one):02x}" for one in text),
    "a URL's parameter in another's": lambda text: quote(quote(text, safe=""), safe=""),
    "HEX": lambda text: text.encode().hex().upper(),
    "a URL's path": quote,
    "a URL's parameter": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "percent signs in lower case": lambda text: quote(text, safe="").lower().replace("canary", "CANARY"),
    "percent signs alone": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "hex": lambda text: text.encode().hex(),
    "Python": repr,
    **{
        f"base64, {before} bytes in": lambda text, before=before: base64.b64encode(  # type: ignore[misc]
            b"x" * before + text.encode() + b"yz"
        ).decode()
        for before in range(4)
    },
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_value_is_known_in_every_form(encoder: str) -> None:
    repeated = ENCODERS[encoder](KEY)
    assert len(repeated) > 8
    redaction = Redaction({"x-api-key": KEY})
    for text in (repeated, f"before {repeated} after"):
        assert "***" in redaction(text)
        left = redaction(text).replace("before ", "").replace(" after", "")
        assert len(left.replace("***", "")) <= 12, left  # what base64 shares with its neighbours
        raw = redaction.raw(Raw(400, {"x-echo": text}, text.encode()))
        assert (raw.text, raw.headers["x-echo"]) == (redaction(text), redaction(text))


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("authorization", "Bearer abcdefgh12", "abcdefgh12"),
        ("authorization", "Basic " + base64.b64encode(b"ada:pass-word-1").decode(), "pass-word-1"),
        ("authorization", "Basic no-base64-at-all!", "no-base64-at-all!"),
        ("authorization", 'Digest username="ada", response="0123456789abcdef"', "0123456789abcdef"),
        ("cookie", "a=b; session=abcdefgh12; c=d", "abcdefgh12"),
        ("x-api-key", "abcdefgh12", "abcdefgh12"),
        ("proxy-authorization", "Bearer abcdefgh12", "abcdefgh12"),
        ("x-databricks-azure-sp-management-token", "abcdefgh12", "abcdefgh12"),
        ("any-other", "Token token=abcdefgh12", "abcdefgh12"),
    ],
)
def test_what_of_a_header_is_secret(name: str, value: str, secret: str) -> None:
    assert secret not in Redaction({name: value})(f"it said {secret}, and more")


def test_what_says_nothing_secret_stays_readable() -> None:
    harmless = {"accept": "application/json", "content-type": "application/json", "user-agent": "my-service/1.0"}
    said = "application/json from my-service/1.0 is short"
    assert Redaction(harmless, {"x-short": "short"})(said) == said


def test_users_in_urls_go_wherever_they_come_from() -> None:
    redaction = Redaction({})
    for said, shown in (
        ("https://u:pass@x.example.com/a", "https://***@x.example.com/a"),
        ("//u@x", "//***@x"),
        ("write to ada@example.com", "write to ada@example.com"),
        ("https://x.example.com/@ada", "https://x.example.com/@ada"),
    ):
        assert redaction(said) == shown


def test_credentials_in_a_query_and_in_a_body_are_known() -> None:
    body = {
        "string_value": "stored-value-1",
        "bytes_value": base64.b64encode(b"stored-bytes-2").decode(),
        "config": [{"openai_api_key_plaintext": "sk-plain-value-3", "openai_api_key": "{{secrets/scope/key}}"}],
        "token_value": "pat-value-4444",
        "messages": [{"content": "the prompt stays"}],
        "max_tokens": 12345678,
    }
    redaction = Redaction(path="/x?access_token=query-value-5&page=harmless-word", body=json.dumps(body).encode())
    said = " ".join(["stored-value-1", "stored-bytes-2", "sk-plain-value-3", "pat-value-4444", "query-value-5"])
    assert redaction(said) == "*** *** *** *** ***"
    kept = "{{secrets/scope/key}} the prompt stays 12345678 harmless-word"
    assert redaction(kept) == kept
    assert Redaction(body=b"no JSON")("anything") == "anything"


def test_a_name_of_credentials_is_known_in_any_spelling() -> None:
    names = (
        "api-key x-api-key X_API_KEY apiKey Authorization auth pwd passphrase private_key accessKey aws_access_key_id"
    )
    names += " subscription-key account.key bearer cookie jwt SAS session_id sessionId encryption_key shared-key"
    shown = []
    for name in names.split():
        for body in (
            {name: "value-7777"},
            {"tools": [{"headers": {name: "value-7777"}}]},
            {"extra": [{"name": name, "value": "value-7777"}]},
            {"extra": {"key": name, "value": "value-7777"}},
        ):
            redaction = Redaction(path=f"/x?{name}=query-8888", body=json.dumps(body).encode())
            shown += [(name, body)] if redaction("value-7777 query-8888") != "*** ***" else []
    assert shown == []


def test_whatever_stands_in_headers_inside_a_body_may_be_secret_and_what_is_no_credential_stays() -> None:
    body = {
        "tools": [
            {"type": "mcp", "server_label": "the-label", "headers": {"X-Own": "value-7777", "Accept": "text/plain"}}
        ],
        "default_headers": {"x-other": "value-8888"},
        "auth": {"user_name": "value-9999"},
        "author": "harmless-1",
        "monkey": "harmless-2",
        "prompt_key_points": "harmless-3",
        "keyboard": "harmless-4",
        "authority": "harmless-5",
        "spinning": "harmless-6",
        "messages": [{"role": "user", "name": "some-name", "content": "harmless-7"}],
    }
    redaction = Redaction(body=json.dumps(body).encode())
    assert redaction("value-7777 value-8888 value-9999") == "*** *** ***"
    kept = "the-label text/plain some-name " + " ".join(f"harmless-{number}" for number in range(1, 8))
    assert redaction(kept) == kept


def test_a_user_in_a_url_goes_out_of_the_answer_that_is_kept() -> None:
    raw = Redaction({}).raw(Raw(400, {"location": "https://u:p-w@x"}, b'{"said": "https://u:p-w@x/y"}'))
    assert (raw.headers["location"], raw.body) == ("https://***@x", b'{"said": "https://***@x/y"}')


def test_an_answer_in_wide_characters_is_cleaned_before_its_text_is_cut() -> None:
    for encoding in ("utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"):
        for before in (0, 1, 1990):
            said = json.dumps({"message": "x" * before + KEY}, ensure_ascii=False)
            raw = Redaction({"x-api-key": KEY}).raw(Raw(400, {}, said.encode(encoding)))
            assert json.loads(raw.body)["message"] == "x" * before + "***"


def test_an_error_is_cleaned_in_all_its_texts_and_in_those_it_came_from() -> None:
    error = StreamInterruptedError(
        f"said {KEY}", hint=f"see {KEY}", error_code=KEY, request_id=KEY, raw=Raw(400, {"a": KEY}, KEY.encode())
    )
    error.partial_text = f"part {KEY}"
    error.__cause__ = ValueError(f"inner {KEY}")
    Redaction({"x-api-key": KEY}).error(error)
    shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + pickle.dumps(error).decode("latin-1")
    assert "CANARY" not in shown
    assert (error.detail, error.partial_text) == ("said ***", "part ***")


def test_a_large_page_is_cleaned_quickly_enough_to_be_linear() -> None:
    redaction = Redaction({"authorization": f"Bearer {KEY}"}, {"x-api-key": "another-value-1"})
    raw = redaction.raw(Raw(502, {}, (b"//" * 1000 + b"x" * 1000) * 300))
    assert len(raw.body) == 900_000


def test_frames_of_the_callers_own_functions_stay() -> None:
    def ours() -> None:
        dbllm.Client("https://u:p@x.example.com", "t")

    with pytest.raises(dbllm.ConfigError) as failed:
        ours()
    hide_frames(failed.value)
    names = {frame.name for frame in traceback.extract_tb(failed.value.__traceback__)}
    assert "ours" in names
    assert "resolve" not in names


def test_headers_are_wrapped_and_what_is_none_is_refused_with_a_sentence() -> None:
    wrapped = hide_headers({"X-Api-Key": KEY})
    assert isinstance(wrapped, RedactedMapping)
    assert (wrapped["x-api-key"], repr(wrapped)) == (KEY, "RedactedMapping(x-api-key)")
    with pytest.raises(TypeError, match=r"^headers must be a mapping of names to values, got list\.$"):
        dbllm.Client("https://x.example.com", "t", headers=[("X-Api-Key", KEY)])  # type: ignore[arg-type]


def test_a_success_is_handed_on_as_it_is_and_an_error_about_it_is_not() -> None:
    """An answer belongs to the caller; an error goes to logs."""

    async def body() -> None:
        async with dbllm.AsyncClient(
            "https://x.example.com", "t", headers={"X-Api-Key": KEY}, retry=Retry(attempts=1)
        ) as client:
            assert (await client.request("GET", "/whoami"))["key"] == KEY
            with pytest.raises(APIError) as failed:
                await client.endpoint("e", task="chat").chat("hi")
            assert "CANARY" not in repr(vars(failed.value)) + (failed.value.raw or Raw(0)).text

    with respx.mock(assert_all_called=True) as mock:
        mock.get("https://x.example.com/whoami").respond(json={"key": KEY})
        mock.post("https://x.example.com/serving-endpoints/e/invocations").respond(json={"choices": {"said": KEY}})
        run("asyncio", body)


@pytest.mark.parametrize("how", ["client", "call", "with_options"])
def test_a_header_of_the_callers_is_not_seen_in_the_local_variables_of_a_traceback(how: str) -> None:
    def call() -> None:
        with dbllm.Client("https://x.example.com", "t", retry=Retry(attempts=1), **client_options()) as client:
            client = client.with_options(**more_options())
            client.endpoint("e", task="chat").chat("hi", **call_options())

    def client_options() -> dict[str, Any]:
        return {"headers": {"X-Api-Key": KEY}} if how == "client" else {}

    def more_options() -> dict[str, Any]:
        return {"headers": {"X-Api-Key": KEY}} if how == "with_options" else {}

    def call_options() -> dict[str, Any]:
        return {"headers": {"X-Api-Key": KEY}} if how == "call" else {}

    with respx.mock as mock:
        route = mock.post("https://x.example.com/serving-endpoints/e/invocations")
        route.mock(return_value=httpx.Response(403, json={"message": f"bad {KEY}"}))
        with pytest.raises(APIStatusError) as failed:
            call()
        assert route.calls[0].request.headers["x-api-key"] == KEY
    shown = traceback.TracebackException.from_exception(failed.value, capture_locals=True)
    assert "CANARY/key" not in "".join(shown.format())


@pytest.mark.parametrize("argument", ["headers", "extra_body"])
def test_no_verb_shows_headers_or_further_fields_in_the_local_variables_of_a_traceback(argument: str) -> None:
    verbs: dict[str, Callable[[Any], object]] = {
        "complete": lambda client: client.endpoint("e").complete("hi", **given()),
        "generate": lambda client: client.endpoint("e").generate("hi", **given()),
        "chat": lambda client: client.endpoint("e").chat("hi", **given()),
        "respond": lambda client: client.endpoint("e").respond("hi", **given()),
        "embed": lambda client: client.endpoint("e").embed(["hi"], **given()),
        "predict": lambda client: client.endpoint("e").predict(inputs=[1], **given()),
        "stream": lambda client: client.endpoint("e").stream_chat("hi", **given()).final(),
        "driver app": lambda client: client.driver_app(7777, cluster_id="c").complete("hi", **given()),
        "agent respond": lambda client: client.agent(url="https://x.example.com").respond("hi", **given()),
        "agent complete": lambda client: client.agent(url="https://x.example.com").complete("hi", **given()),
        "agent start": lambda client: client.agent(url="https://x.example.com").start("hi", **given()),
    }

    def given() -> dict[str, Any]:
        return {argument: {"api_key": KEY}}

    shown = {}
    with respx.mock as mock:
        mock.route().mock(return_value=httpx.Response(403, json={"message": f"bad {KEY}"}))
        for verb, call in verbs.items():
            client = dbllm.Client("https://x.example.com", "t", retry=Retry(attempts=1))
            with client, pytest.raises((APIError, dbllm.ConfigError)) as failed:
                call(client)
            told = traceback.TracebackException.from_exception(failed.value, capture_locals=True)
            if "CANARY/key" in "".join(told.format()):
                shown[verb] = failed.value
    assert shown == {}


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("place", ["headers", "cookies", "params"])
def test_what_a_client_of_the_users_adds_to_each_request_is_taken_out_of_errors(library: str, place: str) -> None:
    """Also what was added after the client was made: somebody renews a token like this."""
    package = pytest.importorskip(library)

    def echo(request: Any) -> Any:
        said = f"{request.url} {request.headers.get('x-own')} {request.headers.get('cookie')}"
        return package.Response(400, json={"message": said})

    own = package.Client(transport=package.MockTransport(echo))
    with dbllm.Client("https://x.example.com", "t", http_client=own, retry=Retry(attempts=1)) as client:
        for secret in ("CANARYfirst1", "CANARYsecond2"):
            changed = {**dict(getattr(own, place)), "x-own": secret}
            setattr(own, place, changed)
            with pytest.raises(APIError) as failed:
                client.request("GET", f"/{secret[-1]}")
            assert "***" in str(failed.value)
            assert "CANARY" not in str(failed.value) + repr(vars(failed.value)) + (failed.value.raw or Raw(0)).text
    assert "keep-alive" in Redaction(client._core._transport.backend.proxy_headers)("connection: keep-alive")


@pytest.mark.parametrize("proxy", [None, "http://u:CANARY-password@127.0.0.1:9"])
def test_the_workspaces_own_host_stays_readable_and_a_proxys_password_does_not(proxy: str | None) -> None:
    with dbllm.Client("https://my-workspace.example.com", "t", proxy=proxy, trust_env=False) as client:
        core = client._core._transport
        request = core._request(core_call(), RedactedMapping({"authorization": "Bearer t"}))
        said = request.redaction("https://my-workspace.example.com said CANARY-password")
    assert said == f"https://my-workspace.example.com said {'***' if proxy else 'CANARY-password'}"


def test_a_proxys_password_is_not_shown_where_only_other_hosts_are_reached_through_it(monkeypatch: Any) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://u:CANARY-password@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "my-workspace.example.com")
    with dbllm.Client("https://my-workspace.example.com", "t") as client:
        assert client._core._transport.backend.engine != "httpx"
        assert Redaction(client._core._transport.backend.proxy_headers)("a CANARY-password") == "a ***"


def core_call() -> Call:
    return Call("GET", "/x", Timeout(), Retry(), 1e9)
