"""Notes which methods of somebody's client were called and came back: what is not tested is then known, not guessed."""

from __future__ import annotations

import functools
from typing import Any


class Watched:
    """Stands before a client and passes everything on."""

    def __init__(self, client: Any, done: set[str]) -> None:
        self._client = client
        self._done = done

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            answer = found(*args, **options)
            self._done.add(name)
            return answer

        return call


def methods(kind: type) -> set[str]:
    """The public methods of a client."""
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
