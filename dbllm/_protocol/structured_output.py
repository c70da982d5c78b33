"""Structured output: the JSON schema that a model must keep to, and its text as what the schema describes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .models import PARSED, ChatCompletion, ParsedT
from .responses import first_error

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_SHOWN = 200  # characters of a text that go into a message; the whole is on error.raw


def response_format(model: Any) -> dict[str, Any]:
    """The field `response_format` for a pydantic model, a dataclass or a TypedDict: `json_schema`, strict.

    Raises:
        TypeError: it is something else, or has no JSON schema.
    """
    if model is None:
        return {}
    if not isinstance(model, type):
        raise TypeError(f"response_model takes a pydantic model, a dataclass or a TypedDict, not {model!r:.80}.")
    return {"response_format": _described(model)[1]}


@lru_cache(maxsize=256)
def _described(model: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    from pydantic import TypeAdapter  # here and below: slow to import, and few programs want it
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(model)
        schema = _strict(adapter.json_schema())
    except PydanticUserError as error:
        raise TypeError(f"response_model={model!r}: {error.message}") from None
    if schema.get("type") != "object" and "$ref" not in schema:
        raise TypeError(f"response_model={model!r} is no object: wrap it in a model with one field.")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", getattr(model, "__name__", "answer"))[:64]
    return adapter, {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _strict(schema: Any) -> Any:
    """As strict mode wants it: every object names all its properties as required, and allows no others."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    named = ("properties", "$defs")  # whose keys are names of the user's, not words of JSON Schema
    whole = {
        key: {name: _strict(item) for name, item in value.items()} if key in named else _strict(value)
        for key, value in schema.items()
    }
    if whole.get("type") == "object" and "properties" in whole:
        whole |= {"required": [*whole["properties"]], "additionalProperties": False}
    return whole


def parsed(model: type[ParsedT] | None, reply: ChatCompletion[Any]) -> ChatCompletion[ParsedT]:
    """The answer with its first choice's text read as the model; without one where the model calls a tool instead.

    Raises:
        APIResponseError: the text does not fit; the message has its beginning and the reason.
    """
    if model is None or (reply.message.tool_calls and not reply.text):
        return reply
    described: Any = model
    if refusal := (reply.message.model_extra or {}).get("refusal"):
        raise reply._call.unexpected(f"the model refused: {refusal}", "Ask for something else.")
    try:
        vars(reply)[PARSED] = _described(described)[0].validate_json(reply.text)
    except ValidationError as error:
        why = f"{first_error(error)}; it begins with {reply.text[:_SHOWN]!r}" if reply.text else "there is none"
        cut = reply.finish_reason == "length"
        hint = "The answer was cut at the limit of tokens (finish_reason length): allow more with max_tokens=."
        raise reply._call.unexpected(f"the text is no {model.__name__}: {why}", hint if cut else "") from error
    return reply
