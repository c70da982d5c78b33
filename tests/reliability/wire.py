"""Clients whose server is a list of bytes: no socket and no loop, so that a million answers take minutes."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpcore
import pytest
from support.samples import HELLO, chat_answer, completion_answer, responses_answer, vectors_answer

import dbllm
from dbllm._http import connection, httpcore_backend

HOST = "http://127.0.0.1:1"
ENGINES = ("h11", "httptools", "httpx")


class Script:
    """What the server sends next: pieces, then its end of the connection."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.left = 0

    def load(self, pieces: Sequence[bytes]) -> None:
        self.pieces, self.left = list(pieces), len(pieces)

    def next(self) -> bytes:
        if not self.left:
            return b""
        self.left -= 1
        return self.pieces[len(self.pieces) - self.left - 1]


class ScriptedSocket:
    """A socket of ours without a network."""

    until = float("inf")
    arrived: Any = None

    def __init__(self, script: Script, fast: bool) -> None:
        self._script, self.in_asyncio = script, fast  # only there llhttp is used
        self.is_idle = False  # each answer has a connection to itself

    async def connect(self, *_: object) -> None: ...

    async def write(self, data: memoryview) -> None: ...

    async def read(self) -> bytes:
        return self._script.next()

    async def close(self) -> None: ...


class ScriptedStream(httpcore.NetworkStream):
    """The same for httpcore."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._script.next()

    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...

    def close(self) -> None: ...

    def get_extra_info(self, info: str) -> None: ...


@contextmanager
def scripted(engine: str, script: Script) -> Iterator[dbllm.Client]:
    """A client of plain code that reads the script over an engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "new_socket", lambda *_: ScriptedSocket(script, engine == "httptools"))
        patch.setattr(httpcore_backend.DeadlineBackend, "connect_tcp", lambda *_, **__: ScriptedStream(script))
        with dbllm.Client(HOST, "t", engine=engine, retry=dbllm.Retry(attempts=1), timeout=600) as client:
            yield client


# --- what is called, and what is read of an answer --------------------------------------------------------------------


def chat(client: dbllm.Client) -> Any:
    return client.endpoint("m").chat("x").text


def embed(client: dbllm.Client) -> Any:
    return client.endpoint("m").embed(["x", "y"]).vectors


def respond(client: dbllm.Client) -> Any:
    return client.endpoint("m").respond("x").text


def predict(client: dbllm.Client) -> Any:
    return client.endpoint("m").predict(inputs=[[1]]).first


def request(client: dbllm.Client) -> Any:
    return client.request("GET", "/api/2.0/x")


def endpoints(client: dbllm.Client) -> Any:
    return [one.state for one in client.endpoints.list()]


def stream_chat(client: dbllm.Client) -> Any:
    with client.endpoint("m").stream_chat("x") as stream:
        return stream.final().text, stream.usage, stream.last_received


def stream_two(client: dbllm.Client) -> Any:
    with client.endpoint("m").stream_chat("x", n=2) as stream:
        return [choice.message.text for choice in stream.final().choices]


def stream_respond(client: dbllm.Client) -> Any:
    with client.endpoint("m").stream_respond("x") as stream:
        return stream.final().text


Verb = Callable[[dbllm.Client], Any]


def text_of(*events: object) -> bytes:
    """An event stream's bytes."""
    texts = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return b"".join(f"data: {text}\n\n".encode() for text in texts)


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TWO = [
    {"choices": [{"index": place, "delta": {"content": f"p{place}"}, "finish_reason": end}]}
    for end in (None, "stop")
    for place in (0, 1)
]
EVENTS = (
    {"type": "response.output_text.delta", "item_id": "i", "delta": "Hi"},
    {"type": "response.output_item.done", "item": responses_answer()["output"][1]},
    {"type": "response.completed", "response": responses_answer()},
)
VECTORS = vectors_answer([0.5], [1.0])
CODED = {**VECTORS, "data": [{"index": place, "embedding": "AACAPwAAgD8="} for place in (0, 1)]}
ERROR = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "REQUEST_LIMIT_EXCEEDED: [ReqId: 7] slow down"}
NESTED = {"error": "x", "external_model_message": {"error": {"code": "c", "message": {"m": [1, {"details": []}]}}}}
LISTED = {"endpoints": [{"name": "e", "state": {"ready": "READY", "config_update": "NOT_UPDATING"}}]}

# (what is called, status, content type, body)
SEEDS: list[tuple[Verb, int, str, bytes]] = [
    (chat, 200, "application/json", json.dumps(chat_answer()).encode()),
    (chat, 200, "application/json", json.dumps(completion_answer()).encode()),
    (embed, 200, "application/json", json.dumps(VECTORS).encode()),
    (embed, 200, "application/json", json.dumps(CODED).encode()),
    (respond, 200, "application/json", json.dumps(responses_answer()).encode()),
    (predict, 200, "application/json", b'{"predictions": [{"0": "a"}, [1, null]]}'),
    (request, 200, "text/plain", b"\xef\xbb\xbf[1, 2.5e3, true, null]"),
    (endpoints, 200, "application/json", json.dumps(LISTED).encode()),
    (stream_chat, 200, "text/event-stream", text_of(*HELLO)),
    (stream_chat, 200, "text/event-stream", b": hi\r\n\r\nevent: ping\r\ndata: 1\r\n\r\n" + text_of(*HELLO)),
    (stream_chat, 200, "text/event-stream", text_of({"choices": [{"delta": {"tool_calls": [CALL]}}]}, *HELLO)),
    (stream_chat, 200, "application/json", json.dumps(chat_answer()).encode()),
    (stream_two, 200, "text/event-stream", text_of(*TWO, "[DONE]")),
    (stream_chat, 200, "text/event-stream", text_of(HELLO[0], {"error": {"code": 500, "message": "no"}})),
    (stream_respond, 200, "text/event-stream", text_of(*EVENTS)),
    (chat, 429, "application/json", json.dumps(ERROR).encode()),
    (chat, 400, "application/json", json.dumps(NESTED).encode()),
    (stream_chat, 503, "text/html", b"<!DOCTYPE html><html><title>503 &amp; more</title><script>x</script><p>a</p>"),
    (embed, 500, "text/plain", "Über\ud7ff".encode("utf-16")),
    (request, 302, "text/html", b"moved"),
]
FIELDS = [
    *(b"retry-after: 7", b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT", b"retry-after-ms: 120", b"retry-after: 1e400"),
    *(b"x-ratelimit-reset-requests: 6m0s", b"x-ratelimit-remaining-requests: 0", b"location: https://h/?t=1"),
    *(b"set-cookie: a=b", b"x-request-id: r-1", b"folded: a\r\n b", b"date: Thu, 99 Nov 2026 99:99:99 +9999"),
    *(b"content-length: 5", b"transfer-encoding: gzip, chunked", b"content-encoding: br", b"connection: close"),
]


def chunked(body: bytes, draw: random.Random) -> bytes:
    parts, at = [], 0
    while at < len(body):
        size = draw.choice((1, 7, 100, 4000))
        piece = body[at : at + size]
        parts.append(b"%x%s\r\n%s\r\n" % (len(piece), draw.choice((b"", b";a=b", b" ")), piece))
        at += size
    return b"".join([*parts, b"0\r\n", draw.choice((b"", b"x-end: 1\r\n")), b"\r\n"])


def answer(status: int, content_type: str, body: bytes, draw: random.Random) -> bytes:
    """A whole HTTP answer, in one of the forms that servers choose."""
    fields = [b"content-type: " + content_type.encode(), *draw.sample(FIELDS[:9], draw.randrange(3))]
    if (coding := draw.randrange(5)) == 0:
        fields.append(b"content-encoding: gzip")
        body = gzip.compress(body, 1, mtime=0)
    elif coding == 1:
        fields.append(b"content-encoding: deflate")
        body = zlib.compress(body, 1)
    if (framing := draw.randrange(3)) == 0:
        fields.append(b"content-length: %d" % len(body))
    elif framing == 1:
        fields.append(b"transfer-encoding: chunked")
        body = chunked(body, draw)
    draw.shuffle(fields)
    interim = draw.choice((b"", b"", b"HTTP/1.1 102 Processing\r\n\r\n"))
    return interim + b"HTTP/1.1 %d X\r\n%s\r\n\r\n%s" % (status, b"\r\n".join(fields), body)


WORDS = [
    *(b"\r\n", b"\n\n", b"\r", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\\ud800", b"\\u0000", b"data: "),
    *(
        b"data: [DONE]\n\n",
        b"event: error\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 C\r\n\r\n",
        b"HTTP/1.0 204 N\r\n",
    ),
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 400, b'""', b"{}", b"[]", b"[" * 300, b'{"error":' * 300),
    *(b'"error":', b'"error_code":', b'"index":', b'"finish_reason":"stop"', b'"embedding":"AA=="', b'"embedding":[]'),
    *(
        b"0\r\n\r\n",
        b"ffffffff\r\n",
        b"-5\r\n",
        b"chunked",
        b"gzip",
        b"\x1f\x8b",
        b"<title>",
        b"<script",
        b"&#x110000;",
    ),
    *(f"{field.decode()}\r\n".encode() for field in FIELDS),
]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with some changes."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        size = len(made)
        at = draw.randrange(size + 1)
        match draw.randrange(8):
            case 0 if at < size:
                made[at] ^= 1 << draw.randrange(8)
            case 1 if at < size:
                made[at] = draw.randrange(256)
            case 2:
                del made[at : at + draw.choice((1, 2, 10, 100))]
            case 3:
                made[at:at] = draw.choice(WORDS)
            case 4:
                made[at:at] = made[at : at + draw.choice((1, 10, 100))] * draw.choice((1, 3))
            case 5:
                del made[at:]
            case 6:
                word = draw.choice(WORDS)
                made[at : at + len(word)] = word
            case _:
                there = draw.randrange(size + 1)
                made[at : at + 20], made[there : there + 20] = made[there : there + 20], made[at : at + 20]
    return bytes(made)


def cut(data: bytes, draw: random.Random) -> list[bytes]:
    """The bytes in the pieces in which they may come."""
    match draw.randrange(4):
        case 0 if len(data) < 600:
            return [data[at : at + 1] for at in range(len(data))]
        case 1:
            places = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(1, 8)))
            return [part for part in (data[a:b] for a, b in zip([0, *places], [*places, None], strict=True)) if part]
    return [data] if data else []
