"""The calls of models as the workspace's OpenAPI document has them; they are routed by themselves."""

from __future__ import annotations

from typing import cast

from dbllm.local.http.operations import OBJECT, OBJECTS, TEXT, TEXTS, ApiCall, Operation, object_schema, text_schema
from dbllm.local.json_values import Json


def _described_only(_call: ApiCall) -> object:
    raise AssertionError("it is described in the document, and routed by itself")


_STREAM_FLAG: Json = {"type": "boolean"}
_FEW_TOKENS: Json = {"type": "integer", "minimum": 1, "maximum": 8}
_MESSAGE = object_schema(
    "role", "content", role={"type": "string", "enum": ["system", "user", "assistant"]}, content=TEXT
)
_CHAT = object_schema(
    "messages", "max_tokens", messages={"type": "array", "items": _MESSAGE}, max_tokens=_FEW_TOKENS, stream=_STREAM_FLAG
)
_PROMPT = object_schema("prompt", "max_tokens", prompt=TEXT, max_tokens=_FEW_TOKENS, stream=_STREAM_FLAG)
_ROWS = object_schema(dataframe_records=OBJECTS, dataframe_split=OBJECT, inputs={}, instances={}, params=OBJECT)
_TEXTS = object_schema("input", input=TEXTS)
_ASK = object_schema("input", "max_output_tokens", input=TEXT, max_output_tokens=_FEW_TOKENS, stream=_STREAM_FLAG)
_MESSAGES = object_schema(
    "messages",
    "max_tokens",
    max_tokens=_FEW_TOKENS,
    stream=_STREAM_FLAG,
    messages={
        "type": "array",
        "items": object_schema("role", "content", role={"type": "string", "enum": ["user", "assistant"]}, content=TEXT),
    },
)


def _with_model(schema: Json, model: str) -> Json:
    """The schema of a body that names its model."""
    properties = cast("Json", schema["properties"])
    return object_schema("model", *cast("list[str]", schema["required"]), **properties, model=text_schema(model))


def _calls(*listed: tuple[str, Json]) -> list[Operation]:
    return [Operation("POST", path, _described_only, f"Call a model ({path})", schema) for path, schema in listed]


INVOCATIONS = _calls(
    ("/serving-endpoints/smollm2-chat/invocations", _CHAT),
    ("/serving-endpoints/smollm2-completions/invocations", _PROMPT),
    ("/serving-endpoints/databricks-bge-large-en/invocations", _TEXTS),
    ("/serving-endpoints/dolly/invocations", _ROWS),
    ("/serving-endpoints/responses", _with_model(_ASK, "smollm2-chat")),
    ("/serving-endpoints/open-responses", _with_model(_ASK, "smollm2-chat")),
    ("/serving-endpoints/anthropic/v1/messages", _with_model(_MESSAGES, "smollm2-chat")),
)
"""Calls of serving endpoints."""
GATEWAY_CALLS = _calls(
    ("/ai-gateway/mlflow/v1/chat/completions", _with_model(_CHAT, "system.ai.smollm2-chat")),
    ("/ai-gateway/mlflow/v1/responses", _with_model(_ASK, "system.ai.smollm2-chat")),
    ("/ai-gateway/mlflow/v1/embeddings", _with_model(_TEXTS, "system.ai.bge-large-en")),
    ("/ai-gateway/openai/v1/responses", _with_model(_ASK, "system.ai.smollm2-chat")),
    ("/ai-gateway/anthropic/v1/messages", _with_model(_MESSAGES, "system.ai.smollm2-chat")),
)
"""Calls of model services."""
