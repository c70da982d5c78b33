"""A clock that does not run: hours of backoff in no time.

clock = VirtualClock()
client = clock.drive(AsyncClient(server.host, "any token"))
...
assert clock.waits == [...]
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import anyio.lowlevel

ClientT = TypeVar("ClientT")


class VirtualClock:
    """Seconds that pass only where a client waits between attempts, or as the test says.

    Where several calls wait, the wait that ends first moves the clock, and the others go on waiting. Connections and
    answers take real time, in which this clock stands still.

    Attributes:
        seconds: the time on it.
        waits: how long each wait was, in the order in which they began.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.waits: list[float] = []
        self._ends: list[float] = []
        self._lock = threading.Lock()

    def drive(self, client: ClientT) -> ClientT:
        """Use this clock in a client, sync or async, that has made no call yet."""
        core: Any = getattr(client, "_core", client)
        backend = core._transport.backend
        backend.clock = lambda: self.seconds
        backend.wall_clock = lambda: 1_700_000_000.0 + self.seconds
        backend.sleep = self._sleep_in_loop if type(backend).name == "AsyncClient" else self._sleep
        return client

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self.seconds += seconds

    async def _sleep(self, seconds: float) -> None:
        with self._lock:
            self.waits.append(seconds)
            self.seconds += seconds

    async def _sleep_in_loop(self, seconds: float) -> None:
        end = self.seconds + seconds
        self.waits.append(seconds)
        self._ends.append(end)
        try:
            await anyio.lowlevel.checkpoint()  # the others that begin to wait now do so first
            while self.seconds < end:
                if min(self._ends) == end:
                    self.seconds = end
                await anyio.lowlevel.checkpoint()
        finally:
            self._ends.remove(end)
