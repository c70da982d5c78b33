"""Many calls at once against a fault server, each with a text of its own; what came of every one of them is counted.

    python load.py '{"host": …, "mode": "asyncio", "engine": "h11", "calls": 1000, "concurrency": 256}'

It prints its tally as JSON. One call in ten is a stream, one asks for embeddings, the others are chats.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import trio

from dbllm import APIError, AsyncClient, Client, Retry
from dbllm._transport.retry import classify
from dbllm.testing import FaultName, ServerReport, fault_server, take_census
from dbllm.testing.model_answers import vector_of

SAMPLE_EVERY = 2_000  # calls


@dataclass
class Load:
    """What is called, and how.

    Attributes:
        mode: "asyncio", "uvloop", "trio" or "plain" (threads).
        engine: "h11", "httptools" or "httpx".
        calls: how many, if `seconds` is 0.
        seconds: how long, if more than 0.
        cancelled: share of the calls that are cancelled somewhere (in event loops only).
    """

    host: str
    mode: str = "asyncio"
    engine: str = "h11"
    calls: int = 1000
    concurrency: int = 256
    attempts: int = 6
    backoff: float = 0.05
    timeout: float = 60.0
    seconds: float = 0.0
    cancelled: float = 0.0
    name: str = "call"


@dataclass
class Tally:
    """What came of the calls.

    Attributes:
        begun, ended: calls; the difference is what got lost.
        succeeded: with the answer to what was asked.
        crossed: with an answer to something else.
        twice: calls that ended more than once.
        failed: type and class of a failure → how many ended with it.
        untyped: errors that are none of dbllm's.
        attempts: requests, by the client's own count.
        samples: (calls, MiB of memory) now and then.
        left: what is still open at the end.
    """

    begun: int = 0
    ended: int = 0
    succeeded: int = 0
    crossed: int = 0
    twice: int = 0
    cancelled: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    untyped: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    seconds: float = 0.0
    samples: list[tuple[int, float]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen = bytearray()  # one byte for each call: a set of numbers would be the growth that is looked for
        self._lock = threading.Lock()

    def end(self, number: int, came: Any = None, wanted: Any = None, error: Exception | None = None) -> None:
        """Note how a call ended."""
        with self._lock:
            self.ended += 1
            self._seen.extend(bytes(max(0, number + 1 - len(self._seen))))
            self.twice += self._seen[number]
            self._seen[number] = 1
            if isinstance(error, APIError):
                kind = f"{type(error).__name__}, {classify(error, 'POST')}"
                self.failed[kind] = self.failed.get(kind, 0) + 1
            elif error is not None:
                self.untyped[repr(error)[:200]] = self.untyped.get(repr(error)[:200], 0) + 1
            elif came == wanted:
                self.succeeded += 1
            else:
                self.crossed += 1
            if self.ended % SAMPLE_EVERY == 0:
                self.samples.append((self.ended, memory()))


def memory() -> float:
    """MiB that this process has in memory; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def numbers(load: Load, tally: Tally) -> Iterator[int]:
    until = time.monotonic() + load.seconds
    number = 0
    while number < load.calls if not load.seconds else time.monotonic() < until:
        tally.begun += 1
        yield number
        number += 1


async def one_call(client: Any, load: Load, tally: Tally, number: int) -> None:
    text = f"{load.name} {number}"
    endpoint = client.endpoint("m")
    came: Any = None
    wanted: Any = text
    draw = random.random()
    scope = anyio.move_on_after(random.random() * 0.05) if draw < load.cancelled else nullcontext()
    try:
        with scope:
            if number % 10 == 0:
                async with endpoint.stream_chat(text) as stream:
                    came = (await stream.final()).text
            elif number % 10 == 1:
                wanted = [[vector_of(text)], [vector_of(text + "b")]]
                came = (await endpoint.embed([text, text + "b"])).vectors
            else:
                came = (await endpoint.chat(text)).text
        if scope is not None and getattr(scope, "cancelled_caught", False):
            tally.cancelled += 1
            wanted = came
        tally.end(number, came, wanted)
    except Exception as error:
        tally.end(number, error=error)


def one_plain_call(client: Any, load: Load, tally: Tally, number: int) -> None:
    text = f"{load.name} {number}"
    endpoint = client.endpoint("m")
    wanted: Any = text
    try:
        if number % 10 == 0:
            with endpoint.stream_chat(text) as stream:
                came: Any = stream.final().text
        elif number % 10 == 1:
            wanted = [[vector_of(text)], [vector_of(text + "b")]]
            came = endpoint.embed([text, text + "b"]).vectors
        else:
            came = endpoint.chat(text).text
        tally.end(number, came, wanted)
    except Exception as error:
        tally.end(number, error=error)


def options(load: Load) -> dict[str, Any]:
    retry = Retry(attempts=load.attempts, backoff=load.backoff)
    return {"engine": load.engine, "max_connections": load.concurrency, "retry": retry, "timeout": load.timeout}


async def in_loop(load: Load, tally: Tally) -> None:
    before = take_census()
    source = numbers(load, tally)
    async with AsyncClient(load.host, "token", **options(load)) as client:

        async def work() -> None:
            for number in source:
                await one_call(client, load, tally, number)

        async with anyio.create_task_group() as group:
            for _ in range(load.concurrency):
                group.start_soon(work)
        finish(client, tally)
    turns = 0
    while (left := take_census().leaked(before)) and turns < 100:
        await anyio.sleep(0.02)
        turns += 1
    tally.left += left


def in_threads(load: Load, tally: Tally) -> None:
    before = take_census()
    source, lock = numbers(load, tally), threading.Lock()
    with Client(load.host, "token", **options(load)) as client:

        def work() -> None:
            while True:
                with lock:
                    number = next(source, None)
                if number is None:
                    return
                one_plain_call(client, load, tally, number)

        threads = [threading.Thread(target=work) for _ in range(min(load.concurrency, 64))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        finish(client, tally)
    tally.left += take_census().leaked(before)


def finish(client: Any, tally: Tally) -> None:
    stats = client.stats()
    tally.attempts = stats.attempts
    if stats.connections_in_use or stats.waiting:
        tally.left.append(f"connections in use: {stats.connections_in_use}, calls that wait: {stats.waiting}")


def run(load: Load) -> Tally:
    tally, began = Tally(), time.monotonic()
    if load.mode == "plain":
        in_threads(load, tally)
    elif load.mode == "trio":
        trio.run(in_loop, load, tally)
    elif load.mode == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(in_loop(load, tally))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
    else:
        asyncio.run(in_loop(load, tally))
    tally.seconds = time.monotonic() - began
    return tally


def run_load(mix: Mapping[FaultName, float], seed: int, **load: Any) -> tuple[dict[str, Any], ServerReport]:
    """The tally of a load in a process of its own, and what the server saw."""
    with fault_server(mix=mix, seed=seed, latency=0.002, process=True) as server:
        command = [sys.executable, "-W", "error", __file__]
        settings = json.dumps({"host": server.host, "name": f"seed {seed}", **load})
        done = subprocess.run([*command, settings], capture_output=True, timeout=3600, check=False)
        assert done.returncode == 0, done.stderr.decode()[-4000:]
        assert not done.stderr, done.stderr.decode()[-4000:]
        return json.loads(done.stdout), server.report()


if __name__ == "__main__":
    logging.getLogger("dbllm.retry").setLevel("ERROR")  # of thousands of retries, each would be a line
    gc.collect()
    print(json.dumps(asdict(run(Load(**json.loads(sys.argv[1]))))))
