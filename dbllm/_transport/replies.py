"""An answer as a typed reply; where it is not what was promised, an error that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from .._protocol.error_responses import not_json
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
        raise_if_not_json(answer)
        raise answer.meta.unexpected(f"{what} ({first_error(error)})") from error
    except (ValueError, RecursionError):
        raise_if_not_json(answer)
        raise answer.meta.unexpected(f"{what} (it is not JSON)") from None


def raise_if_not_json(answer: Answer) -> None:
    """APIResponseError for a page, a text or nothing instead of an answer, with the server's words."""
    streams = getattr(answer, "exchange", None) is not None  # its body is elsewhere
    if not streams and (said := not_json(answer.raw)):
        raise answer.meta.unexpected(*said) from None


def read_json(answer: Answer) -> Any:
    """The answer's JSON; APIResponseError where it is none."""
    return decode_or_raise("the answer cannot be read", answer, lambda: json.loads(answer.raw.body))


def reply_of(model: type[ReplyT], answer: Answer) -> ReplyT:
    """The answer as a model; APIResponseError where it is none."""
    name = "has another form than expected" if model.__name__.startswith("_") else f"is no {model.__name__}"
    reply = decode_or_raise(f"the answer {name}", answer, lambda: parse(model, answer.raw.body))
    vars(reply)["_meta"] = answer.meta  # past pydantic, which would look for a field of that name first
    return reply
