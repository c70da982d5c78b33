"""What cannot be done with a reply or a part of one, and what to do instead. Pure, and imported late."""

from __future__ import annotations

import re
from typing import Any

from .._misnomers import missing_attribute, words

_MAIN = ("text", "vectors", "predictions")  # what somebody asked for, by its attribute


def _main(kind: Any) -> str:
    return next((name for name in _MAIN if _has_field(kind, name)), "")


def _has_field(kind: Any, name: str) -> bool:
    return name in kind.model_fields or hasattr(kind, name)


def missing_field(kind: Any, name: str) -> AttributeError:
    """The error for an attribute that a reply, or a part of one, does not have."""
    known = [*kind.model_fields, *(each for each in ("text", "message", "vectors", "raw") if hasattr(kind, each))]
    meant = [each for each in words("reply").get(name, "").split(" | ") if _has_field(kind, re.split(r"\W", each)[0])]
    main = _main(kind)
    if main and hasattr(str if main == "text" else list, name):
        meant.append(f"{main}.{name}")
    return missing_attribute(kind.__name__, name, dict.fromkeys([name], meant[0]) if meant else {}, known)


def wrong_use(kind: Any, why: str) -> TypeError:
    """The error for a reply that is used as a text or a list is: iterated over, added, measured."""
    one, main = _name_of_one(kind), _main(kind)
    instead = f"use {one}.{main}, or" if main else "use its attributes, or"
    return TypeError(f"{kind.__name__} {why}: {instead} {one}.model_dump() for all of it as a dict.")


def wrong_key(kind: Any, key: object) -> TypeError:
    """The error for a reply that is used as a dict is, or by places."""
    one, main = _name_of_one(kind), _main(kind)
    name = key if isinstance(key, str) and key.isidentifier() else main or "NAME"
    name += f"[{key}]" * (isinstance(key, int) and main in ("vectors", "predictions"))
    return TypeError(f"{kind.__name__} has attributes and no keys: write {one}.{name}, not {one}[{key!r}].")


def _name_of_one(kind: Any) -> str:
    """What a program calls one of this kind: a reply, or by the last word of its class."""
    return "reply" if hasattr(kind, "request_id") else re.findall(r"[A-Z][a-z]*", kind.__name__)[-1].lower()
