"""One logical call, its attempts, and an open stream."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .._http.pool import Exchange
from .._protocol.error_responses import error_frame
from .._protocol.reply import CallInfo
from .._protocol.sse import Decoder, Event, is_event_stream, is_keep_alive
from ..errors import APIError, APIResponseError, Raw, StreamInterruptedError
from .health import EndpointHealth
from .retry import FailedAttempts, Retry, Timeout

if TYPE_CHECKING:
    from .limited import CallLimiter
    from .observers import ObservedStream

log = logging.getLogger("dbllm.stream")

JSON = "application/json"
EVENTS = "text/event-stream"


class Trace(Protocol):
    """A call, as telemetry knows it."""

    def begin_attempt(self, headers: Mapping[str, str]) -> tuple[Any, Mapping[str, str]]:
        """An attempt begins, which would send these headers: a mark for `end_attempt`, and those that it sends."""
        ...

    def end_attempt(self, mark: Any, queued: float, *said: Any) -> None:
        """It has ended: `queued` and, unless it was cancelled, the other fields of an `Attempt` up to `limit`."""

    @property
    def end(self) -> Callable[..., None]:
        """Is told how the call ended: the fields of a `ResponseInfo` after `request`."""
        ...


class Tracer(Protocol):
    """Telemetry. It is told directly, and in values: objects that nobody else reads would be half of its costs."""

    @property
    def begin(self) -> Callable[..., Trace | None]:
        """Is told that a call begins: the fields of its `RequestInfo`."""
        ...

    @property
    def token_refresh(self) -> Callable[..., None]:
        """Is told that a token was fetched, or could not be: the fields of a `TokenRefresh`."""
        ...


tracers: list[Tracer] = []  # telemetry, which is told of the calls of all clients of this process; at most one


@dataclass(slots=True, eq=False)  # not frozen: see `HttpRequest`
class Call:
    """One logical call, however many attempts it takes. `deadline` is on the backend's clock."""

    method: str
    path: str = field(repr=False)  # its query may hold a secret
    timeout: Timeout
    retry: Retry
    deadline: float
    body: bytes | None = field(default=None, repr=False)
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # of the caller's own
    origin: str | None = None  # where it is sent; None means the client's workspace
    model: str | None = None  # of the body, where the path names none
    may_hedge: bool = False  # it costs next to nothing when it runs twice
    limiter: CallLimiter | None = None  # of its endpoint
    attempt: int = 1  # the number of the current attempt
    fresh: bool = False  # a kept-alive connection failed: the next attempt dials, and so can tell whether it was sent
    began: float = 0.0
    health: EndpointHealth | None = None  # of the endpoint, once the call has begun
    failed: FailedAttempts | None = field(default=None, repr=False)  # once an attempt has failed
    hedge: bool = False  # this is the second request of an attempt that is slow
    hedging: bool = False  # a second request is under way
    idempotent: bool = False  # a POST with an id that the server knows: sent again, it does nothing new
    waited: float = 0.0  # seconds that the current attempt waited for the client's limits
    limit: int | None = None  # how many calls at once these allowed then
    queued: float = 0.0  # seconds that an attempt that failed waited for a connection

    @property
    def retried_as(self) -> str:
        """The method whose retries it has."""
        return "PUT" if self.idempotent else self.method

    @property
    def logged(self) -> str:
        """The path for logs: without the query, which may hold a secret."""
        return self.path.split("?", 1)[0]


@dataclass(slots=True, eq=False)
class OpenStream(CallInfo):
    """A stream, read up to its first event; or a whole answer, from a server that does not stream."""

    exchange: Exchange | None = None
    decoder: Decoder = field(default_factory=Decoder, repr=False)
    events: deque[Event] = field(default_factory=deque, repr=False)
    last: bytes = field(default=b"", repr=False)  # the last bytes that came
    observed: ObservedStream | None = field(default=None, repr=False)  # where there are hooks
    listened: bool = False  # each event needs a step: a hook is told of it, or a run goes on behind it
    held: bool = False  # somebody waits for the next event, or it is closed
    closed: bool = False

    async def read_whole(self, deadline: float) -> Raw | None:
        """The response, where it is no event stream; None where it is one: its beginning has been read then."""
        exchange = self.exchange
        assert exchange is not None  # it has just been opened  # noqa: S101
        content_type, size = exchange.headers.get("content-type", ""), -1
        found = None if 200 <= exchange.status < 300 else False
        while found is None and len(self.last) > size:
            size = len(self.last)
            self.last += await exchange.read(deadline)  # in no local variable: a traceback may show those
            found = is_event_stream(content_type, self.last) if self.last else None
        if found or (found is None and is_event_stream(content_type, b"")):
            self._take(self.last)
            return None
        return Raw(exchange.status, exchange.headers, await exchange.read_all(deadline, self.last))

    async def read_event(self, deadline: float) -> bool:
        """Read until at least one event is buffered; False at the end of the stream.

        Raises:
            APIConnectionError, APITimeoutError: the connection broke, or no event arrived before the deadline.
            APIResponseError: this is not an event stream (it has a line of over 8 MiB).
        """
        while not self.events and self.exchange is not None:
            try:
                piece = await self.exchange.read(deadline)
            except APIError as error:
                piece = b""  # a traceback may show local variables
                self.redact(error)
                raise
            if not piece:
                self.events.extend(self.decoder.end())
                break
            self._take(piece)
        return bool(self.events)

    def _take(self, piece: bytes) -> None:
        self.last = piece
        try:
            for event in self.decoder.feed(piece):
                # Nearly every event is a JSON object without a type; to ask of each of them would be felt.
                if (event[0][:1] == b"{" and not event[1]) or not is_keep_alive(event):
                    self.events.append(event)
        except ValueError as error:
            raise self.unexpected(str(error)) from None

    def take_observed(self) -> ObservedStream | None:
        """What tells hooks of its end, once."""
        observed, self.observed = self.observed, None
        return observed

    async def close(self, stream: Any, complete: bool, error: BaseException | None) -> None:
        """Close the connection, for an error or for none; hooks and the log are told of the end of `stream`."""
        observed, exchange = self.take_observed(), self.exchange
        level = logging.DEBUG if error is None else logging.INFO
        if exchange is not None and not self.closed and log.isEnabledFor(level):
            how = type(error).__name__ if error else "whole" if complete else "closed early"
            log.log(level, "stream of %s: %s", self.endpoint, how, extra={"endpoint": self.endpoint, "outcome": how})
        self.closed = True
        try:
            if exchange is not None:
                await exchange.close_after(error)
        finally:
            if observed is not None:
                await observed.end(stream, complete, error)

    def unexpected(self, detail: str, hint: str = "") -> APIResponseError:
        """As for every response; a stream has the last bytes that came."""
        error = CallInfo.unexpected(self, detail, hint)
        if self.exchange is not None:
            error.raw = Raw(self.raw.status, self.raw.headers, self.last)
            self.redact(error)
        return error

    def reported_error(self, event: Event) -> StreamInterruptedError | None:
        """The error that an event reports; None if it reports none."""
        frame = error_frame(event)
        return self.interrupted(f"the stream reported an error: {frame[1]}", frame[0]) if frame else None

    def interrupted(self, detail: str, code: str = "", text: str = "", usage: object = None) -> StreamInterruptedError:
        """The error for a stream that ended before the answer was complete."""
        raw = Raw(self.raw.status, self.raw.headers, self.last or self.raw.body) if self.raw.status else None
        error = StreamInterruptedError(
            detail, error_code=code, request_id=self.request_id, attempts=self.attempts, raw=raw
        )
        error.partial_text, error.usage = text, usage
        self.redact(error)
        return error
