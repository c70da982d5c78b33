"""Where a call goes and in which envelope. Pure."""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import quote

from pydantic import BaseModel

from .errors import BadRequestError, ConfigError
from .schema import Message, OutputItem

Kind = Literal["chat", "completions", "embeddings", "responses", "agent", "custom", "app"]
"""What an endpoint speaks; "agent" is `agent/v2/chat`, "app" a driver proxy app."""

Verb = Literal["complete", "chat", "respond", "embed", "predict"]

FALLBACK: tuple[Kind, ...] = ("chat", "completions", "custom")
"""The order in which `complete` tries where the look-up is forbidden."""

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


def is_loopback(name: str) -> bool:
    """Whether a host name is this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def kind_of(task: str | None) -> Kind:
    """What an endpoint of this `task` speaks. Databricks leaves `task` out for custom models."""
    return _KINDS.get(task or "", "custom")


def checked_task(task: str | None) -> Kind | None:
    """The kind for a user's `task=`.

    Raises:
        ConfigError: no such task.
    """
    if task is not None and task not in _KINDS:
        raise ConfigError(f"task={task!r} is not one of {', '.join(_KINDS)}.")
    return _KINDS[task] if task is not None else None


def guesses(kind: Kind | None, flat: Mapping[str, Any]) -> tuple[Kind, ...]:
    """What to try on an endpoint: what it is, or in turn where that is unknown (unless the body is whole already)."""
    if kind is not None:
        return (kind,)
    if not ENVELOPE_KEYS & flat.keys():
        return FALLBACK if "prompt" in flat else ("custom",)
    return ("chat",) if "messages" in flat else ("responses",) if "input" in flat else ("custom",)


def all_refused(errors: list[BadRequestError]) -> BadRequestError:
    """The error of a call whose every envelope was refused."""
    *before, last = errors
    if before:
        last.previous = (*before, *last.previous)
        last.hint = (
            "This token may not look up the endpoint's task, so messages, prompt and dataframe_records were tried in "
            f"turn, and all were refused (the first: {before[0].detail}); say which it is with task=."
        )
    return last


def which_verb(name: str, verb: Verb, kind: Kind | None) -> str:
    """The hint for a verb that the endpoint does not do; "" where it does, or nobody knows."""
    if kind is None or verb in VERBS[kind]:
        return ""
    return f"Endpoint {name!r} does not do {verb}(): use {' or '.join(f'{does}()' for does in VERBS[kind])}."


def which_exist(name: str, listed: Any) -> str:
    """The hint for an endpoint that was not found, from the workspace's list of them."""
    from difflib import get_close_matches  # here and in `_meant`: rarely wanted, and slow to import

    items = listed.get("endpoints") if isinstance(listed, dict) else None
    names = sorted(str(item.get("name")) for item in items or () if isinstance(item, dict))
    if name in names:
        return "The endpoint exists; what was not found lies behind it."
    near = get_close_matches(name, names, 1)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return (f"Did you mean {near[0]!r}? " if near else "") + f"This workspace has: {shown or 'no endpoint at all'}."


def quoted(name: object, what: str = "an endpoint") -> str:
    """A name as one segment of a path.

    Raises:
        ConfigError: it is none ("." and ".." would leave their place in the path).
    """
    try:
        if isinstance(name, str) and name.strip().strip("."):
            return quote(name, safe="")
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"{what} needs a name, not {name!r}.")


class Place(NamedTuple):
    """Where a handle's calls go: a path, the name that messages use, and what is spoken there, where that is known."""

    path: str
    name: str
    kind: Kind | None


def invocations_path(name: str, served_model: str | None = None) -> str:
    """The path that calls a serving endpoint, or one served entity behind it (Databricks REST)."""
    served = f"/served-models/{quoted(served_model, 'a served model')}" if served_model is not None else ""
    return f"/serving-endpoints/{quoted(name)}{served}/invocations"


def app_path(port: int | str, cluster_id: str, org: str = "0") -> str:
    """The path of a driver proxy app; org "0" stands for the workspace the host already names.

    Raises:
        ConfigError: the port is not a whole number from 3000 to 8000 (what Databricks forwards).
    """
    digits = str(port)
    if isinstance(port, bool) or not (digits.isascii() and digits.isdigit() and 3000 <= int(digits[:6]) <= 8000):
        raise ConfigError(f"port {digits[:20]!r}: a driver proxy app listens on a port from 3000 to 8000.")
    return f"/driver-proxy-api/o/{quoted(org)}/{quoted(cluster_id, 'a cluster')}/{int(digits)}"


def flat_request(prompt: object, stop: object, params: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt/stop signature, before any envelope. An empty `stop` is not sent.

    Raises:
        TypeError: `prompt` is no str, or `stop` no list of str.
        ValueError: `n` asks for several answers.
    """
    if not isinstance(prompt, str):
        several = isinstance(prompt, (list, tuple))
        more = " For many prompts at once there is dbllm.bulk; for messages there is chat()." if several else ""
        raise TypeError(f"complete() takes one prompt, a str, not {type(prompt).__name__}.{more}")
    if isinstance(n := params.get("n"), int) and n > 1:
        raise ValueError(f"complete() returns one text, so n={n} would lose answers: use chat(..., n={n}).")
    return {"prompt": prompt, **checked_stop(stop), **params}


def checked_stop(stop: object) -> dict[str, list[str]]:
    """The field `stop`, a list of str; one str stands for a list of it. Nothing where there is none.

    Raises:
        TypeError: something else.
    """
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, (list, tuple)) or not all(isinstance(item, str) for item in stops):
        raise TypeError(f"stop is a str or a list of str, not {stop!r}.")
    return {"stop": list(stops)} if stops else {}


def envelope(kind: Kind, flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The body for a flat request on an endpoint of this kind.

    Raises:
        ConfigError: an embeddings endpoint, which completes nothing.
        TypeError: no prompt is left (a transform dropped it) where the endpoint needs one.
    """
    if kind == "embeddings":
        raise ConfigError(f"endpoint {name!r} makes embeddings: use embed() on it instead of complete().")
    body = dict(flat)
    if kind == "app" or ENVELOPE_KEYS & body.keys():
        return body
    if kind == "custom":
        return {"dataframe_records": [body]}
    if not isinstance(body.get("prompt"), str):
        raise TypeError(
            f"endpoint {name!r} needs a prompt: transform_input returned neither 'prompt' (a str) nor a whole body "
            f"with one of {', '.join(sorted(ENVELOPE_KEYS))}."
        )
    if kind == "completions":
        return body
    message = {"role": "user", "content": body.pop("prompt")}
    return {"input" if kind == "responses" else "messages": [message], **body}


def chat_messages(messages: object, verb: Verb = "chat", told_by: tuple[str, ...] = ("role",)) -> list[Any]:
    """Messages as they are sent, from a str (one user message), a message or a list of messages.

    Raises:
        TypeError: something else.
        ValueError: no message at all.
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, (Message, OutputItem, Mapping)):
        messages = [messages]
    if not isinstance(messages, Sequence) or isinstance(messages, (bytes, bytearray)):
        raise TypeError(f"{verb}() takes a str, a message or a list of messages, not {type(messages).__name__}.")
    if not messages:
        raise ValueError(f"{verb}() needs at least one message.")
    return [_message(item, place, told_by) for place, item in enumerate(messages)]


def _message(item: object, place: int, told_by: tuple[str, ...]) -> object:
    if isinstance(item, Message):
        return item.as_wire()
    told = isinstance(item, Mapping) and any(isinstance(item.get(key), str) for key in told_by)
    if told or isinstance(item, OutputItem):
        return item
    raise TypeError(
        f"messages[{place}] is a Message or a dict with 'role' and 'content', not {type(item).__name__}"
        + (f" without a {' or a '.join(told_by)}." if isinstance(item, Mapping) else ".")
    )


def response_body(items: object, custom_inputs: object, *params: Mapping[str, Any]) -> dict[str, Any]:
    """The body for an agent (`agent/v1/responses`): its `input` is always a list of items."""
    own = {} if custom_inputs is None else {"custom_inputs": custom_inputs}
    return {"input": chat_messages(items, "respond", ("role", "type")), **own, **wire_params(*params)}


def chat_body(messages: object, stop: object, *params: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat; later parameters win."""
    return {"messages": chat_messages(messages), **checked_stop(stop), **wire_params(*params)}


def embedding_input(texts: object) -> list[str]:
    """The texts to embed as a list; one str stands for a list of it.

    Raises:
        TypeError: something else.
        ValueError: no text at all.
    """
    items = [texts] if isinstance(texts, str) else texts
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise TypeError(f"embed() takes a str or a list of str, not {type(texts).__name__} with other items in it.")
    if not items:
        raise ValueError("embed() needs at least one text.")
    return list(items)


def prediction_body(forms: Mapping[str, Any], params: Mapping[str, Any] | None) -> dict[str, Any]:
    """The body of a custom model's call: exactly one input form, and `params` beside it (MLflow scoring protocol).

    Raises:
        TypeError: none or several forms were given.
    """
    given = {name: value for name, value in forms.items() if value is not None}
    if len(given) != 1:
        raise TypeError(f"predict() takes exactly one of {', '.join(forms)}; got {' and '.join(given) or 'none'}.")
    sent = {name: value for name, value in (params or {}).items() if value is not None}  # whatever their names
    return {**given, **({"params": sent} if sent else {})}


OPTIONS = ("timeout", "retry", "headers", "extra_body", "stop")
_ELSEWHERE = {
    "max_retries": "retry=Retry(attempts=…)",
    "retries": "retry=Retry(attempts=…)",
    "request_timeout": "timeout",
    "extra_headers": "headers",
    "extra_query": "client.request(..., params=…)",
    "stream": "the verbs stream_chat and stream_complete",
}


def wire_params(*layers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters that go to the wire: later layers win, None means "not sent".

    Raises:
        TypeError: a name that is nearly one of dbllm's own options, so that a typing error never goes to the wire.
    """
    merged = {name: value for layer in layers for name, value in (layer or {}).items()}
    for name in merged:
        if instead := _meant(name if isinstance(name, str) else repr(name)):
            raise TypeError(f"{name!r} would go to the model. For dbllm's own option use {instead}.")
    return {name: value for name, value in merged.items() if value is not None}


@lru_cache(maxsize=512)
def _meant(name: str) -> str:
    if name in OPTIONS:  # arrived inside `params=`: still ours
        return f"the argument {name}= of the call"
    from difflib import get_close_matches

    return _ELSEWHERE.get(name) or next(iter(get_close_matches(name.lower(), OPTIONS, 1, 0.8)), "")


def encode(body: object) -> bytes:
    """JSON text of a body, UTF-8.

    Pydantic models, numpy values and dates inside it are taken as what they hold.

    Raises:
        ValueError: a NaN or an infinity (JSON has none) or half a surrogate pair; the message says where.
        TypeError: something JSON has no form for.
    """
    try:
        return _ENCODER.encode(body).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the request holds text that is not Unicode: {error.reason}.") from None
    except ValueError:
        place = _not_finite(body, "") or "a number"
        raise ValueError(f"{place}: JSON has no form for a number that is not finite.") from None
    except RecursionError:
        raise ValueError("the request is nested too deep, or in itself.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    for name in ("tolist", "isoformat"):  # numpy scalars and arrays; dates
        if not isinstance(value, type) and callable(method := getattr(value, name, None)):
            return method()
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r:.80}")


# What holds itself ends at Python's own limit of depth, so no list of what is open need be kept on the way.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=_plain
)


def _not_finite(value: object, place: str) -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{place or 'the value'} = {value}"
    items: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        keys = ((f"a key of {place or 'the request'}", key) for key in value)
        items = [*keys, *((f"{place}.{key}".lstrip("."), item) for key, item in value.items())]
    elif isinstance(value, (list, tuple)):
        items = [(f"{place}[{number}]", item) for number, item in enumerate(value)]
    elif value is not None and not isinstance(value, (str, int)):
        items = [(place, _plain(value))]
    return next((found for name, item in items if (found := _not_finite(item, name))), "")
