"""From an answer that is no success to the error that says so. Pure.

The bodies are those the Databricks REST API, the serving layer, proxied providers and proxies in between really
send: JSON with a string or an integer `error_code`, a provider's own error inside `external_model_message`,
OpenAI's and OAuth's shapes, SCIM's, bare text, HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

from .. import errors
from .._lazy import WholeImport
from ..errors import APIError, APIStatusError, Raw
from .hints import status_hint
from .responses import json_or_none
from .sse import Event

_CLASSES: dict[int, type[APIStatusError]] = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    413: errors.RequestTooLargeError,
    422: errors.BadRequestError,
    429: errors.RateLimitError,
}
_MEANINGS = {  # what codes in words mean: without "_error" and "_exceeded" at their end
    400: "bad_request invalid_request invalid_parameter_value invalid_argument malformed_request context_length",
    401: "unauthenticated unauthorized authentication invalid_api_key",
    403: "permission_denied permission forbidden",
    404: "not_found resource_does_not_exist endpoint_not_found model_not_found feature_disabled",
    409: "conflict resource_conflict resource_already_exists aborted",
    413: "request_too_large",
    429: "request_limit rate_limit rate_limit_reached resource_exhausted too_many_requests insufficient_quota quota",
    500: "internal internal_server internal_server_error server api unknown",
    503: "temporarily_unavailable unavailable service_unavailable overloaded",
    504: "deadline timeout upstream_timeout",
}
# Compiled when it is first asked for: most programs never see an error.
_OVERFLOW = (
    r"(?is)context_length_exceeded|context.?(window|length).?exceeded|maximum context (length|size)|prompt is too long"
    r"|exceeds?\b.{0,60}\bcontext (length|window|limit|size)|context (length|window|limit)\b.{0,60}\bexceed"
    r"|input (is )?too (long|many tokens)|too many (input )?tokens"
    r"|\b(input|prompt)\b.{0,60}(token|length).{0,60}\bexceed"
    r"|`?inputs?`? tokens \+ .{0,40}must be"
)
_CODES = ("error_code", "errorCode", "code", "type", "scimType")
_TEXTS = ("message", "error_description", "errorSummary", "detail", "msg")
_CODE_AND_TEXT = re.compile(r"\s*([A-Z][A-Z0-9_]{3,99}):\s+(.+)", re.DOTALL)
_REQUEST_ID = re.compile(r"\[ReqId: ([^\]\s]+)\]")
# Each takes time that grows as the page does: none looks for its end beyond the next "<".
_TITLE = re.compile(r"<title[^<>]*>([^<]*)", re.IGNORECASE)
_SCRIPT, _SCRIPT_END = (re.compile(rf"<{end}(?:script|style)\b[^<>]*>?", re.IGNORECASE) for end in ("", "/"))
_TAG = re.compile(r"<[^<>]*>?")
# Python's own grammar of numbers is wider than HTTP's (1_000, inf, other scripts' digits).
_PART = re.compile(r"(\d{1,15}(?:\.\d{0,15})?)(ms|s|m|h|$)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_PAGE = "an HTML page"
_CODE = 200  # characters of a server's error code
_SHOWN = 2000  # characters of a server's text that go into a message; the whole is on error.raw


def status_error(raw: Raw, *, wall: float, url: str = "") -> APIStatusError:
    """The typed error for an answer whose status is not 2xx.

    `wall` is the time now, in epoch seconds; `url` is what was asked, without its query.
    """
    code, detail, details = read_error(raw.body)
    kind = _class_of(raw.status, f"{code} {detail}") or APIStatusError
    if 300 <= raw.status < 400:
        where = raw.headers.get("location", "")
        detail = f"the workspace answered with a redirect to {where.split('?', 1)[0] or 'an unnamed place'}"
    return kind(
        detail or f"the server answered {raw.status} without a reason",
        hint=status_hint(raw, code, detail, url),
        error_code=code or str(raw.status),
        request_id=request_id(raw.headers, detail),
        retry_after=retry_after(raw.headers, details, wall=wall, status=raw.status),
        raw=raw,
    )


def _class_of(status: int, text: str) -> type[APIStatusError] | None:
    kind = _CLASSES.get(status) or (errors.InternalServerError if 500 <= status < 600 else None)
    return errors.ContextOverflowError if kind is errors.BadRequestError and re.search(_OVERFLOW, text) else kind


def answer_error(raw: Raw) -> APIError | None:
    """The error that the body of a 2xx answer reports, in the class that its code means; None where it reports none."""
    content = json_or_none(raw.body)
    if not isinstance(content, dict) or not _reports_error(content):
        return None
    code, detail, _ = read_error(raw.body)
    inner = content.get("error")
    words = [code, *(_word(inner.get(key)) for key in _CODES if isinstance(inner, dict))]
    status = next((status for word in words if (status := _status_of(word))), 0)
    return (_class_of(status, f"{' '.join(words)} {detail}") or errors.APIResponseError)(
        detail, error_code=code, request_id=request_id(raw.headers, detail), raw=raw
    )


def _status_of(code: str) -> int:
    if code.isascii() and code.isdigit():
        return int(code[:4])  # Python reads no more than some thousands of digits, and a status has three
    words = code.lower().removesuffix("_error").replace("_exceeded", "")
    return next((status for status, names in _MEANINGS.items() if words in names.split()), 0)


def _reports_error(content: Mapping[str, Any]) -> bool:
    kinds = (content.get("type"), content.get("object"))
    return bool(content.get("error") or content.get("error_code") or {"error", "response.failed"} & {*map(str, kinds)})


def request_id(headers: Mapping[str, str], detail: str = "") -> str | None:
    """The request's id: of the headers, else the `[ReqId: …]` that Databricks writes into messages."""
    written = _REQUEST_ID.search(detail)
    return Raw(0, headers).request_id or (written and written.group(1))


def read_error(body: bytes) -> tuple[str, str, list[Any]]:
    """(error code, sentence, google.rpc details) of an error body; "" and [] where there is none."""
    text = body_text(body).strip()
    content = json_or_none(text)
    if isinstance(content, dict):
        code, detail, details = _from_object(content)
        return (code or _code_in(detail))[:_CODE], detail[:_SHOWN], details
    said = content if isinstance(content, str) else text
    return _code_in(said[:_SHOWN]), _readable(said), []


def body_text(body: bytes) -> str:
    """A body as text: UTF-8, -16 or -32 as its first bytes tell (a BOM is dropped), otherwise Latin-1."""
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:  # half a character at the very end: it was cut
        return body.decode("utf-8" if error.reason == "unexpected end of data" else "cp1252", "replace")


def not_json(raw: Raw) -> tuple[str, str] | None:
    """(what came, what to do) if the body of a success is empty or is no JSON; None if it is JSON."""
    text = body_text(raw.body).strip()
    if not text:
        return "the answer is empty", "Something on the way may have answered instead of the workspace: check the host."
    if json_or_none(text) is not None or text == "null":
        return None
    if (shown := _readable(text)).startswith(_PAGE):
        return f"the answer is {shown}", (
            "Something on the way (a sign-in page, a gateway, a proxy, a VPN) answered instead of the workspace: check "
            "the host, and open it in a browser."
        )
    return f"the answer is not JSON, but: {shown[:200]}", ""


def _from_object(content: dict[str, Any]) -> tuple[str, str, list[Any]]:
    details = content["details"] if isinstance(content.get("details"), list) else []
    code = next((word for key in _CODES if (word := _word(content.get(key)))), "")
    detail = next((_as_text(content[key]) for key in _TEXTS if content.get(key)), "")
    error, provider = content.get("error"), content.get("external_model_message")
    if provider is not None:  # a proxied provider's own error
        text = _as_text(provider).encode("utf-8", "replace")
        code, inner, details = _from_object(provider) if isinstance(provider, dict) else read_error(text)
        return code or _word(content.get("error_code")), f"{_as_text(error or detail)}: {inner}", details
    for inside in (error, content.get("response")):  # OpenAI's form; a failed response of the Responses API
        if isinstance(inside, dict):
            inner_code, inner_detail, inner_details = _from_object(inside)
            return inner_code or code, inner_detail, inner_details or details
    if isinstance(error, str):  # OAuth: {"error": code, "error_description": text}; others: {"error": text}
        code, detail = (code or error, detail) if detail else (code, error)
    return code, detail or _as_text(content), details


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _word(value: object) -> str:
    """A code as a str; Databricks sends some as integers, some providers as null."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or isinstance(value, (dict, list, bool)) else str(value)


def _readable(text: str) -> str:
    text = text[: 4 * _SHOWN]
    if "<html" in text[:2000].lower() or text[:9].lower() == "<!doctype":
        with WholeImport():
            import html  # here: its table of entities is large

        title = _TITLE.search(text)
        text = html.unescape(title.group(1) if title else _TAG.sub(" ", _without_scripts(text)))
        text = f"{_PAGE}: {' '.join(text.split())}"
    return text[:_SHOWN]


def _without_scripts(page: str) -> str:
    first, *parts = _SCRIPT.split(page)
    return " ".join([first, *(_SCRIPT_END.split(part, 1)[-1] for part in parts if _SCRIPT_END.search(part))])


def error_frame(event: Event) -> tuple[str, str] | None:
    """(code, sentence) of an event that reports an error inside a 200 stream, or None.

    Seen on the wire: `{"error": "text"}`, `{"error": {...}}`, `{"error_code", "message"}`, `{"type": "error", ...}`.
    """
    if event.type != "error":
        # The usual chunk is told apart without parsing it twice.
        content = json_or_none(event.data.decode("utf-8", "replace")) if b'"error' in event.data[:4096] else None
        if not isinstance(content, dict):
            return None
        if not _reports_error(content):
            return None
    return read_error(event.data)[:2]


def _code_in(text: str) -> str:
    match = _CODE_AND_TEXT.match(text)
    return match.group(1) if match else ""


def retry_after(
    headers: Mapping[str, str], details: Sequence[Any] = (), *, wall: float, status: int = 429
) -> float | None:
    """Seconds the server asks to wait, or None.

    In this order: `retry-after-ms`, `retry-after` (seconds, or an HTTP date), google.rpc `RetryInfo.retry_delay` in
    the body; of a 429 also `x-ratelimit-reset-*` of the limits that are used up (OpenAI sends these with every answer).
    What is 0, past, not finite or not readable is ignored, so that the usual pause stays.
    """
    return next((wait for wait in _waits(headers, details, wall, status) if wait and wait > 0), None)


def _waits(headers: Mapping[str, str], details: Sequence[Any], wall: float, status: int) -> Iterator[float | None]:
    yield _seconds(headers.get("retry-after-ms", "") + "ms")
    after = headers.get("retry-after", "")
    yield _seconds(after)
    yield _until(after, wall)
    for item in details:
        yield _seconds(str(item.get("retry_delay") or item.get("retryDelay"))) if isinstance(item, dict) else None
    if status == 429:
        used_up = [
            value
            for name, value in headers.items()
            if name.startswith("x-ratelimit-reset") and (_seconds(headers.get(_remaining(name), "")) or 0) == 0
        ]
        resets = [reset for value in used_up if (reset := _seconds(value)) is not None]
        # A large number is a moment in epoch seconds, a small one a duration.
        yield max((reset - wall if reset > 1e9 else reset for reset in resets), default=None)


def _remaining(reset: str) -> str:
    return reset.replace("reset", "remaining", 1)


def _seconds(value: str) -> float | None:
    """Seconds of `1.5`, `1.5s`, `20ms` or `6m0s`."""
    parts = _PART.findall(value.strip())
    if not parts or "".join(number + unit for number, unit in parts) != value.strip():
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _until(date: str, wall: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    # "-0000" gives no zone: HTTP dates are GMT.
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() - wall)
