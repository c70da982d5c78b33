"""JSON schemas as grammars for the model's sampling: what it writes under one always validates. All pure.

llama.cpp hands grammars to llguidance, which knows most of JSON Schema. Two things are ours: every answer has to end
(a small model repeats itself, so texts, lists and numbers without a bound get one, and recursion ends), and what
llguidance does not enforce is refused here by name. A narrower schema is fine: what fits it also fits the user's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dbllm.local.errors import Problem, bad_request
from dbllm.local.json_values import json_type

MAX_LENGTH = 256
"""Characters of a string whose schema names no maxLength."""
MAX_ITEMS = 5
"""Items of an array, and free keys of an object, whose schema names no most."""
MAX_NUMBER = 10**9
"""The size of a number whose schema names no range."""
FINEST = 0.0001
"""The steps of a number whose schema names none; else its digits go on for ever."""
MAX_DEPTH = 3
"""How often a schema may stand inside itself."""
MAX_NODES = 2000
"""Schemas within one schema, once its references are written out."""

MARK = "qzxqzx"

Schema = dict[str, Any]

JSON_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
STRING_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
"""String formats that llguidance enforces; in JSON Schema the others are only remarks."""
REFUSED = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties",
    "propertyNames", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties",
    "$dynamicRef", "$recursiveRef",
)  # fmt: skip
"""What says something about a value that no grammar of ours can promise."""
OF_TYPE = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way of spacing: with a choice, a small model writes blank lines without end."""

ASSERTIONS = frozenset(
    (
        *(word for words in OF_TYPE.values() for word in words),
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
    )
)
"""The words that say what a value must be; title, description and the like are remarks."""

SCALARS: tuple[Schema, ...] = (
    {"type": "string", "maxLength": MAX_LENGTH},
    {"type": "integer", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
    {"type": "boolean"},
    {"type": "null"},
)
ANY_OBJECT: Schema = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 2 * MAX_ITEMS,
    "additionalProperties": {
        "anyOf": [
            *SCALARS,
            {"type": "array", "maxItems": MAX_ITEMS, "items": {"anyOf": list(SCALARS)}},
            {"type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": {"anyOf": list(SCALARS)}},
        ]
    },
}
"""Any JSON object (`response_format: json_object`), as far as a small model comes to its end."""


class _EndlessError(Exception):
    """No value of this schema ends within the depth."""


class _TooLargeError(Exception):
    """The schema has too many parts."""


def json_grammar(schema: object, where: str) -> str:
    """A grammar whose texts are JSON values of `schema`.

    Args:
        schema: a JSON schema.
        where: the field it came from, for the text of a problem.

    Raises:
        Problem: 400, the schema is none, cannot be satisfied, or asks for what a grammar cannot promise.
    """
    return as_grammar(bound_schema(schema, where))


def read_format(value: Mapping[str, object]) -> str | None:
    """The grammar of a `response_format`, or None for plain text.

    Raises:
        Problem: 400 with the reason.
    """
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return as_grammar(ANY_OBJECT)
    if kind != "json_schema":
        raise bad_request(f"'response_format.type' must be text, json_object or json_schema; got {kind!r}")
    inner = value.get("json_schema")
    if not isinstance(inner, dict) or "schema" not in inner:
        raise bad_request("'response_format.json_schema' must be an object with 'name' and 'schema'")
    return json_grammar(inner["schema"], "response_format.json_schema.schema")


def bound_schema(schema: object, where: str) -> Schema:
    """A schema of which every value also fits `schema`, and of which no value is endless.

    Raises:
        Problem: 400, as `json_grammar`.
    """
    for depth in range(MAX_DEPTH, 0, -1):
        try:
            return _Writer(schema, where, depth).schema(schema, (), "")
        except _EndlessError as error:
            raise _bad_schema(
                where, "", "no value that ends fits it: it allows nothing, or needs itself inside itself"
            ) from error
        except RecursionError as error:
            raise _bad_schema(where, "", "it is nested too deeply") from error
        except _TooLargeError:
            pass  # recursion multiplies: one level less may do
    raise _bad_schema(where, "", f"it has more than {MAX_NODES} parts once its references are written out")


def as_grammar(schema: Mapping[str, object]) -> str:
    """A schema that is known to be fine, as a grammar in llguidance's own language."""
    return "%llguidance {}\nstart: %json " + json.dumps({"x-guidance": COMPACT, **schema})


def marked(grammar: str) -> str:
    """The same grammar behind MARK, to see whether it is enforced: nothing else would make the model write that."""
    return grammar.replace("start: ", f"start: {json.dumps(MARK)} ", 1)


def text_grammar(text: str) -> str:
    """A grammar that admits this one text."""
    return "%llguidance {}\nstart: " + json.dumps(text)


def _bad_schema(where: str, path: str, reason: str) -> Problem:
    at = f" at '{path}'" if path else ""
    return bad_request(f"the schema in '{where}' cannot be used{at}: {reason}")


class _Writer:
    """Writes a user's schema anew, with its references followed and with bounds.

    `inside` are the references that lead to a schema; `path` is where it stands in the user's, for problems.
    """

    def __init__(self, root: object, where: str, depth: int) -> None:
        self._root = root
        self._where = where
        self._depth = depth
        self._nodes = 0

    def _bad(self, path: str, reason: str) -> Problem:
        return _bad_schema(self._where, path, reason)

    def schema(self, schema: object, inside: tuple[str, ...], path: str) -> Schema:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooLargeError
        if schema is True:
            return {"anyOf": list(SCALARS)}
        if schema is False:
            raise _EndlessError
        if not isinstance(schema, dict):
            raise self._bad(path, f"a schema is an object, got {json_type(schema)}")
        for name in REFUSED:
            if name in schema:
                raise self._bad(path, f"'{name}' is not supported")
        if "$ref" in schema:
            return self._reference(schema, inside, path)
        if "allOf" in schema:
            return self.schema(self._merged(schema, path), inside, path)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._branches(schema, name, inside, path)
        if "const" in schema or "enum" in schema:
            return self._enum(schema, path)
        return self._typed(schema, inside, path)

    def _reference(self, schema: Schema, inside: tuple[str, ...], path: str) -> Schema:
        name = schema["$ref"]
        target = self._target(name, path)
        if inside.count(name) >= self._depth:
            raise _EndlessError
        beside = _assertions(schema, "$ref")
        return self.schema({"allOf": [target, beside]} if beside else target, (*inside, name), path)

    def _target(self, name: object, path: str) -> object:
        if not isinstance(name, str) or not name.startswith("#"):
            raise self._bad(path, f"'$ref' must point into the schema itself (#/$defs/...), got {name!r}")
        target = self._root
        for step in name.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target:
                raise self._bad(path, f"'$ref' names {name}, which is not there")
            target = target[key]
        return target

    def _merged(self, schema: Schema, path: str) -> Schema:
        """One schema for a list of which all must hold: properties and required add up, types narrow each other."""
        merged: Schema = {name: value for name, value in schema.items() if name != "allOf"}
        for part in self._list(schema, "allOf", path):
            for name, value in self._plain(part, path).items():
                if name not in ASSERTIONS or name not in merged or merged[name] == value:
                    merged[name] = value
                elif name == "type":
                    merged[name] = [kind for kind in _as_list(merged[name]) if kind in _as_list(value)]
                elif name == "required" and isinstance(value, list):
                    merged[name] = list(dict.fromkeys([*_as_list(merged[name]), *value]))
                elif name == "properties" and isinstance(value, dict) and isinstance(merged[name], dict):
                    merged[name] = {
                        key: {"allOf": [merged[name][key], value[key]]}
                        if key in merged[name] and key in value
                        else (merged[name] | value)[key]
                        for key in merged[name] | value
                    }
                else:
                    raise self._bad(path, f"it says two things about '{name}' that must both hold")
        return merged

    def _plain(self, schema: object, path: str) -> Schema:
        """A part of an allOf without references or further allOfs at its top."""
        if not isinstance(schema, dict):
            raise self._bad(path, f"a schema in 'allOf' is an object, got {json_type(schema)}")
        if "$ref" in schema:
            return self._plain({"allOf": [self._target(schema["$ref"], path), _assertions(schema, "$ref")]}, path)
        return self._merged(schema, path) if "allOf" in schema else schema

    def _branches(self, schema: Schema, name: str, inside: tuple[str, ...], path: str) -> Schema:
        branches = self._list(schema, name, path)
        beside = _assertions(schema, name)
        if beside:  # it must hold in every branch
            branches = [{"allOf": [branch, beside]} for branch in branches]
        return {name: self._possible([(one, f"{path}/{name}/{n}") for n, one in enumerate(branches)], inside)}

    def _possible(self, branches: Sequence[tuple[object, str]], inside: tuple[str, ...]) -> list[Schema]:
        """The branches that end; one that only leads deeper is left out."""
        written: list[Schema] = []
        for branch, path in branches:
            try:
                written.append(self.schema(branch, inside, path))
            except _EndlessError:
                pass
        if not written:
            raise _EndlessError
        return written

    def _enum(self, schema: Schema, path: str) -> Schema:
        values = self._list(schema, "enum", path) if "enum" in schema else [schema["const"]]
        if "const" in schema:
            values = [value for value in values if value == schema["const"]]
        if "type" in schema:
            values = [value for value in values if any(_is(value, kind) for kind in _as_list(schema["type"]))]
        if not values:
            raise _EndlessError
        return {"enum": values}

    def _typed(self, schema: Schema, inside: tuple[str, ...], path: str) -> Schema:
        kinds = _as_list(schema["type"]) if "type" in schema else _implied(schema)
        if not kinds or not all(kind in JSON_TYPES for kind in kinds):
            raise self._bad(path, f"'type' must be one of {', '.join(JSON_TYPES)}; got {schema.get('type')!r}")
        if len(kinds) > 1:
            return {"anyOf": self._possible([({**schema, "type": kind}, path) for kind in kinds], inside)}
        if kinds[0] == "object":
            return self._object(schema, inside, path)
        if kinds[0] == "array":
            return self._array(schema, inside, path)
        if kinds[0] == "string":
            return self._string(schema, path)
        if kinds[0] in ("integer", "number"):
            return self._number(kinds[0], schema, path)
        return {"type": kinds[0]}

    def _object(self, schema: Schema, inside: tuple[str, ...], path: str) -> Schema:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            raise self._bad(path, f"'properties' must be an object, got {json_type(properties)}")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise self._bad(path, "'required' must be a list of names")
        named = properties | {name: more for name in required if name not in properties}
        written: Schema = {}
        for name, one in named.items():
            try:
                written[name] = self.schema(one, inside, f"{path}/{name}")
            except _EndlessError:
                if name in required:
                    raise
        out: Schema = {"type": "object", "properties": written, "required": required, "additionalProperties": False}
        least = self._whole(schema, "minProperties", path, 0)
        most = self._whole(schema, "maxProperties", path, max(least, len(written) + MAX_ITEMS))
        if not properties and more is not False:
            free = self.schema(more, inside, f"{path}/*")
            return {**out, "additionalProperties": free, "minProperties": least, "maxProperties": most}
        # Names that nobody declared are allowed, not wanted.
        if least > len(required) or most < len(written):
            raise self._bad(path, "'minProperties' and 'maxProperties' are supported for free names only")
        return out

    def _array(self, schema: Schema, inside: tuple[str, ...], path: str) -> Schema:
        first = self._list(schema, "prefixItems", path) if "prefixItems" in schema else []
        least = self._whole(schema, "minItems", path, 0)
        most = self._whole(schema, "maxItems", path, max(least, MAX_ITEMS, len(first)))
        if schema.get("uniqueItems"):
            if least > 1:
                raise self._bad(path, "'uniqueItems' is not supported with 'minItems' over 1")
            most = min(most, 1)
        written = [self.schema(one, inside, f"{path}/{number}") for number, one in enumerate(first[:most])]
        out: Schema = {"type": "array", **({"prefixItems": written} if written else {}), "minItems": least}
        try:
            rest = self.schema(schema.get("items", True), inside, f"{path}/items")
        except _EndlessError:
            if least > len(written):
                raise
            return {**out, "items": False, "maxItems": min(most, len(written))}
        return {**out, "items": rest, "maxItems": most}

    def _string(self, schema: Schema, path: str) -> Schema:
        out: Schema = {"type": "string"}
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise self._bad(path, f"'pattern' must be a string, got {json_type(schema['pattern'])}")
            out["pattern"] = schema["pattern"]
        if schema.get("format") in STRING_FORMATS:
            out["format"] = schema["format"]
        least = self._whole(schema, "minLength", path, 0)
        if "maxLength" in schema or not out.keys() & {"pattern", "format"}:
            out["maxLength"] = self._whole(schema, "maxLength", path, max(least, MAX_LENGTH))
        return {**out, "minLength": least} if least else out

    def _number(self, kind: str, schema: Schema, path: str) -> Schema:
        given = {name: schema[name] for name in OF_TYPE[kind] if name in schema}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._bad(path, f"'{name}' must be a number, got {json_type(value)}")
        low = given.get("minimum", given.get("exclusiveMinimum"))
        high = given.get("maximum", given.get("exclusiveMaximum"))
        if low is None:
            given["minimum"] = low = -MAX_NUMBER if high is None else min(-MAX_NUMBER, high - MAX_NUMBER)
        if high is None:
            given["maximum"] = high = max(MAX_NUMBER, low + MAX_NUMBER)
        if kind == "number" and "multipleOf" not in given and high - low >= 1:
            given["multipleOf"] = FINEST
        return {"type": kind, **given}

    def _whole(self, schema: Schema, name: str, path: str, default: int) -> int:
        value = schema.get(name, default)
        if not _is(value, "integer") or value < 0:
            raise self._bad(path, f"'{name}' must be a whole number, not negative")
        return int(value)

    def _list(self, schema: Schema, name: str, path: str) -> list[Any]:
        value = schema[name]
        if not isinstance(value, list) or not value:
            raise self._bad(path, f"'{name}' must be a list, not empty")
        return value


def _assertions(schema: Schema, without: str) -> Schema:
    return {name: value for name, value in schema.items() if name in ASSERTIONS and name != without}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _implied(schema: Schema) -> list[str]:
    """The type of a schema that names none: what its words are about, or anything simple."""
    kinds = [kind for kind, words in OF_TYPE.items() if any(word in schema for word in words)]
    return kinds[:1] or ["string", "integer", "boolean", "null"]


def _is(value: object, kind: str) -> bool:
    """Whether a JSON value is of a type, in JSON Schema's sense (1.0 is an integer, true is no number)."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    names = {dict: "object", list: "array", str: "string", type(None): "null"}
    return names.get(type(value)) == kind
