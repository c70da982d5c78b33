"""TLS and proxies: what a user asked for, in httpx's words, made into what the engine needs."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from .._urls import is_loopback
from ..errors import ConfigError

Verify = bool | str | ssl.SSLContext
ProxyLike = str | httpx.Proxy
Cert = str | tuple[str, str] | tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """How connections are made, in httpx's words.

    Attributes:
        verify: True: the CA bundle that comes with httpx (with `trust_env`, SSL_CERT_FILE or SSL_CERT_DIR);
            "system": the system's trust store; another str: a CA file or folder; an `ssl.SSLContext`; False: none.
        cert: a client certificate: a file, (certificate, key) or (certificate, key, password).
        proxy: a URL; with `trust_env`, HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are read where it is None.
        trust_env: whether the environment has a say.
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
    """Building a context reads the whole CA bundle (15 to 100 ms): one for the process and settings."""
    context = trust_context(verify, trust_env)
    if cert is not None:
        chain, key, password = (cert, None, "") if isinstance(cert, str) else cert if len(cert) == 3 else (*cert, "")
        try:  # a password that is not given is never asked for on the terminal
            context.load_cert_chain(chain, key, password)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"cert=: {chain} cannot be used with its key: {error.strerror or error}.") from None
    return context


def trust_context(verify: Verify, trust_env: bool) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify == "system":
        try:
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
        raise ConfigError(f"{where} is no file of CA certificates: {error.strerror or error}.") from None


def tls_and_proxy(base: str, network: Network) -> tuple[ssl.SSLContext, httpx.Proxy | None]:
    """TLS context and proxy for a host.

    Raises:
        ConfigError: the settings cannot be used, or not together.
    """
    parts = urlsplit(base)
    if not isinstance(network.verify, (bool, str, ssl.SSLContext)):
        raise ConfigError(f"verify= is True, False, a path, 'system' or an ssl.SSLContext, not {network.verify!r}.")
    if isinstance(network.verify, ssl.SSLContext) and network.cert is not None:
        raise ConfigError("cert= with an ssl.SSLContext as verify=: load the certificate into the context instead.")
    if parts.scheme == "https" or network.cert is not None or network.verify is not True:
        variables = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if network.trust_env else ()
        context = cached_context(network.verify, network.cert, network.trust_env, variables)
    else:  # a plain http host never uses the context, and an empty one is cheap
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if network.proxy is not None:
        return context, _proxy(network.proxy, "proxy=")
    if not network.trust_env or is_loopback(parts.hostname or "") or proxy_bypass(parts.hostname or ""):
        return context, None  # a proxy is elsewhere, where this machine's loopback is another machine's
    found = next((name for name in (parts.scheme, "all") if getproxies().get(name)), None)
    return context, _proxy(getproxies()[found], f"{found.upper()}_PROXY") if found else None


def _proxy(proxy: str | httpx.Proxy, place: str) -> httpx.Proxy:
    flaw = "is no proxy's URL, such as http://proxy.example.com:3128"
    made = proxy if isinstance(proxy, httpx.Proxy) else None
    if made is None and isinstance(proxy, str):
        try:
            made = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
        except (ValueError, httpx.InvalidURL):
            pass
    del proxy  # it may hold a password, which no traceback shall show
    if made is not None and made.url.host and made.url.scheme.startswith("socks"):
        from importlib.util import find_spec

        flaw = "is a SOCKS proxy, which needs httpx's extra: pip install 'httpx[socks]'"
        made = made if find_spec("socksio") else None
    if made is None or not made.url.host:
        raise ConfigError(f"{place} {flaw}.") from None
    return made
