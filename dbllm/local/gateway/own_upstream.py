"""The workspace's own model behind OpenAI's wire format, with a key of its own: an upstream for the gateway.

    /upstream/openai/v1/{models, chat/completions, completions, embeddings, responses}

It makes secret → gateway → provider's wire → model real on a machine without a network. The model's name in a request
may be any (the answer names the model that spoke); the key is checked, as OpenAI checks it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dbllm.local.errors import Problem
from dbllm.local.http.asgi import read_body
from dbllm.local.invocation.limits import FOUNDATION_BODY
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.own_models import invoke
from dbllm.local.management.catalog import FOUNDATION, Endpoint
from dbllm.local.model.embeddings import VECTORS_NAME as VECTORS

UPSTREAM_PATH = "/upstream/openai/v1"
UPSTREAM_TASKS = {
    "chat/completions": "llm/v1/chat",
    "completions": "llm/v1/completions",
    "embeddings": "llm/v1/embeddings",
    "responses": "agent/v1/responses",
}
ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
}


class Upstream:
    """OpenAI's endpoints for the workspace's models.

    Args:
        models: who answers.
        key: the API key that opens it.
    """

    def __init__(self, models: LocalModels, key: str) -> None:
        self._key = key.encode()
        self._models = models

    def routes(self) -> list[Route]:
        """The routes; what they refuse is said in OpenAI's form, so nothing in front may ask for another credential."""
        return [Route(f"{UPSTREAM_PATH}/{{rest:path}}", _Answer(self))]

    async def answer(self, request: Request) -> Response:
        """The answer to one request.

        Raises:
            Problem: what is wrong with it.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode("latin-1"), self._key):
            raise Problem(401, "invalid_api_key", "Incorrect API key provided.")
        path = request.path_params["rest"]
        if path == "models" and request.method == "GET":
            return JSONResponse(
                {"object": "list", "data": [_model(name) for name in (self._models.engine.name, VECTORS)]}
            )
        task = UPSTREAM_TASKS.get(path)
        if task is None or request.method != "POST":
            raise Problem(404, "unknown_url", f"Invalid URL ({request.method} {UPSTREAM_PATH}/{path})")
        name = VECTORS if task == "llm/v1/embeddings" else self._models.engine.name
        endpoint = Endpoint("upstream", task, FOUNDATION, "upstream", name, "")
        return await invoke(request, endpoint, self._models, await read_body(request, FOUNDATION_BODY))


class _Answer:
    """ASGI around `Upstream.answer`: errors in OpenAI's form. An instance, so that the route takes every method."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._upstream.answer(request)
            await response(scope, request.receive, send)
        except Problem as problem:
            kind = ERROR_TYPES.get(problem.status, "server_error")
            error = {"message": problem.message, "type": kind, "param": None, "code": problem.error_code}
            refused = JSONResponse({"error": error}, problem.status, problem.headers)
            await refused(scope, receive, send)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dbllm"}
