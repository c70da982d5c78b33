"""Keywords of a call that are no parameter of its model: what was probably meant. Pure, and imported late."""

from __future__ import annotations

from .._lazy import WholeImport
from .._misnomers import OR_CALL, words
from .tasks import Verb

_OURS = ("the client", "the first argument")  # what no model takes by that name
OPTIONS = ("timeout", "retry", "headers", "extra_body", "tags", "stop")


def meant(name: str, verb: Verb | None) -> str:
    """What to say of a keyword that is no parameter of a model; "" where it may be one.

    Args:
        name: the keyword.
        verb: what is called, where its wire format is known; None: a model whose parameters have any name.
    """
    with WholeImport():
        from difflib import get_close_matches

    own = f"the argument {name}= of the call" if name in OPTIONS else ""  # it arrived inside `params=`
    near = next(iter(get_close_matches(name.lower(), OPTIONS, 1, 0.8)), "")
    if own := own or words("call anywhere").get(name) or near:
        return f"{name!r} would go to the model. For dbllm's own option use {own}."
    if verb is None:
        return ""
    instead = words(f"call {verb}", "call", "keyword").get(name, "")
    fields = words("call fields")
    if name not in fields and (close := get_close_matches(name.lower(), fields, 1, 0.9)):
        instead = f"{close[0]}="
    if not instead or instead.endswith(OR_CALL):
        return ""
    to_model = f" A model that does take {name!r} gets it by extra_body={{{name!r}: …}}."
    return f"{verb}() has no {name}=: use {instead}.{'' if instead.startswith(_OURS) else to_model}"
