"""A healthy server in a process of its own, so that every socket of a test's process is the client's.

    python far_server.py CA_FILE        prints three ports: plain HTTP, HTTPS, and a proxy that tunnels (CONNECT)

It answers a chat, and streams one in several pieces where a stream is asked for. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys

import trustme

CHAT = {"object": "chat.completion", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = [
    *(f'data: {{"choices":[{{"index":0,"delta":{{"content":"p{place}"}}}}]}}\n\n' for place in range(3)),
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    "data: [DONE]\n\n",
]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line), 0)
            await reader.readexactly(length)
            await asyncio.sleep(0.001)  # so that the client waits
            if b"event-stream" in head:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for piece in PIECES:
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece.encode()))
                    await writer.drain()
                    await asyncio.sleep(0.001)
                writer.write(b"0\r\n\r\n")
            else:
                body = json.dumps(CHAT).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        place = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        inner_reader, inner_writer = await asyncio.open_connection(*place.rsplit(":", 1))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
    writer.close()


async def main() -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(sys.argv[1])
    servers = [
        await asyncio.start_server(handler, "0.0.0.0", 0, backlog=2048, ssl=security)  # noqa: S104 - all of loopback
        for handler, security in ((serve, None), (serve, context), (tunnel, None))
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
