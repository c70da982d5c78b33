"""One process, several origins: what else a workspace serves, each at a port of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins beside the workspace's own, as URLs; "" is none.

    Attributes:
        agent_app: of the agent's app.
        data_plane: of route-optimized endpoints.
    """

    agent_app: str = ""
    data_plane: str = ""


class ByPort:
    """ASGI: the app of the port at which a request came in.

    Args:
        app: of every other port; it gets the lifespan.
        others: by their origin.
    """

    def __init__(self, app: ASGIApp, others: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._others = {urlsplit(origin).port: other for origin, other in others.items() if origin}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server") if scope["type"] == "http" else None
        app = self._others.get(server[1], self._app) if server else self._app
        await app(scope, receive, send)
