"""Tools, the choice among them, and structured output, as they are sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from dbllm._protocol.structured_output import json_schema_format, schema_name

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = str | bool | dict[str, Any] | None
Method = Literal["function_calling", "json_mode", "json_schema"]


def wire_tools(tools: Sequence[Tool], strict: bool | None) -> list[dict[str, Any]]:
    """Tools as they are sent. What the server itself runs (a dict with another `type` than function) goes as it is."""
    return [tool if _is_the_servers(tool) else _function_tool(tool, strict) for tool in tools]  # type: ignore[misc]


def _is_the_servers(tool: Tool) -> bool:
    own = isinstance(tool, dict) and tool.get("type") not in (None, "function")
    return own and "function" not in tool and "properties" not in tool  # type: ignore[operator]


def _function_tool(tool: Tool, strict: bool | None) -> dict[str, Any]:
    made = convert_to_openai_tool(tool)
    function = made["function"]
    return {**made, "function": _strict_function(function) if strict else _said_strict(function, strict)}


def wire_tool_choice(choice: ToolChoice, tools: Sequence[dict[str, Any]]) -> Any:
    """The field `tool_choice`; None where it is not sent.

    "any" and True stand for "required", the name of a tool for that tool, None and False for nothing.

    Raises:
        ValueError: it names no tool that was given, or is of another kind.
    """
    if choice is None or choice is False:
        return None
    if choice is True or choice == "any":
        return "required"
    names = [tool["function"]["name"] for tool in tools if "function" in tool]
    if isinstance(choice, str):
        if choice in ("auto", "none", "required") and choice not in names:
            return choice
        return {"type": "function", "function": {"name": _known(choice, names)}}
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        if choice.get("type", "function") == "function" and name is not None:
            return {"type": "function", "function": {"name": _known(name, names)}}
        return choice
    raise ValueError(
        f"Unrecognized tool_choice type {type(choice).__name__}: it is 'auto', 'any', 'required', 'none', the name "
        "of a tool, a dict or a bool."
    )


def _known(name: object, names: Sequence[str]) -> object:
    if name not in names:
        raise ValueError(f"Tool choice {name!r} was given, but the tools are: {', '.join(names) or 'none'}.")
    return name


class Described(NamedTuple):
    """What a schema asks for."""

    name: str
    description: str | None
    schema: dict[str, Any]
    strict: bool | None = None  # as the schema itself says, in OpenAI's form

    @classmethod
    def of(cls, schema: Any) -> Described:
        """A pydantic or TypedDict class, a JSON schema, a tool's schema, or `response_format` in OpenAI's form.

        Raises:
            ValueError: it is none of these.
        """
        if isinstance(schema, Mapping):
            if schema.get("type") == "json_object":
                raise ValueError("{'type': 'json_object'} describes nothing: leave it out and take method='json_mode'.")
            inner = schema.get("json_schema") if schema.get("type") == "json_schema" else schema
            if isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):  # OpenAI's whole or inner form
                return cls(
                    str(inner.get("name") or _NAME),
                    inner.get("description"),
                    dict(inner["schema"]),
                    inner.get("strict"),
                )
            is_plain = "title" not in schema and "name" not in schema and "function" not in schema
            if is_plain and ({"type", "properties", "$ref", "anyOf", "oneOf", "allOf"} & schema.keys()):
                return cls(_NAME, schema.get("description"), dict(schema))
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            plain = schema.model_json_schema()
        else:
            try:
                plain = convert_to_json_schema(dict(schema) if isinstance(schema, Mapping) else schema)
            except (KeyError, TypeError) as error:
                raise ValueError(f"A schema is a class or a JSON schema, not {schema!r:.80}: {error!r}") from None
        name, about = plain.pop("title", None), plain.pop("description", None)
        return cls(str(name or getattr(schema, "__name__", _NAME)), about, plain)


_NAME = "answer"


def schema_tool(schema: Any, described: Described, strict: bool | None) -> dict[str, Any]:
    """The tool whose arguments are what the schema describes.

    Raises:
        ValueError: `strict`, and an object of the schema may have any key.
    """
    in_openais_form = described.strict is not None or (isinstance(schema, Mapping) and "schema" in schema)
    if in_openais_form or described.name == _NAME or (isinstance(schema, Mapping) and "json_schema" in schema):
        about = {"description": described.description} if described.description else {}
        made: dict[str, Any] = {"name": described.name, **about, "parameters": described.schema}
    else:
        made = convert_to_openai_tool(schema)["function"]
    made = {**made, "name": schema_name(made["name"])}
    strict = described.strict if strict is None else strict
    return {"type": "function", "function": _strict_function(made) if strict else _said_strict(made, strict)}


def _strict_function(function: dict[str, Any]) -> dict[str, Any]:
    form = json_schema_format(
        function["name"], function.get("parameters") or {"type": "object", "properties": {}}, True
    )
    return {**function, "parameters": form["json_schema"]["schema"], "strict": True}


def _said_strict(function: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    return function if strict is None else {**function, "strict": strict}


def response_format(schema: Any, described: Described | None, strict: bool | None) -> dict[str, Any]:
    """The field `response_format` for a schema; what has the whole form of it already goes as it is.

    It is strict, which makes the answer fit, unless `strict` is False, or None where the schema cannot be.

    Raises:
        ValueError: `strict` is True, and an object of the schema may have any key.
    """
    if isinstance(schema, dict) and schema.get("type") == "json_schema" and "json_schema" in schema and strict is None:
        return schema
    name, about, plain, own = described or Described.of(schema)
    return json_schema_format(name, plain, own if strict is None else strict, about)
