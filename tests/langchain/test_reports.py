"""Situations that users of LangChain have reported of Databricks and of gateways like it."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from typing import Any

import httpx
import pytest
from langchain_core import exceptions
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from recorded import answering

import dbllm
from dbllm.langchain import ChatDatabricks, Databricks, DatabricksEmbeddings
from dbllm.langchain.errors import as_langchains


class Server:
    """Answers with these messages in turn, the last one again and again; keeps the bodies."""

    def __init__(self, *messages: dict[str, Any], **head: Any) -> None:
        self.messages, self.head = list(messages), head
        self.bodies: list[dict[str, Any]] = []
        self.clients = answering(self._answer)

    def chat(self, **fields: Any) -> ChatDatabricks:
        return ChatDatabricks(**{"model": "m", **fields}, **self.clients)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        said = {"role": "assistant", **self.messages[min(len(self.bodies), len(self.messages)) - 1]}
        reason = said.pop("finish_reason", "stop")
        if not body.get("stream"):
            return httpx.Response(200, json={**self.head, "choices": [{"message": said, "finish_reason": reason}]})
        events = [{"choices": [{"index": 0, "delta": said}]}, {"choices": [{"index": 0, "finish_reason": reason}]}]
        text = "".join(f"data: {json.dumps({**self.head, **event})}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


def summed(chunks: Any) -> Any:
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", ["c-1", "", "null", None])
@pytest.mark.parametrize("streaming", [False, True])
def test_two_answers_never_have_one_id(same: str | None, streaming: bool) -> None:
    server = Server({"content": "a"}, {"content": "b"}, **({"id": same} if same is not None else {}))
    chat = server.chat(streaming=streaming)
    first, second = chat.invoke("x"), chat.invoke("y")
    assert first.id
    assert second.id
    assert first.id != second.id
    assert first.response_metadata.get("id") == (same or None)


@pytest.mark.parametrize("agent", [False, True])
def test_the_chunks_of_a_stream_have_one_id(agent: bool) -> None:
    server = Server({"content": "a"}, id="c-1")
    chunks = list(server.chat().stream("x"))
    assert len({chunk.id for chunk in chunks}) == 1
    assert summed(chunks).response_metadata["id"] == "c-1"


def test_several_choices_have_ids_of_their_own() -> None:
    choices = [{"index": place, "message": {"content": str(place)}, "finish_reason": "stop"} for place in (195, 196)]
    clients = answering(lambda request: httpx.Response(200, json={"id": "c-1", "choices": choices}))
    found = ChatDatabricks(model="m", n=2, **clients).generate([[HumanMessage("x")]]).generations[0]
    assert [generation.text for generation in found] == ["195", "196"]
    assert len({generation.message.id for generation in found}) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("ids", [[None, None], ["", ""], ["null", "null"], ["c", "c"]])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_call_has_an_id_of_its_own_that_goes_back(ids: list[str | None], streaming: bool) -> None:
    calls = [
        {"index": place, "id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for place, (call_id, name) in enumerate(zip(ids, "fg", strict=True))
    ]
    server = Server({"content": None, "tool_calls": calls, "finish_reason": "tool_calls"}, {"content": "ok"})
    chat = server.chat(streaming=streaming)
    asked = chat.invoke("x")
    found = [call["id"] for call in asked.tool_calls]
    assert len(found) == len(set(filter(None, found))) == 2
    chat.invoke([HumanMessage("x"), asked, *(ToolMessage("1", tool_call_id=call_id) for call_id in found)])
    _, sent, *gave = server.bodies[-1]["messages"]
    assert [call["id"] for call in sent["tool_calls"]] == [one["tool_call_id"] for one in gave] == found


@pytest.mark.parametrize(
    "other", [{"host": "https://b.example.com"}, {"config_profile": "b"}, {"use_responses_api": True}]
)
def test_a_cache_keeps_workspaces_and_wires_apart(other: dict[str, Any]) -> None:
    own = {"host": "https://a.example.com", "api_token": "t", "model": "m"}
    key = ChatDatabricks(**own)._get_llm_string()
    assert ChatDatabricks(**own)._get_llm_string() == key
    assert ChatDatabricks(**{**own, **other})._get_llm_string() != key


def test_a_cache_tells_the_clients_of_two_workspaces_apart() -> None:
    server, cache = Server({"content": "a"}, {"content": "b"}), InMemoryCache()
    other = dbllm.Client("https://other.example.com", "t", transport=httpx.MockTransport(server._answer))
    assert server.chat(cache=cache).invoke("x").text == "a"
    assert ChatDatabricks(model="m", client=other, cache=cache).invoke("x").text == "b"
    assert server.chat(cache=cache).invoke("x").text == "a"
    llms = [Databricks(endpoint_name="m", client=client) for client in (server.clients["client"], other)]
    assert llms[0]._identifying_params != llms[1]._identifying_params


# --- what a server puts beside its answer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {"thoughtSignature": "SIG"},
        {"extra_content": {"google": {"thought_signature": "SIG"}}},
        {"function": {"thought_signature": "SIG"}},
    ],
)
@pytest.mark.parametrize("way", ["invoke", "stream", "streaming", "v1"])
def test_what_stands_beside_a_call_goes_back_to_the_endpoint_it_came_from(extra: dict[str, Any], way: str) -> None:
    function = {"name": "f", "arguments": "{}", **extra.get("function", {})}
    call = {"index": 0, "id": "c", "type": "function", **extra, "function": function}
    server = Server({"content": None, "tool_calls": [call], "finish_reason": "tool_calls"}, {"content": "ok"})
    chat = server.chat(streaming=way == "streaming", output_version="v1" if way == "v1" else None)
    asked = summed(chat.stream("x")) if way in ("stream", "v1") else chat.invoke("x")
    asked = pickle.loads(pickle.dumps(asked))
    history = [HumanMessage("x"), asked, ToolMessage("1", tool_call_id="c")]
    chat.invoke(history)
    sent = server.bodies[-1]["messages"][1]["tool_calls"][0]
    assert {**sent, "index": 0} == call
    server.chat(model="another").invoke(history)  # which would refuse it
    assert server.bodies[-1]["messages"][1]["tool_calls"][0] == {
        "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"},
    }  # fmt: skip


@pytest.mark.parametrize("way", ["invoke", "stream", "streaming"])
def test_reasoning_details_and_annotations_are_kept_and_go_back(way: str) -> None:
    beside = {"reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "format": "f", "index": 0}]}
    beside["annotations"] = [{"type": "url_citation", "url_citation": {"url": "https://example.com"}}]
    server = Server({"content": "hi", **beside})
    chat = server.chat(streaming=way == "streaming")
    said = summed(chat.stream("x")) if way == "stream" else chat.invoke("x")
    assert said.additional_kwargs == beside
    chat.invoke([HumanMessage("x"), said, HumanMessage("y")])
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "hi", **beside}


@pytest.mark.parametrize("way", ["invoke", "stream", "streaming", "v1", "v3"])
def test_signed_reasoning_goes_back_as_it_came(way: str) -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A cat.", "signature": "s1gn"}]}
    server = Server({"content": [thought, {"type": "text", "text": "Meow."}]})
    chat = server.chat(streaming=way == "streaming", output_version="v1" if way == "v1" else None)
    if way == "v3":
        if not hasattr(chat, "stream_events"):
            pytest.skip("this langchain-core has no third version of streaming")
        said = chat.stream_events("x", version="v3").output
    else:
        said = summed(chat.stream("x")) if way in ("stream", "v1") else chat.invoke("x")
    assert str(said.text) == "Meow."
    chat.invoke([HumanMessage("x"), said, HumanMessage("y")])
    assert server.bodies[-1]["messages"][1]["content"] == [thought, {"type": "text", "text": "Meow."}]


@pytest.mark.parametrize(
    ("reason", "message", "normalized", "state"),
    [
        ("stop", {}, "stop", "complete"),
        ("end_turn", {}, "stop", "complete"),
        ("length", {}, "length", "complete"),
        ("max_tokens", {}, "length", "complete"),
        ("MAX_TOKENS", {}, "length", "complete"),
        ("content_filter", {}, "content_filter", "complete"),
        ("stop", {"refusal": "No."}, "refusal", "complete"),
        ("SAFETY", {}, "refusal", "complete"),
        ("model_context_window_exceeded", {}, "context_exceeded", "complete"),
        ("pause_turn", {}, "other", "suspended"),
        ("something", {}, "other", "complete"),
        ("stop", {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, "tool_call", "complete"),
        ("error", {}, "error", "complete"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_why_an_answer_ended_in_langchains_words(
    reason: str, message: dict[str, Any], normalized: str, state: str, streaming: bool
) -> None:
    told = Server({"content": "a", **message, "finish_reason": reason}).chat(streaming=streaming).invoke("x")
    found = [told.response_metadata[name] for name in ("finish_reason", "normalized_finish_reason", "finish_state")]
    assert found == [reason, normalized, state]


# --- errors -----------------------------------------------------------------------------------------------------------


def refusing(status: int, message: str = "no") -> dict[str, Any]:
    answer = httpx.Response(status, json={"error_code": "X", "message": message})
    once = dbllm.Retry(attempts=1)
    return {name: client.with_options(retry=once) for name, client in answering(lambda request: answer).items()}


@pytest.mark.parametrize(
    ("status", "own", "twin", "retryable"),
    [
        (400, dbllm.BadRequestError, "ModelInvalidRequestError", False),
        (401, dbllm.AuthenticationError, "ModelAuthenticationError", False),
        (403, dbllm.PermissionDeniedError, "ModelPermissionDeniedError", False),
        (404, dbllm.NotFoundError, "ModelNotFoundError", False),
        (409, dbllm.ConflictError, "ModelInvalidRequestError", False),
        (413, dbllm.RequestTooLargeError, "ModelInvalidRequestError", False),
        (429, dbllm.RateLimitError, "ModelRateLimitError", True),
        (500, dbllm.InternalServerError, "ModelAPIError", True),
        (503, dbllm.InternalServerError, "ModelAPIError", True),
    ],
)
def test_an_error_is_dbllms_and_langchains(status: int, own: Any, twin: str, retryable: bool) -> None:
    clients = refusing(status)
    chat, llm = ChatDatabricks(model="m", **clients), Databricks(endpoint_name="m", task="custom", **clients)
    embeddings = DatabricksEmbeddings(endpoint="m", **clients)
    for call in (
        lambda: chat.invoke("x"),
        lambda: list(chat.stream("x")),
        lambda: asyncio.run(chat.ainvoke("x")),
        lambda: llm.invoke("x"),
        lambda: list(llm.stream("x")),
        lambda: embeddings.embed_query("x"),
        lambda: asyncio.run(embeddings.aembed_documents(["x"])),
    ):
        with pytest.raises(own) as caught:
            call()
        error = caught.value
        assert (error.status, error.error_code) == (status, "X")
        if twin_class := getattr(exceptions, twin, None):
            assert isinstance(error, twin_class)
            assert error.is_retryable is retryable
        for twice in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(twice) is type(error)
            assert str(twice) == str(error)


def test_what_is_no_error_of_dbllm_leaves_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine") as caught, as_langchains:
        raise ValueError("mine")
    assert type(caught.value) is ValueError


# --- what langchain has of its own ------------------------------------------------------------------------------------


def test_langchains_ids_of_blocks_are_not_sent() -> None:
    server = Server({"content": "ok"})
    image = create_image_block(url="https://example.com/a.png")
    text = create_text_block("a")
    assert text["id"].startswith("lc_")
    server.chat().invoke(
        [
            SystemMessage(content_blocks=[text, create_text_block("b")]),
            HumanMessage(content_blocks=[text, image]),
            AIMessage(content=[text, {"type": "non_standard", "value": {"type": "own", "id": "lc_1"}, "id": "lc_2"}]),
            HumanMessage([{"type": "text", "text": "x", "id": "msg_1"}, text]),
            AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "c"}]),
            ToolMessage(content=[text, create_text_block("b")], tool_call_id="c"),  # type: ignore[list-item]
        ]
    )
    assert "lc_" not in json.dumps(server.bodies)
    assert '"id"' not in json.dumps([one["content"] for one in server.bodies[0]["messages"]])
    agent = Server({"content": "ok"})
    agent.chat(use_responses_api=True)._request([HumanMessage(content_blocks=[text, image])], None, {})
    reasoning = AIMessage(content=[{"type": "reasoning", "summary": [], "id": "rs_1"}, text])
    _, items, _ = agent.chat(use_responses_api=True)._request([reasoning], None, {})
    assert items[0]["id"] == "rs_1"
    assert "lc_" not in json.dumps(items)


@pytest.mark.parametrize(
    ("fields", "call", "sent"),
    [
        ({"max_completion_tokens": 5}, {}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5}, {}, {"max_tokens": 5}),
        ({"max_tokens": 5}, {"max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ({"max_completion_tokens": 5}, {"max_tokens": 6}, {"max_tokens": 6}),
        ({"max_completion_tokens": 5}, {"max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ({"max_tokens": 5, "extra_params": {"max_completion_tokens": 7}}, {}, {"max_completion_tokens": 7}),
        ({"extra_params": {"max_completion_tokens": 7}}, {"max_tokens": 6}, {"max_tokens": 6}),
        ({"max_tokens": 5}, {"max_tokens": None}, {}),
    ],
)
def test_the_limit_of_tokens_is_sent_under_the_name_it_was_given(fields: Any, call: Any, sent: Any) -> None:
    server = Server({"content": "ok"})
    server.chat(**fields).invoke("x", **call)
    list(server.chat(**fields).stream("x", **call))
    for body in server.bodies:
        assert {name: value for name, value in body.items() if name.startswith("max")} == sent
    _, _, params = server.chat(use_responses_api=True, **fields)._request([HumanMessage("x")], None, call)
    assert {name: value for name, value in params.items() if name.startswith("max") and value} == (
        {"max_output_tokens": next(iter(sent.values()))} if sent else {}
    )


def test_two_limits_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="the same thing"):
        ChatDatabricks(model="m", max_tokens=1, max_completion_tokens=2)


async def test_a_text_is_no_list_of_texts() -> None:
    embeddings = DatabricksEmbeddings(endpoint="m", **refusing(500))
    for texts in ("aaa", b"aaa", ["a", None], ["a", 3]):
        for call in (embeddings.embed, embeddings.embed_documents):
            with pytest.raises(TypeError, match="embedding takes"):
                call(texts)  # type: ignore[arg-type]
        for await_ in (embeddings.aembed, embeddings.aembed_documents):
            with pytest.raises(TypeError, match="embedding takes"):
                await await_(texts)  # type: ignore[arg-type]
    for query in (["a"], 3, None):
        with pytest.raises(TypeError, match="embedding takes"):
            embeddings.embed_query(query)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="embedding takes"):
            await embeddings.aembed_query(query)  # type: ignore[arg-type]


class Counting:
    """Holds calls until `limit` of them are there, or no more come; counts how many were at once."""

    def __init__(self, limit: int) -> None:
        self.limit, self.live, self.most = limit, 0, 0
        self.lock = threading.Condition()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self.lock:
            self.live += 1
            self.most = max(self.most, self.live)
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.most >= self.limit, 5)
            self.live -= 1
        return httpx.Response(200, json={"choices": [{"message": {"content": "ok"}}]})


@pytest.mark.parametrize("kind", [ChatDatabricks, Databricks])
@pytest.mark.parametrize("config", [None, {"max_concurrency": 2}, [{"tags": ["x"]}] * 9])
def test_a_batch_makes_no_more_calls_at_once_than_it_may(kind: Any, config: Any) -> None:
    limit = 2 if isinstance(config, dict) else 3
    counting = Counting(limit)
    name = {"model": "m"} if kind is ChatDatabricks else {"endpoint_name": "m", "task": "llm/v1/chat"}
    model = kind(max_concurrency=3, **name, **answering(counting))
    found = list(model.batch_as_completed(["x"] * 9, config))
    assert sorted(place for place, _ in found) == list(range(9))
    assert counting.most == limit
    bound = model.bind(stop=["."])
    assert len(list(bound.batch_as_completed(["x"] * 9, config))) == 9
    assert counting.most == limit


@pytest.mark.parametrize("kind", [ChatDatabricks, Databricks])
async def test_an_awaited_batch_makes_no_more_calls_at_once_than_it_may(kind: Any) -> None:
    live = most = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal live, most
        live += 1
        most = max(most, live)
        for _ in range(9):
            await asyncio.sleep(0)
        live -= 1
        return httpx.Response(200, json={"choices": [{"message": {"content": "ok"}}]})

    name = {"model": "m"} if kind is ChatDatabricks else {"endpoint_name": "m", "task": "llm/v1/chat"}
    client = dbllm.AsyncClient("https://workspace.example.com", "t", transport=httpx.MockTransport(answer))
    model = kind(max_concurrency=3, **name, async_client=client)
    assert len([found async for found in model.abatch_as_completed(["x"] * 9)]) == 9
    assert most == 3


# --- profiles ---------------------------------------------------------------------------------------------------------

profiles = pytest.mark.skipif(
    "profile" not in ChatDatabricks.model_fields, reason="this langchain-core has no profiles"
)


@profiles
@pytest.mark.parametrize(
    ("name", "limit", "schemas"),
    [
        ("databricks-claude-sonnet-4-5", 200_000, True),
        ("system.ai.claude-opus-4-6", 200_000, True),
        ("databricks-gpt-5-mini", 272_000, True),
        ("gpt-4o-2024-08-06", 128_000, True),
        ("databricks-gpt-oss-120b", 131_072, None),
        ("databricks-gemini-2-5-pro", 1_048_576, True),
        ("databricks-meta-llama-3-3-70b-instruct", 128_000, None),
    ],
)
def test_a_known_model_has_a_profile(name: str, limit: int, schemas: bool | None) -> None:
    profile: Any = ChatDatabricks(model=name).profile
    assert profile["max_input_tokens"] == limit
    assert profile.get("structured_output") is schemas
    assert profile["text_inputs"] is True


@profiles
def test_a_profile_is_the_users_own_or_none_where_nothing_is_known() -> None:
    assert ChatDatabricks(model="my-endpoint").profile is None
    assert ChatDatabricks(model="gpt-4o", profile={"max_input_tokens": 9}).profile == {"max_input_tokens": 9}


@profiles
async def test_the_endpoints_description_tells_the_profile() -> None:
    entity = {"name": "e", "external_model": {"name": "gpt-4o", "provider": "openai", "task": "llm/v1/chat"}}
    described = {"name": "my-endpoint", "config": {"served_entities": [entity]}}
    clients = answering(lambda request: httpx.Response(200, json=described))
    chat = ChatDatabricks(model="my-endpoint", **clients)
    assert chat.load_profile()["max_input_tokens"] == 128_000
    assert chat.profile == (await ChatDatabricks(model="my-endpoint", **clients).aload_profile())
