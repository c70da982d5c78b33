"""The concurrency that is found out, and the limits that are kept, on models of servers and a virtual clock.

`DBLLM_BULK_SWEEP=1` compares a hundred jobs, and with more fixed numbers of calls at once, and takes longer.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from statistics import median
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from support.bulk_models import CapacityStep, HardLimit, Model, Noisy, Queueing, RandomRefusals, TokenBucket, TokenQuota

from dbllm import Limits, bulk
from dbllm._transport.adaptive import AdaptiveConcurrency

SWEEP = bool(os.environ.get("DBLLM_BULK_SWEEP"))


def play(
    make: Callable[[], Model],
    until: float,
    concurrency: int | AdaptiveConcurrency | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> Any:
    """A job without end on such a server, for some seconds of a clock that costs no time."""
    number = None if isinstance(concurrency, AdaptiveConcurrency) else concurrency

    async def main() -> Model:
        model: Any = make()
        rows = bulk.rows(model, (f"p{n}" for n in itertools.count()), concurrency=number, limits=limits)
        if isinstance(concurrency, AdaptiveConcurrency):
            rows._scheduler.concurrency = concurrency  # as a task of Spark, whose share of the calls is small
        with anyio.move_on_after(until):
            async for row in rows:
                model.errors += row.error is not None
        await rows.aclose()
        assert model.running == 0
        return model

    random.seed(seed)  # the pauses between attempts
    trio._core._run._r.seed(seed)  # the order in which trio's tasks run: the same job twice is the same
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def rate(times: list[float], begin: float, end: float) -> float:
    return sum(begin <= at < end for at in times) / (end - begin)


MODELS: dict[str, tuple[Callable[[], Model], float, float, tuple[int, ...]]] = {
    "a hard limit": (HardLimit, 30, 75, (48,)),
    "a queue": (Queueing, 30, 75, (24, 32)),
    "noise": (Noisy, 30, 75, (24, 32)),
    "429s at random": (RandomRefusals, 30, 90, (64,)),
    "429s at random and a hard limit": (lambda: RandomRefusals(seed=1, hard=True), 30, 90, (48,)),
    "429s at random and much room": (lambda: RandomRefusals(110), 30, 50, (128,)),
    "a bucket of requests": (TokenBucket, 30, 75, (24,)),
    "a quick server with a small quota": (lambda: TokenBucket(10, 10, 0.02), 30, 60, (4,)),
    "tokens that are reserved": (TokenQuota, 0, 300, (64,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_concurrency_that_is_found_out_serves_as_the_best_fixed_one(name: str) -> None:
    make, begin, end, usual = MODELS[name]
    best = max(
        rate(play(make, end, fixed).answered, begin, end)
        for fixed in ((1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256) if SWEEP else usual)
    )
    if SWEEP:  # a job in a hundred may have bad luck
        shares = sorted(rate(play(make, end, seed=seed).answered, begin, end) / best for seed in range(100))
        print(f"{name}: median {median(shares):.1%} of the best, least of a hundred jobs {shares[0]:.1%}")
        assert median(shares) >= 0.9
    model = play(make, end)
    found, refused = rate(model.answered, begin, end), rate(model.refused, begin, end)
    print(f"{name}: {found:.2f} of {best:.2f} answers a second; {refused / (found + refused):.1%} refused")
    assert found >= 0.9 * best
    assert refused <= 0.15 * (found + refused)
    assert model.errors == 0  # who is turned away waits; nobody fails of it


def test_a_quota_of_a_minute_that_nobody_tells_is_used_as_soon_as_it_is_filled_again() -> None:
    def counted(model: Any) -> list[int]:
        return [sum(at < moment for at in model.answered) for moment in range(30, 241, 30)]

    for quota in (60_000, 12_000):
        best = [max(each) for each in zip(*(counted(play(lambda: TokenQuota(quota), 240, n)) for n in (16, 64)))]  # noqa: B023, B905
        model = play(lambda: TokenQuota(quota), 240)  # noqa: B023
        found = counted(model)
        print(f"{quota} tokens a minute, answers by each half minute: {found}, by the best fixed number {best}")
        assert all(mine >= 0.9 * theirs for mine, theirs in zip(found, best, strict=True))
        assert model.errors == 0


def test_few_calls_at_once_go_on_though_many_are_turned_away_at_random() -> None:
    """Some refusals in a row look like a quota; what is learned of it must not slow the job down for ever.

    One job may have bad luck; most of those that differ by chance alone have not.
    """
    slow = []
    for share, most in itertools.product((0.15, 0.2, 0.3), (2, 8)):
        best = most * (1 - share) / 0.3  # none waits
        found = []
        for seed in range(6 if SWEEP else 3):

            def make(share: float = share, seed: int = seed) -> Model:
                return RandomRefusals(1000, seed, share=share, seconds=0.3)

            found.append(rate(play(make, 180, AdaptiveConcurrency(most, most), seed=seed).answered, 90, 180))
        print(
            f"{share:.0%} turned away, {most} at once: of {best:.1f} answers a second", *(f"{one:.1f}" for one in found)
        )
        if median(found) < 0.4 * best:
            slow.append((share, most, found, best))
    assert not slow


def test_a_capacity_that_falls_to_a_quarter_is_followed_at_once_and_its_return_within_half_a_minute() -> None:
    model = play(CapacityStep, 155)
    assert rate(model.answered, 30, 60) >= 0.9 * 64
    down, refused = rate(model.answered, 70, 120), rate(model.refused, 70, 120)
    print(f"down: {down:.1f} answers a second, {refused / (down + refused):.2%} refused")
    assert down >= 0.9 * 16
    assert refused <= 0.03 * (down + refused)  # three or four probes, of which four calls each are turned away
    assert rate(model.answered, 150, 155) >= 0.9 * 64


@pytest.mark.parametrize("concurrency", [64, None])
def test_reservations_keep_within_a_quota_of_tokens_and_use_it(concurrency: int | None) -> None:
    limits = Limits(output_tokens_per_minute=60_000, default_max_tokens=200)
    model = play(lambda: TokenQuota(60_000, 200), 240, concurrency, limits)
    used = sum(tokens for at, tokens in model.tokens if 60 <= at < 180) / 120_000
    print(f"{used:.1%} of the quota used, {len(model.refused)} of {len(model.answered)} refused")
    assert len(model.refused) <= 0.005 * len(model.answered)
    assert used >= 0.95


def test_requests_in_a_minute_are_kept_and_used() -> None:
    model = play(lambda: TokenQuota(10**9, 200, requests=300), 300, limits=Limits(requests_per_minute=300))
    assert model.refused == []
    assert len(model.answered) >= 0.95 * 1500
