"""Anthropic's Messages API in front of the workspace: its requests as chat requests, chat answers as its messages.

The other direction than `anthropic`, which speaks to Anthropic. All pure: JSON in, JSON out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dbllm.local.errors import bad_request
from dbllm.local.json_values import Json, json_type

SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
"""Fields that mean the same in a chat request."""
READ = ("messages", "system", "stop_sequences", "tools", "tool_choice", "output_config", "output_format")
WITHOUT_MEANING = ("metadata", "service_tier", "thinking", "cache_control", "context_management", "inference_geo")
"""Fields that are accepted and say nothing to this model."""
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
SKIPPED_BLOCKS = ("thinking", "redacted_thinking")
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_messages(body: object) -> Json:
    """A Messages request as a chat request.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object, got {json_type(body)}")
    fields = {name: value for name, value in body.items() if value is not None}
    unknown = sorted(fields.keys() - {*SAME, *READ, *WITHOUT_MEANING})
    if unknown:
        raise bad_request(f"{unknown[0]}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        if name not in fields:
            raise bad_request(f"{name}: Field required")
    if not isinstance(fields["messages"], list) or not fields["messages"]:
        raise bad_request("messages: must be a list of at least one message")
    chat: Json = {name: fields[name] for name in SAME if name in fields}
    system = _joined_text("system", fields.get("system", ""))
    turns = [turn for number, one in enumerate(fields["messages"]) for turn in _turns(f"messages.{number}", one)]
    chat["messages"] = [*([{"role": "system", "content": system}] if system else []), *turns]
    if stop := fields.get("stop_sequences"):
        chat["stop"] = stop
    if tools := fields.get("tools"):
        chat["tools"] = [_chat_tool(f"tools.{number}", tool) for number, tool in enumerate(_list_of("tools", tools))]
        chat |= _choice_fields(fields.get("tool_choice") or {"type": "auto"})
    config = fields.get("output_config") or {}
    wanted = fields.get("output_format") or (config.get("format") if isinstance(config, dict) else None)
    if wanted:
        chat["response_format"] = _schema_format(wanted)
    return chat


def _turns(where: str, message: object) -> Iterator[Json]:
    """One message as chat messages: results of tools are messages of their own there."""
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or role not in ("user", "assistant"):
        raise bad_request(f"{where}.role: must be user or assistant, got {role!r}")
    content = message.get("content")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    parts: list[Json] = []
    calls: list[Json] = []
    for number, block in enumerate(_list_of(f"{where}.content", content)):
        kind = block.get("type") if isinstance(block, dict) else None
        place = f"{where}.content.{number}"
        if kind == "tool_result" and role == "user":
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _result(place, block)}
        elif kind == "tool_use" and role == "assistant":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "text":
            parts.append({"type": "text", "text": block.get("text")})
        elif kind == "image" and role == "user":
            parts.append({"type": "image_url", "image_url": {"url": _image_url(place, block.get("source"))}})
        elif kind not in SKIPPED_BLOCKS:
            raise bad_request(f"{place}.type: a message of the role {role} has no block of the type {kind!r}")
    if calls:
        yield {"role": role, "content": parts or None, "tool_calls": calls}
    elif parts:
        yield {"role": role, "content": parts}


def _list_of(where: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise bad_request(f"{where}: must be a list, got {json_type(value)}")
    return value


def _joined_text(where: str, content: object) -> str:
    """A text that may come in blocks."""
    if isinstance(content, str):
        return content
    blocks = _list_of(where, content)
    if not all(isinstance(block, dict) and isinstance(block.get("text"), str) for block in blocks):
        raise bad_request(f"{where}: must be a string or a list of text blocks")
    return "\n".join(block["text"] for block in blocks)


def _result(where: str, block: Mapping[str, Any]) -> str:
    text = _joined_text(f"{where}.content", block.get("content") or "")
    return f"Error: {text}" if block.get("is_error") else text or "(empty)"


def _image_url(where: str, source: object) -> str:
    if isinstance(source, dict) and source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    if isinstance(source, dict) and source.get("type") == "url":
        return str(source.get("url"))
    raise bad_request(f"{where}.source: must be of the type base64 or url")


def _chat_tool(where: str, tool: object) -> Json:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or "input_schema" not in tool:
        raise bad_request(f"{where}: must be a tool with 'name' and 'input_schema'; this model has no tools of its own")
    about = {"description": tool["description"]} if tool.get("description") else {}
    return {"type": "function", "function": {"name": tool["name"], **about, "parameters": tool["input_schema"]}}


def _choice_fields(choice: object) -> Json:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or kind not in (*CHOICES, "tool"):
        raise bad_request(f"tool_choice.type: must be auto, any, none or tool, got {kind!r}")
    named = {"type": "function", "function": {"name": choice.get("name")}}
    wanted: Json = {"tool_choice": named if kind == "tool" else CHOICES[str(kind)]}
    return {**wanted, "parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else wanted


def _schema_format(wanted: object) -> Json:
    if (
        not isinstance(wanted, dict)
        or wanted.get("type") != "json_schema"
        or not isinstance(wanted.get("schema"), dict)
    ):
        raise bad_request("output_config.format: must be of the type json_schema, with a 'schema'")
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": wanted["schema"]}}


def whole_message(answer: Mapping[str, Any]) -> Json:
    """A chat answer as a message."""
    choice = answer["choices"][0]
    message = choice["message"]
    blocks: list[Json] = [{"type": "text", "text": message["content"]}] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": _input_of(call)}
        )
    reason = STOP_REASONS.get(choice["finish_reason"], "end_turn")
    return {**_head(answer, blocks, answer.get("usage") or {}), "stop_reason": reason}


def _input_of(call: Mapping[str, Any]) -> object:
    """The arguments of a call; none of those that were cut off by `max_tokens`."""
    try:
        return json.loads(call["function"]["arguments"] or "{}")
    except ValueError:
        return {}


def _head(answer: Mapping[str, Any], blocks: list[Json], usage: Mapping[str, Any]) -> Json:
    return {
        "id": f"msg_{str(answer['id'])[-32:]}",
        "type": "message",
        "role": "assistant",
        "model": answer["model"],
        "content": blocks,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _spent(usage),
    }


def _spent(usage: Mapping[str, Any]) -> Json:
    """Tokens: what was read from a cache is counted beside the input there."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": (usage.get("prompt_tokens") or 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens") or 0,
    }


class MessageStream:
    """The chunks of a chat answer as the events of a message: blocks that start, grow and stop."""

    def __init__(self) -> None:
        self._started = self._failed = False
        self._open: str | None = None  # the block that grows: text, or the id of a call
        self._blocks = 0
        self._reason = "end_turn"
        self._usage: Mapping[str, Any] = {}

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Json]:
        """The events of a chunk."""
        if "error" in chunk:
            self._failed = True
            yield {"type": "error", "error": {"type": "api_error", "message": _reason_of(chunk["error"])}}
            return
        self._usage = chunk.get("usage") or self._usage
        if not self._started:
            self._started = True
            yield {"type": "message_start", "message": _head(chunk, [], {**self._usage, "completion_tokens": 1})}
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("content"):
                yield from self._grow("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": delta["content"]})
            for call in delta.get("tool_calls") or ():
                yield from self._call(call)
            if choice.get("finish_reason"):
                self._reason = STOP_REASONS.get(choice["finish_reason"], "end_turn")

    def _call(self, call: Mapping[str, Any]) -> Iterator[Json]:
        function = call.get("function") or {}
        if call.get("id"):
            block: Json = {"type": "tool_use", "id": call["id"], "name": function.get("name"), "input": {}}
            yield from self._grow(str(call["id"]), block)
        if function.get("arguments"):
            yield self._delta({"type": "input_json_delta", "partial_json": function["arguments"]})

    def end(self) -> Iterator[Json]:
        """The events behind the last chunk; none behind an error."""
        if self._failed:
            return
        yield from self._stop()
        delta = {"stop_reason": self._reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": _spent(self._usage)}
        yield {"type": "message_stop"}

    def _grow(self, name: str, block: Json) -> Iterator[Json]:
        if self._open != name:
            yield from self._stop()
            self._open = name
            yield {"type": "content_block_start", "index": self._blocks, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _stop(self) -> Iterator[Json]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._blocks}
            self._blocks += 1


def _reason_of(error: object) -> str:
    return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
