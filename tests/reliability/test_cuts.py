"""Streams in any pieces, and cut at every byte: the same events, and never a silent success."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest
from reliability.wire import ENGINES, EVENTS, HELLO, TWO, Script, scripted, text_of

import dbllm
from dbllm._protocol.sse import Decoder

LONG = bool(os.environ.get("DBLLM_LONG"))
SEED = int(os.environ.get("DBLLM_SEED", "15"))
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def framed(body: bytes, how: str) -> bytes:
    """An answer whose end is told by its chunks or its length, or by the end of the connection alone."""
    if how == "length":
        return HEAD + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    if how == "close":
        return HEAD + b"\r\n" + body
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def of(index: int, text: str, end: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": end}]}


# What is asked for, the events, and the whole answer; the last two have no [DONE], as some servers.
STREAMS: dict[str, tuple[int, bytes, list[str]]] = {
    "one choice": (1, text_of(*HELLO), ["Hello"]),
    "two choices": (2, text_of(*TWO, "[DONE]"), ["p0p0", "p1p1"]),
    "one after the other": (2, text_of(of(0, "a"), of(0, "b", "stop"), of(1, "c"), of(1, "d", "stop")), ["ab", "cd"]),
    "no [DONE]": (1, text_of(of(0, "a"), of(0, "b", "stop")), ["ab"]),
}


def texts(client: dbllm.Client, choices: int) -> list[str]:
    several: dict[str, Any] = {"n": choices} if choices > 1 else {}
    with client.endpoint("m").stream_chat("x", **several) as stream:
        return [choice.message.text for choice in stream.final().choices]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["chunks", "length", "close"])
@pytest.mark.timeout(0)
def test_a_stream_that_is_cut_at_any_byte_is_whole_or_an_error(engine: str, how: str) -> None:
    pytest.importorskip("httptools" if engine == "httptools" else "httpx")
    script, cuts, wrong = Script(), 0, []
    with scripted(engine, script) as client:
        for name, (choices, events, whole) in STREAMS.items():
            data = framed(events, how)
            for at in range(0, len(data) + 1, 1 if LONG or how == "close" else 3):
                script.load([data[:at]] if at else [])
                cuts += 1
                try:
                    found = texts(client, choices)
                except dbllm.APIError as error:
                    partial = getattr(error, "partial_text", "")
                    if not whole[0].startswith(partial) and choices == 1:
                        wrong.append(f"{name}, cut at {at}: partial text {partial!r}")
                    if at == len(data):
                        wrong.append(f"{name}, whole: {error!r}")
                else:
                    if found != whole:
                        wrong.append(f"{name}, cut at {at}: {found}")
    print(f"{engine}, {how}: {cuts} cuts")
    assert not wrong


def test_a_stream_that_counts_as_whole_at_its_first_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule that each choice ends by itself."""
    from dbllm._inference.stream import AsyncStream

    monkeypatch.setattr(
        AsyncStream, "_complete", property(lambda self: self._done or any(self._received.choices.values()))
    )
    script = Script()
    choices, events, whole = STREAMS["one after the other"]
    data = framed(events, "close")
    found = set()
    with scripted("h11", script) as client:
        for at in range(len(data) - 200, len(data)):
            script.load([data[:at]])
            try:
                found.add(tuple(texts(client, choices)))
            except dbllm.APIError:
                pass
    assert found - {tuple(whole)}


# --- chunking ---------------------------------------------------------------------------------------------------------

ALPHABET = ["a", "é", "€", "😀", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85", "\\n", '"', " ", "data: x", ":"]


def recorded(draw: random.Random) -> tuple[bytes, list[tuple[bytes, str]]]:
    """A stream's bytes as a server may write them, and its events."""
    line = draw.choice(("\n", "\r", "\r\n"))
    written, events = draw.choice(("", "\ufeff")), []
    for _ in range(draw.randrange(1, 8)):
        written += draw.choice(("", f": {draw.choice(ALPHABET)}{line}", f"id: 1{line}", f"retry{line}"))
        kind = draw.choice(("", "", "message", "error"))
        written += f"event:{draw.choice(('', ' '))}{kind}{line}" if kind else ""
        lines = ["".join(draw.choices(ALPHABET, k=draw.randrange(1, 6))) for _ in range(draw.choice((1, 1, 3)))]
        written += "".join(f"data:{' ' if one[:1] == ' ' else draw.choice(('', ' '))}{one}{line}" for one in lines)
        written += line
        events.append(("\n".join(lines).encode(), kind))
    return written.encode(), events


def decoded(pieces: list[bytes]) -> list[tuple[bytes, str]]:
    decoder = Decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)] + decoder.end()
    return [(event.data, event.type) for event in events]


@pytest.mark.timeout(0)
def test_any_chunking_gives_the_same_events() -> None:
    draw, count = random.Random(SEED), 0
    for number in range(5000 if LONG else 500):
        data, events = recorded(draw)
        cuts = [[], list(range(1, len(data))), *([at] for at in range(1, len(data)))]
        cuts += [sorted(draw.choices(range(len(data)), k=draw.randrange(1, 9))) for _ in range(10)]
        for places in cuts:
            pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
            count += 1
            assert decoded(pieces) == events, f"stream {number}, cut at {places}: {data!r}"
    print(f"{count} chunkings")


@pytest.mark.parametrize("engine", ENGINES)
def test_any_chunking_of_an_answer_gives_the_same_answer(engine: str) -> None:
    pytest.importorskip("httptools" if engine == "httptools" else "httpx")
    draw, script = random.Random(SEED), Script()
    with scripted(engine, script) as client:
        for _, (choices, events, whole) in STREAMS.items():
            for how in ("chunks", "length", "close"):
                data = framed(events, how)
                for number in range(300 if LONG else 30):
                    places = sorted(draw.choices(range(1, len(data)), k=draw.randrange(1, 40)))
                    places = places if number else list(range(1, len(data)))
                    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]
                    script.load(pieces)
                    assert texts(client, choices) == whole, f"{how}, cut at {places}"


def test_the_events_of_a_response_too() -> None:
    script = Script()
    data = framed(text_of(*EVENTS), "chunks")
    with scripted("h11", script) as client:
        for size in (1, 2, 3, 7, 50):
            script.load([data[at : at + size] for at in range(0, len(data), size)])
            with client.endpoint("m").stream_respond("x") as stream:
                assert json.loads(stream.final().model_dump_json())["output"][-1]["type"] == "message"
