"""Bytes to events: any cut, any line end, in linear time, and never without limits."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterable

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dbllm._protocol import sse
from dbllm._protocol.sse import MAX_EVENT, MAX_LINE, Decoder, Event

ODD_ENDS = (
    "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e"  # what str.splitlines takes for ends of lines, and SSE does not
)


def decode(chunks: Iterable[bytes]) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def data_of(text: bytes) -> list[bytes]:
    return [event.data for event in decode([text])]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a \n\n", [b"a "]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data: a\n\r\n", [b"a"]),
        (b"data: a\r\n\ndata: b\r\r\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b"data: \n\n", [b""]),
        (b"data:: a\n\n", [b": a"]),
        (b"data: a: b\n\n", [b"a: b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: \xef\xbb\xbfa\n\n", [b"\xef\xbb\xbfa"]),
        (b"\n\n\xef\xbb\xbfdata: a\n\n", []),
        (b": a comment\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n: in between\ndata: b\n\n", [b"a\nb"]),
        (b":\n:\n\n", []),
        (b"\n\n\n\n", []),
        (b"id: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"dataset: a\n\n", []),
        (b"datax\n\n", []),
        (b"data : a\n\n", []),
        (b" data: a\n\n", []),
        (b"Data: a\n\n", []),
        (b"event: e\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b", [b"a"]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"", []),
        (b"data: \xff\xfe\n\n", [b"\xff\xfe"]),
        (b"data: a\0b\n\n", [b"a\0b"]),
    ],
)
def test_the_format_is_read_as_its_specification_says(text: bytes, events: list[bytes]) -> None:
    assert data_of(text) == events


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (b"event: error\ndata: a\n\ndata: b\n\n", ["error", ""]),
        (b"data: a\nevent: late\n\n", ["late"]),
        (b"event:x\ndata: a\n\n", ["x"]),
        (b"event:  x\ndata: a\n\n", [" x"]),
        (b"event: a\nevent: b\ndata: a\n\n", ["b"]),
        (b"event: lost\n\ndata: a\n\n", [""]),
        ("event: \u2028é\ndata: a\n\n".encode(), ["\u2028é"]),
        (b"event: \xff\ndata: a\n\n", ["\ufffd"]),
    ],
)
def test_the_type_of_an_event_is_kept_for_that_event_only(text: bytes, types: list[str]) -> None:
    assert [event.type for event in decode([text])] == types


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_only_cr_and_lf_end_a_line(end: str) -> None:
    content = json.dumps({"text": ODD_ENDS}, ensure_ascii=False)
    (event,) = decode([f"data: {content}{end}{end}".encode()])
    assert json.loads(event.data) == {"text": ODD_ENDS}


def test_every_code_point_passes_through_unharmed() -> None:
    text = "".join(chr(point) for point in range(0x11000) if not 0xD800 <= point < 0xE000 and point not in (10, 13))
    (event,) = decode([b"data: " + text.encode() + b"\n\n"])
    assert event.data.decode() == text


STREAM = (
    '\ufeff: hello\r\ndata: {"a": "ü\u2028é\U0001f600"}\r\n\r\nevent: error\rdata: x\rdata: y\r\r'
    "data\ndata:\ndata: z\n\ndata: p\r\ndata: q\r\n\r\n:\n\r\nid: 1\ndata: [DONE]\n\r\n"
).encode()


def test_every_cut_in_two_gives_the_same_events() -> None:
    whole = decode([STREAM])
    assert [event.data for event in whole] == [
        '{"a": "ü\u2028é\U0001f600"}'.encode(),
        b"x\ny",
        b"\n\nz",
        b"p\nq",
        b"[DONE]",
    ]
    for place in range(len(STREAM) + 1):
        assert decode([STREAM[:place], STREAM[place:]]) == whole, place


def test_every_cut_in_three_gives_the_same_events() -> None:
    whole = decode([STREAM])
    for first in range(len(STREAM) + 1):
        for second in range(first, len(STREAM) + 1):
            assert decode([STREAM[:first], STREAM[first:second], STREAM[second:]]) == whole, (first, second)


def test_byte_by_byte_gives_the_same_events() -> None:
    assert decode(STREAM[place : place + 1] for place in range(len(STREAM))) == decode([STREAM])


PIECES = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"event: e",
        b": c",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        "ü".encode(),
        b"\xef\xbb\xbf",
        b"",
        "\u2028".encode(),
        b"\x85",
        b"\x1c",
        b"[DONE]",
        b" ",
        b":",
        b"id: 1",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=25).map(b"".join) | st.binary(max_size=60), st.data())
@example(b"data: a\r\n\r\n", None)
def test_any_chunking_of_any_bytes_gives_the_same_events(text: bytes, data: st.DataObject | None) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8))) if data else [8, 9, 10]
    whole = Decoder()
    events = whole.feed(text)
    pieces = Decoder()
    again: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        again += pieces.feed(text[start:end])
    assert again == events
    assert pieces.pending == whole.pending


def reference(text: bytes) -> list[tuple[bytes, str, str]]:
    """The WHATWG algorithm, word by word."""
    text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[tuple[bytes, str, str]] = []
    data, kind, own_id = [], b"", b""
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                events.append((b"\n".join(data), kind.decode("utf-8", "replace"), own_id.decode("utf-8", "replace")))
            data, kind, own_id = [], b"", b""
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
        elif name == b"id":  # of this event; the browser's "last event id" is the caller's to keep
            own_id = value
    return events


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=25).map(b"".join))
def test_it_agrees_with_the_specification_word_by_word(text: bytes) -> None:
    assume(b"[DONE]" not in text)  # the specification does not know it; here it needs no empty line
    assert [tuple(event) for event in decode([text])] == reference(text)


@pytest.mark.parametrize(
    ("text", "pending"),
    [
        (b"", False),
        (b"data: a", True),
        (b"data: a\n", True),
        (b"data: a\n\n", False),
        (b"data: a\r\n\r", False),
        (b"data: a\n\nda", True),
        (b"\n\n", False),
    ],
)
def test_an_unfinished_event_is_pending(text: bytes, pending: bool) -> None:
    decoder = Decoder()
    decoder.feed(text)
    assert decoder.pending is pending


def test_an_event_is_given_as_soon_as_it_is_whole() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == [Event(b"a")]  # no need to wait for an LF that may never come
    assert decoder.feed(b"\ndata: b\n\n") == [Event(b"b")]


def feed_often(decoder: Decoder, chunk: bytes, times: int) -> None:
    for _ in range(times):
        decoder.feed(chunk)


@pytest.mark.parametrize("size", [1024, 65_536, 2**26])
def test_a_line_without_an_end_is_refused_soon(size: int) -> None:
    chunk = b"x" * size
    decoder = Decoder()
    decoder.feed(b"data: ")
    began = time.thread_time()  # of this thread: a busy machine does not count
    with pytest.raises(ValueError, match=str(MAX_LINE)):
        feed_often(decoder, chunk, 64 * 2**20 // size)
    assert time.thread_time() - began < 2.0


def test_a_line_within_one_chunk_has_the_limit_of_an_event() -> None:
    with pytest.raises(ValueError, match="over"):
        decode([b"data: " + b"x" * (64 * 2**20) + b"\n\n"])


def test_an_event_of_many_lines_has_a_limit() -> None:
    decoder = Decoder()
    line = b"data: " + b"x" * 2**20 + b"\n"
    with pytest.raises(ValueError, match=str(MAX_EVENT)):
        feed_often(decoder, line, 64)


def test_empty_data_lines_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100_000)
    decoder = Decoder()
    with pytest.raises(ValueError, match="over 100000"):
        feed_often(decoder, b"data\n" * 1_000, 64)


def test_a_comment_has_the_limit_of_a_line() -> None:
    decoder = Decoder()
    with pytest.raises(ValueError, match="over"):
        feed_often(decoder, b":" + b"x" * 2**20, 64)


def test_many_events_never_add_up_to_the_limit() -> None:
    decoder = Decoder()
    event = b"data: " + b"x" * 2**19 + b"\n\n"
    assert sum(len(decoder.feed(event)) for _ in range(64)) == 64


def test_a_large_event_below_the_limits_passes() -> None:
    text = b"x" * (MAX_LINE - 100)
    (event,) = decode([b"data: ", text[:1000], text[1000:], b"\n", b"\n"])
    assert event.data == text


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    gc.disable()  # the collector walks all that the other tests have left, the more often the more events there are
    try:
        for _ in range(3):
            began = time.process_time()
            work()
            best = min(best, time.process_time() - began)
    finally:
        gc.enable()
    return best


def one_line_in_blocks(size: int) -> list[bytes]:
    return [b"data: ", *[b"x" * 64] * (size // 64), b"\n\n"]


def one_line_in_bytes(size: int) -> list[bytes]:
    text = b"data: " + b"x" * size + b"\n\n"
    return [text[place : place + 1] for place in range(len(text))]


def events_in_bytes(size: int) -> list[bytes]:
    text = b"data: {}\r\n\r\n" * (size // 12)
    return [text[place : place + 1] for place in range(len(text))]


def many_events(size: int) -> list[bytes]:
    return [b"data: {}\n\n" * (size // 10)]


def many_lines(size: int) -> list[bytes]:
    return [b"data: x\n" * (size // 8) + b"\n"]


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (one_line_in_blocks, 3_000_000),
        (one_line_in_bytes, 60_000),
        (events_in_bytes, 60_000),
        (many_events, 500_000),
        (many_lines, 400_000),
    ],
)
def test_twice_the_input_takes_about_twice_the_time(make: Callable[[int], list[bytes]], size: int) -> None:
    small, large = make(size), make(2 * size)
    for _ in range(4):  # another process on the machine may spoil a measurement, not four in a row
        ratio = (seconds(lambda: decode(large)) + 1e-3) / (seconds(lambda: decode(small)) + 1e-3)
        if ratio <= 2.6:
            return
    pytest.fail(f"twice the input took {ratio:.1f} times the time")


# --- what servers send beside the format ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 10**6])
def test_an_announced_end_needs_no_empty_line(size: int) -> None:
    for tail in (b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n", b"data: [DONE] \r", b"event: x\ndata: [DONE]"):
        text = b'data: {"a": 1}\n\n' + tail
        decoder = Decoder()
        events = [event for at in range(0, len(text), size) for event in decoder.feed(text[at : at + size])]
        events += decoder.end()
        assert [event.data.strip() for event in events] == [b'{"a": 1}', b"[DONE]"], tail
        assert not decoder.pending


def test_the_end_of_the_body_completes_nothing_else() -> None:
    for tail in (
        b'data: {"a": 1}',
        b'data: {"a": 1}\n',
        b"data: [DON",
        b"data",
        b": bye",
        b"event: x\n",
        b"data: x[DONE]",
    ):
        decoder = Decoder()
        assert decoder.feed(tail) + decoder.end() == [], tail


ALIVE: list[tuple[bytes, str]] = [
    *((word, "") for word in (b"", b"  ", b":", b": keepalive", b":keep-alive", b": a comment\nin two lines")),
    *((word, "") for word in (b"ping", b"PING", b"pong", b"[PING]", b"ping 12", b"keepalive", b"keep-alive", b"null")),
    *((word, "") for word in (b"keep alive", b"KEEP_ALIVE", b"heartbeat", b"heart-beat", b"hb", b"noop", b"<ping>")),
    *((date, "") for date in (b"2026-11-25 10:00:00.123", b"2026-11-25T10:00:00Z", b"2026-11-25T10:00:00.1+01:00")),
    *((date, "") for date in (b"Wed, 25 Nov 2026 10:00:00 GMT", b"1795600800", b"1795600800123", b"1795600800.25")),
    *((b"2026-11-25 10:00:00", kind) for kind in ("ping", "keepalive", "keep-alive", "heartbeat", "PING")),
    *((data, "ping") for data in (b"{}", b'{"type": "ping"}', b'"x"', b"any words")),
]
PIECES: list[tuple[bytes, str]] = [
    *((data, "") for data in (b"{}", b'{"type": "ping"}', b'"ping"', b'"2026-11-25"', b"[DONE]", b"[1]", b"[]")),
    *((data, "") for data in (b"3", b"true", b"no json", b"pinging", b"ping the host", b"alive and well", b"2026")),
    *((data, "message") for data in (b"{}", b'"a"', b"word")),
    *((data, "error") for data in (b"ping", b"null", b": x", b"")),
]


def test_a_keep_alive_in_any_form_is_no_piece_of_the_answer() -> None:
    assert [one for one in ALIVE if not sse.is_keep_alive(Event(*one))] == []


def test_what_may_be_a_piece_of_the_answer_is_no_keep_alive() -> None:
    assert [one for one in PIECES if sse.is_keep_alive(Event(*one))] == []


def test_a_hostile_event_is_told_in_no_time() -> None:
    began = time.perf_counter()
    for data in (b"2026-11-25 10:00:" + b"0" * 10**6, b"ping" + b" " * 10**6 + b"x", b"<" * 10**6, b"1" * 10**6):
        sse.is_keep_alive(Event(data))
    assert time.perf_counter() - began < 2


TYPES = ["", "text/plain; charset=utf-8", "application/json", "application/octet-stream", "application/x-ndjson"]
TYPES += ["text/event-stream", "Text/Event-Stream; charset=utf-8", "application/json, text/event-stream"]


@pytest.mark.parametrize("content_type", TYPES)
def test_the_first_bytes_say_whether_a_body_is_an_event_stream(content_type: str) -> None:
    events = [
        b"data: x",
        b"data:{",
        b": hello",
        b":",
        b"event: x",
        b"id: 1",
        b"retry: 5",
        b"\n\r\n data:",
        b"\xef\xbb\xbfdata:",
    ]
    whole = [b"{", b'{"data": 1}', b"[1", b'"data: x"', b"<html>", b'\n {"a"', b"<!doctype"]
    assert [sse.is_event_stream(content_type, start) for start in events] == [True] * len(events)
    assert [sse.is_event_stream(content_type, start) for start in whole] == [False] * len(whole)
    typed = content_type.lower().startswith("text/event-stream")
    for start in (b"", b"d", b"dat", b"event", b"\n", b"i"):  # not known yet, where the type does not say it
        assert sse.is_event_stream(content_type, start) is (True if typed else None)
    for start in (b"dog", b"datum", b"hello", b"5", b"\n" * 2000):
        assert sse.is_event_stream(content_type, start) is typed
