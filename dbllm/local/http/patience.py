"""How long a connection may take to say what it wants: without a limit, half a request holds it for ever.

A head has `HEAD_SECONDS`; a body has `BODY_SECONDS` and a second more for each `SLOWEST` bytes that have come. Which
part is under way, a connection learns from the app, which is called once the head is there.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbllm.local.errors import Problem

HEAD_SECONDS = 20.0
BODY_SECONDS = 30.0
SLOWEST = 10_000  # bytes a second
MAX_CONNECTIONS = 2048
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Patience:
    """The time of one connection, which it closes when that is over."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False  # the app is at work on a request
        self.wait(HEAD_SECONDS)

    def wait(self, seconds: float) -> None:
        """Close the connection after so many seconds, unless a request comes before."""
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._close)

    def stop(self) -> None:
        """Do not close it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_data(self) -> None:
        """Bytes have come: the beginning of a head, where no request is under way."""
        if not self._busy and self._timer is None:
            self.wait(HEAD_SECONDS)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app, whose calls tell where in a request the connection is."""

        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            body = _TimedBody(receive)
            self.stop()
            self._busy = True
            try:
                await app(scope, body.receive, send)
            finally:
                self._busy = False
                if not body.whole:  # it was answered before; what follows of it is read over, but not for ever
                    self.wait(BODY_SECONDS)

        return timed

    def _close(self) -> None:
        self._timer = None
        if not self._transport.is_closing():
            if not self._busy:
                self._transport.write(_TOO_LATE)
            self._transport.close()


class _TimedBody:
    """A request's body on its way to the app."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ends: float | None = None
        self.whole = False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            Problem: 408, the body comes too slowly.
        """
        if self.whole:
            return await self._receive()
        now = asyncio.get_running_loop().time
        self._ends = now() + BODY_SECONDS if self._ends is None else self._ends
        try:
            message = await asyncio.wait_for(self._receive(), self._ends - now())
        except asyncio.TimeoutError:
            self.whole = True  # nothing more is waited for
            raise Problem(408, "REQUEST_TIMEOUT", "The body of the request came too slowly.", CLOSE) from None
        if message["type"] == "http.request":
            self._ends += len(message.get("body", b"")) / SLOWEST
            self.whole = not message.get("more_body", False)
        else:
            self.whole = True
        return message


CLOSE = {"connection": "close"}
