"""`DatabricksEmbeddings`: embeddings endpoints as LangChain embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.rate_limiters import BaseRateLimiter
from pydantic import AliasChoices, Field, model_validator

from .concurrency import gather, in_threads
from .errors import as_langchains
from .workspace import WorkspaceModel, profile_of

Vectors = list[list[float]]


class DatabricksEmbeddings(WorkspaceModel, Embeddings):
    """An embeddings endpoint (`llm/v1/embeddings`) as LangChain embeddings.

        embeddings = DatabricksEmbeddings(endpoint="databricks-bge-large-en")
        vectors = await embeddings.aembed_documents(["hello", "good morning"])

    Documents go in batches of `chunk_size` texts, `max_concurrency` of them side by side; the vectors come back in the
    texts' order. Beside the fields by which it finds the workspace (see `WorkspaceModel`):

    Attributes:
        endpoint: the endpoint's name; also taken as `model`.
        chunk_size: texts in one request.
        query_params, documents_params: parameters of the model for queries and for documents.
        target_uri: "databricks", or "databricks://profile".
        rate_limiter: asked before every request.

    Raises (when called):
        dbllm.DbllmError: a request failed.
    """

    endpoint: str = Field(validation_alias=AliasChoices("endpoint", "model"))
    target_uri: str = "databricks"
    chunk_size: int = Field(default=100, ge=1)
    query_params: dict[str, Any] = Field(default_factory=dict)
    documents_params: dict[str, Any] = Field(default_factory=dict)
    rate_limiter: BaseRateLimiter | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _check_uri(self) -> DatabricksEmbeddings:
        profile_of(self.target_uri, "target_uri")
        return self

    def _profile(self) -> str | None:
        return self.config_profile or profile_of(self.target_uri, "target_uri")

    def embed(self, texts: Sequence[str], params: dict[str, Any] | None = None) -> Vectors:
        """One vector for each text, in this order; `params` are the model's.

        Raises:
            TypeError: a str is no list of texts.
        """
        batches = self._batches(texts)
        endpoint = self._sync().endpoint(self.endpoint)

        def call(batch: list[str]) -> Vectors:
            if self.rate_limiter is not None:
                self.rate_limiter.acquire(blocking=True)
            return endpoint.embed(batch, batch_size=self.chunk_size, **(params or {})).vectors

        with as_langchains:
            return _joined(in_threads(call, batches, self.max_concurrency))

    async def aembed(self, texts: Sequence[str], params: dict[str, Any] | None = None) -> Vectors:
        """As `embed`."""
        batches = self._batches(texts)
        endpoint = self._async().endpoint(self.endpoint)

        async def call(batch: list[str]) -> Vectors:
            if self.rate_limiter is not None:
                await self.rate_limiter.aacquire(blocking=True)
            return (await endpoint.embed(batch, batch_size=self.chunk_size, **(params or {}))).vectors

        with as_langchains:
            return _joined(await gather(call, batches, self.max_concurrency))

    def embed_documents(self, texts: list[str]) -> Vectors:
        """One vector for each document."""
        return self.embed(texts, self.documents_params)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return self.embed([text], self.query_params)[0]

    async def aembed_documents(self, texts: list[str]) -> Vectors:
        """One vector for each document."""
        return await self.aembed(texts, self.documents_params)

    async def aembed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return (await self.aembed([text], self.query_params))[0]

    def _batches(self, texts: Sequence[str]) -> list[list[str]]:
        if isinstance(texts, (str, bytes)):
            raise TypeError(f"embedding takes a list of texts, not one {type(texts).__name__}: use embed_query for it.")
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"embedding takes texts (str), not {type(text).__name__}.")
        return [texts[first : first + self.chunk_size] for first in range(0, len(texts), self.chunk_size)]


def _joined(batches: Sequence[Vectors]) -> Vectors:
    return [vector for batch in batches for vector in batch]
