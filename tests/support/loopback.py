"""A real HTTP server on loopback in which each connection follows a script, for faults that only sockets have.

A script is a function that gets a `Peer`, the server's end of one connection, and runs in a thread of its own.
Nothing here sleeps: the two ends wait for each other's bytes, or for events.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 6.0  # seconds until a test fails that waits for something in vain
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """A received request."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def head(status: int = 200, length: int = 0, **headers: str) -> bytes:
    """The head of a response; `content_type="x"` becomes `content-type: x`."""
    fields = {"content-type": "application/json", "content-length": str(length)}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode()


def chunk(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def frame(content: object) -> bytes:
    """One server-sent event, as one piece of a chunked body."""
    text = content if isinstance(content, str) else json.dumps(content)
    return chunk(f"data: {text}\n\n".encode())


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server
        self.gone = threading.Event()  # the client has closed its end
        self._buffer = b""

    def request(self) -> Request | None:
        """Read one request; None if the client has closed the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive():
                return None
        start, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        line, *rows = start.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}
        size = int(headers.get("content-length", "0"))
        while len(self._buffer) < size:
            if not self._receive():
                return None
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        request = Request(line, headers, body)
        with self.server.lock:
            self.server.requests.append(request)
        self.server.arrived.release()
        return request

    def answer(self, content: object = "hello", status: int = 200, **headers: str) -> None:
        """Send a whole JSON response."""
        body = json.dumps(content).encode()
        self.send(head(status, len(body), **headers) + body)

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:  # the client is gone
            self.gone.set()

    def wait(self) -> None:
        """Stall until the test says `server.go.set()`, or ends."""
        self.server.go.wait(PATIENCE)

    def wait_gone(self) -> None:
        """Read until the client closes."""
        while self._receive():
            pass

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.sock.close()

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        self._buffer += data
        if not data:
            self.gone.set()
        return bool(data)


Script = Callable[[Peer], None]


def keep_answering(peer: Peer) -> None:
    """The healthy server: answers every request of the connection at once."""
    while peer.request():
        peer.answer()


@dataclass
class Server:
    """Listens on a free port; `scripts[n]` is for the n-th connection, the last one for all that follow."""

    scripts: tuple[Script, ...] = (keep_answering,)
    peers: list[Peer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    lock: threading.Lock = field(default_factory=threading.Lock)
    peak: int = 0  # connections that were open at the same time

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._ended = False
        self._open = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many connections the server has accepted."""
        return len(self.peers)

    @property
    def open(self) -> int:
        """How many connections the client holds open now."""
        return sum(not peer.gone.is_set() for peer in self.peers)

    def wait_arrived(self) -> None:
        """Wait until one more request has arrived completely."""
        assert self.arrived.acquire(timeout=PATIENCE), "no request came"

    def wait_gone(self, *places: int) -> None:
        """Wait until the client has closed these connections (all of them by default)."""
        for place in places or range(len(self.peers)):
            assert self.peers[place].gone.wait(PATIENCE), f"connection {place} was never closed"

    def close(self) -> None:
        """Stop listening, and end all connections; twice is harmless."""
        if self._ended:
            return
        self._ended = True
        self.go.set()
        with socket.create_connection(self._listener.getsockname()):
            pass  # wakes the accepting thread
        self._threads[0].join(PATIENCE)
        for peer in self.peers:
            try:
                peer.sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed already
                pass
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._ended:
                sock.close()
                return
            peer = Peer(sock, self)
            script = self.scripts[min(len(self.peers), len(self.scripts) - 1)]
            self.peers.append(peer)
            thread = threading.Thread(target=self._run, args=(script, peer), daemon=True)
            self._threads.append(thread)
            with self.lock:
                self._open += 1
                self.peak = max(self.peak, self._open)
            thread.start()

    def _run(self, script: Script, peer: Peer) -> None:
        try:
            script(peer)
        finally:
            with self.lock:
                self._open -= 1
            peer.close()


def answering(table: dict[str, tuple[int, object]]) -> Script:
    """A script that answers by path: `{"/path": (status, JSON)}`."""

    def play(peer: Peer) -> None:
        while request := peer.request():
            status, content = table[request.line.split(" ")[1]]
            peer.answer(content, status)

    return play


def streaming(*events: object, then: Callable[[Peer], None] | None = None) -> Script:
    """A script that answers every request with an event stream; `then` takes over before the body's end."""

    def play(peer: Peer) -> None:
        while peer.request():
            peer.send(STREAM_HEAD + b"".join(frame(event) for event in events))
            if then is not None:
                then(peer)
                return
            peer.send(b"0\r\n\r\n")

    return play
