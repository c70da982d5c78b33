"""A response as a typed reply, or as an error that keeps the response."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from .._protocol.models import CallInfo, Reply
from .._protocol.responses import first_error, parse

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Reply)


def decode_or_raise(what: str, info: CallInfo, read: Callable[[], T]) -> T:
    """What `read` makes of a response; APIResponseError, which begins with `what`, where it makes nothing of it."""
    try:
        return read()
    except ValidationError as error:
        raise info.unexpected(f"{what} ({first_error(error)})") from error
    except (ValueError, RecursionError):
        raise info.unexpected(f"{what} (it is not JSON)") from None


def read_json(info: CallInfo) -> Any:
    """The response's JSON; APIResponseError if it is not JSON."""
    return decode_or_raise("the answer cannot be read", info, lambda: json.loads(info.raw.body))


def reply_of(model: type[ReplyT], info: CallInfo) -> ReplyT:
    """The response as a model; APIResponseError if it does not fit."""
    reply = decode_or_raise(f"the answer is no {model.__name__}", info, lambda: parse(model, info.raw.body))
    vars(reply)["_call"] = info  # set directly: pydantic would first look for a field of that name
    return reply
