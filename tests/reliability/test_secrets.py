"""No credential is seen anywhere: every way to give one, times every way in which a server can repeat it, times sinks.

A check is one sink looked at after one call. `DBLLM_LONG=1` sweeps each engine in each mode through all of it; without,
each sees all ways, and a third of the carriers. At the end the guards go, one at a time, and there are hits.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import html
import io
import json
import logging
import os
import pickle
import socket
import struct
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
import rich.traceback
import trio
from reliability.figures import record

import dbllm
from dbllm import Retry
from dbllm._auth import redaction
from dbllm._auth.auth import StaticAuth
from dbllm._auth.redaction import RedactedMapping
from dbllm._http import connection, httpx_connection
from dbllm._http import request as request_module
from dbllm._management import endpoints, secrets
from dbllm._protocol.reply import CallInfo
from dbllm._transport import options as transport_options
from dbllm._transport import transport as transport_module

ONE = Retry(attempts=1)
PAT = "dapiCANARYpersonal0001"
CLIENT_SECRET = "doseCANARYclient0002"
ACCESS = "eyJCANARYaccess0003"
AZURE = "CANARYazureManagement0004"
GCP = "CANARYgoogleAccount0005"
BEARER = "CANARYotherBearer0006"
API_KEY = 'CANARY/api+key&"<0007'
COOKIE = "CANARYcookie0008"
PROXY_HEADER = "CANARYproxyHeader0009"
CUSTOM = "CANARYcustom0010"
PER_CALL = "CANARYperCall0011"
PROXY = "CANARYproxyPassword0012"
QUERY = "CANARYquery0013"
STORED = "CANARYstored0014"
MODEL_KEY = "sk-CANARYmodelKey0015"
USER_INFO = "CANARYuserInfo0016"
BASIC = "CANARYbasicPassword0017"
CANARIES = (
    PAT, CLIENT_SECRET, ACCESS, AZURE, GCP, BEARER, API_KEY, COOKIE, PROXY_HEADER, CUSTOM, PER_CALL, PROXY, QUERY,
    STORED, MODEL_KEY, USER_INFO, BASIC,
)  # fmt: skip


def base64_forms(secret: str) -> set[str]:
    """The secret in base64, with zero, one or two bytes before it, without the characters that others share."""
    data, found = secret.encode(), set()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        found.add(coded[(0, 2, 3)[before] : (before + len(data)) * 8 // 6])
    return found


def forms(secret: str) -> set[str]:
    """How a secret may look where it is seen."""
    plain = {secret, json.dumps(secret)[1:-1], html.escape(secret), repr(secret)[1:-1], secret.encode().hex()}
    return plain | {quote(secret), quote(secret, safe=""), quote_plus(secret)} | base64_forms(secret)


FORMS = {secret: forms(secret) for secret in CANARIES}


def hits(text: str) -> list[str]:
    return [secret for secret, looks in FORMS.items() if any(look in text for look in looks)]


# --- a server that repeats what it is sent ----------------------------------------------------------------------------


def head(status: int, body: bytes, kind: str = "application/json", reason: str = "Said", **more: str) -> bytes:
    fields = {"content-type": kind, "content-length": str(len(body)), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1") + body


def says(status: int, text: str) -> bytes:
    return head(status, json.dumps({"error_code": "X", "message": text}).encode())


def one_line(said: str) -> str:
    return said.replace("\r\n", " | ").replace("\n", " ")


def flat_header(said: str) -> str:
    return one_line(said)[:6000]


CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CHUNK["choices"] = [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]
GOOD = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
GOOD["choices"] = [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def frame(content: object) -> bytes:
    return b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n"


WAYS: dict[str, Callable[[str], bytes]] = {
    "answers": lambda said: head(200, json.dumps(GOOD).encode(), x_echo=flat_header(said)),
    **{
        f"refuses with {status}": (lambda said, status=status: says(status, said))  # type: ignore[misc]
        for status in (400, 401, 403, 404, 407, 409, 413, 418, 422, 429, 500, 502, 503, 504)
    },
    "refuses in a header": lambda said: head(400, b"{}", x_echo=flat_header(said)),
    "refuses in www-authenticate": lambda said: head(401, b"{}", www_authenticate=f'Bearer x="{flat_header(said)}"'),
    "refuses in the request id": lambda said: head(500, b"{}", x_request_id=flat_header(said)),
    "refuses in the reason": lambda said: head(400, b"{}", reason=flat_header(said)),
    "refuses in JSON in JSON": lambda said: says(400, json.dumps({"inner": json.dumps(said)})),
    "refuses in unicode escapes": lambda said: head(
        400, b'{"message": "' + "".join(f"\\u{ord(one):04x}" for one in said).encode() + b'"}'
    ),
    "refuses in base64": lambda said: says(400, base64.b64encode(said.encode("latin-1")).decode()),
    "refuses in base64url": lambda said: says(400, base64.urlsafe_b64encode(b"x" + said.encode("latin-1")).decode()),
    "refuses percent-encoded": lambda said: says(400, quote(said, safe="")),
    "refuses url-encoded": lambda said: says(400, quote_plus(said)),
    "refuses in lower-case percent": lambda said: says(400, quote(said, safe="").replace("%2F", "%2f")),
    "refuses in hex": lambda said: says(400, said.encode("latin-1").hex()),
    "refuses in Python's words": lambda said: says(400, repr(said)),
    "refuses as a provider's error": lambda said: head(
        400, json.dumps({"error": "Received error", "external_model_message": {"message": said}}).encode()
    ),
    "refuses with a code": lambda said: head(400, json.dumps({"error_code": one_line(said), "message": "no"}).encode()),
    "refuses in text": lambda said: head(400, said.encode("latin-1"), "text/plain"),
    "refuses with a page": lambda said: head(
        502, f"<html><title>{html.escape(said)}</title>{html.escape(said)}</html>".encode(), "text/html"
    ),
    "refuses in compressed form that is none": lambda said: head(
        400, said.encode("latin-1"), "text/plain", content_encoding="gzip"
    ),
    "answers with a page": lambda said: head(
        200, f"<html><title>Sign in {html.escape(said)}</title></html>".encode(), "text/html"
    ),
    "answers in text": lambda said: head(200, said.encode("latin-1"), "text/plain"),
    "answers with nothing but a header": lambda said: head(200, b"", x_echo=flat_header(said)),
    "answers with something else": lambda said: head(200, json.dumps({"choices": {"said": said}}).encode()),
    "answers with an error": lambda said: head(200, json.dumps({"error": {"message": said, "code": "x"}}).encode()),
    "answers in compressed form that is none": lambda said: head(
        200, said.encode("latin-1"), "text/plain", content_encoding="gzip"
    ),
    "is no HTTP": lambda said: said.encode("latin-1"),
    "is no HTTP, in a line": lambda said: one_line(said).encode("latin-1") + b"\r\n\r\n",
    "has a header that is none": lambda said: b"HTTP/1.1 200 OK\r\n" + one_line(said).encode("latin-1") + b"\r\n\r\n",
    "has a chunk that is none": lambda said: (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + one_line(said).encode("latin-1") + b"\r\n"
    ),
    "cuts its answer": lambda said: head(200, b"").replace(b"length: 0", b"length: 99999") + said.encode("latin-1"),
    "cuts its refusal": lambda said: head(403, b"").replace(b"length: 0", b"length: 99999") + said.encode("latin-1"),
    "cuts its head": lambda said: b"HTTP/1.1 200 OK\r\nx-echo: " + one_line(said).encode("latin-1"),
    "hangs up": lambda _said: b"",
    "resets": lambda _said: b"RST",
    "stalls after its head": lambda said: (
        head(200, b"", x_echo=flat_header(said)).replace(b"length: 0", b"length: 9") + b"STALL"
    ),
    "streams an error": lambda said: EVENTS + frame({"error": {"message": said}}),
    "streams an error later": lambda said: EVENTS + frame(CHUNK) + frame({"error_code": "X", "message": said}),
    "streams what is no chunk": lambda said: EVENTS + frame(CHUNK) + frame({"choices": {"said": said}}),
    "streams no JSON": lambda said: EVENTS + frame(CHUNK) + frame(one_line(said).encode("latin-1")),
    "streams, and is cut": lambda said: EVENTS + frame(CHUNK) + b"data: " + one_line(said).encode("latin-1"),
    **{
        f"redirects with {status}": (
            lambda said, status=status: head(  # type: ignore[misc]
                status,
                b"{}",
                location=f"https://u:{USER_INFO}@elsewhere.example.com/{quote(said, safe='')}?t={quote(said)}",
            )
        )
        for status in (301, 302, 303, 307, 308)
    },
    "redirects inside": lambda said: head(302, b"{}", location=f"//u:{USER_INFO}@127.0.0.1/?x={flat_header(said)}"),
}
STREAMED = [way for way in WAYS if way.startswith("streams")]


class EchoServer:
    """Repeats the request, head and body, in the way that is set."""

    def __init__(self) -> None:
        self.way = "answers"
        self.stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.requests = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.settimeout(5)
                self._answer(peer)
            except OSError:
                pass

    def _answer(self, peer: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := peer.recv(65536)):
                return
            data += piece
        start, _, body = data.partition(b"\r\n\r\n")
        size = next((int(row[15:]) for row in start.lower().split(b"\r\n") if row.startswith(b"content-length:")), 0)
        while len(body) < size:
            body += peer.recv(65536)
        self.requests += 1
        target = start.split(b" ")[1].partition(b"?")[0]
        target = target[target.find(b"/", 8) :] if target.startswith(b"http") else target  # a proxy sees the whole URL
        if target.startswith(b"/.well-known"):
            peer.sendall(head(200, json.dumps({"oidc_endpoint": f"{self.url}/oidc"}).encode()))
        elif target.startswith(b"/oidc/.well-known"):
            peer.sendall(head(200, json.dumps({"token_endpoint": f"{self.url}/oidc/v1/token"}).encode()))
        elif target.startswith(b"/oidc"):
            token = {"access_token": ACCESS, "token_type": "Bearer", "expires_in": 3600}
            peer.sendall(head(200, json.dumps(token).encode()))
        else:
            said = WAYS[self.way]((start + b"\r\n\r\n" + body).decode("latin-1"))
            if said == b"RST":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            stalls = said.endswith(b"STALL")
            peer.sendall(said.removesuffix(b"STALL"))
            if stalls:
                self.stop.wait(2)


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    one = EchoServer()
    yield one
    one.close()


# --- carriers: how a credential is given ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Carrier:
    """Arguments of a client, of a call, and what else is done; functions, so that no frame holds what they make."""

    client: Callable[[str], Mapping[str, Any]]
    call: Callable[[], Mapping[str, Any]] = dict
    path: str = dataclasses.field(default="/api/2.0/anything", repr=False)
    auth: Callable[[], Mapping[str, str]] | None = None
    verb: str = ""  # "put", "create": in place of the usual calls


def given(**headers: str) -> Callable[[str], Mapping[str, Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _url: {"token": PAT, "headers": named}


CARRIERS: dict[str, Carrier] = {
    "a token": Carrier(lambda _url: {"token": PAT}),
    "a token function": Carrier(lambda _url: {"token": lambda: PAT}),
    "an OAuth secret": Carrier(lambda _url: {"client_id": "the-principal", "client_secret": CLIENT_SECRET}),
    "tokens of clouds": Carrier(
        lambda _url: {"token": "x"},
        auth=lambda: {
            "authorization": f"Bearer {ACCESS}",
            "x-databricks-azure-sp-management-token": AZURE,
            "x-databricks-gcp-sa-access-token": GCP,
        },
    ),
    "Authorization": Carrier(given(Authorization=f"Bearer {BEARER}")),
    "Basic": Carrier(given(Authorization="Basic " + base64.b64encode(f"ada:{BASIC}".encode()).decode())),
    "X-Databricks-Azure-SP-Management-Token": Carrier(given(X_Databricks_Azure_SP_Management_Token=AZURE)),
    "X-Databricks-GCP-SA-Access-Token": Carrier(given(X_Databricks_GCP_SA_Access_Token=GCP)),
    "X-Api-Key": Carrier(given(X_Api_Key=API_KEY)),
    "Cookie": Carrier(given(Cookie=f"a=b; session={COOKIE}; c=d")),
    "Proxy-Authorization": Carrier(given(Proxy_Authorization=f"Bearer {PROXY_HEADER}")),
    "a header of its own": Carrier(given(X_My_Company=CUSTOM)),
    "a header of one call": Carrier(
        lambda _url: {"token": PAT}, call=lambda: {"headers": {"X-One-Time": f"Token token={PER_CALL}"}}
    ),
    "a query": Carrier(lambda _url: {"token": PAT}, path=f"/api/2.0/anything?access_token={QUERY}"),
    "a proxy": Carrier(lambda url: {"token": PAT, "proxy": f"http://u:{PROXY}@{url.removeprefix('http://')}"}),
    "a secret that is stored": Carrier(lambda _url: {"token": PAT}, verb="put"),
    "a model's key": Carrier(lambda _url: {"token": PAT}, verb="create"),
}


def model_config() -> dict[str, Any]:
    provider = {"openai_api_key_plaintext": MODEL_KEY}
    model = {"name": "gpt", "provider": "openai", "task": "llm/v1/chat", "openai_config": provider}
    return {"served_entities": [{"name": "e", "external_model": model}]}


@dataclasses.dataclass
class Seen:
    """What a call leaves behind."""

    client: Any = dataclasses.field(default=None, repr=False)
    error: BaseException | None = dataclasses.field(default=None, repr=False)
    attempts: list[Any] = dataclasses.field(default_factory=list, repr=False)
    logged: str = dataclasses.field(default="", repr=False)
    warned: str = dataclasses.field(default="", repr=False)


async def play(client: Any, carrier: Carrier, streamed: bool) -> None:
    """The call, with a client of the async names."""
    if carrier.verb == "put":
        await client.secrets.put("scope", "key", STORED)
    elif carrier.verb == "create":
        await client.endpoints.create("name", model_config())
    elif streamed:
        async with client.endpoint("e", task="chat").stream_chat("hi", **carrier.call()) as stream:
            async for _ in stream:
                pass
    elif "?" in carrier.path:
        await client.request("POST", carrier.path, json={"a": 1}, **carrier.call())
    else:
        await client.endpoint("e", task="chat").chat("hi", **carrier.call())


def play_sync(client: Any, carrier: Carrier, streamed: bool) -> None:
    """The same in plain code."""
    if carrier.verb == "put":
        client.secrets.put("scope", "key", STORED)
    elif carrier.verb == "create":
        client.endpoints.create("name", model_config())
    elif streamed:
        with client.endpoint("e", task="chat").stream_chat("hi", **carrier.call()) as stream:
            for _ in stream:
                pass
    elif "?" in carrier.path:
        client.request("POST", carrier.path, json={"a": 1}, **carrier.call())
    else:
        client.endpoint("e", task="chat").chat("hi", **carrier.call())


def run(seen: Seen, server: EchoServer, carrier: Carrier, engine: str, mode: str) -> None:
    streamed = server.way in STREAMED
    common = {"retry": ONE, "timeout": 0.25 if "stalls" in server.way else 5, "engine": engine}
    kind = dbllm.Client if mode == "sync" else dbllm.AsyncClient
    seen.client = kind(server.url, **carrier.client(server.url), **common, on_attempt=seen.attempts.append)
    if carrier.auth is not None:
        core = getattr(seen.client, "_core", seen.client)
        core._transport._auths[core.host] = StaticAuth(RedactedMapping(carrier.auth()))
    if mode == "sync":
        with seen.client:
            play_sync(seen.client, carrier, streamed)
        return

    async def body() -> None:
        async with seen.client:
            await play(seen.client, carrier, streamed)

    if mode == "trio":
        trio.run(body)
    else:
        asyncio.run(body(), debug=True)


# --- sinks ------------------------------------------------------------------------------------------------------------


def core_of(seen: Seen) -> Any:
    return getattr(seen.client, "_core", seen.client)


def reprs_inside(seen: Seen) -> str:
    """Reprs of everything that hangs on the client, down to what is not ours."""
    todo, done, parts = [core_of(seen)], set(), []
    while todo:
        thing = todo.pop()
        if id(thing) in done or thing is None:
            continue
        done.add(id(thing))
        parts += [repr(thing), str(thing), f"{thing}"]
        if type(thing).__module__.startswith("dbllm"):
            todo += (vars(thing) if hasattr(thing, "__dict__") else {}).values()
            if dataclasses.is_dataclass(thing):
                todo += [getattr(thing, field.name) for field in dataclasses.fields(thing)]
        elif isinstance(thing, (dict, list, tuple)):
            todo += thing.values() if isinstance(thing, dict) else thing
    return "\n".join(parts)


def each_error(seen: Seen) -> Iterator[BaseException]:
    link, done = seen.error, set()
    while link is not None and id(link) not in done:
        done.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def attributes(seen: Seen) -> str:
    parts = []
    for error in each_error(seen):
        parts += [repr(vars(error)), repr(error.args), str(error), repr(error)]
        if (raw := getattr(error, "raw", None)) is not None:
            parts += [raw.text, raw.body.decode("latin-1"), repr(dict(raw.headers)), str(raw.request_id)]
    return "\n".join(parts)


def rich_locals(seen: Seen) -> str:
    if (error := seen.error) is None:
        return ""
    shown: dict[str, Any] = {"show_locals": True, "locals_max_length": 999, "locals_max_string": 99999}
    drawn = rich.traceback.Traceback.extract(
        type(error), error, error.__traceback__, locals_hide_dunder=False, locals_hide_sunder=False, **shown
    )
    parts = [stack.exc_value for stack in drawn.stacks]
    for stack in drawn.stacks:
        parts += [node.render(99999) for one in stack.frames for node in (one.locals or {}).values()]
    return "\n".join(parts)


def pickled(seen: Seen) -> str:
    parts = []
    core = core_of(seen)
    for thing in (seen.error, seen.client, core and core.config, core and core._options, *seen.attempts):
        try:
            parts.append(pickle.dumps(thing).decode("latin-1"))
        except Exception as refused:
            parts.append(repr(refused))
    return "".join(parts)


def copied(seen: Seen) -> str:
    parts = []
    for thing in (core_of(seen) and core_of(seen).config, core_of(seen) and core_of(seen)._options, *seen.attempts):
        for how in (copy.copy, copy.deepcopy):
            parts.append(repr(how(thing)))
    return "".join(parts)


def as_dicts(seen: Seen) -> str:
    core = core_of(seen)
    things = [core.config, core._options, *seen.attempts] if core is not None else []
    return "".join(repr(dataclasses.asdict(thing)) for thing in things)


def told(seen: Seen) -> str:
    """What the hook on_attempt gets."""
    parts = []
    for attempt in seen.attempts:
        parts += [repr(attempt), str(attempt)]
        if attempt.error is not None:
            parts.append(attributes(Seen(error=attempt.error)))
            parts.append(with_locals(Seen(error=attempt.error)))
    return "".join(parts)


def with_locals(seen: Seen) -> str:
    if seen.error is None:
        return ""
    shown = traceback.TracebackException.from_exception(seen.error, capture_locals=True)
    return "".join(shown.format())


SINKS: dict[str, Callable[[Seen], str]] = {
    "client": lambda seen: f"{seen.client!r}{seen.client}{vars(seen.client) if seen.client else ''}",
    "inside the client": reprs_inside,
    "stats": lambda seen: repr(seen.client.stats()) if hasattr(seen.client, "stats") else "",
    "as dicts": as_dicts,
    "copies": copied,
    "pickles": pickled,
    "logs at DEBUG": lambda seen: seen.logged,
    "warnings": lambda seen: seen.warned,
    "error": attributes,
    "traceback": lambda seen: "".join(traceback.format_exception(seen.error)) if seen.error else "",
    "traceback with locals": with_locals,
    "rich traceback": rich_locals,
    "on_attempt": told,
}


@contextmanager
def everything_logged(seen: Seen) -> Iterator[None]:
    out, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    names = ("httpx", "httpcore", "h11", "anyio", "asyncio", "urllib3", "dbllm", "trio")
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        for name in names:
            logging.getLogger(name).setLevel(logging.NOTSET)
    seen.logged, seen.warned = out.getvalue(), "".join(str(one.message) for one in warned)


def observed(event: Callable[[Seen], None]) -> Seen:
    seen = Seen()
    with everything_logged(seen):
        try:
            event(seen)
        except BaseException as error:
            seen.error = error
            logging.getLogger("a.service").exception("the call failed")
    return seen


def flaws_of(seen: Seen, name: str) -> dict[str, list[str]]:
    return {f"{name}: {sink}": found for sink, scan in SINKS.items() if (found := hits(scan(seen)))}


class Play:
    """An event, which holds no credential in a frame."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __call__(self, seen: Seen) -> None:
        run(seen, *self._arguments)


COMBINATIONS = (("h11", "sync"), ("httpx", "sync"), ("h11", "asyncio"), ("httptools", "asyncio"), ("httpx", "asyncio"))
COMBINATIONS += (("h11", "trio"),)


def swept(
    server: EchoServer, combinations: Any = COMBINATIONS, carriers: Any = tuple(CARRIERS), ways: Any = tuple(WAYS)
) -> tuple[int, dict[str, list[str]]]:
    """How many checks there were, and which of them found something."""
    checks, flaws = 0, {}
    for engine, mode in combinations:
        for carrier in carriers:
            for server.way in ways:
                seen = observed(Play(server, CARRIERS[carrier], engine, mode))
                flaws |= flaws_of(seen, f"{engine}, {mode}, {carrier}, {server.way}")
                checks += len(SINKS)
    return checks, flaws


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=" ".join)
def test_no_credential_is_seen_however_it_was_given_and_however_a_server_repeats_it(
    combination: tuple[str, str], server: EchoServer
) -> None:
    carriers = [*CARRIERS] if os.environ.get("DBLLM_LONG") else [*CARRIERS][COMBINATIONS.index(combination) % 3 :: 3]
    checks, flaws = swept(server, (combination,), carriers)
    record("secrets", " ".join(combination), checks=checks, hits=len(flaws))
    assert flaws == {}
    assert checks == len(carriers) * len(WAYS) * len(SINKS) >= 3_000


# --- requests that cannot be sent, servers that cannot be reached -----------------------------------------------------

UNSENDABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a path with a line break": ({}, "/api/x\r\nX: 1"),
    "a path with a null": ({}, "/api/x\x00"),
    "a path with a delete": ({}, "/api/\x7f"),
    "a path with half a surrogate": ({}, "/api/\ud800"),
    "a path that is too long": ({}, "/" + "x" * 70_000),
    "a query with a line break": ({}, f"/api/x?token={QUERY}\n"),
    "a Host with a line break": ({"headers": {"Host": f"a\r\nX-Api-Key: {CUSTOM}"}}, "/x"),
    "a Host with a null": ({"headers": {"Host": "a\x00"}}, "/x"),
    "an empty Host": ({"headers": {"Host": ""}}, "/x"),
    "a Host with a space": ({"headers": {"Host": "a b"}}, "/x"),
    "a header with a line break": ({"headers": {"X-Api-Key": f"{CUSTOM}\nx"}}, "/x"),
    "a header outside Latin-1": ({"headers": {"X-Api-Key": f"{CUSTOM}☃"}}, "/x"),
    "a header of bytes": ({"headers": {"X-Api-Key": CUSTOM.encode()}}, "/x"),
    "a header of a number": ({"headers": {"X-Api-Key": 7}}, "/x"),
    "a header with an odd name": ({"headers": {f"X {CUSTOM[:3]}": CUSTOM}}, "/x"),
    "a header of ours": ({"headers": {"Content-Length": CUSTOM}}, "/x"),
    "headers that are a list": ({"headers": [("X-Api-Key", CUSTOM)]}, "/x"),
    "an unknown method": ({"method": "GE T"}, "/x"),
}


class Unsendable:
    """An event with a request of the table."""

    def __init__(self, url: str, engine: str, mode: str, name: str) -> None:
        self._url, self._engine, self._mode, self._name = url, engine, mode, name

    def options(self) -> dict[str, Any]:
        return {key: value for key, value in UNSENDABLE[self._name][0].items() if key != "method"}

    def place(self) -> tuple[str, str]:
        return UNSENDABLE[self._name][0].get("method", "POST"), UNSENDABLE[self._name][1]

    def __call__(self, seen: Seen) -> None:
        if self._mode == "sync":
            with dbllm.Client(self._url, PAT, retry=ONE, timeout=5, engine=self._engine) as seen.client:
                seen.client.request(*self.place(), **self.options())
            return

        async def body() -> None:
            async with dbllm.AsyncClient(self._url, PAT, retry=ONE, timeout=5, engine=self._engine) as seen.client:
                await seen.client.request(*self.place(), **self.options())

        asyncio.run(body())


@pytest.mark.parametrize("combination", COMBINATIONS[:5], ids=" ".join)
def test_a_request_that_cannot_be_sent_shows_nothing(combination: tuple[str, str], server: EchoServer) -> None:
    flaws: dict[str, Any] = {}
    for server.way in ("answers", "refuses with 400"):
        for name in UNSENDABLE:
            seen = observed(Unsendable(server.url, *combination, name))
            flaws |= flaws_of(seen, f"{name}, {server.way}") | unnamed(seen, name)
    assert flaws == {}


def unnamed(seen: Seen, name: str) -> dict[str, list[str]]:
    """A library's own error came through."""
    known = seen.error is None or isinstance(seen.error, (dbllm.DbllmError, TypeError, ValueError))
    return {} if known else {name: [repr(seen.error)]}


class Unreachable:
    """An event: a call of a server that is not there."""

    def __init__(self, url: str, more: RedactedMapping, engine: str, mode: str) -> None:
        self._url, self._more, self._engine, self._mode = url, more, engine, mode

    def __call__(self, seen: Seen) -> None:
        if self._mode == "sync":
            with dbllm.Client(self._url, PAT, retry=ONE, timeout=3, engine=self._engine, **self._more) as seen.client:
                seen.client.request("GET", "/x")
            return

        async def body() -> None:
            seen.client = dbllm.AsyncClient(self._url, PAT, retry=ONE, timeout=3, engine=self._engine, **self._more)
            async with seen.client:
                await seen.client.request("GET", "/x")

        asyncio.run(body())


def refused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("combination", COMBINATIONS[:5], ids=" ".join)
def test_a_server_that_cannot_be_reached_shows_nothing(combination: tuple[str, str], server: EchoServer) -> None:
    """Nobody listens; it speaks no TLS; a proxy refuses; a name that does not exist."""
    flaws: dict[str, Any] = {}
    server.way = "refuses with 407"
    nobody = refused_address()
    places = {
        "nobody listens": (f"http://{nobody}", {}),
        "no TLS": (f"https://127.0.0.1:{server.port}", {}),
        "a proxy refuses": ("https://w.example.com", {"proxy": f"http://u:{PROXY}@127.0.0.1:{server.port}"}),
        "no proxy there": ("https://w.example.com", {"proxy": f"http://u:{PROXY}@{nobody}"}),
        "no such name": ("https://name.invalid", {}),
    }
    for name, (url, more) in places.items():
        seen = observed(Unreachable(url, RedactedMapping(more), *combination))
        assert isinstance(seen.error, dbllm.APIError), (name, seen.error)
        flaws |= flaws_of(seen, name)
    assert flaws == {}


def test_a_client_of_the_users_logs_nothing_either(server: EchoServer) -> None:
    flaws: dict[str, Any] = {}
    for server.way in WAYS:
        if server.way in STREAMED:
            continue
        with httpx.Client(trust_env=False) as plain:

            def event(seen: Seen, plain: Any = plain) -> None:
                with dbllm.Client(
                    server.url, PAT, retry=ONE, timeout=0.5, http_client=plain, headers={"x-api-key": API_KEY}
                ) as seen.client:
                    seen.client.request("POST", "/x", params={"token": QUERY})

            flaws |= flaws_of(observed(event), server.way)
    assert flaws == {}


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["h11", "httpx"])
def test_no_redirect_is_followed_wherever_it_leads(engine: str) -> None:
    other = EchoServer()
    hosts = {
        "the same": "{url}/y",
        "a path": "/y",
        "another port": f"{other.url}/y",
        "another host": "http://localhost:{port}/y",
        "a subdomain": "http://a.localhost:{port}/y",
        "another scheme": "https://127.0.0.1:{port}/y",
        "without a scheme": "//127.0.0.1:{port}/y",
        "with a user": "http://u:p@127.0.0.1:{port}/y",
        "with the host as user": f"http://127.0.0.1@{other.url.removeprefix('http://')}/y",
    }
    checked = 0
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    seen: list[bytes] = []
    answer = {"head": b""}

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                seen.append(peer.recv(65536))
                peer.sendall(answer["head"])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    for status in (301, 302, 303, 307, 308):
        for name, place in hosts.items():
            location = place.format(url=f"http://127.0.0.1:{port}", port=port)
            answer["head"] = head(status, b"{}", location=location)
            for method in ("GET", "POST"):
                seen.clear()
                client = dbllm.Client(f"http://127.0.0.1:{port}", PAT, retry=ONE, engine=engine)
                with client, pytest.raises(dbllm.APIStatusError) as failed:
                    client.request(method, "/x")
                assert (failed.value.status, len(seen), other.requests) == (status, 1, 0), (status, name)
                assert "u:p@" not in str(failed.value)
                checked += 1
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    other.close()
    assert checked == 5 * len(hosts) * 2


# --- the guards -------------------------------------------------------------------------------------------------------


def _no_words(_name: str, _value: str) -> set[str]:
    return set()


def _nothing(*_arguments: Any, **_more: Any) -> None:
    return None


def _as_it_is(headers: Any) -> Any:
    return None if headers is None else {name.lower(): value for name, value in headers.items()}


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "what was sent is known": lambda patch: patch.setattr(redaction, "_secret_words", _no_words),
    "the caller's headers are known": lambda patch: patch.setattr(
        transport_module, "Redaction", lambda sent, _headers, *parts, **more: redaction.Redaction(sent, *parts, **more)
    ),
    "the query is known": lambda patch: patch.setattr(
        transport_module, "Redaction", lambda *parts, path, body: redaction.Redaction(*parts, body=body)
    ),
    "other encodings are known": lambda patch: patch.setattr(redaction, "_encodings", lambda secret: {secret}),
    "users in URLs go": lambda patch: patch.setattr(redaction, "_USER_INFO", redaction.re.compile("(?!)")),
    "the body is known": lambda patch: patch.setattr(
        transport_module, "Redaction", lambda *parts, path, body: redaction.Redaction(*parts, path=path)
    ),
    "frames go": lambda patch: [
        patch.setattr(module, "hide_frames", _nothing)
        for module in (transport_module, dbllm._inference.stream, dbllm._transport.replies, endpoints)
    ],
    "errors about a success are redacted": lambda patch: patch.setattr(CallInfo, "redact", _nothing),
    "logs are redacted": lambda patch: patch.setattr(httpx_connection.RedactingFilter, "filter", lambda *_: True),
    "headers are wrapped": lambda patch: [
        patch.setattr(module, "hide_headers", _as_it_is)
        for module in (transport_options, dbllm._inference.endpoint, dbllm._inference.handle)
    ],
    "bodies with secrets are wrapped": lambda patch: [
        patch.setattr(module, "RedactedMapping", lambda *parts: {k: v for part in parts for k, v in part.items()})
        for module in (secrets, endpoints)
    ],
    "reprs are empty": lambda patch: patch.setattr(RedactedMapping, "__repr__", lambda self: repr(dict(self))),
    "what cannot be sent is refused first": lambda patch: [
        *(patch.setattr(module, "require_sendable", _nothing) for module in (connection, httpx_connection)),
        patch.setattr(request_module, "_is_sendable", lambda _name, _value: True),
    ],
}
SAMPLE = ("answers", "refuses with 400", "refuses in base64", "redirects with 302", "answers with a page", "hangs up")
SAMPLE += ("answers with something else", "streams an error later", "is no HTTP")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_there_are_hits(guard: str, server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    combinations = (("httpx", "sync"),)
    GUARDS[guard](monkeypatch)
    flaws = swept(server, combinations, ways=SAMPLE)[1]
    for engine in ("h11", "httpx"):
        for name in UNSENDABLE:
            seen = observed(Unsendable(server.url, engine, "sync", name))
            flaws |= flaws_of(seen, name) | unnamed(seen, name)
    print(f"\nwithout {guard!r}: {len(flaws)} hits, such as {next(iter(flaws.items()), None)}")
    assert flaws


def test_the_matrix_is_as_large_as_it_says() -> None:
    checks = len(COMBINATIONS) * len(CARRIERS) * len(WAYS) * len(SINKS)
    print(f"\n{len(COMBINATIONS)} × {len(CARRIERS)} carriers × {len(WAYS)} ways × {len(SINKS)} sinks = {checks} checks")
    assert len(CARRIERS) * len(WAYS) >= 250
    assert len(GUARDS) >= 5
