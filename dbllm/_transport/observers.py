"""What tells hooks and telemetry of calls. No failure of theirs reaches a call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

from .._auth.redaction import hide_headers
from .._backends.backend import Backend, run_without_loop
from .._deadline import FOREVER
from .._protocol.models import Usage
from .._protocol.reply import CallInfo, HasCallInfo
from ..errors import APIError, APITimeoutError, ConfigError, Raw
from .call import Call, Trace, tracers
from .hooks import (
    Attempt,
    AttemptRequest,
    Hooks,
    Middleware,
    OnAttempt,
    RequestInfo,
    ResponseInfo,
    StreamEvent,
    TokenRefresh,
)

log = logging.getLogger("dbllm.hooks")

T = TypeVar("T")
ReadT = TypeVar("ReadT")

HOOK_SECONDS = 5.0  # that an async hook may take
LATE_SECONDS = 1.0  # that middleware has beyond the deadline, at which what it awaits raises the better error

_GETS = {item.name: f"one {str(item.type).partition('[')[2].partition(']')[0]}" for item in fields(Hooks)}
_GETS["middleware"] = "an AttemptRequest and send"


class _ObservedCall:
    """A call that is under way, and what hooks and telemetry know it by."""

    __slots__ = ("began", "ends", "given_up", "observers", "request", "trace")

    def __init__(self, observers: Observers | None, began: float, ends: float) -> None:
        self.observers, self.began, self.ends = observers, began, ends
        self.request: RequestInfo | None = None  # where there are hooks
        self.trace: Trace | None = None  # where there is telemetry
        self.given_up: list[str] = []  # hooks that had to be cancelled: in this call they are not waited for again


# The call that is under way here; none while a hook runs.
_current: ContextVar[_ObservedCall | None] = ContextVar("dbllm_call", default=None)
_IN_HOOK = _ObservedCall(None, 0, 0)


def _reset(mark: Token[Any]) -> None:
    try:
        _current.reset(mark)
    except ValueError:  # the coroutine is closed from elsewhere: the context that it ran in is gone
        return


def hook_seconds(left: float | None) -> float:
    """How long an async hook may take, where the call has yet something to do in the seconds that are `left`."""
    return HOOK_SECONDS if left is None else min(HOOK_SECONDS, max(0.0, left / 2))


class Observers:
    """The hooks of a client, and the telemetry of its process."""

    def __init__(self, hooks: Hooks | None, on_attempt: OnAttempt | None, backend: Backend) -> None:
        self._backend, self._is_sync, backend.refreshed = backend, backend.closing == "close", self.refreshed
        if hooks is not None and not isinstance(hooks, Hooks):
            raise ConfigError(f"hooks must be a Hooks, as in Hooks(on_retry=print), got {type(hooks).__name__}.")
        given = (hooks, Hooks(on_attempt=on_attempt) if on_attempt is not None else None)
        self._hooks = tuple(each for each in given if each is not None)
        self._middleware = [each.middleware for each in reversed(self._hooks) if each.middleware is not None]
        self._failed: set[str] = set()
        for name, hook in ((item.name, getattr(own, item.name)) for own in self._hooks for item in fields(own)):
            if hook is not None and not callable(hook):
                raise ConfigError(f"{name} must be a function of {_GETS[name]}, got {type(hook).__name__}.")
            if self._is_sync and any(map(inspect.iscoroutinefunction, (hook, getattr(hook, "__call__", None)))):  # noqa: B004
                raise ConfigError(f"Client has no event loop for {name}, an async function: use AsyncClient.")

    def active(self) -> bool:
        """Whether there is somebody to tell here: nobody while a hook runs."""
        return bool(self._hooks or tracers) and _current.get() is not _IN_HOOK

    def watching(self) -> bool:
        """Whether a call of this client is under way here."""
        current = _current.get()
        return current is not None and current.observers is self

    async def watch(
        self,
        about: tuple[Any, ...],
        work: Callable[[], Awaitable[T]],
        read: Callable[[T], ReadT],
        ends: float = FOREVER,
    ) -> ReadT:
        """Do a call's work and read its answer. Hooks are told of its beginning and, if it opens no stream, its end.

        `about` are the fields of its `RequestInfo`, `ends` its deadline. What is part of another call, is not told.
        """
        around = _current.get()
        if around is _IN_HOOK or (around is not None and around.observers is self) or not (self._hooks or tracers):
            return read(await work())
        call = _ObservedCall(self, self._backend.clock(), ends)
        try:
            for tracer in tracers:
                try:
                    call.trace = tracer.begin(*about)
                except Exception:  # noqa: BLE001 - as of a hook
                    self._log_failure("telemetry")
            if self._hooks:
                call.request = RequestInfo(*about)
                await self.tell("on_request", call.request, call, ends)
            mark = _current.set(call)
            try:
                answer = await work()
            finally:
                _reset(mark)
            reply = read(answer)
        except BaseException as error:
            said = self.end(call, None, error, error)
            await self.tell("on_response", said, call, wait=isinstance(error, Exception))
            raise
        info: Any = answer[-1] if isinstance(answer, tuple) else getattr(answer, "_call", answer)
        if len(about) > 3 and about[3]:
            info.observed = ObservedStream(self, call, self._backend.clock)
            info.listened = any(hooks.on_stream_event for hooks in self._hooks)
        else:
            said = self.end(call, reply, info)
            if said is not None:
                await self.tell("on_response", said, call)
        return reply

    def end(
        self, call: _ObservedCall, reply: Any, info: Any, error: BaseException | None = None, *of: Any
    ) -> ResponseInfo | None:
        """A call has ended: what hooks get then. `of` is what a stream has said: outcome, usage, fields after it."""
        outcome: Any = "ok" if error is None else "error" if isinstance(error, Exception) else "cancelled"
        if not of and isinstance(reply, HasCallInfo):  # a reply says at length what it has not, where it is asked
            said: Any = reply
            of = "", vars(reply).get("usage"), said.finish_reason if hasattr(type(reply), "finish_reason") else None
        raw, attempts = (info.raw, info.attempts) if isinstance(info, (CallInfo, APIError)) else (None, 0)
        seconds = self._backend.clock() - call.began
        all_of_it = of[0] or outcome if of else outcome, seconds, reply, error, raw, attempts, *of[1:]
        if call.trace is not None:
            try:
                call.trace.end(*all_of_it)
            except Exception:  # noqa: BLE001 - as of a hook
                self._log_failure("telemetry")
        return ResponseInfo(call.request, *all_of_it) if call.request is not None else None

    async def attempt(
        self, call: Call, *, pause: Callable[[Call, APIError], float | None], send: Callable[[Call], Any]
    ) -> Any:
        """One attempt within all middleware, of which hooks are told. `pause` says how long its failure's is."""
        began, watched, sent = self._backend.clock(), _current.get(), call
        assert watched is not None  # an attempt is part of a call  # noqa: S101
        for middleware in self._middleware:
            send = partial(self._send_through, middleware, send)
        error: APIError | None = None
        wait = info = mark = None
        if (trace := watched.trace) is not None:
            try:
                mark, headers = trace.begin_attempt(call.headers)
                if headers is not call.headers:
                    sent = replace(call, headers=hide_headers(headers))
            except Exception:  # noqa: BLE001 - as of a hook
                self._log_failure("telemetry")
        try:
            info = await send(sent)
        except APIError as failure:
            error, wait = failure, pause(call, failure)
            raise
        finally:
            said, queued = None, sent.queued if info is None else getattr(info.request, "queued", 0.0)
            if (source := info or error) is not None:
                raw: Raw | None = source.raw
                status, request_id = (raw.status or None, raw.request_id) if raw else (None, None)
                of_it = call.method, call.logged, call.attempt, self._backend.clock() - began, status, request_id
                said = *of_it, error, wait, call.hedge, call.waited, call.limit
            if trace is not None:
                try:
                    trace.end_attempt(mark, queued, *(said or ()))
                except Exception:  # noqa: BLE001 - as of a hook
                    self._log_failure("telemetry")
            if said is not None and self._hooks:
                attempt = Attempt(*said, watched.request, queued)
                await self.tell("on_attempt", attempt, watched, None if wait is None else call.deadline)
                if wait is not None:
                    await self.tell("on_retry", attempt, watched, call.deadline)
        return info

    async def _send_through(self, middleware: Middleware, send: Callable[[Call], Any], call: Call) -> Any:
        watched = _current.get()
        request = watched.request if watched is not None else None
        own = AttemptRequest(call.method, call.logged, call.attempt, call.headers, request)

        def proceed(request: AttemptRequest = own) -> Any:
            same = request.headers is own.headers
            sending = send(call if same else replace(call, headers=hide_headers(request.headers)))
            return run_without_loop(sending) if self._is_sync else sending

        answer = middleware(own, proceed)
        if not isinstance(answer, CallInfo) and inspect.isawaitable(answer):
            late = APITimeoutError("the middleware had not returned at the call's deadline, and was cancelled")
            answer = await self._backend.within(call.deadline - self._backend.clock() + LATE_SECONDS, answer, late)
        if not isinstance(answer, CallInfo):
            raise TypeError(f"a middleware must return what send() gave, got {type(answer).__name__}.")
        return answer

    async def refreshed(self, *what: Any) -> None:
        """A token was fetched, or could not be: the fields of a `TokenRefresh`."""
        if (current := _current.get()) is _IN_HOOK:
            return
        for tracer in tracers:
            try:
                tracer.token_refresh(*what)
            except Exception:  # noqa: BLE001 - as of a hook
                self._log_failure("telemetry")
        around = current or _ObservedCall(self, 0, FOREVER)
        await self.tell("on_token_refresh", TokenRefresh(*what), around, around.ends)

    async def tell(
        self, name: str, value: object, call: _ObservedCall, ends: float | None = None, *, wait: bool = True
    ) -> None:
        """Call the hooks of this name. Without `wait`, those that are async run to their first await.

        `ends` is the deadline of a call that has yet something to do.
        """
        late: Exception | None = None
        for hooks in self._hooks:
            if (hook := getattr(hooks, name)) is None:
                continue
            mark = _current.set(_IN_HOOK)
            try:
                if (result := hook(value)) is None or not inspect.isawaitable(result):
                    continue
                if wait and not self._is_sync and name not in call.given_up:
                    seconds = hook_seconds(None if ends is None else ends - self._backend.clock())
                    late = TimeoutError(f"{name} had not ended after {seconds:.3g} s, and was cancelled")
                    await self._backend.within(seconds, result, late)
                else:
                    await _at_once(result, name)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the user's own
                if error is late:
                    call.given_up.append(name)
                self._log_failure(name)
            finally:
                _reset(mark)

    def _log_failure(self, name: str) -> None:
        level = logging.DEBUG if name in self._failed else logging.WARNING
        self._failed.add(name)
        log.log(level, "%s raised an exception; the call goes on", name, exc_info=True)


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
    """What hooks and telemetry are told of an open stream."""

    def __init__(self, observers: Observers, call: _ObservedCall, clock: Callable[[], float]) -> None:
        self._observers, self._watched, self._clock = observers, call, clock
        self._first_event, self._events = clock() - call.began, 0
        self._usage: Usage | None = None
        self._finish_reason: str | None = None

    def note(self, chunk: Any) -> None:
        """A piece was read."""
        self._events += 1
        self._usage = chunk.usage or self._usage
        self._finish_reason = chunk.finish_reason or self._finish_reason

    async def observe(self, reading: Awaitable[T]) -> T:
        """The next piece; what is sent to get it is part of the call, and hooks are told of it."""
        call = self._watched
        mark = _current.set(call)
        try:
            chunk = await reading
        finally:
            _reset(mark)
        if chunk is not None and call.request is not None:
            event = StreamEvent(call.request, self._events, self._clock() - call.began, chunk)
            await self._observers.tell("on_stream_event", event, call)
        return chunk

    async def end(self, stream: Any, whole: bool, error: BaseException | None = None, *, dropped: bool = False) -> None:
        """It has ended, or was closed or dropped."""
        outcome = "" if whole or error is not None else "abandoned"
        info = error if isinstance(error, APIError) else stream._call
        said = outcome, self._usage, self._finish_reason, self._first_event, self._events
        wait = not dropped and isinstance(error, Exception | None)
        response = self._observers.end(self._watched, stream, info, error, *said)
        await self._observers.tell("on_response", response, self._watched, wait=wait)
