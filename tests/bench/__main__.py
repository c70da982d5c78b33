"""The benchmark: what a call costs by dbllm, by other clients and by bare sockets, side by side in one run.

`python tests/bench [--short | --quick] [CLIENT ...]` prints tables and, unless quick, writes results/results.{json,md}
and results/calls.svg; short is one round instead of five, and a fifth of the calls for memory.
`python tests/bench --against TREE` measures this tree beside another one instead (see pairs.py) and writes nothing.
Each client lives in a process of its own on one core, the server on another; rounds go from client to client, so that
what else the machine does falls on all of them alike. The figure is CPU time with all threads, the median of the
rounds. Compare ratios: microseconds are this machine's.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from math import log
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from clients import CLIENTS
from imports import MOST, client_ratios, imports
from processes import Client, server

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROUNDS = 5

# what is called, how many at a time, calls in one round, on the server that answers after 50 ms
SCENES: dict[str, tuple[str, int, int, bool]] = {
    "chat, 1 at a time": ("chat", 1, 300, False),
    "chat, 64 at a time": ("chat", 64, 1280, True),
    "chat, 256 at a time": ("chat", 256, 1536, True),
    "chat, 1024 at a time": ("chat", 1024, 3072, True),
    "stream of 500 chunks": ("stream", 1, 8, False),
    "16 x 1,024 embeddings": ("embeddings", 1, 30, False),
    "the same as numpy": ("numpy", 1, 30, False),
    "sync, 1 thread": ("sync", 1, 300, False),
    "sync, 64 threads": ("sync", 64, 1280, True),
    "LangChain ainvoke": ("langchain", 1, 200, False),
}
SLOW = {"openai", "databricks-langchain", "mlflow", "databricks-sdk", "httpx"}  # half of the calls is enough

# scene, ours, theirs, at most this many times theirs
TARGETS = [
    ("chat, 256 at a time", "dbllm[fast]", "aiohttp", 0.8),
    ("chat, 256 at a time", "dbllm[fast]", "raw asyncio", 2.5),
    ("chat, 256 at a time", "dbllm[fast]", "openai", 1 / 20),
    ("chat, 256 at a time", "dbllm[fast]", "databricks-langchain", 1 / 60),
    ("chat, 256 at a time", "dbllm", "httpx", 0.12),
    ("chat, 256 at a time", "dbllm", "aiohttp", 3.5),
    ("chat, 1 at a time", "dbllm", "httpx", 0.6),
    ("stream of 500 chunks", "dbllm", "raw asyncio", 1.3),
    ("stream of 500 chunks", "dbllm", "openai", 0.1),
    ("16 x 1,024 embeddings", "dbllm", "httpx", 0.4),
    ("16 x 1,024 embeddings", "dbllm[fast]", "httpx", 0.3),
    ("16 x 1,024 embeddings", "dbllm", "openai", 1 / 18),
    ("sync, 1 thread", "dbllm", "urllib3", 1.1),
    ("sync, 64 threads", "dbllm", "urllib3", 1.1),
]


def measure(names: list[str], rounds: int, many: int) -> dict[str, dict[str, dict[str, float]]]:
    """Scene, client, figures."""
    with server() as hosts:
        return measure_at(hosts, names, rounds, many)


def measure_at(hosts: list[str], names: list[str], rounds: int, many: int) -> dict[str, dict[str, dict[str, float]]]:
    """The same at these hosts."""
    clients = [client for name in names if (client := Client(name, hosts)).kinds]
    found: dict[str, dict[str, dict[str, float]]] = {scene: {} for scene in SCENES}
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    try:
        for number in range(rounds):
            for scene, (kind, concurrent, calls, delayed) in SCENES.items():
                for client in clients if number % 2 == 0 else clients[::-1]:
                    if kind not in client.kinds or (concurrent > 256 and client.name in SLOW):
                        continue
                    part = 2 if client.name in SLOW else 1
                    rounded = max(concurrent, calls // part // concurrent * concurrent)
                    figures = client.order(kind=kind, concurrent=concurrent, calls=rounded, delayed=delayed)
                    if "cpu" not in figures:
                        print(f"{client.name} failed in {scene}: {figures.get('failed')}", file=sys.stderr)
                    else:
                        rows.setdefault((scene, client.name), []).append(figures)
            print(f"round {number + 1} done", file=sys.stderr)
        for (scene, name), those in rows.items():
            found[scene][name] = {key: median(figures[key] for figures in those) for key in those[0]}
        for client in clients:
            client.close()
        clients = [Client(name, hosts) for name in names if name.startswith("dbllm")]  # new: nothing else in
        found["memory, MiB"] = memory([client for client in clients if client.kinds], many)
    finally:
        for client in clients:
            client.close()
    return found


def memory(clients: list[Client], many: int) -> dict[str, dict[str, float]]:
    """Memory after 1,000 calls, and after many more than that."""
    table: dict[str, dict[str, float]] = {}
    for client in clients:
        order = {"kind": "chat", "concurrent": 8, "delayed": False}
        first = client.order(calls=1000, **order)
        then = client.order(calls=many, **order)
        table[client.name] = {"after 1,000 calls": first.get("memory", 0), "then": then.get("memory", 0), "calls": many}
    return table


def versions(names: list[str]) -> dict[str, str]:
    """Of the packages that take part."""
    found = {"python": platform.python_version()}
    for package in " ".join(CLIENTS[name][1] for name in names).split():
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # not installed: takes no part
            pass
    return found


def reached(found: dict[str, Any], starts: dict[str, float]) -> list[tuple[str, float, float]]:
    """The figures to reach: what, the ratio, at most."""
    rows = [
        (f"{scene}: {ours} / {theirs}", found[scene][ours]["cpu"] / found[scene][theirs]["cpu"], most)
        for scene, ours, theirs, most in TARGETS
        if ours in found[scene] and theirs in found[scene]
    ]
    many, some = found["chat, 1024 at a time"], found["chat, 64 at a time"]
    rows += [(f"chat, 1024 / 64 at a time: {name}", many[name]["cpu"] / some[name]["cpu"], 1.3)
             for name in ("dbllm", "dbllm[fast]") if name in many]  # fmt: skip
    numpy = found["the same as numpy"]
    rows += [(f"as numpy: {name} / httpx", numpy[name]["cpu"] / found["16 x 1,024 embeddings"]["httpx"]["cpu"], most)
             for name, most in (("dbllm", 0.45), ("dbllm[fast]", 0.3)) if name in numpy]  # fmt: skip
    langchain, ones = found["LangChain ainvoke"], found["chat, 1 at a time"]
    if {"dbllm", "langchain-core"} <= set(langchain):
        more = langchain["dbllm"]["cpu"] - ones["dbllm"]["cpu"]
        rows.append(("ainvoke more than chat / langchain-core", more / langchain["langchain-core"]["cpu"], 1.5))
    rows += [(f"import: dbllm's client / its dependencies, {name}", ratio, MOST) for name, ratio in starts.items()]
    for name, row in found["memory, MiB"].items():
        rows.append((f"MiB after 1,000 calls: {name}", row["after 1,000 calls"], 60))
        rows.append((f"memory after {row['calls']:,} calls more: {name}", row["then"] / row["after 1,000 calls"], 1.05))
    return rows


def written(
    found: dict[str, Any], costs: dict[str, float], starts: dict[str, float], about: dict[str, str], names: list[str]
) -> str:
    """The tables, as Markdown."""
    lines = [f"CPU time per call in microseconds, with all threads ({', '.join(map(' '.join, about.items()))}).", ""]
    shown = [name for name in names if any(name in found[scene] for scene in SCENES)]
    lines += ["| | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for scene in SCENES:
        cells = [f"{found[scene][name]['cpu'] * 1e6:,.0f}" if name in found[scene] else "" for name in shown]
        lines.append(f"| {scene} | " + " | ".join(cells) + " |")
    lines += ["", "| figure | reached | at most | |", "|---|---|---|---|"]
    for what, ratio, most in reached(found, starts):
        lines.append(f"| {what} | {ratio:.3g} | {most:.3g} | {'' if ratio <= most else 'missed'} |")
    lines += [
        "",
        "| import | CPU seconds |",
        "|---|---|",
        *(f"| {name} | {cost:.2f} |" for name, cost in costs.items()),
    ]
    lines += ["", "| memory of the process, MiB | after 1,000 calls | after many more |", "|---|---|---|"]
    for name, row in found["memory, MiB"].items():
        lines.append(f"| {name} | {row['after 1,000 calls']:.0f} | {row['then']:.0f} ({row['calls']:,} more) |")
    return "\n".join(lines) + "\n"


def plotted(row: dict[str, dict[str, float]], title: str) -> str:
    """Bars on a logarithmic scale, as SVG."""
    bars = sorted(((figures["cpu"] * 1e6, name) for name, figures in row.items()), reverse=False)
    least = min(bars)[0] / 2
    scale = 430 / log(max(bars)[0] / least)
    parts = [f'<text x="8" y="22" font-size="15" font-weight="bold">{title}</text>']
    for place, (cost, name) in enumerate(bars):
        y, width = 38 + 26 * place, scale * log(cost / least)
        mode = "#d9480f" if name.startswith("dbllm") else "#868e96"
        parts.append(f'<text x="158" y="{y + 14}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="166" y="{y}" width="{width:.0f}" height="19" fill="{mode}"/>')
        parts.append(f'<text x="{172 + width:.0f}" y="{y + 14}">{cost:,.0f} µs</text>')
    height = 50 + 26 * len(bars)
    style = 'font-family="sans-serif" font-size="13" fill="#495057"'
    ground = f'<rect width="690" height="{height}" fill="white"/>'
    size = f'width="690" height="{height}" viewBox="0 0 690 {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{ground}{"".join(parts)}</svg>\n'


def main(*arguments: str) -> None:
    """Measure, print and write."""
    quick = "--quick" in arguments
    names = [name for name in arguments if name in CLIENTS] or list(CLIENTS)
    rounds, many = (1, 2_000) if quick else (1, 20_000) if "--short" in arguments else (ROUNDS, 100_000)
    found, costs, starts, about = measure(names, rounds, many), imports(3 * rounds), client_ratios(), versions(names)
    text = written(found, costs, starts, about, names)
    print(text)
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.md").write_text(text)
    result = {"versions": about, "calls": found, "imports": costs, "clients": starts}
    (RESULTS / "results.json").write_text(json.dumps(result, indent=1))
    title = "CPU time per typed chat call, 256 at a time (logarithmic)"
    (RESULTS / "calls.svg").write_text(plotted(found["chat, 256 at a time"], title))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--against"]:
        import pairs

        pairs.main(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
