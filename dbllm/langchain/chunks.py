"""The chunk of a stream, whose sum reads the arguments of tools as an answer that comes whole does."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessageChunk as LangChainsChunk
from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call


class AIMessageChunk(LangChainsChunk):
    """LangChain's chunk. LangChain repairs arguments that are no JSON, so that a call that was cut looks whole.

    What is added up is LangChain's own class again, with such calls among the `invalid_tool_calls`.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """The name under which it is serialized: LangChain's."""
        return LangChainsChunk.lc_id()

    def __add__(self, other: Any) -> Any:
        return _summed(super().__add__(other))

    def __radd__(self, other: Any) -> Any:
        return _summed(LangChainsChunk.__add__(other, self)) if isinstance(other, LangChainsChunk) else NotImplemented


def _summed(chunk: Any) -> Any:
    if not isinstance(chunk, LangChainsChunk):
        return chunk
    object.__setattr__(chunk, "__class__", LangChainsChunk)
    if chunk.chunk_position == "last" and chunk.tool_call_chunks:
        read = [read_call(part["name"], part["args"], part["id"]) for part in chunk.tool_call_chunks]
        chunk.tool_calls, chunk.invalid_tool_calls = valid_and_invalid(read)
        invalid = {call["id"]: call for call in chunk.invalid_tool_calls}
        if isinstance(chunk.content, list):  # output_version="v1" has the calls there too
            for place, block in enumerate(chunk.content):
                if isinstance(block, dict) and block.get("type") == "tool_call" and block.get("id") in invalid:
                    chunk.content[place] = dict(invalid[block["id"]])
    return chunk


def read_call(name: str | None, arguments: object, call_id: str | None) -> ToolCall | InvalidToolCall:
    """A call that a model asks for; an invalid one where its arguments are no JSON object."""
    try:
        given = json.loads(arguments or "{}") if not isinstance(arguments, dict) else arguments  # type: ignore[arg-type]
        if not isinstance(given, dict) or not name:
            raise ValueError("no JSON object" if name else "no name")
        return tool_call(name=name, args=given, id=call_id)
    except (ValueError, RecursionError) as error:
        text = arguments if isinstance(arguments, str) else None
        why = f"The model called {name!r} with arguments that are not a JSON object: {error}"
        return invalid_tool_call(name=name, args=text, id=call_id, error=why)


def valid_and_invalid(calls: list[Any]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Calls apart from those whose arguments are no JSON object."""
    kinds = {kind: [call for call in calls if call.get("type") == kind] for kind in ("tool_call", "invalid_tool_call")}
    return kinds["tool_call"], kinds["invalid_tool_call"]


def own_id(call_id: object, taken: set[str]) -> str:
    """A call's id; a new one where the server gave none, or one that another call of the answer has."""
    known = call_id if isinstance(call_id, str) and call_id not in ("", "null", "None", "none", *taken) else None
    given = known or f"call_{uuid4().hex[:24]}"
    taken.add(given)
    return given
