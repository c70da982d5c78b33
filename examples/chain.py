"""A LangChain chain that streams: prompt, model, parser.

pip install -e '.[local,langchain]'       # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/chain.py
"""

from __future__ import annotations

import asyncio
import logging
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from dbllm import DbllmError
from dbllm.langchain import ChatDatabricks

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You answer in one short paragraph."), ("human", "Tell me about {thing}.")]
)


def make_chain(model: ChatDatabricks) -> Runnable[dict[str, str], str]:
    return PROMPT | model | StrOutputParser()


async def tell(model: ChatDatabricks) -> None:
    chain = make_chain(model)
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


async def main() -> None:
    model = ChatDatabricks(model="smollm2-chat", max_tokens=60, timeout=120)
    try:
        await tell(model)
    finally:
        await model.aclose()  # its connections


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        asyncio.run(main())
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
