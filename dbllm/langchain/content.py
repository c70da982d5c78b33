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
from langchain_core.messages.content import ContentBlock

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
    elif kind in ("reasoning", "thinking"):
        if role == "assistant":
            yield _wire_reasoning(block)
    elif kind == "non_standard" and isinstance(block.get("value"), dict):
        yield block["value"]
    elif kind == "text-plain":
        yield {"type": "text", "text": block.get("text") or ""}
    elif kind == "image" and isinstance(source := block.get("source"), dict):  # Anthropic's form
        yield _data({"type": "image", **_anthropic_source(source)})
    elif kind in ("image", "audio", "video") or (kind == "file" and "file" not in block):
        yield _data(block)
    else:
        yield _bare(block)


def _bare(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in _ADDED and not (name == "id" and value is None)}


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
        return {"type": "reasoning", "summary": [_bare(item) for item in summary]}
    item = {"type": "summary_text", "text": block.get("reasoning") or block.get("thinking") or ""}
    if signature := block.get("signature") or extras.get("signature"):
        item["signature"] = signature
    return {"type": "reasoning", "summary": [item]}


# --- what came --------------------------------------------------------------------------------------------------------


def standard_blocks(message: AIMessage) -> list[ContentBlock]:
    """Content and tool calls of an answer as LangChain's standard blocks; `message.content_blocks` comes here."""
    content: Blocks = message.content
    blocks = [_standard(block) for block in ([content] if isinstance(content, str) else content) if block]
    there = {block.get("id") for block in blocks if block["type"] in ("tool_call", "invalid_tool_call")}
    partial = isinstance(message, AIMessageChunk) and message.chunk_position != "last"
    if partial and cast("AIMessageChunk", message).tool_call_chunks:
        calls: Sequence[Any] = [
            {"type": "tool_call_chunk", **{name: value for name, value in call.items() if value is not None}}
            for call in cast("AIMessageChunk", message).tool_call_chunks
        ]
    else:
        calls = [*message.tool_calls, *message.invalid_tool_calls]
    thoughts = message.additional_kwargs.get("reasoning_content")
    if thoughts and isinstance(thoughts, str):
        blocks.insert(0, {"type": "reasoning", "reasoning": thoughts})
    return cast(
        "list[ContentBlock]", [*blocks, *(dict(call) for call in calls if call.get("id") not in there or partial)]
    )


def _standard(block: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if block.get("type") == "reasoning" and isinstance(block.get("summary"), list):
        texts = (item.get("text") or "" for item in block["summary"] if isinstance(item, dict))
        place = {"index": block["index"]} if "index" in block else {}
        return {"type": "reasoning", "reasoning": "".join(texts), "extras": {"summary": block["summary"]}, **place}
    if block.get("type") == "image_url" and isinstance(image := block.get("image_url"), (str, dict)):
        return {"type": "image", "url": image if isinstance(image, str) else image.get("url")}
    if block.get("type") == "image" and isinstance(url := block.get("image_url"), str):
        return {"type": "image", "url": url}
    known = block.get("type") in ("text", "reasoning", "image", "audio", "file", "video", "tool_call")
    return dict(block) if known else {"type": "non_standard", "value": dict(block)}


register_translator(PROVIDER, standard_blocks, standard_blocks)
