"""How an object of the core becomes one for plain code: a blocking backend drives its coroutines to their end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from .backend import run_without_loop

P = ParamSpec("P")
T = TypeVar("T")
Made = TypeVar("Made")
Out = TypeVar("Out")
Core = TypeVar("Core")
Core_co = TypeVar("Core_co", covariant=True)


class _Drives(Protocol[Core_co]):
    """What drives an object of the core."""

    @property
    def _core(self) -> Core_co: ...


class SyncFacade(Generic[Core_co]):
    """An object of the core, in plain code."""

    def __init__(self, core: Core_co) -> None:
        self._core = core

    def __repr__(self) -> str:
        return repr(self._core).removeprefix("Async")


def sync_method(
    verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Drives[Core], P], T]:
    """A verb of the core without await: same arguments, same result, same errors."""

    @wraps(verb)
    def plain(self: _Drives[Core], /, *args: P.args, **options: P.kwargs) -> T:
        coroutine = verb(self._core, *args, **options)
        del args, options  # the verb knows what of them may be shown in a traceback with locals
        return run_without_loop(coroutine)

    return plain


def sync_factory(
    verb: Callable[Concatenate[Core, P], Made], into: Callable[[Made], Out]
) -> Callable[Concatenate[_Drives[Core], P], Out]:
    """A method of the core that makes an object, made into the one for plain code."""

    @wraps(verb)
    def plain(self: _Drives[Core], /, *args: P.args, **options: P.kwargs) -> Out:
        return into(verb(self._core, *args, **options))

    return plain
