"""JSON in Python: the type of an object, and what the types of values are called in messages."""

from __future__ import annotations

Json = dict[str, object]


def json_type(value: object) -> str:
    """The JSON name of a value's type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
