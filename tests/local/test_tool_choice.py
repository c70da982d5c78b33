from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dbllm.local.errors import Problem
from dbllm.local.model.grammar import as_grammar, json_grammar
from dbllm.local.model.llama import Engine
from dbllm.local.model.tool_choice import ToolChooser
from dbllm.local.model.tools import Tool, ToolOffer

TOOLS = {
    name: Tool(name, description, (), as_grammar({"type": "object"}))
    for name, description in {
        "get_horoscope": "Get the horoscope for a star sign",
        "rent_car": "Rent a car in a city",
        "count_words": "Count the words of a text",
        "check_stock": "Check how many items of a product are in the warehouse",
        "turn_on_light": "Turn on the light in a room",
        "get_exchange_rate": "Get the exchange rate of two currencies",
        "restart_cluster": "Restart a cluster by its name",
        "find_recipe": "Find a recipe for a dish",
    }.items()
}
MEANT = {
    "What does my horoscope say, I'm a Leo?": "get_horoscope",
    "I need a car in Lisbon next week.": "rent_car",
    "How many words are in 'the quick brown fox'?": "count_words",
    "Do we have any green chairs left in the warehouse?": "check_stock",
    "It's dark in the kitchen, turn on the light.": "turn_on_light",
    "How many dollars do I get for a euro?": "get_exchange_rate",
    "The cluster analytics hangs, please restart it.": "restart_cluster",
    "How do I cook lasagne?": "find_recipe",
}
NOT_MEANT = (
    "Hi there!",
    "What do you think about football?",
    "Who painted the Mona Lisa?",
    "You are very kind.",
    "Write a limerick about rain.",
    "How does an engine work?",
    "Let us talk about something else.",
    "Where do penguins live?",
)


@pytest.fixture(scope="module")
def chooser(engine: Engine) -> ToolChooser:
    return ToolChooser(engine)


def choose(chooser: ToolChooser, message: str, tools: Sequence[Tool], *, required: bool = False) -> str | None:
    tool = asyncio.run(chooser.choose(ToolOffer(tuple(tools), required), message))
    return tool.name if tool else None


def some_tools(number: int, wanted: str | None = None) -> list[Tool]:
    """Two tools, the wanted one among them."""
    names = [name for name in TOOLS if name != wanted]
    two = [names[(number + step) % len(names)] for step in (0, 3)]
    return [TOOLS[name] for name in ([two[0], wanted] if wanted else two)]


def test_of_two_tools_the_meant_one_is_mostly_called_and_small_talk_mostly_calls_none(chooser: ToolChooser) -> None:
    called = [choose(chooser, text, some_tools(n, name)) for n, (text, name) in enumerate(MEANT.items())]
    right = sum(name == wanted for name, wanted in zip(called, MEANT.values(), strict=True))
    quiet = sum(choose(chooser, text, some_tools(n)) is None for n, text in enumerate(NOT_MEANT))
    assert right + quiet >= 12, (called, quiet)
    assert min(right, quiet) >= 5, (called, quiet)


def test_one_tool_that_is_required_is_called_whatever_the_message_says(chooser: ToolChooser) -> None:
    assert choose(chooser, "Thanks, bye.", [TOOLS["rent_car"]], required=True) == "rent_car"


def test_of_several_required_tools_one_is_called_whatever_the_message_says(chooser: ToolChooser) -> None:
    assert choose(chooser, "Thanks, bye.", some_tools(0), required=True) in TOOLS


def test_the_choice_goes_by_what_a_tool_does_not_by_its_name(chooser: ToolChooser) -> None:
    renamed = [Tool(name, TOOLS[of].description, (), "") for name, of in (("a", "rent_car"), ("b", "find_recipe"))]
    assert choose(chooser, "How do I cook lasagne?", renamed, required=True) == "b"
    assert choose(chooser, "I need a car in Lisbon next week.", renamed, required=True) == "a"


def test_without_a_description_the_name_has_to_say_it() -> None:
    assert Tool("find_recipe", "", (), "").purpose == "find recipe"
    assert Tool("x", "Find a recipe. It knows 300 of them.", (), "").purpose == "Find a recipe."


def test_a_signature_in_front_of_the_description_says_nothing() -> None:
    for signature in (
        "x(dish: str) -> str\n",
        "\n x(dish: 'str', n: int = 3)\n",
        "x(\n    dish: str,\n) -> Dict[str, int]\n",
        "x() - ",
    ):
        assert Tool("x", f"{signature}\n Find a recipe.\nMore.", (), "").purpose == "Find a recipe.", signature
    assert Tool("x", "x(dish: str) -> str", (), "").purpose == "x(dish: str) -> str"
    assert Tool("x", "xylophones (all of them)\nare played.", (), "").purpose == "xylophones (all of them)"


def test_a_grammar_that_llama_cpp_would_silently_drop_is_refused(chooser: ToolChooser) -> None:
    asyncio.run(chooser.check(json_grammar({"type": "string", "pattern": "^a+$"}, "x")))
    for schema in ({"type": "string", "pattern": "(?<=a)b"}, {"type": "string", "maxLength": 2, "pattern": "^aaaa$"}):
        with pytest.raises(Problem, match="cannot be enforced"):
            asyncio.run(chooser.check(json_grammar(schema, "x")))
