"""What models that Databricks serves can do, as LangChain's model profiles say it. Pure.

A profile goes by the model's name, which is often the endpoint's too (`databricks-claude-sonnet-4-5`,
`system.ai.gpt-5-mini`); else by the name of what the endpoint serves, which its description has. Limits are those that
the models' makers give; what is not sure is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TEXT = {"text_inputs": True, "text_outputs": True, "tool_calling": True, "tool_choice": True}
_IMAGES = {**_TEXT, "image_inputs": True, "image_url_inputs": True}
_SCHEMAS = {"structured_output": True, "temperature": True}
_REASONING = {"reasoning_output": True}

# The first that is found in a name; the numbers are tokens: of the input, of the answer.
_MODELS: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    (r"gpt-oss-\d+b", 131_072, 131_072, {**_TEXT, **_REASONING}),
    (r"gpt-5(\.\d+)?-chat", 128_000, 16_384, {**_IMAGES, **_SCHEMAS}),
    (r"gpt-[56]\b", 272_000, 128_000, {**_IMAGES, **_REASONING, "structured_output": True, "temperature": False}),
    (r"gpt-4\.1", 1_047_576, 32_768, {**_IMAGES, **_SCHEMAS}),
    (r"gpt-4o", 128_000, 16_384, {**_IMAGES, **_SCHEMAS}),
    (r"\bo[134](-|\b)", 200_000, 100_000, {**_IMAGES, **_REASONING, "structured_output": True, "temperature": False}),
    (r"claude-(opus|sonnet|haiku)-4-[5-9]", 200_000, 64_000, {**_IMAGES, **_SCHEMAS, **_REASONING, "pdf_inputs": True}),
    (r"claude-(opus|sonnet)-4", 200_000, 32_000, {**_IMAGES, **_REASONING, "temperature": True, "pdf_inputs": True}),
    (r"claude-3-7", 200_000, 64_000, {**_IMAGES, **_REASONING, "temperature": True, "pdf_inputs": True}),
    (r"claude-3", 200_000, 8_192, {**_IMAGES, "temperature": True}),
    (r"gemini-(2-5|2\.5|3)", 1_048_576, 65_536, {**_IMAGES, **_SCHEMAS, **_REASONING, "audio_inputs": True}),
    (r"gemma-3", 131_072, 8_192, {"text_inputs": True, "text_outputs": True, "image_inputs": True}),
    (r"llama-4", 128_000, 8_192, {**_IMAGES, "temperature": True}),
    (r"llama-3[-._][123]", 128_000, 8_192, {**_TEXT, "temperature": True}),
    (r"qwen3?-?\d*-?next|qwen3", 131_072, 32_768, {**_TEXT, "temperature": True}),
)


def profile_for(name: str, endpoint: Any = None) -> dict[str, Any] | None:
    """The profile of a model by its name, or by what the description of its endpoint or model service says it serves.

    None if it is unknown.
    """
    for served in (*_served(endpoint), name):
        for pattern, limit, most, can in _MODELS:
            if re.search(pattern, served.lower().replace("_", "-")):
                return {"name": served, "max_input_tokens": limit, "max_output_tokens": most, **can}
    return None


def _served(endpoint: Any) -> Iterator[str]:
    """The names of the models behind an endpoint or a model service."""
    if endpoint is None:
        return
    config = endpoint.model_dump(mode="json").get("config") or {}
    for destination in (config.get("routing") or {}).get("destinations") or ():
        parts = [part for part in destination.values() if isinstance(part, dict)]
        yield from (str(value) for part in (*parts, destination) for value in part.values() if isinstance(value, str))
    for entity in config.get("served_entities") or ():
        for kind in ("foundation_model", "external_model"):
            if isinstance(inner := entity.get(kind), dict) and inner.get("name"):
                yield str(inner["name"])
        if entity.get("entity_name"):
            yield str(entity["entity_name"])
