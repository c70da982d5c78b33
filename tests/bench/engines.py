"""The candidates for the fast engine, side by side: what a call costs with each, and how each behaves.

`python tests/bench/engines.py [ROUNDS]` needs `pip install '.[fast]'` and the dependency group `engines`; it prints a
table and writes results/engines.md, whose last section is written by hand and stays. Each cell is a process of its own
with a time limit; client and server have a core each. Costs are CPU time with all threads, the lowest of the rounds;
compare ratios, for microseconds are this machine's.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from candidates import ENGINES, Make
from clients import side_by_side, used

RESULTS = HERE / "results" / "engines.md"
BY_HAND = "## What is chosen"
FAST = "dbllm, httptools (fast)"
NAME = "workspace.invalid"  # known to the proxy only
LIMIT = 60.0  # seconds for a cell
PATIENCE = 5.0  # seconds for what should happen at once
Places = Mapping[str, str]


# --- what a call costs ------------------------------------------------------------------------------------------------


def cost(make: Make, place: Places, host: str, concurrent: int, calls: int, kind: str = "chat", **options: Any) -> str:
    """CPU microseconds per call."""
    client = make(place[host], **{name: place[key] for name, key in options.items() if name != "loop"})
    endpoint = client.endpoint("bench")

    async def stream() -> None:
        async with endpoint.stream_chat("hello") as chunks:
            if len([chunk async for chunk in chunks]) != 500:
                raise ValueError("chunks are missing")

    call = stream if kind == "stream" else lambda: endpoint.chat("hello")

    async def play() -> float:
        await side_by_side(call, concurrent, 2 * concurrent)  # connections, imports, validators
        before = used()
        await side_by_side(call, concurrent, calls)
        spent = used() - before
        await client.aclose()
        return spent / calls * 1e6

    if options.get("loop") == "uvloop":
        import uvloop

        return str(uvloop.run(play()))
    return str(asyncio.run(play()))


COSTS: dict[str, dict[str, Any]] = {
    "chat, 1 at a time": {"host": "at once", "concurrent": 1, "calls": 300},
    "chat, 64 at a time": {"host": "delayed", "concurrent": 64, "calls": 1280},
    "chat, 256 at a time": {"host": "delayed", "concurrent": 256, "calls": 1536},
    "chat, 64 at a time, uvloop": {"host": "delayed", "concurrent": 64, "calls": 1280, "loop": "uvloop"},
    "chat, 64 at a time, TLS": {"host": "tls", "concurrent": 64, "calls": 1280, "ca": "ca"},
    "chat, 64 at a time, TLS through a CONNECT proxy": {
        "host": "named", "concurrent": 64, "calls": 1280, "ca": "ca", "proxy": "proxy"
    },
    "stream of 500 chunks": {"host": "at once", "concurrent": 1, "calls": 8, "kind": "stream"},
}  # fmt: skip


# --- how it behaves ---------------------------------------------------------------------------------------------------


def ask(place: Places, name: str, kind: str = "about") -> dict[str, int]:
    """What the server has seen of an endpoint; `go` opens its gate."""
    with urlopen(f"{place['faults']}/{kind}/{name}") as answer:
        return dict(json.load(answer))


async def until(settled: Callable[[], bool]) -> str:
    """After how many seconds something holds."""
    began = time.perf_counter()
    while not settled():
        if time.perf_counter() - began > PATIENCE:
            return f"not within {PATIENCE:.0f} s"
        await asyncio.sleep(0.005)
    return f"after {time.perf_counter() - began:.2f} s"


def told(error: BaseException) -> str:
    """An error in a cell."""
    said = re.sub(r"\(?https?://\S+|127\.0\.0\.1:\d+", "…", " ".join(str(error).split()))
    return f"{type(error).__name__}: {said if len(said) <= 110 else said[:109] + '…'}"


async def outcome(client: Any, name: str) -> str:
    """How one call ends, and after how many seconds if that is not at once."""
    began, said = time.perf_counter(), "works"
    try:
        await client.endpoint(name).chat("hello")
    except Exception as error:
        said = f"no: {told(error)}"
    seconds = time.perf_counter() - began
    return f"{said} (after {seconds:.2f} s)" if seconds > 0.5 else said


def tls_untrusted(make: Make, place: Places) -> str:
    """A certificate that nobody vouches for."""
    return asyncio.run(outcome(make(place["tls"], attempts=1), "bench"))


def proxied(make: Make, place: Places, explicit: bool = False, excepted: bool = False) -> str:
    """Whether a call goes through the proxy, which alone knows the host's name."""
    if not explicit:
        os.environ["HTTPS_PROXY"] = place["proxy"]
    if excepted:
        os.environ["NO_PROXY"] = NAME
    client = make(place["named"], ca=place["ca"], proxy=place["proxy"] if explicit else None, attempts=1)
    said = asyncio.run(outcome(client, "bench"))
    seen = ask(place, "proxy")["calls"] - int(place["tunnels"])
    return f"{'through the proxy' if seen else 'not through the proxy'}; {said}"


def cancelled(make: Make, place: Places) -> str:
    """64 calls that wait for an answer or are in the middle of one are cancelled."""

    async def play() -> str:
        client, names = make(place["faults"], attempts=1), [f"{kind}-{os.getpid()}" for kind in ("silent", "drip")]
        tasks = [asyncio.create_task(client.endpoint(name).chat("hello")) for name in names * 32]
        arrived = await until(lambda: sum(ask(place, name)["calls"] for name in names) == 64)
        if arrived.startswith("not"):
            return f"no: 64 calls were not under way {arrived}"
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = ", ".join(sorted({type(end).__name__ for end in ends}))
        closed = await until(lambda: not sum(ask(place, name)["under_way"] for name in names))
        left = sum(ask(place, name)["under_way"] for name in names)
        return (
            f"{kinds}; {64 - left} of 64 sockets closed, the last {closed}; next call: {await outcome(client, 'whole')}"
        )

    return asyncio.run(play())


def late(make: Make, place: Places, kind: str, total: float = 1.0, connect: float = 10.0) -> str:
    """A call with a time limit, to an endpoint of that kind."""
    return asyncio.run(outcome(make(place["faults"], total=total, connect=connect, attempts=1), kind))


def streamed(make: Make, place: Places) -> str:
    """The first chunk comes while the server holds the others back; a stream that is left is closed."""

    async def play() -> str:
        client, name = make(place["faults"], attempts=1), f"gated-{os.getpid()}"
        endpoint = client.endpoint(name)
        async with endpoint.stream_chat("hello") as chunks:
            await asyncio.wait_for(anext(aiter(chunks)), PATIENCE)
        closed = await until(lambda: not ask(place, name)["under_way"])
        async with endpoint.stream_chat("hello") as chunks:
            await asyncio.wait_for(anext(aiter(chunks)), PATIENCE)
            ask(place, name, "go")
            rest = len([chunk async for chunk in chunks])
        return f"first chunk at once, then {rest}; left early: closed {closed}"

    return asyncio.run(play())


def in_child(run: Callable[[], str]) -> str:
    """What a forked child says."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        signal.alarm(int(PATIENCE))  # ends it
        try:
            os.write(writing, run().encode())
        except BaseException as error:
            os.write(writing, told(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or f"no: hangs for {PATIENCE:.0f} s"


def forked(make: Make, place: Places) -> str:
    """A child made between two calls of its parent, while the parent's connection is kept alive."""

    async def play() -> str:
        client = make(place["at once"])
        await client.endpoint("bench").chat("hello")
        same = in_child(lambda: asyncio.run(outcome(client, "bench")))
        new = in_child(lambda: asyncio.run(outcome(make(place["at once"]), "bench")))
        return f"child: {same}; child with a client of its own: {new}; parent: {await outcome(client, 'bench')}"

    return asyncio.run(play())


def loops(make: Make, place: Places) -> str:
    """Two event loops, one after the other."""
    client = make(place["at once"])
    return f"{asyncio.run(outcome(client, 'bench'))}, then {asyncio.run(outcome(client, 'bench'))}"


def in_trio(make: Make, place: Places) -> str:
    """Under trio."""
    import trio

    return trio.run(outcome, make(place["at once"], attempts=1), "bench")


def threads(make: Make, place: Places) -> str:
    """Threads besides the main one, after 64 calls at once."""

    async def play(host: str) -> None:
        call = make(host).endpoint("bench").chat
        await side_by_side(lambda: call("hello"), 64, 64)

    counts = []
    for host in (place["delayed"], place["delayed"].replace("127.0.0.1", "localhost")):
        counts.append(
            in_child(lambda host=host: str(asyncio.run(play(host)) or len(os.listdir("/proc/self/task")) - 1))
        )
    return f"{counts[0]} to an address, {counts[1]} to a name"


def kept_alive(make: Make, place: Places, kind: str) -> str:
    """A second call, whose connection the server has closed or closes as it comes; with dbllm's own retries."""

    async def play() -> str:
        client, name = make(place["faults"]), f"{kind}-{os.getpid()}"
        await client.endpoint(name).chat("hello")
        await asyncio.sleep(0.2)
        return f"{await outcome(client, name)}; calls that reached the server: {ask(place, name)['calls']}"

    return asyncio.run(play())


def broken(make: Make, place: Places) -> str:
    """A server that takes each call and closes; with dbllm's own retries."""
    client, name = make(place["faults"]), f"broken-{os.getpid()}"
    return f"{asyncio.run(outcome(client, name))}; calls that reached the server: {ask(place, name)['calls']}"


BEHAVIOURS: dict[str, tuple[Callable[..., str], dict[str, Any]]] = {
    "TLS, a certificate nobody vouches for": (tls_untrusted, {}),
    "`proxy=`": (proxied, {"explicit": True}),
    "HTTPS_PROXY": (proxied, {}),
    "HTTPS_PROXY with the host in NO_PROXY (its name is known to the proxy only, so a call fails)": (
        proxied, {"excepted": True}
    ),
    "64 calls cancelled, 32 before their answer and 32 inside it": (cancelled, {}),
    "a server that never answers, time limit 1 s": (late, {"kind": "silent"}),
    "a server that drips a byte each 0.2 s, time limit 1 s": (late, {"kind": "drip"}),
    "an answer after 2 s; limits: 1 s to connect, 30 s in total": (late, {"kind": "slow", "total": 30.0, "connect": 1.0}),
    "a stream whose server holds the second chunk back; a stream that is left": (streamed, {}),
    "os.fork with a kept-alive connection": (forked, {}),
    "two `asyncio.run`, one client": (loops, {}),
    "trio": (in_trio, {}),
    "threads started": (threads, {}),
    "second call: its connection was closed meanwhile": (kept_alive, {"kind": "leaving"}),
    "second call: its connection is closed as it comes": (kept_alive, {"kind": "fickle"}),
    "a connection closed instead of an answer": (broken, {}),
}  # fmt: skip


# --- all cells --------------------------------------------------------------------------------------------------------


def play(engine: str, row: str, place: Places) -> str:
    """One cell, in this process."""
    make = ENGINES[engine][0]
    try:
        if row in COSTS:
            return cost(make, place, **COSTS[row])
        function, options = BEHAVIOURS[row]
        return function(make, place, **options)
    except Exception as error:
        return f"no: {told(error)}"


def cell(engine: str, row: str, place: Places, core: int) -> str:
    """One cell, in a process of its own."""
    env = {name: value for name, value in os.environ.items() if not re.search("PROXY|^DATABRICKS|^DBLLM", name.upper())}
    command = [sys.executable, __file__, "cell", engine, row, json.dumps({**place, "core": str(core)})]
    if row in BEHAVIOURS:
        command[-1] = json.dumps({**place, "core": str(core), "tunnels": str(ask(place, "proxy")["calls"])})
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"no: hangs (ended after {LIMIT:.0f} s)"
    lines = done.stdout.splitlines()
    return lines[-1] if lines else f"no: the process ended with {done.returncode}: {done.stderr[-100:]}"


def started(*command: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A server and its ports."""
    server = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().split()


def measured(rounds: int) -> dict[str, dict[str, str]]:
    """Row, engine, cell."""
    import trustme

    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, dict[str, str]] = {row: {} for row in (*COSTS, *BEHAVIOURS)}
    with tempfile.TemporaryDirectory() as folder:
        authority, ca, own = trustme.CA(), f"{folder}/ca.pem", f"{folder}/own.pem"
        authority.cert_pem.write_to_path(ca)
        authority.issue_cert("127.0.0.1", NAME).private_key_and_cert_chain_pem.write_to_path(own)
        fixed, (at_once, delayed) = started(str(HERE / "server.py"), str(cores[-1]))
        faulty, (tls, proxy, faults) = started(str(HERE / "faults.py"), str(cores[-1]), own)
        place = {"ca": ca, "tls": f"https://127.0.0.1:{tls}", "named": f"https://{NAME}:{tls}"}
        ports = {"at once": at_once, "delayed": delayed, "proxy": proxy, "faults": faults}
        place |= {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        try:
            for number in range(rounds):
                for row in COSTS:
                    for engine in ENGINES if number % 2 == 0 else list(ENGINES)[::-1]:
                        said, before = cell(engine, row, place, cores[0]), found[row].get(engine, "no")
                        better = before.startswith("no") or (not said.startswith("no") and float(said) < float(before))
                        found[row][engine] = said if better else before
                print(f"round {number + 1} done", file=sys.stderr)
            for row in BEHAVIOURS:
                found[row] = {engine: cell(engine, row, place, cores[0]) for engine in ENGINES}
                print(row, json.dumps(found[row], indent=1, ensure_ascii=False), file=sys.stderr)
        finally:
            for server in (fixed, faulty):
                server.kill()
                server.communicate()
    return found


def added(*packages: str) -> dict[str, float]:
    """The packages that pip installs for these, with what they need; MiB of each one's wheel."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"{package}=={metadata.version(package)}" for package in packages]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", folder]
        subprocess.run([*pip, *wanted], check=True, capture_output=True)
        return {file.name.partition("-")[0]: file.stat().st_size / 2**20 for file in Path(folder).iterdir()}


def weights() -> dict[str, dict[str, str]]:
    """What each engine adds to an installation, and the Pythons it is for."""
    own = added("anyio", "h11", "httpx", "pydantic", "tenacity")
    rows: dict[str, dict[str, str]] = {"packages beside dbllm's own, size of the wheels": {}, "Python": {}}
    for engine, (_, package) in ENGINES.items():
        more = {name: size for name, size in added(package).items() if name not in own} if package else {}
        rows["packages beside dbllm's own, size of the wheels"][engine] = f"{len(more)}, {sum(more.values()):.1f} MiB"
        rows["Python"][engine] = str(metadata.metadata(package or "dbllm")["Requires-Python"])
    return rows


def written(found: dict[str, dict[str, str]], rounds: int) -> str:
    """The table, as Markdown."""
    names = [
        "dbllm",
        "h11",
        "httptools",
        "httpx",
        "httpx-aiohttp",
        "aiohttp",
        "pyreqwest",
        "uvloop",
        "trio",
        "pydantic",
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    lines = [
        "# The candidates for the fast engine",
        "",
        f"By `python tests/bench/engines.py {rounds}`: Python {platform.python_version()}, {versions}.",
        "",
        "Costs are CPU microseconds per call with all threads; in brackets, times what httptools costs in the same run.",
        "",
        "| | " + " | ".join(ENGINES) + " |",
        "|---" * (len(ENGINES) + 1) + "|",
    ]
    for row, cells in found.items():
        fast = cells[FAST]
        shown = [
            f"{float(said):,.0f} ({float(said) / float(fast):.2f})" if row in COSTS and said[0] != "n" else said
            for said in cells.values()
        ]
        lines.append("| ".join([f"| {row} ", *(f"{said.replace('|', '/')} " for said in shown)]) + "|")
    return "\n".join(lines) + "\n\n"


def main(rounds: int) -> None:
    """Measure, print and write."""
    found = measured(rounds) | weights()
    text = written({row: {engine: found[row][engine] for engine in ENGINES} for row in found}, rounds)
    print(text)
    before = RESULTS.read_text("utf-8") if RESULTS.exists() else ""
    RESULTS.write_text(text + "".join(before.partition(BY_HAND)[1:]), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["cell"]:
        there = json.loads(sys.argv[4])
        os.sched_setaffinity(0, {int(there["core"])})
        print(play(sys.argv[2], sys.argv[3], there), flush=True)
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
