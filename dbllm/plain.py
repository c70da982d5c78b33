"""How a verb of the core becomes one of plain code: driven to its end over a blocking leaf."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from .io import drive

P = ParamSpec("P")
T = TypeVar("T")
Core = TypeVar("Core")
Core_co = TypeVar("Core_co", covariant=True)


class Plain(Generic[Core_co]):
    """An object of the core, in plain code."""

    def __init__(self, core: Core_co) -> None:
        self._core = core

    def __repr__(self) -> str:
        return repr(self._core).removeprefix("Async")


def now(verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Plain[Core], P], T]:
    """A verb of the core without await: same arguments, same result, same errors."""

    @wraps(verb)
    def plain(self: Plain[Core], /, *args: P.args, **options: P.kwargs) -> T:
        return drive(verb(self._core, *args, **options))

    return plain
