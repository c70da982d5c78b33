"""Requests that HTTP has no form for are refused before a library sees them, which would quote them."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import httpx
import pytest
from support.loopback import Peer, Server

import dbllm
from dbllm import ConfigError, Retry
from dbllm._http.errors import without_tracebacks
from dbllm._http.httpx_connection import RedactingFilter, _redaction

TOKEN = "dapiCANARY0123456789"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a line break in the path": ("GET", "/x\r\ny: z", {}),
    "a null in the path": ("GET", "/x\x00", {}),
    "a line break in the query": ("GET", f"/x?token={TOKEN}\n", {}),
    "half a surrogate pair": ("GET", "/\ud800", {}),
    "a path that is too long": ("GET", "/" + "x" * 70_000, {}),
    "a method with a space": ("GE T", "/x", {}),
    "a header with a line break": ("GET", "/x", {"X-Api-Key": f"{TOKEN}\r\ny: z"}),
    "a header outside Latin-1": ("GET", "/x", {"X-Api-Key": f"{TOKEN}☃"}),
    "a header of bytes": ("GET", "/x", {"X-Api-Key": TOKEN.encode()}),
    "a header with a space in its name": ("GET", "/x", {"X Api": TOKEN}),
    "a host with a null": ("GET", "/x", {"Host": f"{TOKEN}\x00"}),
    "a length of the caller's": ("GET", "/x", {"Content-Length": TOKEN}),
}


@pytest.mark.parametrize("engine", ["h11", "httpx"])
@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_sent_is_a_sentence_and_shows_nothing(name: str, engine: str) -> None:
    method, path, _headers = CASES[name]
    server = Server()
    try:
        client = dbllm.Client(server.host, TOKEN, engine=engine, retry=Retry(attempts=1))
        with client, pytest.raises(ConfigError) as failed:
            client.request(method, path, headers=CASES[name][2])
    finally:
        server.close()
    shown = traceback.TracebackException.from_exception(failed.value, capture_locals=True)
    said = "".join(line for frame in shown.stack for line in (frame.locals or {}).values() if "test_" not in frame.name)
    assert "cannot be sent" in str(failed.value) or "is no HTTP method" in str(failed.value)
    assert TOKEN not in str(failed.value) + "".join(traceback.format_exception(failed.value))
    assert "Bearer" not in said
    assert server.requests == []


def test_an_error_of_httpx_forgets_its_request() -> None:
    request = httpx.Request("GET", f"https://x.example.com/?token={TOKEN}")
    error = httpx.ReadError("gone", request=request)
    without_tracebacks(error)
    assert TOKEN not in repr(vars(error))


RECORDS = (
    ("httpcore.http11", "receive_response_headers.complete return_value=(b'HTTP/1.1', 400, b'%s', [(b'x', b'%s')])"),
    ("httpcore.http11", "receive_response_headers.complete return_value=(b'HTTP/1.1', 400, b\"it's %s\", [])"),
    ("httpcore.http11", "receive_response_headers.failed exception=RemoteProtocolError(\"no: bytearray(b'%s')\")"),
    ("httpcore.http2", "receive_response_headers.complete return_value=(400, [(b'x-echo', b'%s')])"),
    ("httpcore.socks", "setup_socks5_connection.started auth=(b'ada', b'%s')"),
    ("httpcore.proxy", "an unknown sentence with %s"),
)


@pytest.mark.parametrize(("logger", "text"), RECORDS)
def test_no_line_of_httpcore_shows_what_a_server_repeats(logger: str, text: str) -> None:
    record = logging.LogRecord(logger, logging.DEBUG, "", 0, text.replace("%s", TOKEN), (), None)
    mark = _redaction.set(lambda line: line.replace(f"with {TOKEN}", "with ***"))
    try:
        RedactingFilter().filter(record)
    finally:
        _redaction.reset(mark)
    assert TOKEN not in record.getMessage()
    assert logger == "httpcore.proxy" or "***" in record.getMessage()
    other = logging.LogRecord(logger, logging.DEBUG, "", 0, text.replace("%s", TOKEN), (), None)
    RedactingFilter().filter(other)  # no request of ours is under way
    assert TOKEN in other.getMessage()


def test_a_reason_and_a_url_of_httpx_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def echo(peer: Peer) -> None:
        if (request := peer.request()) is not None:
            said = request.headers["authorization"]
            peer.send(f"HTTP/1.1 400 {said}\r\nx-echo: {said}\r\ncontent-length: 0\r\n\r\n".encode())

    server = Server((echo,))
    caplog.set_level(logging.DEBUG)
    try:
        with httpx.Client(trust_env=False) as plain:
            client = dbllm.Client(server.host, TOKEN, http_client=plain, retry=Retry(attempts=1))
            with client, pytest.raises(dbllm.BadRequestError):
                client.request("GET", "/x?page=2")
    finally:
        server.close()
    assert any(record.name == "httpx" and "/x" in record.getMessage() for record in caplog.records)
    assert any(record.name.startswith("httpcore") for record in caplog.records)
    assert TOKEN not in caplog.text
    assert "page=2" not in caplog.text
