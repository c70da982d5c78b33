"""Structured output: the JSON schema that a model must keep to, and its text as what the schema describes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .._lazy import WholeImport
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
        raise TypeError(
            f"response_model must be a pydantic model, a dataclass or a TypedDict (the class), got {model!r:.80}; a "
            'JSON schema goes as response_format={"type": "json_schema", "json_schema": …}.'
        )
    return {"response_format": _adapter_and_format(model)[1]}


@lru_cache(maxsize=256)
def _adapter_and_format(model: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    with WholeImport():  # slow, and few programs want it
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(model)
        schema = adapter.json_schema()
    except PydanticUserError as error:
        raise TypeError(f"response_model={model!r}: {error.message}") from None
    form = json_schema_format(getattr(model, "__name__", "answer"), schema)
    if form["json_schema"]["schema"].get("type") != "object":
        raise TypeError(f"response_model={model!r} is no object: wrap it in a model with one field.")
    return adapter, form


def json_schema_format(
    name: str, schema: Mapping[str, Any], strict: bool | None = None, description: str | None = None
) -> dict[str, Any]:
    """The field `response_format` for a JSON schema.

    It is strict, which makes the answer fit, unless `strict` is False, or None where an object of it may have any key.

    Raises:
        ValueError: `strict` is True, and an object of the schema may have any key.
    """
    whole = dict(schema)
    if isinstance(ref := whole.pop("$ref", None), str):  # a model that names itself: the root has to be the object
        whole = {**_target(schema, ref), **whole}
    place = "" if strict is False else _open_object(whole)
    if strict and place:
        raise ValueError(
            f"{place} may have any key, which a strict schema cannot say: name its fields, take a list of pairs "
            "instead, or leave strict out."
        )
    strict = strict is not False and not place
    about = {"description": description} if description else {}
    described = {"name": schema_name(name), **about, "schema": _strict(whole, whole) if strict else whole}
    return {"type": "json_schema", "json_schema": {**described, "strict": strict}}


def schema_name(name: str) -> str:
    """A name as schemas and tools may have them: letters, digits, `_` and `-`, at most 64."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "answer"


def _target(root: Mapping[str, Any], ref: str) -> dict[str, Any]:
    found: Any = root
    for key in ref.removeprefix("#/").split("/") if ref != "#" else ():
        key = key.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


_NAMED = ("properties", "$defs", "definitions")  # whose keys are names of the user's, not words of JSON Schema


def _open_object(schema: Any, place: str = "the schema") -> str:
    """Where an object may have keys that the schema does not name; "" where none may."""
    if isinstance(schema, list):
        return next((found for item in schema if (found := _open_object(item, place))), "")
    if not isinstance(schema, Mapping):
        return ""
    keys, more = schema.get("properties"), schema.get("additionalProperties", True)
    unnamed = isinstance(more, Mapping) or (more and not isinstance(keys, Mapping))
    if "patternProperties" in schema or (_is_object(schema) and unnamed):
        return place
    for key, value in schema.items():
        named = key in _NAMED and isinstance(value, Mapping)
        for name, item in value.items() if named else () if key in _VALUES else ((place, value),):
            if found := _open_object(item, repr(name) if named else place):
                return found
    return ""


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type", "object" if "properties" in schema else "")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


_VALUES = ("default", "const", "enum", "examples", "discriminator")  # what they hold is data, no schema


def _strict(schema: Any, root: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
    """As strict mode wants it.

    Every object names all its properties as required and allows no others, and none has a default; a `$ref` stands
    alone; `anyOf` is the only choice.
    """
    if isinstance(schema, list):
        return [_strict(item, root, within) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    schema = dict(schema)
    if "oneOf" in schema:
        schema["anyOf"] = [*schema.get("anyOf", ()), *schema.pop("oneOf")]
    for key in ("default", "discriminator"):
        schema.pop(key, None)
    if len(schema.get("allOf", ())) == 1:
        schema = {**schema.pop("allOf")[0], **schema}
    if len(schema) > 1 and isinstance(ref := schema.get("$ref"), str):
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if ref in within:  # it holds itself: it cannot be written out to its end
            return {**_strict(beside, root, within), "anyOf": [{"$ref": ref}]}
        return _strict({**_target(root, ref), **beside}, root, (*within, ref))
    whole = {
        key: {name: _strict(item, root, within) for name, item in value.items()}
        if key in _NAMED and isinstance(value, Mapping)
        else value
        if key in _VALUES
        else _strict(value, root, within)
        for key, value in schema.items()
    }
    if _is_object(whole):
        keys = whole.setdefault("properties", {})
        whole |= {"required": [*keys], "additionalProperties": False}
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
        vars(reply)[PARSED] = _adapter_and_format(described)[0].validate_json(reply.text)
    except ValidationError as error:
        why = f"{first_error(error)}; it begins with {reply.text[:_SHOWN]!r}" if reply.text else "there is none"
        cut = reply.finish_reason == "length"
        hint = "The answer was cut at the limit of tokens (finish_reason length): allow more with max_tokens=."
        raise reply._call.unexpected(f"the text is no {model.__name__}: {why}", hint if cut else "") from error
    return reply
