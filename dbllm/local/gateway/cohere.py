"""Cohere's API v2 (https://docs.cohere.com/v2/reference/chat and .../embed) and Databricks' form. All pure.

Messages and tools have OpenAI's form there; the sampling fields, the answer and the events of a stream do not. An
embedding wants to know what its text is for (`input_type`); a document unless the request says otherwise. A
completion is a chat of one message.
"""

from __future__ import annotations

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
    tool_call,
    whole_answer,
)
from dbllm.local.json_values import Json

FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
RENAMED = {"top_p": "p", "top_k": "k", "max_completion_tokens": "max_tokens"}
AS_THEY_ARE = ("max_tokens", "temperature", "stream", "seed", "frequency_penalty", "presence_penalty", "logprobs")
KNOWN = {"messages", "prompt", "stop", "n", "tools", "tool_choice", "response_format", "stream_options"}
KNOWN |= {*AS_THEY_ARE, *RENAMED}
EMBEDDING_FIELDS = {"input", "input_type", "truncate", "encoding_format", "dimensions"}


class Cohere:
    """Command and Embed models at Cohere."""

    def path(self, task: str) -> str:
        if task == RESPONSES:
            raise bad_request("the provider 'cohere' does not answer /responses")
        return "/v2/embed" if task == EMBEDDINGS else "/v2/chat"

    def request(self, task: str, model: str, wanted: Json) -> Json:
        unknown = sorted(wanted.keys() - (EMBEDDING_FIELDS if task == EMBEDDINGS else KNOWN))
        if unknown:
            raise bad_request(f"the field '{unknown[0]}' is not supported by the provider 'cohere'")
        if task == EMBEDDINGS:
            return _embed(model, wanted)
        if wanted.get("n", 1) != 1:
            raise bad_request("the provider 'cohere' gives one choice: 'n' must be 1")
        messages = wanted["messages"] if task == CHAT else [{"role": "user", "content": one_prompt(wanted)}]
        body: Json = {"model": model, "messages": messages}
        body |= {name: wanted[name] for name in AS_THEY_ARE if name in wanted}
        body |= {theirs: wanted[ours] for ours, theirs in RENAMED.items() if ours in wanted}
        if stop := wanted.get("stop"):
            body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        if tools := wanted.get("tools"):
            body["tools"] = [_with_parameters(tool) for tool in as_list(tools)]
            body |= _tool_choice(wanted.get("tool_choice", "auto"))
        if wanted.get("response_format"):
            body["response_format"] = _response_format(wanted["response_format"])
        return body

    def answer(self, task: str, model: str, response: Json) -> Json:
        if task == EMBEDDINGS:
            return _embeddings(model, response)
        message: Any = response["message"]
        text = "".join(part["text"] for part in message.get("content") or () if part["type"] == "text")
        calls = [_chat_call(call) for call in message.get("tool_calls") or ()]
        reason = FINISH.get(str(response["finish_reason"]), "stop")
        return whole_answer(task, str(response["id"]), model, text, calls, reason, _usage(response.get("usage")))

    def reader(self, task: str, model: str) -> Reader:
        return _Events(task, model)


class _Events:
    """Cohere's events as chunks."""

    def __init__(self, task: str, model: str) -> None:
        self.done = False
        self._model = model
        self._chunks = Chunks(task)

    def feed(self, data: str) -> list[Json]:
        if data.strip() == "[DONE]":
            self.done = True
            return []
        event: dict[str, Any] = decode_object(data)
        kind, delta = event["type"], event.get("delta") or {}
        message = delta.get("message") or {}
        if kind == "message-start":
            self._chunks.begin(event["id"], self._model)
            return [self._chunks.text("")]
        if kind in ("content-start", "content-delta"):
            return self._chunks.some_text(message["content"].get("text"))
        if kind == "tool-call-start":
            return [self._chunks.call(event["index"], _chat_call(message["tool_calls"]))]
        if kind == "tool-call-delta":
            arguments = message["tool_calls"]["function"]["arguments"]
            return [self._chunks.call(event["index"], {"function": {"arguments": arguments}})] if arguments else []
        if kind == "message-end":
            self.done = True
            if "error" in delta:
                return [{"error": {"message": delta["error"], "type": delta.get("finish_reason")}}]
            return [self._chunks.end(FINISH.get(delta["finish_reason"], "stop"), _usage(delta.get("usage")))]
        return []


def _chat_call(call: dict[str, Any]) -> Json:
    return tool_call(call["id"], call["function"]["name"], call["function"].get("arguments") or "")


def _with_parameters(tool: object) -> object:
    """Cohere wants the parameters of a function also where it has none."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or not isinstance(function, dict) or function.get("parameters"):
        return tool
    return {**tool, "function": {**function, "parameters": NO_PARAMETERS}}


def _tool_choice(choice: object) -> Json:
    words = {"auto": {}, "none": {"tool_choice": "NONE"}, "required": {"tool_choice": "REQUIRED"}}
    if not isinstance(choice, str) or choice not in words:
        raise bad_request("the provider 'cohere' takes 'tool_choice' as auto, none or required")
    return dict(words[choice])


def _response_format(wanted: Any) -> object:
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        return {"type": "json_object", "json_schema": (wanted.get("json_schema") or {}).get("schema", {})}
    return wanted


def _usage(usage: Any) -> Json:
    tokens = (usage or {}).get("tokens") or (usage or {}).get("billed_units") or {}
    read, written = int(tokens.get("input_tokens") or 0), int(tokens.get("output_tokens") or 0)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _embed(model: str, wanted: Json) -> Json:
    texts = wanted["input"]
    body: Json = {
        "model": model,
        "texts": [texts] if isinstance(texts, str) else texts,
        "input_type": wanted.get("input_type", "search_document"),
        "embedding_types": ["float"],
    }
    body |= {"truncate": wanted["truncate"]} if "truncate" in wanted else {}
    return body | ({"output_dimension": wanted["dimensions"]} if "dimensions" in wanted else {})


def _embeddings(model: str, response: Any) -> Json:
    vectors = response["embeddings"]["float"]
    tokens = int((response.get("meta") or {}).get("billed_units", {}).get("input_tokens") or 0)
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
