"""Ctrl-C at any place of plain code: no lock stays held, no permit and no socket is lost, and the next call works.

Python runs a signal's handler where a function begins, where a call has returned and where a loop goes back (its "eval
breaker"). Here a profile function raises KeyboardInterrupt at the n-th beginning or return within dbllm's code, for
every n. Nothing comes between the entering of `with lock:` and its body, or between the body and the leaving: there is
no such place. A trace function that raises at a line can do that, and leaves the lock held; the interpreter cannot.
After `lock.acquire()` there is one, before any `try:` that follows.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from reliability.test_cancel_sockets import open_sockets
from support.loopback import STREAM_HEAD, Peer, frame
from support.modes import backend_of, permits
from support.samples import HELLO

import dbllm

OURS = str(Path(dbllm.__file__).parent)
STEP = 1 if os.environ.get("DBLLM_LONG") else 3  # every place, or every third


class Interrupt:
    """Raises at the n-th place in dbllm's code at which this thread may be interrupted; counts them."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.where = at, 0, ""

    def __enter__(self) -> Interrupt:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and frame.f_code.co_flags & (CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR):
            return  # a step of its caller's, and no call
        if event in ("call", "c_return", "return") and frame.f_code.co_filename.startswith(OURS):
            self.count += 1
            if self.count == self.at:
                sys.setprofile(None)
                what = f"{event} {getattr(argument, '__name__', '')}"
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name} {what}"
                raise KeyboardInterrupt


def answering(peer: Peer) -> None:
    while request := peer.request():
        if "/unended/" in request.line:
            peer.send(STREAM_HEAD + frame(HELLO[0]))
            peer.wait_gone()
        elif "event-stream" in request.headers["accept"]:
            peer.send(STREAM_HEAD + b"".join(frame(event) for event in HELLO) + b"0\r\n\r\n")
        else:
            peer.answer({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})


def chat(client: dbllm.Client) -> None:
    client.endpoint("m").chat("x")


def stream(client: dbllm.Client) -> None:
    with client.endpoint("m").stream_chat("x") as opened:
        next(opened)
        opened.final()


def left_early(client: dbllm.Client) -> None:
    with client.endpoint("unended").stream_chat("x") as opened:
        next(opened)


def complete(client: dbllm.Client) -> None:
    client.endpoint("m").complete("x")  # it looks the task up first, under a lock


def locked(client: dbllm.Client) -> list[str]:
    """Names of the locks that somebody holds."""
    contexts = backend_of(client)._contexts.values()
    held = ["the limiter's" for context in contexts if is_held(context.limiter)]
    named = [(name, lock) for context in contexts for name, lock in context.locks.items()]
    return held + [name for name, lock in named if lock.in_use or is_held(lock)]


def is_held(limiter: Any) -> bool:
    """Whether a thread is within it; of a lock by name, whether anybody holds it."""
    free: list[bool] = []

    def attempt() -> None:
        free.append(limiter._lock.acquire(timeout=1))
        if free[0]:
            limiter._lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return not free[0]


def works(client: dbllm.Client) -> bool:
    """Whether a call ends; what is stuck stays in its thread."""
    ends: list[bool] = []

    def call() -> None:
        chat(client)
        ends.append(True)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    return bool(ends)


@pytest.mark.parametrize("verb", [chat, stream, left_early, complete])
@pytest.mark.parametrize("engine", ["h11", "httpx"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # of coroutines that were interrupted before they began
def test_an_interrupt_at_any_place_leaves_nothing(
    serve: Any, verb: Callable[[dbllm.Client], None], engine: str, warm: bool
) -> None:
    server = serve(answering)
    wrong: list[str] = []
    with dbllm.Client(server.host, "t", engine=engine) as client:
        chat(client)  # what is loaded late is loaded now
        verb(client)
    place = 1
    gc.collect()
    gc.freeze()  # what is there already is not looked at again and again
    while True:
        before = open_sockets()
        with dbllm.Client(server.host, "t", engine=engine, max_connections=1, timeout=3) as client:
            if warm:
                chat(client)
            interrupt = Interrupt(place)
            try:
                with interrupt:
                    verb(client)
            except KeyboardInterrupt:
                pass
            if held := locked(client):
                wrong.append(f"{place} {interrupt.where}: locks {held}")
            if permits(client):
                wrong.append(f"{place} {interrupt.where}: {permits(client)} permits")
            elif not works(client):
                wrong.append(f"{place} {interrupt.where}: the next call hangs")
        server_ends(server)
        if open_sockets() > before:
            gc.collect()
            wrong.append(f"{place} {interrupt.where}: {open_sockets() - before} sockets")
        if interrupt.count < place:
            break
        place += STEP
    print(f"{verb.__name__}, {engine}, {'warm' if warm else 'new'}: {interrupt.count} places")
    assert not wrong, "\n".join(wrong)


def server_ends(server: Any) -> None:
    """Wait until the server has closed its ends, which are in this process as well."""
    for peer in server.peers:
        peer.gone.wait(5)
    for thread in server._threads[1:]:
        thread.join(5)
