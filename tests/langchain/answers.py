"""A grammar of answers: what servers send, whole and as a stream, and what everybody should make of it.

Each answer is drawn from a seed. It says which of the features it has, so that a test can show what it has covered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TEXTS = ["Hello", " there", " – how", " are you?", "你好", "\n", " 1 + 1", ' "quoted"']
NAMES = ["add", "weather", "find_river"]
CUT = ['{"path": "/a/x", "deep": fal', '{"a": ', '{"a": 1', '{}{"a": 1}', "[1]"]


@dataclass
class Call:
    name: str
    arguments: str
    id: str | None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """One answer, and what is right about it."""

    body: dict[str, Any]
    events: list[dict[str, Any]]
    features: set[str]
    text: str
    calls: list[Call]
    reasoning: str
    signature: str | None
    finish: str
    usage: tuple[int, int] | None
    extras: dict[str, Any]


def chat(seed: int) -> Answer:
    """A chat answer."""
    random_ = random.Random(seed)

    def has(feature: str, chance: float) -> bool:
        if random_.random() < chance:
            features.add(feature)
            return True
        return False

    features: set[str] = set()
    refuses = has("a refusal", 0.08)
    texts = [] if refuses else random_.choices(TEXTS, k=random_.randint(0, 5))
    blocks = bool(has("reasoning blocks", 0.25) and not refuses)
    signature = f"sig{seed}" if blocks and has("a signature", 0.7) else None
    thoughts = random_.choices(TEXTS, k=random_.randint(1, 3)) if blocks or has("reasoning beside", 0.15) else []
    calls = [] if refuses else _calls(random_, has)
    if not calls and not texts:
        texts = ["Fine."] if not refuses else []
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    extras: dict[str, Any] = {}
    if blocks:
        part = {"type": "summary_text", "text": "".join(thoughts)} | ({"signature": signature} if signature else {})
        message["content"] = [{"type": "reasoning", "summary": [part]}]
        message["content"] += [{"type": "text", "text": "".join(texts)}] if texts else []
    elif thoughts:
        extras["reasoning_content"] = "".join(thoughts)
    if refuses:
        extras["refusal"] = "I cannot help with that."
    if has("a list beside", 0.2):
        extras["reasoning_details"] = [{"type": "reasoning.encrypted", "data": f"E{seed}", "index": 0}]
    if has("an object beside", 0.15):
        extras["annotations"] = [{"type": "url_citation", "url_citation": {"url": "https://example.com", "title": "t"}}]
    if calls:
        message["tool_calls"] = [_wire_call(call) for call in calls]
    cut = any(call.arguments in CUT for call in calls)
    finish = "length" if cut or has("cut text", 0.1) else "tool_calls" if calls else "stop"
    usage = (random_.randint(1, 99), random_.randint(1, 99)) if has("usage", 0.7) else None
    first = random_.choice([1, 195]) if has("choices not from 0", 0.15) else 0
    server_id = random_.choice(["", None, "null", "c-1"]) if has("an id that is none", 0.3) else f"chatcmpl-{seed}"
    counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)} if usage else None
    head: dict[str, Any] = {"id": server_id, "object": "chat.completion", "created": 1, "model": "m"}
    if has("fields of the server's own", 0.2):
        head["system_fingerprint"] = "fp_1"
    choices = [{"index": first, "message": {**message, **extras}, "finish_reason": finish}]
    if has("null fields", 0.2):
        choices[0]["logprobs"] = None
        choices[0]["message"] = {"audio": None, "function_call": None, **choices[0]["message"]}
    if has("n > 1", 0.1):
        choices += [
            {"index": first + 1, "message": {"role": "assistant", "content": "Other."}, "finish_reason": "stop"}
        ]
    body = {**head, "choices": choices, "usage": counted}
    deltas = list(_deltas(random_, has, texts, thoughts, signature, blocks, calls, extras))
    events = _events(random_, has, head, deltas, first, finish, counted)
    return Answer(
        body, events, features, "".join(texts), calls, "".join(thoughts), signature, finish, usage,
        dict(extras),
    )  # fmt: skip


def _calls(random_: random.Random, has: Any) -> list[Call]:
    count = random_.choice([0, 0, 1, 1, 2, 3])
    parallel = has("parallel calls", 1.0) if count > 1 else False
    no_ids = bool(count and has("calls without ids", 0.25))
    same_ids = bool(parallel and not no_ids and has("calls of one id", 0.15))
    same_name = bool(parallel and has("calls of one tool", 0.5))
    calls = []
    for number in range(count):
        name = NAMES[0] if same_name else NAMES[number]
        arguments = json.dumps({"a": number, "b": random_.choice(TEXTS)}, ensure_ascii=False)
        call_id = random_.choice([None, "", "null"]) if no_ids else "call_x" if same_ids else f"call_{number}"
        told_by_id = not (same_name and (no_ids or same_ids))
        extra = {"thought_signature": f"T{number}"} if told_by_id and has("a thought signature", 0.2) else {}
        calls.append(Call(name, arguments, call_id, extra))
    if calls and has("cut arguments", 0.15):
        calls[-1].arguments = random_.choice(CUT)
    if calls and count == 1 and has("no arguments", 0.1):
        calls[0].arguments = ""
    return calls


def _wire_call(call: Call, **more: Any) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} | (
        {**call.extra, **more}
    )


def _pieces(random_: random.Random, text: str) -> list[str]:
    size = random_.randint(1, 9)
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


def _deltas(
    random_: random.Random, has: Any, texts: list[str], thoughts: list[str], signature: str | None, blocks: bool,
    calls: list[Call], extras: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    if has("a role first", 0.6):
        yield {"role": "assistant", "content": random_.choice(["", None])}
    for place, thought in enumerate(thoughts):
        if not blocks:
            yield {"reasoning_content": thought}
            continue
        part = {"type": "summary_text", "text": thought}
        if signature and place == len(thoughts) - 1 and random_.random() < 0.5:
            yield {"content": [{"type": "reasoning", "summary": [{**part, "signature": signature}]}]}
            signature = None
        else:
            yield {"content": [{"type": "reasoning", "summary": [part]}]}
    if blocks and signature:
        yield {
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": signature}]}
            ]
        }
    in_lists = blocks and random_.random() < 0.5
    for text in texts:
        yield {"content": [{"type": "text", "text": text}] if in_lists else text}
    for name, value in extras.items():
        if name == "refusal":
            yield from ({name: piece} for piece in _pieces(random_, value))
        elif name != "reasoning_content":
            yield {"content": "", name: value}
    yield from _call_deltas(random_, has, calls)


def _call_deltas(random_: random.Random, has: Any, calls: list[Call]) -> Iterator[dict[str, Any]]:
    indexes = random_.choice(["right", "right", "zero", "none", "null"]) if len(calls) > 1 else "right"
    if calls and indexes != "right":
        has("parallel calls of one index or none", 1.0)
    if indexes != "right" and any(call.arguments in CUT for call in calls[:-1]):
        indexes = "right"
    if calls and len({call.id for call in calls}) < len(calls) and indexes != "right":
        has("calls told apart by their names alone", 1.0)
    again = random_.choice([{}, {}, {"id": "", "name": ""}, {"id": None, "name": None}, {"id": "null"}, "same"])
    if calls and again:
        has("ids repeated on later pieces", 1.0)
    for place, call in enumerate(calls):
        at = {"right": {"index": place}, "zero": {"index": 0}, "none": {}, "null": {"index": None}}[indexes]
        parts = [call.arguments] if random_.random() < 0.4 else ["", *_pieces(random_, call.arguments)]
        yield {"tool_calls": [{**at, **_wire_call(call), "function": {"name": call.name, "arguments": parts[0]}}]}
        for part in parts[1:]:
            later: dict[str, Any] = {} if again == "same" else dict(again)
            later = {"id": call.id, "name": call.name} if again == "same" else later
            name = {"name": later.pop("name")} if "name" in later else {}
            yield {"tool_calls": [{**at, **later, "function": {**name, "arguments": part}}]}


def _events(
    random_: random.Random, has: Any, head: dict[str, Any], deltas: list[dict[str, Any]], first: int, finish: str,
    usage: dict[str, int] | None,
) -> list[dict[str, Any]]:  # fmt: skip
    head = {**head, "object": "chat.completion.chunk"}
    new_ids = bool(head["id"] and has("an id for each piece", 0.2))
    every = bool(usage and has("usage on every piece", 0.4))
    events = []
    for number, delta in enumerate(deltas):
        choice = {"index": first, "delta": delta, "finish_reason": None}
        grown = {**usage, "completion_tokens": number} if usage and every else None
        own = {"id": f"c{number}"} if new_ids else {}
        events.append({**head, **own, "choices": [choice], **({"usage": grown} if grown else {})})
    last = {
        **head,
        "choices": [{"index": first, "delta": random_.choice([{}, {"content": ""}]), "finish_reason": finish}],
    }
    if usage and has("usage at the end alone", 0.5):
        return [*events, last, {**head, "choices": [], "usage": usage}]
    return [*events, last | ({"usage": usage} if usage else {})]


# --- Responses --------------------------------------------------------------------------------------------------------


def response(seed: int) -> Answer:
    """An answer of the Responses API."""
    random_ = random.Random(seed)

    def has(feature: str, chance: float) -> bool:
        if random_.random() < chance:
            features.add(feature)
            return True
        return False

    features: set[str] = set()
    ids = random_.choice(["right", "none", "same", "null", "other in the deltas", "new in each delta"])
    features.add(f"item ids: {ids}")
    items: list[dict[str, Any]] = []
    deltas: list[list[str]] = []
    texts: list[str] = []
    if has("reasoning items", 0.3):
        items.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]})
        deltas.append([])
    for _ in range(random_.choice([1, 1, 2, 3])):
        text = "".join(random_.choices(TEXTS, k=random_.randint(1, 3))) + str(len(texts))
        texts.append(text)
        items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
        deltas.append(_pieces(random_, text) if random_.random() < 0.75 else [])
    if len(texts) > 1:
        features.add("several messages")
    calls = []
    for number in range(random_.choice([0, 0, 1, 2])):
        calls.append(Call(NAMES[number], json.dumps({"a": number}), f"call_{number}"))
    if calls and has("cut arguments", 0.2):
        calls[-1].arguments = CUT[0]
    for call in calls:
        items.append({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments})
        deltas.append([])
    for number, item in enumerate(items):
        if ids != "none":
            item["id"] = {"same": "msg_1", "null": "null"}.get(ids, f"item_{number}")
    cut = any(call.arguments in CUT for call in calls)
    usage = (random_.randint(1, 99), random_.randint(1, 99)) if has("usage", 0.7) else None
    counted = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)} if usage else None
    body: dict[str, Any] = {"id": f"resp_{seed}", "object": "response", "model": "m", "usage": counted}
    body |= (
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        if cut
        else {"status": "completed"}
    )
    body["output"] = items
    indexed, added = has("output_index", 0.5), has("items that are announced", 0.5)
    events: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        at = {"output_index": number} if indexed else {}
        if added:
            events.append(
                {
                    "type": "response.output_item.added",
                    "item": {**item, "content": []} if "content" in item else item,
                    **at,
                }
            )
        for place, piece in enumerate(deltas[number]):
            named = {"item_id": item.get("id")} if ids in ("right", "same", "null") else {}
            named = {"item_id": f"long_{number}"} if ids == "other in the deltas" else named
            named = {"item_id": f"new_{number}_{place}"} if ids == "new in each delta" else named
            events.append({"type": "response.output_text.delta", "delta": piece, **named, **at})
        events.append({"type": "response.output_item.done", "item": item, **at})
    last = {**body, "output": []} if has("no output in the last event", 0.3) else body
    events.append({"type": "response.incomplete" if cut else "response.completed", "response": last})
    finish = "max_output_tokens" if cut else "completed"
    reasoning = "Hm." if "reasoning items" in features else ""
    return Answer(body, events, features, "".join(texts), calls, reasoning, None, finish, usage, {})
