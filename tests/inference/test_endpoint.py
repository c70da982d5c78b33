"""The verbs, three ways, as the workspace sees them."""

from __future__ import annotations

import functools
import json
from typing import Any

import httpx
import pytest
from support.loopback import Peer, answering
from support.modes import together, waited
from support.samples import LOOK_UP, chat_answer, completion_answer, route, sent, speaks, vectors_answer

import dbllm

ROW = {"predictions": ["Hi there"]}
USER = [{"role": "user", "content": "How are you?"}]
UNKNOWN_FIELD = {"error_code": "BAD_REQUEST", "message": 'Bad request: json: unknown field "prompt"'}
CALL = "/serving-endpoints/ep/invocations"
FORBIDDEN = {"error_code": "PERMISSION_DENIED", "message": "no CAN_VIEW"}


def forbidden(wire: Any) -> Any:
    return wire.get(LOOK_UP + "ep").respond(403, json=FORBIDDEN)


# --- complete ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "answer", "body"),
    [
        ("llm/v1/chat", chat_answer(), {"messages": USER, "stop": ["."], "temperature": 0.1}),
        ("llm/v1/completions", completion_answer(), {"prompt": "How are you?", "stop": ["."], "temperature": 0.1}),
        (None, ROW, {"dataframe_records": [{"prompt": "How are you?", "stop": ["."], "temperature": 0.1}]}),
        ("agent/v2/chat", {"messages": [*USER, {"role": "assistant", "content": "Hi there"}]}, None),
    ],
)
async def test_complete_speaks_what_the_endpoint_speaks(make, wire, task, answer, body):
    speaks(wire, task)
    called = route(wire).respond(json=answer)
    async with make() as client:
        text = await client.endpoint("ep").complete("How are you?", stop=["."], temperature=0.1)
    assert text == "Hi there"
    if body is not None:
        assert sent(called) == body


async def test_complete_on_a_driver_app_posts_the_flat_request_without_a_trailing_slash(make, wire):
    called = wire.post("/driver-proxy-api/o/0/0123-456789-abc/7777").respond(json="Hi there")
    async with make() as client:
        app = client.driver_app(7777, "0123-456789-abc", params={"top_k": 5})
        assert await app.complete("How are you?", stop="\n", temperature=None) == "Hi there"
    assert sent(called) == {"prompt": "How are you?", "stop": ["\n"], "top_k": 5}


async def test_the_task_is_looked_up_once_by_fifty_concurrent_calls(make, serve, mode):
    server = serve(answering({LOOK_UP + "ep": (200, {"task": "llm/v1/chat"}), CALL: (200, chat_answer())}))
    async with make(server.host) as client:
        results = await together(mode, [lambda: client.endpoint("ep").complete("x") for _ in range(50)])
    assert results == ["Hi there"] * 50
    assert [request.line.split()[0] for request in server.requests].count("GET") == 1


async def test_a_forbidden_look_up_is_not_repeated_by_every_one_of_fifty_concurrent_calls(make, serve, mode):
    server = serve(answering({LOOK_UP + "ep": (403, FORBIDDEN), CALL: (200, chat_answer())}))
    async with make(server.host) as client:
        results = await together(mode, [lambda: client.endpoint("ep").complete("x") for _ in range(50)])
    assert results == ["Hi there"] * 50
    assert [request.line.split()[0] for request in server.requests].count("GET") <= 5


async def test_who_waits_for_the_look_up_of_another_call_keeps_its_own_deadline(make, serve, mode):
    def stalled(peer: Peer) -> None:
        peer.request()
        peer.wait()

    server = serve(stalled)
    async with make(server.host) as client:
        endpoint = client.endpoint("ep")

        async def second() -> None:
            await waited(mode, server.wait_arrived)
            await endpoint.complete("x", timeout=0.1)

        first = functools.partial(endpoint.complete, "x", timeout=1, retry=dbllm.Retry(attempts=1))
        results = await together(mode, [first, second])
    assert [type(result) for result in results] == [dbllm.APITimeoutError] * 2
    assert server.connections == 1


async def test_the_task_is_shared_by_handles_and_by_with_options(make, wire):
    looked = speaks(wire, "llm/v1/chat")
    route(wire).respond(json=chat_answer())
    async with make() as client:
        for handle in (client, client.with_options(timeout=5), client):
            await handle.endpoint("ep").complete("x")
    assert looked.call_count == 1


async def test_the_first_caller_of_the_look_up_may_fail_and_the_next_looks_again(make, wire):
    looked = wire.get(LOOK_UP + "ep").mock(side_effect=[httpx.Response(401, json={}), httpx.Response(200, json={})])
    route(wire).respond(json=ROW)
    async with make() as client:
        with pytest.raises(dbllm.AuthenticationError):
            await client.endpoint("ep").complete("x")
        assert await client.endpoint("ep").complete("x") == "Hi there"
    assert looked.call_count == 2


async def test_with_a_task_nothing_is_looked_up(make, wire):
    called = route(wire).respond(json=chat_answer())
    async with make() as client:
        assert await client.endpoint("ep", task="llm/v1/chat").complete("How are you?") == "Hi there"
    assert sent(called) == {"messages": USER}


async def test_the_task_is_dropped_after_a_400_that_names_an_unknown_field(make, wire):
    wire.get(LOOK_UP + "ep").mock(
        side_effect=[
            httpx.Response(200, json={"task": "llm/v1/completions"}),
            httpx.Response(200, json={"task": "llm/v1/chat"}),
        ]
    )
    called = route(wire).mock(
        side_effect=[httpx.Response(400, json=UNKNOWN_FIELD), httpx.Response(200, json=chat_answer())]
    )
    async with make() as client:
        endpoint = client.endpoint("ep")
        with pytest.raises(dbllm.BadRequestError, match="unknown field"):
            await endpoint.complete("How are you?")
        assert await endpoint.complete("How are you?") == "Hi there"
    assert sent(called) == {"messages": USER}


async def test_the_task_is_kept_after_any_other_400(make, wire):
    looked = speaks(wire, "llm/v1/chat")
    route(wire).respond(400, json={"error_code": "BAD_REQUEST", "message": "temperature is too high"})
    async with make() as client:
        for _ in range(2):
            with pytest.raises(dbllm.BadRequestError, match="too high"):
                await client.endpoint("ep").complete("x")
    assert looked.call_count == 1


@pytest.mark.parametrize(
    ("refusals", "answer"), [(0, chat_answer()), (1, completion_answer()), (2, ROW)], ids=["chat", "prompt", "rows"]
)
@pytest.mark.parametrize("status", [400, 422])
async def test_where_the_look_up_is_forbidden_the_envelopes_are_tried_in_order_and_remembered(
    make, wire, refusals, answer, status
):
    looked = forbidden(wire)
    called = route(wire).mock(
        side_effect=[httpx.Response(status, json={"message": "no"})] * refusals + [httpx.Response(200, json=answer)] * 2
    )
    envelopes = [{"messages": USER}, {"prompt": "How are you?"}, {"dataframe_records": [{"prompt": "How are you?"}]}]
    async with make() as client:
        assert await client.endpoint("ep").complete("How are you?") == "Hi there"
        assert [sent(called, place) for place in range(refusals + 1)] == envelopes[: refusals + 1]
        assert await client.endpoint("ep").complete("How are you?") == "Hi there"
    assert sent(called) == envelopes[refusals]
    assert called.call_count == refusals + 2
    assert looked.call_count == 1


@pytest.mark.parametrize("status", [500, 429, 403])
async def test_where_the_look_up_is_forbidden_only_a_refusal_moves_on(make, wire, status):
    forbidden(wire)
    called = route(wire).respond(status, json={"message": "no"})
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        with pytest.raises(dbllm.APIStatusError) as caught:
            await client.endpoint("ep").complete("How are you?")
    assert caught.value.status == status
    assert called.call_count == 1
    assert sent(called) == {"messages": USER}


async def test_where_all_envelopes_are_refused_the_error_says_so_and_keeps_each(make, wire):
    forbidden(wire)
    route(wire).mock(side_effect=[httpx.Response(400, json={"message": text}) for text in ("one", "two", "three")])
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError) as caught:
            await client.endpoint("ep").complete("x")
    assert caught.value.detail == "three"
    assert [error.detail for error in caught.value.previous] == ["one", "two"]
    assert "task=" in caught.value.message
    assert "one" in caught.value.message


@pytest.mark.parametrize("status", [500, 401])
async def test_a_look_up_that_fails_otherwise_is_the_calls_failure(make, wire, status):
    wire.get(LOOK_UP + "ep").respond(status, json={"message": "no"})
    called = route(wire).respond(json=chat_answer())
    async with make(retry=dbllm.Retry(attempts=1)) as client:
        with pytest.raises(dbllm.APIStatusError):
            await client.endpoint("ep").complete("x")
    assert called.call_count == 0


async def test_the_look_up_shares_the_calls_deadline(make, wire, clock):
    wire.get(LOOK_UP + "ep").respond(503, headers={"retry-after": "7"})
    async with make() as client:
        clock.on(client)
        with pytest.raises(dbllm.InternalServerError):
            await client.endpoint("ep").complete("x", timeout=10)
    assert len(clock.waits) == 1


async def test_an_embeddings_endpoint_completes_nothing_and_says_embed(make, wire):
    speaks(wire, "llm/v1/embeddings")
    async with make() as client:
        with pytest.raises(dbllm.ConfigError, match=r"embed\(\)"):
            await client.endpoint("ep").complete("x")


async def test_an_answer_with_no_place_for_a_text_keeps_raw(make, wire):
    route(wire).respond(json={"predictions": [{"odd": 1}]})
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError, match="transform_output") as caught:
            await client.endpoint("ep", task="custom").complete("x")
    assert json.loads(caught.value.raw.body) == {"predictions": [{"odd": 1}]}


# --- transforms -------------------------------------------------------------------------------------------------------


async def test_transform_input_gets_the_flat_request_as_keywords(make, wire):
    seen: list[dict[str, Any]] = []

    def keep(**request: Any) -> dict[str, Any]:
        seen.append(request)
        return request

    route(wire).respond(json=ROW)
    async with make() as client:
        endpoint = client.endpoint("ep", task="custom", transform_input=keep, params={"top_k": 1})
        await endpoint.complete("a", temperature=0.5)
        await endpoint.complete("a", stop=["x"], top_k=None)
    assert seen == [{"prompt": "a", "top_k": 1, "temperature": 0.5}, {"prompt": "a", "stop": ["x"]}]


@pytest.mark.parametrize("key", ["messages", "input", "inputs", "instances", "dataframe_records", "dataframe_split"])
async def test_a_transform_that_returns_an_envelope_makes_the_body(make, wire, key):
    called = route(wire).respond(json=ROW)
    async with make() as client:
        endpoint = client.endpoint("ep", task="custom", transform_input=lambda **request: {key: [1], "more": 2})
        await endpoint.complete("a", temperature=0.5)
    assert sent(called) == {key: [1], "more": 2}


async def test_any_other_transform_result_is_the_one_row_of_a_custom_model(make, wire):
    called = route(wire).respond(json=ROW)
    async with make() as client:
        endpoint = client.endpoint("ep", task="custom", transform_input=lambda **r: {"question": r["prompt"], "t": 1})
        await endpoint.complete("a", temperature=0.5)
    assert sent(called) == {"dataframe_records": [{"question": "a", "t": 1}]}


async def test_a_transform_that_leaves_no_prompt_reaches_a_custom_model_also_where_the_look_up_is_forbidden(make, wire):
    forbidden(wire)
    called = route(wire).respond(json=ROW)
    async with make() as client:
        endpoint = client.endpoint("ep", transform_input=lambda **request: {"question": request["prompt"]})
        assert await endpoint.complete("a") == "Hi there"
    assert sent(called) == {"dataframe_records": [{"question": "a"}]}


@pytest.mark.parametrize(
    ("task", "answer", "given"),
    [
        ("custom", {"predictions": [{"text": "a"}, {"text": "b"}]}, {"text": "a"}),
        ("custom", {"predictions": {"text": "a"}}, {"text": "a"}),
        ("custom", ["bare", "b"], "bare"),
        ("chat", chat_answer(), chat_answer()),
        ("completions", completion_answer(), completion_answer()),
    ],
)
async def test_transform_output_gets_what_the_kind_of_endpoint_promises(make, wire, task, answer, given):
    seen: list[Any] = []

    def keep(response: Any) -> str:
        seen.append(response)
        return "kept"

    route(wire).respond(json=answer)
    async with make() as client:
        assert await client.endpoint("ep", task=task, transform_output=keep).complete("x") == "kept"
    assert seen == [given]


async def test_transform_output_of_a_driver_app_gets_the_json(make, wire):
    wire.post("/driver-proxy-api/o/0/c/7777").respond(json={"answer": "deep"})
    async with make() as client:
        app = client.driver_app(7777, "c", transform_output=lambda response: response["answer"].upper())
        assert await app.complete("x") == "DEEP"


async def test_transforms_that_return_something_else_are_named(make, wire):
    route(wire).respond(json=ROW)
    async with make() as client:
        with pytest.raises(TypeError, match="transform_input"):
            await client.endpoint("ep", task="custom", transform_input=lambda **request: "text").complete("x")
        with pytest.raises(TypeError, match="transform_output"):
            await client.endpoint("ep", task="custom", transform_output=lambda response: 3).complete("x")


async def test_a_transform_of_the_whole_answer_cannot_be_combined_with_a_stream(make):
    async with make() as client:
        with pytest.raises(TypeError, match="transform_output"):
            client.endpoint("ep", task="chat", transform_output=str).stream_complete("x")


# --- arguments --------------------------------------------------------------------------------------------------------


async def test_later_parameters_win_none_is_not_sent_and_extra_body_goes_to_the_top(make, wire):
    called = route(wire).respond(json=ROW)
    async with make() as client:
        endpoint = client.endpoint("ep", task="custom", params={"top_p": 0.5, "top_k": 3, "seed": 1})
        await endpoint.complete("x", top_p=0.9, top_k=None, extra_body={"client_request_id": "r1"})
    assert sent(called) == {"dataframe_records": [{"prompt": "x", "top_p": 0.9, "seed": 1}], "client_request_id": "r1"}


@pytest.mark.parametrize(
    "name",
    ["time_out", "timeouts", "max_retries", "retries", "header", "extra_headers", "extrabody", "stops", "stream"],
)
async def test_a_near_miss_of_our_options_never_goes_to_the_wire(make, name):
    async def ask(verb: str) -> None:
        asked = getattr(client.endpoint("ep", task="chat"), verb)("x", **{name: 3})
        await (asked.final() if verb.startswith("stream") else asked)

    async with make() as client:
        for verb in ("complete", "chat", "embed", "stream_chat", "stream_complete"):
            with pytest.raises(TypeError, match=name):
                await ask(verb)


@pytest.mark.parametrize(
    "name", ["temperature", "top_k", "top_p", "max_tokens", "n", "seed", "user", "tools", "logit_bias"]
)
async def test_the_models_own_parameters_go_to_the_wire(make, wire, name):
    called = route(wire).respond(json=chat_answer())
    async with make() as client:
        await client.endpoint("ep").chat("x", **{name: 1})
    assert sent(called)[name] == 1


async def test_parameters_of_predict_are_the_models_whatever_their_names(make, wire):
    called = route(wire).respond(json=ROW)
    async with make() as client:
        await client.endpoint("ep").predict(inputs=[1], params={"stop": ["."], "timeout": 3})
    assert sent(called) == {"inputs": [1], "params": {"stop": ["."], "timeout": 3}}


async def test_a_list_of_prompts_names_bulk(make):
    async with make() as client:
        with pytest.raises(TypeError, match="bulk"):
            await client.endpoint("ep", task="chat").complete(["a", "b"])


async def test_several_answers_name_chat(make):
    async with make() as client:
        with pytest.raises(ValueError, match=r"chat\(.*n=2"):
            await client.endpoint("ep", task="chat").complete("a", n=2)


@pytest.mark.parametrize("stop", [3, {"a"}, [1], {"a": 1}])
async def test_a_stop_of_a_wrong_type_is_refused(make, stop):
    async with make() as client:
        with pytest.raises(TypeError, match="stop"):
            await client.endpoint("ep", task="chat").complete("a", stop=stop)


async def test_a_number_json_has_no_form_for_is_refused_with_its_place(make):
    async with make() as client:
        endpoint = client.endpoint("ep", task="chat")
        with pytest.raises(ValueError, match="temperature = nan"):
            await endpoint.chat("x", temperature=float("nan"))
        with pytest.raises(ValueError, match=r"inputs\[1\]\.a\[0\] = inf"):
            await endpoint.predict(inputs=[1, {"a": [float("inf")]}])


TAKEN = {  # what Databricks' endpoints take beside the text: it goes as it is
    "temperature": 0.1,
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "top_p": 0.5,
    "top_k": 4,
    "n": 1,
    "seed": 7,
    "user": "u",
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "service_tier": "auto",
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": 1},
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "databricks_options": {"return_trace": True},
    "context": {"user_id": "u"},
    "custom_inputs": {"a": 1},
    "instruction": "i",
    "dimensions": 5,
    "encoding_format": "float",
    "a_field_of_the_models_own": 1,
}


async def test_what_databricks_takes_goes_to_the_wire_as_it_is(make, wire):
    chats, vectors = route(wire).respond(json=chat_answer()), route(wire, "v").respond(json=vectors_answer([0.5]))
    for name, value in TAKEN.items():
        async with make() as client:
            await client.endpoint("ep").chat("hi", **{name: value})
            await client.endpoint("ep", task="chat").complete("hi", **{name: value})
            await client.endpoint("v").embed("hi", **{name: value})
        for call in (chats.calls[-2], chats.calls[-1], vectors.calls[-1]):
            assert json.loads(call.request.content)[name] == value, name


async def test_a_custom_model_and_a_driver_app_take_parameters_of_any_name(make, wire):
    rows = route(wire).respond(json={"predictions": ["hi"]})
    app = wire.post(url__regex=".*/driver-proxy-api/.*").respond(json="hi")
    params = {"model": "m", "system": "s", "functions": [], "history": [], "task": "t", "temprature": 1}
    async with make() as client:
        await client.endpoint("ep", task="custom").complete("hi", **params)
        await client.driver_app(7777, "c").complete("hi", **params)
    assert json.loads(rows.calls[0].request.content) == {"dataframe_records": [{"prompt": "hi", **params}]}
    assert json.loads(app.calls[0].request.content) == {"prompt": "hi", **params}


async def test_extra_body_sends_what_no_verb_takes(make, wire):
    called = route(wire).respond(json=chat_answer())
    async with make() as client:
        await client.endpoint("ep").chat("hi", extra_body={"model": "m", "functions": []})
    assert json.loads(called.calls[0].request.content).items() >= {"model": "m", "functions": []}.items()


async def test_what_belongs_elsewhere_is_refused_by_every_verb_before_anything_is_sent(make, wire):
    names = ("model", "engine", "fallback", "served_model", "functions", "token", "system")
    async with make() as client:
        endpoint = client.endpoint("ep", task="chat")
        for name in names:
            for call in (
                lambda name=name: endpoint.chat("hi", **{name: "x"}),
                lambda name=name: endpoint.complete("hi", **{name: "x"}),
                lambda name=name: endpoint.generate("hi", **{name: "x"}),
                lambda name=name: endpoint.respond("hi", **{name: "x"}),
                lambda name=name: endpoint.embed("hi", **{name: "x"}),
                lambda name=name: endpoint.stream_chat("hi", **{name: "x"}).__aenter__(),
                lambda name=name: endpoint.stream_respond("hi", **{name: "x"}).__aenter__(),
                lambda name=name: endpoint.stream_complete("hi", **{name: "x"}).__aenter__(),
                lambda name=name: client.endpoint("ep", params={name: "x"}).chat("hi"),
            ):
                with pytest.raises(TypeError, match=rf"has no {name}=: use "):
                    await call()
    assert not wire.calls


async def test_half_a_surrogate_pair_is_refused_before_it_is_sent(make):
    async with make() as client:
        with pytest.raises(ValueError, match="is not Unicode: its character 0"):
            await client.endpoint("ep", task="chat").chat("\ud800")


async def test_a_name_is_one_segment_of_the_path(make, wire):
    called = wire.post(url__regex=".*/invocations").respond(json=chat_answer())
    async with make() as client:
        await client.endpoint("a%b&+", served_model="s/1").chat("x")
    assert called.calls[0].request.url.raw_path == b"/serving-endpoints/a%25b%26%2B/served-models/s%2F1/invocations"


# --- chat, embed, predict ---------------------------------------------------------------------------------------------


async def test_chat_returns_the_typed_answer_and_what_is_known_of_the_call(make, wire):
    called = route(wire).respond(
        json=chat_answer(databricks_extra=1), headers={"x-request-id": "r-7", "set-cookie": "s"}
    )
    async with make() as client:
        reply = await client.endpoint("ep").chat("How are you?", temperature=0.1, stop="x")
    assert sent(called) == {"messages": USER, "temperature": 0.1, "stop": ["x"]}
    assert (reply.text, reply.message.role, reply.finish_reason) == ("Hi there", "assistant", "stop")
    assert reply.usage.total_tokens == 5
    assert (reply.request_id, reply.attempts, reply.raw.status) == ("r-7", 1, 200)
    assert reply.model_extra == {"databricks_extra": 1}
    assert "raw" not in reply.model_dump()
    assert "set-cookie" not in reply.raw.headers


async def test_chat_takes_messages_as_dicts_and_models_mixed(make, wire):
    called = route(wire).respond(json=chat_answer(None))
    async with make() as client:
        messages = [{"role": "system", "content": "be kind"}, dbllm.Message(role="user", content="hi")]
        reply = await client.endpoint("ep").chat(messages)
    assert sent(called)["messages"] == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert reply.text == ""


async def test_an_answer_can_be_sent_back_as_a_message(make, wire):
    tool = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = chat_answer(None)
    answer["choices"][0]["message"]["tool_calls"] = [tool]
    called = route(wire).respond(json=answer)
    async with make() as client:
        endpoint = client.endpoint("ep")
        reply = await endpoint.chat("x")
        await endpoint.chat([reply.message])
    assert sent(called)["messages"] == [{"role": "assistant", "content": None, "tool_calls": [tool]}]


@pytest.mark.parametrize("messages", [3, [3], [{"content": "x"}], b"bytes", None])
async def test_what_is_no_message_is_refused(make, messages):
    async with make() as client:
        with pytest.raises(TypeError, match="message"):
            await client.endpoint("ep").chat(messages)


NO_JSON = [b"", b"<html>login</html>", b"\xff\xfe", b"[" * 100_000]


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        *((verb, body) for verb in ("complete", "chat", "embed", "predict") for body in NO_JSON),
        # Not with predict: a custom model may answer any JSON.
        *((verb, b'{"choices": 3}') for verb in ("complete", "chat", "embed")),
    ],
)
async def test_an_answer_that_is_not_what_was_promised_keeps_raw(make, wire, verb, body):
    route(wire).respond(200, content=body, headers={"content-type": "application/json", "x-request-id": "r"})
    arguments: Any = {"inputs": [1]} if verb == "predict" else {}
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError) as caught:
            await getattr(client.endpoint("ep", task="chat"), verb)(*([] if arguments else ["x"]), **arguments)
    assert caught.value.raw.body == body
    assert (caught.value.status, caught.value.request_id, caught.value.attempts) == (200, "r", 1)


async def test_embed_returns_vectors_in_the_order_of_the_texts(make, wire):
    answer = vectors_answer([0.0], [1.0], [2.0])
    answer["data"].reverse()
    called = route(wire).respond(json=answer)
    async with make() as client:
        reply = await client.endpoint("ep").embed(("a", "b", "c"), dimensions=1)
    assert sent(called) == {"input": ["a", "b", "c"], "dimensions": 1}
    assert reply.vectors == [[0.0], [1.0], [2.0]]
    assert reply.usage.total_tokens == 2


async def test_embed_takes_one_text_and_notices_a_missing_vector(make, wire):
    called = route(wire).respond(json=vectors_answer([0.5]))
    async with make() as client:
        assert (await client.endpoint("ep").embed("a")).vectors == [[0.5]]
        assert sent(called) == {"input": ["a"]}
        with pytest.raises(dbllm.APIResponseError, match="2 texts were sent and 1 vectors"):
            await client.endpoint("ep").embed(["a", "b"])


@pytest.mark.parametrize("texts", [3, [1], None, b"x"])
async def test_embed_refuses_what_is_no_text(make, texts):
    async with make() as client:
        with pytest.raises(TypeError):
            await client.endpoint("ep").embed(texts)


@pytest.mark.parametrize(
    "form",
    [
        {"dataframe_records": [{"prompt": "hi"}]},
        {"dataframe_split": {"columns": ["prompt"], "data": [["hi"]]}},
        {"inputs": {"a": [1, 2]}},
        {"instances": [[1, 2]]},
    ],
    ids=lambda form: next(iter(form)),
)
async def test_predict_sends_each_form_of_the_scoring_protocol(make, wire, form):
    called = route(wire).respond(json={"predictions": [1, 2], "databricks_output": {"x": 1}})
    async with make() as client:
        reply = await client.endpoint("ep", params={"seed": 1}).predict(**form, params={"top_k": 3})
    assert sent(called) == {**form, "params": {"seed": 1, "top_k": 3}}
    assert (reply.predictions, reply.first) == ([1, 2], 1)
    assert reply.model_extra == {"databricks_output": {"x": 1}}


@pytest.mark.parametrize("forms", [{}, {"inputs": [1], "instances": [1]}])
async def test_predict_takes_exactly_one_form(make, forms):
    async with make() as client:
        with pytest.raises(TypeError, match="exactly one"):
            await client.endpoint("ep").predict(**forms)


async def test_predict_takes_a_table_and_gives_one_back(make, wire):
    pandas = pytest.importorskip("pandas", reason="this is a test with pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b"], "at": pandas.to_datetime(["2026-01-02", None])})
    called = route(wire).respond(json={"predictions": [{"score": 0.5}, {"score": 1.5}]})
    async with make() as client:
        reply = await client.endpoint("ep", params={"seed": 1}).predict(frame, params={"top_k": 3})
    split = {"columns": ["prompt", "at"], "data": [["a", "2026-01-02T00:00:00"], ["b", None]]}
    assert sent(called) == {"dataframe_split": split, "params": {"seed": 1, "top_k": 3}}
    assert reply.as_pandas()["score"].tolist() == [0.5, 1.5]


async def test_embed_takes_a_column_or_an_iterator(make, wire):
    pandas = pytest.importorskip("pandas", reason="this is a test with pandas")
    called = route(wire).respond(json=vectors_answer([1.0], [2.0]))
    async with make() as client:
        for texts in (pandas.Series(["a", "b"], index=[5, 3]), (text for text in "ab")):
            assert (await client.endpoint("ep").embed(texts)).vectors == [[1.0], [2.0]]
    assert [json.loads(call.request.content)["input"] for call in called.calls] == [["a", "b"]] * 2


# --- explanations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["complete", "chat", "embed"])
async def test_a_404_lists_the_endpoints_that_exist_and_asks_for_them_once(make, wire, verb):
    gone = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Endpoint with name 'doly' does not exist."}
    wire.get(LOOK_UP + "doly").respond(404, json=gone)
    route(wire, "doly").respond(404, json=gone)
    listed = wire.get("/api/2.0/serving-endpoints").respond(json={"endpoints": [{"name": "dolly"}, {"name": "bge"}]})
    async with make() as client:
        with pytest.raises(dbllm.NotFoundError) as caught:
            await getattr(client.endpoint("doly"), verb)("x")
    assert "Did you mean 'dolly'?" in caught.value.message
    assert "bge, dolly" in str(caught.value)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert listed.call_count == 1


async def test_a_404_asks_for_the_list_once_also_after_a_good_look_up(make, wire):
    route(wire).respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"})
    listed = wire.get("/api/2.0/serving-endpoints").respond(json={"endpoints": [{"name": "ep"}]})
    async with make() as client:
        with pytest.raises(dbllm.NotFoundError, match="The endpoint exists"):
            await client.endpoint("ep", task="chat").complete("x")
    assert listed.call_count == 1


@pytest.mark.parametrize("answer", [httpx.Response(403), httpx.Response(500), httpx.Response(200, text="<html>")])
async def test_an_explanation_that_cannot_be_had_leaves_the_error_as_it_is(make, wire, answer):
    route(wire).respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"})
    wire.get("/api/2.0/serving-endpoints").mock(return_value=answer)
    async with make() as client:
        with pytest.raises(dbllm.NotFoundError, match="gone") as caught:
            await client.endpoint("ep").chat("x")
    assert caught.value.attempts == 1


@pytest.mark.parametrize(
    ("task", "verb", "right"),
    [
        ("llm/v1/embeddings", "chat", "embed()"),
        ("llm/v1/chat", "embed", "complete() or chat()"),
        (None, "chat", "complete() or predict()"),
    ],
)
async def test_a_verb_the_endpoint_does_not_do_names_the_ones_it_does(make, wire, task, verb, right):
    speaks(wire, task)
    route(wire).respond(400, json={"error_code": "BAD_REQUEST", "message": "no"})
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError) as caught:
            await getattr(client.endpoint("ep"), verb)("x")
    assert right in caught.value.message


async def test_a_400_on_the_right_verb_keeps_its_usual_hint(make, wire):
    speaks(wire, "llm/v1/chat")
    route(wire).respond(400, json={"error_code": "BAD_REQUEST", "message": "too long"})
    async with make() as client:
        with pytest.raises(dbllm.BadRequestError) as caught:
            await client.endpoint("ep").chat("x")
    assert caught.value.hint == dbllm.BadRequestError.next_step


def test_a_key_of_a_reply_is_answered_with_the_attribute_that_has_it():
    embeddings, chat = dbllm.Embeddings(data=[]), dbllm.ChatCompletion.model_construct()
    for reply, key, said in (
        (embeddings, 0, r"reply.vectors\[0\],"),
        (chat, slice(0, 3), "reply.text,"),
        (chat, "id", "reply.id,"),
    ):
        with pytest.raises(TypeError, match=said):
            reply[key]
