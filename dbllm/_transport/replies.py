"""A response as a typed reply, or as an error that keeps the response."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from .._protocol.error_responses import not_json
from .._protocol.models import CallInfo, Reply
from .._protocol.responses import first_error, parse

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Reply)


def decode_or_raise(what: str, info: CallInfo, read: Callable[[], T]) -> T:
    """What `read` makes of a response; APIResponseError, which begins with `what`, where it makes nothing of it."""
    try:
        return read()
    except ValidationError as error:
        raise_if_not_json(info)
        raise info.unexpected(f"{what} ({first_error(error)})") from error
    except (ValueError, RecursionError):
        raise_if_not_json(info)
        raise info.unexpected(f"{what} (it is not JSON)") from None


def raise_if_not_json(info: CallInfo) -> None:
    """APIResponseError for a page, a text or nothing instead of an answer, with the server's words."""
    streams = getattr(info, "exchange", None) is not None  # its body is elsewhere
    if not streams and (said := not_json(info.raw)):
        raise info.unexpected(*said) from None


def read_json(info: CallInfo) -> Any:
    """The response's JSON; APIResponseError if it is not JSON."""
    return decode_or_raise("the answer cannot be read", info, lambda: json.loads(info.raw.body))


def reply_of(model: type[ReplyT], info: CallInfo) -> ReplyT:
    """The response as a model; APIResponseError if it does not fit."""
    name = "has another form than expected" if model.__name__.startswith("_") else f"is no {model.__name__}"
    reply = decode_or_raise(f"the answer {name}", info, lambda: parse(model, info.raw.body))
    vars(reply)["_call"] = info  # set directly: pydantic would first look for a field of that name
    return reply
