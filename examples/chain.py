"""A LangChain chain that streams: prompt, model, parser.

dbllm up                                  # in another terminal; it prints the variables that clients need
python chain.py
"""

from __future__ import annotations

import asyncio

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from dbllm.langchain import ChatDatabricks

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You answer in one short paragraph."), ("human", "Tell me about {thing}.")]
)


async def main() -> None:
    model = ChatDatabricks(model="smollm2-chat", max_tokens=60)
    chain = PROMPT | model | StrOutputParser()

    async for piece in chain.astream({"thing": "rivers"}):
        print(piece, end="", flush=True)
    print()

    # All at once; `max_concurrency` says how many calls are under way side by side.
    things = [{"thing": thing} for thing in ("lakes", "hills", "clouds")]
    for thing, text in zip(things, await chain.abatch(things, {"max_concurrency": 2}), strict=True):
        print(f"{thing['thing']}: {text}")

    # The tokens of a stream come once, with its last chunk.
    chunks = [chunk async for chunk in model.astream("hello")]
    print(*(chunk.text for chunk in chunks), sep="|")
    print(chunks[-1].usage_metadata)
    await model.aclose()


if __name__ == "__main__":
    asyncio.run(main())
