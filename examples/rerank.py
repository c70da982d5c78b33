"""Retrieval with a reranking step: vectors find many passages fast, the model then judges each with the question.

pip install -e '.[local]'                 # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/rerank.py
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys

from dbllm import AsyncClient, AsyncEndpoint, DbllmError

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")
VECTORS = os.environ.get("EMBEDDINGS_ENDPOINT", "databricks-bge-large-en")
PASSAGES = [
    "The lighthouse of Windhome was built of white stone in the year 1871.",
    "From the lighthouse of Windhome one sees the island on clear days.",
    "The bakery on the harbour opens at six and sells rye bread.",
    "The ferry to the island leaves every two hours from the east pier.",
    "The library lends musical instruments to everybody who lives in the town.",
]
CANDIDATES = 3
JUDGE = "Passage: {passage}\nQuestion: {question}\nDoes the passage answer the question? Answer yes or no."


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


async def relevance(model: AsyncEndpoint, question: str, passage: str) -> float:
    """How likely the model's next word is yes rather than no: 0 to 1."""
    prompt = JUDGE.format(passage=passage, question=question)
    reply = await model.chat(prompt, max_tokens=1, temperature=0, logprobs=True, top_logprobs=20)
    words = {"yes": 0.0, "no": 0.0}
    for token in reply.choices[0].logprobs["content"][0]["top_logprobs"]:
        word = token["token"].strip().lower()
        if word in words:
            words[word] += math.exp(token["logprob"])
    return words["yes"] / ((words["yes"] + words["no"]) or 1.0)


async def main() -> None:
    async with AsyncClient(timeout=120) as client:
        model, vectors = client.endpoint(CHAT), client.endpoint(VECTORS)
        passages = (await vectors.embed(PASSAGES)).vectors
        for question in ("When was the lighthouse built?", "Where does the ferry leave?"):
            (asked,) = (await vectors.embed([question])).vectors
            ranked = sorted(zip(PASSAGES, passages, strict=True), key=lambda pair: -likeness(asked, pair[1]))
            found = [passage for passage, _ in ranked[:CANDIDATES]]
            scores = await asyncio.gather(*(relevance(model, question, passage) for passage in found))

            print("question:", question)
            reranked = sorted(zip(scores, found, strict=True), reverse=True)
            for score, passage in reranked:
                print(f"  {score:.3f} (was {found.index(passage) + 1})  {passage}")
            context = reranked[0][1]
            reply = await model.chat(f"{context}\n\nAnswer from this: {question}", max_tokens=40, temperature=0)
            print("answer:  ", reply.text)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        asyncio.run(main())
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
