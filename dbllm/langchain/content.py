"""Content blocks: LangChain's to what goes over the wire, and the wire's to LangChain's. Pure.

On the wire a message's content is a text or a list of parts: text, image_url, input_audio and file in OpenAI's form,
and reasoning in Databricks' own: `{"type": "reasoning", "summary": [{"type": "summary_text", "text", "signature"?}]}`.
LangChain's standard blocks, its older ones (`source_type`) and Anthropic's are translated; what is in the wire's form
already goes as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.block_translators.openai import convert_to_openai_data_block
from langchain_core.messages.content import KNOWN_BLOCK_TYPES, ContentBlock

PROVIDER = "databricks"
"""`response_metadata["model_provider"]`: by this name LangChain finds the translation of our content."""

Blocks = str | Sequence[str | Mapping[str, Any]]

# Calls of tools stand beside the content on the wire, and what a server-side tool did is not sent again.
_CALLS = frozenset({"tool_use", "tool_call", "invalid_tool_call", "tool_call_chunk", "input_json_delta"})
# What LangChain and its streams add to blocks; a server refuses fields it does not know.
_ADDED = frozenset({"index", "annotations", "extras"})


def wire_content(content: Blocks, role: str) -> str | list[dict[str, Any]]:
    """A message's content as it is sent: a text where there is nothing else, as some servers take only that.

    Raises:
        ValueError: a block that the wire has no form for.
    """
    if isinstance(content, str):
        return content
    parts = [part for block in content for part in _parts(block, role)]
    if not parts:
        return ""
    only = parts[0] if len(parts) == 1 else {}
    return only["text"] if only.keys() == {"type", "text"} else parts


def _parts(block: str | Mapping[str, Any], role: str) -> Iterator[dict[str, Any]]:
    if isinstance(block, str):
        block = {"type": "text", "text": block}
    kind = block.get("type")
    if kind in _CALLS or (kind == "text" and not block.get("text")):  # an empty text is refused by some models
        return
    if kind == "text":
        yield _bare(block)
    elif kind == "refusal":  # as the text it is: not every server has a form for it
        if block.get("refusal"):
            yield {"type": "text", "text": block["refusal"]}
    elif kind in ("reasoning", "thinking"):
        if role == "assistant":
            yield _wire_reasoning(block)
    elif kind == "non_standard" and isinstance(block.get("value"), dict):
        yield _bare(block["value"])
    elif kind == "text-plain":
        yield {"type": "text", "text": block.get("text") or ""}
    elif kind == "image" and isinstance(source := block.get("source"), dict):  # Anthropic's form
        yield _data({"type": "image", **_anthropic_source(source)})
    elif kind in ("image", "audio", "video") or (kind == "file" and "file" not in block):
        yield _data(block)
    else:
        yield _bare(block)


def _bare(block: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in block.items() if name not in _ADDED}
    if kept.get("type") == "text" or is_langchains_id(kept.get("id")):
        kept.pop("id", None)
    return kept


def is_langchains_id(value: object) -> bool:
    """Whether an id is none of a server's, but one that LangChain gave to a block of its own."""
    return value is None or (isinstance(value, str) and (not value or value.startswith("lc_")))


def _anthropic_source(source: Mapping[str, Any]) -> dict[str, Any]:
    if source.get("type") == "url":
        return {"url": source.get("url")}
    return {"base64": source.get("data"), "mime_type": source.get("media_type")}


def _data(block: Mapping[str, Any]) -> dict[str, Any]:
    kind = block["type"]
    if kind == "file" and "base64" in block and not _file_name(block):
        block = {**block, "filename": "file"}  # the field is required
    try:
        return convert_to_openai_data_block(dict(block))
    except (ValueError, KeyError) as error:
        why = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"A content block of type {kind!r} cannot be sent to a chat endpoint: {why}") from None


def _file_name(block: Mapping[str, Any]) -> Any:
    return block.get("filename") or (block.get("extras") or {}).get("filename")


def _wire_reasoning(block: Mapping[str, Any]) -> dict[str, Any]:
    """Reasoning as the endpoint gave it: it checks the signature, and refuses fields it did not send."""
    extras = block.get("extras") or {}
    summary = block.get("summary") or extras.get("summary")
    if summary:
        return {"type": "reasoning", "summary": [_bare(item) for item in summary if isinstance(item, dict)]}
    item = {"type": "summary_text", "text": block.get("reasoning") or block.get("thinking") or ""}
    if signature := block.get("signature") or extras.get("signature"):
        item["signature"] = signature
    return {"type": "reasoning", "summary": [item]}


# --- what came --------------------------------------------------------------------------------------------------------


def standard_blocks(message: AIMessage) -> list[ContentBlock]:
    """Content and tool calls of an answer as LangChain's standard blocks; `message.content_blocks` comes here."""
    content: Blocks = message.content
    partial = isinstance(message, AIMessageChunk) and message.chunk_position != "last"
    blocks = [_standard(block, partial) for block in ([content] if isinstance(content, str) else content) if block]
    there = {block.get("id") for block in blocks if block["type"] in ("tool_call", "invalid_tool_call")}
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks and (partial or not message.tool_calls):
        partial = True
        calls: Sequence[Any] = [_call_block(call) for call in message.tool_call_chunks]
    else:
        calls = [*message.tool_calls, *message.invalid_tool_calls]
    beside = message.additional_kwargs
    thoughts, refusal = beside.get("reasoning_content"), beside.get("refusal")
    if thoughts and isinstance(thoughts, str) and not any(block["type"] == "reasoning" for block in blocks):
        blocks.insert(0, {"type": "reasoning", "reasoning": thoughts, **({"index": "lc_thought"} if partial else {})})
    if refusal and isinstance(refusal, str) and not any(_is_refusal(block) for block in blocks):
        blocks.append(_standard({"type": "refusal", "refusal": refusal}, partial))
    return cast(
        "list[ContentBlock]", [*blocks, *(dict(call) for call in calls if call.get("id") not in there or partial)]
    )


def _call_block(call: Mapping[str, Any]) -> dict[str, Any]:
    """A piece of a call. Its index is no number: those are the places of content blocks."""
    known = {name: value for name, value in call.items() if value is not None and name != "index"}
    place = {"index": f"lc_call_{call['index']}"} if call.get("index") is not None else {}
    return {"type": "tool_call_chunk", **known, **place}


def _is_refusal(block: Mapping[str, Any]) -> bool:
    return "refusal" in (block["type"], (block.get("value") or {}).get("type"))


def refusal_of(message: AIMessage) -> str | None:
    """The words of a refusal ("" where it has none); None where the model did not refuse."""
    if isinstance(message.content, str) and not message.additional_kwargs.get("refusal"):
        return None
    blocks = [block for block in standard_blocks(message) if _is_refusal(cast("Mapping[str, Any]", block))]
    inner: Any = blocks[0].get("value", blocks[0]) if blocks else {}
    return str(inner.get("refusal") or "") if blocks else None


def _standard(block: str | Mapping[str, Any], partial: bool) -> dict[str, Any]:
    if isinstance(block, str):
        return {"type": "text", "text": block, **({"index": "lc_text"} if partial else {})}
    if block.get("type") == "reasoning" and isinstance(block.get("summary"), list):
        summary = block["summary"]
        texts = (item.get("text") or "" for item in summary if isinstance(item, dict))
        place = {"index": block["index"]} if "index" in block else {}
        extras: dict[str, Any] = {"summary": summary}
        if partial and all(isinstance(item, dict) and item.get("type") == "summary_text" for item in summary):
            # In pieces a list of pieces would not add up: the reasoning's text and signature say the same.
            extras = {name: item[name] for item in summary for name in ("signature",) if item.get(name)}
        kept = {name: block[name] for name in ("id", "encrypted_content") if block.get(name)}
        extras = {**extras, **{name: value for name, value in kept.items() if name != "id"}}
        about = {**({"id": kept["id"]} if "id" in kept else {}), **({"extras": extras} if extras else {})}
        return {"type": "reasoning", "reasoning": "".join(texts), **about, **place}
    if block.get("type") == "image_url" and isinstance(image := block.get("image_url"), (str, dict)):
        return {"type": "image", "url": image if isinstance(image, str) else image.get("url")}
    if block.get("type") == "image" and isinstance(url := block.get("image_url"), str):
        return {"type": "image", "url": url}
    if block.get("type") in _STANDARD:
        return dict(block)
    return {"type": "non_standard", "value": dict(block)}


_STANDARD = {"text", "reasoning", "image", "audio", "file", "video", "tool_call", "invalid_tool_call"}
_STANDARD |= KNOWN_BLOCK_TYPES & {"refusal"}  # since langchain-core 1.7.5


register_translator(PROVIDER, standard_blocks, standard_blocks)
