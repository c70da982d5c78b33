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

from dbllm.local.errors import Problem, bad_request
from dbllm.local.json_values import json_type
from dbllm.local.model.grammar import json_grammar

MAX_TOOLS = 32
"""Tools of one request (Databricks docs: function calling)."""

MAX_PURPOSE = 1000
"""Characters of a description in which its first sentence is looked for."""
MAX_RESULT = 1000
"""Characters of an earlier result that the arguments of the next call are taken from."""

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
        """What it does in a few words: the first sentence of its description, else its name.

        Some clients (LlamaIndex) write the function's signature in front, which says nothing about that.
        """
        signature = rf"\s*{re.escape(self.name)}\(.*?\)[^\n]*?(\n| - )"
        sentences = re.sub(rf"\A{signature}", "", self.description[:MAX_PURPOSE], count=1, flags=re.DOTALL)
        first = re.split(r"(?<=[.!?])\s|\n", sentences.strip(), maxsplit=1)[0]
        return (first or re.sub(r"[_\-]+", " ", self.name)).strip()[:120]


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """The tools of a request, and whether one of them must be called."""

    tools: tuple[Tool, ...]
    required: bool


def read_tools(value: object) -> tuple[Tool, ...]:
    """The `tools` of a request: `[{"type": "function", "function": {"name", "description"?, "parameters"?}}]`.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(value, list):
        raise bad_request(f"field 'tools' must be a list, got {json_type(value)}")
    if len(value) > MAX_TOOLS:
        raise bad_request(f"field 'tools' has {len(value)} tools, {MAX_TOOLS} are the most")
    tools = tuple(_read_tool(f"tools[{number}]", one) for number, one in enumerate(value))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise bad_request(f"field 'tools' has two functions with the name '{name}'")
    return tools


def _read_tool(where: str, value: object) -> Tool:
    if not isinstance(value, dict) or value.get("type") != "function" or not isinstance(value.get("function"), dict):
        raise bad_request(f"'{where}' must be an object with 'type': 'function' and a 'function'")
    return function_tool(f"{where}.function", value["function"])


def function_tool(where: str, function: Mapping[str, object]) -> Tool:
    """A function's name, description and parameters; without parameters it takes none (OpenAI's FunctionDefinition).

    Raises:
        Problem: 400 with the reason.
    """
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise bad_request(f"'{where}.name' must be 1 to 64 letters, digits, _ or -; got {name!r}")
    if not isinstance(description, str):
        raise bad_request(f"'{where}.description' must be a string, got {json_type(description)}")
    schema = {} if function.get("parameters") is None else function["parameters"]
    if not isinstance(schema, dict):
        raise bad_request(f"'{where}.parameters' must be a JSON schema, got {json_type(schema)}")
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
    """What `tool_choice` makes of the tools: auto, none, required, a function by its name, or some that are allowed.

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
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools" and isinstance(choice, dict):
        return _read_allowed(tools, choice.get("allowed_tools"))
    if kind != "function":
        raise _no_choice(choice)
    return ToolOffer((_named_tool(tools, choice),), required=True)


def _read_allowed(tools: Sequence[Tool], allowed: object) -> ToolOffer:
    """`{"mode": "auto" | "required", "tools": [...]}`: the same as if only these tools were offered."""
    mode = allowed.get("mode") if isinstance(allowed, dict) else None
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        raise bad_request("'tool_choice.allowed_tools' must have 'mode', auto or required, and a list 'tools'")
    return ToolOffer(tuple(dict.fromkeys(_named_tool(tools, one) for one in listed)), required=mode == "required")


def _named_tool(tools: Sequence[Tool], choice: object) -> Tool:
    """The tool of `{"type": "function", "function": {"name"}}`."""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise _no_choice(choice)
    for tool in tools:
        if tool.name == name:
            return tool
    raise bad_request(f"field 'tool_choice' names '{name}', which is not among the tools")


def _no_choice(choice: object) -> Problem:
    return bad_request(
        "field 'tool_choice' must be auto, none, required or "
        '{"type": "function", "function": {"name": ...}}; got ' + repr(choice)[:60]
    )


def still_to_call(offer: ToolOffer, called: Sequence[str]) -> ToolOffer:
    """An offer of which one must be called, once the results of earlier calls are there.

    No tool is called again for the same question, so that a caller who always requires a call comes to the tool that
    ends its work. When each of them has a result, the last one is meant: its arguments were not accepted.

    Args:
        offer: the tools of the request.
        called: the names of the tools that have results since the user's last message, in order.
    """
    left = tuple(tool for tool in offer.tools if tool.name not in called)
    if not left:
        last_first = called[::-1]
        left = (min(offer.tools, key=lambda tool: last_first.index(tool.name)),)
    return ToolOffer(left, offer.required)


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that an assistant message of the conversation made."""

    id: str
    name: str
    arguments: str


def read_calls(where: str, value: object) -> tuple[PastCall, ...]:
    """The `tool_calls` of an assistant message.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(value, list):
        raise bad_request(f"'{where}' must be a list, got {json_type(value)}")
    calls = []
    for number, one in enumerate(value):
        function = one.get("function") if isinstance(one, dict) else None
        if not isinstance(function, dict) or not isinstance(one.get("id"), str):
            raise bad_request(f"'{where}[{number}]' must be an object with 'id' and 'function'")
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise bad_request(f"'{where}[{number}].function' must have the strings 'name' and 'arguments'")
        calls.append(PastCall(one["id"], name, arguments))
    return tuple(calls)


def assistant_message(text: str, calls: Sequence[PastCall]) -> Message:
    """An assistant message with calls, as the model reads it."""
    sentences = [f"I call {call.name}({call.arguments})." for call in calls]
    return {"role": "assistant", "content": "\n".join([text, *sentences] if text else sentences)}


def result_message(call: PastCall, text: str) -> Message:
    """A tool message, as the model reads it: its template knows no tools, so it comes from the user."""
    return {"role": "user", "content": f"The result of {call.name} is: {text}"}


def merge_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages of one role in a row as one: results of parallel calls, and what the user adds to them."""
    out: list[Message] = []
    for message in messages:
        if out and out[-1]["role"] == message["role"] == "user":
            out[-1] = {**message, "content": f"{out[-1]['content']}\n{message['content']}"}
        else:
            out.append(message)
    return out


def arguments_request(tool: Tool, question: str, results: Sequence[str] = ()) -> dict[str, object]:
    """What the engine is asked for the arguments of a call; `results` of earlier calls may hold them, too.

    Examples come before: with them this model copies names and numbers out of the message instead of making them up.
    """
    purpose = f": {tool.purpose}" if tool.description else ""
    message = "\n".join((question, *(text[:MAX_RESULT] for text in results)))
    prompt = f"Message: {message}\nFunction: {tool.name}({', '.join(tool.arguments)}){purpose}"
    return {"messages": [*_EXAMPLES, {"role": "user", "content": prompt}], "grammar": tool.grammar}
