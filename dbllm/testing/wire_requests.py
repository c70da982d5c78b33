"""Which model a request calls, and in which of Databricks' wire formats. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import unquote

WireKind = Literal[
    "chat", "completions", "embeddings", "responses", "messages", "agent", "custom", "driver_app", "other"
]
"""What a request asks for; "messages" is Anthropic's interface, "agent" an agent on Databricks Apps, "other" all that
calls no model."""

_INVOCATION = re.compile(r"/serving-endpoints/([^/]+)/(?:served-models/[^/]+/)?invocations/?$")
_BY_MODEL = re.compile(r"/(chat/completions|completions|embeddings|responses|open-responses)/?$")
_MESSAGES = re.compile(r"/anthropic/v1/messages/?$")
_DRIVER_APP = re.compile(r"^/driver-proxy(?:-api)?/o/[^/]+/([^/]+)/(\d+)(?:/.*)?$")
_APP = re.compile(r"^/(?:api/invocations|responses|invocations)/?$")
_KINDS: dict[str, WireKind] = {
    "chat/completions": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "open-responses": "responses",
}


def target_of(method: str, path: str, body: dict[str, Any], app: str = "") -> tuple[WireKind, str]:
    """What a request calls: the kind, and the endpoint, model service, app or driver app ("cluster:port").

    Args:
        method, path: as on the wire.
        body: its JSON object.
        app: the app at whose own port it arrived.
    """
    path = path.partition("?")[0]
    if method != "POST":
        return "other", ""
    if _APP.match(path) and (app or path.startswith("/api/") or "model" not in body):
        return "agent", app or str(body.get("model", "")).removeprefix("apps/")
    if found := _INVOCATION.search(path):
        return _kind_of_body(body), unquote(found[1])
    if found := _DRIVER_APP.match(path):
        return "driver_app", f"{unquote(found[1])}:{found[2]}"
    if _MESSAGES.search(path):
        return "messages", str(body.get("model", ""))
    if found := _BY_MODEL.search(path):
        return _KINDS[found[1]], str(body.get("model", ""))
    return "other", ""


def _kind_of_body(body: dict[str, Any]) -> WireKind:
    if "messages" in body:
        return "chat"
    if "prompt" in body:
        return "completions"
    if "input" in body:
        value = body["input"]
        texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return "embeddings" if texts else "responses"
    return "custom"


def wants_stream(kind: WireKind, body: dict[str, Any], accept: str) -> bool:
    """Whether a request asks for an event stream. Driver apps are asked by their `Accept` header."""
    if kind == "driver_app":
        return "text/event-stream" in accept
    return bool(body.get("stream")) and kind not in ("embeddings", "custom", "other")


def messages_of(kind: WireKind, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that a model is sent; a prompt or an input that is a text is one message of the user."""
    value = body.get("messages")
    if kind == "messages" and body.get("system") and isinstance(value, list):
        value = [{"role": "system", "content": body["system"]}, *value]
    if value is None and kind in ("responses", "agent"):
        value = body.get("input")
        if isinstance(value, dict):
            value = value.get("messages", value.get("input"))
        instructions = body.get("instructions")
        if isinstance(instructions, str):
            value = [{"role": "system", "content": instructions}, *(value if isinstance(value, list) else [value])]
    if value is None:
        value = body.get("prompt")
    if value is None and kind == "custom":
        rows = body.get("dataframe_records") or body.get("instances") or body.get("inputs")
        first = rows[0] if isinstance(rows, list) and rows else rows
        value = first.get("prompt", first.get("messages")) if isinstance(first, dict) else first
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [{"role": "user", "content": item} if isinstance(item, str) else item for item in items if item is not None]


def text_of_content(content: Any) -> str:
    """The text in a message's content: a text, or the texts of its parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
