"""An agent that calls tools: the model asks, this program answers, until the model has what it needs.

pip install -e '.[local,langchain]'       # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/agent.py
"""

from __future__ import annotations

import asyncio
import logging
import sys

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from dbllm import DbllmError
from dbllm.langchain import ChatDatabricks

MOST_ROUNDS = 5  # an agent that finds no end costs money


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


@tool
async def weather(city: str) -> str:
    """Say what the weather in a city is like."""
    return f"It is sunny in {city}."


TOOLS = {each.name: each for each in (multiply, weather)}


async def ask(model: ChatDatabricks) -> str:
    messages: list[AnyMessage] = [
        SystemMessage("Use the tools."),
        HumanMessage("What is 6 times 7? Use multiply with a=6 and b=7."),
    ]
    # The first answer has to be a call; afterwards the model decides.
    answer = await model.bind_tools(list(TOOLS.values()), tool_choice="any").ainvoke(messages)
    deciding = model.bind_tools(list(TOOLS.values()))
    for _ in range(MOST_ROUNDS):
        messages.append(answer)
        if not answer.tool_calls:
            return answer.text
        for call in answer.tool_calls:
            print("the model calls", call["name"], call["args"])
            try:
                result = await TOOLS[call["name"]].ainvoke(call)
            except Exception as error:  # noqa: BLE001 - the model reads what went wrong, and may try otherwise
                result = ToolMessage(f"error: {error}", tool_call_id=call["id"], status="error")
            print("the tool says", result.content)
            messages.append(result)
        answer = await deciding.ainvoke(messages)
    return f"(stopped after {MOST_ROUNDS} rounds)"


async def main() -> None:
    model = ChatDatabricks(model="smollm2-chat", temperature=0, max_tokens=120, timeout=120)
    try:
        print("the answer:", await ask(model))
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
