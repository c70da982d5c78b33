"""The tags of a request, to which Databricks attributes its cost: `Databricks-Ai-Gateway-Request-Tags`. Pure."""

from __future__ import annotations

import json

from dbllm.local.errors import bad_request

REQUEST_TAGS = "databricks-ai-gateway-request-tags"
"""The header: a JSON object of strings."""


def read_request_tags(header: str | None) -> dict[str, str]:
    """The tags of a request; none without the header.

    Raises:
        Problem: 400, it is no JSON object of strings.
    """
    if header is None:
        return {}
    try:
        tags = json.loads(header)
    except (ValueError, RecursionError):
        tags = None
    if not isinstance(tags, dict) or not all(key and isinstance(value, str) for key, value in tags.items()):
        example = '{"project": "search"}'
        raise bad_request(
            f"the header 'Databricks-Ai-Gateway-Request-Tags' must be a JSON object of strings: {example}"
        )
    return tags
