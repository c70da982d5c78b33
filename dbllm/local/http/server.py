"""Running an ASGI app on a socket: in a background thread, or in the foreground until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from dbllm.local.errors import LocalError
from dbllm.local.http.patience import MAX_CONNECTIONS, TOO_MANY, Patience

GRACE = 0.5
"""Seconds that open answers get to end by themselves when the server stops."""

MAX_LINE = 1 << 16
"""Bytes of a request's first line that are waited for."""

CUT = 1
"""Seconds after which those that did not end then are cut."""

INTERRUPTED = 130
"""The exit status of a process that Ctrl-C has ended, as shells have it."""


def listen(host: str, port: int, *, hint: str) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        LocalError: the port is taken (`hint` says what to do then) or the address cannot be used.
    """
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With its protocol named: only then asyncio sets TCP_NODELAY, without which each answer waits 40 ms.
        sock = socket.socket(*address[:3])
    except OSError as error:
        raise LocalError(f"{host} is not an address of this machine: {error}.") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address[4])
        # Listening at once makes a second server on the port fail here, with a sentence.
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise LocalError(f"Port {port} on {host} is already in use. {hint}") from error
        raise LocalError(f"Port {port} on {host} cannot be opened: {error}. {hint}") from error
    return sock


class Service(ABC):
    """What serves while it is entered, in a background thread; or `run()` it in the foreground until Ctrl-C."""

    _running: contextlib.ExitStack | None = None

    @abstractmethod
    def _prepare(self, stack: contextlib.ExitStack) -> WebServer:
        """Everything up to a server that could answer; what has to be undone is put on `stack`."""

    def __enter__(self: S) -> S:
        with contextlib.ExitStack() as stack:
            server = self._prepared(stack)
            server.start()
            stack.callback(server.stop)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.close()
        self._running = None

    def run(
        self: S,
        ready: Callable[[S], None] = lambda _service: None,
        draining: Callable[[S], None] = lambda _service: None,
    ) -> None:
        """Serve in the foreground until Ctrl-C or SIGTERM.

        Args:
            ready: is called once requests are answered.
            draining: is called after the signal, if answers are open that get time to end.

        Raises:
            KeyboardInterrupt: a second signal cut the open answers.
        """
        with contextlib.ExitStack() as stack:
            self._prepared(stack).run(lambda: ready(self), lambda: draining(self))

    def _prepared(self, stack: contextlib.ExitStack) -> WebServer:
        if self._running is not None:
            raise LocalError(f"{self!r} is running already.")
        return self._prepare(stack)


S = TypeVar("S", bound=Service)


class HttpProtocol(asyncio.Protocol):
    """Picks uvicorn's protocol for a connection by the HTTP version of its first request, and limits its time.

    uvicorn's quick protocol (httptools) sends chunks to clients of HTTP/1.0, which know none; its other one, by h11,
    ends such an answer by closing the connection. nginx, for one, speaks HTTP/1.0 to what stands behind it.

    Args:
        config, server_state, more: what uvicorn makes its protocols of.
    """

    def __init__(self, config: uvicorn.Config, server_state: ServerState, **more: Any) -> None:
        # Any, because uvicorn's protocols promise no common signature.
        self._make: Callable[[Any], Any] = lambda kind: kind(config=config, server_state=server_state, **more)
        self._open: set[Any] = server_state.connections
        self._transport: asyncio.Transport | None = None
        self._patience: Patience | None = None
        self._inner: Any = None
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._open) >= MAX_CONNECTIONS:
            self._transport.write(TOO_MANY)
            self._transport.close()
            return
        self._patience = Patience(self._transport)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._patience is None or self._transport is None:
            return
        self._patience.on_data()
        if self._inner is not None:
            self._inner.data_received(data)
            return
        self._begun = (self._begun + data).lstrip(b"\r\n")
        line, newline, _ = self._begun.partition(b"\n")
        if not newline and len(self._begun) < MAX_LINE:
            return
        self._inner = inner = self._make(H11Protocol if line.rstrip().endswith(b"HTTP/1.0") else AutoHTTPProtocol)
        inner.app = self._patience.around(inner.app)
        self._open.discard(self)
        inner.connection_made(self._transport)
        inner.data_received(self._begun)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def eof_received(self) -> None:
        if self._inner is not None:
            self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if self._patience is not None:
            self._patience.stop()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def shutdown(self) -> None:
        """uvicorn calls this when it stops."""
        if self._transport is not None:
            self._transport.close()


class WebServer:
    """uvicorn around an app and a bound socket, or several.

    Told to stop it takes no new connections, and open answers have `drain` seconds to end by themselves. Then
    `before_exit` is called, once, which is to end them, and a second later what is left is cut. A second signal cuts
    them at once; should something hold the process even then, it leaves a second later.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        before_exit: Callable[[], None] = lambda: None,
        *,
        drain: float = GRACE,
        more: Sequence[socket.socket] = (),
    ) -> None:
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            log_config=None,
            log_level="critical",  # failures are logged by the apps, in their own words
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=math.ceil(drain + CUT),
        )
        self._server = _UvicornServer(config, before_exit, drain)
        self._sockets = [sock, *more]
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve in a background thread; returns when requests are answered.

        Raises:
            LocalError: the app did not start.
        """
        self._thread = threading.Thread(target=self._run, name="dbllm-web", daemon=True)
        self._thread.start()
        self._server.settled.wait()
        if not self._server.started:
            self.stop()
            raise LocalError("The web server did not start; the log says why.")

    def stop(self) -> None:
        """Stop serving and wait for the thread. Stopping twice is fine."""
        self._exit()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def run(self, ready: Callable[[], None], draining: Callable[[], None] = lambda: None) -> None:
        """Serve in this (the main) thread until SIGINT or SIGTERM; see `Service.run`."""
        self._server.ready, self._server.draining = ready, draining
        with _on_signals(self._on_signal):
            self._run()
            if self._server.was_cut:
                raise KeyboardInterrupt

    def _on_signal(self) -> None:
        if self._server.should_exit:
            self._server.cut()
        self._exit()

    def _exit(self) -> None:
        self._server.should_exit = True

    def _run(self) -> None:
        try:
            self._server.run(sockets=self._sockets)
        finally:
            for sock in self._sockets:
                sock.close()
            self._server.settled.set()


class _UvicornServer(uvicorn.Server):
    """Says when it has started, and leaves the signals to `WebServer`."""

    def __init__(self, config: uvicorn.Config, interrupt: Callable[[], None], drain: float) -> None:
        super().__init__(config)
        self._interrupt = interrupt
        self._drain = drain
        self.settled = threading.Event()
        self.ready: Callable[[], None] = lambda: None
        self.draining: Callable[[], None] = lambda: None
        self.was_cut = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self.ready()
        self.settled.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        later = asyncio.get_running_loop().call_later(self._drain, self._interrupt)
        if self._drain and self.server_state.tasks:
            self.draining()
        try:
            await super().shutdown(sockets)
        finally:
            later.cancel()

    def cut(self) -> None:
        """End open answers at once; a signal handler may call this."""
        if self.was_cut:
            return
        self.was_cut = True
        leave = threading.Timer(CUT, os._exit, (INTERRUPTED,))
        leave.daemon = True
        leave.start()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cut_answers)

    def _cut_answers(self) -> None:
        self._interrupt()
        for task in tuple(self.server_state.tasks):
            task.cancel()
        for connection in tuple(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
