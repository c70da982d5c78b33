"""The candidates for the fast engine, side by side: what a call costs with each, and how each behaves.

`python tests/bench/engines.py [ROUNDS [WORD ...]]` needs `pip install '.[fast]'` and the dependency group `engines`; it
prints a table and writes results/engines.md, whose last section is written by hand and stays. With words only the rows
that have one of them are measured, and nothing is written. Each cell is a process of its own with a time limit; client
and server have a core each. Costs are CPU time with all threads, the lowest of the rounds; compare ratios, for
microseconds are this machine's.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from behaviours import BEHAVIOURS, NAME, Places, ask, told
from candidates import ENGINES, Make
from clients import counted, side_by_side, used
from server import CHUNKS

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "engines.md"
BY_HAND = "## What is chosen"
FAST = "httptools (fast)"
LIMIT = 60.0  # seconds for a cell


# --- what a call costs ------------------------------------------------------------------------------------------------


def cost(make: Make, place: Places, host: str, concurrent: int, calls: int, kind: str = "chat", **options: Any) -> str:
    """CPU microseconds per call."""
    client = make(place[host], **{name: place[key] for name, key in options.items() if name != "loop"})
    endpoint = client.endpoint("bench")

    async def stream() -> None:
        async with endpoint.stream_chat("hello") as chunks:
            if await counted(chunks) != CHUNKS:
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


def measured(rounds: int, wanted: Callable[[str], bool]) -> dict[str, dict[str, str]]:
    """Row, engine, cell."""
    import trustme

    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, dict[str, str]] = {row: {} for row in (*COSTS, *BEHAVIOURS) if wanted(row)}
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
                for row in filter(wanted, COSTS):
                    for engine in ENGINES if number % 2 == 0 else list(ENGINES)[::-1]:
                        said, before = cell(engine, row, place, cores[0]), found[row].get(engine, "no")
                        better = before.startswith("no") or (not said.startswith("no") and float(said) < float(before))
                        found[row][engine] = said if better else before
                print(f"round {number + 1} done", file=sys.stderr)
            for row in filter(wanted, BEHAVIOURS):
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
        "Every column but the last is dbllm, over that engine. Costs are CPU microseconds per call, with all threads;",
        "in brackets, times what httptools costs in the same run.",
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


def main(rounds: int, *words: str) -> None:
    """Measure, print and write."""
    found = measured(rounds, lambda row: not words or any(word in row for word in words))
    found |= weights() if not words else {}
    text = written({row: {engine: found[row][engine] for engine in ENGINES} for row in found}, rounds)
    print(text)
    if not words:
        before = RESULTS.read_text("utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(text + "".join(before.partition(BY_HAND)[1:]), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["cell"]:
        there = json.loads(sys.argv[4])
        os.sched_setaffinity(0, {int(there["core"])})
        print(play(sys.argv[2], sys.argv[3], there), flush=True)
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3, *sys.argv[2:])
