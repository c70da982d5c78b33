"""How far a long call is: a user's function is told, or a line shows it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger("dbllm")

OnProgress = Callable[[int, int], Awaitable[object] | object]
"""A user's function, sync or async: how many are done, and of how many."""


def progress_function(wanted: object) -> OnProgress | None:
    """The function to call.

    Raises:
        TypeError: it is neither a function nor a bool.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is True:
        return _ProgressLine()
    if not callable(wanted):
        raise TypeError(f"progress takes a function of (done, total), or True, not {type(wanted).__name__}.")
    return wanted


class ProgressReport:
    """Counts what is done, and tells it after each step."""

    def __init__(
        self, show: OnProgress | None, total: int, call: Callable[[Callable[[], Any]], Awaitable[Any]]
    ) -> None:
        self._show, self._call = show, call
        self.done, self.total = 0, total

    async def add(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        done, show = self.done, self._show
        if show is None:
            return
        try:
            await self._call(lambda: show(done, self.total))
        except Exception:
            self._show = None
            log.warning("progress raised an exception, and is called no more", exc_info=True)


class _ProgressLine:
    """A line of text that is written over itself, on a terminal or in a notebook; elsewhere nothing."""

    def __call__(self, done: int, total: int) -> None:
        out = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        if out is None or not (out.isatty() or "ipykernel" in sys.modules):
            return
        out.write(f"\r{done:,} of {total:,} texts ({done * 100 // total}%)" + ("\n" if done >= total else ""))
        out.flush()
