"""What stands in a message's content, and in fields that only some servers send. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def content_text(content: object) -> str:
    """The text of a message's content: itself, or the `text` items of a list (reasoning and images are left out)."""
    if isinstance(content, str):
        return content
    items = content if isinstance(content, list) else []
    texts = (item.get("text") if isinstance(item, dict) and item.get("type") in _TEXTS else item for item in items)
    return "".join(text for text in texts if isinstance(text, str))


_TEXTS = ("text", "output_text")


def reasoning_text(said: object) -> str:
    """The reasoning in a message's content (items `reasoning` or `thinking`), or in its fields `reasoning_content`."""
    if isinstance(said, dict):
        found = said.get("reasoning_content") or said.get("reasoning")
        return found if isinstance(found, str) else ""
    pieces: list[Any] = []
    for item in said if isinstance(said, list) else ():
        if isinstance(item, dict) and item.get("type") in ("reasoning", "thinking"):
            parts = item.get("summary") or item.get("content") or [item]
            for part in parts if isinstance(parts, list) else [parts]:
                pieces.append(part.get("text") or part.get("thinking") if isinstance(part, dict) else part)
    return "".join(piece for piece in pieces if isinstance(piece, str))


_PLACES = {  # where servers tell a count of tokens: under its name there, or as this field's own value
    "cached_tokens": ("prompt_tokens_details", "input_tokens_details", "cache_read_input_tokens"),
    "reasoning_tokens": ("completion_tokens_details", "output_tokens_details"),
}


def token_count(extra: Mapping[str, Any] | None, name: str) -> int | None:
    """A count of tokens that has no field of its own: by its name, or in one of its other places."""
    fields = extra or {}
    values = [fields.get(name)]
    for place in _PLACES[name]:
        value = fields.get(place)
        values.append(value.get(name) if isinstance(value, dict) else value)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)


def served_model_in(extra: Mapping[str, Any] | None) -> str | None:
    """The served entity that `databricks_output` names."""
    said = (extra or {}).get("databricks_output")
    found = said if isinstance(said, dict) else {}
    names = (found.get(name) for name in ("served_model_name", "served_entity_name", "served_model"))
    return next((name for name in names if isinstance(name, str)), None)


def with_predictions(content: Any) -> Any:
    """A custom model's answer with `predictions`: feature serving says `outputs`, and some models leave them bare."""
    if not isinstance(content, dict) or not {"predictions", "outputs"} & content.keys():
        return {"predictions": content}
    return {"predictions": content.get("outputs"), **content}
