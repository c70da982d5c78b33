"""This tree beside another one, an older state of it: what became slower.

`python tests/bench --against TREE` measures both, and the other one a second time as a control, in processes of their
own, with the same interpreter and against the same server. In each of seven rounds every figure is taken there and back
(new, old, control, control, old, new; each round begins with another of them), so that what else the machine does falls
on all alike. A figure is CPU time with all threads, over the other tree's in the same round; the median counts. It is
worse if it is over 1.05 and over the spread of the control: its seven ratios without the lowest and the highest (all of
them where a busy machine had time for fewer than five).
Only public names of dbllm are used, so any two trees can be compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

from imports import MOST, client_ratios
from processes import HERE, Client, server

LIVES = (3, 2, 2)  # rounds that a process lives; seven in all
MOST_SECONDS = 300.0  # of all rounds: a machine that is busy with other things makes fewer of them
WORSE = 1.05

# client, what is called, how many at a time, calls there and as many back, on the server that answers after 50 ms, loop
SCENES: dict[str, tuple[str, str, int, int, bool, str]] = {
    "chat, 1 at a time": ("dbllm", "chat", 1, 200, False, "asyncio"),
    "chat, 64 at a time": ("dbllm", "chat", 64, 256, True, "asyncio"),
    "chat, 256 at a time": ("dbllm", "chat", 256, 256, True, "asyncio"),
    "complete, 1 at a time": ("dbllm", "complete", 1, 200, False, "asyncio"),
    "stream of 500 chunks": ("dbllm", "stream", 1, 5, False, "asyncio"),
    "16 x 1,024 embeddings": ("dbllm", "embeddings", 1, 15, False, "asyncio"),
    "the same as numpy": ("dbllm", "numpy", 1, 15, False, "asyncio"),
    "llhttp: chat, 1 at a time": ("dbllm[fast]", "chat", 1, 400, False, "asyncio"),
    "llhttp: chat, 64 at a time": ("dbllm[fast]", "chat", 64, 640, True, "asyncio"),
    "llhttp: chat, 256 at a time": ("dbllm[fast]", "chat", 256, 256, True, "asyncio"),
    "llhttp: stream of 500 chunks": ("dbllm[fast]", "stream", 1, 5, False, "asyncio"),
    "llhttp: 16 x 1,024 embeddings": ("dbllm[fast]", "embeddings", 1, 15, False, "asyncio"),
    "trio: chat, 1 at a time": ("dbllm", "chat", 1, 150, False, "trio"),
    "trio: chat, 64 at a time": ("dbllm", "chat", 64, 256, True, "trio"),
    "trio: stream of 500 chunks": ("dbllm", "stream", 1, 5, False, "trio"),
    "sync: chat, 1 thread": ("dbllm", "sync", 1, 200, False, "none"),
    "sync: chat, 64 threads": ("dbllm", "sync", 64, 256, True, "none"),
    "sync: stream of 500 chunks": ("dbllm", "sync stream", 1, 5, False, "none"),
    "sync: 16 x 1,024 embeddings": ("dbllm", "sync embeddings", 1, 15, False, "none"),
    "LangChain: ainvoke": ("dbllm", "langchain", 1, 200, False, "asyncio"),
    "LangChain: astream of 500 chunks": ("dbllm", "langchain stream", 1, 1, False, "asyncio"),
    "LangChain: invoke": ("dbllm", "sync langchain", 1, 200, False, "none"),
}
LAST_CALLS = "the same as numpy"  # before LangChain, which takes more memory than all the rest
MEMORY = "memory of the process, after calls"
Round = dict[tuple[str, str], float]  # of a scene and a tree


def measured(trees: dict[str, Path], hosts: list[str]) -> Generator[Round, None, None]:
    """Round after round; new processes now and then, for each is a bit faster or slower than its like all its life."""
    number = 0
    for seed, rounds in enumerate(LIVES):
        first = [*trees][seed:] + [*trees][:seed]
        clients = {
            # The seed decides how dicts and sets lie.
            (name, engine): Client(engine, hosts, trees[name], PYTHONHASHSEED=str(seed))
            for engine in dict.fromkeys(engine for engine, *_ in SCENES.values())
            for name in first
        }
        try:
            for turn in range(rounds):
                order = first[number % 3 :] + first[: number % 3]
                yield play(clients, order, fresh=turn == 0)
                number += 1
        finally:
            for client in clients.values():
                client.close()


def play(clients: dict[tuple[str, str], Client], order: list[str], fresh: bool) -> Round:
    """One round."""
    costs: Round = {}
    for scene, (engine, kind, concurrent, calls, delayed, loop) in SCENES.items():
        for name in (*order, *reversed(order)):
            client = clients[name, engine]
            if kind not in client.kinds:
                continue
            said = client.order(kind=kind, concurrent=concurrent, calls=calls, delayed=delayed, loop=loop)
            if "cpu" not in said:
                print(f"{scene}, {name}: {said.get('failed', 'the process has ended')}", file=sys.stderr)
                continue
            costs[scene, name] = costs.get((scene, name), 0.0) + said["cpu"] / 2
            if fresh and scene == LAST_CALLS:
                costs[MEMORY, name] = said["memory"]
    return costs


def judged(rounds: list[Round]) -> Iterator[tuple[str, float, float, float, tuple[float, float], bool]]:
    """Of each figure: its name, the other tree's, this one's, the ratio, the control's spread, whether it is worse."""
    for scene in (*SCENES, MEMORY):
        whole = [costs for costs in rounds if all((scene, name) in costs for name in ("new", "old", "control"))]
        if not whole:
            continue
        ratio = median(costs[scene, "new"] / costs[scene, "old"] for costs in whole)
        control = sorted(costs[scene, "control"] / costs[scene, "old"] for costs in whole)
        low, *_, high = control[1:-1] if len(control) >= 5 else (control[0], *control)
        old, new = (median(costs[scene, name] for costs in whole) for name in ("old", "new"))
        yield scene, old, new, ratio, (low, high), ratio > max(WORSE, high)


def table(rounds: list[Round]) -> tuple[str, list[str]]:
    """As Markdown, and the figures that are worse."""
    lines = ["| CPU time of a call, µs | other | this | this / other | control | |", "|---|---|---|---|---|---|"]
    worse = []
    for scene, old, new, ratio, (low, high), bad in judged(rounds):
        shown = (f"{old:.1f} MiB", f"{new:.1f} MiB") if scene == MEMORY else (f"{old * 1e6:,.0f}", f"{new * 1e6:,.0f}")
        worse += [f"{scene}: {ratio:.3f}"] if bad else []
        cells = (scene, *shown, f"{ratio:.3f}", f"{low:.3f} … {high:.3f}", "worse" if bad else "not worse")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines), worse


def main(other: str = "") -> None:
    """Measure and print; exit status 1 where something is worse."""
    tree = Path(other).resolve()
    if not other or not (tree / "dbllm" / "__init__.py").exists():
        raise SystemExit(f"--against takes the folder of another working tree, with dbllm/ in it, not {other!r}.")
    this = HERE.parents[1]
    trees = {"new": this, "old": tree, "control": tree}
    rounds: list[Round] = []
    began = time.monotonic()
    with server() as hosts, closing(measured(trees, hosts)) as more:
        for costs in more:
            rounds.append(costs)
            seconds = time.monotonic() - began
            print(f"round {len(rounds)} of {sum(LIVES)} done after {seconds:.0f} s", file=sys.stderr)
            if seconds * (1 + 1 / len(rounds)) > MOST_SECONDS:
                break
    if len(rounds) < sum(LIVES):
        print(f"The machine is busy: {len(rounds)} rounds instead of {sum(LIVES)}.\n")
    text, worse = table(rounds)
    print(f"{text}\n\n| import of the client / its dependencies | this | at most | |\n|---|---|---|---|")
    for name, ratio in client_ratios(this).items():
        worse += [f"import, {name}: {ratio:.2f}"] if ratio > MOST else []
        print(f"| {name} | {ratio:.2f} | {MOST} | {'' if ratio <= MOST else 'missed'} |")
    print(f"\nworse: {'; '.join(worse) or 'nothing'}")
    raise SystemExit(1 if worse else 0)
