"""A workspace whose models answer what a test writes: on loopback, in a thread, without a model.

from dbllm import Client
from dbllm.testing import scripted_workspace

with scripted_workspace() as scripted, Client() as client:
    scripted.reply("Hello!")
    assert client.endpoint("any").chat("hi").text == "Hello!"
    scripted.assert_called_once(endpoint="any", prompt="hi")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from dbllm.testing.connection import LoopbackConnection, framed, head
from dbllm.testing.fault_plans import FAULT_STATUSES, FaultName, FaultPlan, plan_request
from dbllm.testing.loopback_workspace import LoopbackWorkspace, workspace_environment
from dbllm.testing.model_answers import Asked
from dbllm.testing.own_clients import is_here, moved_clients
from dbllm.testing.resilience_faults import Hit
from dbllm.testing.scripted_models import ScriptedModels
from dbllm.testing.upstream import ServerAnswer, one_piece
from dbllm.testing.wire_answers import WireAnswer


class Scripted(ScriptedModels, LoopbackWorkspace):
    """The workspace on loopback; `scripted_workspace` and the fixture `scripted` make one.

    Attributes:
        host, token: for clients that do not find it by the environment.
        settings: seconds of faults, as `fault_server` has them.
    """

    def __init__(self) -> None:
        ScriptedModels.__init__(self)
        LoopbackWorkspace.__init__(self)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Listen until the end of the block; clients find it by the environment, and dbllm's own in any case."""
        self.start()
        try:
            with workspace_environment(self.env):
                cluster_id = self.env["DATABRICKS_CLUSTER_ID"]
                with moved_clients(self.host, self.token, cluster_id, is_here, self._app_address):
                    yield
        finally:
            self.close()

    def _app_address(self, url: str) -> str | None:
        """Where an app is answered that a client knows by its address."""
        name, _, domain = (urlsplit(url).hostname or "").partition(".")
        return self._thread.run(self.app_url(name)) if domain.endswith("databricksapps.com") else None

    def connection(self, app: str) -> LoopbackConnection:
        """Serves one connection."""
        return _ScriptedConnection(self, app)

    @contextmanager
    def scope(self) -> Iterator[Scripted]:
        """Another workspace, with its own answers, journal and address, for one of several tasks that run at once.

        The environment stays as it is: pass `host` and `token` of the scope to the task's client.
        """
        inner = Scripted()
        inner.settings = self.settings
        inner.start()
        try:
            yield inner
        finally:
            inner.close()
            self._script.problems += inner._script.problems + inner.flaw_sentences()

    def problem(self) -> str:
        """What makes the test fail: calls that no answer was written for, and errors of this server."""
        return "\n".join([*self._script.told_problems(), *self.flaw_sentences()])

    def respond(self, asked: Asked, app: str, app_url: str = "") -> WireAnswer:
        """The answer to a request; `app_url` is the address of the app that it asks for."""
        self._script.pause = self.settings.pause
        return self._script.respond(asked, app, app_url)

    def interfere(self, hit: Hit | None, now: Callable[[], float]) -> Callable[[], int]:
        """Let faults of `assert_resilient` hit calls; see `Script.interfere`."""
        return self._script.interfere(hit, now)

    def draw(self, fault: FaultName) -> FaultPlan:
        """Where a fault hits."""
        return FaultPlan(fault, plan_request(self._script.seed, f"{fault} {len(self.requests)}", 1, {}).draw)

    async def wait(self, seconds: float) -> None:
        """Let time pass: in reality, or on the test's clock."""
        if self.clock is not None:
            self.clock.advance(seconds)
        elif seconds:
            await asyncio.sleep(seconds)


class _ScriptedConnection(LoopbackConnection):
    """One connection to the scripted workspace, or to one of its apps."""

    def __init__(self, scripted: Scripted, app: str) -> None:
        super().__init__(scripted)
        self._scripted, self._app = scripted, app

    def _begin(self, asked: Asked) -> None:
        path = asked.path.partition("?")[0]
        self._served += 1
        if asked.method == "GET" and path.startswith("/api/2.0/apps/"):
            self._run_task(self._describe_app(asked, path.rpartition("/")[2]))
            return
        made = self._scripted.respond(asked, self._app)
        if made.fault is None and not made.streams and not made.delay and made.ending == "whole":
            self._transport.write(framed(made.status, b"", made.body, _headers(made)))
        else:
            self._run_task(self._answer_slowly(made))

    async def _describe_app(self, asked: Asked, name: str) -> None:
        made = self._scripted.respond(asked, self._app, await self._scripted.app_url(name))
        self._transport.write(framed(made.status, b"", made.body, _headers(made)))

    async def _answer_slowly(self, made: WireAnswer) -> None:
        wait, headers = self._scripted.wait, _headers(made)
        if made.fault is not None and not (made.fault == "reset_kept" and self._served == 1):
            await self._break(made, made.fault, headers)
        elif made.streams:
            self._transport.write(head(made.status, [*headers, (b"transfer-encoding", b"chunked")]))
            for seconds, frame in made.frames:
                await wait(seconds)
                self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
                await asyncio.sleep(0)
            if made.ending == "whole":
                self._transport.write(b"0\r\n\r\n")
            else:
                await self._end(made)
        else:
            await wait(made.delay)
            if made.ending == "whole":
                self._transport.write(framed(made.status, b"", made.body, headers))
                return
            length = (b"content-length", b"%d" % (2 * len(made.body)))
            self._transport.write(head(made.status, [*headers, length]) + made.body)
            await self._end(made)

    async def _break(self, made: WireAnswer, fault: FaultName, headers: list[tuple[bytes, bytes]]) -> None:
        """What the fault server does to such an answer."""
        plan = self._scripted.draw(fault)
        if fault in FAULT_STATUSES:
            self._refuse(plan)
        elif fault == "reset_kept":
            self.close(reset=True)
        else:
            body = made.body or b"".join(frame for _, frame in made.frames)
            whole = ServerAnswer(made.status, headers, made.streams, one_piece(body))
            await self._misbehave(plan, whole, body)

    async def _end(self, made: WireAnswer) -> None:
        """End an answer before its end."""
        if made.ending == "stall":
            await asyncio.sleep(self._scripted.settings.stall)
        else:
            await asyncio.sleep(0.002)  # or a reset would discard what lies in the kernel
        self.close(reset=made.ending != "cut")


def _headers(made: WireAnswer) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), str(value).encode()) for name, value in made.headers.items()]


@contextmanager
def scripted_workspace() -> Iterator[Scripted]:
    """A workspace whose models answer what the test writes.

    Inside the block every client of dbllm uses it, whatever it is configured with (a profile, a host, OAuth, a proxy),
    but those that get a host on this machine. The environment's DATABRICKS_* variables are set until its end, so that
    clients of others use it, too.

    Raises:
        AssertionError: at the end of the block, if there was a call that no answer was written for.
    """
    scripted = Scripted()
    with scripted.running():
        yield scripted
    if scripted.problem():
        raise AssertionError(scripted.problem())
