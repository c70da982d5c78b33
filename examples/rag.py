"""Retrieval-augmented generation: find the passages that fit a question, and answer with them.

pip install -e '.[local,langchain]'       # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/rag.py
"""

from __future__ import annotations

import asyncio
import logging
import sys

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from dbllm import DbllmError
from dbllm.langchain import ChatDatabricks, DatabricksEmbeddings

PASSAGES = [
    "The lighthouse of Windhome was built of white stone in the year 1871.",
    "The bakery on the harbour opens at six and sells rye bread.",
    "The ferry to the island leaves every two hours from the east pier.",
    "The library lends musical instruments to everybody who lives in the town.",
]
PROMPT = ChatPromptTemplate.from_template("Context: {context}\n\nAnswer from the context.\nQuestion: {question}")


def joined(documents: list[Document]) -> str:
    return "\n".join(document.page_content for document in documents)


async def ask(model: ChatDatabricks, embeddings: DatabricksEmbeddings) -> None:
    store = InMemoryVectorStore(embeddings)
    await store.aadd_texts(PASSAGES)
    retriever = store.as_retriever(search_kwargs={"k": 1})

    chain = {"context": retriever | joined, "question": RunnablePassthrough()} | PROMPT | model | StrOutputParser()

    for question in ("When was the lighthouse built?", "Where does the ferry leave?"):
        found = await retriever.ainvoke(question)
        print("question:", question)
        print("passage: ", joined(found))
        print("answer:  ", await chain.ainvoke(question))


async def main() -> None:
    embeddings = DatabricksEmbeddings(endpoint="databricks-bge-large-en", timeout=120)
    model = ChatDatabricks(model="smollm2-chat", temperature=0, max_tokens=60, timeout=120)
    try:
        await ask(model, embeddings)
    finally:
        await model.aclose()
        await embeddings.aclose()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        asyncio.run(main())
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
