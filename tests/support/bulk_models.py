"""Models of servers on a virtual clock: what each takes at once, and what it turns away. They stand for an endpoint.

The scheduler under test is the real one, with its real tasks; only the time between sending and answering is made here.
`answered` has the times of the answers, `refused` those of the 429s.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import anyio

from dbllm import Completion, InternalServerError, RateLimitError, Raw


def answer(prompt_tokens: int = 10, completion_tokens: int = 20) -> Completion:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Completion.model_validate({"choices": [{"index": 0, "text": "x"}], "usage": usage})


class Model:
    """A server that answers after `seconds`, give or take a half."""

    def __init__(self, seconds: float = 1.0, seed: int = 1) -> None:
        self.seconds, self.random = seconds, random.Random(seed)
        self.running = self.most_running = 0
        self.errors = 0
        self.answered: list[float] = []
        self.refused: list[float] = []

    async def _lookup_verbs(self) -> tuple[str, ...]:
        return ("complete",)

    async def generate(self, prompt: str, **_: Any) -> Completion:
        if (why := self.refuses()) is not None:
            self.refused.append(anyio.current_time())
            await anyio.sleep(0.01)
            raise RateLimitError(why, raw=Raw(429))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.work()
            reply = self.finish()
        finally:
            self.running -= 1
        self.answered.append(anyio.current_time())
        return reply

    def refuses(self) -> str | None:
        return None

    async def work(self) -> None:
        await anyio.sleep(self.seconds * self.random.uniform(0.5, 1.5))

    def finish(self) -> Completion:
        return answer()


class HardLimit(Model):
    """More than `limit` at once are turned away."""

    def __init__(self, limit: int = 48, seconds: float = 1.0) -> None:
        super().__init__(seconds)
        self.limit = limit

    def refuses(self) -> str | None:
        return "too many at once" if self.running >= self.limit else None


class CapacityStep(HardLimit):
    """The limit falls to a quarter at `down`, and comes back at `up`."""

    def __init__(self, limit: int = 64, down: float = 60.0, up: float = 120.0) -> None:
        super().__init__(limit)
        self.full, self.down, self.up = limit, down, up

    def refuses(self) -> str | None:
        self.limit = self.full // 4 if self.down <= anyio.current_time() < self.up else self.full
        return super().refuses()


class Queueing(Model):
    """It turns nothing away: `limit` are worked on, the others wait."""

    def __init__(self, limit: int = 24, seconds: float = 1.0) -> None:
        super().__init__(seconds)
        self.slots = anyio.Semaphore(limit)

    async def work(self) -> None:
        async with self.slots:
            await super().work()


class Noisy(Queueing):
    """One answer in twenty is a 503, whatever the load."""

    async def work(self) -> None:
        await super().work()
        if self.random.random() < 0.05:
            self.refused.append(anyio.current_time())
            raise InternalServerError("upstream hiccup", raw=Raw(503))


class RandomRefusals(Queueing):
    """A share of the requests is a 429 at once, whatever the load; with `hard`, so are those over the limit."""

    def __init__(
        self, limit: int = 48, seed: int = 3, *, hard: bool = False, share: float = 0.05, seconds: float = 1.0
    ) -> None:
        super().__init__(limit, seconds)
        self.limit, self.hard, self.share, self.random = limit, hard, share, random.Random(seed)

    def refuses(self) -> str | None:
        if self.hard and self.running >= self.limit:
            return "too many at once"
        return "by chance" if self.random.random() < self.share else None


class TokenQuota(Model):
    """A sliding minute of output tokens: `reserves` are reserved, and what the answer leaves is given back."""

    def __init__(
        self, per_minute: int = 60_000, reserves: int = 200, seconds: float = 1.0, requests: int | None = None
    ) -> None:
        super().__init__(seconds)
        self.per_minute, self.reserves, self.requests = per_minute, reserves, requests
        self.window: deque[list[float]] = deque()  # time, tokens
        self.used = 0.0
        self.tokens: list[tuple[float, int]] = []

    def refuses(self) -> str | None:
        now = anyio.current_time()
        while self.window and self.window[0][0] <= now - 60:
            self.used -= self.window.popleft()[1]
        if self.used + self.reserves > self.per_minute or (self.requests and len(self.window) >= self.requests):
            return "output tokens per minute exceeded"
        self.entry = [now, float(self.reserves)]
        self.window.append(self.entry)
        self.used += self.reserves
        return None

    async def generate(self, prompt: str, **_: Any) -> Completion:
        return await super().generate(prompt)

    async def work(self) -> None:
        entry = self.entry
        await super().work()
        tokens = self.random.randint(self.reserves // 4, self.reserves)
        if anyio.current_time() - entry[0] < 60:
            self.used += tokens - entry[1]
            entry[1] = tokens
        self.last = tokens
        self.tokens.append((entry[0], tokens))

    def finish(self) -> Completion:
        return answer(10, self.last)


class TokenBucket(Model):
    """`rate` requests in a second, and a burst of `burst`."""

    def __init__(self, rate: float = 20.0, burst: float = 20.0, seconds: float = 1.0) -> None:
        super().__init__(seconds)
        self.rate, self.burst, self.level, self.at = rate, burst, burst, 0.0

    def refuses(self) -> str | None:
        now = anyio.current_time()
        self.level, self.at = min(self.burst, self.level + (now - self.at) * self.rate), now
        if self.level < 1:
            return "too many requests"
        self.level -= 1
        return None
