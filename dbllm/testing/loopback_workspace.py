"""A workspace on loopback, in a thread: what `scripted` and `recorded` are made of."""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from dbllm.testing.connection import LoopbackConnection
from dbllm.testing.fault_plans import FaultPlan
from dbllm.testing.loopback import LoopbackThread
from dbllm.testing.server import ServerSettings

_BACKLOG = 1024


class WorkspaceAddress:
    """Where a workspace is, for the clients of all libraries.

    Attributes:
        host: its address, for any client.
        token: opens it, as any other does.
    """

    host: str
    token: str

    @property
    def openai_base_url(self) -> str:
        """The `base_url` for OpenAI's clients; the model's name is the endpoint's."""
        return f"{self.host}/serving-endpoints"

    @property
    def anthropic_base_url(self) -> str:
        """The `base_url` for Anthropic's clients; pass `auth_token=` the token."""
        return f"{self.host}/serving-endpoints/anthropic"

    @property
    def env(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return {
            "DATABRICKS_HOST": self.host,
            "DATABRICKS_TOKEN": self.token,
            "DATABRICKS_CLUSTER_ID": "0000-000000-scripted",
        }


class LoopbackWorkspace(WorkspaceAddress, ABC):
    """A server at a port of its own; each app has a further one.

    Attributes:
        settings: seconds of faults, as `fault_server` has them.
    """

    def __init__(self) -> None:
        self.host, self.token = "", f"loopback-{secrets.token_hex(8)}"
        self.settings = ServerSettings()
        self.connections: set[LoopbackConnection] = set()
        self.accepted = 0
        self.flaws: list[str] = []
        self._thread = LoopbackThread(self._serve, "loopback workspace")
        self._apps: dict[str, str] = {}
        self._servers: list[asyncio.AbstractServer] = []

    @abstractmethod
    def connection(self, app: str) -> LoopbackConnection:
        """Serves one connection, to the workspace or to an app."""

    def is_own(self, address: str) -> bool:
        """Whether it is an address of this server."""
        return address == self.host or address in self._apps.values()

    def flaw_sentences(self) -> list[str]:
        """Errors of this server, for the test: its client has seen a connection that broke."""
        return [f"The server of this test failed, and ended a connection: {flaw}." for flaw in self.flaws]

    def start(self) -> None:
        """Listen."""
        self.host = f"http://127.0.0.1:{self._thread.start()}"

    def close(self) -> None:
        """End the server and all its connections."""
        self._thread.close()

    async def _serve(self, stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        listening(await self._listen(""))
        try:
            await stop.wait()
        finally:
            for server in self._servers:
                server.close()
            for connection in tuple(self.connections):
                connection.close(reset=True)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _listen(self, app: str) -> int:
        """Listen at a further port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: self.connection(app), "127.0.0.1", 0, backlog=_BACKLOG)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def app_url(self, name: str) -> str:
        """The address of an agent's app: each has a port of its own."""
        if name not in self._apps:
            self._apps[name] = f"http://127.0.0.1:{await self._listen(name)}"
        return self._apps[name]

    def plan(self, nonce: str) -> FaultPlan:
        """Faults belong to answers here, so none is planned before a request has been read."""
        return FaultPlan(None, 0.0)


@contextmanager
def workspace_environment(variables: Mapping[str, str], keep: bool = False) -> Iterator[None]:
    """Set variables until the end of the block, and remove all others that begin with DATABRICKS_, or `keep` them."""
    names = [name for name in os.environ if name in variables or (name.startswith("DATABRICKS_") and not keep)]
    before = {name: os.environ.pop(name) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)
