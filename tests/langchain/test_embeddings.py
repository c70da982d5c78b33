"""`DatabricksEmbeddings`: batches, order and parameters at the wire."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import httpx
import pytest
from langchain_core.rate_limiters import BaseRateLimiter
from pydantic import ValidationError
from recorded import HOST, TOKEN, answering

from dbllm import APIError, AsyncClient
from dbllm.langchain import DatabricksEmbeddings

TEXTS = [str(number) for number in range(23)]


class Served:
    """Embeds a text as its length and its number; the vectors of an answer are in the wrong order, told by `index`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.threads: set[int] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(403, json={"error_code": "PERMISSION_DENIED", "message": "no"})
        body = json.loads(request.content)
        self.bodies.append(body)
        self.threads.add(threading.get_ident())
        if "bad" in body["input"]:
            return httpx.Response(400, json={"error_code": "BAD_REQUEST", "message": "a bad text"})
        data = [{"index": place, "embedding": [float(text), 1]} for place, text in enumerate(body["input"])]
        return httpx.Response(200, json={"object": "list", "data": data[::-1]})


class Counter(BaseRateLimiter):
    def __init__(self) -> None:
        self.count = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.count += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


async def test_documents_go_in_batches_and_come_back_in_order() -> None:
    served = Served()
    embeddings = DatabricksEmbeddings(endpoint="ep", chunk_size=5, **answering(served))
    vectors = [[float(text), 1.0] for text in TEXTS]
    assert embeddings.embed_documents(TEXTS) == vectors
    assert await embeddings.aembed_documents(TEXTS) == vectors
    assert sorted(len(body["input"]) for body in served.bodies) == [3, 3, *[5] * 8]


async def test_no_documents_need_no_call() -> None:
    served = Served()
    embeddings = DatabricksEmbeddings(endpoint="ep", **answering(served))
    assert embeddings.embed_documents([]) == []
    assert await embeddings.aembed_documents([]) == []
    assert served.bodies == []


async def test_queries_and_documents_have_parameters_of_their_own() -> None:
    served = Served()
    embeddings = DatabricksEmbeddings(
        model="ep",
        query_params={"instruction": "Represent this sentence:"},
        documents_params={"input_type": "search_document"},
        **answering(served),
    )
    assert embeddings.embed_query("1") == [1.0, 1.0]
    await embeddings.aembed_query("1")
    embeddings.embed_documents(["1"])
    assert served.bodies == [
        {"input": ["1"], "instruction": "Represent this sentence:"},
        {"input": ["1"], "instruction": "Represent this sentence:"},
        {"input": ["1"], "input_type": "search_document"},
    ]
    assert embeddings.embed(["2"], {"dimensions": 2}) == [[2.0, 1.0]]
    assert served.bodies[-1] == {"input": ["2"], "dimensions": 2}


async def test_batches_are_awaited_side_by_side_and_not_more_than_allowed() -> None:
    under_way, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        texts = json.loads(request.content)["input"]
        data = [{"index": place, "embedding": [float(text)]} for place, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data})

    client = AsyncClient(HOST, TOKEN, transport=httpx.MockTransport(answer))
    embeddings = DatabricksEmbeddings(endpoint="ep", chunk_size=1, max_concurrency=4, async_client=client)
    assert await embeddings.aembed_documents(TEXTS) == [[float(text)] for text in TEXTS]
    assert most == 4


def test_plain_batches_run_in_several_threads() -> None:
    served = Served()

    def slow(request: httpx.Request) -> httpx.Response:
        time.sleep(0.01)
        return served(request)

    DatabricksEmbeddings(endpoint="ep", chunk_size=2, **answering(slow)).embed_documents(TEXTS)
    assert len(served.threads) > 1


async def test_the_rate_limiter_is_asked_before_every_request() -> None:
    limiter = Counter()
    embeddings = DatabricksEmbeddings(endpoint="ep", chunk_size=10, rate_limiter=limiter, **answering(Served()))
    embeddings.embed_documents(TEXTS)
    await embeddings.aembed_documents(TEXTS)
    embeddings.embed_query("1")
    assert limiter.count == 7


async def test_an_error_is_of_its_own_type_and_ends_the_rest() -> None:
    served = Served()
    embeddings = DatabricksEmbeddings(endpoint="ep", chunk_size=1, max_concurrency=1, **answering(served))
    with pytest.raises(APIError, match="a bad text"):
        await embeddings.aembed_documents(["bad", *TEXTS])
    with pytest.raises(APIError, match="a bad text"):
        embeddings.embed_documents(["bad", *TEXTS])
    assert len(served.bodies) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "endpoint"),
        ({"endpoint": "e", "target_uri": "sqlite://x"}, "Invalid target_uri"),
        ({"endpoint": "e", "chunk_size": 0}, "greater than or equal to 1"),
        ({"endpoint": "e", "chunksize": 3}, "Did you mean 'chunk_size'"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DatabricksEmbeddings(**fields)
