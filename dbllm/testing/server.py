"""A server that fails as it is told to, by a seed: in front of a real server, or with small answers of its own.

    from dbllm.testing import SAFE_FAULTS, fault_server

    with fault_server(mix={"429": 0.2, "reset_in_body": 0.05}, seed=7) as server:
        client = Client(server.host, "any token")
        ...
    async with fault_server(upstream="http://127.0.0.1:8000", mix=SAFE_FAULTS) as server:
        ...
        print(server.report())

It speaks HTTP/1.1 on loopback alone; with a certificate of yours, over TLS.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

from dbllm.testing.connection import CONTROL, FaultConnection, LoopbackConnection
from dbllm.testing.fault_plans import FaultName, FaultPlan, Mix, check_mix, plan_request
from dbllm.testing.loopback import LoopbackThread

_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the server answers; see `fault_server`."""

    mix: Mix = field(default_factory=dict)
    seed: int = 0
    upstream: str | None = None
    latency: float = 0.0
    jitter: float = 0.0
    between: float = 0.0
    pause: float = 0.2
    stall: float = 2.0
    run: float = 0.3
    hint: float = 0.02
    certificate: str | None = None

    def __post_init__(self) -> None:
        check_mix(self.mix)
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type == "float" and not 0 <= value <= 3600:
                raise ValueError(f"{one.name} is in seconds, from 0 to 3600, got {value!r}")

    @property
    def delays(self) -> bool:
        """Whether an answer without a fault waits."""
        return bool(self.latency or self.jitter)


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What the server has seen since it started, or since `clear`.

    Attributes:
        requests: how many arrived.
        connections: how many were accepted.
        nonces: how many different requests there were (see `fault_plans`).
        executions: how many requests ran; the faults whose effect is "refused" run nothing.
        faults: fault → how many requests met it.
        ran_again: fault (or "none") → how often a request ran, met this fault, and was sent and run once more.
        most_executions: of one nonce.
        per_second: requests in each second, from the first on.
        flaws: errors of the server itself; empty if all is well.
    """

    requests: int
    connections: int
    nonces: int
    executions: int
    faults: Mapping[str, int]
    ran_again: Mapping[str, int]
    most_executions: int
    per_second: tuple[int, ...]
    flaws: tuple[str, ...]


class ServerState:
    """What the connections of one server share."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.connections: set[LoopbackConnection] = set()
        self.flaws: list[str] = []
        self.clear()

    def clear(self) -> None:
        self.accepted = 0
        self._planned: Counter[str] = Counter()
        self._history: dict[str, list[tuple[str, bool]]] = {}
        self._seconds: Counter[int] = Counter()

    def plan(self, nonce: str) -> FaultPlan:
        """What happens to the next request of a nonce."""
        self._planned[nonce] += 1
        return plan_request(self.settings.seed, nonce, self._planned[nonce], self.settings.mix)

    def count(self, nonce: str, fault: FaultName | None, ran: bool) -> None:
        """Note one request."""
        self._history.setdefault(nonce, []).append((fault or "none", ran))
        self._seconds[int(time.monotonic())] += 1

    def control(self, what: str, body: bytes) -> object:
        """Do what the owner of the server asks for."""
        if what == "/settings":
            self.settings = ServerSettings(**json.loads(body))
        elif what == "/clear":
            self.clear()
        elif what == "/history":
            return self._history.get(json.loads(body), [])
        elif what == "/report":
            return asdict(self.report())
        return None

    def report(self) -> ServerReport:
        histories = list(self._history.values())
        runs = [[fault for fault, ran in history if ran] for history in histories]
        first = min(self._seconds, default=0)
        return ServerReport(
            requests=sum(map(len, histories)),
            connections=self.accepted,
            nonces=len(histories),
            executions=sum(map(len, runs)),
            faults=dict(Counter(fault for history in histories for fault, _ in history if fault != "none")),
            ran_again=dict(Counter(fault for faults in runs for fault in faults[:-1])),
            most_executions=max(map(len, runs), default=0),
            per_second=tuple(self._seconds[second] for second in range(first, max(self._seconds, default=-1) + 1)),
            flaws=tuple(self.flaws),
        )


class FaultServer:
    """A running fault server; `fault_server` makes one.

    Attributes:
        settings: what it was made with, or what `change` has set.
    """

    def __init__(self, settings: ServerSettings, *, process: bool) -> None:
        self.settings = settings
        self._in_process = process
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: LoopbackThread | None = None

    @property
    def host(self) -> str:
        """The address for a client: "http://127.0.0.1:…", or https."""
        return f"http{'s' if self.settings.certificate else ''}://127.0.0.1:{self._port}"

    def change(self, **settings: Any) -> None:
        """Change settings of the running server, by the names that `fault_server` has.

        Raises:
            TypeError, ValueError: there is no such setting, or it cannot be.
        """
        self.settings = replace(self.settings, **settings)
        self._ask("/settings", asdict(self.settings))

    def report(self) -> ServerReport:
        """What the server has seen."""
        found: dict[str, Any] = self._ask("/report")
        return ServerReport(**{**found, "per_second": tuple(found["per_second"]), "flaws": tuple(found["flaws"])})

    def history(self, nonce: str) -> list[tuple[str, bool]]:
        """The requests of one nonce: which fault each met ("none" if none), and whether it ran."""
        return [(fault, ran) for fault, ran in self._ask("/history", nonce)]

    def clear(self) -> None:
        """Forget what was seen: reports begin anew, and so do the faults of each nonce."""
        self._ask("/clear")

    def __enter__(self) -> FaultServer:
        if self._in_process:
            program = f"from {__name__} import serve_as_a_process; serve_as_a_process()"
            command = [sys.executable, "-c", program, json.dumps(asdict(self.settings))]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._process.stdout is not None  # noqa: S101
            line = self._process.stdout.readline()
            if not line:
                self.close()
                raise RuntimeError("the fault server's process did not start; its standard error says why")
            self._port = int(line)
        else:
            self._thread = LoopbackThread(self._serve, "dbllm fault server")
            self._port = self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> FaultServer:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and all its connections."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()  # the process ends with its standard input
            self._process.wait()
            self._process = None
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    async def _serve(self, stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        await serve_until(stop, self.settings, listening)

    def _ask(self, what: str, body: object = None) -> Any:
        trusting = ssl.create_default_context() if self.settings.certificate else None
        connection: HTTPConnection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        if trusting is not None:  # our own server, whoever signed its certificate
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            connection = HTTPSConnection("127.0.0.1", self._port, timeout=60, context=trusting)
        try:
            connection.request("POST", CONTROL + what, json.dumps(body).encode())
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def fault_server(
    upstream: str | None = None,
    *,
    mix: Mapping[FaultName, float] | None = None,
    seed: int = 0,
    latency: float = 0.0,
    jitter: float = 0.0,
    between: float = 0.0,
    pause: float = 0.2,
    stall: float = 2.0,
    run: float = 0.3,
    hint: float = 0.02,
    certificate: str | None = None,
    process: bool = False,
) -> FaultServer:
    """A server whose faults come by a seed; enter it with `with` or `async with`.

    Args:
        upstream: base URL of the server that answers. Without one the fault server answers itself: chats, completions
            and responses repeat the prompt, embeddings are a number of the text, endpoints all exist.
        mix: fault → share of the requests, as `SAFE_FAULTS` and `ALL_FAULTS`; `FAULT_KINDS` tells what there is.
        seed: another one gives other requests the faults. The n-th request of one nonce (the header `x-nonce`, else
            the text of the prompt) always meets the same.
        latency, jitter: seconds before each answer; the second is drawn anew for each.
        between: seconds between the events of a stream.
        pause, stall, run, hint: seconds: of "late" and "drip"; of "stall" and "half_open"; before a connection ends
            without an answer; of the hint of "429_hint".
        certificate: path of a PEM file with a key and its certificates; the server speaks TLS then.
        process: serve in a process of its own instead of a thread, so that it does not compete for this one's lock.

    Raises:
        ValueError: the mix or a number cannot be.
    """
    settings = ServerSettings(mix or {}, seed, upstream, latency, jitter, between, pause, stall, run, hint, certificate)
    return FaultServer(settings, process=process)


async def serve_until(stop: asyncio.Event, settings: ServerSettings, listening: Callable[[int], None]) -> None:
    """Serve on a free port of loopback; `listening` is called with the port."""
    state = ServerState(settings)
    loop = asyncio.get_running_loop()
    security = None
    if settings.certificate is not None:
        security = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        security.load_cert_chain(settings.certificate)
    server = await loop.create_server(lambda: FaultConnection(state), "127.0.0.1", 0, ssl=security, backlog=_BACKLOG)
    listening(server.sockets[0].getsockname()[1])
    try:
        await stop.wait()
    finally:
        server.close()
        for connection in tuple(state.connections):
            connection.close(reset=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def serve_as_a_process() -> None:
    """The program of a server that has a process of its own; it ends with its standard input."""

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def wait_for_end() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait_for_end, daemon=True).start()
        settings = ServerSettings(**json.loads(sys.argv[1]))
        await serve_until(stop, settings, lambda port: print(port, flush=True))

    asyncio.run(serve())
