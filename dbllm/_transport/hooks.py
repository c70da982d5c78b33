"""Hooks: a user's functions that are called as calls begin, fail, stream and end; middleware around attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from .._misnomers import explain_fields
from .._protocol.models import Usage
from ..errors import APIError, PublicPickle, Raw

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, eq=False)
class RequestInfo(PublicPickle):
    """A call that begins, as the hook `on_request` gets it: of a verb, or any other request to the workspace.

    A call has one, whatever it takes: look-ups, attempts, several batches, further endpoints.

    Attributes:
        operation: "complete" (and generate), "chat", "respond", "embed", "predict"; of an agent's run "start", "events"
            or "result"; "request" for everything else.
        name: the endpoint's, app's or agent's name, or the run's id; of a request, its method and path (without the
            query).
        host: where it is sent, as scheme://name[:port].
        stream: whether the answer is streamed.
        body: what the verb sends, without `extra_body`: it holds the user's texts. None for a request.
        notes: for the hooks' own use: `on_response` gets the same dict.
    """

    operation: str
    name: str
    host: str
    stream: bool = False
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    notes: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Attempt(PublicPickle):
    """One attempt of a call, as the hook `on_attempt` gets it.

    Attributes:
        method, path: what was called; the path has no query.
        number: 1 for the first attempt.
        seconds: how long it took.
        status: the response's status; None if there was no response.
        request_id: the workspace's id of the request.
        error: why it failed, or None.
        wait: seconds until the next attempt; None if none follows, or if another request of this attempt may still be
            answered.
        hedge: whether this was the second request of an attempt that was slow; a request that lost is not told of.
        waited: seconds that it waited before for the client's `Limits`.
        limit: how many calls at once these allowed then; None if they do not say.
        request: the call that it is part of.
        queued: seconds of `seconds` that it waited for a connection: `max_connections` others were under way.
    """

    method: str
    path: str
    number: int
    seconds: float
    status: int | None = None
    request_id: str | None = None
    error: APIError | None = None
    wait: float | None = None
    hedge: bool = False
    waited: float = 0.0
    limit: int | None = None
    request: RequestInfo | None = field(default=None, repr=False, compare=False)
    queued: float = 0.0


@dataclass(frozen=True, slots=True)
class ResponseInfo(PublicPickle):
    """How a call ended, as the hook `on_response` gets it: once for each call, whatever happens to it.

    Attributes:
        request: what `on_request` got.
        outcome: "ok"; "error": the call raised; "cancelled": it was ended from outside; "abandoned": a stream was
            closed, or dropped, before its end.
        seconds: from the beginning to the end; of a stream, to its last piece.
        reply: what the verb returns; of a stream, the stream; of a request, the answer. None if there is none.
        error: what the call raised.
        raw: the last response, as far as it came; it has `status` and `request_id`.
        attempts: how often it was sent.
        usage, finish_reason: as the reply says; None where it does not.
        first_event: of a stream, the seconds until its first event.
        events: of a stream, how many pieces were read.
    """

    request: RequestInfo
    outcome: Literal["ok", "error", "cancelled", "abandoned"]
    seconds: float
    reply: Any = field(default=None, repr=False)
    error: BaseException | None = None
    raw: Raw | None = field(default=None, repr=False)
    attempts: int = 0
    usage: Usage | None = None
    finish_reason: str | None = None
    first_event: float | None = None
    events: int = 0


@dataclass(frozen=True, slots=True)
class StreamEvent(PublicPickle):
    """One piece of a stream, as the hook `on_stream_event` gets it.

    Attributes:
        request: what `on_request` got.
        number: 1 for the first piece.
        seconds: since the call began.
        chunk: the piece, as the stream gives it.
    """

    request: RequestInfo
    number: int
    seconds: float
    chunk: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenRefresh(PublicPickle):
    """A token that was fetched, as the hook `on_token_refresh` gets it. It does not have the token.

    Attributes:
        seconds: how long it took.
        lifetime: for how many seconds the new token is valid; None if there is none.
        error: why there is none.
    """

    seconds: float
    lifetime: float | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class AttemptRequest:
    """What a middleware sees of an attempt. Credentials are added after it.

    Attributes:
        method, path: what is called; the path has no query.
        number: 1 for the first attempt.
        headers: the call's own; `send(dataclasses.replace(request, headers={**request.headers, …}))` sends others.
        request: what `on_request` got; None for what a hook sends.
    """

    method: str
    path: str
    number: int
    headers: Mapping[str, str]
    request: RequestInfo | None = None


Hook = Callable[[ValueT], Awaitable[object] | object]
OnAttempt = Hook[Attempt]
Middleware = Callable[[AttemptRequest, Callable[..., Any]], Any]


@explain_fields
@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions that a client calls. Those of `AsyncClient` may be async, those of `Client` may not.

    What a hook raises is logged (the first time as a WARNING, then at DEBUG), and the call goes on. What a hook itself
    sends is not told to hooks. Where nothing can be awaited (the call was cancelled, a stream was dropped) an async
    hook runs up to its first await.

    An async hook has 5 s, and half of the call's remaining time where the call has yet something to do; then it is
    cancelled, logged like one that raises, and not waited for again in this call. A plain function that blocks cannot
    be ended: the call waits for it (and in `AsyncClient` everything else in its event loop too), also beyond its own
    time-out.

    `middleware(request, send)` runs around each attempt and is part of it: it must call `send` once (in `AsyncClient`:
    await what that gives) and return the answer, which has `raw` (status, headers; the body, but of no stream) and
    `request_id`. `send` raises the failure of the attempt, an `APIError`. What the middleware raises is the attempt's
    failure: an `APIError` may be tried again like any other, everything else ends the call. Waiting for a connection,
    and sending again with a token that has been renewed, happen within `send`; pauses between attempts do not. Async
    middleware that has not returned a second after the call's deadline is cancelled: an `APITimeoutError` says so.

    Attributes:
        on_request: called with a `RequestInfo` when a call begins.
        on_response: called with a `ResponseInfo` when it has ended, however it did.
        on_attempt: called with an `Attempt` after each attempt.
        on_retry: called with the `Attempt` that failed, before the wait for the next one. (Of an attempt that was
            hedged it is not told.)
        on_stream_event: called with a `StreamEvent` for each piece of a stream.
        on_token_refresh: called with a `TokenRefresh` when a token was fetched, or could not be.
        middleware: runs around each attempt.
    """

    on_request: Hook[RequestInfo] | None = None
    on_response: Hook[ResponseInfo] | None = None
    on_attempt: Hook[Attempt] | None = None
    on_retry: Hook[Attempt] | None = None
    on_stream_event: Hook[StreamEvent] | None = None
    on_token_refresh: Hook[TokenRefresh] | None = None
    middleware: Middleware | None = None
