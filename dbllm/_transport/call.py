"""One logical call, what becomes of it, and a stream that is open."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .._http.pool import Exchange
from .._protocol.models import CallInfo
from .._protocol.sse import Decoder, Event
from ..errors import APIError, PublicPickle, StreamInterruptedError
from .retry import Retry, Timeout

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(slots=True)  # not frozen: see `HttpRequest`
class Call:
    """One logical call, whatever attempts it takes. `deadline` is on the backend's clock."""

    method: str
    path: str = field(repr=False)  # its query may hold what is secret
    timeout: Timeout
    retry: Retry
    deadline: float
    body: bytes | None = field(default=None, repr=False)
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    origin: str | None = None  # where it goes; None is the client's workspace
    attempt: int = 1  # the one that is being made

    @property
    def logged(self) -> str:
        """The path as a log shows it: a query may hold what is secret."""
        return self.path.split("?", 1)[0]


@dataclass(frozen=True, slots=True)
class Attempt(PublicPickle):
    """One attempt of a call, as the hook `on_attempt` is told of it.

    Attributes:
        method, path: what was called; the path has no query.
        number: 1 for the first attempt.
        seconds: how long it took.
        status: of the answer; None where none came.
        request_id: the workspace's id of it.
        error: what it failed with, or None. Whether another attempt follows is not decided yet.
    """

    method: str
    path: str
    number: int
    seconds: float
    status: int | None = None
    request_id: str | None = None
    error: APIError | None = None


@dataclass(slots=True)
class OpenStream(CallInfo):
    """A stream up to its first event; or a whole answer, from a server that does not stream."""

    exchange: Exchange | None = None
    decoder: Decoder = field(default_factory=Decoder)
    events: deque[Event] = field(default_factory=deque)

    async def read_event(self, deadline: float) -> bool:
        """Read on until at least one more event is there; False at the end of the stream.

        Raises:
            APIConnectionError, APITimeoutError: the connection broke, or no event came before the deadline.
            APIResponseError: the stream is none (a line of over 8 MiB).
        """
        while not self.events and self.exchange is not None:
            piece = await self.exchange.read(deadline)
            if not piece:
                return False
            try:
                # An event without data is a sign of life.
                self.events.extend([event for event in self.decoder.feed(piece) if event.data.strip()])
            except ValueError as error:
                raise self.unexpected(str(error)) from None
        return bool(self.events)

    def interrupted(self, detail: str, code: str = "", text: str = "", usage: object = None) -> StreamInterruptedError:
        """The error for a stream that ended before its end."""
        raw = self.raw if self.raw.status else None
        error = StreamInterruptedError(
            detail, error_code=code, request_id=self.request_id, attempts=self.attempts, raw=raw
        )
        error.partial_text, error.usage = text, usage
        return error
