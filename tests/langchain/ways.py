"""The ways in which one answer is had, and what each of them makes of it, in the same words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
from answers import Answer
from recorded import answering

from dbllm.langchain import ChatDatabricks

Facts = dict[str, Any]


class Server:
    """Gives the answer that is set, whole or as a stream; and what asks it."""

    def __init__(self) -> None:
        self.answer: Any = None
        clients = answering(self._give)
        self.client, self.async_client = clients["client"], clients["async_client"]
        self.chat = ChatDatabricks(model="m", **clients)
        self.agent = ChatDatabricks(model="m", use_responses_api=True, **clients)

    def _give(self, request: httpx.Request) -> httpx.Response:
        if not json.loads(request.content).get("stream"):
            return httpx.Response(200, json=self.answer.body)
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in self.answer.events) + "data: [DONE]\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


def summed(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


async def every_way(server: Server, answer: Answer) -> dict[str, Callable[[], Facts] | Facts]:
    """What each way makes of the answer."""
    server.answer = answer
    agent = "output" in answer.body
    model = server.agent if agent else server.chat
    endpoint = server.client.endpoint("m", task="responses" if agent else "chat")
    ask, stream = (endpoint.respond, endpoint.stream_respond) if agent else (endpoint.chat, endpoint.stream_chat)
    read = of_response if agent else of_chat
    found: dict[str, Any] = {"invoke": of_message(model.invoke("x"))}
    found["stream"] = of_chunks(list(model.stream("x")))
    found["ainvoke"] = of_message(await model.ainvoke("x"))
    found["astream"] = of_chunks([chunk async for chunk in model.astream("x")])
    found["native"] = read(ask("x"))
    with stream("x") as pieces:
        found["native stream"] = read(pieces.final())
    return found


def expected(answer: Answer) -> Facts:
    """What is right."""
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "signature": answer.signature,
        "calls": [_call(call.name, call.arguments) for call in answer.calls],
        "finish": answer.finish,
        "usage": answer.usage,
        "extras": answer.extras,
        "beside calls": [call.extra for call in answer.calls],
    }


def _call(name: Any, arguments: Any) -> tuple[Any, Any]:
    """A call with its arguments; with their text where they are no JSON object."""
    try:
        read = json.loads(arguments or "{}")
    except ValueError:
        return name, arguments
    return name, read if isinstance(read, dict) else arguments


def of_message(message: Any) -> Facts:
    kept = dict(message.additional_kwargs)
    beside = kept.pop("tool_call_extras", {})
    calls = [(call["id"], call["name"], call["args"]) for call in (*message.tool_calls, *message.invalid_tool_calls)]
    tokens = message.usage_metadata
    blocks = message.content if isinstance(message.content, list) else []
    summary = [part for block in blocks if isinstance(block, dict) for part in block.get("summary") or ()]
    return {
        "text": str(message.text),
        "reasoning": "".join(part.get("text", "") for part in summary) or kept.get("reasoning_content", ""),
        "signature": "".join(part.get("signature", "") for part in summary) or None,
        "calls": [(name, arguments) for _, name, arguments in calls],
        "finish": _finish(message.response_metadata),
        "usage": (tokens["input_tokens"], tokens["output_tokens"]) if tokens else None,
        "extras": kept,
        "beside calls": [beside.get(call_id, {}) for call_id, _, _ in calls],
        "ids": [call_id for call_id, _, _ in calls],
        "id": message.id,
    }  # fmt: skip


def _finish(metadata: Facts) -> Any:
    details = metadata.get("incomplete_details") or {}
    return details.get("reason") or metadata.get("status") or metadata.get("finish_reason")


def of_chunks(chunks: list[Any]) -> Facts:
    return {**of_message(summed(chunks)), "ids of chunks": {chunk.id for chunk in chunks}}


def of_chat(reply: Any) -> Facts:
    message = reply.message
    kept = {name: value for name, value in (message.model_extra or {}).items() if value is not None}
    blocks = message.content if isinstance(message.content, list) else []
    thoughts = [block for block in blocks if block["type"] == "reasoning"]
    parts = [part for block in thoughts for part in block["summary"]]
    signatures = [part["signature"] for part in parts if "signature" in part]
    calls = message.tool_calls or []
    return {
        "text": reply.text,
        "reasoning": "".join(part["text"] for part in parts) or kept.get("reasoning_content", ""),
        "signature": signatures[-1] if signatures else None,
        "calls": [_call(call.function.name, call.function.arguments) for call in calls],
        "finish": reply.finish_reason,
        "usage": (reply.usage.prompt_tokens, reply.usage.completion_tokens) if reply.usage else None,
        "extras": kept,
        "beside calls": [{k: v for k, v in (call.model_extra or {}).items() if k != "index"} for call in calls],
        "blocks of reasoning": len(thoughts),
    }


def of_response(reply: Any) -> Facts:
    details = (reply.model_extra or {}).get("incomplete_details") or {}
    calls = [item for item in reply.output if item.type == "function_call"]
    thoughts = [item.model_dump()["summary"] for item in reply.output if item.type == "reasoning"]
    return {
        "text": reply.text,
        "reasoning": "".join(part["text"] for summary in thoughts for part in summary),
        "signature": None,
        "calls": [_call(call.name, call.arguments) for call in calls],
        "finish": details.get("reason") or reply.status,
        "usage": (reply.usage.prompt_tokens, reply.usage.completion_tokens) if reply.usage else None,
        "extras": {},
        "beside calls": [{} for _ in calls],
    }


def flaws(answer: Answer, found: dict[str, Any], *, new: bool = True) -> list[str]:
    """Where a way says something else than what is right; with `new`, ids and the form of reasoning too."""
    wrong = []
    for way, facts in found.items():
        wrong += [
            f"{way}: {name} is {facts[name]!r}, not {value!r}"
            for name, value in expected(answer).items()
            if _sorted(name, facts[name]) != _sorted(name, value)
        ]
        if not new:
            continue
        ids = facts.get("ids", [])
        if not all(ids) or len(set(ids)) < len(ids):
            wrong.append(f"{way}: the ids of calls are {ids}")
        if "id" in facts and not str(facts["id"]).startswith("lc_run-"):
            wrong.append(f"{way}: the message's id is {facts['id']!r}")
        if len(facts.get("ids of chunks", ())) > 1:
            wrong.append(f"{way}: the chunks have the ids {facts['ids of chunks']}")
        if facts.get("blocks of reasoning", 0) > 1:
            wrong.append(f"{way}: the reasoning is {facts['blocks of reasoning']} blocks")
    return wrong


def _sorted(name: str, value: Any) -> Any:
    """LangChain keeps invalid calls after the valid ones."""
    return sorted(map(repr, value)) if name in ("calls", "beside calls") else value
