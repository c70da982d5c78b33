"""What the proofs of this folder measured, in one file; and the README's table of promises, made from it.

    python tests/reliability/figures.py                 says whether the README's table is what the file says
    python tests/reliability/figures.py --write FILE    takes in what a run noted in FILE, and writes the table

A run notes its figures where DBLLM_FIGURES names a file; `nox -s reliability -- --write-table` does all this.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

LONG = bool(os.environ.get("DBLLM_LONG"))
FILE = Path(__file__).with_name("figures.json")
README = Path(__file__).parents[2] / "README.md"
MARKS = "<!-- reliability: begin -->", "<!-- reliability: end -->"


def record(proof: str, name: str, **values: Any) -> None:
    """Note what one proof measured, and print it."""
    print(f"{proof} {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    if (path := os.environ.get("DBLLM_FIGURES")) is not None:
        with open(path, "a", encoding="utf-8") as notes:  # one line at once: several processes may write
            notes.write(json.dumps([proof, name, {"long": LONG, **values}]) + "\n")


def take_in(notes: Path) -> None:
    """Put the notes of a run into the file; a short run does not replace what a long one found."""
    found = read()
    for line in notes.read_text("utf-8").splitlines():
        proof, name, values = json.loads(line)
        before = found.setdefault(proof, {}).get(name, {})
        if values["long"] or not before.get("long"):
            found[proof][name] = values
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


def read() -> dict[str, dict[str, dict[str, Any]]]:
    """proof → name → figures."""
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    return found


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The table in Markdown; a promise without figures is left out."""
    rows = [(promise, proof, figures(found)) for promise, proof, needs, figures in PROMISES if needs in found]
    lines = ["| promise | proof | figures |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def inside(page: str) -> str:
    """What stands between the marks of a page."""
    begin, end = MARKS
    return page.partition(f"{begin}\n")[2].partition(f"\n{end}")[0]


Found = dict[str, dict[str, dict[str, Any]]]


def of(found: Found, proof: str, key: str) -> list[Any]:
    return [values[key] for values in found[proof].values() if key in values]


def total(found: Found, proof: str, key: str) -> int:
    return int(sum(of(found, proof, key)))


def _ends(found: Found) -> str:
    both = [
        sum(total(found, proof, key) for proof in ("safe", "all")) for key in ("lost", "twice", "crossed", "untyped")
    ]
    calls = total(found, "safe", "calls") + total(found, "all", "calls")
    return f"{calls:,} calls: {both[0]} lost, {both[1]} ended twice, {both[2]} with another's answer, {both[3]} untyped"


def _succeeds(found: Found) -> str:
    share = 100 * total(found, "safe", "succeeded") / total(found, "safe", "calls")
    rate = total(found, "safe", "requests") / total(found, "safe", "calls")
    return f"{share:.2f} % succeed, worst {100 * min(of(found, 'safe', 'share')):.2f} %; {rate:.2f} requests a call"


def _once(found: Found) -> str:
    runs = total(found, "all", "lost_answers")
    after = total(found, "safe", "again_after_5xx") + total(found, "all", "again_after_5xx")
    again = total(found, "all", "ran_again") + total(found, "safe", "ran_again")
    return f"{runs:,} answers lost on the way: {again} ran again; {after:,} ran again after a 500 or 502"


def _outage(found: Found) -> str:
    worst, busiest = max(of(found, "outage", "requests_per_call")), max(of(found, "outage", "busiest"))
    back = max(of(found, "outage", "back_after"))
    return f"{worst:.2f} requests a call, busiest second {busiest:.2f} × the usual, well again within {back + 1} s"


def _cancelled(found: Found) -> str:
    points, random = total(found, "cancel", "points"), total(found, "random cancels", "cancels")
    return f"{points} waits, {random:,} cancellations at random: nothing left open, the next call works"


def _soak(found: Found) -> str:
    soak = found["soak"]["asyncio"]
    minutes = f"{soak['seconds'] / 60:.0f} minutes, {soak['calls']:,} calls"
    return f"{minutes}: {soak['left']} sockets, tasks or permits left; {soak['slope']:.2f} MiB per 10,000 calls"


def _shared(found: Found) -> str:
    calls, bad = total(found, "shared", "calls"), total(found, "shared", "bad")
    return f"{calls:,} calls: {bad} wrong"


def _fuzz(found: Found) -> str:
    inputs, slowest = total(found, "fuzz", "inputs"), max(of(found, "fuzz", "slowest"))
    return f"{inputs:,} answers: {total(found, 'fuzz', 'untyped')} untyped errors; the slowest took {slowest:.2f} s"


def _secrets(found: Found) -> str:
    return f"{total(found, 'secrets', 'checks'):,} checks: {total(found, 'secrets', 'hits')} hits"


PROMISES = (
    (
        "A call ends once: with its own answer, or with an error of dbllm's",
        "30 % of the requests meet one of 24 kinds of fault, 256 calls at once, on every engine and kind of loop",
        "all",
        _ends,
    ),
    ("What may be repeated succeeds", "30 % faults that are safe to repeat, 6 attempts", "safe", _succeeds),
    ("What may have run is not sent again", "the server counts what it executes, by call", "all", _once),
    ("An outage gets no storm", "200 calls a second while every request fails", "outage", _outage),
    (
        "A call may be cancelled anywhere",
        "a cancellation at each wait in asyncio, uvloop and trio, an interrupt at each system call in plain code",
        "cancel",
        _cancelled,
    ),
    ("Nothing leaks", "faults, and 10 % of the calls cancelled, 128 at once", "soak", _soak),
    ("No answer crashes the client", "answers changed at random, on each parser", "fuzz", _fuzz),
    (
        "Credentials are never shown",
        "each kind, repeated by a server in each way, looked for in messages, logs, tracebacks and pickles",
        "secrets",
        _secrets,
    ),
    (
        "One client serves threads, loops and forks",
        "32 threads, 20 loops, a fork with 8 TLS connections",
        "shared",
        _shared,
    ),
)


def main(arguments: list[str]) -> int:
    write = arguments[:1] == ["--write"]
    for notes in map(Path, arguments[1:]) if write else ():
        take_in(notes)
    page, made = README.read_text("utf-8"), table(read())
    if write:
        README.write_text(page.replace(inside(page), made, 1), "utf-8")
    elif inside(page) != made:
        print("the README's table is stale: nox -s reliability -- --write-table")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
