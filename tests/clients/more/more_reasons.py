"""What has to be said to a client, and what is not called of it, and why."""

from __future__ import annotations

LEFT_OUT = {
    "pydantic-ai on a chat endpoint": "its profile needs `openai_chat_supports_max_completion_tokens=False`",
    "DSPy": "its models are named `databricks/...`; as `openai/...` it sends `max_completion_tokens`",
    "LlamaIndex": "`OpenAILike` has tools and structured output; its class `Databricks` does not use them",
    "prompted JSON (`PromptedOutput`, `Mode.JSON`)": "the form is only asked for in words, which takes a larger model",
}
