"""Hooks: a user's functions that are called as calls begin, fail, stream and end; middleware around attempts."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, TypeVar

from .._auth.redaction import hide_headers
from .._backends.backend import Backend, run_without_loop
from .._misnomers import explain_fields
from .._protocol.models import Usage
from .._protocol.reply import CallInfo, HasCallInfo
from ..errors import APIError, ConfigError, PublicPickle, Raw
from .call import Call, process_hooks

log = logging.getLogger("dbllm.hooks")

T = TypeVar("T")
ReadT = TypeVar("ReadT")
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

    What a hook raises is logged (the first time as a WARNING, then at DEBUG), and the call goes on. It waits for a hook
    as long as that takes, beyond its own time-out. What a hook itself
    sends is not told to hooks. Where nothing can be awaited (the call was cancelled, a stream was dropped) an async
    hook runs up to its first await.

    `middleware(request, send)` runs around each attempt and is part of it: it must call `send` once (in `AsyncClient`:
    await what that gives) and return the answer, which has `raw` (status, headers; the body, but of no stream) and
    `request_id`. `send` raises the failure of the attempt, an `APIError`. What the middleware raises is the attempt's
    failure: an `APIError` may be tried again like any other, everything else ends the call. Waiting for a connection,
    and sending again with a token that has been renewed, happen within `send`; pauses between attempts do not.

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


_GETS = {item.name: f"one {str(item.type).partition('[')[2].partition(']')[0]}" for item in fields(Hooks)}
_GETS["middleware"] = "an AttemptRequest and send"

# The call that is under way here, and whose it is; nobody's while a hook runs.
_current: ContextVar[tuple[Observers | None, RequestInfo | None] | None] = ContextVar("dbllm_call", default=None)
_IN_HOOK: tuple[None, None] = (None, None)


def _reset(mark: Token[Any]) -> None:
    with suppress(ValueError):  # the coroutine is closed from elsewhere: the context that it ran in is gone
        _current.reset(mark)


class Observers:
    """The hooks of a client and of its process. No failure of theirs reaches a call."""

    def __init__(self, hooks: Hooks | None, on_attempt: OnAttempt | None, backend: Backend) -> None:
        self._backend, self._is_sync, backend.refreshed = backend, backend.closing == "close", self.refreshed
        if hooks is not None and not isinstance(hooks, Hooks):
            raise ConfigError(f"hooks must be a Hooks, as in Hooks(on_retry=print), got {type(hooks).__name__}.")
        given = (hooks, Hooks(on_attempt=on_attempt) if on_attempt is not None else None)
        self._own = tuple(each for each in given if each is not None)
        self._failed: set[str] = set()
        for name, hook in ((item.name, getattr(own, item.name)) for own in self._own for item in fields(own)):
            if hook is not None and not callable(hook):
                raise ConfigError(f"{name} must be a function of {_GETS[name]}, got {type(hook).__name__}.")
            if self._is_sync and any(map(inspect.iscoroutinefunction, (hook, getattr(hook, "__call__", None)))):  # noqa: B004
                raise ConfigError(f"Client has no event loop for {name}, an async function: use AsyncClient.")

    def active(self) -> Sequence[Hooks]:
        """The hooks to call here: none while one of them runs."""
        if not self._own and not process_hooks:
            return ()
        return () if _current.get() is _IN_HOOK else (*process_hooks, *self._own)

    @property
    def request(self) -> RequestInfo | None:
        """The call that is under way here."""
        current = _current.get()
        return current[1] if current is not None and current[0] is self else None

    async def watch(
        self, about: tuple[Any, ...], work: Callable[[], Awaitable[T]], read: Callable[[T], ReadT]
    ) -> ReadT:
        """Do a call's work and read its answer. Hooks are told of its beginning and, if it opens no stream, its end.

        `about` are the fields of its `RequestInfo`. What is part of another call, is not told.
        """
        if not self.active() or self.request is not None:
            return read(await work())
        began, request = self._backend.clock(), RequestInfo(*about)
        try:
            await self.tell("on_request", request)
            mark = _current.set((self, request))
            try:
                answer = await work()
            finally:
                _reset(mark)
            reply = read(answer)
        except BaseException as error:
            response = self.response(request, began, None, error, error)
            await self.tell("on_response", response, wait=isinstance(error, Exception))
            raise
        info: Any = answer[-1] if isinstance(answer, tuple) else getattr(answer, "_call", answer)
        if request.stream:
            info.observed = ObservedStream(self, request, began, self._backend.clock)
            info.listened = any(hooks.on_stream_event for hooks in self.active())
        else:
            await self.tell("on_response", self.response(request, began, reply, info))
        return reply

    def response(
        self, request: RequestInfo, began: float, reply: Any, info: Any, error: BaseException | None = None, *of: Any
    ) -> ResponseInfo:
        """How a call ended; `of` is what a stream has said: outcome, usage and the fields after it."""
        ended: Any = "ok" if error is None else "error" if isinstance(error, Exception) else "cancelled"
        if not of and isinstance(reply, HasCallInfo):  # a reply says at length what it has not, where it is asked
            said: Any = reply
            of = "", vars(reply).get("usage"), said.finish_reason if hasattr(type(reply), "finish_reason") else None
        raw, attempts = (info.raw, info.attempts) if isinstance(info, (CallInfo, APIError)) else (None, 0)
        seconds, outcome = self._backend.clock() - began, of[0] if of and of[0] else ended
        return ResponseInfo(request, outcome, seconds, reply, error, raw, attempts, *of[1:])

    async def attempt(
        self, call: Call, *, pause: Callable[[Call, APIError], float | None], send: Callable[[Call], Any]
    ) -> Any:
        """One attempt within all middleware, of which hooks are told. `pause` says how long its failure's is."""
        began, request = self._backend.clock(), self.request
        for hooks in reversed(self.active()):
            if hooks.middleware is not None:
                send = partial(self._send_through, hooks.middleware, send)
        error: APIError | None = None
        wait = info = None
        try:
            info = await send(call)
        except APIError as failure:
            error, wait = failure, pause(call, failure)
            raise
        finally:
            if (source := info or error) is not None:
                raw: Raw | None = source.raw
                status, request_id = (raw.status or None, raw.request_id) if raw else (None, None)
                said = (call.method, call.logged, call.attempt, self._backend.clock() - began, status, request_id)
                queued = call.queued if info is None else getattr(info.request, "queued", 0.0)
                attempt = Attempt(*said, error, wait, call.hedge, call.waited, call.limit, request, queued)
                await self.tell("on_attempt", attempt)
                if wait is not None:
                    await self.tell("on_retry", attempt)
        return info

    async def _send_through(self, middleware: Middleware, send: Callable[[Call], Any], call: Call) -> Any:
        own = AttemptRequest(call.method, call.logged, call.attempt, call.headers, self.request)

        def proceed(request: AttemptRequest = own) -> Any:
            same = request.headers is own.headers
            sending = send(call if same else replace(call, headers=hide_headers(request.headers)))
            return run_without_loop(sending) if self._is_sync else sending

        answer = middleware(own, proceed)
        if not isinstance(answer, CallInfo) and inspect.isawaitable(answer):
            answer = await answer
        if not isinstance(answer, CallInfo):
            raise TypeError(f"a middleware must return what send() gave, got {type(answer).__name__}.")
        return answer

    async def refreshed(self, *what: Any) -> None:
        """A token was fetched, or could not be: the fields of a `TokenRefresh`."""
        await self.tell("on_token_refresh", TokenRefresh(*what))

    async def tell(self, name: str, value: object, *, wait: bool = True) -> None:
        """Call the hooks of this name. Without `wait`, those that are async run to their first await."""
        for hooks in self.active():
            if (hook := getattr(hooks, name)) is None:
                continue
            mark = _current.set(_IN_HOOK)
            try:
                if (result := hook(value)) is not None and inspect.isawaitable(result):
                    await (result if wait and not self._is_sync else _at_once(result, name))
            except Exception:
                level = logging.DEBUG if name in self._failed else logging.WARNING
                self._failed.add(name)
                log.log(level, "%s raised an exception; the call goes on", name, exc_info=True)
            finally:
                _reset(mark)


async def _at_once(result: Any, name: str) -> None:
    """Run an async hook to its first await."""
    try:
        result.send(None)
    except StopIteration:
        return
    finally:
        result.close()
    raise RuntimeError(f"{name} is async, and was ended at its first await, where there was no time or loop to wait")


class ObservedStream:
    """What hooks are told of an open stream."""

    def __init__(self, observers: Observers, request: RequestInfo, began: float, clock: Callable[[], float]) -> None:
        self._observers, self._request, self._began, self._clock = observers, request, began, clock
        self._first_event, self._events = clock() - began, 0
        self._usage: Usage | None = None
        self._finish_reason: str | None = None

    def note(self, chunk: Any) -> None:
        """A piece was read."""
        self._events += 1
        self._usage = chunk.usage or self._usage
        self._finish_reason = chunk.finish_reason or self._finish_reason

    async def observe(self, reading: Awaitable[T]) -> T:
        """The next piece; what is sent to get it is part of the call, and hooks are told of it."""
        mark = _current.set((self._observers, self._request))
        try:
            chunk = await reading
        finally:
            _reset(mark)
        if chunk is not None:
            event = StreamEvent(self._request, self._events, self._clock() - self._began, chunk)
            await self._observers.tell("on_stream_event", event)
        return chunk

    async def end(self, stream: Any, whole: bool, error: BaseException | None = None, *, dropped: bool = False) -> None:
        """It has ended, or was closed or dropped."""
        said = "" if whole or error is not None else "abandoned", self._usage, self._finish_reason
        info = error if isinstance(error, APIError) else stream._call
        began, told = self._began, (*said, self._first_event, self._events)
        response = self._observers.response(self._request, began, stream, info, error, *told)
        await self._observers.tell("on_response", response, wait=not dropped and isinstance(error, Exception | None))
