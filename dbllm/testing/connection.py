"""One connection of a server on loopback: it reads requests, and answers each, or breaks its answer as a plan says."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from http.client import responses
from typing import TYPE_CHECKING, Any, Protocol

from dbllm.testing.fault_plans import FAULT_KINDS, FAULT_STATUSES, FaultPlan
from dbllm.testing.model_answers import JSON, Asked, ModelAnswer, answer_to, json_body, nonce_of, prompt_of
from dbllm.testing.upstream import ServerAnswer, forward

if TYPE_CHECKING:
    from dbllm.testing.server import ServerSettings, ServerState

CONTROL = "/_fault_server"
FORGED = "a forged answer"
"""The text in the answer that `extra_bytes` adds."""

_LARGE = 65536  # bytes of a body whose end is not waited for before a plan is made
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_RESET = struct.pack("ii", 1, 0)


class ConnectionState(Protocol):
    """What the connections of one server share."""

    settings: ServerSettings
    connections: set[LoopbackConnection]
    accepted: int
    flaws: list[str]

    def plan(self, nonce: str) -> FaultPlan:
        """What happens to the next request of a nonce."""
        ...


class LoopbackConnection(asyncio.Protocol):
    """The server's end of one connection; requests are served one after the other, by `_begin`."""

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._served = 0
        self._plan: FaultPlan | None = None  # of a request that is still arriving
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._state.connections.add(self)
        self._state.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._read_requests()

    def close(self, *, reset: bool = False) -> None:
        """End the connection, by FIN or by RST."""
        if reset:
            if (sock := self._transport.get_extra_info("socket")) is not None:  # TLS that has ended has none
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.close()

    def _read_requests(self) -> None:
        while self._task is None and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[: end + 2])
            found = _LENGTH.search(head)
            size = int(found[1]) if found else 0
            whole = len(self._buffer) >= end + 4 + size
            if not whole and (size < _LARGE or self._plan is not None):
                return
            method, path, headers = read_head(head)
            body = bytes(self._buffer[end + 4 : end + 4 + size]) if whole else b""
            asked = Asked(method, path, headers, body)
            if not whole:
                self._plan = self._state.plan(nonce_of(asked, None))
                if self._plan.fault != "early_413":
                    return
            del self._buffer[: end + 4 + size]
            try:
                self._begin(asked)
            except Exception as error:  # noqa: BLE001 - no client is told why: the test is
                self._fail(error)

    def _begin(self, asked: Asked) -> None:
        """Answer a request: at once, or in a task. Each kind of server has its own; none is of this class alone."""
        raise NotImplementedError

    def _run_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Answer in a task; the next request is read when it has ended."""
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._served_one)

    def _served_one(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        elif not self._transport.is_closing():
            self._read_requests()

    def _fail(self, error: BaseException) -> None:
        self._state.flaws.append(repr(error))
        self.close(reset=True)

    def _refuse(self, plan: FaultPlan) -> None:
        assert plan.fault is not None  # noqa: S101
        status = FAULT_STATUSES[plan.fault]
        hint = [(b"retry-after-ms", b"%d" % (1000 * self._state.settings.hint))] if plan.fault == "429_hint" else []
        body = json.dumps({"error_code": "INJECTED", "message": f"an injected fault: {plan.fault}"}).encode()
        early = plan.fault == "early_413"
        self._transport.write(framed(status, JSON, body, [*hint, *([(b"connection", b"close")] if early else [])]))
        if early:
            self.close()

    async def _misbehave(self, plan: FaultPlan, answer: ServerAnswer, body: bytes) -> None:
        """Deliver a whole answer as the fault says."""
        settings, transport, fault = self._state.settings, self._transport, plan.fault
        headers = answer.headers
        whole = framed(answer.status, b"", body, headers)
        cut = len(whole) - len(body) + int(plan.draw * len(body))  # somewhere in the body
        if fault == "late":
            await asyncio.sleep(settings.pause)
            transport.write(whole)
        elif fault == "drip":
            transport.write(whole[: -len(body) or None])
            for place in range(len(body)):
                transport.write(body[place : place + 1])
                await asyncio.sleep(settings.pause / len(body))
        elif fault in ("slices", "narrow"):
            size = 1 + int(plan.draw * 7) if fault == "slices" else 1024
            for place in range(0, len(whole), size):
                transport.write(whole[place : place + size])
                await asyncio.sleep(0 if fault == "slices" else 1 / 16)
        elif fault == "close_race":
            transport.write(whole)
            await asyncio.sleep(0.005 * plan.draw)
            if not self._buffer:  # what the kernel has and this program has not read is answered by a reset
                self.close()
        elif fault == "informational":
            transport.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 64 + whole)
        elif fault == "extra_bytes":
            forged = answer_to(Asked("POST", "/", {}, b""), {"messages": []}, FORGED)
            transport.write(whole + framed(200, JSON, forged.pieces[0]))
        elif fault in ("close_before_head", "reset_before_head"):
            await asyncio.sleep(settings.run)
            self.close(reset=fault == "reset_before_head")
        elif fault in ("close_in_body", "reset_in_body"):
            transport.write(whole[:cut])
            await asyncio.sleep(0.002)  # or a reset would discard what lies in the kernel
            self.close(reset=fault == "reset_in_body")
        elif fault in ("stall", "half_open"):
            if fault == "stall":
                transport.write(whole[: len(whole) - len(body) // 2])
            else:
                transport.pause_reading()
            await asyncio.sleep(settings.stall)
            self.close(reset=True)
        else:
            transport.write(self._damaged(plan, answer.status, headers, body))
            if fault == "truncated_json":
                return  # its framing is whole
            self.close()

    def _damaged(self, plan: FaultPlan, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
        """An answer whose bytes are wrong."""
        match plan.fault:
            case "header_bomb":
                return framed(status, b"", body, [*headers, (b"x-bomb", b"x" * 2**20)])
            case "duplicate_header":
                return framed(status, b"", body, [*headers, (b"content-length", b"%d" % (len(body) + 1))])
            case "chunk_garbage":
                start = head(status, [*headers, (b"transfer-encoding", b"chunked")])
                middle = max(1, len(body) // 2)
                return start + b"%x\r\n%b\r\nno size\r\n%b" % (middle, body[:middle], body[middle:])
            case "wrong_length":
                return head(status, [*headers, (b"content-length", b"%d" % (len(body) + 100))]) + body
            case "broken_gzip":
                packed = bytearray(gzip.compress(body))
                packed[10 + int(plan.draw * (len(packed) - 18))] ^= 0x55
                packed[-8] ^= 0x55  # its checksum, too: some damage in the middle is another text
                return framed(status, b"", bytes(packed), [*headers, (b"content-encoding", b"gzip")])
        return framed(status, b"", body[: len(body) // 2], headers)


class FaultConnection(LoopbackConnection):
    """One connection to the fault server."""

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self._server = state

    def _begin(self, asked: Asked) -> None:
        state = self._server
        if asked.path.startswith(CONTROL):
            told = json.dumps(state.control(asked.path.removeprefix(CONTROL), asked.body)).encode()
            self._transport.write(framed(200, JSON, told))
            return
        body = json_body(asked) if asked.headers.get("content-type", "").startswith("application/json") else {}
        prompt = prompt_of(body)
        nonce = nonce_of(asked, prompt)
        plan, self._plan = self._plan or state.plan(nonce), None
        fault = plan.fault
        if fault == "reset_kept" and not self._served:
            fault = None  # only a kept connection can be closed before its next request
        self._served += 1
        state.count(nonce, fault, fault is None or FAULT_KINDS[fault].runs)
        if fault is None and not state.settings.upstream and not state.settings.delays:
            answer = answer_to(asked, body, prompt)
            if not answer.streams:
                self._transport.write(framed(200, answer.content_type, answer.pieces[0]))
                return
        self._run_task(self._serve(asked, FaultPlan(fault, plan.draw)))

    async def _serve(self, asked: Asked, plan: FaultPlan) -> None:
        settings = self._state.settings
        if settings.delays:
            await asyncio.sleep(settings.latency + settings.jitter * plan.draw)
        if plan.fault == "reset_kept":
            self.close(reset=True)
            return
        if plan.fault in FAULT_STATUSES:
            self._refuse(plan)
            return
        answer = await self._answer(asked)
        if plan.fault is not None:
            body = b"".join([piece async for piece in answer.pieces])
            await self._misbehave(plan, answer, body)
            return
        if not answer.streams:
            body = b"".join([piece async for piece in answer.pieces])
            self._transport.write(framed(answer.status, b"", body, answer.headers))
            return
        self._transport.write(head(answer.status, [*answer.headers, (b"transfer-encoding", b"chunked")]))
        async for piece in answer.pieces:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(settings.between)
        self._transport.write(b"0\r\n\r\n")

    async def _answer(self, asked: Asked) -> ServerAnswer:
        if self._state.settings.upstream:
            return await forward(self._state.settings.upstream, asked)
        body = json_body(asked)
        answer = answer_to(asked, body, prompt_of(body))
        return ServerAnswer(200, [(b"content-type", answer.content_type)], answer.streams, each(answer))


def read_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers of a request."""
    line, *rows = head.decode("latin-1").split("\r\n")
    method, path, *_ = [*line.split(" "), "/"]
    pairs = (row.partition(":") for row in rows if row)
    return method, path, {name.lower(): value.strip() for name, _, value in pairs}


def head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer."""
    reason = responses.get(status, "Unknown").encode()
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(b"%b: %b\r\n" % pair for pair in headers))


def framed(status: int, kind: bytes, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """A whole answer with its length."""
    own = [(b"content-type", kind)] if kind else []
    return head(status, [*own, *(headers or []), (b"content-length", b"%d" % len(body))]) + body


async def each(answer: ModelAnswer) -> AsyncIterator[bytes]:
    """The pieces of an answer that is at hand."""
    for piece in answer.pieces:
        yield piece
