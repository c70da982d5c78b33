"""Tools, the choice among them, and structured output, as they are sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = str | bool | dict[str, Any] | None
Method = Literal["function_calling", "json_mode", "json_schema"]


def wire_tools(tools: Sequence[Tool], strict: bool | None) -> list[dict[str, Any]]:
    """Tools as they are sent. What the server itself runs (a dict with another `type` than function) goes as it is."""
    return [
        tool
        if isinstance(tool, dict)
        and tool.get("type") not in (None, "function")
        and "function" not in tool
        and "properties" not in tool
        else convert_to_openai_tool(tool, strict=strict)
        for tool in tools
    ]


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


def response_format(schema: Any, strict: bool | None) -> dict[str, Any]:
    """The field `response_format` for a JSON schema, a pydantic or TypedDict class, or a tool's schema.

    It is strict unless `strict` says otherwise: that is what makes the answer fit.
    """
    if isinstance(schema, dict) and schema.get("type") == "json_schema" and "json_schema" in schema:
        return schema
    strict = strict is not False
    plain = convert_to_json_schema(schema, strict=strict or None)
    name = plain.pop("title")
    about = {"description": plain.pop("description")} if "description" in plain else {}
    return {"type": "json_schema", "json_schema": {"name": name, **about, "schema": plain, "strict": strict}}
