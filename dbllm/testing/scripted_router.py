"""Scripted models without a server: a router of respx answers what httpx's transports are asked to send.

    from dbllm import AsyncClient
    from dbllm.testing import respx_router

    with respx_router() as scripted:
        scripted.reply("Hello!")
        async with AsyncClient() as client: ...

Needs respx: pip install 'dbllm[testing]'.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx

from dbllm.testing.fault_plans import FAULT_STATUSES
from dbllm.testing.loopback_workspace import WorkspaceAddress, workspace_environment
from dbllm.testing.model_answers import Asked
from dbllm.testing.scripted_models import ScriptedModels
from dbllm.testing.virtual_clock import VirtualClock
from dbllm.testing.wire_answers import WireAnswer

_HOST = "https://workspace.example.com"
_APPS = ".databricksapps.com"
_WITHOUT_ANSWER: dict[str, type[httpx.TransportError]] = {
    "close_before_head": httpx.RemoteProtocolError,
    "reset_before_head": httpx.ReadError,
    "reset_kept": httpx.ReadError,
    "half_open": httpx.ReadTimeout,
    "header_bomb": httpx.RemoteProtocolError,
    "duplicate_header": httpx.RemoteProtocolError,
}
_IN_BODY: dict[str, type[httpx.TransportError]] = {
    "cut": httpx.RemoteProtocolError,
    "reset": httpx.ReadError,
    "stall": httpx.ReadTimeout,
    "close_in_body": httpx.RemoteProtocolError,
    "reset_in_body": httpx.ReadError,
    "chunk_garbage": httpx.RemoteProtocolError,
    "wrong_length": httpx.RemoteProtocolError,
}


class ScriptedRouter(ScriptedModels, WorkspaceAddress):
    """Scripted models behind a respx router; `respx_router` makes one.

    A time-out is raised at once where a server would stay silent. Faults of bytes that httpx never shows (a damaged
    gzip) cannot be had here: `scripted_workspace` has them.

    Attributes:
        router: of respx; add routes of your own to it.
        host, token: of the workspace; the environment has them, too.
    """

    def __init__(self, router: Any, host: str) -> None:
        super().__init__()
        self.router, self.host, self.token = router, host, "scripted-token"
        router.route(host=httpx.URL(host).host).mock(side_effect=self._answer)
        router.route(host__regex=rf".*{_APPS.replace('.', '[.]')}$").mock(side_effect=self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host
        app = name.removesuffix(_APPS) if name.endswith(_APPS) else ""
        path = request.url.raw_path.decode("ascii")
        headers = {key.lower(): value for key, value in request.headers.items()}
        asked = Asked(request.method, path, headers, request.content)
        described = path.partition("?")[0].rpartition("/")[2]
        made = self._script.respond(asked, app, f"https://{described}{_APPS}")
        fault = made.fault
        if fault is not None and fault in FAULT_STATUSES:
            hint = {"retry-after-ms": "20"} if fault == "429_hint" else {}
            content = {"error_code": "INJECTED", "message": f"an injected fault: {fault}"}
            return httpx.Response(FAULT_STATUSES[fault], json=content, headers=hint)
        if fault is not None and fault in _WITHOUT_ANSWER:
            raise _WITHOUT_ANSWER[fault](f"an injected fault: {fault}", request=request)
        if fault == "broken_gzip":
            raise ValueError(
                "the fault 'broken_gzip' is one of bytes, which httpx has read before: use scripted_workspace"
            )
        framing = {"transfer-encoding": "chunked"} if made.streams else {}
        return httpx.Response(
            made.status, headers={**made.headers, **framing}, stream=_AnswerStream(made, self.clock, request)
        )


class _AnswerStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer, piece by piece, in both modes."""

    def __init__(self, made: WireAnswer, clock: VirtualClock | None, request: httpx.Request) -> None:
        self._pieces = list(made.frames) or [(made.delay, made.body)]
        self._clock, self._request = clock, request
        self._error = _IN_BODY.get(made.ending) or _IN_BODY.get(made.fault or "")
        if self._error is not None and made.ending == "whole":  # a fault in the middle; an ending comes after all of it
            half = max(1, len(self._pieces) // 2)
            self._pieces = [
                (wait, piece if made.frames else piece[: len(piece) // 2]) for wait, piece in self._pieces[:half]
            ]
        if made.fault == "truncated_json":
            self._pieces = [(0.0, b"".join(piece for _, piece in self._pieces))]
            self._pieces = [(0.0, self._pieces[0][1][: len(self._pieces[0][1]) // 2])]

    def __iter__(self) -> Iterator[bytes]:
        for seconds, piece in self._pieces:
            if seconds and not self._skipped(seconds):
                time.sleep(seconds)
            yield piece
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for seconds, piece in self._pieces:
            if seconds and not self._skipped(seconds):
                await anyio.sleep(seconds)
            yield piece
        self._end()

    def _skipped(self, seconds: float) -> bool:
        """Whether the time passes on the test's clock."""
        if self._clock is None:
            return False
        self._clock.advance(seconds)
        return True

    def _end(self) -> None:
        if self._error is not None:
            raise self._error("an injected fault: the answer breaks off", request=self._request)


@contextmanager
def respx_router(host: str = _HOST) -> Iterator[ScriptedRouter]:
    """Scripted models through httpx's transports, without a server. Clients that are made without a host use them.

    A request to another host is an error of respx. The environment's DATABRICKS_* variables are set until the end of
    the block.

    Args:
        host: of the workspace.

    Raises:
        ImportError: respx is not installed.
        AssertionError: at the end of the block, if there was a call that no answer was written for.
    """
    try:
        import respx
    except ImportError as error:
        raise ImportError("respx_router needs respx: pip install 'dbllm[testing]'") from error
    with respx.mock(assert_all_called=False) as router:
        scripted = ScriptedRouter(router, host)
        with workspace_environment(scripted.env):
            yield scripted
    if scripted.problem():
        raise AssertionError(scripted.problem())
