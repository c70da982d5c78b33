"""What an endpoint speaks (its task), which verbs that allows, and what to say where one does not fit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..errors import BadRequestError, ConfigError

Kind = Literal["chat", "completions", "embeddings", "responses", "agent", "custom", "app"]
"""What an endpoint speaks; "agent" is `agent/v2/chat`, "app" a driver proxy app."""

Verb = Literal["complete", "chat", "respond", "embed", "predict"]

ENVELOPE_KEYS = frozenset({"messages", "input", "inputs", "instances", "dataframe_records", "dataframe_split"})
"""A transform's result that has one of these is the whole body."""

_KINDS: dict[str, Kind] = {
    "llm/v1/chat": "chat",
    "agent/v1/chat": "chat",
    "llm/v1/completions": "completions",
    "llm/v1/embeddings": "embeddings",
    "agent/v1/responses": "responses",
    "agent/v2/responses": "responses",
    "agent/v2/chat": "agent",
    **{kind: kind for kind in get_args(Kind) if kind != "app"},
}

VERBS: dict[Kind, tuple[Verb, ...]] = {
    "chat": ("complete", "chat"),
    "completions": ("complete",),
    "embeddings": ("embed",),
    "responses": ("complete", "respond"),
    "agent": ("complete", "chat"),
    "custom": ("complete", "predict"),
    "app": ("complete",),
}


def kind_of_task(task: str | None) -> Kind:
    """What an endpoint of this `task` speaks. Databricks backends `task` out for custom models."""
    return _KINDS.get(task or "", "custom")


def parse_task(task: str | None) -> Kind | None:
    """The kind for a user's `task=`.

    Raises:
        ConfigError: no such task.
    """
    if task is not None and task not in _KINDS:
        raise ConfigError(f"task={task!r} is not one of {', '.join(_KINDS)}.")
    return _KINDS[task] if task is not None else None


def candidate_kinds(
    kind: Kind | None, flat: Mapping[str, Any], guesses: tuple[Kind, ...] = ("chat", "completions", "custom")
) -> tuple[Kind, ...]:
    """What to try on an endpoint: what it is, or in turn where that is unknown (unless the body is whole already)."""
    if kind is not None:
        return (kind,)
    if not ENVELOPE_KEYS & flat.keys():
        return guesses if "prompt" in flat else ("custom",)
    return ("chat",) if "messages" in flat else ("responses",) if "input" in flat else ("custom",)


def all_rejected(errors: list[BadRequestError]) -> BadRequestError:
    """The error of a call whose every envelope was refused."""
    *before, last = errors
    if before:
        last.previous = (*before, *last.previous)
        last.hint = (
            "This token may not look up the endpoint's task, so messages, prompt and dataframe_records were tried in "
            f"turn, and all were refused (the first: {before[0].detail}); say which it is with task=."
        )
    return last


def wrong_verb_hint(name: str, verb: Verb, verbs: tuple[Verb, ...]) -> str:
    """The hint for a verb that is not among those the endpoint does; "" where it is, or where they are not known."""
    if verb in verbs or not verbs:
        return ""
    return f"Endpoint {name!r} does not do {verb}(): use {' or '.join(f'{does}()' for does in verbs)}."
