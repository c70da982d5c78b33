"""Keywords of a call that are no parameter of its model: what was probably meant. Pure, and imported late."""

from __future__ import annotations

from collections.abc import Iterable

from .._lazy import WholeImport
from .._misnomers import words
from .tasks import Verb

_OURS = ("the client", "the first argument")  # what no model takes by that name
OPTIONS = ("timeout", "retry", "headers", "extra_body", "tags", "stop")


def meant(name: str, verb: Verb | None, fields: Iterable[str]) -> str:
    """What to say of a keyword that is no parameter of a model; "" where it may be one.

    Args:
        name: the keyword.
        verb: what is called, where its wire format is known; None: a model whose parameters have any name.
        fields: what is a field of these formats, or an argument: of it the name may be a typing error.
    """
    with WholeImport():
        from difflib import get_close_matches

    near = get_close_matches(name.lower(), OPTIONS, 1, 0.8)
    if name in OPTIONS:  # arrived inside `params=`: still ours
        near = [f"the argument {name}= of the call"]
    anywhere = words("call anywhere")
    spelled = "".join(get_close_matches(name.lower(), anywhere, 1, 0.9))
    if own := anywhere.get(name) or "".join(near) or anywhere.get(spelled):
        return f"{name!r} would go to the model. For dbllm's own option use {own}."
    if verb is None:
        return ""
    instead = words(f"call {verb}", "call", "keyword").get(name, "")
    instead = instead or next((f"{close}=" for close in get_close_matches(name.lower(), fields, 1, 0.9)), "")
    if not instead or instead.endswith("or the call"):
        return ""
    to_model = f" A model that does take {name!r} gets it by extra_body={{{name!r}: …}}."
    return f"{verb}() has no {name}=: use {instead}.{'' if instead.startswith(_OURS) else to_model}"
