"""Streams, three ways: what they give, how they end, and what becomes of their connection."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import anyio.lowlevel
import httpx
import pytest
from support.loopback import STREAM_HEAD, Peer, chunk, frame, head, streaming
from support.modes import Clock, Plain, permits, together, waited
from support.samples import HELLO, chat_answer, completion_answer, piece, route, sent, speaks, sse

import dbllm

ONCE = dbllm.Retry(attempts=1)
CALL = "/serving-endpoints/ep/invocations"


def stalled(peer: Peer) -> None:
    """The model thinks, until the client hangs up."""
    peer.wait_gone()


async def texts(stream: Any) -> list[str]:
    return [chunk.text async for chunk in stream]


# --- what comes -------------------------------------------------------------------------------------------------------


async def test_a_chat_stream_asks_for_events_and_gives_chunks(make, wire):
    called = route(wire).mock(return_value=sse(*HELLO))
    async with make() as client, client.endpoint("ep").stream_chat("hi", temperature=0.1) as stream:
        assert await texts(stream) == ["Hel", "lo"]
        assert (stream.text, stream.finish_reason, stream.request_id, stream.attempts) == ("Hello", "stop", "req-1", 1)
        assert stream.raw.status == 200
    assert called.calls[0].request.headers["accept"] == "text/event-stream"
    assert sent(called) == {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.1, "stream": True}


@pytest.mark.parametrize("read", [0, 1, 2, 3])
async def test_final_is_the_whole_answer_after_none_some_or_all_chunks(make, wire, read):
    route(wire).mock(return_value=sse(*HELLO))
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        for _ in range(read):
            async for _ in stream:
                break
        reply = await stream.final()
        assert await stream.final() == reply
    assert isinstance(reply, dbllm.ChatCompletion)
    assert (reply.text, reply.message.role, reply.finish_reason) == ("Hello", "assistant", "stop")
    assert reply.usage.completion_tokens == 2
    assert (reply.request_id, reply.object) == ("req-1", "chat.completion")


async def test_a_stream_shows_whether_it_is_open_and_how_much_has_come(make, wire):
    route(wire).mock(return_value=sse(*HELLO))
    async with make() as client:
        stream = client.endpoint("ep").stream_chat("dapi-canary")
        states = [repr(stream)]
        async with stream:
            states += [repr(stream)]
            await stream.final()
            states += [repr(stream)]
        async with client.endpoint("ep").stream_chat("hi") as left:
            pass
        states += [repr(left)]
    name = "Stream" if isinstance(client, Plain) else "AsyncStream"
    assert states == [
        f"{name}(not opened, chunks=0, request_id=None)",
        f"{name}(open, chunks=0, request_id='req-1')",
        f"{name}(ended, chunks=2, request_id='req-1')",
        f"{name}(closed, chunks=0, request_id='req-1')",
    ]


async def test_final_opens_a_stream_that_was_never_entered(make, wire):
    route(wire).mock(return_value=sse(*HELLO))
    async with make() as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"


async def test_making_a_stream_sends_nothing(make, wire):
    called = route(wire).mock(return_value=sse(*HELLO))
    async with make() as client:
        client.endpoint("ep").stream_chat("hi")
    assert called.call_count == 0


async def test_done_alone_ends_a_stream_whose_model_names_no_finish_reason(make, wire):
    route(wire).mock(return_value=sse(piece("a"), piece("b"), "[DONE]"))
    async with make() as client:
        reply = await client.endpoint("ep").stream_chat("hi").final()
    assert (reply.text, reply.finish_reason) == ("ab", None)


async def test_a_finish_reason_alone_ends_a_stream_too(make, wire):
    route(wire).mock(return_value=sse(piece("a", "length")))
    async with make() as client:
        reply = await client.endpoint("ep").stream_chat("hi").final()
    assert reply.finish_reason == "length"


async def test_usage_comes_last_in_a_chunk_without_choices_and_is_never_added_up(make, wire):
    last = {"id": "c1", "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}
    route(wire).mock(return_value=sse(piece("a", usage=1), piece("b", "stop", usage=2), last, "[DONE]"))
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        assert await texts(stream) == ["a", "b", ""]
        assert stream.usage.completion_tokens == 7
        reply = await stream.final()
    assert reply.usage.total_tokens == 18


async def test_null_and_missing_and_listed_content_is_survived(make, wire):
    listed = piece(None, content=[{"type": "reasoning", "summary": []}, {"type": "text", "text": "x"}])
    route(wire).mock(
        return_value=sse(piece(None, role="assistant"), listed, {"choices": []}, piece("y", "stop"), "[DONE]")
    )
    async with make() as client:
        reply = await client.endpoint("ep").stream_chat("hi").final()
    assert reply.text == "xy"


@pytest.mark.parametrize(
    "odd",
    [
        *(
            b"data:\n\n",
            b"data: \n\n",
            b": keep-alive\n\n",
            b"\n\n\n",
            b"event: ping\ndata: {}\n\n",
            b"id: 3\nretry: 5\n\n",
        ),
        *(b"data: : keepalive\n\n", b"event: ping\ndata: 2026-11-25 10:00:00\n\n", b"event: keepalive\ndata: null\n\n"),
        *(b"data: ping\n\n", b"data: null\n\n", b"data: 2026-11-25T10:00:00Z\n\n", b"event: heartbeat\ndata: x\n\n"),
    ],
)
async def test_what_keeps_a_stream_alive_is_no_chunk_with_text(make, wire, odd):
    route(wire).mock(return_value=sse(odd, piece("a"), odd, piece("b", "stop"), odd, "[DONE]"))
    async with make() as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "ab"


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": None},
        {"choices": [{"index": 0, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}}]},
        {"usage": None},
    ],
)
async def test_chunks_that_leave_things_out_are_survived(make, wire, odd):
    route(wire).mock(return_value=sse(piece("a"), odd, piece("b", "stop"), "[DONE]"))
    async with make() as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "ab"


async def test_tool_calls_are_put_together_from_their_pieces(make, wire):
    def call(index: int, **function: str) -> dict[str, Any]:
        named = {"id": f"t{index}", "type": "function"} if "name" in function else {}
        return {"index": index, **named, "function": function}

    events = [
        piece(role="assistant", tool_calls=[call(0, name="sum", arguments="")]),
        piece(tool_calls=[call(0, arguments='{"a"')]),
        piece(tool_calls=[call(1, name="now", arguments="{}")]),
        piece(tool_calls=[call(0, arguments=": 1}")]),
        piece(None, "tool_calls"),
    ]
    route(wire).mock(return_value=sse(*events, "[DONE]"))
    async with make() as client:
        reply = await client.endpoint("ep").stream_chat("hi").final()
    assert reply.finish_reason == "tool_calls"
    assert [made.model_dump() for made in reply.message.tool_calls] == [
        {"id": "t0", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}},
        {"id": "t1", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]


async def test_several_choices_stay_apart(make, wire):
    def of(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}

    route(wire).mock(return_value=sse(of(1, "B"), of(0, "A"), of(1, "b", "stop"), of(0, "a", "length"), "[DONE]"))
    async with make() as client, client.endpoint("ep").stream_chat("hi", n=2) as stream:
        reply = await stream.final()
        assert stream.text == "Aa"
    assert [(choice.index, choice.message.text, choice.finish_reason) for choice in reply.choices] == [
        (0, "Aa", "length"),
        (1, "Bb", "stop"),
    ]


async def test_a_server_that_does_not_stream_gives_one_chunk(make, wire):
    route(wire).respond(json=chat_answer("Hello"), headers={"x-request-id": "r"})
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        assert await texts(stream) == ["Hello"]
        reply = await stream.final()
    assert reply.model_dump(exclude_none=True) == dbllm.ChatCompletion.model_validate(chat_answer("Hello")).model_dump(
        exclude_none=True
    )
    assert reply.request_id == "r"


# --- complete, streamed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "events"),
    [
        ("chat", HELLO),
        ("completions", ({"choices": [{"text": "Hel"}]}, {"choices": [{"text": "lo", "finish_reason": "stop"}]})),
        ("custom", ('"Hel"', '"lo"', "[DONE]")),
        ("custom", ({"predictions": ["Hel"]}, {"predictions": ["lo"]}, "[DONE]")),
        (
            "responses",
            (
                {"type": "response.output_text.delta", "item_id": "i", "delta": "Hel"},
                {"type": "response.output_text.delta", "item_id": "i", "delta": "lo"},
                {"type": "response.output_item.done", "item": {"type": "message", "content": []}},
                {"type": "response.completed", "response": {"usage": {"input_tokens": 1, "output_tokens": 2}}},
            ),
        ),
    ],
)
async def test_stream_complete_gives_text_on_every_kind_of_endpoint(make, wire, task, events):
    called = route(wire).mock(return_value=sse(*events))
    stop = None if task == "responses" else ["."]  # that wire format has none
    async with make() as client, client.endpoint("ep", task=task).stream_complete("hi", stop=stop) as stream:
        pieces = await texts(stream)
        assert await stream.final() == "Hello"
    assert [text for text in pieces if text] == ["Hel", "lo"]
    assert sent(called)["stream"] is True


async def test_stream_complete_looks_the_task_up_with_an_accept_of_json(make, wire):
    looked = speaks(wire, "llm/v1/chat")
    route(wire).mock(return_value=sse(*HELLO))
    async with make() as client:
        assert await client.endpoint("ep").stream_complete("hi").final() == "Hello"
    assert looked.calls[0].request.headers["accept"] == "application/json"


async def test_stream_complete_on_a_completions_endpoint_that_does_not_stream(make, wire):
    route(wire).respond(json=completion_answer("Hello"))
    async with make() as client, client.endpoint("ep", task="completions").stream_complete("hi") as stream:
        assert await texts(stream) == ["Hello"]
        assert await stream.final() == "Hello"


async def test_a_driver_app_streams_when_asked_by_the_accept_header_alone(make, wire):
    called = wire.post("/driver-proxy-api/o/0/c/7777").mock(return_value=sse('"Hel"', '"lo"', "[DONE]"))
    async with make() as client, client.driver_app(7777, "c").stream_complete("hi") as stream:
        assert await texts(stream) == ["Hel", "lo"]
    assert called.calls[0].request.headers["accept"] == "text/event-stream"
    assert sent(called) == {"prompt": "hi"}


async def test_a_driver_app_that_knows_no_streams_gives_one_chunk(make, wire):
    wire.post("/driver-proxy-api/o/0/c/7777").respond(json="Hello")
    async with make() as client, client.driver_app(7777, "c").stream_complete("hi") as stream:
        assert await texts(stream) == ["Hello"]
        assert await stream.final() == "Hello"


# --- how it ends badly ------------------------------------------------------------------------------------------------

ERRORS = [
    ({"error": "out of memory"}, ""),
    ({"error": {"message": "out of memory", "code": "OOM"}}, "OOM"),
    ({"error_code": "INTERNAL_ERROR", "message": "out of memory"}, "INTERNAL_ERROR"),
    ({"type": "error", "code": "OOM", "message": "out of memory", "sequence_number": 3}, "OOM"),
    (b"event: error\ndata: out of memory\n\n", ""),
    (b'event: error\ndata: {"message": "out of memory"}\n\n', ""),
]


@pytest.mark.parametrize(("event", "code"), ERRORS)
async def test_an_error_inside_a_stream_interrupts_it_with_what_had_come(make, wire, event, code):
    route(wire).mock(return_value=sse(piece("Hel", usage=1), event, "[DONE]"))
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        with pytest.raises(dbllm.StreamInterruptedError, match="out of memory") as caught:
            await stream.final()
    error = caught.value
    assert (error.partial_text, error.usage.completion_tokens, error.request_id) == ("Hel", 1, "req-1")
    assert error.error_code == code


@pytest.mark.parametrize(("event", "code"), ERRORS)
async def test_an_error_as_the_first_event_is_raised_on_entering(make, wire, event, code):
    route(wire).mock(return_value=sse(event, "[DONE]"))
    async with make(retry=ONCE) as client:
        with pytest.raises(dbllm.StreamInterruptedError, match="out of memory") as caught:
            async with client.endpoint("ep").stream_chat("hi"):
                pass
    assert (caught.value.partial_text, caught.value.error_code) == ("", code)


async def test_the_word_error_in_the_models_text_is_no_error(make, wire):
    said = piece('{"error": "x"}')
    said["error"] = None
    route(wire).mock(return_value=sse(said, piece(' "error"', "stop"), "[DONE]"))
    async with make() as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == '{"error": "x"} "error"'


@pytest.mark.parametrize("cut", [(), (b'data: {"choi',), (b": bye\n\n",)])
async def test_an_end_before_done_is_never_a_success(make, wire, cut):
    route(wire).mock(return_value=sse(piece("Hel", usage=1), *cut))
    async with make() as client, client.endpoint("ep").stream_chat("hi") as stream:
        with pytest.raises(dbllm.StreamInterruptedError) as caught:
            await stream.final()
        assert (caught.value.partial_text, caught.value.usage.completion_tokens) == ("Hel", 1)
        with pytest.raises(dbllm.StreamInterruptedError):
            await stream.final()
        with pytest.raises(RuntimeError, match="before its end"):
            await texts(stream)


@pytest.mark.parametrize("end", ["fin", "rst", "garbage"])
async def test_a_cut_in_the_middle_of_a_chunked_body_interrupts(make, serve, mode, end):
    def cut(peer: Peer) -> None:
        if end == "rst":
            peer.server.go.wait(10)  # an RST overtakes what the client has not read yet
            peer.reset()
        elif end == "garbage":
            peer.send(b"zz\r\nnonsense")

    server = serve(streaming(piece("Hel", usage=1), then=cut))
    async with make(server.host) as client:
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for first in stream:
                assert first.text == "Hel"
                break
            server.go.set()
            with pytest.raises(dbllm.StreamInterruptedError) as caught:
                await stream.final()
        assert permits(client) == 0
    assert (caught.value.partial_text, caught.value.attempts) == ("Hel", 1)


@pytest.mark.parametrize("data", ["no json", "[1]", "3", '{"choices": 3}'])
async def test_a_piece_that_is_no_chunk_ends_the_stream_with_its_reason(make, serve, data):
    server = serve(streaming(piece("a"), data, then=stalled))
    async with make(server.host) as client, client.endpoint("ep").stream_chat("hi") as stream:
        with pytest.raises(dbllm.APIResponseError, match="no chat chunk"):
            await stream.final()
        assert permits(client) == 0


async def test_a_stream_whose_model_falls_silent_is_interrupted_after_the_read_timeout(make, serve):
    server = serve(streaming(piece("Hel", usage=1), then=stalled))
    async with make(server.host, timeout=dbllm.Timeout(read=0.2)) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.StreamInterruptedError) as caught:
            await client.endpoint("ep").stream_chat("hi").final()
        took = time.monotonic() - began
        assert permits(client) == 0
    assert caught.value.partial_text == "Hel"
    assert 0.15 < took < 20


async def test_comments_do_not_keep_a_silent_stream_alive(make, serve):
    def comments(peer: Peer) -> None:
        while not peer.gone.is_set():
            peer.send(chunk(b": still here\n\n"))
            peer.server.go.wait(0.03)

    server = serve(streaming(piece("Hel"), then=comments))
    async with make(server.host, timeout=dbllm.Timeout(read=0.3)) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.StreamInterruptedError):
            await client.endpoint("ep").stream_chat("hi").final()
    assert time.monotonic() - began < 15


async def test_the_first_event_is_waited_for_as_long_as_the_total_says(make, serve):
    server = serve(streaming(then=stalled))
    async with make(server.host, timeout=dbllm.Timeout(total=0.3, read=20), retry=ONCE) as client:
        began = time.monotonic()
        with pytest.raises(dbllm.APITimeoutError):
            await client.endpoint("ep").stream_chat("hi").final()
        assert time.monotonic() - began < 15
        assert permits(client) == 0


async def test_the_total_does_not_cut_a_stream_that_has_begun(make, wire, clock: Clock):
    route(wire).mock(return_value=sse(*HELLO))
    async with make(timeout=5) as client:
        clock.on(client)
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for _ in stream:
                clock.time += 50
            assert (await stream.final()).text == "Hello"


async def test_what_follows_done_is_waited_for_only_briefly(make, serve):
    server = serve(streaming(*HELLO, then=stalled))
    async with make(server.host) as client:
        began = time.monotonic()
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"
        assert time.monotonic() - began < 15
        assert permits(client) == 0


# --- its connection ---------------------------------------------------------------------------------------------------


async def test_a_stream_read_to_its_end_gives_its_connection_back(make, serve):
    server = serve(streaming(*HELLO))
    async with make(server.host) as client:
        endpoint = client.endpoint("ep")
        for _ in range(5):
            async with endpoint.stream_chat("hi") as stream:
                await texts(stream)
            assert permits(client) == 0
    assert (server.connections, len(server.requests)) == (1, 5)


async def test_a_stream_left_early_closes_its_socket_and_never_uses_it_again(make, serve, mode):
    server = serve(streaming(piece("a"), then=stalled), streaming(*HELLO))
    async with make(server.host) as client:
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for _ in stream:
                break
            assert permits(client) == 1
        assert permits(client) == 0
        await waited(mode, server.wait_gone, 0)
        with pytest.raises(dbllm.StreamInterruptedError, match="closed before its end"):
            await stream.final()
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"
    assert server.connections == 2


async def test_a_stream_whose_events_all_lie_ready_is_not_reused_when_left_early(make, serve):
    server = serve(streaming(*HELLO))
    async with make(server.host) as client:
        for _ in range(3):
            async with client.endpoint("ep").stream_chat("hi") as stream:
                async for _ in stream:
                    break
        assert permits(client) == 0
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"


async def test_an_exception_in_the_block_closes_the_socket(make, serve, mode):
    server = serve(streaming(piece("a"), then=stalled))

    async def broken_block() -> None:
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for _ in stream:
                raise ZeroDivisionError

    async with make(server.host) as client:
        with pytest.raises(ZeroDivisionError):
            await broken_block()
        await waited(mode, server.wait_gone, 0)
        assert permits(client) == 0


async def test_a_dropped_stream_closes_its_socket_without_a_warning(make, serve, mode):
    server = serve(streaming(piece("a"), then=stalled))
    async with make(server.host) as client:
        stream = client.endpoint("ep").stream_chat("hi")
        async for _ in stream:
            break
        assert permits(client) == 1
        del stream
        gc.collect()
        await waited(mode, server.wait_gone, 0)
        assert permits(client) == 0


@pytest.mark.filterwarnings("ignore")  # Python closes the socket, and says so
async def test_without_its_finalizer_a_dropped_stream_would_hold_its_permit(make, serve, monkeypatch):
    monkeypatch.setattr("dbllm._http.pool.Exchange.close_soon", lambda self: None)
    monkeypatch.setattr("dbllm._http.pool.ConnectionLimiter._lost", lambda self, dead: None)
    server = serve(streaming(piece("a"), then=stalled))
    async with make(server.host) as client:
        stream = client.endpoint("ep").stream_chat("hi")
        async for _ in stream:
            break
        del stream
        gc.collect()
        assert permits(client) == 1


async def test_closing_twice_and_before_opening_is_harmless(make, serve):
    server = serve(streaming(*HELLO))
    async with make(server.host) as client:
        stream = client.endpoint("ep").stream_chat("hi")
        await stream.aclose()
        await stream.aclose()
        with pytest.raises((RuntimeError, dbllm.StreamInterruptedError)):
            await stream.final()
        with pytest.raises(RuntimeError, match="closed"):
            async with stream:
                pass
    assert server.connections == 0


async def test_a_second_reader_at_the_same_time_is_told_so(make, serve, mode):
    def two_halves(peer: Peer) -> None:
        peer.wait()
        peer.send(frame(piece("b", "stop")) + frame("[DONE]") + b"0\r\n\r\n")

    server = serve(streaming(piece("a"), then=two_halves))
    async with make(server.host) as client, client.endpoint("ep").stream_chat("hi") as stream:
        async for _ in stream:
            break

        async def second() -> None:
            await inside(stream, mode)
            try:
                await stream.final()
            finally:
                server.go.set()

        results = await together(mode, [stream.final, second])
    assert isinstance(results[1], RuntimeError)
    assert "read twice" in str(results[1])
    assert results[0].text == "ab"


async def inside(stream: Any, mode: str) -> None:
    """Until another task or thread waits for the stream's next chunk."""
    while not getattr(stream, "_core", stream)._busy:
        if mode != "sync":
            await anyio.lowlevel.checkpoint()


async def test_closing_a_stream_ends_its_waiting_reader(make, serve, mode):
    if mode == "sync":
        pytest.skip("in plain code the reader's thread is the one that would close")
    server = serve(streaming(piece("a"), then=stalled))
    async with make(server.host) as client:
        async with client.endpoint("ep").stream_chat("hi") as stream:
            async for _ in stream:
                break

            async def close() -> None:
                await inside(stream, mode)
                await stream.aclose()

            results = await together(mode, [stream.final, close])
        assert isinstance(results[0], dbllm.StreamInterruptedError)
        assert results[1] is None
        assert permits(client) == 0
        await waited(mode, server.wait_gone, 0)


TYPES = ["text/plain; charset=utf-8", "application/json, text/event-stream", "application/octet-stream", ""]
TYPES += ["application/x-ndjson", "application/json", "text/event-stream"]


@pytest.mark.parametrize("size", [1, 5, 10**6])
async def test_an_event_stream_is_read_whatever_type_it_says_it_has(make, serve, size):
    body = b": hello\n\n" + sse(*HELLO).content
    wrong: list[str] = []
    for kind in TYPES:

        def typed(peer: Peer, kind: str = kind) -> None:
            while peer.request():
                peer.send(head(length=len(body), content_type=kind))
                for at in range(0, len(body), size):
                    peer.send(body[at : at + size])

        server = serve(typed)
        async with make(server.host, retry=ONCE) as client:
            for _ in range(2):
                said = [chunk.text async for chunk in client.endpoint("ep", task="chat").stream_chat("hi")]
                if said != ["Hel", "lo"]:
                    wrong.append(f"{kind}: {said}")
        assert server.connections == 1
    assert wrong == []


async def test_a_whole_answer_that_says_it_is_an_event_stream_is_one_chunk(make, wire):
    for kind in (*TYPES, "application/json"):
        route(wire).respond(200, json=chat_answer(), headers={"content-type": kind})
        async with make() as client:
            assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hi there", kind


@pytest.mark.parametrize("tail", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"])
@pytest.mark.parametrize("framed", [True, False])
async def test_done_needs_no_empty_line_after_it(make, serve, tail, framed):
    body = sse(piece("Hel"), piece("lo")).content + tail

    def play(peer: Peer) -> None:
        peer.request()
        start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        peer.send(start + (b"content-length: %d\r\n" % len(body) if framed else b"") + b"\r\n" + body)

    async with make(serve(play).host, retry=ONCE) as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"


async def test_a_failed_stream_has_the_bytes_that_came(make, wire):
    for events, expected in (
        ((piece("Hel"), "no json"), b"data: no json\n\n"),
        ((piece("Hel"),), b"Hel"),
        ((piece("Hel"), b'data: {"error": "boom"}\n\n'), b"boom"),
        (({"error": "boom"},), b"boom"),
        ((b": only a comment\n\n",), b": only a comment"),
    ):
        route(wire).mock(return_value=sse(*events))
        async with make(retry=ONCE) as client:
            with pytest.raises((dbllm.APIResponseError, dbllm.StreamInterruptedError)) as caught:
                await client.endpoint("ep").stream_chat("hi").final()
        assert expected in caught.value.raw.body


async def test_a_server_that_never_stops_after_done_is_left(make, serve):
    def endless(peer: Peer) -> None:
        while not peer.gone.is_set():
            peer.send(chunk(b": still here\n\n"))
            peer.server.go.wait(0.01)

    server = serve(streaming(*HELLO, then=endless))
    async with make(server.host) as client:
        began = time.monotonic()
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"
        assert time.monotonic() - began < 3
        assert permits(client) == 0


async def test_an_answer_that_is_no_stream_and_no_json_says_so(make, wire):
    route(wire).respond(200, text="<html>sign in</html>")
    async with make() as client:
        with pytest.raises(dbllm.APIResponseError) as caught:
            await client.endpoint("ep").stream_chat("hi").final()
    assert caught.value.raw.body == b"<html>sign in</html>"


async def test_a_content_type_is_told_in_any_case(make, wire):
    answer = sse(*HELLO)
    answer.headers["content-type"] = "Text/Event-Stream; charset=utf-8"
    route(wire).mock(return_value=answer)
    async with make() as client:
        assert (await client.endpoint("ep").stream_chat("hi").final()).text == "Hello"


async def test_a_body_without_end_that_is_no_stream_is_cut(make, monkeypatch):
    monkeypatch.setattr("dbllm._http.pool.MAX_BODY", 1000)

    def endless(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * 100_000)

    async with make(transport=httpx.MockTransport(endless), retry=ONCE) as client:
        with pytest.raises(dbllm.APIResponseError, match="over 1000 bytes"):
            await client.endpoint("ep").chat("hi")
        with pytest.raises(dbllm.APIResponseError, match="over 1000 bytes"):
            await client.endpoint("ep").stream_chat("hi").final()


async def test_a_handle_is_seen_by_the_server_as_one_connection_per_open_stream(make, serve):
    server = serve(streaming(piece("a"), then=stalled))
    async with make(server.host) as client:
        streams = [client.endpoint("ep").stream_chat("hi") for _ in range(3)]
        for stream in streams:
            async for _ in stream:
                break
        assert permits(client) == 3
        for stream in streams:
            await stream.aclose()
    assert server.connections == 3


# --- several choices, cut ---------------------------------------------------------------------------------------------


def choice(index: int, text: str, finish: str | None = None) -> bytes:
    event = {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    return f"data: {json.dumps(event)}\n\n".encode()


TO_THE_END = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"  # of the connection


@pytest.mark.parametrize(
    ("framed", "events", "whole"),
    [
        (False, [choice(0, "a", "stop"), choice(1, "b", "stop")], True),
        (False, [choice(0, "a", "stop"), choice(1, "b")], False),
        (True, [choice(0, "a", "stop"), choice(1, "b")], False),
        (False, [choice(0, "a", "stop")], False),  # the other one may have been cut off
        (True, [choice(0, "a", "stop")], True),  # the body has come whole: this server ignores `n`
        (False, [choice(0, "a", "stop"), b"data: [DONE]\n\n"], True),
        (False, [choice(0, "a", "stop"), choice(0, ""), choice(1, "b", "length")], True),
    ],
)
async def test_each_choice_ends_by_itself(make, serve, framed, events, whole):
    def play(peer: Peer) -> None:
        peer.request()
        if framed:
            peer.send(STREAM_HEAD + b"".join(map(chunk, events)) + b"0\r\n\r\n")
        else:
            peer.send(TO_THE_END + b"".join(events))

    async with make(serve(play).host) as client:
        if whole:
            reply = await client.endpoint("ep").stream_chat("hi", n=2).final()
            assert reply.choices[0].message.text == "a"
            return
        with pytest.raises(dbllm.StreamInterruptedError, match="before the answer was complete"):
            await client.endpoint("ep").stream_chat("hi", n=2).final()
