"""Anthropic's Messages API (https://docs.anthropic.com/en/api/messages) and Databricks' chat form. All pure.

What differs: `max_tokens` is required, the system text stands beside the messages, a tool's result is a part of a
user's message, temperatures go from 0 to 1 (Databricks' from 0 to 2, so they are halved, as MLflow's gateway does),
and a stream is made of blocks that start, grow and stop. A completion is a chat of one message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dbllm.local.errors import bad_request
from dbllm.local.gateway.dialect import (
    CHAT,
    EMBEDDINGS,
    NO_PARAMETERS,
    RESPONSES,
    Chunks,
    Reader,
    as_list,
    decode_object,
    one_prompt,
    text_of,
    tool_call,
    whole_answer,
)
from dbllm.local.json_values import Json

API_VERSION = "2023-06-01"
"""The API's version, a header of every request."""

DEFAULT_MAX_TOKENS = 4096
"""Tokens of an answer when the request does not say; every Claude model can give as many."""

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
AS_THEY_ARE = ("top_p", "top_k", "stream", "thinking", "metadata")
KNOWN = {"messages", "prompt", "max_tokens", "max_completion_tokens", "stop", "temperature", "n", "tools"}
KNOWN |= {"tool_choice", "parallel_tool_calls", "stream_options", *AS_THEY_ARE}


class Anthropic:
    """Claude models at Anthropic."""

    def path(self, task: str) -> str:
        if task == EMBEDDINGS:
            raise bad_request("the provider 'anthropic' has no embedding models")
        if task == RESPONSES:
            raise bad_request("the provider 'anthropic' does not answer /responses")
        return "/messages"

    def request(self, task: str, model: str, wanted: Json) -> Json:
        unknown = sorted(wanted.keys() - KNOWN)
        if unknown:
            raise bad_request(f"the field '{unknown[0]}' is not supported by the provider 'anthropic'")
        if wanted.get("n", 1) != 1:
            raise bad_request("the provider 'anthropic' gives one choice: 'n' must be 1")
        messages = as_list(wanted["messages"]) if task == CHAT else [{"role": "user", "content": one_prompt(wanted)}]
        body: Json = {"model": model, "messages": _anthropic_messages(messages), "max_tokens": _max_tokens(wanted)}
        system = "\n".join(text_of(message) for message in messages if message["role"] in ("system", "developer"))
        if system:
            body["system"] = system
        if stop := wanted.get("stop"):
            body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        temperature = wanted.get("temperature")
        if temperature is not None:
            body["temperature"] = temperature / 2 if isinstance(temperature, int | float) else temperature
        if tools := wanted.get("tools"):
            body["tools"] = [_anthropic_tool(tool) for tool in as_list(tools)]
            body["tool_choice"] = _tool_choice(wanted.get("tool_choice", "auto"))
            if wanted.get("parallel_tool_calls") is False:
                body["tool_choice"] |= {"disable_parallel_tool_use": True}  # type: ignore[operator]
        return body | {name: wanted[name] for name in AS_THEY_ARE if name in wanted}

    def answer(self, task: str, model: str, response: Json) -> Json:
        blocks: Any = response["content"]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = [
            tool_call(block["id"], block["name"], json.dumps(block["input"]))
            for block in blocks
            if block["type"] == "tool_use"
        ]
        reason = FINISH.get(str(response["stop_reason"]), "stop")
        return whole_answer(
            task, str(response["id"]), str(response["model"]), text, calls, reason, _usage(response["usage"])
        )

    def reader(self, task: str, model: str) -> Reader:
        return _Events(task)


class _Events:
    """Anthropic's events as chunks."""

    def __init__(self, task: str) -> None:
        self.done = False
        self._chunks = Chunks(task)
        self._calls: dict[int, int] = {}  # the number of a tool_use block among the blocks → among the calls
        self._usage: dict[str, Any] = {}

    def feed(self, data: str) -> list[Json]:
        event: dict[str, Any] = decode_object(data)
        kind = event["type"]
        if kind == "message_start":
            message = event["message"]
            self._usage.update(message.get("usage") or {})
            self._chunks.begin(message["id"], message["model"])
            return [self._chunks.text("")]
        if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            block, number = event["content_block"], len(self._calls)
            self._calls[event["index"]] = number
            return [self._chunks.call(number, tool_call(block["id"], block["name"], ""))]
        if kind == "content_block_start":
            return self._chunks.some_text(event["content_block"].get("text"))
        if kind == "content_block_delta":
            return self._delta(event["index"], event["delta"])
        if kind == "message_delta":
            self._usage.update(event.get("usage") or {})
            return [self._chunks.end(FINISH.get(event["delta"]["stop_reason"], "stop"), _usage(self._usage))]
        if kind == "error":
            self.done = True
            return [{"error": event["error"]}]
        self.done = kind == "message_stop"
        return []

    def _delta(self, block: int, delta: dict[str, Any]) -> list[Json]:
        if delta["type"] == "input_json_delta":
            more = delta["partial_json"]
            return [self._chunks.call(self._calls[block], {"function": {"arguments": more}})] if more else []
        return self._chunks.some_text(delta["text"] if delta["type"] == "text_delta" else None)


def _max_tokens(wanted: Json) -> object:
    return wanted.get("max_tokens") or wanted.get("max_completion_tokens") or DEFAULT_MAX_TOKENS


def _anthropic_messages(messages: Iterable[Mapping[str, Any]]) -> list[Json]:
    turns: list[Json] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            continue
        if role not in ("user", "assistant", "tool"):
            raise bad_request(f"the role '{role}' of a message is not one of system, user, assistant, tool")
        speaker = "assistant" if role == "assistant" else "user"
        blocks = _content_blocks(message)
        # Results of parallel calls must stand in one message, and roles must alternate.
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] = [*turns[-1]["content"], *blocks]  # type: ignore[misc]
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    return turns


def _content_blocks(message: Mapping[str, Any]) -> list[Json]:
    if message["role"] == "tool":
        result = {"tool_use_id": str(message.get("tool_call_id", "")), "content": text_of(message)}
        return [{"type": "tool_result", **result}]
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    # Anthropic refuses empty texts, which stand beside tool calls in OpenAI's form.
    blocks = [_content_block(part) for part in parts if part.get("type") != "text" or part.get("text")]
    for call in as_list(message.get("tool_calls") or []):
        blocks.append(_tool_use(call))
    return blocks


def _tool_use(call: Mapping[str, Any]) -> Json:
    try:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        decoded = json.loads(arguments or "{}")
    except (KeyError, TypeError, ValueError) as error:
        raise bad_request(
            f"a tool call must have a function with 'name' and 'arguments' that are JSON: {error}"
        ) from None
    return {"type": "tool_use", "id": str(call.get("id", "")), "name": name, "input": decoded}


def _content_block(part: Mapping[str, Any]) -> Json:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "image_url" and isinstance(part.get("image_url"), dict | str):
        image = part["image_url"]
        url = str(image if isinstance(image, str) else image.get("url", ""))
        data = re.fullmatch(r"data:(image/[\w.+-]+);base64,(.*)", url, re.S)
        source = {"type": "base64", "media_type": data[1], "data": data[2]} if data else {"type": "url", "url": url}
        return {"type": "image", "source": source}
    raise bad_request(f"a content part of the type '{kind}' cannot be sent to the provider 'anthropic'")


def _anthropic_tool(tool: object) -> Json:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request("each of 'tools' must be a function with a name")
    schema = function.get("parameters") or NO_PARAMETERS
    about = {"description": function["description"]} if function.get("description") else {}
    return {"name": function["name"], **about, "input_schema": schema}


def _tool_choice(choice: object) -> Json:
    words = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}, "any": {"type": "any"}}
    if isinstance(choice, str) and choice in words:
        return dict(words[choice])
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request("field 'tool_choice' must be auto, none, required or name a function")
    return {"type": "tool", "name": function["name"]}


def _usage(usage: Any) -> Json:
    """Anthropic counts what it read from a cache, or wrote there, beside the input tokens."""
    cached = usage.get("cache_read_input_tokens") or 0
    read = (usage.get("input_tokens") or 0) + cached + (usage.get("cache_creation_input_tokens") or 0)
    written = usage.get("output_tokens") or 0
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
