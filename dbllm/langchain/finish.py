"""Why an answer ended, in the words that LangChain has for all providers. Pure."""

from __future__ import annotations

from typing import Any

_REASONS = {
    "stop": "stop end_turn stop_sequence eos eos_token completed complete",
    "length": "length max_tokens max_output_tokens max_completion_tokens model_length incomplete",
    "tool_call": "tool_call tool_calls tool_use function_call",
    "content_filter": "content_filter content_filtered guardrail_intervened",
    "refusal": "refusal safety prohibited_content blocklist",
    "context_exceeded": "model_context_window_exceeded context_length_exceeded context_exceeded",
    "error": "error failed malformed_function_call malformed_response",
}
_NORMALIZED = {word: reason for reason, words in _REASONS.items() for word in words.split()}


def finish_metadata(reason: str | None, *, calls: bool, refused: bool) -> dict[str, Any]:
    """What `response_metadata` has about the end of an answer; nothing where nobody says why it ended.

    `finish_reason` is the provider's word, `normalized_finish_reason` one of stop, length, tool_call, content_filter,
    refusal, context_exceeded, error and other, and `finish_state` "suspended" where the model waits to go on.
    """
    if not reason:
        return {}
    state = "suspended" if reason.lower() in ("pause_turn", "pause") else "complete"
    return {
        "finish_reason": reason,
        "normalized_finish_reason": normalized(reason, calls, refused),
        "finish_state": state,
    }


def normalized(reason: str, calls: bool = False, refused: bool = False) -> str:
    """A provider's reason in LangChain's words."""
    found = _NORMALIZED.get(reason.lower(), "other")
    return "refusal" if refused else "tool_call" if calls and found == "stop" else found


def was_cut(metadata: dict[str, Any]) -> bool:
    """Whether an answer ended at the limit of tokens."""
    reason = metadata.get("normalized_finish_reason") or normalized(str(metadata.get("finish_reason") or ""))
    return reason in ("length", "context_exceeded")
