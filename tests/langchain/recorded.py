"""A workspace in one function: answers in the form that real endpoints give, chosen by what the request asks for.

What the local workspace's small model cannot do (see a picture, speak like a large model) is tested over these. The
requests are read as strictly as an endpoint reads them, so that a wrong translation fails with a 400.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from dbllm import AsyncClient, Client

HOST = "https://workspace.example.com"
TOKEN = "dapi-recorded"
USAGE = {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30, "prompt_tokens_details": {"cached_tokens": 4}}

_FIELDS = {
    "messages", "temperature", "max_tokens", "n", "stop", "stream", "stream_options", "tools", "tool_choice",
    "response_format", "parallel_tool_calls", "top_p", "custom_inputs",
}  # fmt: skip
_PARTS = {"text": "text", "image_url": "image_url", "input_audio": "input_audio", "file": "file"}
_MESSAGE = {"role", "content", "tool_calls", "tool_call_id"}


class Refused(Exception):
    """The request is not one that an endpoint takes."""


class Recorded:
    """Answers chat requests; keeps them in `bodies`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.endpoints: list[str] = []

    def params(self) -> dict[str, Any]:
        """What makes a LangChain object talk to this."""
        return {
            "client": Client(HOST, TOKEN, transport=httpx.MockTransport(self._answer)),
            "async_client": AsyncClient(HOST, TOKEN, transport=httpx.MockTransport(self._answer)),
        }

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(403, json={"error_code": "PERMISSION_DENIED", "message": "no look-ups here"})
        endpoint = request.url.path.split("/")[2]
        body = json.loads(request.content)
        self.bodies.append(body)
        self.endpoints.append(endpoint)
        try:
            read(body)
        except Refused as error:
            return httpx.Response(400, json={"error_code": "BAD_REQUEST", "message": str(error)})
        message, finish = said(body)
        headers = {"x-request-id": "req-1"}
        if body.get("stream"):
            events = [f"data: {json.dumps(piece)}\n\n" for piece in pieces(endpoint, message, finish)]
            text = "".join([*events, "data: [DONE]\n\n"])
            return httpx.Response(200, headers={**headers, "content-type": "text/event-stream"}, text=text)
        choices = [{"index": place, "message": message, "finish_reason": finish} for place in range(body.get("n", 1))]
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1732000000, "model": f"{endpoint}-0613"}
        return httpx.Response(200, headers=headers, json={**answer, "choices": choices, "usage": USAGE})


def read(body: dict[str, Any]) -> None:
    """Refuse what a chat endpoint refuses."""
    if unknown := body.keys() - _FIELDS:
        raise Refused(f'json: unknown field "{min(unknown)}"')
    asked: set[str] = set()
    for message in body["messages"]:
        if message.keys() - _MESSAGE or message["role"] not in ("system", "user", "assistant", "tool"):
            raise Refused(f"no message: {message}")
        content = message["content"]
        if content == "" and message["role"] == "user":
            raise Refused("a user message is empty")
        for part in content if isinstance(content, list) else []:
            _read_part(part, message["role"])
        asked |= {call["id"] for call in message.get("tool_calls", ())}
        for call in message.get("tool_calls", ()):
            json.loads(call["function"]["arguments"])
        if message["role"] == "tool" and message["tool_call_id"] not in asked:
            raise Refused(f"no call has the id {message['tool_call_id']}")
    for tool in body.get("tools", ()):
        if tool["type"] != "function" or "parameters" not in tool["function"]:
            raise Refused(f"no tool: {tool}")


def _read_part(part: dict[str, Any], role: str) -> None:
    kind = part["type"]
    if kind == "reasoning" and role == "assistant":
        if part.keys() != {"type", "summary"} or any(
            item.keys() - {"type", "text", "signature"} for item in part["summary"]
        ):
            raise Refused(f"no reasoning: {part}")
        return
    if kind not in _PARTS or part.keys() - {"type", _PARTS[kind], "cache_control"}:
        raise Refused(f"no content part: {part}")
    if kind == "image_url" and not part["image_url"]["url"].startswith(("https://", "data:image/")):
        raise Refused(f"no image: {part}")
    if kind == "file" and not part["file"]["filename"]:
        raise Refused("a file has no name")


def said(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(message, finish reason) for a request."""
    tools = body.get("tools") or []
    choice = body.get("tool_choice")
    last = body["messages"][-1]
    if tools and choice != "none" and last["role"] != "tool":
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        tool = next(tool["function"] for tool in tools if named in (None, tool["function"]["name"]))
        arguments = json.dumps(_fit(tool["parameters"], str(last["content"])), ensure_ascii=False)
        call = {"id": "call_1", "type": "function", "function": {"name": tool["name"], "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return {"role": "assistant", "content": json.dumps(_fit(form["json_schema"]["schema"], ""))}, "stop"
    if form.get("type") == "json_object":
        joke = {"setup": "Why did the cat sit on the keyboard?", "punchline": "It wanted the mouse."}
        return {"role": "assistant", "content": json.dumps(joke)}, "stop"
    return {"role": "assistant", "content": "Hello! How can I help you today?"}, "stop"


def _fit(schema: dict[str, Any], about: str) -> Any:
    """A value for a schema, with the words of the request where it has any in quotes."""
    if "anyOf" in schema:
        return _fit(schema["anyOf"][0], about)
    if "properties" in schema or schema.get("type") == "object":
        return {name: _fit(inner, about) for name, inner in schema.get("properties", {}).items()}
    if schema.get("type") == "integer":
        return next((int(word) for word in about.replace("(", " ").replace(")", " ").split() if word.isdigit()), 3)
    return about.split("'")[1] if about.count("'") >= 2 else "San Francisco"


def pieces(endpoint: str, message: dict[str, Any], finish: str) -> Iterator[dict[str, Any]]:
    """A message as the chunks of a stream: usage grows on every chunk, as pay-per-token models send it."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for place, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        deltas.append({"tool_calls": [{**call, "index": place, "function": {**function, "arguments": ""}}]})
        text = function["arguments"]
        parts = (text[at : at + 5] for at in range(0, len(text), 5))
        deltas += [{"tool_calls": [{"index": place, "function": {"arguments": part}}]} for part in parts]
    words = (message["content"] or "").split(" ")
    deltas += [{"content": word if place == 0 else " " + word} for place, word in enumerate(words) if word]
    for number, delta in enumerate(deltas, 1):
        usage = {**USAGE, "completion_tokens": number, "total_tokens": 21 + number}
        choice = {"index": 0, "delta": delta, "finish_reason": finish if number == len(deltas) else None}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": f"{endpoint}-0613"}
        yield {**head, "choices": [choice], "usage": usage}


Answer = Callable[[httpx.Request], httpx.Response]


def answering(answer: Answer) -> dict[str, Any]:
    """What makes a LangChain object talk to a function of the test's own."""
    return {
        "client": Client(HOST, TOKEN, transport=httpx.MockTransport(answer)),
        "async_client": AsyncClient(HOST, TOKEN, transport=httpx.MockTransport(answer)),
    }
