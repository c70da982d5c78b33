"""LangChain's classes for Databricks models: `Databricks` (LLM), `ChatDatabricks` and `DatabricksEmbeddings`.

They only translate: every request goes through dbllm's clients, with their retries, deadlines, auth and connection
pool. They need langchain-core and nothing else of LangChain: pip install 'dbllm[langchain]'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import langchain_core as _langchain_core  # noqa: F401 - to tell its absence from other import errors
except ModuleNotFoundError as error:
    raise ImportError(
        "dbllm.langchain needs the package langchain-core, which is not installed: pip install 'dbllm[langchain]'"
    ) from error

from .chat_model import ChatDatabricks
from .embeddings import DatabricksEmbeddings
from .llm import Databricks
from .workspace import get_default_api_token, get_default_host, get_repl_context

__all__ = [
    "ChatDatabricks",
    "Databricks",
    "DatabricksEmbeddings",
    "get_default_api_token",
    "get_default_host",
    "get_repl_context",
]


if not TYPE_CHECKING:  # a type checker finds the mistake by itself

    def __getattr__(name: str) -> object:
        from dbllm._misnomers import missing_name

        raise missing_name(__name__, name, __all__)
