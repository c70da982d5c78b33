"""A response as a typed reply, or as an error that keeps the response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from .._auth.redaction import hide_frames
from .._protocol.error_responses import answer_error, not_json
from .._protocol.reply import CallInfo, Reply
from .._protocol.responses import bounded_json, first_error, parse
from ..errors import APIError, Raw

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Reply)


def decode_or_raise(what: str, info: CallInfo, read: Callable[[], T]) -> T:
    """What `read` makes of a response; APIResponseError, which begins with `what`, where it makes nothing of it."""
    try:
        return read()
    except (ValueError, RecursionError) as error:
        flaw = error
    raise undecoded(what, info, flaw)


def undecoded(what: str, info: CallInfo, error: Exception) -> APIError:
    """The error, which begins with `what`, for a response that could not be read."""
    cause = error if isinstance(error, ValidationError) else None
    failed = unexpected(info, f"{what} ({first_error(cause) if cause is not None else 'it is not JSON'})")
    hide_frames(error)  # their local variables hold the answer, which may repeat what is secret
    if cause is not None and info.request is not None and info.request.redaction(text := str(cause)) != text:
        cause = None  # pydantic quotes the answer, and this one repeats what is secret
        del text
    failed.__cause__ = cause
    return failed


def unexpected(info: CallInfo, detail: str, hint: str = "") -> APIError:
    """The error for a response that is not what was promised: the one that its body reports, where it reports one."""
    error = answer_error(_redacted(info)) or _no_json_error(info) or info.unexpected(detail, hint)
    error.attempts = info.attempts
    info.redact(error)
    return error


def _redacted(info: CallInfo) -> Raw:
    """What an error may quote; it is redacted before a part of it is cut off."""
    return info.raw if info.request is None else info.request.redaction.raw(info.raw)


def _no_json_error(info: CallInfo) -> APIError | None:
    streams = getattr(info, "exchange", None) is not None  # its body is elsewhere
    said = None if streams else not_json(_redacted(info))
    return info.unexpected(*said) if said else None


def raise_if_not_json(info: CallInfo) -> None:
    """APIResponseError for a page, a text or nothing instead of an answer, with the server's words."""
    if (error := _no_json_error(info)) is not None:
        raise error


def read_json(info: CallInfo) -> Any:
    """The response's JSON; APIResponseError if it is not JSON."""
    return decode_or_raise("the answer cannot be read", info, lambda: bounded_json(info.raw.body))


def reply_of(model: type[ReplyT], info: CallInfo) -> ReplyT:
    """The response as a model; APIResponseError if it does not fit."""
    try:
        reply = parse(model, info.raw.body)
    except (ValueError, RecursionError) as error:
        flaw = error
    else:
        vars(reply)["_call"] = info  # set directly: pydantic would first look for a field of that name
        return reply
    name = "has another form than expected" if model.__name__.startswith("_") else f"is no {model.__name__}"
    raise undecoded(f"the answer {name}", info, flaw)
