"""An event loop in a thread of its own, in which a server listens on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

Serve = Callable[[asyncio.Event, Callable[[int], None]], Awaitable[None]]
"""Serves until the event is set; calls the function with its port as soon as it listens."""


class LoopbackThread:
    """Runs a server beside the code that is tested.

    Args:
        serve: the server.
        name: of the thread.
    """

    def __init__(self, serve: Serve, name: str) -> None:
        self._serve, self._name = serve, name
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def start(self) -> int:
        """Start it; returns its port."""
        ready = threading.Event()
        ports: list[int] = []

        def listening(port: int) -> None:
            ports.append(port)
            ready.set()

        async def run() -> None:
            self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
            await self._serve(self._stop, listening)

        def run_to_end() -> None:
            try:
                asyncio.run(run())
            finally:
                ready.set()

        self._thread = threading.Thread(target=run_to_end, name=self._name, daemon=True)
        self._thread.start()
        ready.wait()
        if not ports:
            raise RuntimeError(f"the {self._name} cannot listen on 127.0.0.1; its thread's traceback says why")
        return ports[0]

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in its loop, soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine in its loop, and wait for the result."""
        if self._loop is None:
            work.close()
            raise RuntimeError(f"the {self._name} does not run")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End the server, and wait until it has ended."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()
        self._thread = self._loop = None
