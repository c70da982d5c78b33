"""An answer as a typed reply; where it is not what was promised, an error that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from .._protocol.models import Reply
from .._protocol.responses import first_error, parse
from .call import Answer

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Reply)


def decode_or_raise(what: str, answer: Answer, read: Callable[[], T]) -> T:
    """What `read` makes of an answer; APIResponseError where the answer is no such thing."""
    try:
        return read()
    except ValidationError as error:
        raise answer.meta.unexpected(f"{what} ({first_error(error)})") from error
    except (ValueError, RecursionError):
        raise answer.meta.unexpected(f"{what} (it is not JSON)") from None


def read_json(answer: Answer) -> Any:
    """The answer's JSON; APIResponseError where it is none."""
    return decode_or_raise("the answer cannot be read", answer, lambda: json.loads(answer.raw.body))


def reply_of(model: type[ReplyT], answer: Answer) -> ReplyT:
    """The answer as a model; APIResponseError where it is none."""
    reply = decode_or_raise(f"the answer is no {model.__name__}", answer, lambda: parse(model, answer.raw.body))
    vars(reply)["_meta"] = answer.meta  # past pydantic, which would look for a field of that name first
    return reply
