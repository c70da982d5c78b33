"""TLS and proxies: from a user's settings, in httpx's words, to a context and a proxy; and advice when TLS fails."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from .._lazy import WholeImport
from .._urls import PORTS, is_loopback
from ..errors import ConfigError
from .request import RequestHeaders

Verify = bool | str | os.PathLike[str] | ssl.SSLContext
ProxyLike = str | httpx.Proxy
Cert = str | tuple[str, str] | tuple[str, str, str]

_SPEAKS_HTTP = "(?i)wrong.version.number|record.layer.failure|http.request|unknown.protocol|packet.length"
_ADVICE = (  # what OpenSSL says, and what to do
    ("certificate has expired", "The server's certificate, or one of its issuers', has expired: its owner must renew it"
     " (if it is valid, this machine's clock is wrong)."),
    ("not yet valid", "The server's certificate is not yet valid: check this machine's clock, then ask its owner."),
    ("mismatch|doesn't match", "The certificate is for another name: check the host's name; or another server answers "
     "in its place (a VPN, a gateway)."),
    ("certificate.verify.failed", "The certificate is not trusted here: pass verify= a file with its CA, set "
     "SSL_CERT_FILE to that file (REQUESTS_CA_BUNDLE is not read), or use verify='system'."),
    ("certificate.required|handshake.failure|alert.*(certificate|unknown.ca|access.denied)", "The server wants a "
     "client certificate, or another than the one shown: pass cert=(certificate file, key file)."),
    (_SPEAKS_HTTP, "The server speaks http on this port, not https: check the port and the scheme."),
)  # fmt: skip


def tls_advice(said: str, proxy_scheme: str = "") -> str:
    """What to do about a failed TLS handshake, by the words of the error; "" if it is about something else."""
    if proxy_scheme == "https" and re.search(_SPEAKS_HTTP, said):
        return "The proxy's address begins with https://, and the proxy seems to speak http: write http:// instead."
    return next((advice for words, advice in _ADVICE if re.search(words, said, re.IGNORECASE)), "")


@dataclass(frozen=True, slots=True)
class Network:
    """How connections are made, in httpx's words.

    Attributes:
        verify: True: the CA bundle that comes with httpx (with `trust_env`, SSL_CERT_FILE or SSL_CERT_DIR);
            "system": the system's trust store; another str or path: a CA file or folder; an `ssl.SSLContext`; False:
            certificates are not checked.
        cert: a client certificate: a file, (certificate, key) or (certificate, key, password).
        proxy: a URL; if None, with `trust_env`, HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are read.
        trust_env: whether environment variables are read.
    """

    verify: Verify = True
    cert: Cert | None = field(default=None, repr=False)
    proxy: str | httpx.Proxy | None = field(default=None, repr=False)
    trust_env: bool = True


DEFAULT_NETWORK = Network()


@lru_cache(maxsize=8)
def cached_context(
    verify: Verify, cert: Cert | None, trust_env: bool, _variables: tuple[str | None, ...]
) -> ssl.SSLContext:
    """One context for the process and these settings: building one reads the whole CA bundle (15 to 100 ms)."""
    context = trust_context(verify, trust_env)
    if cert is not None:
        chain, key, password = (cert, None, "") if isinstance(cert, str) else cert if len(cert) == 3 else (*cert, "")
        try:  # with password "", OpenSSL never asks for one on the terminal
            context.load_cert_chain(chain, key, password)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"cert= cannot be used: {chain} and its key: {error.strerror or error}.") from None
    return context


def trust_context(verify: Verify, trust_env: bool) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify == "system":
        try:
            with WholeImport():
                import truststore
        except ImportError:
            raise ConfigError("verify='system' needs an extra: pip install 'dbllm[truststore]'.") from None
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if isinstance(verify, bool):
            return httpx.create_ssl_context(verify, trust_env=trust_env)
        folder = os.path.isdir(verify)
        return ssl.create_default_context(cafile=None if folder else verify, capath=verify if folder else None)
    except OSError as error:
        where = "SSL_CERT_FILE or SSL_CERT_DIR" if verify is True else f"verify={verify!r}"
        raise ConfigError(f"{where} must be a file or folder of CA certificates: {error.strerror or error}.") from None


def tls_and_proxy(base: str, network: Network) -> tuple[ssl.SSLContext, httpx.Proxy | None]:
    """TLS context and proxy for a host.

    Raises:
        ConfigError: the settings cannot be used, or not together.
    """
    parts = urlsplit(base)
    verify = os.fspath(network.verify) if isinstance(network.verify, os.PathLike) else network.verify
    if not isinstance(verify, (bool, str, ssl.SSLContext)):
        shown = type(verify).__name__
        raise ConfigError(f"verify= must be True, False, a path, 'system' or an ssl.SSLContext, got {shown}.")
    if not isinstance(network.trust_env, bool):  # "no" would count as True
        raise ConfigError(f"trust_env= must be True or False, got {network.trust_env!r:.80}.")
    if isinstance(verify, ssl.SSLContext) and network.cert is not None:
        raise ConfigError("cert= does not go with an ssl.SSLContext as verify=: load the certificate into the context.")
    if parts.scheme == "https" or network.cert is not None or verify is not True:
        variables = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if network.trust_env else ()
        context = cached_context(verify, network.cert, network.trust_env, variables)
    else:  # a plain http host never uses the context, and an empty one is cheap
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if network.proxy is not None:
        return context, _proxy(network.proxy, "proxy=")
    name, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    if not network.trust_env or is_loopback(name) or proxy_bypass(name) or is_bypassed(name, port):
        return context, None  # loopback: to a proxy, it would be the proxy's own machine
    found = next((name for name in (parts.scheme, "all") if getproxies().get(name)), None)
    return context, _proxy(getproxies()[found], f"{found.upper()}_PROXY") if found else None


def proxy_headers(base: str, network: Network) -> RequestHeaders:
    """What proxies get for themselves, their passwords included; nothing without a proxy.

    Also of those that the workspace is not reached through: tokens, apps and models may have other hosts.
    """
    given, sent = [network.proxy] if network.proxy is not None else [], dict[str, str]()
    if not given and network.trust_env:
        given = [proxy for name, proxy in getproxies().items() if name in ("http", "https", "all")]
    for place, each in enumerate(given):
        with suppress(ConfigError):  # it is said where this proxy is needed
            proxy = _proxy(each, "proxy=")
            sent |= {f"{place} {name.lower()}": value for name, value in proxy.headers.items()}
            if proxy.auth is not None:
                login = base64.b64encode(":".join(proxy.auth).encode()).decode()
                sent[f"{place} proxy-authorization"] = f"Basic {login}"
    return RequestHeaders(base, sent)


def is_bypassed(name: str, port: int) -> bool:
    """Whether NO_PROXY names a host, as curl and requests read it: names with all below them, addresses, networks.

    Each may have a port (`name:8443`, `[fd00::1]:8443`); a network is `10.0.0.0/8` or `fd00::/8`.
    """
    for entry in re.split(r"[\s,]+", getproxies().get("no", "")):
        if entry == "*":
            return True
        what, _, its_port = entry.rpartition(":") if re.search(r"(\]|^[^:]+):\d+$", entry) else (entry, "", "")
        what = what.strip("[]").lstrip("*").strip(".").lower()
        if (
            what
            and its_port in ("", str(port))
            and (f".{name.rstrip('.')}".endswith(f".{what}") or _inside(name, what))
        ):
            return True
    return False


def _inside(name: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _proxy(proxy: str | httpx.Proxy, place: str) -> httpx.Proxy:
    flaw = "must be a proxy's URL, such as http://proxy.example.com:3128"
    made = proxy if isinstance(proxy, httpx.Proxy) else None
    if made is None and isinstance(proxy, str):
        try:
            made = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
        except (ValueError, httpx.InvalidURL):
            pass
    del proxy  # it may hold a password, which no traceback may show
    if made is not None and made.url.host and made.url.scheme.startswith("socks"):
        with WholeImport():
            from importlib.util import find_spec

        flaw = "names a SOCKS proxy, which needs httpx's extra: pip install 'httpx[socks]'"
        made = made if find_spec("socksio") else None
    if made is None or not made.url.host:
        raise ConfigError(f"{place} {flaw}.") from None
    return made
