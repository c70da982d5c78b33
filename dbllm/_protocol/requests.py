"""Where a call goes and in which envelope. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .._lazy import WholeImport
from .._misnomers import by_kind
from ..errors import ConfigError
from .models import Message, OutputItem
from .reply import Reply
from .tasks import ENVELOPE_KEYS, Kind, Verb


def prompt_request(prompt: object, stop: object, params: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt/stop signature, before any envelope. An empty `stop` is not sent.

    Raises:
        TypeError: `prompt` is no str, or `stop` no list of str.
        ValueError: `n` asks for several answers.
    """
    if not isinstance(prompt, str):
        several = isinstance(prompt, (list, tuple)) or "messages" in params
        more = " For many prompts at once there is dbllm.bulk; for messages there is chat()." if several else ""
        more = more or by_kind("text", prompt)
        raise TypeError(f"complete() takes one prompt, a str, not {type(prompt).__name__}.{more}")
    if isinstance(n := params.get("n"), int) and n > 1:
        raise ValueError(f"complete() returns one text, so n={n} would lose answers: use chat(..., n={n}).")
    return {"prompt": prompt, **normalize_stop(stop), **params}


def normalize_stop(stop: object) -> dict[str, list[str]]:
    """The field `stop`, a list of str; one str stands for a list of it. Nothing where there is none.

    Raises:
        TypeError: something else.
    """
    if stop is None:
        return {}
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, (list, tuple)) or not all(isinstance(item, str) for item in stops):
        raise TypeError(f"stop must be a str or a list of str, got {stop!r:.80}.")
    return {"stop": list(stops)} if stops else {}


_NAMED = ENVELOPE_KEYS | {"model", "engine", "fallback", "fallbacks", "served_model", "functions", "token", "system"}


def request_body(kind: Kind, flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The body for a flat request on an endpoint of this kind.

    Raises:
        ConfigError: an embeddings endpoint, which completes nothing.
        TypeError: no prompt is left (a transform dropped it) where the endpoint needs one; or a parameter is no field
            of its wire format.
    """
    if kind == "embeddings":
        raise ConfigError(f"endpoint {name!r} makes embeddings: use embed() on it instead of complete().")
    body = dict(flat)
    named = _NAMED & body.keys()
    if kind == "app" or (named and ENVELOPE_KEYS & named):
        return body
    if kind == "custom":
        return {"dataframe_records": [body]}
    if named:
        raise TypeError(_misnomer(min(named), "complete"))
    if not isinstance(body.get("prompt"), str):
        raise TypeError(
            f"endpoint {name!r} needs a prompt: transform_input returned neither 'prompt' (a str) nor a whole body "
            f"with one of {', '.join(sorted(ENVELOPE_KEYS))}."
        )
    if kind == "completions":
        return body
    message = {"role": "user", "content": body.pop("prompt")}
    if kind != "responses":
        return {"messages": [message], **body}
    if "stop" in body:
        raise ConfigError(
            f"{name!r} takes responses, and that wire format has no stop strings: leave out stop=, and cut the text "
            'yourself. If it is an agent that knows them nevertheless, pass extra_body={"stop": […]}.'
        )
    limits = [body.pop(limit) for limit in ("max_tokens", "max_completion_tokens") if limit in body]
    return {"input": [message], **({"max_output_tokens": limits[0]} if limits else {}), **body}


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
        what = f"{verb}() takes a str, a message or a list of messages"
        raise TypeError(f"{what}, got {type(messages).__name__}.{by_kind('messages', messages)}")
    if not messages:
        raise ValueError(f"{verb}() needs at least one message, got an empty {type(messages).__name__}.")
    return [_wire_message(item, place, told_by) for place, item in enumerate(messages)]


def _wire_message(item: object, place: int, told_by: tuple[str, ...]) -> object:
    if isinstance(item, Message):
        return item.as_wire()
    told = isinstance(item, Mapping) and any(isinstance(item.get(key), str) for key in told_by)
    content = item.get("content") if isinstance(item, Mapping) and told and "type" not in told_by else None
    if (
        isinstance(item, Mapping) and isinstance(content, list) and any(isinstance(part, str) for part in content)
    ):  # a text beside an image
        texts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        return {**item, "content": texts}
    if told or isinstance(item, OutputItem):
        if isinstance(item, Mapping) and (meant := _ROLES.get(str(item.get("role", "")))):
            raise ValueError(f"messages[{place}] has the role {item['role']!r}: chat endpoints call it {meant!r}.")
        return item
    lacks = f" without a {' or a '.join(told_by)}" if isinstance(item, Mapping) else ""
    raise TypeError(
        f"messages[{place}] must be a Message or a dict with 'role' and 'content', got {type(item).__name__}{lacks}: "
        + (
            "pass reply.message."
            if isinstance(item, Reply)
            else "LangChain's messages go to dbllm.langchain.ChatDatabricks."
            if hasattr(item, "content") and hasattr(item, "type")
            else 'write {"role": "user", "content": "…"}.'
        )
    )


# The roles of other libraries, and of capitals. (Any other role goes to the endpoint, which may know it.)
_ROLES = {"human": "user", "ai": "assistant", "bot": "assistant", "model": "assistant", "gpt": "assistant"}
_ROLES |= {name.title(): name for name in ("user", "assistant", "system", "tool")}
_ROLES |= {name.upper(): name for name in ("user", "assistant", "system", "tool")}


def response_body(items: object, custom_inputs: object, *params: Mapping[str, Any]) -> dict[str, Any]:
    """The body for an agent (`agent/v1/responses`): its `input` is always a list of items."""
    refuse_stop(*params)
    fields = checked_params(params, "respond")
    own = {} if custom_inputs is None else {"custom_inputs": custom_inputs}
    return {"input": chat_messages(items, "respond", ("role", "type")), **own, **fields}


def refuse_stop(*params: Mapping[str, Any]) -> None:
    """Raises TypeError where a parameter is `stop`, which responses have not."""
    if any("stop" in layer for layer in params):
        raise TypeError(
            "respond() has no stop=: the Responses format has no stop strings. Leave it out, and cut the text yourself."
            ' To an agent that knows them pass extra_body={"stop": […]}.'
        )


def chat_body(messages: object, stop: object, *params: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat; later parameters win."""
    fields = checked_params(params, "chat")  # first: what lacks may be among them by another name
    return {"messages": chat_messages(messages), **normalize_stop(stop), **fields}


def prediction_body(data: object, forms: Mapping[str, Any], *params: Mapping[str, Any] | None) -> dict[str, Any]:
    """The body of a custom model's call: exactly one input form, and `params` beside it (MLflow scoring protocol).

    Later parameters win.

    Raises:
        TypeError: none or several forms were given, or parameters that are no dict.
        TypeError, ValueError: the data cannot be sent; see `scoring_form`.
    """
    with WholeImport():
        from .tables import named_form, scoring_form  # here: a program that chats has no tables

    given = {name: named_form(name, value) for name, value in forms.items() if value is not None}
    if len(given) + (data is not None) != 1:
        named = [*(["data"] if data is not None else []), *given]
        raise TypeError(
            f"predict() takes data, or exactly one of {', '.join(forms)}; got {' and '.join(named) or 'none'}."
        )
    given = given or scoring_form(data)
    if wrong := [layer for layer in params if layer is not None and not isinstance(layer, Mapping)]:
        raise TypeError(f"params must be a dict of the model's parameters, got {type(wrong[0]).__name__}.")
    merged = {name: value for layer in params for name, value in (layer or {}).items()}  # whatever their names
    sent = {name: value for name, value in merged.items() if value is not None}
    return {**given, **({"params": sent} if sent else {})}


TAGS = "databricks-ai-gateway-request-tags"


def tags_header(tags: object) -> str:
    """The header that says in the workspace's usage tables whom a call was for (Databricks REST).

    Raises:
        TypeError: the tags are no dict of names and values, both str.
    """
    if not isinstance(tags, Mapping):
        raise TypeError(f'tags must be a dict such as {{"project": "x"}}, got {type(tags).__name__}.')
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            what = f"the tag {name!r} has a value" if isinstance(name, str) else "a tag has a name"
            kind = type(value if isinstance(name, str) else name).__name__
            raise TypeError(f"{what} that is no text but {kind}: tags are names and values, both str.")
    return json.dumps(dict(tags), separators=(",", ":"))


def model_params(*layers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters of a model whose wire format is not known, or has any; as `checked_params`."""
    return checked_params(layers)


def checked_params(layers: Sequence[Mapping[str, Any] | None], verb: Verb | None = None) -> dict[str, Any]:
    """The parameters that go to the wire: later layers win, None means "not sent".

    Args:
        layers: parameters by their names.
        verb: what is called, where its wire format is known, and with it what is no field of it.

    Raises:
        TypeError: a name that is one of dbllm's own options, or nearly, so that a mistake never goes to the wire.
    """
    if not any(layers):
        return {}
    merged = {name: value for layer in layers for name, value in (layer or {}).items()}
    for name in merged:
        if flaw := _misnomer(name if isinstance(name, str) else repr(name), verb):
            raise TypeError(flaw)
    return {name: value for name, value in merged.items() if value is not None}


# Fields of these wire formats: as many as need no second look, and what another name may be a typing error of.
_FIELDS = frozenset({"temperature", "top_p", "top_k", "n", "seed", "user", "tools", "tool_choice", "response_format"})
_FIELDS |= {"logprobs", "top_logprobs", "parallel_tool_calls", "reasoning_effort", "stream_options", "dimensions"}
_OF_VERB = {"respond": {"max_output_tokens", "custom_inputs"}, "embed": {"batch_size", "concurrency", "progress"}}


@lru_cache(maxsize=512)
def _misnomer(name: str, verb: Verb | None) -> str:
    fields = _FIELDS | _OF_VERB.get(str(verb), {"max_tokens", "max_completion_tokens", "response_model"})
    if name in fields:
        return ""
    with WholeImport():
        from .keywords import meant

    return meant(name, verb, fields)
