"""From JSON to typed answers, from any kind of endpoint; a stream's pieces are put together in `streams`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from .content import content_text
from .models import CompletionChunk
from .reply import WireModel

MAX_DEPTH = 200  # of lists and objects in one another, as in pydantic's own reader
ModelT = TypeVar("ModelT", bound=WireModel)


def bounded_json(data: bytes | str) -> Any:
    """What a JSON text holds.

    Whoever walks through it does so by recursion, so its depth is bounded here, as pydantic bounds it.

    Raises:
        ValueError: it is no JSON, or deeper than `MAX_DEPTH`.
    """
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    opening = ("[", "{") if isinstance(data, str) else (b"[", b"{")
    if sum(map(data.count, opening)) > MAX_DEPTH:  # type: ignore[arg-type]  # else it cannot be so deep
        level, depth = [content], 0
        while level := [item for one in level for item in _held_by(one) if isinstance(item, (dict, list))]:
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("the JSON is nested too deeply")
    return content


def _held_by(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def json_or_none(data: bytes | str) -> Any:
    """What a JSON text holds; None where it is no JSON, as where it holds nothing (`null`)."""
    try:
        return bounded_json(data)
    except ValueError:
        return None


def answer_text(answer: Any) -> str | None:
    """The text in any answer that has one place for it, or None.

    A bare string; `choices` (chat, completions), `candidates` (llama2/chat), `messages` (agent/v2/chat), `output`
    (agent responses); a list stands for its first item.
    """
    match answer:
        case str():
            return answer
        case [first, *_]:
            return answer_text(first)
        case {"choices": [{"message": {"content": content}}, *_]} | {"messages": [*_, {"content": content}]}:
            return content_text(content)
        case {"choices": [{"text": str(text)}, *_]} | {"candidates": [{"text": str(text)}, *_]}:
            return text
        case {"output": list(items)}:
            said = (item for item in items if isinstance(item, dict) and item.get("type") == "message")
            return "".join(content_text(item.get("content")) for item in said)
    return None


def text_chunk(piece: Any) -> CompletionChunk:
    """Any server's piece of streamed text as a `CompletionChunk`, told by its shape.

    A JSON string (driver apps, custom models), chat and completions chunks, `agent` deltas, the events of
    `agent/v*/responses`; and a whole answer, from a server that does not stream. What has no text gives none.
    """
    match piece:
        case {"choices": list(choices)}:
            whole = {**piece, "choices": [_text_choice(choice) for choice in choices]}
            return CompletionChunk.model_validate(_without_nulls(whole))
        case {"type": "response.output_text.delta", "delta": str(text)} | {"delta": {"content": text}}:
            return _text_piece(content_text(text))
        case {"type": "response.completed" | "responses.completed" | "response.incomplete" as kind}:
            usage = piece["response"].get("usage") if isinstance(piece.get("response"), dict) else None
            reason = "length" if kind == "response.incomplete" else "stop"
            return _text_piece("", reason, usage if isinstance(usage, dict) else None)
        case {"predictions": whole}:
            return _text_piece(answer_text(whole) or "")
    return _text_piece(answer_text(piece) or "")


def _text_piece(text: str, finish_reason: str | None = None, usage: object = None) -> CompletionChunk:
    choice = {"text": text, "finish_reason": finish_reason}
    return CompletionChunk.model_validate({"choices": [choice], "usage": usage})


def _text_choice(choice: Any) -> Any:
    if not isinstance(choice, dict) or "text" in choice:
        return choice
    said = choice.get("delta") or choice.get("message") or {}
    rest = {key: value for key, value in choice.items() if key not in ("delta", "message")}
    return {**rest, "text": content_text(said.get("content")) if isinstance(said, dict) else ""}


def parse(model: type[ModelT], data: bytes) -> ModelT:
    """JSON text as a model.

    A null where the schema has a plain value counts as left out: gateways write some (`"delta": null`, `"text": null`).
    They are looked for only once the quick way has failed, and so is the answer of `agent/v2/chat`, which has messages
    instead of choices.

    Raises:
        ValidationError: it is not JSON, or not that model.
    """
    try:
        return cast("ModelT", model.__pydantic_validator__.validate_json(data))  # as model_validate_json ends
    except ValidationError:
        if (content := json_or_none(data)) is None:
            raise
        if isinstance(content, dict) and isinstance(messages := content.get("messages"), list) and messages:
            choice = {"message": messages[-1], "finish_reason": content.get("finish_reason", "stop")}
            content.setdefault("choices", [choice])
        return model.model_validate(_without_nulls(content))


def _without_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nulls(value) for key, value in content.items() if value is not None}
    return [_without_nulls(item) for item in content] if isinstance(content, list) else content


def first_error(error: ValidationError) -> str:
    """Where and why a JSON text is not the schema, in one sentence without the values themselves."""
    flaw = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in flaw["loc"])
    return f"{place}: {flaw['msg']}" if place else flaw["msg"]


# Strings that name a thing come whole, though some servers repeat them on every piece; all others grow.
_WHOLE = frozenset({"role", "type", "id", "name", "finish_reason", "signature", "format", "status"})


def merge_delta(known: Any, piece: Any, key: str = "") -> Any:
    """What is known of a value, and the next piece of it."""
    if piece is None or (key in _WHOLE and known and not piece):
        return known
    if isinstance(known, dict) and isinstance(piece, dict):
        for name, value in piece.items():
            known[name] = merge_delta(known.get(name), value, name)
        return known
    if isinstance(known, list) or isinstance(piece, list):
        known = _as_blocks(known)
        for item in _as_blocks(piece):
            index = item.get("index") if isinstance(item, dict) else None
            same = (old for old in known if isinstance(old, dict) and old.get("index") == index)
            if index is None or (old := next(same, None)) is None:
                known.append(item)
            else:
                merge_delta(old, item)
        return known
    return known + piece if isinstance(known, str) and isinstance(piece, str) and key not in _WHOLE else piece


def _as_blocks(value: Any) -> list[Any]:
    return [{"type": "text", "text": value}] if value and isinstance(value, str) else value or []
