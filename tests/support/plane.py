"""The control plane of a workspace in this process, without a socket, on a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from dbllm.local.app import create_workspace_app
from dbllm.local.http.origins import Origins
from dbllm.local.http.server import WebServer, listen
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine
from dbllm.local.options import Options
from dbllm.local.storage.identity import Identity
from dbllm.local.storage.store import Store

OWNER = "owner"
IDENTITY = Identity(token=OWNER, cluster_id="0101-000000-abcdefgh", workspace_id="1", created_ms=1)
ENDPOINTS = "/api/2.0/serving-endpoints"
SECRETS = "/api/2.0/secrets"


class Plane:
    """Calls of the workspace's APIs; `at` is its clock, in seconds."""

    def __init__(
        self, engine: Engine, store: Store | None = None, origins: Origins | None = None, **options: Any
    ) -> None:
        self.at = 1_700_000_000.0
        chosen = Options(**{"deploy_seconds": 10.0, "now": lambda: self.at, **options})
        self.app = create_workspace_app(engine, Vectors(), IDENTITY, store=store, options=chosen, origins=origins)

    def answer(self, method: str, path: str, json: object = None, token: str = OWNER, **more: Any) -> httpx.Response:
        """Any response."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            headers = {"authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://w", headers=headers) as client:
                return await client.request(method, path, json=json, **more)

        return asyncio.run(ask())

    def do(self, method: str, path: str, json: object = None, token: str = OWNER) -> Any:
        """The JSON of a success."""
        answer = self.answer(method, path, json, token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, method: str, path: str, json: object = None, token: str = OWNER) -> tuple[int, str, str]:
        """Status, error code and message of a refusal."""
        answer = self.answer(method, path, json, token)
        told: Mapping[str, Any] = answer.json()
        return answer.status_code, told["error_code"], told["message"]

    def somebody(self, name: str, *, service: bool = False) -> str:
        """The token of a new principal who is not an admin."""
        self.do("POST", "/api/local/principals", {"name": name, "service": service})
        token: str = self.do("POST", "/api/local/tokens", {"principal": name})["token_value"]
        return token


class ServedPlane(Plane):
    """The same on sockets, for what outlives a call: the workspace runs on one event loop.

    Attributes:
        host: its URL.
        origins: those of the agent's app and of route-optimized endpoints.
    """

    def __init__(self, engine: Engine, **options: Any) -> None:
        sockets = [listen("127.0.0.1", 0, hint="") for _ in range(3)]
        self.host, *others = (f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in sockets)
        self.origins = Origins(*others)
        super().__init__(engine, origins=self.origins, **options)
        self._server = WebServer(self.app, sockets[0], more=sockets[1:])
        self._http = httpx.Client(base_url=self.host, timeout=60, trust_env=False)

    def __enter__(self) -> ServedPlane:
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()
        self._server.stop()

    def answer(self, method: str, path: str, json: object = None, token: str = OWNER, **more: Any) -> httpx.Response:
        return self._http.request(method, path, json=json, headers={"authorization": f"Bearer {token}"}, **more)

    def login(self, name: str) -> str:
        """An OAuth token of a service principal who is not an admin."""
        made = self.do("POST", "/api/local/principals", {"name": name})
        return str(self.token(auth=(name, made["client_secret"]), grant_type="client_credentials")["access_token"])

    def token(self, auth: tuple[str, str] | None = None, status: int = 200, **form: str) -> Any:
        """What the token endpoint answers."""
        answer = self._http.post("/oidc/v1/token", data={"scope": "all-apis", **form}, auth=auth)
        assert answer.status_code == status, answer.text
        return answer.json()


def own(name: str = "", entity: str = "local.default.dolly", **more: Any) -> dict[str, Any]:
    """A served entity on the workspace's own model."""
    return {**({"name": name} if name else {}), "entity_name": entity, "entity_version": "1", **more}


def external(name: str = "gpt", provider: str = "openai", **settings: str) -> dict[str, Any]:
    """A served entity on an external model."""
    config = settings or {"openai_api_key_plaintext": "sk-hidden"}
    model = {"provider": provider, "name": "gpt-4", "task": "llm/v1/chat", f"{provider}_config": config}
    return {"name": name, "external_model": model}


def config(*entities: dict[str, Any], shares: list[int] | None = None) -> dict[str, Any]:
    """A core config."""
    made: dict[str, Any] = {"served_entities": list(entities)}
    if shares:
        pairs = zip(entities, shares, strict=True)
        made["traffic_config"] = {
            "routes": [{"served_model_name": one["name"], "traffic_percentage": share} for one, share in pairs]
        }
    return made
