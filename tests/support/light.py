"""A local workspace without its models, for tests of auth. Run as a program, it serves in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from dbllm.local.access.oauth import TOKEN, Oidc
from dbllm.local.app import create_workspace_app
from dbllm.local.http.server import WebServer, listen
from dbllm.local.storage.identity import new_identity

PRINCIPAL = "0b1d9b6a-principal"
SECRET = "dose-canary-client-secret"


class Counting:
    """Counts token requests, also those at the same time; can delay them or answer in their place."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.count, self.flying, self.peak = app, 0, 0, 0
        self.delay = 0.0
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope.get("path", ""))
        if scope.get("path") != TOKEN:
            await self.app(scope, receive, send)
            return
        self.count, self.flying = self.count + 1, self.flying + 1
        self.peak = max(self.peak, self.flying)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            await self.app(scope, receive, send)
        finally:
            self.flying -= 1


class Light:
    """A local workspace without its models, for tests of auth."""

    def __init__(self, token_seconds: float = 3600.0, subjects: frozenset[str] = frozenset()) -> None:
        self.identity = new_identity()
        self.oidc = Oidc({PRINCIPAL: SECRET}, token_seconds, subjects)
        engine: Any = SimpleNamespace(name="none")
        vectors: Any = None
        self.tokens = Counting(create_workspace_app(engine, vectors, self.identity, oidc=self.oidc))
        sock = listen("127.0.0.1", 0, hint="")
        self.host = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._server = WebServer(self.tokens, sock)
        self._server.start()

    @property
    def principal(self) -> dict[str, str]:
        """The arguments for a client that calls as the service principal."""
        return {"host": self.host, "client_id": PRINCIPAL, "client_secret": SECRET}

    def stop(self) -> None:
        self._server.stop()


def main(token_seconds: float, delay: float) -> None:
    """Serve until the standard input ends; print the address at the start and the token requests at the end."""
    workspace = Light(token_seconds=token_seconds)
    workspace.tokens.delay = delay
    print(json.dumps({"host": workspace.host, "token": workspace.identity.token}), flush=True)
    sys.stdin.read()
    workspace.stop()
    print(json.dumps({"count": workspace.tokens.count, "peak": workspace.tokens.peak}), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
