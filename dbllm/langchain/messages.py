"""Messages: LangChain's to what a chat endpoint takes, and its answers to LangChain's. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from .chunks import own_id, read_call, valid_and_invalid
from .content import PROVIDER, refusal_of, wire_content
from .finish import finish_metadata

if TYPE_CHECKING:
    from dbllm import ChatCompletion, Message, Usage

Wire = dict[str, Any]

EXTRAS = "tool_call_extras"
"""In `additional_kwargs`: what a server put beside its calls (Gemini's thought signatures), by the calls' ids."""

# What an answer has beside its content, and what is never sent back.
_NOT_SENT_BACK = frozenset(
    {EXTRAS, "custom_outputs", "reasoning_content", "reasoning", "refusal", "audio", "id", "name"}
)


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
    extras, rest = _own_fields(message, model)
    made = [*message.tool_calls, *message.invalid_tool_calls]
    calls = [
        _wire_call(call["id"], call["name"], "" if call["args"] is None else call["args"], extras) for call in made
    ]
    if not calls and not isinstance(message.content, str):  # Anthropic's form, without LangChain's beside it
        used = (block for block in message.content if isinstance(block, dict) and block.get("type") == "tool_use")
        calls = [_wire_call(block.get("id"), block.get("name"), block.get("input") or {}, {}) for block in used]
    content: Any = wire_content(message.content, "assistant") or message.additional_kwargs.get("refusal") or ""
    if not calls:
        return {"role": "assistant", "content": content, **rest}
    if not content:
        # Claude's endpoints refuse an empty text beside a tool call, null too.
        content = " " if "claude" in model.lower() else None
    return {"role": "assistant", "content": content, "tool_calls": calls, **rest}


def _own_fields(message: AIMessage, model: str) -> tuple[Mapping[str, Any], Wire]:
    """What this endpoint put beside its calls and its message: it wants that back, others would refuse it."""
    told = message.response_metadata
    if told.get("model_provider") != PROVIDER or told.get("model_name") != model:
        return {}, {}
    kept = message.additional_kwargs
    return kept.get(EXTRAS) or {}, {name: value for name, value in kept.items() if name not in _NOT_SENT_BACK}


def _wire_call(call_id: str | None, name: str | None, arguments: object, extras: Mapping[str, Any]) -> Wire:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    extra = dict(extras.get(call_id or "") or {})
    inner = extra.pop("function", None) or {}
    return {**extra, "type": "function", "id": call_id, "function": {**inner, "name": name, "arguments": text}}


# --- answers ----------------------------------------------------------------------------------------------------------


def chat_result(reply: ChatCompletion, endpoint: str) -> ChatResult:
    """A whole answer; one generation for each of its choices."""
    head = {"id": reply.id, "model": reply.model, **(reply.model_extra or {})}
    told = told_of(head, endpoint, reply.usage, reply.request_id)
    usage = usage_metadata(reply.usage)
    generations = []
    for place, choice in enumerate(reply.choices):
        message = answer(choice.message, usage if place == 0 else None)
        end = finish_metadata(
            choice.finish_reason, calls=bool(message.tool_calls), refused=refusal_of(message) is not None
        )
        message.response_metadata.update({**told, **choice_metadata(choice), **end})  # pydantic would check a new one
        add_custom(message, head.get("custom_outputs"))
        generations.append(ChatGeneration(message=message, generation_info=generation_info(choice)))
    return ChatResult(generations=generations, llm_output=told)


def add_custom(message: BaseMessage, custom: Any) -> None:
    """An agent's `custom_outputs`: an attribute, as databricks-langchain has it, and where sums of chunks keep it."""
    if custom is not None:
        message.additional_kwargs["custom_outputs"] = custom
        message.custom_outputs = custom  # type: ignore[attr-defined]


def answer(message: Message, usage: UsageMetadata | None) -> AIMessage:
    """The model's message. Its id is LangChain's to give: servers repeat theirs, and memories take it for the same."""
    taken: set[str] = set()
    ids = [own_id(call.id, taken) for call in message.tool_calls or ()]
    calls: dict[str, Any] = {}
    if message.tool_calls:
        read = []
        for call, call_id in zip(message.tool_calls, ids, strict=True):
            function = call.function
            name, arguments = (function.name, function.arguments) if function else (None, None)
            read.append(read_call(name, arguments, call_id))
        calls["tool_calls"], calls["invalid_tool_calls"] = valid_and_invalid(read)
    return AIMessage(
        content=_said(message.content),
        additional_kwargs=beside(message, ids),
        usage_metadata=usage,
        response_metadata={"model_provider": PROVIDER},
        **calls,
    )


def beside(message: Message, ids: Sequence[str]) -> Wire:
    """What came in a message beside its known fields, but for nulls, and beside its calls, by their ids."""
    kept = {name: value for name, value in (message.model_extra or {}).items() if value is not None}
    if not message.tool_calls:
        return kept
    extras: dict[str, Wire] = {}
    for call, call_id in zip(message.tool_calls, ids, strict=False):
        extra = {name: value for name, value in (call.model_extra or {}).items() if value is not None}
        extra.pop("index", None)
        if inner := call.function and call.function.model_extra:
            extra["function"] = inner
        if extra:
            extras[call_id] = extra
    return {**kept, **({EXTRAS: extras} if extras else {})}


def told_of(head: Mapping[str, Any], endpoint: str, usage: Usage | None, request_id: str | None) -> Wire:
    """What an answer tells beside its text: `model_name` is the endpoint, `model` the model behind it that answered.

    `head` has the answer's other fields: its id, and what the server adds.
    """
    told: Wire = {"model_name": endpoint, "model_provider": PROVIDER}
    told.update({name: value for name, value in head.items() if value and name not in _ELSEWHERE})
    if request_id:
        told["request_id"] = request_id
    if usage is not None:
        counts = {name: value for name, value in usage.model_dump().items() if value is not None}
        told["usage"] = counts
        told.update({name: counts[name] for name in _COUNTS if name in counts})
    return told


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_ELSEWHERE = {"custom_outputs", "delta", "messages", "finish_reason", "output_version", *_COUNTS}


def generation_info(choice: Any) -> Wire:
    """Why a choice ended, and its log-probabilities where they came."""
    info: Wire = {"finish_reason": choice.finish_reason} if choice.finish_reason else {}
    if logprobs := (choice.model_extra or {}).get("logprobs"):
        info["logprobs"] = logprobs
    return info


def choice_metadata(choice: Any) -> Wire:
    """What a server says of a choice beside its known fields, such as what its content filter found."""
    extra = choice.model_extra or {}
    return {name: value for name, value in extra.items() if value is not None and name not in ("logprobs", "text")}


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
    top, made = _counts(given), _counts(given.get("cache_creation"))
    written = ("cache_creation_tokens", "cache_write_tokens", "cache_creation_input_tokens")
    details = {
        "audio": before.get("audio_tokens"),
        "cache_read": before.get("cached_tokens", top.get("cache_read_input_tokens")),
        "cache_creation": next((found[name] for found in (before, top) for name in written if name in found), None),
        **{name: made.get(f"{name}_input_tokens") for name in ("ephemeral_5m", "ephemeral_1h")},
    }
    if found := {name: count for name, count in details.items() if count is not None}:
        names = {"ephemeral_5m": "ephemeral_5m_input_tokens", "ephemeral_1h": "ephemeral_1h_input_tokens"}
        renamed = {names.get(name, name): count for name, count in found.items()}
        known["input_token_details"] = InputTokenDetails(**renamed)  # type: ignore[typeddict-item]
    details = {"audio": after.get("audio_tokens"), "reasoning": after.get("reasoning_tokens")}
    if found := {name: count for name, count in details.items() if count is not None}:
        known["output_token_details"] = OutputTokenDetails(**found)  # type: ignore[typeddict-item]
    return known


def _counts(details: object) -> dict[str, int]:
    found = details.items() if isinstance(details, dict) else ()
    return {name: value for name, value in found if isinstance(value, int) and not isinstance(value, bool)}


def _said(content: object) -> Any:
    """Content as LangChain keeps it: a text, or blocks. A reasoning model's list stays a list."""
    if not isinstance(content, list):
        return content or ""
    return [dict(item) if isinstance(item, Mapping) else str(item) for item in content if item is not None]
