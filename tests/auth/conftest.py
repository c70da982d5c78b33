"""What the tests of credentials share: an empty machine, a light workspace with OAuth, and one body run three ways."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import support.light as light_module
from support.light import PRINCIPAL, SECRET, Light
from support.modes import run

import dbllm
from dbllm._auth.refresh import ExpiringHeaders
from dbllm.errors import APIConnectionError

ME = "/api/2.0/preview/scim/v2/Me"
WAYS = ("asyncio", "trio", "sync")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is configured on the machine the tests run on; the home folder is this one."""
    for name in list(os.environ):
        if name.startswith(("DATABRICKS_", "ARM_", "GOOGLE_", "IS_IN_", "SSL_CERT_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no databricks, no az
    return home


@pytest.fixture
def light() -> Iterator[Callable[..., Light]]:
    """Starts light workspaces."""
    started: list[Light] = []

    def start(**options: Any) -> Light:
        started.append(Light(**options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


class Apart:
    """A light workspace in a process of its own: what it does holds up nobody here."""

    def __init__(self, token_seconds: float, delay: float) -> None:
        command = [sys.executable, light_module.__file__, str(token_seconds), str(delay)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = json.loads(self._line())
        self.host, self.token = said["host"], said["token"]
        self.principal = {"host": self.host, "client_id": PRINCIPAL, "client_secret": SECRET}
        self.count = self.peak = 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def stop(self) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            said = json.loads(self._line())
            self.count, self.peak = said["count"], said["peak"]
            self._process.stdout.close()
            self._process.wait(10)


@pytest.fixture
def apart() -> Iterator[Callable[..., Apart]]:
    """Starts light workspaces in processes of their own."""
    started: list[Apart] = []

    def start(**options: Any) -> Apart:
        started.append(Apart(**options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


class Plain:
    """The sync client under the async one's names."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __getattr__(self, name: str) -> Any:
        async def verb(*args: Any, **options: Any) -> Any:
            return getattr(self.plain, "close" if name == "aclose" else name)(*args, **options)

        return verb if callable(getattr(dbllm.AsyncClient, name, None)) else getattr(self.plain, name)

    async def __aenter__(self) -> Plain:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.plain.close()


class ConnectionSettings:
    """One of three ways to run a body that is written once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def client(self, *args: Any, **options: Any) -> Any:
        if self.name == "sync":
            return Plain(dbllm.Client(*args, **options))
        return dbllm.AsyncClient(*args, **options)

    def run(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return run(self.name, body)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> ConnectionSettings:
    return ConnectionSettings(request.param)


class FakeBackend:
    """A backend without a network whose clock stands still; its lock is plain code's."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.held = threading.Lock()

    def clock(self) -> float:
        return self.time

    def wall_clock(self) -> float:
        return 1_700_000_000.0 + self.time

    async def run_in_thread(self, function: Callable[[], Any]) -> Any:
        return function()

    async def within(self, seconds: float, waiting: Any, late: Exception) -> Any:
        return await waiting

    def lock(self, name: str, deadline: float, *, wait: bool = True) -> Any:
        return _Held(self.held, wait)


class _Held:
    def __init__(self, lock: threading.Lock, wait: bool) -> None:
        self._lock, self._wait = lock, wait
        self._ours = False

    async def __aenter__(self) -> bool:
        while not (ours := self._lock.acquire(blocking=False)) and self._wait:  # noqa: ASYNC110 - a test's lock
            await asyncio.sleep(0)
        self._ours = ours
        return ours

    async def __aexit__(self, *_: object) -> None:
        if self._ours:
            self._lock.release()


class Mint:
    """Hands out leases t1, t2 …; can be made to fail, and to stop half-way."""

    def __init__(self, life: float = 100.0) -> None:
        self.life, self.count, self.flying, self.peak = life, 0, 0, 0
        self.broken = False
        self.limiter: asyncio.Event | None = None

    async def __call__(self, backend: Any, deadline: float) -> ExpiringHeaders:
        self.count += 1
        self.flying += 1
        self.peak = max(self.peak, self.flying)
        try:
            if self.limiter is not None:
                await self.limiter.wait()
            if self.broken:
                raise APIConnectionError("broken", sent=False)
            return ExpiringHeaders({"authorization": f"Bearer t{self.count}"}, backend.clock() + self.life, self.life)
        finally:
            self.flying -= 1


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def mint() -> Callable[..., Mint]:
    return Mint


class Stalls:
    """How long an event loop was held up, at the most."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.worst, last = max(self.worst, now - last - 0.001), now


@pytest.fixture
def stalls() -> Callable[[], Stalls]:
    return Stalls
