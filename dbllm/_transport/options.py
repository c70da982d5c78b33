"""The options of a call: timeouts, retries, headers, further body fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._auth.redaction import Misplaced
from .._auth.redaction import RedactedMapping as RedactedMapping  # for the packages above, too
from .._auth.redaction import hide_fields as hide_fields
from .._auth.redaction import hide_frames as hide_frames
from .._auth.redaction import hide_headers as hide_headers
from .._deadline import FOREVER
from .._protocol.json_encoder import encode
from .._protocol.requests import TAGS, tags_header
from .call import JSON, Call
from .retry import Retry, Timeout

if TYPE_CHECKING:
    from .limited import CallLimiter

EXPLAIN_SECONDS = 5.0  # the most time that a failed call spends on finding out why

Limit = float | Timeout | None
ExtraFields = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults for calls that do not pass their own."""

    timeout: Timeout = field(default_factory=Timeout)
    retry: Retry = field(default_factory=Retry)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    limiter: CallLimiter | None = None  # of the endpoint that is called

    def merged_with(
        self,
        timeout: Limit = None,
        retry: Retry | None = None,
        headers: ExtraFields = None,
        extra_body: ExtraFields = None,
        tags: Mapping[str, str] | None = None,
    ) -> Options:
        """These options, with the given ones in their place."""
        if headers is not None and isinstance(headers := hide_headers(headers), Misplaced):
            raise TypeError(headers.flaw)
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(
                f"retry must be a Retry, got {retry!r:.80}: pass Retry(attempts=…), which counts the first attempt; 1 "
                "never tries again."
            )
        if extra_body is not None and not isinstance(extra_body, Mapping):
            raise TypeError(f"extra_body must be a dict of further fields, got {type(extra_body).__name__}.")
        if timeout is None and retry is None and not headers and not extra_body and tags is None:
            return self
        merged = RedactedMapping(self.headers, headers) if headers else self.headers
        if tags is not None:
            tags_header(tags)  # raises for what is none
        if tags:
            tags = {**self.tags, **tags}
            merged = RedactedMapping(merged, {TAGS: tags_header(tags)})
        timeout = self.timeout if timeout is None else Timeout.of(timeout)
        extra = {**self.extra_body, **(extra_body or {})}
        return Options(timeout, retry or self.retry, merged, extra, tags or self.tags, self.limiter)

    def deadline(self, clock: Callable[[], float]) -> float:
        """The deadline, on this clock, of a call that begins now."""
        return FOREVER if self.timeout.total is None else clock() + self.timeout.total

    def call(
        self,
        deadline: float,
        path: str,
        body: object = None,
        accept: str = JSON,
        method: str | None = None,
        origin: str | None = None,
        model: str | None = None,
        may_hedge: bool = False,
    ) -> Call:
        """One call with these options: POST with a body, else GET. Several calls may share one deadline."""
        if self.extra_body and isinstance(body, Mapping):
            body = {**body, **self.extra_body}
        encoded = None if body is None else encode(body)
        if method is None:
            method = "GET" if body is None else "POST"
        retry, place = (self.timeout, self.retry, deadline), (origin, model, may_hedge or method == "GET")
        limiter = None if body is None else self.limiter  # a look-up is none of the model's calls
        return Call(method, path, *retry, encoded, accept, self.headers, *place, limiter)
