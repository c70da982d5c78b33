"""Messages as attributes of a span: in the conventions' shape, as JSON, and no longer than allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def input_messages(body: Any, limit: int) -> str:
    """What a verb sends, as JSON of at most about `limit` characters; "" if it has no messages."""
    content = body if isinstance(body, Mapping) else {}
    found = content.get("messages", content.get("input", content.get("prompt")))
    if isinstance(found, str) or (isinstance(found, Sequence) and all(isinstance(each, str) for each in found)):
        texts = [found] if isinstance(found, str) else [*found]
        found = [{"role": "user", "content": text} for text in texts]
    if not isinstance(found, Sequence):
        return ""
    return _as_json([_as_message(item) for item in found], limit)


def output_messages(reply: Any, finish_reason: str | None, limit: int) -> str:
    """What a reply says, as JSON of at most about `limit` characters; "" if it has no text and no tool calls."""
    if isinstance(reply, str):
        said: list[dict[str, Any]] = [{"role": "assistant", "parts": [_text_part(reply)]}]
    elif isinstance(choices := getattr(reply, "choices", None), list) and choices:
        messages = [getattr(choice, "message", None) for choice in choices]
        said = [
            _as_message(message.model_dump()) if message else {"role": "assistant", "parts": [_text_part(reply.text)]}
            for message in messages
        ]
    else:
        text = getattr(reply, "text", None)
        said = [{"role": "assistant", "parts": [_text_part(text)]}] if isinstance(text, str) and text else []
    for message in said:
        message["finish_reason"] = finish_reason or ""
    return _as_json(said, limit) if said else ""


def _as_message(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        item = item.model_dump() if hasattr(item, "model_dump") else {"content": str(item)}
    role, content = str(item.get("role") or item.get("type") or "user"), item.get("content")
    if role == "tool":
        return {
            "role": role,
            "parts": [{"type": "tool_call_response", "id": item.get("tool_call_id"), "response": content}],
        }
    parts = [_text_part(content)] if isinstance(content, str) and content else []
    for part in content if isinstance(content, Sequence) and not isinstance(content, str) else ():
        text = part.get("text") if isinstance(part, Mapping) else None
        kind = part.get("type") if isinstance(part, Mapping) else None
        parts.append(
            _text_part(text) if isinstance(text, str) else {"type": str(kind or "unknown")}
        )  # of an image its kind
    for call in item.get("tool_calls") or ():
        call = call if isinstance(call, Mapping) else {}
        function = call.get("function") or {}
        parts.append(
            {
                "type": "tool_call",
                "id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return {"role": role, "parts": parts}


def _text_part(text: Any) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _as_json(messages: list[dict[str, Any]], limit: int) -> str:
    """The last messages first get their share: they are what the answer is about."""
    left, kept = limit, []
    for message in reversed(messages):
        for part in message["parts"]:
            for name in ("content", "arguments", "response"):
                if isinstance(text := part.get(name), str):
                    if len(text) > left:
                        part[name] = (
                            f"{text[:left]}… ({len(text)} characters)" if left else f"… ({len(text)} characters)"
                        )
                    left = max(0, left - len(text))
        kept.append(message)
        if not left:
            break
    return json.dumps(kept[::-1], ensure_ascii=False, default=str)
