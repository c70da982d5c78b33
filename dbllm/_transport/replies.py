"""A response as a typed reply; where it is not what was promised, an error that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from .._protocol.error_responses import answer_error
from .._protocol.models import CallInfo, Reply
from .._protocol.responses import first_error, parse
from ..errors import APIError

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Reply)


def decode_or_raise(what: str, info: CallInfo, read: Callable[[], T]) -> T:
    """What `read` makes of a response; APIResponseError, which begins with `what`, where it makes nothing of it."""
    try:
        return read()
    except ValidationError as error:
        raise unexpected(info, f"{what} ({first_error(error)})") from error
    except (ValueError, RecursionError):
        raise unexpected(info, f"{what} (it is not JSON)") from None


def unexpected(info: CallInfo, detail: str, hint: str = "") -> APIError:
    """The error for a response that is not what was promised: the one that its body reports, where it reports one."""
    error = answer_error(info.raw) or info.unexpected(detail, hint)
    error.attempts = info.attempts
    return error


def read_json(info: CallInfo) -> Any:
    """The response's JSON; APIResponseError where it is none."""
    return decode_or_raise("the answer cannot be read", info, lambda: json.loads(info.raw.body))


def reply_of(model: type[ReplyT], info: CallInfo) -> ReplyT:
    """The response as a model; APIResponseError where it is none."""
    reply = decode_or_raise(f"the answer is no {model.__name__}", info, lambda: parse(model, info.raw.body))
    vars(reply)["_call"] = info  # past pydantic, which would look for a field of that name first
    return reply
