"""A stream's pieces as LangChain's chunks, so that their sum is the answer that would have come whole. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk

from .chunks import AIMessageChunk, own_id
from .content import PROVIDER
from .finish import finish_metadata
from .messages import Wire, add_custom, beside, choice_metadata, generation_info, told_of, usage_metadata

if TYPE_CHECKING:
    from dbllm import ChatCompletion, ChatCompletionChunk, Usage

# Texts beside the content that name something: they come whole, and LangChain would add them up.
_NAMES = frozenset({"id", "name", "type", "role", "signature", "format", "status"})


class Pieces:
    """One stream's chunks.

    What a server repeats (usage, names and ids) is given once, as LangChain adds chunks up. What is known of the whole
    comes in a last, empty chunk; so do the fields beside the content that are no texts, as dbllm puts them together.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._head: Wire = {}
        self._usage: Usage | None = None
        self._end: str | None = None
        self._choice: Wire = {}
        self._ids: dict[int, str | None] = {}  # of the calls
        self._taken: set[str] = set()
        self._once: set[tuple[Any, ...]] = set()
        self._texts: set[str] = set()  # fields beside the content that came as text
        self._blocks = self._refused = False
        self.needs_whole = False
        """Whether `last` needs the whole answer: something came that chunks cannot add up."""

    def chunk(self, piece: ChatCompletionChunk) -> ChatGenerationChunk | None:
        """What a piece adds; None where that is nothing."""
        head = self._head
        if piece.id is not None:
            head["id"] = piece.id
        if piece.model is not None:
            head["model"] = piece.model
        if piece.model_extra:
            head.update({name: value for name, value in piece.model_extra.items() if value is not None})
        self._usage = piece.usage or self._usage
        choice = next((choice for choice in piece.choices if choice.index == 0), None)
        if choice is None:
            return None
        info = generation_info(choice)
        self._end = info.pop("finish_reason", self._end)
        if choice.model_extra:
            self._choice.update(choice_metadata(choice))
        delta = choice.delta
        content: Any = delta.content or ""
        if content and not isinstance(content, str):
            self._blocks = True
            content = [
                self._block(item) if isinstance(item, dict) else str(item) for item in content if item is not None
            ]
        calls = self._calls(delta.tool_calls) if delta.tool_calls else []
        texts = self._beside(delta.model_extra) if delta.model_extra else {}
        if not (content or calls or texts or info):
            return None
        message = AIMessageChunk(
            content=content or ([] if self._blocks else ""),
            tool_call_chunks=calls,
            additional_kwargs=texts,
            response_metadata={"model_provider": PROVIDER},
        )
        return ChatGenerationChunk(message=message, generation_info=info or None)

    def last(self, request_id: str | None, whole: ChatCompletion | None = None) -> ChatGenerationChunk:
        """The chunk that ends the answer; `whole` is asked for where `needs_whole`."""
        told = {**told_of(self._head, self._endpoint, self._usage, request_id), **self._choice}
        end = finish_metadata(self._end, calls=bool(self._ids), refused=self._refused)
        unnamed = [place for place, call_id in self._ids.items() if call_id is None]
        for place in unnamed:
            self._ids[place] = own_id(None, self._taken)
        rest: Wire = {}
        if whole is not None:
            kept = beside(whole.message, [self._ids.get(place) or "" for place in range(len(self._ids))])
            rest = {name: value for name, value in kept.items() if name not in self._texts}
        message = AIMessageChunk(
            content=[] if self._blocks else "",
            tool_call_chunks=[_call_chunk(place, id=self._ids[place]) for place in unnamed],
            usage_metadata=usage_metadata(self._usage),
            response_metadata={**told, **end},
            additional_kwargs=rest,
            chunk_position="last",
        )
        add_custom(message, self._head.get("custom_outputs"))
        return ChatGenerationChunk(message=message, generation_info={"finish_reason": self._end} if self._end else {})

    def _block(self, item: Wire) -> Wire:
        """A content block, with its place in `index`. What names it is given once."""
        place = item.get("index")
        block = self._named(item, place)
        if isinstance(parts := block.get("summary"), list):
            block["summary"] = [self._named(part, place, part.get("index")) for part in parts if isinstance(part, dict)]
        return block

    def _named(self, item: Wire, *place: Any) -> Wire:
        kept = dict(item)
        for name in _NAMES - {"type"} & item.keys():
            if not item[name] or self._told(*place, name):
                del kept[name]
        return kept

    def _told(self, *what: Any) -> bool:
        """Whether this was told before; from now on it was."""
        before = what in self._once
        self._once.add(what)
        return before

    def _beside(self, extra: Wire) -> Wire:
        texts: Wire = {}
        for name, value in extra.items():
            if isinstance(value, str) and name not in _NAMES:
                texts[name] = value
                self._texts.add(name)
                self._refused = self._refused or (name == "refusal" and bool(value))
            elif value is not None:
                self.needs_whole = True
        return {name: text for name, text in texts.items() if text}

    def _calls(self, calls: Sequence[Any]) -> list[ToolCallChunk]:
        chunks = []
        for number, call in enumerate(calls):
            extra, function = call.model_extra or {}, call.function
            place = extra.get("index", number)
            self.needs_whole = self.needs_whole or bool(extra.keys() - {"index"} or (function and function.model_extra))
            arguments = function.arguments if function else None
            if isinstance(arguments, dict):
                arguments = json.dumps(arguments, ensure_ascii=False)
            name = function.name if function else None
            call_id = None
            if self._ids.get(place) is None and call.id not in (None, "", "null", "None", "none"):
                call_id = own_id(call.id, self._taken)
            self._ids[place] = self._ids.get(place) or call_id
            name = name if name and not self._told("call", place) else None
            chunks.append(_call_chunk(place, name=name, args=arguments or "", id=call_id))
        return chunks


def _call_chunk(place: int, *, name: str | None = None, args: str = "", id: str | None = None) -> ToolCallChunk:  # noqa: A002
    return ToolCallChunk(name=name, args=args, id=id, index=place, type="tool_call_chunk")
