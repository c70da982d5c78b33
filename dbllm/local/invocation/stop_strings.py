"""Stop strings, enforced exactly, also when one is split over several pieces of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopCutter:
    """Cuts a text before its first stop string, whatever pieces it comes in.

    The first stop string is the one that is complete first; of several complete at the same character, the longest.

    Attributes:
        stopped: whether a stop string was met. Everything after it is dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._withheld_text = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What can be shown now; text that may turn out to be the start of a stop string is held back."""
        if self.stopped:
            return ""
        text, self._withheld_text = self._withheld_text + text, ""
        positions = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            return text[: min(positions)[1]]
        visible = len(text) - self._undecided(text)
        self._withheld_text = text[visible:]
        return text[:visible]

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        withheld, self._withheld_text = self._withheld_text, ""
        return withheld

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        ends = range(longest, 0, -1)
        return next((size for size in ends if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
