"""Whatever a server sends: an answer or an error of dbllm's, soon. Whole answers are changed at random, by seed."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from typing import Any

import pytest
from reliability.figures import record
from reliability.wire import ENGINES, SEEDS, Script, answer, cut, mutated, scripted

import dbllm
from dbllm._protocol import responses

LONG = bool(os.environ.get("DBLLM_LONG"))
INPUTS = 1_000_000 if LONG else 20_000  # for each engine
SEED = int(os.environ.get("DBLLM_SEED", "15"))
MOST_SECONDS = 2.0  # of CPU for one answer of some kB; a stall that grows with the square of its size takes longer


@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_changed_answer_is_an_answer_or_an_error_of_dbllms(engine: str) -> None:
    pytest.importorskip("httptools" if engine == "httptools" else "httpx")
    draw, script = random.Random(f"{SEED} {engine}"), Script()
    ends: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    slowest, began = 0.0, time.monotonic()
    with scripted(engine, script) as client:
        for number in range(INPUTS):
            verb, status, content_type, body = draw.choice(SEEDS)
            if draw.randrange(2):  # in a frame that is right
                body = mutated(body, draw)
                whole = answer(draw.choice((status, 200, 500)), content_type, body, draw)
            else:
                whole = mutated(answer(status, content_type, body, draw), draw)
            script.load(cut(whole, draw))
            start = time.thread_time()
            try:
                verb(client)
                ends["a value"] += 1
            except dbllm.DbllmError as error:
                ends[type(error).__name__] += 1
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)
                place = f"{type(error).__name__}: {error!s:.80} at {frames[-1].filename}:{frames[-1].lineno}"
                if not wrong[place]:
                    print(f"input {number}: {verb.__name__} {whole[:3000]!r}", file=sys.stderr)
                    traceback.print_exception(error)
                wrong[place] += 1
            slowest = max(slowest, time.thread_time() - start)
            if LONG and number % 100_000 == 99_999:
                print(f"{engine}: {number + 1} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    record("fuzz", engine, inputs=INPUTS, untyped=sum(wrong.values()), slowest=round(slowest, 3), ends=dict(ends))
    assert not wrong
    assert slowest < MOST_SECONDS
    assert ends["a value"] > INPUTS / 100  # changes that go deep are among them


def too_deep(*_: object, **__: object) -> Any:
    raise RecursionError("maximum recursion depth exceeded")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_decoder_that_gives_up_is_an_error_of_dbllms(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own, from 3.12 on, at a depth that depends on the thread."""
    pytest.importorskip("httptools" if engine == "httptools" else "httpx")
    draw, script = random.Random(SEED), Script()
    with scripted(engine, script) as client, monkeypatch.context() as patch:
        patch.setattr(json, "loads", too_deep)
        for verb, status, content_type, body in SEEDS:
            for _ in range(20):
                script.load([answer(status, content_type, mutated(body, draw), draw)])
                try:
                    verb(client)
                except dbllm.DbllmError:
                    pass


def test_without_the_bound_of_depth_a_nested_error_is_untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = b'{"error":' * 20_000 + b"1" + b"}" * 20_000
    script = Script()

    def unbounded(data: bytes | str) -> Any:  # what a decoder without a limit of its own gives, as Python 3.12's may
        value: Any = 1
        for _ in range(20_000):
            value = {"error": value}
        return value

    with scripted("h11", script) as client:
        script.load([b"HTTP/1.1 500 X\r\ncontent-length: %d\r\n\r\n%s" % (len(nested), nested)])
        with pytest.raises(dbllm.InternalServerError):
            client.endpoint("m").chat("x")
        script.load([b"HTTP/1.1 500 X\r\ncontent-length: 300\r\n\r\n" + b'{"a":1}'.ljust(300)])
        monkeypatch.setattr(responses, "bounded_json", unbounded)
        with pytest.raises(RecursionError):
            client.endpoint("m").chat("x")
