"""CA bundles, client certificates, proxies, and settings that do not go together; over real sockets on loopback."""

from __future__ import annotations

import base64
import datetime
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.loopback import Peer

import dbllm
from dbllm import Retry
from dbllm._http.tls import Network, tls_advice, tls_and_proxy
from dbllm.cli.doctor import examine

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = [str(OPENSSL), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    extra = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run([*command, *extra], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def listen() -> Iterator[Callable[..., Any]]:
    servers: list[ThreadingHTTPServer] = []

    def start(context: ssl.SSLContext | None = None) -> Any:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
        server.daemon_threads = True
        server.seen = []  # type: ignore[attr-defined]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(way: Any, host: str, **options: Any) -> Any:
    async def body() -> Any:
        async with way.client(host, "dapi-test", retry=Retry(attempts=1), timeout=5, **options) as client:
            return await client.request("GET", "/x")

    return way.run(body)


@needs_openssl
@pytest.mark.parametrize("engine", ["h11", "httpx"])
def test_a_ca_file_is_trusted_and_without_it_the_certificate_is_not(
    way: Any, listen: Any, certificate: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBLLM_ENGINE", engine)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    host = f"https://localhost:{listen(context).server_port}"
    assert get(way, host, verify=certificate[0]) == {}
    assert get(way, host, verify=ssl.create_default_context(cafile=certificate[0])) == {}
    assert get(way, host, verify=False) == {}
    with pytest.raises(dbllm.APIConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        get(way, host)


@needs_openssl
def test_ssl_cert_file_is_read_unless_the_environment_is_not_trusted(
    way: Any, listen: Any, certificate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    host = f"https://localhost:{listen(context).server_port}"
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    assert get(way, host) == {}
    with pytest.raises(dbllm.APIConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        get(way, host, trust_env=False)


@needs_openssl
def test_a_client_certificate_is_shown_to_a_server_that_wants_one(way: Any, listen: Any, certificate: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    host = f"https://localhost:{listen(context).server_port}"
    assert get(way, host, verify=certificate[0], cert=certificate) == {}
    with pytest.raises(dbllm.APIConnectionError):
        get(way, host, verify=certificate[0])


NOW, DAY = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
HANDSHAKES = {  # what the server's certificate is for, from and to which day it is valid, what the advice speaks of
    "expired": ("127.0.0.1", -20, -10, "has expired: its owner must renew it.*clock is wrong"),
    "not yet valid": ("127.0.0.1", 10, 20, "not yet valid: check this machine's clock"),
    "another address": ("127.9.9.9", -1, 9, "is for another name: check the host's name"),
    "another name": ("elsewhere.example.com", -1, 9, "is for another name: check the host's name"),
    "an unknown CA": ("127.0.0.1", -1, 9, "not trusted here: .*SSL_CERT_FILE.*REQUESTS_CA_BUNDLE is not read"),
}


@pytest.mark.parametrize("engine", ["h11", "httpx"])
def test_each_reason_why_tls_fails_has_its_own_advice_in_the_client_and_in_doctor(
    way: Any, listen: Any, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme = pytest.importorskip("trustme")
    monkeypatch.setenv("DBLLM_ENGINE", engine)
    ca, ca_file = trustme.CA(), str(tmp_path / "ca.pem")
    ca.cert_pem.write_to_path(ca_file)

    def serving(identity: str, begin: int, end: int) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        dates = {"not_before": NOW + begin * DAY, "not_after": NOW + end * DAY}
        ca.issue_cert(identity, **dates).configure_cert(context)
        return context

    def failure(host: str, **options: Any) -> dbllm.APIConnectionError:
        with pytest.raises(dbllm.APIConnectionError) as caught:
            get(way, host, **options)
        return caught.value

    for name, (identity, begin, end, words) in HANDSHAKES.items():
        host = f"https://127.0.0.1:{listen(serving(identity, begin, end)).server_port}"
        trusted = None if name == "an unknown CA" else ca_file
        error = failure(host, **({"verify": trusted} if trusted else {}))
        assert re.search(words, error.hint), (name, error)
        assert trusted is None or "with its CA" not in error.hint, name
        with monkeypatch.context() as changed:
            changed.setenv("DATABRICKS_TOKEN", "t")
            if trusted:
                changed.setenv("SSL_CERT_FILE", trusted)
            last = list(examine(host, None, None))[-1]
        assert (last.check, last.ok) == ("TLS", False), name
        assert re.search(words, last.advice), (name, last)

    wants = serving("127.0.0.1", -1, 9)
    wants.verify_mode = ssl.CERT_REQUIRED
    wants.load_verify_locations(ca_file)
    host = f"https://127.0.0.1:{listen(wants).server_port}"
    # This server hangs up at once, which may overtake the alert that says why.
    assert re.search(
        r"pass cert=\(certificate file, key file\)|client certificate, cert=", failure(host, verify=ca_file).hint
    )
    with _listener() as (place, listener):
        threading.Thread(target=_refuse, args=(listener, wants), daemon=True).start()
        assert "pass cert=(certificate file, key file)" in failure(f"https://{place}", verify=ca_file).hint
    own = str(tmp_path / "own.pem")
    ca.issue_cert("me@example.com").private_key_and_cert_chain_pem.write_to_path(own)
    assert get(way, host, verify=Path(ca_file), cert=own) == {}  # a path is as good as a str
    plain = f"https://127.0.0.1:{listen().server_port}"
    assert "speaks http on this port, not https" in failure(plain, verify=ca_file).hint


def test_the_advice_about_tls_goes_by_the_words_of_openssl_and_says_nothing_of_other_failures() -> None:
    for said, words in (
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", "not trusted here"),
        ("certificate verify failed: certificate has expired (_ssl.c:1006)", "has expired"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "client certificate"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "client certificate"),
        ("[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate", "client certificate"),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure", "client certificate"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "speaks http on this port"),
        ("[SSL] record layer failure (_ssl.c:1006)", "speaks http on this port"),
        ("[SSL: HTTP_REQUEST] http request", "speaks http on this port"),
    ):
        assert words in tls_advice(said), said
        through_proxy = tls_advice(said, "https")
        assert ("The proxy's address" in through_proxy) == ("speaks http" in words), said
    for other in ("Connection refused", "Name or service not known", "EOF occurred in violation of protocol"):
        assert tls_advice(other) == ""


@contextmanager
def _listener() -> Iterator[tuple[str, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}", listener


def _refuse(listener: socket.socket, context: ssl.SSLContext) -> None:
    """One handshake without the client's certificate; then nothing is lost by hanging up too early."""
    conn, _ = listener.accept()
    with conn:
        with suppress(OSError):
            context.wrap_socket(conn.dup(), server_side=True)
        conn.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while conn.recv(65536):
                pass


def _proxy_that_says(listener: socket.socket, answer: bytes, asked: list[bytes]) -> None:
    while True:
        try:
            conn, _ = listener.accept()
        except OSError:
            return
        with conn:
            asked.append(conn.recv(65536))
            conn.sendall(answer)


@pytest.fixture
def proxy_saying() -> Iterator[Callable[[str], tuple[str, list[bytes]]]]:
    listeners: list[socket.socket] = []

    def start(status: str) -> tuple[str, list[bytes]]:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        asked: list[bytes] = []
        answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        threading.Thread(target=_proxy_that_says, args=(listeners[-1], answer, asked), daemon=True).start()
        return f"127.0.0.1:{listeners[-1].getsockname()[1]}", asked

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("host", ["https://a.example.com", "http://127.0.0.1:9"])
def test_a_proxy_that_wants_a_password_is_asked_once_and_named(way: Any, proxy_saying: Any, host: str) -> None:
    place, asked = proxy_saying("407 Proxy Authentication Required")

    async def body() -> None:
        async with way.client(host, "t", proxy=f"http://me:hunter2@{place}", timeout=20) as client:
            await client.request("POST", "/x", json={})

    with pytest.raises(dbllm.APIStatusError, match="user name and password: check those in proxy=") as caught:
        way.run(body)
    assert (caught.value.status, len(asked)) == (407, 1)
    assert "hunter2" not in str(caught.value)


def test_a_proxy_that_refuses_is_named_and_not_the_workspace(way: Any, proxy_saying: Any) -> None:
    place, _ = proxy_saying("403 Forbidden")
    with pytest.raises(dbllm.APIConnectionError, match=r"proxy did not connect .*403 Forbidden.*not the workspace"):
        get(way, "https://a.example.com", proxy=f"http://{place}")
    with pytest.raises(dbllm.APIConnectionError, match="proxy seems to speak http: write http:// instead"):
        get(way, "https://a.example.com", proxy=f"https://{place}")


BYPASSED = [
    ("a.example.com", "https://a.example.com"),
    ("A.Example.COM", "https://a.example.com"),
    (".example.com", "https://a.example.com"),
    ("*.example.com", "https://a.example.com"),
    ("example.com.", "https://a.b.example.com"),
    ("a.example.com:8443", "https://a.example.com:8443"),
    ("a.example.com:443", "https://a.example.com"),
    ("10.0.0.0/8", "https://10.1.2.3"),
    ("10.1.2.3", "https://10.1.2.3:8443"),
    ("10.1.2.3:8443", "https://10.1.2.3:8443"),
    ("10.1.2.3/32", "https://10.1.2.3"),
    ("fd00::/8", "https://[fd00::1]"),
    ("fd00::1", "https://[fd00::1]"),
    ("[fd00::1]", "https://[fd00::1]"),
    ("[fd00::1]:8443", "https://[fd00::1]:8443"),
    ("fd00:0:0::1", "https://[fd00::1]"),
    ("*", "https://a.example.com"),
    ("localhost, 192.168.0.0/16 a.example.com", "https://a.example.com"),
    ("x.example.com,\ta.example.com", "https://a.example.com"),
]
PROXIED = [
    ("", "https://a.example.com"),
    ("example.org", "https://a.example.com"),
    ("ample.com", "https://a.example.com"),
    ("b.a.example.com", "https://a.example.com"),
    ("a.example.com:8443", "https://a.example.com"),
    ("a.example.com:443", "https://a.example.com:8443"),
    ("10.0.0.0/8", "https://11.1.2.3"),
    ("10.0.0.0/8", "https://ten.example.com"),
    ("10.1.2.3:443", "https://10.1.2.3:8443"),
    ("fd00::/8", "https://[fe80::1]"),
    ("[fd00::1]:8443", "https://[fd00::1]"),
    ("10.0.0.0/99,:,/,[,]:1", "https://10.1.2.3"),
]


@pytest.mark.parametrize("status", [400, 407, 502])
@pytest.mark.parametrize("echoed", ["discovery", "token"])
def test_a_proxys_password_is_not_shown_where_the_proxy_repeats_it_in_a_request_for_a_token(
    way: Any, serve: Any, status: int, echoed: str
) -> None:
    """The workspace is no more than a proxy's answer here: over http, a proxy sees whole requests."""

    def play(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if echoed == "token" and ".well-known" in request.line:
                peer.answer({})
            else:
                peer.answer({"message": f"refused {request.headers}"}, status)

    server = serve(play)
    login = base64.b64encode(b"me:CANARY-password").decode()

    async def body() -> None:
        proxy = server.host.replace("http://", "http://me:CANARY-password@")
        options = {"client_id": "id", "client_secret": "dose-secret", "retry": dbllm.Retry(attempts=1)}
        async with way.client("http://127.0.0.2:9", proxy=proxy, **options) as client:
            with pytest.raises(dbllm.APIStatusError) as failed:
                await client.request("GET", "/x")
        shown = str(failed.value) + repr(vars(failed.value)) + (failed.value.raw or dbllm.Raw(0)).text
        assert "refused" in shown
        assert "CANARY" not in shown
        assert login not in shown

    way.run(body)


def test_no_proxy_is_read_as_curl_and_requests_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    for rows, direct in ((BYPASSED, True), (PROXIED, False)):
        for entry, url in rows:
            monkeypatch.setenv("no_proxy", entry)
            assert (tls_and_proxy(url, Network())[1] is None) == direct, (entry, url)


def test_a_proxy_is_used_where_it_is_given_and_not_for_loopback_where_the_environment_names_it(
    way: Any, listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, workspace = listen(), listen()
    host = f"http://127.0.0.1:{workspace.server_port}"
    get(way, host, proxy=f"http://127.0.0.1:{proxy.server_port}")
    assert [path for path, _ in proxy.seen] == [f"{host}/x"]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    get(way, host)
    assert (len(proxy.seen), len(workspace.seen)) == (1, 1)


def test_the_environments_proxy_is_used_for_others_unless_no_proxy_or_trust_env_says_no(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    _, proxy = tls_and_proxy("https://a.example.com", Network())
    assert proxy is not None
    assert proxy.url.host == "proxy.example.com"
    assert tls_and_proxy("https://a.example.com", Network(trust_env=False))[1] is None
    monkeypatch.setenv("no_proxy", ".example.com")
    assert tls_and_proxy("https://a.example.com", Network())[1] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"verify": "/no/such/file.pem"}, "verify='/no/such/file.pem' must be a file or folder of CA certificates"),
        ({"verify": 3}, "verify= must be True, False, a path.*got int"),
        ({"trust_env": "no"}, "trust_env= must be True or False, got 'no'"),
        ({"trust_env": None}, "trust_env= must be True or False, got None"),
        ({"cert": "/no/such/cert.pem"}, "cert= cannot be used: /no/such/cert.pem"),
        ({"cert": "x.pem", "verify": ssl.create_default_context()}, "load the certificate into the context"),
        ({"proxy": "ftp://proxy.example.com"}, "proxy= must be a proxy's URL"),
        ({"proxy": ""}, "proxy= must be a proxy's URL"),
        (
            {"proxy": "http://p.example.com:1", "transport": httpx.MockTransport(lambda _: httpx.Response(200))},
            "transport=",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(dbllm.ConfigError, match=said):
        dbllm.Client("https://a.example.com", "t", **options)


def test_a_proxy_variable_that_is_no_url_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "ftp://proxy.example.com")
    with pytest.raises(dbllm.ConfigError, match="HTTPS_PROXY must be a proxy's URL"):
        dbllm.Client("https://a.example.com", "t")


def test_200_clients_share_one_tls_context() -> None:
    contexts = {id(tls_and_proxy("https://a.example.com", Network())[0]) for _ in range(200)}
    assert len(contexts) == 1


def test_the_systems_trust_store_is_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    truststore = pytest.importorskip("truststore")
    context, _ = tls_and_proxy("https://a.example.com", Network("system"))
    assert isinstance(context, truststore.SSLContext)
    monkeypatch.setitem(__import__("sys").modules, "truststore", None)
    with pytest.raises(dbllm.ConfigError, match=r"pip install 'dbllm\[truststore\]'"):
        tls_and_proxy("https://a.example.com", Network("system", trust_env=False))


def test_a_profile_that_skips_verification_does_so_for_its_own_host_only(environment: Path) -> None:
    (environment / ".databrickscfg").write_text("[x]\nhost = a.example.com\ntoken = t\nskip_verify = yes\n")
    with dbllm.Client(profile="x") as client:
        assert client.config.network(Network()).verify is False
        assert client.config.network(Network(verify="system")).verify == "system"
    with dbllm.Client("b.example.com", "t", profile="x") as client:
        assert client.config.network(Network()).verify is True
