"""Agents (`agent/v1/responses`): messages to the items they take, and what they answer to messages. Pure.

The wire is OpenAI's Responses API, in which an answer is a list of items: messages, reasoning, calls of functions, what
functions gave, and whatever else an agent tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, HumanMessage, SystemMessage
from langchain_core.messages import ToolMessage as Gave
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from .content import PROVIDER, wire_content
from .messages import add_custom, told_of, usage_metadata

if TYPE_CHECKING:
    from dbllm import OutputItem, Response, ResponseEvent

Item = dict[str, Any]

# Ids of items: the foundation model endpoints give longer ones than they take back.
_ID = 64


def wire_items(messages: Iterable[BaseMessage]) -> list[Item]:
    """The messages of a conversation as an agent's input.

    Raises:
        ValueError: a kind of message or content that an agent does not take.
    """
    return [item for message in messages for item in _items(message)]


def _items(message: BaseMessage) -> Iterator[Item]:
    if isinstance(message, AIMessage):
        yield from _answered(message)
    elif isinstance(message, Gave):
        content = wire_content(message.content, "tool")
        output = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}
    elif isinstance(message, (HumanMessage, SystemMessage, ChatMessage)):
        role = "user" if isinstance(message, HumanMessage) else "system"
        role = message.role if isinstance(message, ChatMessage) else role
        content = wire_content(message.content, role)
        yield {"role": role, "content": content if isinstance(content, str) else [_input(part) for part in content]}
    else:
        raise ValueError(f"A {type(message).__name__} cannot be sent to an agent.")


def _input(part: Item) -> Item:
    """A chat's content part in the words of the Responses API."""
    match part:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": dict(image)}:
            rest = {name: value for name, value in image.items() if name != "url"}
            return {"type": "input_image", "image_url": image.get("url"), **rest}
        case {"type": "file", "file": dict(file)}:
            return {"type": "input_file", **file}
    return part


def _answered(message: AIMessage) -> Iterator[Item]:
    """An answer of earlier, item by item, in the order in which it came."""
    for block in [message.content] if isinstance(message.content, str) else message.content:
        if isinstance(block, str) or block.get("type") == "text":
            text = block if isinstance(block, str) else block.get("text")
            if text:
                said = [{"type": "output_text", "text": text}]
                yield {"type": "message", "role": "assistant", "content": said}
        elif block.get("type") == "reasoning":
            summary = block.get("summary") or (block.get("extras") or {}).get("summary")
            kept = {name: block[name] for name in ("encrypted_content", "id") if block.get(name)}
            text = block.get("reasoning") or ""
            yield _item({"type": "reasoning", "summary": summary or [{"type": "summary_text", "text": text}], **kept})
        elif block.get("type") == "non_standard":
            yield _item(block["value"])
        elif block.get("type") not in ("tool_call", "tool_use", "invalid_tool_call"):
            yield _item(block)
    for call in (*message.tool_calls, *message.invalid_tool_calls):
        given = call["args"] if isinstance(call["args"], str) else json.dumps(call["args"] or {}, ensure_ascii=False)
        yield {"type": "function_call", "call_id": call["id"], "name": call["name"], "arguments": given}


def _item(block: Mapping[str, Any]) -> Item:
    item = {name: value for name, value in block.items() if name != "index"}
    if isinstance(item.get("id"), str):
        item["id"] = item["id"][:_ID]
    return item


def wire_params(params: Mapping[str, Any], stop: Sequence[str] | None) -> dict[str, Any]:
    """A chat's parameters in the words of the Responses API.

    Raises:
        ValueError: one that it has no form for.
    """
    sent = {name: value for name, value in params.items() if value is not None}
    if stop:
        raise ValueError("An agent takes no stop sequences (the Responses API has none): leave stop out.")
    if (count := sent.pop("n", 1)) != 1:
        raise ValueError(f"An agent gives one answer, so n={count} would lose the others: leave n out.")
    if "max_tokens" in sent:
        sent["max_output_tokens"] = sent.pop("max_tokens")
    if "tools" in sent:
        sent["tools"] = [_flat(tool) for tool in sent["tools"]]
    if isinstance(sent.get("tool_choice"), dict):
        sent["tool_choice"] = _flat(sent["tool_choice"])
    if "response_format" in sent:
        form = sent.pop("response_format")
        sent["text"] = {"format": {"type": form["type"], **form.get("json_schema", {})}}
    return sent


def _flat(tool: Mapping[str, Any]) -> Item:
    return {"type": "function", **tool["function"]} if "function" in tool else dict(tool)


# --- answers ----------------------------------------------------------------------------------------------------------


def result(response: Response, endpoint: str) -> ChatResult:
    """An agent's answer."""
    blocks: list[Any] = [block for item in response.output for block in _blocks(item)]
    calls, invalid = [], []
    for item in open_calls(response.output):
        try:
            given = json.loads(item.arguments or "{}")
            if not isinstance(given, dict):
                raise ValueError("no JSON object")
            calls.append(tool_call(name=item.name or "", args=given, id=item.call_id))
        except ValueError as error:
            invalid.append(invalid_tool_call(name=item.name, args=item.arguments, id=item.call_id, error=str(error)))
    plain = blocks[0] if len(blocks) == 1 else {}
    message = AIMessage(
        content=plain["text"] if plain.keys() == {"type", "text"} else blocks,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        response_metadata=_told(response, endpoint),
        usage_metadata=usage_metadata(response.usage),
        id=response.id,
    )
    add_custom(message, response.custom_outputs)
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output=_told(response, endpoint))


def open_calls(items: Sequence[OutputItem]) -> list[OutputItem]:
    """The calls the caller is to make. Those that the agent made itself come with what they gave."""
    made = {item.call_id for item in items if item.type == "function_call_output"}
    return [item for item in items if item.type == "function_call" and item.call_id not in made]


def _blocks(item: OutputItem) -> Iterator[Item]:
    """An item as content blocks; calls stand beside the content."""
    if item.type == "function_call":
        return
    if item.type != "message":
        yield item.model_dump(exclude_none=True)
        return
    parts = item.content if isinstance(item.content, list) else [{"type": "output_text", "text": item.content or ""}]
    for part in parts:
        if part.get("type") in ("output_text", "text"):
            notes = {"annotations": part["annotations"]} if part.get("annotations") else {}
            yield {"type": "text", "text": part.get("text") or "", **notes}
        else:
            yield dict(part)


def _told(response: Response, endpoint: str) -> Item:
    told = told_of(response.model, endpoint, response.usage, response.request_id)
    more = {"status": response.status, "incomplete_details": (response.model_extra or {}).get("incomplete_details")}
    return {**told, **{name: value for name, value in more.items() if value is not None}}


class Events:
    """One stream's chunks, so that their sum is the answer.

    Texts come as they are written, other items when they are whole, and calls at the end: until then nobody knows
    whether the agent makes them itself.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._places: dict[Any, int] = {}
        self._seen: set[Any] = set()  # items whose content has been given

    def chunk(self, event: ResponseEvent) -> ChatGenerationChunk | None:
        """What an event adds; None where that is nothing."""
        if event.text:
            item = (event.model_extra or {}).get("item_id")
            self._seen.add(item)
            return self._written([{"type": "text", "text": event.text, "index": self._place(item)}])
        if event.type == "response.output_item.done" and event.item is not None:
            return self._whole(event.item)
        return None

    def last(self, request_id: str | None, response: Response) -> ChatGenerationChunk:
        """The chunk that ends the answer, with what no event has told yet."""
        blocks: list[Any] = [block for item in response.output for block in self._new_blocks(item)]
        calls = [
            ToolCallChunk(
                name=item.name, args=item.arguments or "", id=item.call_id, index=place, type="tool_call_chunk"
            )
            for place, item in enumerate(open_calls(response.output))
        ]
        message = AIMessageChunk(
            content=blocks,
            tool_call_chunks=calls,
            usage_metadata=usage_metadata(response.usage),
            response_metadata=_told(response, self._endpoint),
            id=response.id,
            chunk_position="last",
        )
        add_custom(message, response.custom_outputs)
        return ChatGenerationChunk(message=message)

    def _whole(self, item: OutputItem) -> ChatGenerationChunk | None:
        blocks = self._new_blocks(item)
        return self._written(blocks) if blocks else None

    def _new_blocks(self, item: OutputItem) -> list[Item]:
        if item.type == "function_call" or item.id in self._seen:
            return []
        if item.id is not None:
            self._seen.add(item.id)
        return [{**block, "index": self._place(object())} for block in _blocks(item)]

    def _place(self, item: Any) -> int:
        return self._places.setdefault(item, len(self._places))

    def _written(self, blocks: list[Any]) -> ChatGenerationChunk:
        message = AIMessageChunk(content=blocks, response_metadata={"model_provider": PROVIDER})
        return ChatGenerationChunk(message=message)
