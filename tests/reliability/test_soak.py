"""Hours of faults and cancellations, or a sample of them: nothing is left open, and memory does not grow."""

from __future__ import annotations

import os

import pytest
from reliability.figures import LONG, record
from reliability.load import run_load

from dbllm.testing import ALL_FAULTS

SECONDS = float(os.environ.get("DBLLM_SOAK_SECONDS") or (1800 if LONG else 60))


def slope(samples: list[tuple[int, float]]) -> float:
    """MiB per 10,000 calls, by least squares, without the first three tenths: the warm-up."""
    kept = samples[len(samples) * 3 // 10 :]
    if len(kept) < 3:
        return 0.0
    mean_x, mean_y = (sum(values) / len(kept) for values in zip(*kept, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in kept)
    return 10_000 * above / sum((x - mean_x) ** 2 for x, _ in kept)


@pytest.mark.timeout(7200)
def test_nothing_is_left_and_memory_stays(capsys: pytest.CaptureFixture[str]) -> None:
    tally, report = run_load(ALL_FAULTS, 17, seconds=SECONDS, concurrency=128, cancelled=0.1)
    growth = slope([(calls, size) for calls, size in tally["samples"]])
    figures = {
        "seconds": round(tally["seconds"]),
        "calls": tally["begun"],
        "cancels": tally["cancelled"],
        "left": len(tally["left"]),
        "slope": round(growth, 3),
        "lost": tally["begun"] - tally["ended"],
        "crossed": tally["crossed"],
        "untyped": sum(tally["untyped"].values()),
    }
    record(
        "soak",
        "asyncio",
        **figures,
        memory=[round(size, 1) for _, size in tally["samples"]][:: max(1, len(tally["samples"]) // 40)],
    )
    assert (tally["left"], figures["lost"], figures["crossed"], tally["untyped"], report.flaws) == ([], 0, 0, {}, ())
    assert growth < 1.0 or tally["begun"] < 60_000, tally["samples"]  # a short run is warm-up for the most part
    assert growth < 4.0
