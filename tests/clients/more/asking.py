"""What the frameworks are asked."""

from __future__ import annotations

from pydantic import BaseModel

HELLO = [{"role": "user", "content": "hello"}]
NAME_A_CITY = [{"role": "user", "content": "Name a city."}]
WEATHER = "What is the weather in Paris?"
GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    """A city."""

    name: str
    people: int
