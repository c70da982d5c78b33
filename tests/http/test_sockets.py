"""The sockets: what TLS hides from a parser, and how long a blocking one may take."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.loopback import Peer, head
from support.modes import run

import dbllm

T = TypeVar("T")
ONCE = dbllm.Retry(attempts=1)
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")
KINDS = ("asyncio", "uvloop", "trio", "sync")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key for loopback, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = [str(OPENSSL), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True)
    (folder / "both").write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return folder / "both"


class Secured:
    """The server's end of TLS over a `Peer`: records are sent when the test says so, several in one segment."""

    def __init__(self, peer: Peer, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._in, self._out, self._peer = ssl.MemoryBIO(), ssl.MemoryBIO(), peer
        self.tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.do(self.tls.do_handshake)

    def do(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                data = self._peer.sock.recv(65536)
                if not data:
                    raise EOFError from None
                self._in.write(data)

    def flush(self) -> None:
        if data := self._out.read():
            self._peer.sock.sendall(data)

    def request(self) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += self.do(lambda: self.tls.read(65536))


def quietly(play: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """A client that backends, or refuses the handshake, ends the script."""

    def played(peer: Peer) -> None:
        try:
            play(peer)
        except (OSError, EOFError):
            pass

    return played


def tried(kind: str, host: str, times: int, body: Any = None, pause: Any = None, **options: Any) -> list[Any]:
    """What calls one after another gave: answers, or the kinds of errors."""
    given: list[Any] = []
    verb = "GET" if body is None else "POST"
    options = {"retry": ONCE, "timeout": 3, **options}
    if options.get("engine") == "httptools":
        pytest.importorskip("httptools")

    def between() -> None:
        if pause is not None:
            pause()

    async def calls() -> None:
        async with dbllm.AsyncClient(host, "t", **options) as client:
            for _ in range(times):
                try:
                    given.append(await client.request(verb, "/x", json=body))
                except dbllm.APIError as error:
                    given.append(type(error))
                between()

    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(calls())
        finally:
            loop.close()
    elif kind == "sync":
        with dbllm.Client(host, "t", **options) as client:
            for _ in range(times):
                try:
                    given.append(client.request(verb, "/x", json=body))
                except dbllm.APIError as error:
                    given.append(type(error))
                between()
    else:
        run(kind, calls)
    return given


@needs_openssl
@pytest.mark.parametrize("kind", KINDS)
def test_a_record_after_an_answer_is_never_taken_for_the_next_one(serve, certificate, kind):
    """It came in the same segment, so that no socket shows it any more."""

    def doubled(peer: Peer) -> None:
        server = Secured(peer, certificate)
        while True:
            server.request()
            server.tls.write(head(length=6) + b'"mine"')
            server.tls.write(head(length=10) + b'"smuggled"')
            server.flush()

    host = serve(quietly(doubled)).host.replace("http:", "https:")
    assert tried(kind, host, 4, verify=str(certificate)) == ["mine"] * 4


@needs_openssl
@pytest.mark.parametrize("kind", KINDS)
def test_one_connection_serves_several_calls_over_tls(serve, certificate, kind):
    def healthy(peer: Peer) -> None:
        server = Secured(peer, certificate)
        while True:
            server.request()
            server.tls.write(head(length=6) + b'"mine"')
            server.flush()

    server = serve(quietly(healthy))
    assert tried(kind, server.host.replace("http:", "https:"), 3, verify=str(certificate)) == ["mine"] * 3
    assert server.connections == 1


@needs_openssl
@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "trio"])
def test_bytes_before_tls_are_never_taken_for_an_answer(serve, certificate, kind):
    """Anybody on the way could have put them there: nothing protects them."""

    def injected(peer: Peer) -> None:
        peer.send(head(length=8) + b'"forged"')
        server = Secured(peer, certificate)
        while True:
            server.request()
            server.tls.write(head(length=6) + b'"mine"')
            server.flush()

    host = serve(quietly(injected)).host.replace("http:", "https:")
    for _ in range(10):  # it depends on what the loop sees first
        assert "forged" not in tried(kind, host, 2, verify=str(certificate))


def test_all_addresses_of_a_name_share_the_connect_timeout(monkeypatch):
    """In plain code, where they are tried one after the other; here each listens with a full queue."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)) for _ in range(3)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one.getsockname()) for one in listeners]
        for *_, address in found:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        patience = dbllm.Timeout(total=30, connect=0.6)
        client = stack.enter_context(dbllm.Client("http://127.0.0.1:1", "t", timeout=patience, retry=ONCE))
        began = time.monotonic()
        with pytest.raises(dbllm.APITimeoutError) as caught:
            client.request("GET", "/x")
    assert 0.5 < time.monotonic() - began < 1.7
    assert caught.value.sent is False


def test_the_next_address_is_tried_where_one_refuses(serve, monkeypatch):
    server = serve()
    port = int(server.host.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in (1, port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert tried("sync", server.host, 1) == ["hello"]


# --- a request that takes long to send --------------------------------------------------------------------------------

LARGE = "x" * 6_000_000
TOO_LARGE = b'{"message": "too large"}'


def secured(peer: Peer, certificate: Path | None) -> tuple[Callable[[int], bytes], Callable[[bytes], None]]:
    """How a script reads and writes, over TLS where there is a certificate."""
    if certificate is None:
        return peer.sock.recv, peer.send
    server = Secured(peer, certificate)

    def write(data: bytes) -> None:
        server.tls.write(data)
        server.flush()

    return lambda size: server.do(lambda: server.tls.read(size)), write


@pytest.fixture(params=["plain", pytest.param("tls", marks=needs_openssl)])
def security(request: pytest.FixtureRequest) -> Path | None:
    return request.getfixturevalue("certificate") if request.param == "tls" else None


def address(server: Any, security: Path | None) -> tuple[str, dict[str, Any]]:
    return (
        (server.host, {}) if security is None else (server.host.replace("http:", "https:"), {"verify": str(security)})
    )


@pytest.mark.parametrize("engine", ["h11", "httptools", "httpx"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_taken_while_the_request_is_still_sent(serve, security, kind, engine):
    """The server reads no further, and leaves the connection open: the rest of the request never goes."""

    def refusing(peer: Peer) -> None:
        read, write = secured(peer, security)
        read(1000)
        write(head(413, len(TOO_LARGE)) + TOO_LARGE)
        peer.wait()

    server = serve(quietly(refusing))
    host, options = address(server, security)
    began = time.monotonic()
    assert tried(kind, host, 2, LARGE, timeout=30, engine=engine, **options) == [dbllm.RequestTooLargeError] * 2
    assert time.monotonic() - began < 15
    server.go.set()
    assert server.connections == 2  # half a request lies on the first one


@pytest.mark.parametrize("engine", ["h11", "httpx"])
@pytest.mark.parametrize("kind", KINDS)
def test_interim_answers_do_not_stop_the_sending(serve, security, kind, engine):
    def hinting(peer: Peer) -> None:
        read, write = secured(peer, security)
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += read(1000)
        write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n")
        size = len(seen.partition(b"\r\n\r\n")[2])
        while size < len(LARGE) + 2:
            size += len(read(65536))
        write(head(length=len(str(size))) + str(size).encode())
        peer.wait()

    server = serve(quietly(hinting))
    host, options = address(server, security)
    assert tried(kind, host, 1, LARGE, timeout=30, engine=engine, **options) == [len(LARGE) + 2]
    server.go.set()


@pytest.mark.parametrize("engine", ["h11", "httpx"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_steady_receiver_does_not_get_more_than_the_calls_time(serve, security, kind, engine):
    def slow(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        read, _ = secured(peer, security)
        while read(65536) and not peer.server.go.wait(0.03):
            pass

    server = serve(quietly(slow))
    host, options = address(server, security)
    began = time.monotonic()
    assert tried(kind, host, 1, "x" * 15_000_000, timeout=0.5, engine=engine, **options) == [dbllm.APITimeoutError]
    assert time.monotonic() - began < 2.5
    server.go.set()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_nobody_asked_for_is_seen_before_the_loop_has_read_it(serve, security, kind):
    """It lies in the kernel: the program computed meanwhile, and no loop had a turn."""
    come = threading.Event()

    def extra(peer: Peer) -> None:
        read, write = secured(peer, security)
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += read(1000)
        write(head(length=6) + b'"mine"')
        peer.server.go.wait(5)
        write(head(length=10) + b'"smuggled"')
        come.set()
        read(1)

    server = serve(quietly(extra))
    host, options = address(server, security)

    def computes() -> None:
        server.go.set()
        assert come.wait(5)
        threading.Event().wait(0.05)  # the segment is on its way for a moment, also on loopback

    assert tried(kind, host, 2, pause=computes, **options) == ["mine"] * 2
    assert server.connections == 2
