"""The AI gateway: a second door to the models, where `model` in the body names a model service.

    /ai-gateway/mlflow/v1/{chat/completions, embeddings, responses}
    /ai-gateway/openai/v1/{chat/completions, embeddings, responses}
    /ai-gateway/anthropic/v1/messages

Whoever has EXECUTE on the service may call. What answers is the same as behind a serving endpoint: limits, metrics and
faults go by the service's name.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbllm.local.errors import Problem, bad_request
from dbllm.local.gateway.messages import read_messages
from dbllm.local.http.asgi import decode_json, read_body
from dbllm.local.invocation.limits import FOUNDATION_BODY
from dbllm.local.invocation.messages_wire import MESSAGES, MessagesResponse
from dbllm.local.management.endpoint_record import Record
from dbllm.local.management.model_services import ModelServiceRules, as_endpoint, service_name
from dbllm.local.management.served_entity import Entity
from dbllm.local.management.service_record import need_privilege
from dbllm.local.management.services import Services

AI_GATEWAY = "/ai-gateway"
GATEWAY_TASKS: Mapping[str, str] = {
    "chat/completions": "llm/v1/chat",
    "embeddings": "llm/v1/embeddings",
    "responses": "agent/v1/responses",
}
"""End of a path → the task that is answered there."""

Answer = Callable[[Request, Record, Sequence[Entity], bytes], Awaitable[Response]]


class AiGateway:
    """Calls of model services.

    Args:
        services: the model services.
        rules: know where their calls go.
        draw: splits the traffic.
        answer: makes the answer of one of some served entities.
    """

    def __init__(self, services: Services, rules: ModelServiceRules, draw: Random, answer: Answer) -> None:
        self._services = services
        self._rules = rules
        self._draw = draw
        self._answer = answer

    def routes(self) -> list[Route]:
        """The paths of the gateway's unified API and of OpenAI's own."""
        paths = [f"{AI_GATEWAY}/{api}/v1/{path}" for api in ("mlflow", "openai") for path in GATEWAY_TASKS]
        made = [Route(path, self.call, methods=["POST"]) for path in paths]
        return [*made, Route(f"{AI_GATEWAY}/{MESSAGES}", self.messages, methods=["POST"])]

    async def call(self, request: Request) -> Response:
        """One call; the path says which API type it is of."""
        api_type = request.url.path.removeprefix(f"{AI_GATEWAY}/")
        task = GATEWAY_TASKS[api_type.split("/", 2)[2]]
        body = await read_body(request, FOUNDATION_BODY)
        return await self.answer(request, api_type, task, body)

    async def messages(self, request: Request) -> Response:
        """One call on Anthropic's wire."""
        chat = read_messages(decode_json(await read_body(request, FOUNDATION_BODY)))
        return MessagesResponse(await self.answer(request, MESSAGES, "llm/v1/chat", json.dumps(chat).encode()))

    async def answer(self, request: Request, api_type: str, task: str, body: bytes) -> Response:
        """The answer to a request of `task`, whose body has been read.

        Raises:
            Problem: whatever goes wrong before its first byte.
        """
        decoded = decode_json(body)
        name = decoded.get("model") if isinstance(decoded, dict) else None
        if not isinstance(name, str) or not name:
            raise bad_request("missing required field 'model': the name of a model service, as system.ai.smollm2-chat")
        service = self._services.get(service_name(name)) or self._services.find(name)
        need_privilege(service, request.scope["dbllm.caller"], "EXECUTE", self._services.securable)
        chosen = self._rules.routed(service, api_type, task, self._draw)
        return await self._answer(request, as_endpoint(service, task), chosen, body)


async def feature_disabled(_request: Request) -> Response:
    """Whatever is asked of a gateway that the workspace does not have."""
    raise Problem(404, "FEATURE_DISABLED", "AI Gateway is not available for this workspace.")
