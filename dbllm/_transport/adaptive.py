"""How many calls at once serve best: found out while they run. Pure decisions; the time is passed.

Three things are told apart. *Loss*: the server turns requests away, so fewer fit at once; after the first loss of a
window no more run at once than had room then. *Plateau*: more calls at once bring no more answers in a second, because
the server queues them. *Quota*: it turns requests away however few there are; then the starts are spread over time, at
the rate that was served before. Latency itself is never a signal: it grows with the length of the answers.
"""

from __future__ import annotations

from typing import Literal

Outcome = Literal["ok", "lost", "other"]


class FixedConcurrency:
    """The same number of calls at once, whatever comes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.most = limit

    def limit(self) -> int:
        """How many calls may run at once now."""
        return self._limit

    def pause(self, now: float, running: int) -> float:
        """Seconds until one more call may start."""
        return 0.0

    def started(self, now: float) -> None:
        """A call starts."""

    def ended(self, now: float, running: int, outcome: Outcome, seconds: float, weight: float = 1.0) -> None:
        """A call ended; `running` others are left."""


class AdaptiveConcurrency(FixedConcurrency):
    """Finds the number of calls at once.

    Args:
        most: never more than this.
        start: how many at first.
    """

    def __init__(self, most: int = 256, start: int = 8) -> None:
        super().__init__(min(start, most))
        self.most = most
