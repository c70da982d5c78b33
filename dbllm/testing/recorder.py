"""Records what a test sends to a real workspace and gets from it, and replays it where there is no workspace.

    with recording("recordings/hello.json") as recorded, Client() as client:
        print(client.endpoint("smollm2-chat").chat("hello").text)

A server on loopback stands between the clients and the workspace of DATABRICKS_HOST. Where the file exists, it answers
from the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import h11

from dbllm.testing.connection import LoopbackConnection, framed, head
from dbllm.testing.loopback_workspace import LoopbackWorkspace, workspace_environment
from dbllm.testing.model_answers import JSON, Asked, answer_to
from dbllm.testing.recorded_secrets import SecretRemover, secrets_in_environment
from dbllm.testing.recordings import (
    Interaction,
    Recording,
    body_of,
    content_of,
    event_of,
    frame_of,
    from_text,
    kept_headers,
    split_frames,
    to_text,
)
from dbllm.testing.script import NOT_SCRIPTED
from dbllm.testing.upstream import ServerAnswer, forward

RecordMode = Literal["once", "replay", "none"]
"""once: replay the file, or record it where there is none; replay: never record; none: neither, call the workspace."""

IGNORED = frozenset({"client_request_id"})
"""Fields of a body that are not compared."""

_OF_AGENTS = frozenset({"id"})  # of a run: the client makes a new one each time
_UNRECORDED = ("/oidc/", "/.well-known/", "/login")  # what they answer is a credential, or leads to one
_APPS = "/api/2.0/apps/"


class Recorder(LoopbackWorkspace):
    """The server between a test and its workspace; `recording` and the fixture `recorded` make one.

    Attributes:
        path: of the file.
        replays: answers come from the file.
        pace: how fast a replayed stream is: 0 at once, 1 as it was recorded.
        ignored: fields of a request's body that are not compared.
    """

    def __init__(self, path: Path, mode: RecordMode = "once", *, pace: float = 0.0) -> None:
        super().__init__()
        if mode not in get_args(RecordMode):
            raise ValueError(f"the mode of a recording is once, replay or none, got {mode!r}")
        self.path, self.pace, self.ignored = path, pace, IGNORED
        self.replays = path.exists() or mode == "replay"
        self._off = mode == "none"
        self._problems: list[str] = []
        self._secrets = SecretRemover(secrets_in_environment(os.environ))
        self._upstream, self._app_upstreams = "", dict[str, str]()
        self.recording = Recording()
        if self._off:
            self.replays = False
        elif self.replays:
            self.recording = self._read()
        else:
            self._upstream = _workspace_address()
            self.recording.cluster_id = os.environ.get("DATABRICKS_CLUSTER_ID", "")

    def _read(self) -> Recording:
        if not self.path.exists():
            raise ValueError(
                f"there is no recording {self.path}, and the mode `replay` makes none: run the test once where the "
                "workspace is reached, with --dbllm-record=once, and commit the file."
            )
        return from_text(self.path.read_text("utf-8"), str(self.path))

    @property
    def environment(self) -> tuple[dict[str, str], bool]:
        """The variables of the block, and whether the others are kept."""
        if self._off:
            return {}, True
        if self.replays:
            return {**self.env, "DATABRICKS_CLUSTER_ID": self.recording.cluster_id or "0000-000000-recorded"}, False
        return {"DATABRICKS_HOST": self.host}, True

    def hide(self, secret: str) -> None:
        """Take a text out of the recording, beside what looks like a credential."""
        self._secrets.add(secret)

    def start(self) -> None:
        """Listen, unless nothing is recorded or replayed."""
        if not self._off:
            super().start()

    def close(self) -> None:
        """End the server, and write what was recorded."""
        super().close()
        if not self._off and not self.replays and self.recording.interactions:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(to_text(self._cleaned()), "utf-8")

    def _cleaned(self) -> Recording:
        """The recording without secrets; all that were seen are known only now."""
        cleaned = []
        for one in self.recording.interactions:
            response = {name: value for name, value in one.response.items() if name != "events"}
            response = self._secrets.value(response)
            if "events" in one.response:
                response["events"] = self._secrets.values(one.response["events"])
            cleaned.append(Interaction(self._secrets.value(one.request), response))
        return Recording(cleaned, self.recording.cluster_id)

    def problem(self) -> str:
        """What makes the test fail: requests that are not in the recording. "" if there are none."""
        return "\n".join([*self._problems, *self.flaw_sentences()])

    def journal(self) -> str:
        """What was recorded or replayed, for the report of a test that fails."""
        done = "replayed from" if self.replays else "recorded in"
        return (
            "" if self._off else f"{sum(one.used for one in self.recording.interactions)} requests {done} {self.path}"
        )

    def connection(self, app: str) -> LoopbackConnection:
        """Serves one connection."""
        return _RecordedConnection(self, app)

    def request_of(self, asked: Asked, app: str) -> dict[str, Any]:
        """A request as a recording has it."""
        if header := asked.headers.get("authorization", ""):
            self._secrets.add_authorization(header)
        request: dict[str, Any] = {"app": app} if app else {}
        return {**request, "method": asked.method, "path": asked.path, **content_of(asked.body)}

    def find(self, request: dict[str, Any]) -> Interaction | str:
        """The recorded answer to a request, or why there is none."""
        known = self._secrets.value(request)
        ignored = self.ignored | (_OF_AGENTS if "/invocations" in request["path"] else frozenset())
        found = self.recording.take(known, ignored)
        if found is None:
            self._problems.append(self.recording.misfit(known, ignored, str(self.path)))
            return self._problems[-1]
        return found

    def upstream(self, app: str) -> str:
        """Where a request goes on to."""
        return self._app_upstreams.get(app, self._upstream)

    def note_app(self, name: str, url: str) -> None:
        """Where an app really is."""
        self._app_upstreams[name] = url.rstrip("/")


class _RecordedConnection(LoopbackConnection):
    """One connection of a client that is recorded, or replayed."""

    def __init__(self, recorder: Recorder, app: str) -> None:
        super().__init__(recorder)
        self._recorder, self._app = recorder, app

    def _begin(self, asked: Asked) -> None:
        self._run_task(self._replay(asked) if self._recorder.replays else self._record(asked))

    async def _replay(self, asked: Asked) -> None:
        if asked.path.startswith(_UNRECORDED):
            self._transport.write(framed(200, JSON, answer_to(asked, {}, None).pieces[0]))
            return
        found = self._recorder.find(self._recorder.request_of(asked, self._app))
        if isinstance(found, str):
            body = json.dumps({"error_code": "NOT_RECORDED", "message": found, "detail": found}).encode()
            self._transport.write(framed(NOT_SCRIPTED, JSON, body))
            return
        response = found.response
        headers = [
            (name.encode(), str(value).encode("latin-1", "replace")) for name, value in response["headers"].items()
        ]
        if "events" not in response:
            await self._wait(response.get("seconds", 0.0))
            body = await self._with_own_address(asked, body_of(response))
            self._transport.write(framed(int(response["status"]), b"", body, headers))
            return
        self._transport.write(head(int(response["status"]), [*headers, (b"transfer-encoding", b"chunked")]))
        before = 0.0
        for event in response["events"]:
            await self._wait(event.get("at", 0.0) - before)
            before = event.get("at", 0.0)
            frame = frame_of(event)
            self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        if response.get("ends") == "cut":
            await asyncio.sleep(0.002)  # or a reset would discard what lies in the kernel
            self.close(reset=True)
        else:
            self._transport.write(b"0\r\n\r\n")

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds * self._recorder.pace))

    async def _record(self, asked: Asked) -> None:
        recorder = self._recorder
        began = time.monotonic()
        request = recorder.request_of(asked, self._app)
        answer = await forward(recorder.upstream(self._app), asked)
        seconds = round(time.monotonic() - began, 3)
        headers = kept_headers(answer.headers)
        response: dict[str, Any] = {"status": answer.status, "headers": headers, "seconds": seconds}
        if answer.reached and not asked.path.startswith(_UNRECORDED):
            recorder.recording.interactions.append(Interaction(request, response, used=True))
        if answer.streams:
            await self._pass_on(answer, response, began)
            return
        body = b"".join([piece async for piece in answer.pieces])
        response |= content_of(body)
        body = await self._with_own_address(asked, body)
        self._transport.write(framed(answer.status, b"", body, answer.headers))

    async def _pass_on(self, answer: ServerAnswer, response: dict[str, Any], began: float) -> None:
        """Send a stream on as it comes, and keep its events with their times."""
        self._transport.write(head(answer.status, [*answer.headers, (b"transfer-encoding", b"chunked")]))
        events, rest = response.setdefault("events", []), b""
        response["ends"] = "cut"  # until its end has come: the client may leave before
        try:
            async for piece in answer.pieces:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                frames, rest = split_frames(rest + piece)
                at = round(time.monotonic() - began, 3)
                events += [{"at": at, **event_of(frame)} for frame in frames]
        except (OSError, EOFError, h11.ProtocolError):
            await asyncio.sleep(0.002)  # or a reset would discard what lies in the kernel
            self.close(reset=True)
            return
        if rest:
            events.append({"at": round(time.monotonic() - began, 3), "text": rest.decode("utf-8", "replace")})
        del response["ends"]
        self._transport.write(b"0\r\n\r\n")

    async def _with_own_address(self, asked: Asked, body: bytes) -> bytes:
        """The description of an app, with an address of ours in the place of the app's: it is recorded as well."""
        if asked.method != "GET" or not asked.path.startswith(_APPS):
            return body
        name = asked.path.removeprefix(_APPS).partition("?")[0]
        try:
            described = json.loads(body)
            self._recorder.note_app(name, described["url"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return body
        return json.dumps({**described, "url": await self._recorder.app_url(name)}).encode()


def _workspace_address() -> str:
    """The workspace that is recorded.

    Raises:
        ValueError: the environment names none.
    """
    host = os.environ.get("DATABRICKS_HOST", "").strip().rstrip("/")
    if not host:
        raise ValueError(
            "there is nothing to record: set DATABRICKS_HOST (and a token), or ask for the fixture `workspace` before "
            "`recorded`, which runs a model on this machine."
        )
    host = host if "://" in host else f"https://{host}"
    parts = urlsplit(host)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@contextmanager
def recording(path: str | Path, mode: RecordMode = "once", *, pace: float = 0.0) -> Iterator[Recorder]:
    """Record the requests of a block in a file, or replay them from it.

    Args:
        path: of the file; JSON.
        mode: "once" replays the file, or records it where there is none; "replay" never records; "none" does neither.
        pace: how fast replayed answers are: 0 at once, 1 as they were recorded.

    Raises:
        ValueError: the file is no recording, is missing in the mode "replay", or no workspace is there to be recorded.
        AssertionError: at the end of the block, if a request was not in the recording.
    """
    recorder = Recorder(Path(path), mode, pace=pace)
    recorder.start()
    try:
        with workspace_environment(*recorder.environment):
            yield recorder
    finally:
        recorder.close()
    if recorder.problem():
        raise AssertionError(recorder.problem())
