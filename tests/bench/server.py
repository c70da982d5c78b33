"""The server of the benchmark: a load generator on raw asyncio, whose answers are fixed bytes.

It takes as little time as it can, so that what is measured is the client: no model answers here, and none is meant to.
`python server.py CORE` prints two ports: the first answers at once, the second after 50 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

DELAY = 0.05  # seconds, on the second port
CHUNKS = 500  # of a stream
TEXT = (
    "The river runs from the hills to the sea, and on its way it passes towns, mills and meadows. " * 2
    + "Then it rests."
)
USAGE = {"prompt_tokens": 12, "completion_tokens": 48, "total_tokens": 60}


def encoded(content: object) -> bytes:
    """A whole JSON answer."""
    body = json.dumps(content).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: r-1\r\nserver: bench\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chat_answer() -> dict[str, object]:
    """One chat answer of some 200 characters."""
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    about = {"id": "chat-1", "object": "chat.completion", "created": 1700000000, "model": "bench"}
    return {**about, "choices": [choice], "usage": USAGE}


def stream_pieces() -> list[bytes]:
    """A streamed answer: its head, and each event as one piece of a chunked body."""
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-request-id: r-1\r\n\r\n"
    )
    about = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench"}
    events = []
    for number in range(CHUNKS):
        last = number == CHUNKS - 1
        delta = {"role": "assistant", "content": f" word{number}"}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if last else None}
        events.append(json.dumps({**about, "choices": [choice], **({"usage": USAGE} if last else {})}))
    texts = [f"data: {event}\n\n".encode() for event in (*events, "[DONE]")]
    return [head.encode(), *(b"%x\r\n%s\r\n" % (len(text), text) for text in texts), b"0\r\n\r\n"]


def embeddings_answer() -> dict[str, object]:
    """16 vectors of 1,024 numbers: 269 kB of JSON."""
    vectors = [[((row * 1024 + place) * 7919 % 20011 - 10005) / 100050.0 for place in range(1024)] for row in range(16)]
    data = [{"object": "embedding", "index": row, "embedding": vector} for row, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "bench", "usage": {"prompt_tokens": 64, "total_tokens": 64}}


CHAT, EMBEDDINGS, STREAM = encoded(chat_answer()), encoded(embeddings_answer()), stream_pieces()
TASK = encoded({"name": "bench", "task": "llm/v1/chat", "endpoint_type": "EXTERNAL_MODEL"})


class Answering(asyncio.Protocol):
    """One connection: whole requests in, fixed answers out."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + size:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
            if self._delay:
                self._loop.call_later(self._delay, self._answer, head, body)
            else:
                self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            self._transport.write(TASK)
        elif b'"stream":true' in body.replace(b" ", b""):
            for piece in STREAM:
                self._transport.write(piece)
        else:
            self._transport.write(EMBEDDINGS if b'"input"' in body else CHAT)


async def main() -> None:
    """Serve on two ports until the standard input ends."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda d=d: Answering(d), "127.0.0.1", 0, backlog=2048) for d in (0.0, DELAY)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(main())
