"""LangChain's agents and LangGraph's memory on the local workspace; they need langchain and langgraph."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from recorded import answering

from dbllm import ContextOverflowError, RateLimitError, Retry
from dbllm.langchain import ChatDatabricks
from dbllm.testing import Fault, faults

agents = pytest.importorskip("langchain.agents")
middleware = pytest.importorskip("langchain.agents.middleware")
strategies = pytest.importorskip("langchain.agents.structured_output")
memory = pytest.importorskip("langgraph.checkpoint.memory")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Sum(BaseModel):
    """A sum."""

    result: int


class Choosing(middleware.AgentMiddleware):  # type: ignore[misc]
    """The small model needs to be told to call a tool: the first turn has to."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        told = not any(isinstance(message, ToolMessage) for message in request.messages)
        return handler(request.override(tool_choice="any" if told and request.tools else None))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        told = not any(isinstance(message, ToolMessage) for message in request.messages)
        return await handler(request.override(tool_choice="any" if told and request.tools else None))


@pytest.fixture
def chat(ambient: Any) -> ChatDatabricks:
    return ChatDatabricks(model="smollm2-chat", temperature=0, max_tokens=64)


ASKED = {"messages": [HumanMessage("Use add with a=3 and b=4.")]}


async def test_an_agent_calls_a_tool_and_answers(chat: ChatDatabricks) -> None:
    agent = agents.create_agent(chat, [add], middleware=[Choosing()])
    for state in (agent.invoke(ASKED), await agent.ainvoke(ASKED)):
        _, asked, gave, said = state["messages"][:4]
        assert asked.tool_calls[0]["name"] == "add"
        assert gave.tool_call_id == asked.tool_calls[0]["id"]
        assert isinstance(said, AIMessage)
        assert len({message.id for message in state["messages"]}) == len(state["messages"])


def test_an_agent_answers_in_the_form_of_a_schema(chat: ChatDatabricks) -> None:
    chat = chat.model_copy(update={"temperature": 0.7, "max_tokens": 200})
    agent = agents.create_agent(chat, response_format=strategies.ProviderStrategy(Sum))
    state = agent.invoke({"messages": [HumanMessage("What is 3 plus 4?")]})
    assert isinstance(state["structured_response"], Sum)
    agent = agents.create_agent(chat, response_format=strategies.ToolStrategy(Sum))
    state = agent.invoke({"messages": [HumanMessage("What is 3 plus 4?")]})
    assert isinstance(state["structured_response"], Sum)


def test_a_long_conversation_is_summed_up(chat: ChatDatabricks) -> None:
    summing = middleware.SummarizationMiddleware(model=chat, trigger=("messages", 4), keep=("messages", 1))
    agent = agents.create_agent(chat, middleware=[summing])
    history = [HumanMessage("Rivers?"), AIMessage("The Rhine."), HumanMessage("More?"), AIMessage("The Elbe.")]
    state = agent.invoke({"messages": [*history, HumanMessage("Thank you.")]})
    assert len(state["messages"]) < len(history) + 2
    assert state["messages"][-1].text


def test_a_memory_keeps_every_turn(chat: ChatDatabricks) -> None:
    agent = agents.create_agent(chat, checkpointer=memory.InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    for number, words in enumerate(("hello", "and you?", "bye"), 1):
        state = agent.invoke({"messages": [HumanMessage(words)]}, config)
        assert len(state["messages"]) == 2 * number


@pytest.mark.filterwarnings("ignore:The v3 streaming")
async def test_an_agent_streams_in_the_third_version(chat: ChatDatabricks) -> None:
    agent = agents.create_agent(chat, [add])
    stream = await agent.astream_events({"messages": [HumanMessage("Tell me about rivers.")]}, version="v3")
    texts = []
    async for message in stream.messages:
        texts.append(str(await message.text))
    assert "".join(texts)
    whole = chat.stream_events("Tell me about rivers.", version="v3")
    assert str(whole.text)
    assert whole.output.usage_metadata["output_tokens"] > 0


# --- what the small model does not do ---------------------------------------------------------------------------------


def failing(status: int, times: int, seen: list[int], message: str = "no") -> ChatDatabricks:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":  # what would have been right, for the error's hint
            return httpx.Response(403, json={"error_code": "PERMISSION_DENIED", "message": "no look-ups here"})
        seen.append(status)
        if len(seen) <= times:
            return httpx.Response(status, json={"error_code": "X", "message": message})
        said = {"message": {"role": "assistant", "content": f"Fine, {len(json.loads(request.content)['messages'])}."}}
        return httpx.Response(200, json={"choices": [said]})

    clients = {name: client.with_options(retry=Retry(attempts=1)) for name, client in answering(answer).items()}
    return ChatDatabricks(model="m", **clients)


@pytest.mark.parametrize(("status", "calls"), [(429, 3), (500, 3), (400, 1), (401, 1), (403, 1), (404, 1)])
def test_an_agent_s_retries_repeat_what_may_succeed(status: int, calls: int) -> None:
    seen: list[int] = []
    again = middleware.ModelRetryMiddleware(max_retries=3, initial_delay=0, on_failure="error")
    agent = agents.create_agent(failing(status, 2, seen), middleware=[again])
    if calls == 1:
        with pytest.raises(exceptions.ModelError) as caught:
            agent.invoke({"messages": [HumanMessage("hi")]})
        assert not caught.value.is_retryable
    else:
        agent.invoke({"messages": [HumanMessage("hi")]})
    assert len(seen) == calls


def test_an_agent_s_retries_bring_it_through_a_workspace_that_refuses_now_and_then(ambient: Any) -> None:
    again = middleware.ModelRetryMiddleware(max_retries=9, initial_delay=0, on_failure="error")
    chat = ChatDatabricks(model="smollm2-chat", max_tokens=8, max_retries=0)  # dbllm itself does not try again
    with faults(ambient, "smollm2-chat", Fault(statuses={429: 0.5}, retry_after=0, seed=1)):
        with pytest.raises(exceptions.ModelRateLimitError):
            chat.batch(["hi"] * 9, {"max_concurrency": 1})
        state = agents.create_agent(chat, middleware=[again]).invoke({"messages": [HumanMessage("hi")]})
    assert state["messages"][-1].text


def test_a_context_that_is_too_long_is_summed_up_shorter() -> None:
    seen: list[int] = []
    chat = failing(400, 1, seen, "prompt is too long: 210000 tokens > 200000 maximum")
    with pytest.raises(exceptions.ContextOverflowError) as caught:
        chat.invoke("hi")
    assert isinstance(caught.value, ContextOverflowError)
    summing = middleware.SummarizationMiddleware(model=chat, trigger=("messages", 50))
    assert agents.create_agent(chat, middleware=[summing]).invoke(ASKED)["messages"][-1].text == "Fine, 1."


def test_a_rate_limit_is_dbllms_error_and_langchains() -> None:
    with pytest.raises(exceptions.ModelRateLimitError) as caught:
        failing(429, 9, []).invoke("hi")
    assert isinstance(caught.value, RateLimitError)
    assert caught.value.is_retryable
