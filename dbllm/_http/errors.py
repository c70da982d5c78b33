"""From failures of the HTTP stack to dbllm's errors. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httpx

from .._urls import is_loopback
from ..errors import APIConnectionError, APIError, APIResponseError, APIStatusError, APITimeoutError, Raw
from .tls import tls_advice

_PROXY = "The proxy refused the connection, not the workspace: check proxy= or HTTPS_PROXY; NO_PROXY names exceptions."
_PROXY_LOGIN = (
    "The proxy wants a user name and password: check those in proxy= or HTTPS_PROXY (http://user:password@…)."
)
_HUNG_UP = (
    "The server hung up without an answer: check the host, firewalls and proxies (over https, a server that wants a "
    "client certificate, cert=, may do this, too; over http, one that speaks https)."
)
_SLOW_DIAL = (
    "Check that the host is right and reachable from here (DNS, proxy, firewall), and that it speaks {scheme} on this "
    "port; Timeout(connect=…) allows more time."
)
_SERVER, _NO_DIAL, _NO_ANSWER = "the workspace", "no connection in time", "the answer did not come in time"
_RESET = re.compile(r"reset by peer|aborted|BrokenResourceError$|ReadError$")
_QUOTED = re.compile(r"[:\s]*(?:bytearray\()?\bb['\"].*", re.DOTALL)  # bytes in h11's words


def connect_error(error: BaseException, late: bool, proxy_scheme: str = "") -> APIError:
    """No connection came about, directly or through a proxy."""
    failed = _connect_error(error, late, proxy_scheme)
    failed.unreachable = True
    return failed


def _connect_error(error: BaseException, late: bool, proxy_scheme: str) -> APIError:
    what = describe_error(error)
    if late:
        return APITimeoutError(_NO_DIAL, sent=False)
    if refused := re.match(r"ProxyError: (\d{3})?", what):
        if refused[1] == "407":  # a status, so that it is not tried again: accounts get locked that way
            return APIStatusError(f"the proxy did not connect ({what})", hint=_PROXY_LOGIN, status=407, sent=False)
        return APIConnectionError(f"the proxy did not connect ({what})", hint=_PROXY, sent=False)
    hint = tls_advice(what, proxy_scheme)
    return APIConnectionError(f"no connection to {_SERVER} ({what})", hint=hint, sent=False)


def broken_connection_error(error: BaseException, late: bool, raw: Raw | None, sent: bool) -> APIError:
    """A connection that existed failed; `raw` is what of an answer had arrived."""
    if late:
        return APITimeoutError(_NO_ANSWER, raw=raw)
    what = describe_error(error)  # with TLS 1.3, a server refuses a client's certificate only after the handshake
    hint = tls_advice(what) if "SSL" in what else _HUNG_UP if raw is None and _RESET.search(what) else ""
    return APIConnectionError(f"the connection broke ({what})", hint=hint, sent=sent, raw=raw)


def name_server(error: APIError, server: str, connect: float | None, total: float | None) -> None:
    """Write into the error of a connection which server it is about, and how many seconds it had."""
    if error.detail == _NO_DIAL:
        limits = [limit for limit in (connect, total) if limit is not None]
        error.detail = f"no connection to {server} within {min(limits, default=0):g} s"
        error.hint = _SLOW_DIAL.format(scheme=server.partition(":")[0])
    elif error.detail == _NO_ANSWER:
        error.detail = f"no answer from {server} within {total or 0:g} s"
    elif isinstance(error, APIConnectionError):
        named = error.detail.replace(f"to {_SERVER} ", f"to {server} ")
        error.detail = named.replace("the connection broke (", f"the connection broke ({server}: ", 1)
        if error.unreachable and error.hint == error.next_step and is_loopback(urlsplit(server).hostname or ""):
            error.hint = "Nothing listens there: start a workspace with `dbllm up`, and compare the host with its own."


def undecodable_error(error: Exception, raw: Raw) -> APIError:
    """The error for a body that cannot be decompressed, or is a bomb: the latter alone is no zlib.error."""
    return APIResponseError(f"the answer cannot be decompressed ({error})", raw=raw)


def describe_error(error: BaseException) -> str:
    """What an error of the HTTP stack is about, without the server's bytes: they may repeat what is secret."""
    link: BaseException | None = error
    while link is not None and not str(link):  # trio says it only in what lies beneath
        link = link.__cause__ or link.__context__
    return f"{type(error).__name__}: {_QUOTED.sub('', str(link))}" if link is not None else type(error).__name__


def without_tracebacks(error: BaseException) -> BaseException:
    """An error of the HTTP stack without its frames, whose local variables hold what was sent, the token included.

    Nor does its text quote the server's bytes, which may repeat that.
    """
    link: BaseException | None = error
    seen: set[int] = set()  # an error that is raised again can be part of its own context
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if _QUOTED.search(str(link)):
            link.args = (_QUOTED.sub("", str(link)),)
        if isinstance(link, httpx.RequestError):
            link._request = None  # its URL has the query
        link.__traceback__, link = None, link.__cause__ or link.__context__
    return error
