"""Messages: LangChain's to what a chat endpoint takes, and its answers to LangChain's. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from .content import PROVIDER, wire_content

if TYPE_CHECKING:
    from dbllm import ChatCompletion, ChatCompletionChunk, Message, Usage

Wire = dict[str, Any]


def wire_messages(messages: Iterable[BaseMessage], model: str) -> list[Wire]:
    """The messages of a conversation as they are sent to the endpoint `model`.

    Names of speakers and message ids are not sent: endpoints refuse fields they do not know.

    Raises:
        ValueError: a kind of message or content that a chat endpoint does not take.
    """
    return [wire for message in messages for wire in _wire(message, model)]


def _wire(message: BaseMessage, model: str) -> Iterator[Wire]:
    if isinstance(message, AIMessage):
        yield _assistant(message, model)
    elif isinstance(message, ToolMessage):
        yield {"role": "tool", "tool_call_id": message.tool_call_id, "content": wire_content(message.content, "tool")}
    elif isinstance(message, SystemMessage):
        yield {"role": "system", "content": wire_content(message.content, "system")}
    elif isinstance(message, HumanMessage):
        yield from _user(message)
    elif isinstance(message, ChatMessage):
        yield {"role": message.role, "content": wire_content(message.content, message.role)}
    elif isinstance(message, FunctionMessage):
        raise ValueError("Function messages are not supported by Databricks: use ToolMessage, with a tool_call_id.")
    else:
        raise ValueError(f"A {type(message).__name__} cannot be sent to a chat endpoint.")


def _user(message: HumanMessage) -> Iterator[Wire]:
    """A user's message; results of tools inside it (Anthropic's form) become messages of their own, which go first."""
    rest: list[Any] = []
    for block in [message.content] if isinstance(message.content, str) else message.content:
        if isinstance(block, dict) and block.get("type") == "tool_result":
            content = wire_content(block.get("content") or "", "tool")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}
        else:
            rest.append(block)
    if rest or not message.content:
        yield {"role": "user", "content": wire_content(rest if rest != [message.content] else message.content, "user")}


def _assistant(message: AIMessage, model: str) -> Wire:
    calls = [_wire_call(call["id"], call["name"], call["args"]) for call in message.tool_calls]
    calls += [_wire_call(call["id"], call["name"], call["args"] or "") for call in message.invalid_tool_calls]
    if not calls and not isinstance(message.content, str):  # Anthropic's form, without LangChain's beside it
        used = (block for block in message.content if isinstance(block, dict) and block.get("type") == "tool_use")
        calls = [_wire_call(block.get("id"), block.get("name"), block.get("input") or {}) for block in used]
    content: Any = wire_content(message.content, "assistant")
    if not calls:
        return {"role": "assistant", "content": content}
    if not content:
        # Claude's endpoints refuse an empty text beside a tool call, null too.
        content = " " if "claude" in model.lower() else None
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _wire_call(call_id: str | None, name: str | None, arguments: object) -> Wire:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "id": call_id, "function": {"name": name, "arguments": text}}


# --- answers ----------------------------------------------------------------------------------------------------------


def chat_result(reply: ChatCompletion, endpoint: str) -> ChatResult:
    """A whole answer; one generation for each of its choices."""
    told = told_of(reply.model, endpoint, reply.usage, reply.request_id)
    usage = usage_metadata(reply.usage)
    custom = (reply.model_extra or {}).get("custom_outputs")
    generations = []
    for place, choice in enumerate(reply.choices):
        info = generation_info(choice)
        message = answer(choice.message, reply.id, {**told, **info}, usage if place == 0 else None)
        add_custom(message, custom)
        generations.append(ChatGeneration(message=message, generation_info=info))
    return ChatResult(generations=generations, llm_output=told)


def add_custom(message: BaseMessage, custom: Any) -> None:
    """An agent's `custom_outputs`: an attribute, as databricks-langchain has it, and where sums of chunks keep it."""
    if custom is not None:
        message.additional_kwargs["custom_outputs"] = custom
        message.custom_outputs = custom  # type: ignore[attr-defined]


def answer(message: Message, message_id: str | None, metadata: Wire, usage: UsageMetadata | None) -> AIMessage:
    """The model's message."""
    calls, invalid = tool_calls(message)
    return AIMessage(
        content=_said(message.content),
        additional_kwargs=_beside(message.model_extra),
        response_metadata=metadata,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage,
        id=message_id,
    )


def tool_calls(message: Message) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The calls a message asks for, and those whose arguments are no JSON object."""
    calls, invalid = [], []
    for call in message.tool_calls or ():
        function = call.function
        name, arguments = (function.name, function.arguments) if function else (None, None)
        try:
            given = json.loads(arguments or "{}") if not isinstance(arguments, dict) else arguments
            if not isinstance(given, dict) or not name:
                raise ValueError("no JSON object" if name else "no name")
            calls.append(tool_call(name=name, args=given, id=call.id))
        except ValueError as error:
            text = arguments if isinstance(arguments, str) else None
            why = f"The model called {name!r} with arguments that are not a JSON object: {error}"
            invalid.append(invalid_tool_call(name=name, args=text, id=call.id, error=why))
    return calls, invalid


def told_of(model: str | None, endpoint: str, usage: Usage | None, request_id: str | None) -> Wire:
    """What an answer tells beside its text: `model_name` is the endpoint, `model` the model behind it that answered."""
    told: Wire = {"model_name": endpoint, "model_provider": PROVIDER}
    if model:
        told["model"] = model
    if request_id:
        told["request_id"] = request_id
    if usage is not None:
        counts = {name: value for name, value in usage.model_dump().items() if value is not None}
        told["usage"] = counts
        told.update({name: counts[name] for name in _COUNTS if name in counts})
    return told


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def generation_info(choice: Any) -> Wire:
    """Why a choice ended, and its log-probabilities where they came."""
    info: Wire = {"finish_reason": choice.finish_reason} if choice.finish_reason else {}
    if logprobs := (choice.model_extra or {}).get("logprobs"):
        info["logprobs"] = logprobs
    return info


def usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    """Tokens in LangChain's words. Cached tokens are part of the input, not added to it."""
    if usage is None or (usage.prompt_tokens is None and usage.completion_tokens is None):
        return None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    known = UsageMetadata(
        input_tokens=prompt, output_tokens=completion, total_tokens=usage.total_tokens or prompt + completion
    )
    if not (given := usage.model_extra):
        return known
    before = _counts(given.get("prompt_tokens_details") or given.get("input_tokens_details"))
    after = _counts(given.get("completion_tokens_details") or given.get("output_tokens_details"))
    cached = before.get("cached_tokens", _count(given.get("cache_read_input_tokens")))
    details = {"audio": before.get("audio_tokens"), "cache_read": cached}
    details["cache_creation"] = _count(given.get("cache_creation_input_tokens"))
    if found := {name: count for name, count in details.items() if count is not None}:
        known["input_token_details"] = InputTokenDetails(**found)  # type: ignore[typeddict-item]
    details = {"audio": after.get("audio_tokens"), "reasoning": after.get("reasoning_tokens")}
    if found := {name: count for name, count in details.items() if count is not None}:
        known["output_token_details"] = OutputTokenDetails(**found)  # type: ignore[typeddict-item]
    return known


def _counts(details: object) -> dict[str, int]:
    return (
        {name: value for name, value in details.items() if isinstance(value, int)} if isinstance(details, dict) else {}
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _said(content: object) -> Any:
    """Content as LangChain keeps it: a text, or blocks. A reasoning model's list stays a list."""
    if not isinstance(content, list):
        return content or ""
    return [dict(item) if isinstance(item, Mapping) else str(item) for item in content]


def _beside(extra: Mapping[str, Any] | None) -> Wire:
    """What came in a message beside its known fields (a refusal, `reasoning_content`), but for nulls."""
    return {name: value for name, value in (extra or {}).items() if value is not None}


# --- streams ----------------------------------------------------------------------------------------------------------


class Pieces:
    """One stream's chunks, so that their sum is the answer.

    What a server repeats (usage, the model's name, the names and ids of tool calls) is given once: LangChain adds
    chunks up. Usage and what is known of the whole come in a last, empty chunk.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._model: str | None = None
        self._usage: Usage | None = None
        self._info: Wire = {}
        self._custom: Any = None
        self._named: set[tuple[int, str]] = set()
        self._block = ""  # the kind of the block that is being written, once the content has blocks
        self._place = -1

    def chunk(self, piece: ChatCompletionChunk) -> ChatGenerationChunk | None:
        """What a piece adds; None where that is nothing."""
        self._model = piece.model or self._model
        self._usage = piece.usage or self._usage
        self._custom = (piece.model_extra or {}).get("custom_outputs") or self._custom
        choice = next((choice for choice in piece.choices if choice.index == 0), None)
        if choice is None:
            return None
        info = generation_info(choice)
        if "finish_reason" in info:
            self._info["finish_reason"] = info.pop("finish_reason")
        delta = choice.delta
        content, calls = self._content(delta.content), self._calls(delta.tool_calls) if delta.tool_calls else []
        beside = {name: value for name, value in (delta.model_extra or {}).items() if isinstance(value, str)}
        if not (content or calls or beside or info):
            return None
        message = AIMessageChunk(
            content=content,
            tool_call_chunks=calls,
            additional_kwargs=beside,
            response_metadata={"model_provider": PROVIDER},
            id=piece.id,
        )
        return ChatGenerationChunk(message=message, generation_info=info or None)

    def last(self, request_id: str | None, whole: object = None) -> ChatGenerationChunk:
        """The chunk that ends the answer."""
        told = {**told_of(self._model, self._endpoint, self._usage, request_id), **self._info}
        message = AIMessageChunk(
            content=[] if self._block else "",
            usage_metadata=usage_metadata(self._usage),
            response_metadata=told,
            chunk_position="last",
        )
        add_custom(message, self._custom)
        return ChatGenerationChunk(message=message, generation_info=self._info)

    def _content(self, content: object) -> Any:
        if content is None or isinstance(content, str):
            if not content or not self._block:
                return content or ""
            content = [{"type": "text", "text": content}]
        items = [item if isinstance(item, dict) else {"type": "text", "text": str(item)} for item in content]  # type: ignore[attr-defined]
        return [self._placed(item) for item in items]

    def _placed(self, item: Wire) -> Wire:
        """A block with its place, by which LangChain joins the pieces of one block."""
        kind = str(item.get("type"))
        if kind != self._block:
            self._block, self._place = kind, self._place + 1
        placed = {**item, "index": self._place}
        if isinstance(summary := item.get("summary"), list):
            placed["summary"] = [
                {**part, "index": place} for place, part in enumerate(summary) if isinstance(part, dict)
            ]
        return placed

    def _calls(self, calls: Sequence[Any]) -> list[ToolCallChunk]:
        chunks = []
        for number, call in enumerate(calls):
            extra = (call.model_extra or {}).get("index")
            place = extra if isinstance(extra, int) else number
            function = call.function
            arguments = function.arguments if function else None
            if isinstance(arguments, dict):
                arguments = json.dumps(arguments, ensure_ascii=False)
            chunk = ToolCallChunk(
                name=self._once(place, "name", function.name if function else None),
                args=arguments or "",
                id=self._once(place, "id", call.id),
                index=place,
                type="tool_call_chunk",
            )
            chunks.append(chunk)
        return chunks

    def _once(self, place: int, field: str, value: str | None) -> str | None:
        if not value or (place, field) in self._named:
            return None
        self._named.add((place, field))
        return value
