"""Tools: what a request says about them, and how the model is asked to use them. All pure.

A model of this size cannot be told about tools in a system text and then be left alone: it never calls one. So a call
is made in two steps. `choosing` lets the model's own likelihoods say whether a tool is meant, and which; here is how
it is then asked for the arguments, under a grammar made of the tool's schema, and how calls and results of earlier
turns read for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbllm.local.errors import bad_request
from dbllm.local.invocation.scoring import kind_of
from dbllm.local.model.grammar import json_grammar

MAX_TOOLS = 32
"""Tools of one request (Databricks docs: function calling)."""

Message = dict[str, str]

_EXAMPLES: tuple[Message, ...] = (
    {"role": "system", "content": "Take the arguments of the function from the message. Answer with JSON."},
    {"role": "user", "content": "Message: Please multiply 7 by 12.\nFunction: multiply(x, y): Multiply two numbers"},
    {"role": "assistant", "content": '{"x": 7, "y": 12}'},
    {
        "role": "user",
        "content": "Message: Which flights go to Rome?\nFunction: find_flights(city): Find flights to a city",
    },
    {"role": "assistant", "content": '{"city": "Rome"}'},
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the caller offers.

    Attributes:
        name: its name.
        description: what it does, in the caller's words; may be empty.
        arguments: the names of its arguments.
        grammar: admits what validates against its schema.
    """

    name: str
    description: str
    arguments: tuple[str, ...]
    grammar: str

    @property
    def purpose(self) -> str:
        """What it does in a few words: the first sentence of its description, else its name."""
        first = re.split(r"(?<=[.!?])\s|\n", self.description.strip(), maxsplit=1)[0]
        return (first or re.sub(r"[_\-]+", " ", self.name)).strip()[:120]


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """The tools of a request, and whether one of them must be called."""

    tools: tuple[Tool, ...]
    required: bool


def read_tools(value: object) -> tuple[Tool, ...]:
    """The `tools` of a request: `[{"type": "function", "function": {"name", "description"?, "parameters"}}]`.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(value, list):
        raise bad_request(f"field 'tools' must be a list, got {kind_of(value)}")
    if len(value) > MAX_TOOLS:
        raise bad_request(f"field 'tools' has {len(value)} tools, {MAX_TOOLS} are the most")
    tools = tuple(_tool(f"tools[{number}]", one) for number, one in enumerate(value))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise bad_request(f"field 'tools' has two functions with the name '{name}'")
    return tools


def _tool(where: str, value: object) -> Tool:
    if not isinstance(value, dict) or value.get("type") != "function" or not isinstance(value.get("function"), dict):
        raise bad_request(f"'{where}' must be an object with 'type': 'function' and a 'function'")
    return function_tool(f"{where}.function", value["function"])


def function_tool(where: str, function: Mapping[str, object]) -> Tool:
    """A function's name, description and parameters.

    Raises:
        Problem: 400 with the reason.
    """
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise bad_request(f"'{where}.name' must be 1 to 64 letters, digits, _ or -; got {name!r}")
    if not isinstance(description, str):
        raise bad_request(f"'{where}.description' must be a string, got {kind_of(description)}")
    schema = function.get("parameters")
    if not isinstance(schema, dict):
        raise bad_request(f"'{where}.parameters' must be a JSON schema, got {kind_of(schema)}")
    if schema.get("type", "object") != "object":
        raise bad_request(f"'{where}.parameters' must be a schema of type object, got {schema['type']!r}")
    properties = schema.get("properties")
    arguments = tuple(properties) if isinstance(properties, dict) else ()
    if not schema.keys() & {"$ref", "allOf", "anyOf", "oneOf"} and not properties:
        # A function that names no arguments wants none, although an empty schema would admit any.
        schema = {"additionalProperties": False, **schema}
    grammar = json_grammar({**schema, "type": "object"}, f"{where}.parameters")
    return Tool(name, description, arguments, grammar)


def read_offer(tools: Sequence[Tool], choice: object) -> ToolOffer | None:
    """What `tool_choice` makes of the tools: auto, none, required, or a function by its name.

    Raises:
        Problem: 400 with the reason.
    """
    if choice == "none":
        return None
    if choice is None or choice == "auto":
        return ToolOffer(tuple(tools), required=False) if tools else None
    if not tools:
        raise bad_request("field 'tool_choice' is only allowed with 'tools'")
    if choice == "required":
        return ToolOffer(tuple(tools), required=True)
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise bad_request(
            "field 'tool_choice' must be auto, none, required or "
            '{"type": "function", "function": {"name": ...}}; got ' + repr(choice)[:60]
        )
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        raise bad_request(f"field 'tool_choice' names '{name}', which is not among the tools")
    return ToolOffer(named, required=True)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that an assistant message of the conversation made."""

    id: str
    name: str
    arguments: str


def read_calls(where: str, value: object) -> tuple[Call, ...]:
    """The `tool_calls` of an assistant message.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(value, list):
        raise bad_request(f"'{where}' must be a list, got {kind_of(value)}")
    calls = []
    for number, one in enumerate(value):
        function = one.get("function") if isinstance(one, dict) else None
        if not isinstance(function, dict) or not isinstance(one.get("id"), str):
            raise bad_request(f"'{where}[{number}]' must be an object with 'id' and 'function'")
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise bad_request(f"'{where}[{number}].function' must have the strings 'name' and 'arguments'")
        calls.append(Call(one["id"], name, arguments))
    return tuple(calls)


def said(text: str, calls: Sequence[Call]) -> Message:
    """An assistant message with calls, as the model reads it."""
    told = [f"I call {call.name}({call.arguments})." for call in calls]
    return {"role": "assistant", "content": "\n".join([text, *told] if text else told)}


def result(call: Call, text: str) -> Message:
    """A tool message, as the model reads it: its template knows no tools, so it comes from the user."""
    return {"role": "user", "content": f"The result of {call.name} is: {text}"}


def merged(messages: Sequence[Message]) -> list[Message]:
    """Messages of one role in a row as one: results of parallel calls, and what the user adds to them."""
    out: list[Message] = []
    for message in messages:
        if out and out[-1]["role"] == message["role"] == "user":
            out[-1] = {**message, "content": f"{out[-1]['content']}\n{message['content']}"}
        else:
            out.append(message)
    return out


def arguments_request(tool: Tool, question: str) -> dict[str, object]:
    """What the engine is asked for the arguments of a call.

    Examples come before: with them this model copies names and numbers out of the message instead of making them up.
    """
    purpose = f": {tool.purpose}" if tool.description else ""
    asked = f"Message: {question}\nFunction: {tool.name}({', '.join(tool.arguments)}){purpose}"
    return {"messages": [*_EXAMPLES, {"role": "user", "content": asked}], "grammar": tool.grammar}
