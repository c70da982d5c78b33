"""The answers of the fault server when no upstream is behind it: small, of Databricks' shapes, and of the prompt alone.

A chat, a completion or a response repeats the prompt, so that a caller sees at once if it got somebody else's answer.
The vector of a text is `[vector_of(text)]`, a number that no other text is likely to have.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

JSON = b"application/json"
EVENTS = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was received.

    Attributes:
        method, path: as on the wire; the path with its query.
        headers: names in lower case.
        body: undecoded.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A body; or, of a stream, the server-sent events, each a piece of its own."""

    pieces: tuple[bytes, ...]
    content_type: bytes = JSON

    @property
    def streams(self) -> bool:
        return self.content_type == EVENTS


def vector_of(text: str) -> float:
    """The one number in a text's vector."""
    return float(zlib.crc32(text.encode("utf-8", "surrogatepass")))


def json_body(asked: Asked) -> dict[str, Any]:
    """The body, if it is a JSON object; else an empty one."""
    try:
        body = json.loads(asked.body) if asked.body else {}
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}


def prompt_of(body: dict[str, Any]) -> str | None:
    """The text that a request asks about: its last message, its prompt, or its first input."""
    for name in ("messages", "input", "inputs", "prompt", "instances", "dataframe_records"):
        found = body.get(name)
        if name in ("messages", "dataframe_records", "instances") or isinstance(found, list):
            items = found if isinstance(found, list) and found else [None]
            found = items[-1] if name == "messages" else items[0]
        if isinstance(found, dict):
            found = found.get("content", found.get("prompt"))
        if isinstance(found, str):
            return found
    return None


def nonce_of(asked: Asked, prompt: str | None) -> str:
    """What the request is counted by; see `fault_plans`."""
    return asked.headers.get("x-nonce") or prompt or f"{asked.method} {asked.path}"


def answer_to(asked: Asked, body: dict[str, Any], prompt: str | None) -> ModelAnswer:
    """The answer of a server without faults."""
    if asked.path.partition("?")[0].endswith(("databricks-config", "oauth-authorization-server", "/v1/token")):
        base = f"http://{asked.headers.get('host', '127.0.0.1')}/oidc"
        found = {"oidc_endpoint": base, "token_endpoint": f"{base}/v1/token"}
        token = {"access_token": "fault-server-token", "token_type": "Bearer", "expires_in": 3600}
        return _json_answer(token if asked.path.endswith("/v1/token") else found)
    if asked.method != "POST" or prompt is None:
        return _json_answer(_managed(asked))
    accepts = asked.headers.get("accept", "")
    if body.get("stream") or "event-stream" in accepts:
        return ModelAnswer(tuple(_events(body, prompt)), EVENTS)
    return _json_answer(_whole_answer(body, prompt))


def _json_answer(value: object) -> ModelAnswer:
    return ModelAnswer((json.dumps(value).encode(),))


def _managed(asked: Asked) -> dict[str, object]:
    """The control plane: every endpoint exists, is ready and is of a chat model."""
    parts = asked.path.partition("?")[0].strip("/").split("/")
    state = {"ready": "READY", "config_update": "NOT_UPDATING"}
    endpoint: dict[str, object] = {"name": parts[-1], "task": "llm/v1/chat", "state": state}
    if parts[-1] == "serving-endpoints":
        endpoint["name"] = "new" if asked.method == "POST" else "one"
        return endpoint if asked.method == "POST" else {"endpoints": [endpoint]}
    return endpoint if "serving-endpoints" in parts else {}


def _whole_answer(body: dict[str, Any], prompt: str) -> object:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if "messages" in body:
        message = {"role": "assistant", "content": prompt}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        kind = {"id": "chat", "object": "chat.completion", "created": 1, "model": "echo"}
        return {**kind, "choices": [choice], "usage": usage}
    if "input" in body and not isinstance(body["input"], str) and prompt in body["input"]:
        data = [
            {"object": "embedding", "index": place, "embedding": [vector_of(text)]}
            for place, text in enumerate(body["input"])
            if isinstance(text, str)
        ]
        return {"object": "list", "model": "echo", "data": data, "usage": usage}
    if "input" in body:
        content = [{"type": "output_text", "text": prompt, "annotations": []}]
        item = {"type": "message", "id": "message", "role": "assistant", "status": "completed", "content": content}
        return {"id": "response", "object": "response", "status": "completed", "output": [item]}
    if "prompt" in body:
        choice = {"index": 0, "text": prompt, "finish_reason": "stop"}
        return {"id": "text", "object": "text_completion", "model": "echo", "choices": [choice], "usage": usage}
    return {"predictions": [prompt]}


def _events(body: dict[str, Any], prompt: str) -> list[bytes]:
    middle = len(prompt) // 2
    frames: list[dict[str, object]] = []
    for text, end in ((prompt[:middle], None), (prompt[middle:], None), ("", "stop")):
        said: dict[str, object] = {"delta": {"content": text}} if "messages" in body else {"text": text}
        frames.append({"id": "stream", "model": "echo", "choices": [{"index": 0, **said, "finish_reason": end}]})
    return [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames] + [b"data: [DONE]\n\n"]
