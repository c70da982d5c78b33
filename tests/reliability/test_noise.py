"""Thirty of a hundred requests fail: no call is lost, crossed or sent again although it may have run."""

from __future__ import annotations

import os
from typing import Any

import pytest
from reliability.figures import LONG, record
from reliability.load import run_load

from dbllm.testing import ALL_FAULTS, FAULT_KINDS, SAFE_FAULTS
from dbllm.testing.fault_plans import plan_request

LONG_CALLS = int(os.environ.get("DBLLM_CALLS") or 100_000)  # of each way, in a long run
WAYS = [  # mode, engine, calls of a short run
    ("asyncio", "h11", 1_000),
    ("asyncio", "httptools", 500),
    ("uvloop", "httptools", 1_000),
    ("trio", "h11", 500),
    ("asyncio", "httpx", 500),
    ("plain", "h11", 1_000),
    ("plain", "httpx", 500),
]
SEEDS = {way[:2]: seed for seed, way in enumerate(WAYS)}
MAY_RUN_AGAIN = {name for name, kind in FAULT_KINDS.items() if kind.effect == "may have run"}


def unlucky(seed: int, calls: int) -> int:
    """How many calls meet six faults in a row, which is as many as may fail."""
    failing = {name for name in SAFE_FAULTS if FAULT_KINDS[name].effect != "harmless"}
    return sum(
        all(plan_request(seed, f"seed {seed} {call}", number, SAFE_FAULTS).fault in failing for number in range(1, 7))
        for call in range(calls)
    )


def check_each_ended_once(tally: dict[str, Any]) -> dict[str, Any]:
    return {
        "calls": tally["begun"],
        "lost": tally["begun"] - tally["ended"],
        "twice": tally["twice"],
        "crossed": tally["crossed"],
        "untyped": sum(tally["untyped"].values()),
        "succeeded": tally["succeeded"],
        "share": round(tally["succeeded"] / tally["begun"], 5),
        "requests": tally["attempts"],
        "seconds": round(tally["seconds"], 1),
    }


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "engine", "short"), WAYS)
def test_what_may_be_repeated_succeeds(mode: str, engine: str, short: int) -> None:
    calls = LONG_CALLS if LONG else short
    tally, report = run_load(SAFE_FAULTS, 100 + SEEDS[mode, engine], mode=mode, engine=engine, calls=calls)
    figures = check_each_ended_once(tally)
    again = {fault: count for fault, count in report.ran_again.items() if fault not in MAY_RUN_AGAIN}
    figures |= {"ran_again": sum(again.values()), "again_after_5xx": sum(report.ran_again.values())}
    figures["again_after_5xx"] -= figures["ran_again"]
    record("safe", f"{mode}, {engine}", **figures, failed=tally["failed"])
    wrong = {key: figures[key] for key in ("lost", "twice", "crossed", "untyped", "ran_again") if figures[key]}
    assert (wrong, again, tally["left"], report.flaws) == ({}, {}, [], ())
    assert calls - tally["succeeded"] == unlucky(100 + SEEDS[mode, engine], calls), tally["failed"]
    assert figures["share"] >= 0.999 or calls < 10_000
    assert tally["attempts"] / calls <= 1.45


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "engine", "short"), WAYS)
def test_each_failure_is_named_and_what_may_have_run_is_not_repeated(mode: str, engine: str, short: int) -> None:
    calls = LONG_CALLS if LONG else short
    tally, report = run_load(ALL_FAULTS, 200 + SEEDS[mode, engine], mode=mode, engine=engine, calls=calls)
    figures = check_each_ended_once(tally)
    again = {fault: count for fault, count in report.ran_again.items() if fault not in MAY_RUN_AGAIN}
    lost = {name for name, kind in FAULT_KINDS.items() if kind.effect.startswith("ran")}
    figures |= {"ran_again": sum(again.values()), "again_after_5xx": sum(report.ran_again.values())}
    figures["again_after_5xx"] -= figures["ran_again"]
    figures["lost_answers"] = sum(count for fault, count in report.faults.items() if fault in lost)
    record("all", f"{mode}, {engine}", **figures, failed=tally["failed"])
    wrong = {key: figures[key] for key in ("lost", "twice", "crossed", "untyped", "ran_again") if figures[key]}
    assert (wrong, again, tally["left"], report.flaws) == ({}, {}, [], ())
    assert sum(tally["failed"].values()) + tally["succeeded"] == calls
    kinds = {name.rpartition(", ")[2] for name in tally["failed"]}
    assert kinds <= {"ambiguous", "final", "throttled", "transient"}
    # All but the few that had six bad answers in a row met a fault after which nobody can tell whether the model ran.
    ambiguous = sum(count for name, count in tally["failed"].items() if "ambiguous" in name or "APIResponse" in name)
    assert sum(tally["failed"].values()) - ambiguous <= max(1, calls // 1000)
    assert tally["attempts"] / calls <= 1.45
