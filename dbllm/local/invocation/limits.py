"""How large a request and its answer may be."""

from __future__ import annotations

from dbllm.local.http.asgi import MEGABYTE

FOUNDATION_BODY = 4 * MEGABYTE
CUSTOM_BODY = 16 * MEGABYTE
"""Bytes of a request (Databricks docs: model serving limits)."""

MAX_ANSWER_TOKENS = 512
"""Tokens of an answer when the request names no max_tokens: a small model may otherwise ramble to its context's end."""


def max_body(task: str | None) -> int:
    """Bytes of a request to an endpoint of `task`; None is a custom model."""
    return CUSTOM_BODY if task is None else FOUNDATION_BODY
