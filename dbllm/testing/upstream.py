"""What stands behind the fault server: a real server, to which each request goes on over a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

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
