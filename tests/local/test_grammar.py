from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Optional, Union

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from dbllm.local.errors import Problem
from dbllm.local.invocation.requests import GUIDED
from dbllm.local.model.grammar import MAX_LENGTH, bound_schema, json_grammar, marked, read_format
from dbllm.local.model.llama import Engine, Job
from dbllm.local.model.tool_choice import ToolChooser


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = Field(min_length=1, max_length=2)


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Everything(BaseModel):
    name: str = Field(max_length=12)
    nickname: Optional[str] = None  # noqa: UP045 - as many write it
    mode: Colour
    size: float = Field(gt=0, lt=10)
    pet: Union[Cat, Dog] = Field(discriminator="kind")  # noqa: UP007
    scores: dict[str, int]
    pair: tuple[int, bool]
    flags: set[bool]
    tree: Tree


def refused(schema: object) -> str:
    with pytest.raises(Problem) as caught:
        json_grammar(schema, "here")
    assert caught.value.status == 400
    return caught.value.message


def written(
    engine: Engine,
    grammar: str,
    max_tokens: int = 500,
    prompt: str = "Give me one.",
    sampling: Mapping[str, object] = {"temperature": 1},
) -> Any:
    request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, **sampling}

    async def collect() -> str:
        await ToolChooser(engine).check(grammar)
        async with engine.generate([Job("chat", {**request, "grammar": grammar})]) as pieces:
            return "".join([piece.text async for piece in pieces])

    return json.loads(asyncio.run(collect()))


@pytest.mark.parametrize("kind", [Everything, Tree, Cat | Dog, list[Colour]], ids=str)
def test_what_the_model_writes_fits_the_schema_that_pydantic_made(engine: Engine, kind: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    adapter.validate_python(written(engine, json_grammar(adapter.json_schema(), "here"), 1500))


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "number"}, lambda value: isinstance(value, int | float)),
        ({"type": "integer", "minimum": 3, "maximum": 4}, lambda value: value in (3, 4)),
        ({"type": "string", "pattern": "^a+b$"}, lambda value: set(value) == {"a", "b"}),
        ({"type": "string", "format": "date"}, lambda value: len(value) == 10),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 7}, lambda value: len(value) == 7),
        ({"enum": ["ä\"\\", {"a": [1, None]}]}, lambda value: value in ("ä\"\\", {"a": [1, None]})),
        ({"allOf": [{"$ref": "#/$defs/a"}, {"required": ["x"]}], "$defs": {"a": {"properties": {"x": {"const": 1}}}}},
         lambda value: value == {"x": 1}),
        (True, lambda value: value is None or isinstance(value, str | int)),
    ],
)  # fmt: skip
def test_the_words_of_a_schema_hold(engine: Engine, schema: object, fits: Any) -> None:
    assert fits(written(engine, json_grammar(schema, "here")))


@pytest.mark.parametrize("prompt", ["Give me one.", "hi", "A person."])
def test_a_json_object_is_one_whatever_it_says(engine: Engine, prompt: str) -> None:
    grammar = read_format({"type": "json_object"})
    assert grammar
    # As endpoints sample unless asked otherwise: at random, with no schema to hold it, it outruns any limit of tokens.
    assert isinstance(written(engine, grammar, prompt=prompt, sampling=GUIDED), dict)


def test_texts_lists_and_numbers_without_bound_get_one() -> None:
    assert bound_schema({"type": "string"}, "here")["maxLength"] == MAX_LENGTH
    assert bound_schema({"type": "array"}, "here")["maxItems"] == 5
    assert bound_schema({"type": "array", "minItems": 9}, "here")["maxItems"] == 9
    assert bound_schema({"type": "integer", "minimum": 10**12}, "here")["maximum"] > 10**12


def test_recursion_ends_and_what_needs_itself_is_refused() -> None:
    loop = {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}}}
    assert "no value that ends" in refused({"$ref": "#/$defs/n", **loop})
    del loop["$defs"]["n"]["required"]
    assert json.dumps(bound_schema({"$ref": "#/$defs/n", **loop}, "here")).count('"n"') == 2
    assert "nested too deeply" in refused({"allOf": [{"$ref": "#"}]})


def test_branching_recursion_is_written_out_less_deep_and_at_last_refused() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {str(n): {"$ref": "#"} for n in range(20)}}
    assert bound_schema(node, "here")["properties"].keys() == node["properties"].keys()
    node["properties"] = {str(n): {"$ref": "#"} for n in range(2500)}
    assert "parts once its references are written out" in refused(node)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ([], "a schema is an object, got array"),
        (False, "it allows nothing"),
        ({"type": "text"}, "'type' must be one of object, array"),
        ({"type": []}, "'type' must be one of"),
        ({"not": {}}, "'not' is not supported"),
        ({"$ref": "https://example.com/x"}, "'$ref' must point into the schema itself"),
        ({"$ref": "#/$defs/x"}, "'$ref' names #/$defs/x, which is not there"),
        ({"type": "object", "properties": {"a": {"items": 1}}}, "at '/a/items': a schema is an object, got number"),
        ({"properties": []}, "'properties' must be an object, got array"),
        ({"type": "object", "required": "a"}, "'required' must be a list of names"),
        ({"required": ["a"], "additionalProperties": False}, "it allows nothing"),
        ({"enum": []}, "'enum' must be a list, not empty"),
        ({"type": "integer", "enum": ["a"]}, "it allows nothing"),
        ({"anyOf": {}}, "'anyOf' must be a list, not empty"),
        ({"minLength": -1}, "'minLength' must be a whole number, not negative"),
        ({"type": "number", "minimum": "1"}, "'minimum' must be a number, got string"),
        ({"type": "string", "pattern": 1}, "'pattern' must be a string, got number"),
        ({"type": "array", "uniqueItems": True, "minItems": 2}, "'uniqueItems' is not supported"),
        ({"allOf": [{"maxLength": 1}, {"maxLength": 2}]}, "two things about 'maxLength'"),
        ({"properties": {"a": True}, "minProperties": 1}, "supported for free names only"),
    ],
)
def test_what_cannot_be_promised_is_refused_with_the_place_and_the_reason(schema: object, reason: str) -> None:
    message = refused(schema)
    assert reason in message
    assert "the schema in 'here'" in message


@pytest.mark.parametrize(
    "value", [{}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}]
)
def test_a_response_format_that_is_none_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(Problem, match=r"response_format\."):
        read_format(value)


def test_a_grammar_is_marked_at_its_start() -> None:
    assert marked(json_grammar({"type": "null"}, "here")).splitlines()[1].startswith('start: "qzxqzx" %json')
