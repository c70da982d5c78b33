"""Streamed answers, chunk by chunk, in both modes.

Streams are classes with `__anext__` and `__next__` and not generators: they can be closed from anywhere at any time,
and no cancel scope is open while the caller holds a chunk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic

from .._backends.backend import run_without_loop
from .._backends.sync_facade import SyncFacade
from .._deadline import FOREVER
from .._misnomers import NotAwaited, OnlyAsyncStream, OnlyPlainStream
from .._protocol.error_responses import error_frame
from .._protocol.models import ResponseEvent, Usage
from .._protocol.reply import CallInfo, HasCallInfo
from .._protocol.responses import bounded_json
from .._transport.call import OpenStream
from .._transport.options import hide_frames
from .._transport.replies import decode_or_raise
from ..errors import APIError, APITimeoutError, StreamInterruptedError
from .chunks import C, R, StreamWire

Start = Callable[[Any], Awaitable[OpenStream]]
"""Opens a stream, which it gets and must not keep: a stream that is dropped would be held by its own function."""

_AFTER_DONE = 0.2  # seconds for the end of the body that follows [DONE]; it is usually there already


class Received(Generic[C, R]):
    """What has come of a streamed answer. Pieces are kept as bytes, and made chunks of when they are asked for.

    The garbage collector would walk thousands of living models again and again. No part of the stream itself: each
    look at one of its attributes costs more, since it answers for those that it does not have.
    """

    __slots__ = ("_again", "_made", "choices", "pieces", "wire")

    def __init__(self, wire: StreamWire[C, R]) -> None:
        self.wire = wire
        self.pieces: list[bytes] = []
        self.choices: dict[int, bool] = {}  # those that have begun, and whether their finish_reason has arrived
        self._made: list[C] = []  # chunks of the first of them
        self._again: StreamWire[C, R] | None = None  # what makes them: a chunk is read in the light of those before it

    def read(self, data: bytes, opened: OpenStream) -> C:
        """The next piece as a chunk."""
        chunk = self.wire.chunk(data, opened)
        self.pieces.append(data)
        if opened.observed is not None:
            opened.observed.note(chunk)
        if isinstance(chunk, ResponseEvent):
            self.choices[0] = self.choices.get(0, False) or bool(chunk.finish_reason)
        else:
            for choice in chunk.choices:
                if choice.finish_reason or choice.index not in self.choices:
                    self.choices[choice.index] = bool(choice.finish_reason)
        return chunk

    def next_buffered(self, opened: OpenStream | None) -> C | None:
        """The next chunk, if it has arrived already and needs no further step; else None."""
        if opened is None or not opened.events or opened.held or opened.listened:
            return None
        event = opened.events[0]
        if event.data[:1] == b"[" or error_frame(event):  # [DONE], most likely; no chunk is a list
            return None
        try:
            chunk = self.read(event.data, opened)
        except APIError:  # it is no chunk: `AsyncStream._next` handles that
            return None
        opened.events.popleft()
        return chunk

    def chunks(self, opened: OpenStream | None) -> list[C]:
        """All of them."""
        wire = self._again = self._again or self.wire.again()
        while opened is not None and len(self._made) < len(self.pieces):
            self._made.append(wire.chunk(self.pieces[len(self._made)], opened))
        return self._made


class AsyncStream(OnlyAsyncStream, NotAwaited, HasCallInfo, Generic[C, R]):
    """A streamed answer.

    Use it in `async with`: leaving the block closes the connection, so that the model stops. `async for` gives the
    chunks; `final()` gives the whole answer, also after some or all chunks have been read.
    """

    _names = "stream"

    def __init__(
        self, clock: Callable[[], float], start: Start, wire: StreamWire[C, R], patience: float | None
    ) -> None:
        self._clock, self._start = clock, start
        self._patience = FOREVER if patience is None else patience  # seconds from one event to the next
        self._opened: OpenStream | None = None
        self._received = Received(wire)
        self._done = False  # [DONE] or a whole answer has arrived
        self._ended = self._busy = self._read_up = False

    def __repr__(self) -> str:
        state = "ended" if self._done else "closed" if self._ended else "open" if self._opened else "not opened"
        return f"{type(self).__name__}({state}, chunks={len(self._received.pieces)}, request_id={self.request_id!r})"

    async def __aenter__(self) -> AsyncStream[C, R]:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncStream[C, R]:
        self._require_chunks()
        return self

    async def __anext__(self) -> C:
        """The next chunk.

        Raises:
            StreamInterruptedError: the stream broke, stalled, reported an error or ended too early.
            APIResponseError: an event is not a chunk.
            RuntimeError: another task is reading this stream.
        """
        chunk = self._received.next_buffered(self._opened) or await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def final(self) -> R:
        """The whole answer, of the type that the verb without `stream_` returns; reads the rest of the stream first.

        Raises:
            StreamInterruptedError: the stream broke, or was closed before its end.
        """
        return await self._final()

    async def aclose(self) -> None:
        """Close the connection; the model behind it stops. Closing twice is harmless."""
        self._read_up = True
        await self._close()

    def _require_chunks(self) -> None:
        """Raises RuntimeError where a loop would find nothing: chunks come once, and within the stream's block."""
        if self._read_up:
            why = "was closed, or it broke, before its end: read its chunks inside its block, once; text has what came"
            if self._complete:
                why = "has been read to its end, and its chunks come once: text and final() have the whole answer"
            raise RuntimeError(f"this stream {why}. For another answer call the verb again.")

    @property
    def _chunks(self) -> list[C]:
        return self._received.chunks(self._opened)

    @property
    def text(self) -> str:
        """The text that has arrived so far."""
        return "".join(chunk.text for chunk in self._chunks)

    @property
    def last_received(self) -> Any:
        """The piece that came last as it is on the wire: the JSON of its event. None before the first."""
        if not (pieces := self._received.pieces):
            return None
        return decode_or_raise("the last piece cannot be read", self._call, lambda: bounded_json(pieces[-1]))

    @property
    def usage(self) -> Usage | None:
        """The last usage that has arrived; servers that send it with every chunk send running totals."""
        return next((chunk.usage for chunk in reversed(self._chunks) if chunk.usage is not None), None)

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, once that is known."""
        return next((chunk.finish_reason for chunk in reversed(self._chunks) if chunk.finish_reason), None)

    @property
    def cursor(self) -> int | None:
        """Where the last event stands in an agent's run: `events(after=cursor)` gives those behind it; else None."""
        return None

    @property
    def _call(self) -> CallInfo:  # type: ignore[override]
        return self._opened or CallInfo(attempts=0)

    def __del__(self) -> None:
        opened = getattr(self, "_opened", None)  # missing if `__init__` failed
        if opened is not None and opened.exchange is not None and not self._ended:
            self._ended = True
            opened.exchange.close_soon()
        if opened is not None and (observed := opened.take_observed()) is not None:
            run_without_loop(observed.end(self, self._complete, dropped=True))

    async def _open(self) -> OpenStream:
        if self._opened is None:
            if self._ended:
                raise RuntimeError("this stream is closed; call the verb again for a new one.")
            self._opened = await self._start(self)
        return self._opened

    async def _close(self, error: BaseException | None = None) -> None:
        self._ended = True
        if self._opened is not None:
            self._opened.held = True
            await self._opened.close(self, self._complete, error)

    async def _next(self) -> C | None:
        """The next chunk; None at the end."""
        if self._busy:
            raise RuntimeError(
                "this stream is being read twice at once: read it in one task, and pass the chunks on from there."
            )
        if self._ended:
            return await self._reach_end()
        self._busy = True
        try:
            opened = await self._open()
            opened.held = True
            reading = self._next_event(opened)
            chunk = await (reading if opened.observed is None else opened.observed.observe(reading))
        except BaseException as error:
            hide_frames(error)  # their local variables hold the event, which may repeat what is secret
            await self._close(error)
            raise
        finally:
            self._busy = False
        opened.held = opened.listened or self._ended
        return chunk if chunk is not None else await self._reach_end()

    async def _reach_end(self) -> C | None:
        self._read_up = True
        # Hooks are told of an end that closed nothing: of a whole answer, or of a run that is over.
        if self._opened is not None and self._opened.observed is not None:
            await self._close()
        return None

    @property
    def _complete(self) -> bool:
        """Whether the answer is whole: it says so, or each of its choices does.

        A choice that was asked for and has not begun may be none: servers ignore `n`. But where the end of the
        connection is the body's only end, it may also have been cut off.
        """
        choices, wire = self._received.choices, self._received.wire
        if self._done or not choices or not all(choices.values()):
            return self._done
        exchange = self._opened.exchange if self._opened is not None else None
        framed = exchange is not None and {"content-length", "transfer-encoding"} & exchange.headers.keys()
        return bool(framed) or len(choices) >= wire.choices

    async def _next_event(self, opened: OpenStream) -> C | None:
        if opened.exchange is None:  # a whole answer is one chunk
            self._done = self._ended = True
            return self._received.read(opened.raw.body, opened)
        clock = self._clock
        try:
            more = await opened.read_event(clock() + self._patience)
        except APITimeoutError as error:
            stalled = self._broken(f"no event came for {self._patience:g} s")
            stalled.hint = f"Timeout(read=…) allows more time between two events. {stalled.hint}"
            raise stalled from error
        except APIError as error:
            raise self._broken(error.detail) from error
        if not more and not self._complete:
            if opened.exchange.is_cut_off:
                raise self._broken("the client was closed while this stream was read: close it afterwards")
            raise self._broken("the stream ended before the answer was complete")
        event = opened.events.popleft() if more else None
        if event is None or event.data.strip() == b"[DONE]":
            if not self._received.pieces and not self._received.wire.may_be_empty:
                raise self._broken("the stream ended before its first event")
            self._done = True
            try:  # read the end of the body that follows [DONE], so that the connection can serve the next call
                until = clock() + _AFTER_DONE
                while more and await opened.exchange.read(until):
                    pass
            except APIError:  # the answer is complete; only the connection is lost
                pass
            await self._close()
            return None
        if error_frame(event) and (reported := opened.reported_error(event)) is not None:
            del event  # a traceback may show local variables
            reported.partial_text, reported.usage = self.text, self.usage
            raise reported
        return self._received.read(event.data, opened)

    async def _final(self) -> R:
        while await self._next() is not None:
            pass
        if self._opened is None or not self._complete:
            raise self._broken("the stream was closed before its end")
        return self._received.wire.whole(self._chunks, self._opened)

    def _broken(self, detail: str, code: str = "") -> StreamInterruptedError:
        return (self._opened or OpenStream()).interrupted(detail, code, self.text, self.usage)


class Stream(OnlyPlainStream, NotAwaited, SyncFacade[AsyncStream[C, R]], HasCallInfo, Generic[C, R]):
    """A streamed answer in plain code: `AsyncStream` with `with`, `for` and `final()`, without async."""

    _names = "plain stream, stream"

    @property
    def text(self) -> str:
        """The text that has arrived so far."""
        return self._core.text

    @property
    def last_received(self) -> Any:
        """The piece that came last as it is on the wire: the JSON of its event. None before the first."""
        return self._core.last_received

    @property
    def usage(self) -> Usage | None:
        """The last usage that has arrived."""
        return self._core.usage

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, once that is known."""
        return self._core.finish_reason

    @property
    def cursor(self) -> int | None:
        """Where the last event stands in an agent's run: `events(after=cursor)` gives those behind it; else None."""
        return self._core.cursor

    @property
    def _call(self) -> CallInfo:  # type: ignore[override]
        return self._core._call

    def __enter__(self) -> Stream[C, R]:
        run_without_loop(self._core._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Stream[C, R]:
        self._core._require_chunks()
        return self

    def __next__(self) -> C:
        """The next chunk; raises as `AsyncStream.__anext__` does."""
        core = self._core
        chunk = core._received.next_buffered(core._opened) or run_without_loop(core._next())
        if chunk is None:
            raise StopIteration
        return chunk

    def final(self) -> R:
        """The whole answer; see `AsyncStream.final`."""
        return run_without_loop(self._core._final())

    def close(self) -> None:
        """Close the connection; the model behind it stops. Closing twice is harmless."""
        run_without_loop(self._core.aclose())
