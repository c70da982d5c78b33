"""What users of other libraries type, and dbllm's name for it. Pure."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

from ._lazy import WholeImport

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=type)
S = TypeVar("S", bound="NamesOurs")

_VERB_OF = {"messages": "chat(messages)", "prompt": "complete(prompt)", "input": "respond(input) or embed(input)"}
_FIRST = (("messages",), ("prompt",), ("input",))


@lru_cache
def words(*sections: str) -> Mapping[str, str]:
    """What to use in place of others' names: sections of `_misnomers.ini`, of which an earlier one wins."""
    with WholeImport():
        from configparser import ConfigParser
        from pkgutil import get_data

    try:
        text = (get_data("dbllm", "_misnomers.ini") or b"").decode()
    except OSError:  # packed without it
        text = ""
    parser = ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(text)
    tables = [parser[section] for section in reversed(sections) if section in parser]
    lines = [(names.split(", "), instead) for table in tables for names, instead in table.items()]
    return {name: instead.replace("{name}", name) for names, instead in lines for name in names}


def suggestion(name: str, instead: Mapping[str, str], known: Iterable[str]) -> str:
    """What to use in place of an unknown name; "" where nobody can tell."""
    if found := instead.get(name):
        return found if found.startswith("a workspace") else f"use {found}"
    with WholeImport():
        from difflib import get_close_matches  # here: rarely wanted, and slow to import

    spelled = {each.lower(): each for each in sorted(known)}
    if near := get_close_matches(name.lower(), spelled, 1, 0.75):
        return f"did you mean {spelled[near[0]]}?"
    return f"use {instead['*']}" if "*" in instead else ""


def by_kind(section: str, value: object) -> str:
    """What to pass in place of a value of this kind, as a sentence; "" where nobody can tell."""
    table = words(section)
    known = [table[kind.__name__] for kind in type(value).__mro__ if kind.__name__ in table]
    return f" Pass {known[0]}." if known else ""


def unknown_keyword(owner: str, name: str, known: Iterable[str]) -> TypeError:
    """The error for a keyword argument that `owner` does not have."""
    names = [each for each in known if each != "self"]
    instead = words(f"keyword {owner.rpartition('.')[2]}", "keyword")
    hint = suggestion(name, {key: found for key, found in instead.items() if found != f"{name}="}, names)
    what = f"{owner} has no argument {name}=: {hint or 'it takes ' + ', '.join(f'{each}=' for each in names)}"
    return TypeError(what if what.endswith("?") else f"{what}.")


def wrong_call(function: Callable[..., Any], error: TypeError, places: int, named: Iterable[Any]) -> TypeError:
    """What to raise for arguments that a method does not take; the error itself where the call had begun.

    Args:
        function: the method, as its user called it.
        error: what Python said.
        places, named: how many arguments came by their places, and the names of the others.
    """
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return error
    owner, own = _name_of(function), inspect.unwrap(function)
    code = own.__code__
    most, known = code.co_argcount, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    other = [name for name in named if name not in known]
    if other and not code.co_flags & inspect.CO_VARKEYWORDS:
        return unknown_keyword(owner, other[0], known)
    if places > most:
        own = f"{' and '.join(known[1:most]) or 'nothing'} by {'its place' if most <= 2 else 'their places'}"
        rest = f"everything else by its name, such as {known[most]}=" if known[most:] else "nothing else"
        return TypeError(f"{owner} takes {own}, and {rest}.")
    if twice := [name for name in known[1:places] if name in named]:
        return TypeError(f"{owner} got {twice[0]} twice, by its place and by its name: leave one out.")
    lacks = [name for name in known[places : most - len(own.__defaults__ or ())] if name not in named]
    there = [f"; for {name}= there is {_VERB_OF[name]}" for name in other if name in _VERB_OF]
    meant = [name for name in other if words(f"call {own.__name__}").get(name, "").startswith("the first argument")]
    there = there or [f": write {lacks[0]}= in place of {name}=" for name in meant[:1]]
    return TypeError(f"{owner} needs {' and '.join(lacks)}, by place or by name{''.join(there)}.")


def explain_keywords(function: F) -> F:
    """Make a function answer arguments that it does not have with those that were probably meant."""

    @wraps(function)
    def explained(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except TypeError as error:
            raise wrong_call(explained, error, len(args), [*options]) from error.__cause__
        finally:
            del args, options  # so that no traceback with local variables shows a credential

    if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(function):
        inspect.markcoroutinefunction(explained)
    return cast("F", explained)


class nothing:  # messages say by the name of its class what they got
    """What is passed where a verb is called without its first argument."""


def may_lack(function: F) -> F:
    """A verb that can be called without its first argument, which it then refuses; its signature stays."""
    own: Any = function
    copy = FunctionType(own.__code__, own.__globals__, own.__name__, (nothing(),), own.__closure__)
    copy.__kwdefaults__ = own.__kwdefaults__
    return cast("F", wraps(function)(copy))


def explain_fields(kind: K) -> K:
    """`explain_keywords` for the fields of a dataclass."""
    made: Any = kind
    made.__init__ = explain_keywords(made.__init__)
    return kind


def _name_of(function: Callable[..., Any]) -> str:
    """A function's name, as a message says it: a class stands for its `__init__`."""
    name = function.__qualname__.removesuffix(".__init__")
    return name if name[:1].isupper() and "." not in name else f"{name}()"


def missing_attribute(owner: str, name: str, instead: Mapping[str, str], known: Iterable[str]) -> AttributeError:
    """The error for an attribute that `owner` does not have."""
    said = f"{owner} has no attribute {name!r}"
    if name.startswith("_"):  # asked for by other programs
        return AttributeError(said)
    public = [each for each in known if not each.startswith("_")]
    hint = suggestion(name, instead, public) or (f"it has {', '.join(public)}" if 0 < len(public) < 20 else "")
    return AttributeError(f"{said}: {hint}{'' if hint.endswith('?') else '.'}" if hint else f"{said}.")


def missing_name(package: str, name: str, known: Iterable[str]) -> Exception:
    """The error for a name that a package does not have, for its `__getattr__`; an import by that name has its own."""
    is_import = sys._getframe(2).f_code.co_name == "_handle_fromlist"  # of an AttributeError it keeps no word
    with WholeImport():
        from importlib.util import find_spec

    if is_import and find_spec(f"{package}.{name}") is not None:  # a module, which is imported next
        return AttributeError(name)
    flaw = missing_attribute(package, name, words(f"module {package}"), known)
    return ImportError(str(flaw), name=package) if is_import else flaw


class NamesOurs:
    """Answers an attribute that it does not have, and what cannot be done with it, with what was probably meant."""

    _names: ClassVar[str] = ""  # sections of _misnomers.ini

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, verb in [*vars(cls).items()]:
            if isinstance(verb, FunctionType) and verb.__code__.co_varnames[1:2] in _FIRST and not verb.__defaults__:
                setattr(cls, name, may_lack(verb))

    if not TYPE_CHECKING:  # a type checker finds the mistake by itself

        def __getattr__(self, name: str) -> Any:
            raise missing_attribute(type(self).__name__, name, words(*self._names.split(", ")), dir(type(self)))

        def __call__(self, *_: object, **__: object) -> Any:
            raise self._misuse("called")

        def __getitem__(self, _: object) -> Any:  # loops and `in` end here, too
            raise self._misuse("indexed or looped over")

    def _misuse(self, how: str) -> TypeError:
        table = words(*self._names.split(", "))
        instead = table.get(how) or f"use {table.get('()', 'its methods')}"
        return TypeError(f"{type(self).__name__} is not {how}: {instead}.")

    def __copy__(self: S) -> S:
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds connections and credentials, so it is not pickled: make the client where it "
            "is used, from the environment or a profile."
        )


class Fixed(NamesOurs):
    """Refuses an attribute that it does not have: setting one would change nothing, silently.

    Of its own classes alone: a program's subclass may hold what it likes.
    """

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            kind = type(self)
            if name[0] != "_" and not hasattr(kind, name) and kind.__module__.partition(".")[0] == "dbllm":
                del value  # it may be a token
                raise missing_attribute(kind.__name__, name, words(f"set {self._names.rpartition(', ')[2]}"), ())
            object.__setattr__(self, name, value)


class NotAwaited(NamesOurs):
    """Answers `await` as well: of streams and runs alone.

    What has `__await__` is awaited by whoever asks whether it can be, such as frameworks that hand on what a user's
    function made: a client or an endpoint among them must not look like that.
    """

    if not TYPE_CHECKING:

        def __await__(self) -> Any:
            raise self._misuse("awaited")


_ASYNC = "{0} is asynchronous: write `async {1}` in an async function, or use Client in plain code."
_PLAIN = "{0} is for plain code: write `{1}` without async, or use AsyncClient in an async function."


class OnlyAsync:
    """Answers `with` and `for` with what to write instead."""

    if not TYPE_CHECKING:

        def __enter__(self) -> Any:
            raise TypeError(_ASYNC.format(type(self).__name__, "with"))

        def __exit__(self, *_: object) -> None: ...


class OnlyPlain:
    """Answers `async with` with what to write instead."""

    if not TYPE_CHECKING:

        def __aenter__(self) -> Any:
            raise TypeError(_PLAIN.format(type(self).__name__, "with"))

        def __aexit__(self, *_: object) -> None: ...


class OnlyAsyncStream(OnlyAsync):
    """The same of a stream."""

    if not TYPE_CHECKING:

        def __iter__(self) -> Any:
            raise TypeError(_ASYNC.format(type(self).__name__, "for"))


class OnlyPlainStream(OnlyPlain):
    """The same of a stream."""

    if not TYPE_CHECKING:

        def __aiter__(self) -> Any:
            raise TypeError(_PLAIN.format(type(self).__name__, "for"))
