"""Agents (`agent/v1/responses`): messages to the items they take, and what they answer to messages. Pure.

The wire is OpenAI's Responses API, in which an answer is a list of items: messages, reasoning, calls of functions, what
functions gave, and whatever else an agent tells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage
from langchain_core.messages import ToolMessage as Gave
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from .chunks import AIMessageChunk, own_id, read_call, valid_and_invalid
from .content import PROVIDER, is_langchains_id, refusal_of, wire_content
from .finish import finish_metadata
from .messages import EXTRAS, add_custom, told_of, usage_metadata

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
            told = {**(block.get("extras") or {}), **block}
            kept = {name: told[name] for name in ("encrypted_content", "id") if told.get(name)}
            text = block.get("reasoning") or ""
            yield _item({"type": "reasoning", "summary": summary or [{"type": "summary_text", "text": text}], **kept})
        elif block.get("type") == "refusal":
            said = [{"type": "refusal", "refusal": block.get("refusal") or ""}]
            yield {"type": "message", "role": "assistant", "content": said}
        elif block.get("type") == "non_standard":
            yield _item(block["value"])
        elif block.get("type") not in ("tool_call", "tool_use", "invalid_tool_call"):
            yield _item(block)
    extras = message.additional_kwargs.get(EXTRAS) or {}
    for call in (*message.tool_calls, *message.invalid_tool_calls):
        given = call["args"] if isinstance(call["args"], str) else json.dumps(call["args"] or {}, ensure_ascii=False)
        item = {"type": "function_call", "call_id": call["id"], "name": call["name"], "arguments": given}
        yield {**(extras.get(call["id"] or "") or {}), **item}


def _item(block: Mapping[str, Any]) -> Item:
    item = {name: value for name, value in block.items() if name != "index"}
    if is_langchains_id(item.get("id")):
        item.pop("id", None)
    elif isinstance(item["id"], str):
        item["id"] = item["id"][:_ID]
    if isinstance(parts := item.get("summary"), list):
        item["summary"] = [_item(part) if isinstance(part, Mapping) else part for part in parts]
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
    for name in ("max_tokens", "max_completion_tokens"):
        if name in sent:
            sent["max_output_tokens"] = sent.pop(name)
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
    calls = _Calls(response.output)
    plain = blocks[0] if len(blocks) == 1 else {}
    message = AIMessage(
        content=plain["text"] if plain.keys() == {"type", "text"} else blocks,
        tool_calls=calls.valid,
        invalid_tool_calls=calls.invalid,
        usage_metadata=usage_metadata(response.usage),
        additional_kwargs=calls.extras,
        response_metadata={"model_provider": PROVIDER},
    )
    told = _told(response, endpoint)
    message.response_metadata = {**told, **_end(response, message)}
    add_custom(message, response.custom_outputs)
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output=told)


class _Calls:
    """The calls the caller is to make. Those that the agent made itself come with what they gave."""

    def __init__(self, items: Sequence[OutputItem]) -> None:
        made = {item.call_id for item in items if item.type == "function_call_output"}
        taken: set[str] = set()
        self.items = [
            (item, own_id(item.call_id or item.id, taken))
            for item in items
            if item.type == "function_call" and item.call_id not in made
        ]
        self.valid, self.invalid = valid_and_invalid(
            [read_call(item.name, item.arguments, call_id) for item, call_id in self.items]
        )
        beside = {call_id: item.model_extra or {} for item, call_id in self.items}
        extras = {
            call_id: kept
            for call_id, extra in beside.items()
            if (kept := {name: value for name, value in extra.items() if name != "status" and value is not None})
        }
        self.extras = {EXTRAS: extras} if extras else {}


def _blocks(item: OutputItem) -> Iterator[Item]:
    """An item as content blocks; calls stand beside the content."""
    if item.type == "function_call":
        return
    if item.type != "message":
        yield item.model_dump(exclude_none=True)
        return
    parts = item.content if isinstance(item.content, list) else [{"type": "output_text", "text": item.content or ""}]
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("type") in ("output_text", "text"):
            notes = {"annotations": part["annotations"]} if part.get("annotations") else {}
            yield {"type": "text", "text": part.get("text") or "", **notes}
        else:
            yield dict(part)


def _told(response: Response, endpoint: str) -> Item:
    head = {"id": response.id, "model": response.model, "status": response.status, **(response.model_extra or {})}
    told = told_of(head, endpoint, response.usage, response.request_id)
    return {name: value for name, value in told.items() if name not in _ASKED}


# What a response repeats of its request.
_ASKED = {
    "instructions", "tools", "tool_choice", "temperature", "top_p", "parallel_tool_calls", "text", "store",
    "truncation", "created_at", "reasoning", "max_output_tokens", "user", "background",
}  # fmt: skip


def _end(response: Response, message: AIMessage) -> Item:
    details = (response.model_extra or {}).get("incomplete_details")
    reason = (details.get("reason") if isinstance(details, dict) else None) or response.status
    ended = reason if response.status in ("completed", "incomplete", "failed") else None
    calls = bool(message.tool_calls or message.invalid_tool_calls)
    return finish_metadata(ended, calls=calls, refused=refusal_of(message) is not None)


class Events:
    """One stream's chunks, so that their sum is the answer.

    Texts come as they are written, other items when they are whole, and calls at the end: until then nobody knows
    whether the agent makes them itself. dbllm says in `output_index` which item an event is about.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._places: dict[Any, int] = {}
        self._texts: dict[Any, str] = {}  # texts that were given, of items that are not whole yet
        self._given: Counter[str | None] = Counter()  # items that were given, by type

    def chunk(self, event: ResponseEvent) -> ChatGenerationChunk | None:
        """What an event adds; None where that is nothing."""
        extra = event.model_extra or {}
        item = extra.get("output_index")
        if event.text:
            part = (item, extra.get("content_index"))
            if item not in self._texts:
                self._given["message"] += 1
            self._texts[item] = self._texts.get(item, "") + event.text
            return self._written([{"type": "text", "text": event.text, "index": self._place(part)}])
        if event.type == "response.output_item.done" and event.item is not None:
            blocks = self._whole(event.item, item)
            return self._written(blocks) if blocks else None
        return None

    def last(self, request_id: str | None, response: Response) -> ChatGenerationChunk:
        """The chunk that ends the answer, with the items that no event has told."""
        left = self._given.copy()
        blocks: list[Any] = []
        for item in response.output:
            left[item.type] -= 1
            blocks += self._new_blocks(item) if left[item.type] < 0 else ()
        whole = result(response, self._endpoint).generations[0].message
        calls = _Calls(response.output)
        message = AIMessageChunk(
            content=blocks,
            tool_call_chunks=[
                ToolCallChunk(
                    name=item.name, args=item.arguments or "", id=call_id, index=place, type="tool_call_chunk"
                )
                for place, (item, call_id) in enumerate(calls.items)
            ],
            usage_metadata=usage_metadata(response.usage),
            response_metadata=whole.response_metadata,
            additional_kwargs=calls.extras,
            chunk_position="last",
        )
        add_custom(message, response.custom_outputs)
        return ChatGenerationChunk(message=message)

    def _whole(self, item: OutputItem, place: Any) -> list[Item]:
        """The blocks of a whole item, but for the text that was given in pieces."""
        if item.type != "message" or place not in self._texts:
            self._given[item.type] += item.type != "function_call"
            return self._new_blocks(item)
        given = self._texts.pop(place)
        if len(given) > len(item.text) and given.startswith(item.text):  # pieces of the next item came under its name
            self._texts[place] = given[len(item.text) :]
            self._given["message"] += 1
        others = [block for block in self._new_blocks(item) if block["type"] != "text"]
        rest = item.text[len(given) :] if item.text.startswith(given) else ""
        return [*([{"type": "text", "text": rest, "index": self._place(object())}] if rest else []), *others]

    def _new_blocks(self, item: OutputItem) -> list[Item]:
        return [{**block, "index": self._place(object())} for block in _blocks(item)]

    def _place(self, item: Any) -> int:
        return self._places.setdefault(item, len(self._places))

    def _written(self, blocks: list[Any]) -> ChatGenerationChunk:
        message = AIMessageChunk(content=blocks, response_metadata={"model_provider": PROVIDER})
        return ChatGenerationChunk(message=message)
