"""An agent that streams: text is shown as it is written, calls of tools as soon as they are whole.

pip install -e '.[local,langchain]'       # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/streaming_agent.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator

from langchain_core.messages import AIMessageChunk, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from dbllm import DbllmError
from dbllm.langchain import ChatDatabricks

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")
MOST_ROUNDS = 5  # an agent that finds no end costs money


@tool
async def weather(city: str) -> str:
    """Say what the weather in a city is like."""
    return f"It is sunny in {city}."


TOOLS = {each.name: each for each in (weather,)}


async def run(model: ChatDatabricks, question: str) -> AsyncIterator[str]:
    """What the agent writes and does, piece by piece."""
    messages: list[AnyMessage] = [SystemMessage("Use the tools."), HumanMessage(question)]
    choice = "any"  # the first answer has to be a call; afterwards the model decides
    for _ in range(MOST_ROUNDS):
        answer: AIMessageChunk | None = None
        async for chunk in model.bind_tools(list(TOOLS.values()), tool_choice=choice).astream(messages):
            answer = chunk if answer is None else answer + chunk
            if chunk.text:
                yield chunk.text
        if answer is None or not answer.tool_calls:
            return
        messages.append(answer)
        for call in answer.tool_calls:
            yield f"[{call['name']} {call['args']}"
            try:
                result = await TOOLS[call["name"]].ainvoke(call)
            except Exception as error:  # noqa: BLE001 - the model reads what went wrong, and may try otherwise
                result = ToolMessage(f"error: {error}", tool_call_id=call["id"], status="error")
            yield f" -> {result.content}]\n"
            messages.append(result)
        choice = "auto"
    yield f"[stopped after {MOST_ROUNDS} rounds]"


async def main() -> None:
    model = ChatDatabricks(model=CHAT, temperature=0, max_tokens=120, timeout=120)
    try:
        async for piece in run(model, "What is the weather in Lisbon? Use weather with city=Lisbon."):
            print(piece, end="", flush=True)
        print()
    finally:
        await model.aclose()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        asyncio.run(main())
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
