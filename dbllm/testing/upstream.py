"""What stands behind the fault server: a real server, to which each request goes on over a connection of its own."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import httpx

from dbllm.testing.model_answers import EVENTS, JSON, Asked

_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """An answer whose body is still coming.

    Attributes:
        status: HTTP status.
        headers: as they came, without those that belong to one connection.
        streams: the body's pieces are to be passed on as they come.
        pieces: of the body.
        reached: a server answered; else the answer is ours, and says why.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    streams: bool
    pieces: AsyncIterator[bytes]
    reached: bool = True


async def forward(base: str, asked: Asked) -> ServerAnswer:
    """The answer of the server at `base` (http or https). Without one it is 502, and the body says why."""
    if not base:
        return _unreached("DATABRICKS_HOST names no workspace")
    if (proxy := _proxy_for(base)) is not None:
        return await _forward_by(proxy, base, asked)
    url = urlsplit(base)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        reader, writer = await asyncio.open_connection(url.hostname, port, ssl=url.scheme == "https" or None)
    except OSError as error:
        return _unreached(f"no upstream: {error}")
    connection = h11.Connection(h11.CLIENT)
    headers = [(name, value) for name, value in asked.headers.items() if name not in _OF_ONE_CONNECTION]
    headers += [("host", url.netloc.rpartition("@")[2]), ("connection", "close")]
    headers += [("content-length", str(len(asked.body)))] if asked.body or asked.method == "POST" else []
    try:
        request = h11.Request(method=asked.method, target=asked.path, headers=headers)
        writer.write((connection.send(request) or b"") + (connection.send(h11.Data(asked.body)) or b""))
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        event = await _next_event(connection, reader)
        while isinstance(event, h11.InformationalResponse):
            event = await _next_event(connection, reader)
        if not isinstance(event, h11.Response):
            raise EOFError("it ended without an answer")
    except (OSError, EOFError, h11.ProtocolError) as error:
        writer.close()
        return _unreached(f"upstream: {error}")
    except BaseException:
        writer.close()
        raise
    kept = [(name, value) for name, value in event.headers if name.decode() not in _OF_ONE_CONNECTION]
    kind = dict(kept).get(b"content-type", JSON)
    return ServerAnswer(event.status_code, kept, kind.startswith(EVENTS), _pieces(connection, reader, writer))


def _proxy_for(base: str) -> str | None:
    """The proxy that the environment names for an address."""
    url = urlsplit(base)
    name = url.hostname or ""
    if name == "localhost" or name.startswith("127.") or urllib.request.proxy_bypass(name):
        return None
    known = urllib.request.getproxies()
    return known.get(url.scheme) or known.get("all")


async def _forward_by(proxy: str, base: str, asked: Asked) -> ServerAnswer:
    client = httpx.AsyncClient(proxy=proxy, timeout=None, trust_env=False)  # noqa: S113 - the caller has one
    headers = [(name, value) for name, value in asked.headers.items() if name not in _OF_ONE_CONNECTION]
    url = httpx.URL(base).copy_with(raw_path=asked.path.encode("ascii"))
    request = httpx.Request(asked.method, url, headers=headers, content=asked.body)
    try:
        response = await client.send(request, stream=True)
    except httpx.TransportError as error:
        await client.aclose()
        return _unreached(f"upstream by proxy: {error}")
    kept = [(name.lower(), value) for name, value in response.headers.raw]
    kept = [(name, value) for name, value in kept if name.decode() not in _OF_ONE_CONNECTION]
    kind = dict(kept).get(b"content-type", JSON)
    return ServerAnswer(response.status_code, kept, kind.startswith(EVENTS), _proxied_pieces(client, response))


async def _proxied_pieces(client: httpx.AsyncClient, response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    finally:
        await response.aclose()
        await client.aclose()


def _unreached(why: str) -> ServerAnswer:
    return ServerAnswer(502, [(b"content-type", b"text/plain")], False, one_piece(why.encode()), reached=False)


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(65536))
    return event


async def _pieces(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncIterator[bytes]:
    try:
        while isinstance(event := await _next_event(connection, reader), h11.Data):
            yield bytes(event.data)
    finally:
        writer.close()


async def one_piece(body: bytes) -> AsyncIterator[bytes]:
    """A body that is at hand."""
    yield body
