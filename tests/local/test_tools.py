from __future__ import annotations

import pytest

from dbllm.local.errors import Problem
from dbllm.local.invocation.requests import read_chat
from dbllm.local.model.tools import MAX_TOOLS

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str = "get_weather", **function: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": SCHEMA, **function}}


def called(name: str, identity: str) -> dict[str, object]:
    call = {"id": identity, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def refused(**fields: object) -> str:
    with pytest.raises(Problem) as caught:
        read_chat({"messages": HELLO, **fields})
    assert caught.value.status == 400
    return caught.value.message


def prompt(messages: list[dict[str, object]]) -> object:
    return read_chat({"messages": messages}).jobs[0].request["messages"]


def allowed(mode: str, *names: str) -> dict[str, object]:
    listed = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": listed}}


@pytest.mark.parametrize(
    ("choice", "names", "required"),
    [
        (None, ["a", "b"], False),
        ("auto", ["a", "b"], False),
        ("required", ["a", "b"], True),
        (allowed("auto", "b"), ["b"], False),
        (allowed("required", "b", "a", "b"), ["b", "a"], True),
        ({"type": "function", "function": {"name": "b"}}, ["b"], True),
    ],
)
def test_the_choice_says_which_tools_may_or_must_be_called(choice: object, names: list[str], required: bool) -> None:
    offer = read_chat({"messages": HELLO, "tools": [tool("a"), tool("b")], "tool_choice": choice}).offer
    assert offer
    assert ([one.name for one in offer.tools], offer.required) == (names, required)


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": [tool()], "tool_choice": "none"}, {"tool_choice": "auto"}])
def test_without_a_tool_to_call_there_is_no_offer(fields: dict[str, object]) -> None:
    assert read_chat({"messages": HELLO, **fields}).offer is None


def test_what_must_be_called_has_no_result_yet_unless_all_have() -> None:
    def result(identity: str) -> dict[str, object]:
        return {"role": "tool", "tool_call_id": identity, "content": "x"}

    calls = {name: [called(name, name), result(name)] for name in "abc"}
    both = called("a", "1") | {"tool_calls": [*called("a", "1")["tool_calls"], *called("b", "2")["tool_calls"]]}  # type: ignore[misc]
    table = [
        ([], "required", ["a", "b", "c"]),
        (calls["b"], "required", ["a", "c"]),
        ([*calls["b"], *calls["a"]], "required", ["c"]),
        ([both, result("2"), result("1")], "required", ["c"]),
        ([called("a", "a")], "required", ["a", "b", "c"]),  # no result
        ([*calls["a"], *calls["b"], *calls["c"]], "required", ["c"]),  # its arguments are mended
        ([*calls["a"], *calls["c"], *calls["b"], *calls["a"]], "required", ["a"]),
        ([*calls["a"], *HELLO], "required", ["a", "b", "c"]),  # another question
        ([*HELLO, *calls["a"], *HELLO, *calls["b"]], "required", ["a", "c"]),
        (calls["a"], allowed("required", "a", "c"), ["c"]),
        (calls["a"], allowed("required", "a"), ["a"]),
        (calls["a"], {"type": "function", "function": {"name": "a"}}, ["a"]),
    ]
    for more, choice, left in table:
        tools = [tool(name) for name in "abc"]
        offer = read_chat({"messages": [*HELLO, *more], "tools": tools, "tool_choice": choice}).offer
        assert offer
        assert [one.name for one in offer.tools] == left, (more, choice)


def test_after_the_result_of_a_tool_only_a_required_call_follows() -> None:
    messages = [*HELLO, called("get_weather", "1"), {"role": "tool", "tool_call_id": "1", "content": "sunny"}]
    assert read_chat({"messages": messages, "tools": [tool()]}).offer is None
    assert read_chat({"messages": messages, "tools": [tool()], "tool_choice": "required"}).offer


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": {}}, "'tools' must be a list"),
        ({"tools": [tool("a")] * 2}, "two functions with the name 'a'"),
        ({"tools": [tool(str(n)) for n in range(MAX_TOOLS + 1)]}, f"{MAX_TOOLS} are the most"),
        ({"tools": [tool("no spaces")]}, "'tools[0].function.name' must be 1 to 64 letters"),
        ({"tools": [tool(description=1)]}, "'tools[0].function.description' must be a string"),
        ({"tools": [tool(parameters=[])]}, "'tools[0].function.parameters' must be a JSON schema"),
        ({"tools": [tool(parameters={"type": "string"})]}, "must be a schema of type object"),
        ({"tools": [tool(parameters={"properties": {"a": {"type": "x"}}})]}, "at '/a': 'type' must be one of"),
        ({"tool_choice": "required"}, "'tool_choice' is only allowed with 'tools'"),
        ({"tools": [tool()], "tool_choice": "any"}, "'tool_choice' must be auto, none, required"),
        ({"tools": [tool()], "tool_choice": allowed("some", "a")}, "must have 'mode', auto or required"),
        ({"tools": [tool()], "tool_choice": allowed("auto")}, "and a list 'tools'"),
        ({"tools": [tool()], "tool_choice": allowed("auto", "x")}, "names 'x'"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "'tool_choice.allowed_tools' must have"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "names 'x'"),
        ({"parallel_tool_calls": "no"}, "'parallel_tool_calls' must be true or false"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "'messages[0]' is a tool message"),
        ({"messages": [*HELLO, called("a", "1"), {"role": "tool", "content": "x"}]}, "'messages[2]' is a tool message"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{}]}]}, "'messages[1].tool_calls[0]' must be"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": 1}]}, "'messages[1].tool_calls' must be a list"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, object], reason: str) -> None:
    assert reason in refused(**fields)


def test_calls_and_their_results_become_text_that_the_model_can_read() -> None:
    results = [{"role": "tool", "tool_call_id": one, "content": f"result {one}"} for one in ("2", "1")]
    messages = [*HELLO, called("a", "1") | {"content": "Let me see."}, called("b", "2"), *results]
    assert prompt(messages) == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Let me see.\nI call a({})."},
        {"role": "assistant", "content": "I call b({})."},
        {"role": "user", "content": "The result of b is: result 2\nThe result of a is: result 1"},
    ]


def test_what_a_reasoning_model_thought_before_is_left_out() -> None:
    content = [{"type": "reasoning", "summary": []}, {"type": "text", "text": "Hi."}]
    assert prompt([*HELLO, {"role": "assistant", "content": content}, *HELLO]) == [
        *HELLO, {"role": "assistant", "content": "Hi."}, *HELLO
    ]  # fmt: skip


def test_arguments_are_asked_for_under_the_grammar_of_their_schema_and_without_stops() -> None:
    request = read_chat({"messages": HELLO, "tools": [tool()], "temperature": 0.5, "stop": ["}"], "n": 2})
    assert request.offer
    jobs = request.calling(request.offer.tools[0]).jobs
    assert len(jobs) == 2
    assert jobs[0].request["temperature"] == 0.5
    assert '"city"' in str(jobs[0].request["grammar"])
    assert "stop" not in jobs[0].request
