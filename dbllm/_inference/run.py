"""A run of an agent: its state, its result, and its events, which go on where a connection broke."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from .._backends.backend import Backend
from .._deadline import FOREVER
from .._misnomers import NotAwaited
from .._protocol.agents import INVOCATIONS, OVER, RESPONSES, AgentWire, response_json, status_of, wire_of_run
from .._protocol.error_responses import error_frame
from .._protocol.models import Response, ResponseEvent
from .._protocol.reply import CallInfo
from .._transport.call import EVENTS, OpenStream
from .._transport.options import Options
from .._transport.replies import read_json
from .._transport.retry import Timeout
from .._transport.transport import Transport
from ..errors import APIError, APIStatusError, APITimeoutError, NotFoundError, Raw, StreamInterruptedError
from .chunks import ResponsesWire, response_of
from .stream import AsyncStream, Stream  # noqa: F401 - Stream: the sync verbs' annotations name it

RESULT_SECONDS = 1200.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0  # seconds between two looks at a run
LAST_LOOK = 0.5  # seconds of a timeout that are kept for the last one
_TOO_OLD = (
    "The app may not keep events as old as this cursor: events() without after= begins with the oldest it has, and "
    "result() has the whole response."
)
_UNKNOWN = "The app knows no run {!r}, or knows it no longer."
_NO_CANCEL = "This app cannot cancel runs: it goes on until it ends."


class AsyncRun(NotAwaited):
    """A run of an agent, which goes on whether or not anybody waits for it."""

    _names = "run"

    def __init__(
        self,
        transport: Transport,
        options: Options,
        run_id: str,
        wire: AgentWire | None,
        learned: Callable[..., AgentWire | None],
        origin: Callable[[Options, float], Awaitable[str]],
    ) -> None:
        self._transport, self._options, self._wire = transport, options, wire_of_run(run_id, wire)
        self._id, self._learned, self._origin = run_id, learned, origin

    @property
    def id(self) -> str:
        """The run's id: a UUID that this client made, or what the app calls it."""
        return self._id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._id!r})"

    async def status(self) -> str:
        """What it is doing: queued, active (or in_progress), completed, failed or cancelled."""
        return status_of(read_json(await self._state(self._ends())))

    async def result(self, *, timeout: float | None = RESULT_SECONDS) -> Response:
        """Wait until the run has ended; its response.

        Args:
            timeout: seconds to wait; None waits without a limit.

        Raises:
            APITimeoutError: it has not ended yet. It goes on; call this again.
            APIResponseError: the agent failed.
            APIError: the app does not answer.
        """
        about = "result", self._id, self._transport.host
        return await self._transport.watch(about, lambda: self._wait(timeout), lambda response: response)

    async def _wait(self, timeout: float | None) -> Response:
        backend, pause = self._transport.backend, FIRST_PAUSE
        limit = Timeout(total=timeout).total
        ends = FOREVER if limit is None else backend.clock() + limit
        status = "in an unknown state"
        while True:
            try:
                info = await self._state(min(ends, self._ends()))
                if (status := status_of(read_json(info))) in OVER:
                    return run_response(info)
            except APITimeoutError:
                if backend.clock() < ends:
                    raise
            pause = min(pause, ends - LAST_LOOK - backend.clock())
            if pause <= 0:
                said = f"run {self._id} has not ended in time: it is {status}"
                raise APITimeoutError(said, hint="It goes on: call result() again, or cancel().")
            await backend.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def events(self, *, after: int | None = None) -> AsyncStream[ResponseEvent, Response]:
        """The run's events, from its first; a stream whose connection breaks goes on from where it was.

        Args:
            after: only those after this cursor, which an earlier stream had as its `cursor`.
        """
        if after is not None and (isinstance(after, bool) or not isinstance(after, int) or after < 0):
            raise ValueError(f"after must be the cursor of an earlier stream, 0 or more, got {after!r}.")

        async def start(stream: RunEvents) -> OpenStream:
            stream.follow(self)
            about = "events", self._id, self._transport.host, True
            return await self._transport.watch(about, lambda: stream.first(self), lambda opened: opened)

        return RunEvents(self._transport.backend, start, self._options.timeout.read, after)

    async def cancel(self) -> str:
        """Stop the run, if the app can do that; returns the status afterwards.

        Raises:
            NotFoundError: the app has no such run, or cannot cancel.
        """
        ends = self._ends()
        await self._state(ends)  # says whether the run is there, and what the app speaks
        wire = self._wire or INVOCATIONS
        call = self._options.call(ends, f"{wire.run_path(self._id)}/cancel", {}, origin=await self._at(ends))
        call.idempotent = True
        try:
            return status_of(read_json(await self._transport.call(call)))
        except APIStatusError as error:
            if error.status in (404, 405, 501):
                error.hint = _NO_CANCEL
            raise

    def _note(self, info: CallInfo) -> None:
        """What the app said when it started the run: its id, where the app makes it."""
        said = read_json(info)
        if self._wire is RESPONSES and isinstance(said, dict) and isinstance(said.get("id"), str):
            self._id = said["id"]

    def _known_wire(self) -> AgentWire:
        """What the app speaks, as far as it is known."""
        return self._wire or self._learned() or INVOCATIONS

    async def _events(self, after: int | None) -> OpenStream:
        """The stream of the events after a cursor, opened."""
        ends = self._ends()
        if self._wire is None:
            await self._state(ends)
        path = self._known_wire().events_path(self._id, after)
        call = self._options.call(ends, path, accept=EVENTS, origin=await self._at(ends))
        try:
            return await self._transport.open(call)
        except APIStatusError as error:
            if after and error.status in (400, 404, 409, 410, 416):
                error.hint = _TOO_OLD
            elif isinstance(error, NotFoundError):
                error.hint = _UNKNOWN.format(self._id)
            raise

    async def _state(self, ends: float) -> CallInfo:
        """The run's state; learns what the app speaks, where that is not known yet."""
        known = self._wire = self._wire or self._learned()
        origin = await self._at(ends)
        for wire in (known,) if known else (INVOCATIONS, RESPONSES):
            try:
                info = await self._transport.call(self._options.call(ends, wire.run_path(self._id), origin=origin))
            except NotFoundError as error:
                if wire is known or wire is RESPONSES:
                    error.hint = _UNKNOWN.format(self._id)
                    raise
            else:
                self._wire = wire if known else self._learned(wire)
                return info
        raise AssertionError("the last format returns or raises")

    async def _at(self, ends: float) -> str:
        return await self._origin(self._options, ends)

    def _ends(self) -> float:
        return self._options.deadline(self._transport.backend.clock)


class RunEvents(AsyncStream[ResponseEvent, Response]):
    """A run's events. After a break it goes on behind the last event, as long as the run is followed."""

    def __init__(
        self,
        backend: Backend,
        start: Callable[[RunEvents], Awaitable[OpenStream]],
        patience: float | None,
        after: int | None = None,
    ) -> None:
        super().__init__(backend.clock, start, ResponsesWire(), patience)
        self._backend, self._after, self._is_broken = backend, after, False
        self._run: AsyncRun | None = None
        self._state: CallInfo | None = None  # of a run that has ended

    def follow(self, run: AsyncRun) -> None:
        """Go on after a break, by asking for this run's events."""
        self._run = run

    async def first(self, run: AsyncRun) -> OpenStream:
        """The stream, opened; without a connection where the run has ended and no event is behind the cursor."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await run._events(self._after)
            except StreamInterruptedError:  # no event is behind the cursor yet
                if await self._is_over(run):
                    self._done = self._ended = True
                    return OpenStream(self._state.raw) if self._state else OpenStream()
            await self._backend.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def cursor(self) -> int | None:
        return self._after

    async def _open(self) -> OpenStream:
        opened = await super()._open()
        opened.listened = opened.listened or self._run is not None
        return opened

    async def _next_event(self, opened: OpenStream) -> ResponseEvent | None:
        run = self._run
        if run is None or opened.exchange is None:
            return await super()._next_event(opened)
        wire, pause = run._known_wire(), FIRST_PAUSE
        while True:
            if (chunk := await self._following(opened, wire)) is not None or self._ended:
                return chunk
            await opened.exchange.close_after(None)
            if not self._is_broken and await self._is_over(run):
                self._done = self._ended = True
                return None
            if self._is_broken is False:  # it ends without news: not at once again
                await self._backend.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                again = await run._events(self._after)
                again.observed, again.listened = opened.take_observed(), True
                opened = self._opened = again
            except StreamInterruptedError:  # there is no further event yet
                self._is_broken = False
                opened.events.clear()
            if opened.exchange is None:
                return await super()._next_event(opened)

    async def _following(self, opened: OpenStream, wire: AgentWire) -> ResponseEvent | None:
        """The next event of an open connection that is behind the cursor; None at its end."""
        self._is_broken = False
        while True:
            try:
                more = await opened.read_event(self._clock() + self._patience)
            except APIError:
                self._is_broken = True
                return None
            if not more:
                return None
            event = opened.events.popleft()
            if event.data.strip() == b"[DONE]":
                self._done = True
                await self._close()
                return None
            cursor = wire.cursor(event)
            if cursor is not None and self._after is not None and cursor <= self._after:
                continue  # the older format sends the first event twice
            self._after = self._after if cursor is None else cursor
            if frame := error_frame(event):
                raise self._broken(f"the agent reported an error: {frame[1]}", frame[0])
            return self._received.read(event.data, opened)

    async def _is_over(self, run: AsyncRun) -> bool:
        info = await run._state(run._ends())
        status = status_of(state := read_json(info))
        if status not in OVER:
            return False
        if status != "completed":
            said = state.get("error") if isinstance(state, dict) else None
            raise self._broken(f"the agent's run is {status}" + (f": {said}" if said else ""))
        self._state = info
        return True

    async def _final(self) -> Response:
        while await self._next() is not None:
            pass
        if self._run is not None and not self._received.pieces:
            await self._is_over(self._run)  # the whole response is there alone
        if self._state is not None and (whole := run_response(self._state)).output:
            return whole
        return await super()._final()


def run_response(info: CallInfo) -> Response:
    """The response in the state of a run that has ended.

    Raises:
        APIResponseError: the agent failed, or its output is no response.
    """
    content = response_json(read_json(info))
    if status_of(content) in ("cancelled", "canceled"):
        raise info.unexpected("the run was cancelled", "Start another one.")
    whole = CallInfo(Raw(info.raw.status, info.raw.headers, json.dumps(content).encode()), info.attempts)
    response = response_of(whole)
    response._call = info
    return response
