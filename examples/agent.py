"""An agent that calls tools: the model asks, this program answers, until the model has what it needs.

dbllm up                                  # in another terminal; it prints the variables that clients need
python agent.py
"""

from __future__ import annotations

import asyncio

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool

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


async def main() -> None:
    model = ChatDatabricks(model="smollm2-chat", temperature=0, max_tokens=120)
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
            break
        for call in answer.tool_calls:
            print("the model calls", call["name"], call["args"])
            result = await TOOLS[call["name"]].ainvoke(call)
            print("the tool says", result.content)
            messages.append(result)
        answer = await deciding.ainvoke(messages)
    print("the answer:", answer.text)


if __name__ == "__main__":
    asyncio.run(main())
