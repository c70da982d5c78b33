"""How many calls at once serve best: found out while they run. Pure decisions; the time is passed.

Three things are told apart. *Overload*: the server turns requests away; no more run at once than had room then, and if
that ends the losses, this is the limit. Losses that go on whatever the number are the server's noise. *Plateau*: more
calls at once bring no more answers in a second, because the server queues them: the limit goes back. *Quota*: the
server turns requests away even when nothing runs; then one request tries from time to time, and once it is answered the
starts are spread over time at the rate that was served before. Where noise is known, it takes more refusals in a row to
be a quota; and where the losses go on at half of the rate, it was none. Latency is never a signal: it grows with the
answers.
"""

from __future__ import annotations

from collections import deque
from math import log
from typing import Literal

Outcome = Literal["ok", "lost", "other"]
"""Answered; turned away or not reached; failed in a way that has nothing to do with the load."""

GROWTH = (1.25, 1.5, 2.0)  # the steps of a probe, the longer the more of them have succeeded in a row
GAIN = 0.4  # of the growth must come back as more answers in a second
HOLD = (4.0, 12.0)  # seconds between probes, at first and at most
BLOCKED = (0.25, 4.0)  # seconds between the tries while everything is turned away, at first and at most
BURST = 0.1  # seconds whose starts a learned rate lets through at once
MINUTE = 60.0
REFUSALS = 3  # in a row, at the least, and nothing else is running: then it is not the number at once
CHANCE = 1e-5  # that so many in a row are noise
LEAST_RATE = 0.5  # of the highest that a learned rate was: losses that go on below are not the rate's
SHORT = 2.0  # seconds: how long a block lasts at most where a rate is filled all the time
CERTAIN = 3.0  # standard deviations by which losses must be more before the cap than after it
MEMORY = 0.7  # of what earlier windows saw of losses: small ones add up
RATE_GROWTH = (2.0, 1.005)  # of a learned rate in a second without a loss, before the first loss and after it


class FixedConcurrency:
    """The same number of calls at once, whatever comes."""

    def __init__(self, limit: int) -> None:
        self.most = limit

    def limit(self) -> int:
        """How many calls may run at once now."""
        return self.most

    def pause(self, now: float) -> float:
        """Seconds until one more call may start."""
        return 0.0

    def started(self, now: float) -> None:
        """A call starts."""

    def ended(self, now: float, running: int, outcome: Outcome, seconds: float) -> None:
        """A call ended after `seconds`; `running` others are left."""


class AdaptiveConcurrency(FixedConcurrency):
    """Finds the number of calls at once.

    Args:
        most: never more than this.
        start: how many at first.
    """

    def __init__(self, most: int = 256, start: int = 8) -> None:
        super().__init__(most)
        self._limit = min(start, most)
        self._cap: int | None = None  # of this window: how many had room when one was turned away
        self._capped_at = 0.0
        self._latency = 0.0
        self._unlost = self._limit  # the limit of the last window without an overload
        self._refusals = 0  # in a row
        self._noise = 0.0  # the share that is lost under a cap or a rate
        self._opens_at: float | None = None  # when the counting of this window begins
        self._ok = self._peak = 0
        self._ended, self._losses = [0, 0], [0, 0]  # calls and losses until the cap had its effect, and after
        self._ended_before, self._losses_before = [0.0, 0.0], [0.0, 0.0]  # in earlier windows with a cap
        self._rooms: list[int] = []  # how many had room at each loss before
        self._goodput = 0.0  # answers in a second at the limit that stands
        self._standing: int | None = None  # the limit to go back to, during a probe
        self._successes = len(GROWTH) - 1  # probes that succeeded in a row; the first are the longest
        self._hold, self._probe_at = HOLD[0], 0.0
        self._pause, self._blocked_until = 0.0, 0.0  # a pause above 0: everything is turned away
        self._rate: float | None = None  # starts in a second, where there is a quota
        self._rate_at = self._next_start = self._blocked_at = 0.0
        self._highest_rate = 0.0
        self._growth = RATE_GROWTH[1]
        self._began: float | None = None
        self._opened, self._taken = 0.0, 0  # when it was last blocked no longer, and what was taken since
        self._answers: deque[list[float]] = deque()  # [second, answers] of the last minute

    def limit(self) -> int:
        """How many calls may run at once now."""
        if self._pause:
            return 1
        return self._limit if self._cap is None else min(self._limit, self._cap)

    def pause(self, now: float) -> float:
        """Seconds until one more call may start."""
        if self._pause:
            return max(0.0, self._blocked_until - now)
        return max(0.0, self._next_start - now) if self._rate is not None else 0.0

    def started(self, now: float) -> None:
        """A call starts."""
        if self._began is None:
            self._began = self._opens_at = self._opened = now
        if self._rate is not None:
            self._next_start = max(now - BURST, self._next_start) + 1 / self._rate

    def ended(self, now: float, running: int, outcome: Outcome, seconds: float) -> None:
        """A call ended after `seconds`; `running` others are left."""
        self._peak = max(self._peak, running + 1)
        self._ended[self._is_capped(now)] += 1
        if outcome == "lost":
            self._lost(now, running)
        else:  # a request that failed for another reason was taken, too
            self._refusals = 0
            self._count_taken(now)
            if self._pause:
                self._unblock(now)
        if outcome == "ok":
            self._latency += (seconds - self._latency) * (0.1 if self._latency else 1.0)
        opens = now if self._opens_at is None else self._opens_at
        if now >= opens:
            self._ok += outcome == "ok"
            enough = self._ok + self._losses[1] >= min(self._limit, self._peak) + 8
            if enough and now - opens >= max(1.0, self._latency) and self._can_be_judged():
                self._close_window(now, self._ok / (now - opens))

    def _is_capped(self, now: float) -> bool:
        """Whether the calls that end now began under the cap."""
        return self._cap is not None and now - self._capped_at > max(self._latency, 0.02)

    def _can_be_judged(self) -> bool:
        """Whether as many calls have ended under the cap as before it, or there is none."""
        return self._cap is None or self._ended[1] >= self._ended[0]

    def _lost(self, now: float, running: int) -> None:
        self._refusals += 1
        many = self._refusals - self._refusals_of_noise()
        if self._pause or (running == 0 and many >= 0):
            self._block(now)
            return
        if self._rate is not None:  # the starts came too fast
            self._losses[0] += 1
            if now - self._rate_at > 1.0:
                self._cut_rate(now, self._rate, few=many < 0)
            if many >= 0:  # most likely all that come are turned away
                self._next_start = max(self._next_start, now + BLOCKED[0] * (many + 1))
            return
        if self._cap is None:
            self._cap, self._capped_at = max(1, running), now
        late = self._is_capped(now)
        self._losses[late] += 1
        if not late:
            self._cap = max(1, min(self._cap, running))
            self._rooms.append(running)
        elif self._losses[1] > 4 and self._losses[1] > (0.3 + self._noise) * self._ended[1]:  # it has become still less
            self._capped_at = now
            self._ended, self._losses = [sum(self._ended), 0], [sum(self._losses), 0]

    # --- a quota ------------------------------------------------------------------------------------------------------

    def _block(self, now: float) -> None:
        """Turned away although nothing else ran."""
        self._blocked_at = self._blocked_at if self._pause else now
        self._pause = min(BLOCKED[1], self._pause * 2) or BLOCKED[0]
        self._blocked_until = now + self._pause
        self._give_up_probe(now)

    def _unblock(self, now: float) -> None:
        """The first answer after everything was turned away."""
        self._pause, self._limit = 0.0, self._unlost  # the number at once was not what was wrong
        self._forget_losses()
        # What opens again soon is filled all the time, and its rate is not known. A quota of a minute blocks for long,
        # and frees its places as they were taken a minute ago: at the rate that was served before it was used up.
        filled = now - self._blocked_at < SHORT
        self._growth = RATE_GROWTH[0 if filled else 1]
        served = self._taken / max(1.0, self._blocked_at - self._opened)
        self._rate = max(self._recent_rate(now) if filled else served, 0.1)
        self._opened, self._taken = now, 0
        self._rate_at = self._next_start = now
        self._highest_rate = 0.0
        self._open_window(now + self._latency)

    def _cut_rate(self, now: float, rate: float, *, few: bool) -> None:
        """A loss although the rate was kept; `few` in a row."""
        rate *= 0.95 if self._growth == RATE_GROWTH[1] else 0.5
        self._growth = RATE_GROWTH[1]
        self._highest_rate = max(self._highest_rate, rate)
        self._rate = None if few and rate < LEAST_RATE * self._highest_rate else rate
        self._rate_at, self._next_start = now, now + BLOCKED[0]

    def _refusals_of_noise(self) -> int:
        """How many losses in a row may well be noise."""
        return max(REFUSALS, int(log(CHANCE) / log(min(max(self._noise, CHANCE), 0.5))))

    def _count_taken(self, now: float) -> None:
        self._taken += 1
        if self._answers and self._answers[-1][0] == now // 1:
            self._answers[-1][1] += 1
        else:
            self._answers.append([now // 1, 1])
        while self._answers[0][0] < now - MINUTE:
            self._answers.popleft()

    def _recent_rate(self, now: float) -> float:
        """Answers in a second, over the last minute."""
        seconds = min(MINUTE, now - (now if self._began is None else self._began))
        return sum(number for _, number in self._answers) / max(1.0, seconds)

    def _adapt_rate(self, now: float, goodput: float) -> None:
        """A learned rate grows while it is what holds the calls back."""
        if self._rate is not None and now > self._rate_at:
            if goodput > 0.5 * self._rate:
                self._rate *= self._growth ** (now - self._rate_at)
            self._rate_at = now

    # --- windows ------------------------------------------------------------------------------------------------------

    def _open_window(self, opens_at: float) -> None:
        self._opens_at, self._cap = opens_at, None
        self._ok = self._peak = 0
        self._ended, self._losses = [0, 0], [0, 0]
        self._rooms.clear()

    def _forget_losses(self) -> None:
        self._ended_before, self._losses_before = [0.0, 0.0], [0.0, 0.0]

    def _overload(self) -> int | None:
        """How many at once have room, if the losses ended with the cap; None if there are none, or they are noise.

        Noise takes the same share of the calls before the cap and after it.
        """
        if self._cap is None:
            return None
        ended = [MEMORY * old + new for old, new in zip(self._ended_before, self._ended)]  # noqa: B905
        losses = [MEMORY * old + new for old, new in zip(self._losses_before, self._losses)]  # noqa: B905
        self._ended_before, self._losses_before = ended, losses
        share = ended[0] / (ended[0] + ended[1])
        number = losses[0] + losses[1]
        deviation = (number * share * (1 - share)) ** 0.5
        if losses[0] - number * share <= CERTAIN * deviation:
            return None
        noise = self._ended[0] * losses[1] / ended[1]  # so many of the losses were none of the load's
        return max(1, sorted(self._rooms)[min(int(noise), len(self._rooms) - 1)])

    def _close_window(self, now: float, goodput: float) -> None:
        """Decide the next window's limit by what came of this one."""
        self._adapt_rate(now, goodput)
        late = self._cap is not None
        self._noise += (self._losses[late] / max(1, self._ended[late]) - self._noise) * 0.5
        if (room := self._overload()) is not None:
            self._limit, self._standing = room, None
            self._forget_losses()
            self._goodput = goodput
            self._wait_with_probe(now)
        elif self._standing is not None:
            self._unlost = self._standing
            self._judge_probe(now, goodput)
        else:
            self._unlost = self._limit
            self._goodput += (goodput - self._goodput) * (0.5 if self._goodput else 1.0)
        settle = 0.0
        if self._standing is None and now >= self._probe_at and self._peak >= 0.8 * self._limit < self.most:
            self._standing = self._limit
            step = GROWTH[min(self._successes, len(GROWTH) - 1)]
            self._limit = min(self.most, max(self._limit + 1, round(self._limit * step)))
            settle = self._latency  # the calls that began before end first
        self._open_window(now + settle)

    def _judge_probe(self, now: float, goodput: float) -> None:
        assert self._standing is not None  # noqa: S101
        growth = self._limit / self._standing - 1
        had_room = self._cap is None or self._cap > self._standing
        if had_room and goodput > self._goodput * (1 + GAIN * growth):
            self._goodput, self._standing = goodput, None
            self._successes += 1
            self._hold = HOLD[0]
        else:
            self._give_up_probe(now)

    def _give_up_probe(self, now: float) -> None:
        if self._standing is not None:
            self._limit, self._standing = self._standing, None
            self._wait_with_probe(now)

    def _wait_with_probe(self, now: float) -> None:
        self._successes = 0
        self._probe_at = now + self._hold
        self._hold = min(HOLD[1], self._hold * 2)
