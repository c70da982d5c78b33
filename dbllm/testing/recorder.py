"""Records what a test sends to a real workspace and gets from it, and replays it where there is no workspace.

    with recording("recordings/hello.json") as recorded, Client() as client:
        print(client.endpoint("smollm2-chat").chat("hello").text)

What dbllm's clients of this process send is seen where they send it, so any client can be recorded. For clients of
others a server on loopback stands before the workspace of DATABRICKS_HOST. Where the file exists, that server answers
all of them from it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import h11
import httpx

from dbllm.testing.connection import LoopbackConnection, framed, head
from dbllm.testing.loopback_workspace import LoopbackWorkspace, workspace_environment
from dbllm.testing.model_answers import JSON, Asked, answer_to
from dbllm.testing.own_clients import moved_clients, recorded_clients
from dbllm.testing.recorded_secrets import SecretRemover, secrets_in_environment
from dbllm.testing.recordings import (
    Interaction,
    RecordedStream,
    Recording,
    body_of,
    content_of,
    frame_of,
    from_text,
    kept_headers,
    to_text,
)
from dbllm.testing.script import NOT_SCRIPTED
from dbllm.testing.upstream import ServerAnswer, forward

RecordMode = Literal["once", "replay", "none"]
"""once: replay the file, or record it where there is none; replay: never record; none: neither, call the workspace."""

IGNORED = frozenset({"client_request_id"})
"""Fields of a body that are not compared."""

_OF_AGENTS = frozenset({"id"})  # of a run: the client makes a new one each time
_BROKEN = (OSError, EOFError, h11.ProtocolError, httpx.TransportError)
_UNRECORDED = ("/oidc/", "/.well-known/", "/login")  # what they answer is a credential, or leads to one
_APPS = "/api/2.0/apps/"
_APP_HOSTS = ".databricksapps.com"
_NOTHING_SENT = (
    "nothing was recorded: no client of dbllm in this process has had an answer, and no other client has called the "
    "workspace of DATABRICKS_HOST."
)


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
        self._named: str | None = None
        self._upstream, self._app_upstreams = "", dict[str, str]()
        self.recording = Recording()
        self._asked = False  # whether a client of others was answered
        if self._off:
            self.replays = False
        elif self.replays:
            self.recording = self._read()
        else:
            self._named = os.environ.get("DATABRICKS_HOST") or None
            self._upstream = _workspace_address(self._named)
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
        return ({"DATABRICKS_HOST": self.host} if self._upstream else {}), True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record or replay until the end of the block, and write the file then."""
        self.start()
        try:
            with workspace_environment(*self.environment):
                if self._off:
                    yield
                elif self.replays:
                    cluster_id = os.environ["DATABRICKS_CLUSTER_ID"]
                    with moved_clients(self.host, self.token, cluster_id, self.is_own, self._app_address):
                        yield
                else:
                    with recorded_clients(self, self.host, self._named):
                        yield
        finally:
            self.close()

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
        """What makes the test fail: requests that are not in the recording, or that nothing was recorded."""
        if not self._off and not self.replays and not self.recording.interactions and not self._asked:
            return _NOTHING_SENT
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
        for name, value in asked.headers.items():
            self.note_credential(name, value)
        request: dict[str, Any] = {"app": app} if app else {}
        return {**request, "method": asked.method, "path": asked.path, **content_of(asked.body)}

    def note_credential(self, name: str, value: str) -> None:
        """Take a request's credential out of the recording."""
        if name in ("authorization", "proxy-authorization"):
            self._secrets.add_authorization(value)
        elif name in ("cookie", "x-api-key", "api-key"):
            self._secrets.add(value)

    def record(self, asked: Asked, origin: str, status: int, headers: Mapping[str, str]) -> dict[str, Any]:
        """Keep a request of dbllm's own clients, and the head of its answer; what is returned takes the rest."""
        known = kept_headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()])
        response: dict[str, Any] = {"status": status, "headers": known, "seconds": 0.0}
        if not asked.path.startswith(_UNRECORDED):
            request = self.request_of(asked, self._app_at(origin))
            self.recording.interactions.append(Interaction(request, response, used=True))
        return response

    def _app_at(self, origin: str) -> str:
        """The app that is at an address: by its name, where a client has looked it up; "" if it is none."""
        for one in self.recording.interactions:
            body = one.response.get("body")
            path = str(one.request["path"])
            if path.startswith(_APPS) and isinstance(body, dict) and str(body.get("url", "")).rstrip("/") == origin:
                return path.removeprefix(_APPS).partition("?")[0]
        name = urlsplit(origin).hostname or ""
        return name if name.endswith(_APP_HOSTS) else ""

    def _app_address(self, url: str) -> str | None:
        """Where an app is answered in a replay; None if none was recorded at this address."""
        name = urlsplit(url).hostname or ""
        if any(one.request.get("app") == name for one in self.recording.interactions):
            return self._thread.run(self.app_url(name))
        return None

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
            if response.get("ends") == "cut":
                await self._cut(int(response["status"]), headers, body_of(response))
                return
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
        recorder._asked = True
        answer = await forward(recorder.upstream(self._app), asked)
        seconds = round(time.monotonic() - began, 3)
        headers = kept_headers(answer.headers)
        response: dict[str, Any] = {"status": answer.status, "headers": headers, "seconds": seconds}
        if answer.reached and not asked.path.startswith(_UNRECORDED):
            recorder.recording.interactions.append(Interaction(request, response, used=True))
        if answer.streams:
            await self._pass_on(answer, response, began)
            return
        body = b""
        try:
            async for piece in answer.pieces:
                body += piece
        except _BROKEN:
            response |= {**content_of(body), "ends": "cut"}
            await self._cut(answer.status, answer.headers, body)
            return
        response |= content_of(body)
        body = await self._with_own_address(asked, body)
        self._transport.write(framed(answer.status, b"", body, answer.headers))

    async def _pass_on(self, answer: ServerAnswer, response: dict[str, Any], began: float) -> None:
        """Send a stream on as it comes, and keep its events with their times."""
        self._transport.write(head(answer.status, [*answer.headers, (b"transfer-encoding", b"chunked")]))
        stream = RecordedStream(response, began)
        try:
            async for piece in answer.pieces:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                stream.feed(piece)
        except _BROKEN:
            await asyncio.sleep(0.002)  # or a reset would discard what lies in the kernel
            self.close(reset=True)
            return
        stream.end()
        self._transport.write(b"0\r\n\r\n")

    async def _cut(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer whose end never comes."""
        length = (b"content-length", b"%d" % (2 * len(body) + 1))
        self._transport.write(head(status, [*headers, length]) + body)
        await asyncio.sleep(0.002)
        self.close(reset=True)

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


def _workspace_address(host: str | None) -> str:
    """The workspace that clients of others are recorded with; "" if the environment names none."""
    host = (host or "").strip().rstrip("/")
    if not host:
        return ""
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
        ValueError: the file is no recording, or is missing in the mode "replay".
        AssertionError: at the end of the block, if a request was not in the recording, or there was none to record.
    """
    recorder = Recorder(Path(path), mode, pace=pace)
    with recorder.running():
        yield recorder
    if recorder.problem():
        raise AssertionError(recorder.problem())
