"""One logical call, its answer, and a stream that is open."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .._http.pool import Exchange
from .._protocol.error_responses import request_id
from .._protocol.models import CallInfo
from .._protocol.sse import Decoder, Event
from ..errors import Raw, StreamInterruptedError
from .retry import Retry, Timeout

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(slots=True)  # not frozen: see `HttpRequest`
class Call:
    """One logical call, whatever attempts it takes; nobody changes it. `deadline` is on the backend's clock."""

    method: str
    path: str = field(repr=False)  # its query may hold what is secret
    timeout: Timeout
    retry: Retry
    deadline: float
    body: bytes | None = field(default=None, repr=False)
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def logged(self) -> str:
        """The path as a log shows it: a query may hold what is secret."""
        return self.path.split("?", 1)[0]


@dataclass(slots=True)
class Answer:
    """A 2xx answer and how it came about; of a stream, its head."""

    raw: Raw
    attempts: int = 1

    @property
    def meta(self) -> CallInfo:
        """What replies and errors tell of the call."""
        return CallInfo(request_id(self.raw.headers), self.attempts, self.raw)


@dataclass(slots=True)
class Opened(Answer):
    """A stream up to its first event; or a whole answer, from a server that does not stream."""

    exchange: Exchange | None = None
    decoder: Decoder = field(default_factory=Decoder)
    events: deque[Event] = field(default_factory=deque)

    def interrupted(self, detail: str, code: str = "", text: str = "", usage: object = None) -> StreamInterruptedError:
        """The error for a stream that ended before its end."""
        meta = self.meta
        error = StreamInterruptedError(
            detail, error_code=code, request_id=meta.request_id, attempts=self.attempts, raw=self.raw
        )
        error.partial_text, error.usage = text, usage
        return error
