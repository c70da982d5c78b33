"""One logical call: headers, attempts, judgement, log line; and the opening of a stream."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TypeVar

from .._auth.auth import Auth, is_expired_response
from .._auth.redaction import RedactedMapping, redact
from .._backends.backend import Backend
from .._http.request import HttpRequest
from .._protocol.error_responses import error_frame, status_error
from ..errors import APIError, APIStatusError, Raw
from .call import EVENTS, JSON, Answer, Call, Opened
from .retry import retry_call

log = logging.getLogger("dbllm")


Outcome = TypeVar("Outcome", bound=Answer)
Attempt = Callable[[Call, Mapping[str, str]], Awaitable[Outcome]]
"""Makes a call once, with these headers of the auth's."""


class Transport:
    """Carries calls to one workspace."""

    def __init__(self, host: str, auth: Auth, backend: Backend) -> None:
        self.host = host
        self.backend = backend
        self._auth = auth
        self._closed = False
        self._made: dict[object, tuple[Mapping[str, str], Mapping[str, str], RedactedMapping]] = {}
        _fixed()  # imports something slow: here, where no event loop waits for it
        weakref.finalize(self, backend.close_when_possible)

    async def call(self, call: Call) -> Answer:
        """The answer to a call, after as many attempts as it takes.

        Raises:
            APIError: the last attempt's failure.
            ConfigError: the token function did not return a token.
        """
        began = self.backend.clock()
        try:
            answer = await self._send_authenticated(call, self._send_once)
        except APIError as error:
            answer = await self._retry(call, self._send_once, error, began)
        self._log(call, answer, began)
        return answer

    async def open(self, call: Call) -> Opened:
        """A stream, open and up to its first event; until then it is tried again as `call` is, and raises the same."""
        began = self.backend.clock()
        try:
            opened = await self._send_authenticated(call, self._open_once)
        except APIError as error:
            opened = await self._retry(call, self._open_once, error, began)
        self._log(call, opened, began)
        return opened

    async def more(self, opened: Opened, deadline: float) -> bool:
        """Read on until at least one more event is there; False at the end of the stream.

        Raises:
            APIConnectionError, APITimeoutError: the connection broke, or no event came before the deadline.
            APIResponseError: the stream is none (a line of over 8 MiB).
        """
        while not opened.events and opened.exchange is not None:
            piece = await opened.exchange.read(deadline)
            if not piece:
                return False
            try:
                # An event without data is a sign of life.
                opened.events.extend([event for event in opened.decoder.feed(piece) if event.data.strip()])
            except ValueError as error:
                raise opened.meta.unexpected(str(error)) from None
        return bool(opened.events)

    async def aclose(self) -> None:
        """Close the connections; calls after this fail."""
        self._closed = True
        await self.backend.aclose()

    async def _send_authenticated(self, call: Call, attempt: Attempt[Outcome]) -> Outcome:
        """One attempt with the auth's headers; where the workspace says that these have expired, it is made anew."""
        if self._closed:
            raise RuntimeError("this client is closed; make a new one.")
        sent = await self._auth.headers(self.backend, call.deadline)
        try:
            return await attempt(call, sent)
        except APIStatusError as error:
            if (
                error.raw is None
                or not is_expired_response(error.raw)
                or not self._auth.on_rejected(sent, self.backend.clock())
            ):
                raise
        return await attempt(call, await self._auth.headers(self.backend, call.deadline))

    async def _send_once(self, call: Call, sent: Mapping[str, str]) -> Answer:
        pool = await self.backend.pool()
        return Answer(self._raise_for_status(await pool.send(self._outgoing(call, sent)), call, sent))

    async def _open_once(self, call: Call, sent: Mapping[str, str]) -> Opened:
        pool = await self.backend.pool()
        exchange = await pool.open(self._outgoing(call, sent))
        opened = Opened(Raw(exchange.status, exchange.headers), exchange=exchange)
        kind = exchange.headers.get("content-type", "").lower()
        try:
            if not (200 <= exchange.status < 300 and kind.startswith(EVENTS)):
                whole = Raw(exchange.status, exchange.headers, await exchange.read_all(call.deadline))
                return Opened(self._raise_for_status(whole, call, sent))
            if not await self.more(opened, call.deadline):
                raise opened.interrupted("the stream ended before its first event")
            if frame := error_frame(opened.events[0]):
                raise opened.interrupted(f"the stream reported an error: {frame[1]}", frame[0])
        except BaseException as error:
            await exchange.close_after(error)
            raise
        return opened

    def _raise_for_status(self, raw: Raw, call: Call, sent: Mapping[str, str]) -> Raw:
        if 200 <= raw.status < 300:
            return raw
        raise status_error(redact(raw, sent, call.path), wall=self.backend.wall_clock(), url=self.host + call.logged)

    async def _retry(self, call: Call, attempt: Attempt[Outcome], error: APIError, began: float) -> Outcome:
        backend = self.backend
        try:
            outcome, attempts = await retry_call(
                lambda: self._send_authenticated(call, attempt),
                error,
                call.method,
                call.retry,
                call.deadline,
                backend.clock,
                backend.sleep,
            )
        except APIError as last:
            seconds, kind = backend.clock() - began, type(last).__name__
            log.info("%s %s: %s in %.3f s, attempts: %d", call.method, call.logged, kind, seconds, last.attempts)
            raise
        outcome.attempts = attempts
        return outcome

    def _log(self, call: Call, outcome: Answer, began: float) -> None:
        if log.isEnabledFor(logging.INFO):
            status, seconds, attempts = outcome.raw.status, self.backend.clock() - began, outcome.attempts
            log.info("%s %s: %s in %.3f s, attempts: %d", call.method, call.logged, status, seconds, attempts)

    def _outgoing(self, call: Call, sent: Mapping[str, str]) -> HttpRequest:
        timeout, headers = call.timeout, self._headers(call, sent)
        url = self.host + call.path
        return HttpRequest(call.method, url, headers, call.body, call.deadline, timeout.connect, timeout.queue)

    def _headers(self, call: Call, sent: Mapping[str, str]) -> RedactedMapping:
        """What a call is sent with; the same object again as long as neither the auth's headers nor its own change."""
        kind = call.accept, call.body is None
        made = self._made.get(kind)
        if made is None or made[0] is not sent or made[1] != call.headers:
            own = {"accept": call.accept} if call.body is None else {"accept": call.accept, "content-type": JSON}
            made = self._made[kind] = sent, call.headers, RedactedMapping(_fixed(), own, sent, call.headers)
        return made[2]


@lru_cache
def _fixed() -> dict[str, str]:
    from importlib import metadata  # slow to import, and wanted by the first call only

    try:
        own = metadata.version("dbllm")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        own = "0"
    return {"user-agent": f"dbllm/{own}", "accept-encoding": "gzip, deflate"}
