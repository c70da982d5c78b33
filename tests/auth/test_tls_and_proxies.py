"""CA bundles, client certificates, proxies, and settings that do not go together; over real sockets on loopback."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

import dbllm
from dbllm import Retry
from dbllm._http.tls import Network, tls_and_proxy

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
