"""Wraps an object of the core for plain code: its coroutines run to their end over a blocking backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import unwrap
from types import FunctionType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from .._misnomers import explain_keywords, wrong_call
from .backend import run_without_loop

P = ParamSpec("P")
T = TypeVar("T")
Result = TypeVar("Result")
Out = TypeVar("Out")
Core = TypeVar("Core")
Core_co = TypeVar("Core_co", covariant=True)

_ASYNC = re.compile(r"\bAsync(?=[A-Z])")


class _HasCore(Protocol[Core_co]):
    """An object that wraps one of the core."""

    @property
    def _core(self) -> Core_co: ...


class SyncFacade(Generic[Core_co]):
    """A wrapper for plain code around an object of the core."""

    def __init__(self, core: Core_co) -> None:
        self._core = core

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, member in vars(cls).items():
            if isinstance(verb := getattr(member, "__wrapped__", None), FunctionType):  # errors and help() show names
                member.__qualname__ = verb.__qualname__ = f"{cls.__qualname__}.{name}"
                member.__name__, member.__module__ = name, cls.__module__

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)  # missing if `__init__` failed
        return re.sub(r"^\w+", type(self).__name__, repr(core))


def _renamed(verb: Callable[..., Any], qualname: str = "", **returns: Any) -> Any:
    """A copy of a function with a name of its own, and with annotations that name the sync classes."""
    own: Any = unwrap(verb)
    copy = FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    copy.__kwdefaults__, copy.__doc__ = own.__kwdefaults__, own.__doc__
    copy.__annotations__ = {name: _ASYNC.sub("", str(kind)) for name, kind in own.__annotations__.items()} | returns
    copy.__qualname__ = qualname or own.__qualname__
    return copy if own is verb else explain_keywords(copy)


def sync_method(
    verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_HasCore[Core], P], T]:
    """A coroutine method of the core without await: same arguments, same result, same errors."""
    verb = _renamed(verb)

    @wraps(verb)
    def plain(self: _HasCore[Core], /, *args: P.args, **options: P.kwargs) -> T:
        try:
            coroutine = verb(self._core, *args, **options)
        except TypeError as error:
            raise wrong_call(plain, error, len(args) + 1, [*options]) from error.__cause__
        finally:
            del args, options  # so that no traceback with local variables shows them from here
        return run_without_loop(coroutine)

    return plain


def sync_factory(
    verb: Callable[Concatenate[Core, P], Result], into: Callable[[Result], Out]
) -> Callable[Concatenate[_HasCore[Core], P], Out]:
    """A method of the core that returns an object, which `into` wraps for plain code."""
    known = not isinstance(into, type) or into.__name__ in unwrap(verb).__globals__
    returns: dict[str, Any] = {} if known else {"return": into}
    verb = _renamed(verb, **returns)

    @wraps(verb)
    def plain(self: _HasCore[Core], /, *args: P.args, **options: P.kwargs) -> Out:
        try:
            made = verb(self._core, *args, **options)
        except TypeError as error:
            raise wrong_call(plain, error, len(args) + 1, [*options]) from error.__cause__
        finally:
            del args, options
        return into(made)

    return plain


def sync_method_into(
    verb: Callable[Concatenate[Core, P], Coroutine[Any, Any, Result]], into: Callable[[Result], Out]
) -> Callable[Concatenate[_HasCore[Core], P], Out]:
    """A coroutine method of the core that returns an object, which `into` wraps for plain code."""
    returns: dict[str, Any] = {"return": into}
    verb = explain_keywords(_renamed(verb, **returns))

    @wraps(verb)
    def plain(self: _HasCore[Core], /, *args: P.args, **options: P.kwargs) -> Out:
        return into(run_without_loop(verb(self._core, *args, **options)))

    return plain


def same_signature(
    core: type, init: Callable[Concatenate[Core, P], None]
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Gives an `__init__` that passes everything on to `core`'s the signature of that one."""

    def decorate(own: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        core.__init__ = own.__wrapped__ = _renamed(init, own.__qualname__)  # type: ignore[misc, attr-defined]  # mypy knows no assigned __init__
        return own

    return decorate
