"""All errors that dbllm raises of its own, as one tree.

    DbllmError
    ├── ConfigError                   a setting is missing or cannot be used; nothing was sent
    └── APIError                      a call failed
        ├── APIConnectionError        no answer: DNS, TCP, TLS, or the connection broke
        ├── APITimeoutError           no answer in time
        ├── APIStatusError            the workspace answered with a status that is not a success
        │   ├── BadRequestError           400, 422
        │   │   └── ContextOverflowError      the input is longer than the model's context
        │   ├── AuthenticationError       401
        │   ├── PermissionDeniedError     403
        │   ├── NotFoundError             404
        │   ├── ConflictError             409
        │   ├── RequestTooLargeError      413
        │   ├── RateLimitError            429
        │   └── InternalServerError       5xx
        ├── APIResponseError          a success whose body is not as documented
        └── StreamInterruptedError    a stream ended before the answer was complete

A wrong argument (a list in place of one prompt, a NaN) raises a plain `TypeError` or `ValueError` before anything is
sent. Every error can be pickled, so that it can cross processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from ._lazy import WholeImport


@dataclass(frozen=True, slots=True)
class Raw:
    """An HTTP response: status, headers (lower-case names) and the undecoded body.

    Where no head could be read, the status is 0 and the body is what came instead.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def request_id(self) -> str | None:
        """The workspace's id of the request: header `x-request-id`, else `x-databricks-request-id`."""
        return self.headers.get("x-request-id") or self.headers.get("x-databricks-request-id")


class PublicPickle:
    """Makes pickles name a class as an attribute of `dbllm` and not by its private module, which may move."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        name = type(self).__name__
        if _public_class(name) is type(self):
            itself: Any = self  # models and frozen dataclasses have a state to give
            return unpickled, (name,), itself.__getstate__()
        return super().__reduce_ex__(protocol)


def unpickled(name: str) -> object:
    """An object of one of dbllm's classes; pickle sets its state afterwards."""
    kind: Any = _public_class(name)
    return kind.__new__(kind)


def _public_class(name: str) -> Any:
    """An exported class, or one that is part of an exported model."""
    places = ("", "._protocol.models", "._management.endpoints", "._management.secrets", "._management.model_services")
    modules = (import_module(f"dbllm{place}") for place in places)
    with WholeImport():
        return next((kind for module in modules if (kind := getattr(module, name, None)) is not None), None)


class DbllmError(Exception):
    """The root: `except DbllmError` catches every error that dbllm defines."""


class ConfigError(DbllmError):
    """The host, the token, the profile or an option is missing or cannot be used. Nothing was sent."""


class APIError(DbllmError):
    """A call failed.

    Attributes:
        detail: what happened, in the server's words if it gave any.
        hint: what to do next.
        status: HTTP status, or None when there was no answer.
        error_code: Databricks' code, always a str ("RESOURCE_DOES_NOT_EXIST", "403"); "" if there is none.
        request_id: the workspace's id of the request; its support asks for it.
        attempts: how often the call was tried, this failure included.
        retry_after: seconds the server asked to wait, or None.
        previous: the errors of the earlier attempts, oldest first.
        raw: status, headers and body of the response, or None if there was none.
        sent: False only if the request cannot have reached the server, so that the model did not run.
        unreachable: True if no connection to the server came about.
        gave_up: why no further attempt was made although the policy had one left; "" otherwise.
    """

    next_step: ClassVar[str] = ""
    unreachable: bool = False
    gave_up: str = ""

    def __init__(
        self,
        detail: str = "",
        *,
        hint: str = "",
        status: int | None = None,
        error_code: str = "",
        request_id: str | None = None,
        attempts: int = 1,
        retry_after: float | None = None,
        raw: Raw | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(detail)
        self.detail, self.hint, self.raw, self.sent = detail, hint or self.next_step, raw, sent
        self.status = (raw.status or None) if status is None and raw is not None else status
        self.error_code, self.request_id, self.retry_after = error_code, request_id, retry_after
        self.attempts = attempts
        self.previous: tuple[APIError, ...] = ()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            from ._misnomers import missing_attribute, words  # here: only mistakes want it

            raise missing_attribute(type(self).__name__, name, words("error"), vars(self))

    @property
    def message(self) -> str:
        """What happened and what to do next, in one text."""
        return f"{_sentence(self.detail)} {self.hint}".strip()

    def __str__(self) -> str:
        code = "" if self.error_code == str(self.status) else self.error_code
        head = " ".join(part for part in (f"HTTP {self.status}" if self.status else "", code) if part)
        about = [f"request {self.request_id}"] if self.request_id else []
        if self.attempts > 1 or self.gave_up:
            about += [f"{self.attempts} attempts" if self.attempts > 1 else "1 attempt"]
        about += [f"no further attempt: {self.gave_up}"] if self.gave_up else []
        head = f"{head} ({', '.join(about)})".strip() if about else head
        return f"{head}: {self.message}" if head else self.message


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?:>" else text + "."


class APIConnectionError(APIError):
    """No connection could be made, or it broke before the response was complete."""

    next_step = "Check that the host is right and reachable from here (DNS, proxy, firewall)."


class APITimeoutError(APIError):
    """The response did not arrive in time. Unless `sent` is False the server may still be working on it."""

    next_step = "Allow more time with timeout= (seconds) if the model is slow, or check that the endpoint is awake."


class APIStatusError(APIError):
    """The workspace answered with a status that is not a success."""


class BadRequestError(APIStatusError):
    """400 or 422: the endpoint does not understand the request."""

    next_step = "Compare what was sent with what the endpoint expects."


class ContextOverflowError(BadRequestError):
    """400 or 422 because the input, or it and the answer asked for, is longer than the model's context."""

    next_step = "Send less: shorten or summarize the input, or take a model with a larger context."


class AuthenticationError(APIStatusError):
    """401: there was no credential, or the workspace does not accept this kind."""

    next_step = "Set DATABRICKS_TOKEN, pass token=, or name a profile that has one."


class PermissionDeniedError(APIStatusError):
    """403: the token is wrong or expired (Databricks answers 403 for that), or a permission is missing."""

    next_step = (
        "Check that the token belongs to this workspace and is not expired, and that its owner has "
        "'Can Query' on the endpoint."
    )


class NotFoundError(APIStatusError):
    """404: there is no such endpoint, scope, key or path."""

    next_step = "Check the name and the workspace."


class ConflictError(APIStatusError):
    """409: the resource exists already, or is being updated."""

    next_step = "Choose another name, or wait until the running update has ended."


class RequestTooLargeError(APIStatusError):
    """413: the body is over the limit (16 MB for custom models, 4 MB for the others)."""

    next_step = "Send less in one call: split the input."


class RateLimitError(APIStatusError):
    """429: a rate limit of the endpoint, the user or the workspace."""

    next_step = "Send less at a time, wait, or ask for a higher limit."


class InternalServerError(APIStatusError):
    """5xx: the workspace, the model behind it or the app failed."""

    next_step = "Try again later; if it stays, look at the endpoint's logs."


class APIResponseError(APIError):
    """A success whose body is not as documented; `raw` has all of it."""

    next_step = "Look at error.raw for the whole answer."


class StreamInterruptedError(APIError):
    """A stream ended before the answer was complete.

    Attributes:
        partial_text: the text received until then.
        usage: the last usage received (a `Usage`), or None.
    """

    next_step = "The text received so far is in error.partial_text; call again for a complete answer."

    partial_text: str = ""
    usage: object = None
