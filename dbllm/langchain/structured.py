"""Structured output: a schema as it is asked for, and the answer as what the schema describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers.transform import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from .content import refusal_of
from .errors import cut_error, refusal_error
from .finish import was_cut
from .tools import Described, Method, Tool, response_format, schema_tool, wire_tools


def binding(
    schema: Any, method: Method, strict: bool | None, tools: Sequence[Tool] | None
) -> tuple[dict[str, Any], Answer]:
    """(parameters of the call, parser of its answer) for structured output.

    Raises:
        ValueError: no schema where the method needs one, an unknown method, or a schema that cannot be strict.
    """
    if schema is None and method != "json_mode":
        raise ValueError(f"schema must be specified when method is {method!r}; only 'json_mode' works without one.")
    described = Described.of(schema) if schema is not None else None
    kind = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    given = wire_tools(tools or (), strict)
    sent: dict[str, Any] = {"tools": given} if given else {}
    name = None
    if method == "function_calling":
        assert described is not None  # noqa: S101 - refused above
        tool = schema_tool(schema, described, strict)
        name = tool["function"]["name"]
        choice: Any = {"type": "function", "function": {"name": name}}
        sent = {"tools": [tool, *given], "tool_choice": "required" if given else choice}
    elif method == "json_schema":
        sent["response_format"] = response_format(schema, described, strict)
    elif method == "json_mode":
        sent["response_format"] = {"type": "json_object"}
    else:
        raise ValueError(f"Unrecognized method {method!r}: it is 'function_calling', 'json_mode' or 'json_schema'.")
    shown: dict[str, Any] = {"method": method} if strict is None else {"method": method, "strict": strict}
    sent["ls_structured_output_format"] = {"kwargs": shown, "schema": _traced(schema, described)}
    return sent, Answer(kind=kind, tool=name)


def _traced(schema: Any, described: Described | None) -> dict[str, Any]:
    """The schema as traces show it. What they cannot read is no reason to fail."""
    if described is None:
        return {}
    try:
        return convert_to_json_schema(schema)
    except Exception:  # noqa: BLE001
        return {"title": described.name, **described.schema}


class Answer(BaseCumulativeTransformOutputParser[Any]):
    """A model's answer as an object: the arguments of a tool it had to call, or its text.

    An answer that was cut is never repaired into an object that looks whole, and a refusal is an error of its own. In a
    stream, what has come so far is repaired until the last piece.
    """

    kind: Any = None
    tool: str | None = None

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object; None where the model called another tool instead, or nothing of it has come yet.

        Raises:
            APIResponseError: the model refused (then a `ModelRefusalError` too), or the answer was cut.
            OutputParserException, ValidationError: it does not fit the schema.
        """
        message = result[0].message if isinstance(result[0], ChatGeneration) else AIMessage(result[0].text)
        if partial and isinstance(message, AIMessageChunk) and message.chunk_position != "last":
            return self._so_far(message)
        return self._whole(message)

    def parse(self, text: str) -> Any:
        """The object that a text holds."""
        return self.parse_result([Generation(text=text)])

    def _so_far(self, message: AIMessageChunk) -> Any:
        value: Any = None
        if self.tool is not None:
            value = next((call["args"] for call in message.tool_calls if call["name"] == self.tool), None)
        elif message.text:
            try:
                value = parse_json_markdown(str(message.text))
            except ValueError:
                return None
        if self.kind is None or value is None:
            return value
        try:
            return _as(self.kind, value)
        except ValueError:
            return None

    def _whole(self, message: BaseMessage) -> Any:
        if not isinstance(message, AIMessage):
            message = AIMessage(message.content)
        if (refusal := refusal_of(message)) is not None:
            raise refusal_error(refusal, message)
        cut = was_cut(message.response_metadata)
        try:
            value = self._arguments(message, cut) if self.tool is not None else _parse_json(message)
            return value if value is None or self.kind is None else _as(self.kind, value)
        except ValueError as error:
            text = str(message.text)
            if cut:
                raise cut_error(text) from error
            if isinstance(error, OutputParserException) or self.tool is not None:
                raise
            what = f"Failed to parse {self.kind.__name__} from completion" if self.kind else "Invalid json output:"
            raise OutputParserException(f"{what} {text}. Got: {error}", llm_output=text) from error

    def _arguments(self, message: AIMessage, cut: bool) -> Any:
        for call in message.tool_calls:
            if call["name"] == self.tool:
                return call["args"]
        for broken in message.invalid_tool_calls:
            if broken["name"] in (self.tool, None, ""):
                raise OutputParserException(str(broken["error"]), llm_output=broken["args"] or "")
        if cut:
            raise OutputParserException("The answer ended before the call.")
        return None


def _parse_json(message: AIMessage) -> Any:
    text = str(message.text)
    if not text and message.tool_calls:
        return None
    return parse_json_markdown(text, parser=json.loads)


def _as(kind: Any, value: Any) -> Any:
    """A value as a pydantic class.

    Raises:
        ValueError: it does not fit.
    """
    if issubclass(kind, BaseModel):
        return kind.model_validate(value)
    return kind.parse_obj(value)  # a model of pydantic 1
