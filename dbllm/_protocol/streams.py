"""The pieces of a stream: what each of them belongs to, and the whole answer that they make. Pure.

Servers repeat ids and indexes, leave them out, write "null" or a new id on every piece. So the order of events and new
names tell which call, content block or item a piece belongs to. It is written down as `index` (`output_index` in the
Responses wire), which everybody who puts pieces together can then rely on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .models import (
    ChatCompletion,
    ChatCompletionChunk,
    CompletionChunk,
    Delta,
    OutputItem,
    Response,
    ResponseEvent,
    ToolCall,
)
from .reply import WireModel
from .responses import json_or_none, merge_delta

_NO_ID = frozenset({"", "null", "None", "none"})


def _known_id(value: object) -> str | None:
    return value if isinstance(value, str) and value not in _NO_ID else None


def _index(item: Any) -> int | None:
    value = item.get("index") if isinstance(item, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _extra_of(model: WireModel) -> dict[str, Any]:
    """The fields without a name of their own, to be changed."""
    if model.__pydantic_extra__ is None:
        model.__pydantic_extra__ = {}
    return model.__pydantic_extra__


@dataclass(slots=True)
class _CallState:
    place: int
    wire_index: int | None
    id: str | None
    name: str
    arguments: str = ""
    is_named_again: bool = False  # after its arguments were whole: another call of the same tool may follow

    def is_another(self, own_id: str | None, name: str, text: str) -> bool:
        """Whether a piece begins another call than this one: only a name does, at once or for the piece after it."""
        more = bool(text.strip())
        if not name:
            return self.is_named_again and more
        if (self.name or name) != name:
            return True
        ended = _is_json_object(self.arguments)
        if own_id and self.id and own_id != self.id:  # a number of its own, or a new one on every piece
            return ended or not self.arguments or text.lstrip().startswith("{")
        self.is_named_again = ended
        return ended and more


def _is_json_object(text: str) -> bool:
    return text.rstrip().endswith("}") and isinstance(json_or_none(text), dict)


@dataclass(slots=True)
class _Block:
    place: int
    kind: object
    wire_index: int | None
    signed: bool = False


@dataclass(slots=True)
class _Message:
    """The calls and content blocks of one choice so far."""

    calls: list[_CallState] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)

    def settle(self, delta: Delta) -> None:
        for number, call in enumerate(delta.tool_calls or ()):
            self._settle_call(call, number if len(delta.tool_calls or ()) > 1 else None)
        content = delta.content
        if self.blocks and isinstance(content, str) and content:
            content = [{"type": "text", "text": content}]
        if isinstance(content, list):
            delta.content = [self._settled_block(item) if isinstance(item, dict) else item for item in content]

    def _settle_call(self, call: ToolCall, number: int | None) -> None:
        extra = _extra_of(call)
        index = _index(extra)
        index = number if index is None else index
        own_id, function = _known_id(call.id), call.function
        name = (function and function.name) or ""
        arguments = function.arguments if function else None
        text = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
        known = self._call_of(own_id, index, name)
        if known is not None and own_id == known.id and name and text == known.arguments and _is_json_object(text):
            text = function.arguments = ""  # type: ignore[union-attr] # the whole call once more, as a summary
        if known is None or known.is_another(own_id, name, text):
            if known is not None and not name and function is not None:  # it was named by the piece before this one
                own_id, name, function.name = known.id, known.name, known.name
                call.id = own_id
            known = _CallState(len(self.calls), index, own_id, name)
            self.calls.append(known)
        known.id, known.name = known.id or own_id, known.name or name
        known.arguments += text
        if call.id is not None:
            call.id = own_id if own_id == known.id else None
        extra["index"] = known.place

    def _call_of(self, own_id: str | None, index: int | None, name: str) -> _CallState | None:
        """The call that a piece continues, unless its name begins another."""
        calls = self.calls[::-1]
        same_id = next((old for old in calls if own_id and old.id == own_id), None)
        if same_id and (not name or index is None or same_id.wire_index in (None, index)):
            return same_id
        if index is None or not name:
            same_index = (old for old in calls if index is not None and old.wire_index == index)
            return next(same_index, calls[0] if calls else None)
        return next((old for old in calls if old.wire_index == index), None)

    def _settled_block(self, item: dict[str, Any]) -> dict[str, Any]:
        kind, index = item.get("type"), _index(item)
        same_index = (old for old in reversed(self.blocks) if index is not None and old.wire_index == index)
        block = next(same_index, None)
        if block is None and self.blocks and index is None and kind in ("text", "reasoning", "thinking"):
            block = self.blocks[-1]
        if block is None or block.kind != kind or (block.signed and _has_text(item)):
            block = _Block(len(self.blocks), kind, index)
            self.blocks.append(block)
        block.signed = block.signed or _is_signed(item)
        settled = {**item, "index": block.place}
        if isinstance(parts := item.get("summary"), list):
            settled["summary"] = [
                {**part, "index": at} if isinstance(part, dict) else part for at, part in enumerate(parts)
            ]
        return settled


def _with_summary(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [item, *(part for part in item.get("summary") or () if isinstance(part, dict))]


def _is_signed(item: dict[str, Any]) -> bool:
    return any(part.get("signature") for part in _with_summary(item))


def _has_text(item: dict[str, Any]) -> bool:
    return any(part.get("text") or part.get("thinking") for part in _with_summary(item))


def renumber(chunk: ChatCompletionChunk | CompletionChunk, first: int | None) -> int | None:
    """Number a chunk's choices from 0; `first` is the number that the first of the stream had, None before it came."""
    for choice in chunk.choices:
        if first is None:
            first = choice.index
        if first:
            choice.index = {first: 0, 0: first}.get(choice.index, choice.index)
    return first


class ChatPlaces:
    """What the pieces of one chat stream belong to. `settle` is given every chunk, in the order in which they came."""

    def __init__(self, several: bool = False) -> None:
        self._first: int | None = 0 if several else None  # the number of the first choice, where one was asked for
        self._messages: dict[int, _Message] = {}

    def settle(self, chunk: ChatCompletionChunk) -> None:
        """Number the chunk's choices from 0, and give its calls and blocks the `index` of what they belong to."""
        if self._first != 0:
            self._first = renumber(chunk, self._first)
        for choice in chunk.choices:
            delta = choice.delta
            if delta.tool_calls or type(delta.content) is list or self._messages:
                self._messages.setdefault(choice.index, _Message()).settle(delta)


def assemble_chat(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion:
    """The whole answer from its chunks: texts joined, calls and blocks put together, the last usage kept."""
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    places = ChatPlaces(several=True)
    for chunk in chunks:
        if any(type(choice.delta.content) is list or choice.delta.tool_calls for choice in chunk.choices):
            chunk = chunk.model_copy(deep=True)
        places.settle(chunk)
        piece = chunk.model_dump(exclude_unset=True)
        for choice in piece.pop("choices", None) or ():
            place = choice.setdefault("index", 0)
            choices[place] = merge_delta(choices.get(place, {}), choice)
        head.update({key: value for key, value in piece.items() if value is not None})
    whole = []
    for _, choice in sorted(choices.items()):
        message = {"role": "assistant", **choice.pop("delta", {})}
        content = message.get("content")
        for item in (*(message.get("tool_calls") or ()), *(content if isinstance(content, list) else ())):
            for part in _with_summary(item) if isinstance(item, dict) else ():
                part.pop("index", None)  # only a stream's pieces need it
        whole.append({**choice, "message": message})
    return ChatCompletion.model_validate({**head, "object": "chat.completion", "choices": whole})


# --- Responses --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Item:
    place: int
    kind: str | None
    wire_index: int | None
    ids: set[str] = field(default_factory=set)
    text: str = ""  # what came in pieces and in no whole item yet
    is_open: bool = True


class ItemPlaces:
    """What the events of one response stream belong to. `settle` is given every event, in the order they came."""

    def __init__(self) -> None:
        self._items: list[_Item] = []

    def settle(self, event: ResponseEvent) -> int:
        """Give the event the `output_index` of its item; -1 where it is about none."""
        extra = _extra_of(event)
        kind = event.type
        if event.item is not None and kind == "response.output_item.added":
            item = self._new(event.item.type, extra, event.item.id)
        elif event.item is not None and kind == "response.output_item.done":
            item = self._whole(event.item, extra)
        elif kind.endswith(".delta") and ("item_id" in extra or event.text):
            item = self._continued("message" if event.text else None, extra)
            item.text += event.text
        else:
            return -1
        extra["output_index"] = item.place
        return item.place

    def _new(self, kind: str | None, extra: dict[str, Any], own_id: object) -> _Item:
        known = _known_id(own_id)
        item = _Item(len(self._items), kind, extra.get("output_index"), {known} if known else set())
        self._items.append(item)
        return item

    def _continued(self, kind: str | None, extra: dict[str, Any]) -> _Item:
        """The item that a piece continues: of its id, else the last one that has begun and not ended."""
        own_id, index = _known_id(extra.get("item_id")), extra.get("output_index")
        begun = [item for item in reversed(self._items) if item.is_open and kind in (None, item.kind)]
        found = next((item for item in begun if own_id in item.ids), None)
        if found is None and begun and (index is None or begun[0].wire_index in (None, index)):
            found = begun[0]
        found = found or next((item for item in begun if item.wire_index == index), None)
        found = found or self._new(kind, extra, own_id)
        if own_id:
            found.ids.add(own_id)
        return found

    def _whole(self, item: OutputItem, extra: dict[str, Any]) -> _Item:
        """The item whose pieces have come already: of its id, else by its text, else the first that has begun."""
        own_id, text = _known_id(item.id), item.text
        begun = [old for old in self._items if old.is_open and old.kind == item.type]
        found = next((old for old in begun if own_id in old.ids), None)
        fits = (old for old in begun if old.text and (old.text.startswith(text) or text.startswith(old.text)))
        found = found or next((old for old in fits if text), None)
        found = found or next((old for old in begun if not old.text or not old.ids or own_id is None), None)
        found = found or self._new(item.type, extra, own_id)
        found.text = rest_of(found.text, text)
        found.is_open = bool(found.text)
        return found


def rest_of(pieces: str, text: str) -> str:
    """What pieces hold beyond a whole item's text: they were of the next item already."""
    return pieces[len(text) :] if text and pieces.startswith(text) else ""


def assemble_response(events: Iterable[ResponseEvent]) -> Response:
    """The whole response from its events: what its last event says, else the items and texts that came."""
    head: dict[str, Any] = {}
    items: dict[int, list[Any]] = {}
    texts: dict[int, str] = {}
    places = ItemPlaces()
    for event in events:
        place = places.settle(event)
        if event.text:
            texts[place] = texts.get(place, "") + event.text
        elif event.type == "response.output_item.done" and event.item is not None:
            items.setdefault(place, []).append(event.item)
            texts[place] = rest_of(texts.get(place, ""), event.item.text)
        said = event.response.model_dump(exclude_unset=True) if event.response else {}
        said["custom_outputs"] = event.custom_outputs or said.get("custom_outputs")
        head.update({key: value for key, value in said.items() if value})
    output: list[Any] = []
    for place in dict.fromkeys([*items, *texts]):
        output += items.get(place, ())
        if text := texts.get(place):  # an agent that sends nothing but deltas
            content = [{"type": "output_text", "text": text}]
            output.append({"type": "message", "role": "assistant", "content": content})
    came = Response.model_validate({"output": output}).output
    last = Response.model_validate({"output": head.pop("output", [])}).output
    return Response.model_validate({"output": _fuller(came, last), **head})


def _fuller(came: list[OutputItem], last: list[OutputItem]) -> list[OutputItem]:
    """The items that the last event has, and those that only came before: the nth of a type is the nth of that type."""
    by_type: dict[str | None, list[OutputItem]] = {}
    for item in last:
        by_type.setdefault(item.type, []).append(item)
    merged = [by_type[item.type].pop(0) if by_type.get(item.type) else item for item in came]
    left = [item for items in by_type.values() for item in items]
    return last if len(merged) + len(left) == len(last) else merged + left
