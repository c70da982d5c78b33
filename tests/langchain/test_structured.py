"""Structured output: every form of a schema, what is cut, what is refused, and what cannot be strict."""

from __future__ import annotations

import json
from typing import Any, Generic, Literal, TypeVar

import httpx
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from recorded import answering
from typing_extensions import TypedDict

from dbllm import APIResponseError
from dbllm.langchain import ChatDatabricks

Item = TypeVar("Item")


class River(BaseModel):
    """A river."""

    name: str
    towns: list[str] = []


class Page(BaseModel, Generic[Item]):
    """A page."""

    items: list[Item]


class Titled(BaseModel):
    model_config = ConfigDict(
        title="A title. With spaces, and more than sixty-four characters in it, which is too much"
    )

    name: str


class Scores(BaseModel):
    """Scores."""

    scores: dict[str, int]


class Nested(BaseModel):
    inner: list[Scores]


class Row(TypedDict):
    """A row."""

    a: int


PLAIN = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
METHODS = ("json_schema", "json_mode", "function_calling")


class Server:
    """Answers with a text, or with a call of the first tool where there are some; keeps the bodies."""

    def __init__(self, text: str | None, finish: str = "stop", *, calls: str | None = "", **message: Any) -> None:
        self.text, self.finish, self.calls, self.message = text, finish, calls, message
        self.bodies: list[dict[str, Any]] = []

    @property
    def chat(self) -> ChatDatabricks:
        return ChatDatabricks(model="m", **answering(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        message: dict[str, Any] = {"role": "assistant", "content": self.text, **self.message}
        if self.calls is not None and "tools" in body and "refusal" not in message:
            name = self.calls or body["tools"][0]["function"]["name"]
            call = {"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": self.text}}
            message |= {"content": None, "tool_calls": [call]}
        if not body.get("stream"):
            return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": self.finish}]})
        deltas = [message]
        if message["content"]:
            deltas = [{"content": part} for part in (message["content"][:5], message["content"][5:])]
        events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


async def every_result(model: Any) -> list[Any]:
    """What each way of asking gives, an error where it raises one."""
    found: list[Any] = []
    for ask in (model.invoke, lambda question: list(model.stream(question))[-1]):
        try:
            found.append(ask("x"))
        except Exception as error:
            found.append(error)
    for await_ in (model.ainvoke, lambda question: _last(model.astream(question))):
        try:
            found.append(await await_("x"))
        except Exception as error:
            found.append(error)
    return found


async def _last(chunks: Any) -> Any:
    return [chunk async for chunk in chunks][-1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("finish", ["length", "max_tokens"])
async def test_an_answer_that_was_cut_is_never_repaired(method: Any, finish: str) -> None:
    for text in ('{"name": "Rhine", "towns": ["Basel", "Stras', '{"name": "Rh', '{"name": "Rhine"', "{"):
        for schema in (River, River.model_json_schema(), Row):
            server = Server(text, finish)
            for found in await every_result(server.chat.with_structured_output(schema, method=method)):
                assert isinstance(found, APIResponseError), (text, schema, found)
                assert "finish_reason length" in str(found)
                assert "max_tokens" in str(found)
            raw = server.chat.with_structured_output(schema, method=method, include_raw=True).invoke("x")
            assert raw["parsed"] is None
            assert isinstance(raw["parsing_error"], APIResponseError)


@pytest.mark.parametrize("method", METHODS)
async def test_an_answer_that_ends_with_the_last_token_is_whole(method: Any) -> None:
    server = Server('{"name": "Rhine", "towns": []}', "length")
    for found in await every_result(server.chat.with_structured_output(River, method=method)):
        assert found == River(name="Rhine")


@pytest.mark.parametrize("method", METHODS)
async def test_half_an_object_is_an_error_whatever_the_server_says_of_its_end(method: Any) -> None:
    for found in await every_result(Server('{"name": "Rhi').chat.with_structured_output(River, method=method)):
        assert isinstance(found, (OutputParserException, ValidationError)), found


@pytest.mark.parametrize("method", METHODS)
async def test_a_refusal_is_langchains_error_for_it_and_says_why(method: Any) -> None:
    from langchain_core import exceptions

    kind = getattr(exceptions, "ModelRefusalError", APIResponseError)
    server = Server(None, refusal="I cannot help with that.")
    for found in await every_result(server.chat.with_structured_output(River, method=method)):
        assert isinstance(found, kind)
        assert isinstance(found, APIResponseError)
        assert "I cannot help with that." in str(found)
    raw = server.chat.with_structured_output(River, method=method, include_raw=True).invoke("x")
    assert isinstance(raw["parsing_error"], kind)
    assert raw["raw"].response_metadata["normalized_finish_reason"] == "refusal"
    assert raw["raw"].content_blocks[-1].get("refusal", raw["raw"].content_blocks[-1].get("value")) in (
        "I cannot help with that.",
        {"type": "refusal", "refusal": "I cannot help with that."},
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (PLAIN, "answer"),
        ({**PLAIN, "title": "A row. One"}, "A_row__One"),
        ({"name": "Row", "schema": PLAIN, "strict": True}, "Row"),
        ({"name": "Row", "description": "d", "schema": PLAIN}, "Row"),
        ({"type": "json_schema", "json_schema": {"name": "Row", "schema": PLAIN}}, "Row"),
        ({"name": "Row", "description": "d", "parameters": PLAIN}, "Row"),
        ({"type": "function", "function": {"name": "Row", "description": "d", "parameters": PLAIN}}, "Row"),
        (Row, "Row"),
    ],
)
async def test_every_form_of_a_schema_is_taken(method: Any, schema: Any, name: str) -> None:
    server = Server('{"a": 1}')
    for found in await every_result(server.chat.with_structured_output(schema, method=method)):
        assert found == {"a": 1}
    body = server.bodies[0]
    if method == "json_schema":
        assert body["response_format"]["json_schema"]["name"] == name
        assert body["response_format"]["json_schema"]["schema"]["properties"]["a"]["type"] == "integer"
    elif method == "function_calling":
        assert body["tools"][0]["function"]["name"] == name
        assert body["tool_choice"] == {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Page[int], Page[Row], Titled])
async def test_a_name_that_no_server_takes_is_cleaned_and_the_answer_found(method: Any, schema: Any) -> None:
    text = '{"name": "x"}' if schema is Titled else '{"items": []}'
    server = Server(text)
    for found in await every_result(server.chat.with_structured_output(schema, method=method)):
        assert isinstance(found, schema)
    for body in server.bodies:
        names = [tool["function"]["name"] for tool in body.get("tools", ())]
        names += [body["response_format"]["json_schema"]["name"]] if method == "json_schema" else []
        assert all(name.replace("_", "").replace("-", "").isalnum() and len(name) <= 64 for name in names), names


@pytest.mark.parametrize(
    "schema", [Scores, Nested, {"type": "object"}, {"title": "T", **PLAIN, "patternProperties": {}}]
)
def test_an_object_of_any_keys_is_sent_as_it_is_or_refused_where_strict_was_asked_for(schema: Any) -> None:
    server = Server('{"scores": {"a": 1}}')
    server.chat.with_structured_output(schema, method="json_schema", include_raw=True).invoke("x")
    form = server.bodies[0]["response_format"]["json_schema"]
    assert form["strict"] is False
    assert '"additionalProperties": false' not in json.dumps(form)
    for method in ("json_schema", "function_calling"):
        with pytest.raises(ValueError, match="any key"):
            server.chat.with_structured_output(schema, method=method, strict=True)


class Address(BaseModel):
    street: str


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Home(BaseModel):
    address: Address = Field(description="where one lives")
    pet: Cat | Dog = Field(discriminator="kind")
    default: str | None = None
    tree: Tree | None = Field(None, description="what grows there")


class Tree(BaseModel):
    name: str
    children: list[Tree]


Home.model_rebuild()


def loose(schema: Any, place: str = "") -> list[str]:
    """What a strict endpoint refuses in a schema."""
    if isinstance(schema, list):
        return [flaw for item in schema for flaw in loose(item, place)]
    if not isinstance(schema, dict):
        return []
    found = [f"{place}: $ref beside {sorted(schema)}"] if "$ref" in schema and len(schema) > 1 else []
    found += [f"{place}: {word}" for word in ("oneOf", "allOf", "default", "discriminator") if word in schema]
    if schema.get("type") == "object" and (
        schema.get("additionalProperties") is not False or schema["required"] != list(schema["properties"])
    ):
        found.append(f"{place}: an open object")
    for word, value in schema.items():
        inner = value.items() if word in ("properties", "$defs") else [(word, value)]
        found += [flaw for name, item in inner for flaw in loose(item, f"{place}.{name}")]
    return found


@pytest.mark.parametrize("schema", [Home, Tree, Page[Home], Home.model_json_schema(), Tree.model_json_schema()])
def test_a_strict_schema_is_one_that_strict_endpoints_take(schema: Any) -> None:
    server = Server("{}")
    server.chat.with_structured_output(schema, method="json_schema", include_raw=True).invoke("x")
    form = server.bodies[0]["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"]["type"] == "object"
    assert loose(form["schema"]) == []


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def test_tools_beside_a_schema_are_sent_and_may_be_called_instead() -> None:
    for method in ("json_schema", "function_calling"):
        server = Server('{"a": 1, "b": 2}', calls="add")
        model = server.chat.with_structured_output(River, method=method, tools=[add], include_raw=True)
        found = model.invoke("x")
        assert found["parsed"] is None
        assert found["parsing_error"] is None
        assert found["raw"].tool_calls[0]["name"] == "add"
        assert "add" in [tool["function"]["name"] for tool in server.bodies[0]["tools"]]
    server = Server('{"name": "Rhine"}', calls=None)
    assert server.chat.bind_tools([add]).with_structured_output(River, method="json_schema").invoke("x").name == "Rhine"
    assert server.bodies[0]["tools"][0]["function"]["name"] == "add"


def test_what_describes_nothing_is_refused_with_the_reason() -> None:
    chat = ChatDatabricks(model="m")
    with pytest.raises(ValueError, match="json_mode"):
        chat.with_structured_output({"type": "json_object"}, method="json_schema")
    with pytest.raises(ValueError, match="schema"):
        chat.with_structured_output(3, method="json_schema")  # type: ignore[arg-type]
    assert chat.with_structured_output(None, method="json_mode")
