"""`dbllm doctor`: what is configured, from where, and how far a call gets. Nothing it prints is secret."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from dbllm.cli import console
from dbllm.cli.options import Host, Profile

if TYPE_CHECKING:
    from dbllm import Client

SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        check: what was looked at.
        ok: whether it is well.
        said: what was found.
        seconds: how long it took.
        advice: what to do, where it is not well.
    """

    check: str
    ok: bool
    said: str
    seconds: float
    advice: str = ""


def doctor(
    host: Host = None,
    profile: Profile = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Also call this endpoint or model service once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out what is configured, and why a call does not work.

    The exit status is 1 when something is red.
    """
    findings: list[Finding] = []
    for finding in examine(host, profile, endpoint):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        console.write_json({"ok": all(one.ok for one in findings), "checks": [asdict(one) for one in findings]})
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    color = typer.colors.GREEN if finding.ok else typer.colors.RED
    mark = "ok  " if finding.ok else "FAIL"
    said = " ".join(console.printable(finding.said).split())
    line = f"{mark} {finding.check:<14} {finding.seconds * 1000:6.0f} ms  {said}"
    shown = console.wrapped(line, sys.stdout, " " * 5).removeprefix(mark)
    typer.echo(console.colored(mark, color, sys.stdout) + shown)
    if finding.advice:
        typer.echo(console.wrapped(f"{'':31}-> {console.printable(finding.advice)}", sys.stdout, " " * 5))


def examine(host: str | None, profile: str | None, endpoint: str | None) -> Iterator[Finding]:
    """The findings, one after another; what depends on something that failed is not tried."""
    from dbllm import Client, ConfigError, DbllmError, Retry
    from dbllm.cli.words import in_terminal_words

    began = time.perf_counter()
    try:
        client = Client(host, profile=profile, retry=Retry(attempts=1), timeout=SECONDS)
    except ConfigError as error:
        advice = "Then run this again. `dbllm demo` shows dbllm without an account."
        yield Finding("configuration", False, in_terminal_words(str(error)), time.perf_counter() - began, advice)
        return
    with client:
        yield Finding("configuration", True, str(client.config), time.perf_counter() - began)
        for note in client.config.passed_over:
            yield Finding("not used", True, in_terminal_words(note), 0.0)
        for check, ask in _checks(client, endpoint):
            began = time.perf_counter()
            try:
                said, advice, ok = ask(), "", True
            except DbllmError as error:
                said, advice, ok = getattr(error, "detail", "") or str(error), getattr(error, "hint", ""), False
            except OSError as error:
                said, ok = f"{type(error).__name__}: {error.strerror or error}", False
                advice = _advice(check, client.host, said)
            if not ok:
                said, advice = in_terminal_words(said), in_terminal_words(advice)
            yield Finding(check, ok, said, time.perf_counter() - began, advice)
            if not ok:
                return


_ADVICE = {
    "local": "No workspace runs on this port: start one with `dbllm up`; compare DATABRICKS_HOST with what it says.",
    "DNS": "The name is not known here: check its spelling, the VPN, or the DNS settings.",
    "TCP": "Nothing answers there: check firewall, proxy (HTTPS_PROXY) and port.",
    "TLS": "The TLS handshake failed: check the port, and whether a firewall or VPN cuts connections.",
}


def _advice(check: str, host: str, said: str) -> str:
    from dbllm._http.tls import tls_advice

    by_http = check == "TCP" and host.startswith("http://")  # which only this machine may answer
    return tls_advice(said) or _ADVICE["local" if by_http else check]


def _checks(client: Client, endpoint: str | None) -> Iterator[tuple[str, Callable[[], str]]]:
    from dbllm._http.tls import DEFAULT_NETWORK, tls_and_proxy

    parts = urlsplit(client.host)
    name, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    context, proxy = tls_and_proxy(client.host, client.config.network(DEFAULT_NETWORK))
    if proxy is not None:  # the name is then the proxy's to look up
        via = f"through the proxy {proxy.url.host}:{proxy.url.port or ''}"
        yield "proxy", lambda: via
    else:
        yield "DNS", lambda: ", ".join(sorted({str(row[4][0]) for row in socket.getaddrinfo(name, port)}))
        yield "TCP", lambda: _connected(name, port)
        if parts.scheme == "https":
            yield "TLS", lambda: _handshake(name, port, context)
    yield "auth", lambda: f"called as {_current_user(client)}"
    yield "endpoints", lambda: _listed(client)
    yield "model services", lambda: _services(client)
    if endpoint:
        handle: Any = client.endpoint(endpoint)
        yield "call", lambda: f"{endpoint} answered {handle.complete('Say hi.', max_tokens=8)!r}"


def _connected(name: str, port: int) -> str:
    with socket.create_connection((name, port), SECONDS) as sock:
        return f"port {port} of {sock.getpeername()[0]} answers"


def _handshake(name: str, port: int, context: Any) -> str:
    with (
        socket.create_connection((name, port), SECONDS) as sock,
        context.wrap_socket(sock, server_hostname=name) as tls,
    ):
        return str(tls.version())


def _current_user(client: Client) -> str:
    from dbllm import APIResponseError

    content = client.request("GET", "/api/2.0/preview/scim/v2/Me")
    if isinstance(content, dict):
        return str(content.get("userName") or content.get("displayName"))
    shown = " ".join(str(content or "nothing").split())[:200]
    hint = "A sign-in page, gateway or proxy answered instead of the workspace: check the host."
    raise APIResponseError(f"the answer is no user, but: {shown}", hint=hint)


def _services(client: Client) -> str:
    """What the AI gateway has; a workspace without one is none the worse for calls of serving endpoints."""
    from dbllm import APIStatusError

    try:
        names = [str(one.name).rpartition("/")[2] for one in client.model_services.list()]
    except APIStatusError as error:
        return (
            f"none: {error.detail.rstrip(chr(46))}. Names with two dots cannot be called here; serving endpoints can."
        )
    return f"{len(names)} in system.ai: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"


def _listed(client: Client) -> str:
    names = [endpoint.name for endpoint in client.endpoints.list()]
    return f"{console.counted(len(names), 'serving endpoint')}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
