"""instructor: an answer is an object of a class."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

instructor = pytest.importorskip("instructor")
import openai
from asking import NAME_A_CITY, City
from place import Up

NAME = "instructor"
ASKED: Any = {"response_model": City, "max_retries": 1}
CHAT: Any = {**ASKED, "model": "smollm2-chat", "messages": NAME_A_CITY, "max_tokens": 60}


def client(up: Up, mode: str, kind: Any = openai.OpenAI) -> Any:
    made = kind(base_url=up.base_url, api_key=up.token, max_retries=0)
    return instructor.from_openai(made, mode=getattr(instructor.Mode, mode))


@pytest.mark.does(NAME, "chat")
@pytest.mark.does(NAME, "tools")
@pytest.mark.does(NAME, "structured output")
@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
def test_an_answer_is_an_object(here: Up, mode: str) -> None:
    city, whole = client(here, mode).chat.completions.create_with_completion(**CHAT)
    assert isinstance(city, City)
    assert whole.usage.total_tokens > 0
    waited = client(here, mode, openai.AsyncOpenAI).chat.completions.create(**CHAT)
    assert isinstance(asyncio.run(waited), City)


@pytest.mark.does(NAME, "chat, streamed")
@pytest.mark.does(NAME, "structured output")
@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_an_object_grows_while_it_is_streamed(here: Up, mode: str) -> None:
    grown = list(client(here, mode).chat.completions.create_partial(**CHAT))
    assert len(grown) > 2
    assert City.model_validate(grown[-1].model_dump())


@pytest.mark.does(NAME, "chat, streamed")
def test_several_objects_are_streamed(here: Up) -> None:
    cities = list(client(here, "TOOLS").chat.completions.create_iterable(**{**CHAT, "max_tokens": 200}))
    assert cities
    assert all(isinstance(city, City) for city in cities)


@pytest.mark.does(NAME, "responses")
def test_an_agents_answer_is_an_object(here: Up) -> None:
    create = client(here, "RESPONSES_TOOLS").responses.create
    assert isinstance(create(model="smollm2-agent", input="Name a city.", **ASKED), City)


@pytest.mark.does(NAME, "chat")
def test_the_client_for_databricks_by_name(here: Up) -> None:
    named = instructor.from_provider("databricks/smollm2-chat", base_url=here.base_url, api_key=here.token)
    options = {name: value for name, value in CHAT.items() if name != "model"}
    assert isinstance(named.chat.completions.create(**options), City)


@pytest.mark.does(NAME, "errors are the client's own")
def test_a_refusal_is_told(here: Up) -> None:
    with pytest.raises(Exception, match="404"):
        client(here, "TOOLS").chat.completions.create(**{**CHAT, "model": "nowhere"})
