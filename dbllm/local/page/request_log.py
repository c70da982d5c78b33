"""The last requests of a workspace, for its page and for the terminal."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbllm.local.json_values import Json

MAX_ENTRIES = 500
MAX_BODY = 64 * 1024
"""Bytes of a body that are kept for the page."""

MIN_SECRET = 6
"""Characters of a secret that is looked for in texts; a shorter one would be found in words."""

MODEL_CALLS = ("/serving-endpoints", "/ai-gateway/", "/driver-proxy-api/")
"""Of these alone bodies are kept: those of other paths may hold secrets."""

_ENDPOINT = re.compile(r"/serving-endpoints/([^/]+)/(?:served-models/[^/]+/)?invocations")
_DRIVER = re.compile(r"/driver-proxy-api/o/[^/]+/[^/]+/(\d+)")
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,300})"')
_TOKENS = {
    "tokens_in": re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)'),
    "tokens_out": re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)'),
}
_CREDENTIALS = re.compile(
    r"(?i:bearer)\s+[\w.~+/=-]{8,}|\bdapi[\w-]{8,}|\beyJ[\w-]{8,}\.[\w.-]+|\bsk-[\w-]{8,}|\bdose[\w-]{16,}"
)


@dataclass(slots=True)
class Entry:
    """One request and how it was answered; `status` is 0 as long as it was not.

    Attributes:
        version: grows with each change of any entry.
        at: seconds since 1970.
        seconds: from the first byte to the last of the answer.
        tokens_in, tokens_out: what the answer says was used.
        request, response: the first bytes of the bodies of a model's call.
    """

    number: int
    version: int
    at: float
    method: str
    path: str
    endpoint: str
    agent: str
    status: int = 0
    seconds: float = 0.0
    tokens_in: int | None = None
    tokens_out: int | None = None
    request: bytearray = field(default_factory=bytearray, repr=False)
    response: bytearray = field(default_factory=bytearray, repr=False)
    request_bytes: int = 0
    response_bytes: int = 0

    def as_json(self) -> Json:
        """Everything but the bodies."""
        names = "number version at method path endpoint agent status seconds tokens_in tokens_out"
        return {name: getattr(self, name) for name in names.split()}


class RequestLog:
    """ASGI middleware that keeps the last requests.

    Args:
        app: answers them.
        secrets: texts that are shown nowhere.
        on_answer: is told of each request once it was answered.
    """

    def __init__(
        self, app: ASGIApp, secrets: Sequence[str] = (), on_answer: Callable[[Entry], object] | None = None
    ) -> None:
        self._app, self._secrets, self._on_answer = (
            app,
            [text for text in secrets if len(text) >= MIN_SECRET],
            on_answer,
        )
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self._versions = self._numbers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "dbllm.unlogged" in scope:
            await self._app(scope, receive, send)
            return
        entry, began = self._begin(scope), time.perf_counter()
        bodies = entry.path.startswith(MODEL_CALLS)
        tail = b""

        async def receive_noting() -> Message:
            message = await receive()
            part = message.get("body", b"")
            entry.request_bytes += len(part)
            if bodies:
                entry.request += part[: MAX_BODY - len(entry.request)]
            return message

        async def send_noting(message: Message) -> None:
            nonlocal tail
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            part = message.get("body", b"")
            entry.response_bytes += len(part)
            if bodies:
                entry.response += part[: MAX_BODY - len(entry.response)]
                tail = (tail + part)[-4096:]
            await send(message)

        try:
            await self._app(scope, receive_noting, send_noting)
        finally:
            entry.seconds = time.perf_counter() - began
            self._finish(entry, tail)

    @property
    def open(self) -> list[str]:
        """What is being answered: endpoints or, of other requests, paths."""
        return [entry.endpoint or entry.path for entry in self._entries if not entry.seconds]

    def since(self, version: int) -> list[Entry]:
        """The entries that changed after this version, the oldest first."""
        return [entry for entry in self._entries if entry.version > version]

    def body(self, number: int) -> Json | None:
        """The bodies of one request as text without credentials, or None if it is no longer kept."""
        entry = next((entry for entry in self._entries if entry.number == number), None)
        if entry is None:
            return None
        return {
            "request": self._shown(entry.request, entry.request_bytes),
            "response": self._shown(entry.response, entry.response_bytes),
        }

    def _begin(self, scope: Scope) -> Entry:
        path, headers = scope["path"][:500], Headers(scope=scope)
        found, driver = _ENDPOINT.match(path), _DRIVER.match(path)
        endpoint = self._line(unquote(found[1]) if found else f"driver app {driver[1]}" if driver else "")
        agent = self._line(headers.get("user-agent", "")[:200])
        self._versions += 1
        self._numbers += 1
        entry = Entry(self._numbers, self._versions, time.time(), scope["method"], self._line(path), endpoint, agent)
        self._entries.append(entry)
        return entry

    def _finish(self, entry: Entry, tail: bytes) -> None:
        if not entry.endpoint and (model := _MODEL.search(entry.request)):
            entry.endpoint = self._line(model[1].decode("utf-8", "replace"))
        for name, pattern in _TOKENS.items():
            if found := pattern.findall(tail):
                setattr(entry, name, int(found[-1]))
        self._versions += 1
        entry.version = self._versions
        if self._on_answer is not None:
            self._on_answer(entry)

    def _shown(self, kept: bytes | bytearray, size: int) -> str:
        if not size:
            return ""
        if not kept:
            return f"({size} bytes; not kept, for they may hold secrets)"
        text = self._hide(bytes(kept).decode("utf-8", "replace"))
        return text if size <= len(kept) else f"{text}\n({size} bytes in all)"

    def _line(self, text: str) -> str:
        """A text of a stranger's for one line of a terminal: what moves its cursor, or hides in it, is spelled out."""
        shown = self._hide(text)
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _CREDENTIALS.sub("***", text)
