"""The sync client behind the async one's names, so that one test body serves all modes (the fixture `mode`).

In a "sync" run the real `Client`, `Endpoint`, `DriverApp` and `Stream` do the work; the adapters only put `async` in
front of their methods. The body is then run by one `send(None)`: if anything in it suspends, the test fails.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import trio

import dbllm

COLOURS = ("asyncio", "trio", "sync")


def run(mode: str, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a test's body in one mode."""
    if mode == "asyncio":
        return asyncio.run(body())
    if mode == "trio":
        return trio.run(body)
    coroutine = body()
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("the body waits for an event loop, so it cannot run in plain code")


class Plain:
    """A sync object with async methods."""

    _makers = frozenset({"endpoint", "driver_app", "agent", "run", "events", "with_options"})
    _areas = frozenset({"endpoints", "secrets", "model_services", "model_providers"})
    _at_once = frozenset({"stats"})  # methods that neither mode awaits

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __repr__(self) -> str:
        return repr(self.plain)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, "close" if name == "aclose" else name)
        if name in self._areas:
            return Plain(found)
        if not callable(found) or name in self._at_once or name.startswith("_"):
            return found
        if name in self._makers or name.startswith("stream_"):
            return lambda *args, **options: Plain(found(*args, **options))

        async def verb(*args: Any, **options: Any) -> Any:
            made = found(*args, **options)
            return Plain(made) if isinstance(made, dbllm.Run) else made

        return verb

    async def __aenter__(self) -> Plain:
        entered = self.plain.__enter__()
        assert entered is self.plain
        return self

    async def __aexit__(self, *error: object) -> None:
        self.plain.__exit__(*error)

    def __aiter__(self) -> Plain:
        iter(self.plain)
        return self

    async def __anext__(self) -> Any:
        chunk = next(self.plain, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk


async def together(mode: str, thunks: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Run all calls at once (tasks, or threads in plain code): results in order, exceptions as values."""
    results: list[Any] = [None] * len(thunks)

    async def one(place: int) -> None:
        try:
            results[place] = await thunks[place]()
        except Exception as error:
            results[place] = error

    if mode == "sync":
        bodies = [(lambda place=place: one(place)) for place in range(len(thunks))]
        threads = [threading.Thread(target=run, args=("sync", body), daemon=True) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
    async with anyio.create_task_group() as group:
        for place in range(len(thunks)):
            group.start_soon(one, place)
    return results


async def waited(mode: str, blocking: Callable[..., Any], *args: Any) -> Any:
    """Call a function that blocks (a wait for the server), while the loop goes on."""
    if mode == "sync":
        return blocking(*args)
    return await anyio.to_thread.run_sync(blocking, *args)


def backend_of(client: Any) -> Any:
    """The backend of a client of either mode."""
    core = getattr(client, "plain", client)
    return getattr(core, "_core", core)._transport.backend


def permits(client: Any) -> int:
    """How many connections the client's calls hold, in all its event loops and processes."""
    return sum(context.limiter.in_use for context in backend_of(client)._contexts.values())


def idle(client: Any) -> int:
    """How many idle connections the client has, in all its event loops and processes."""
    return sum(len(pool._idle) for context in backend_of(client)._contexts.values() for pool in context.pools.values())


class Clock:
    """A clock that only waits move on; it records them."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.waits: list[float] = []

    def on(self, client: Any) -> Any:
        """Use this clock in a client that has made no call yet."""
        backend = backend_of(client)
        backend.clock, backend.wall_clock, backend.sleep = (
            (lambda: self.time),
            (lambda: 1_700_000_000.0 + self.time),
            self.sleep,
        )
        return client

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds


class Steps:
    """Runs a coroutine and counts its suspensions; at suspension `at` it acts on the coroutine first."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], at: int = 0, then: Callable[[], None] | None = None
    ) -> None:
        self.coroutine, self.at, self.then = coroutine, at, then
        self.count = 0

    def __await__(self) -> Any:
        try:
            trap = self.coroutine.send(None)
            while True:
                self.count += 1
                if self.count == self.at and self.then is not None:
                    self.then()
                try:
                    sent = yield trap
                except BaseException as error:
                    trap = self.coroutine.throw(error)
                else:
                    trap = self.coroutine.send(sent)
        except StopIteration as done:
            return done.value


@contextmanager
def in_thread(function: Callable[[], Any]) -> Any:
    """Run something beside the block, and wait for its end when the block ends."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(10)
