"""Agent endpoints, task agent/v2/chat: messages in, messages out, as MLflow's ChatAgent has them.

The agent is the chat model itself, without tools of its own. MLflow's scoring server hands an agent `messages`,
`context` and `custom_inputs` and drops the rest (mlflow 3.18: ChatAgentRequest); this agent takes `max_tokens` and
`temperature` from `custom_inputs`, which come back as `custom_outputs`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from dbllm.local.errors import bad_request
from dbllm.local.http.asgi import Emit, decode_json
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.requests import TextRequest, read_chat
from dbllm.local.invocation.responses import Accumulator
from dbllm.local.invocation.task import Task
from dbllm.local.json_values import Json, json_type

MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id")
FOLLOWED = ("max_tokens", "temperature")
"""What the agent takes from `custom_inputs`."""


@dataclass(frozen=True, slots=True)
class ChatAgentRequest:
    """A request: what it asks of the chat model, and what its answer repeats."""

    wanted: TextRequest
    custom_inputs: Mapping[str, object] | None

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        return self.wanted.stream

    @property
    def echoed(self) -> Json:
        """What the answer repeats."""
        return {} if self.custom_inputs is None else {"custom_outputs": self.custom_inputs}


class ChatAgentTask(Task[ChatAgentRequest]):
    """agent/v2/chat."""

    def read(self, request: Request, body: bytes) -> ChatAgentRequest:
        return read_chat_agent(decode_json(body))

    async def answer(self, models: LocalModels, model: str, wanted: ChatAgentRequest) -> Json:
        made = await models.accumulate(wanted.wanted.jobs)
        message = {"role": "assistant", "content": made.text(0), "id": str(uuid.uuid4())}
        ending = {"finish_reason": made.finish_reasons[0] or "stop", "usage": _chat_usage(made)}
        return {"messages": [message], **ending, **wanted.echoed}

    async def stream(self, models: LocalModels, model: str, wanted: ChatAgentRequest, emit: Emit) -> None:
        made, identity = Accumulator(1), str(uuid.uuid4())
        async with models.generate(wanted.wanted.jobs) as pieces:
            async for piece in pieces:
                made.add(piece)
                chunk: Json = {"delta": {"role": "assistant", "content": piece.text, "id": identity}}
                if piece.finish_reason:
                    chunk |= {"finish_reason": piece.finish_reason, "usage": _chat_usage(made), **wanted.echoed}
                await emit(chunk)


def read_chat_agent(body: object) -> ChatAgentRequest:
    """An agent's request.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(body, dict):
        raise bad_request(f"json: cannot unmarshal {json_type(body)} into a request object")
    messages, custom_inputs = body.get("messages"), body.get("custom_inputs")
    if messages is None:
        instead = "an agent of task agent/v2/chat takes 'messages', not 'input'"
        raise bad_request(instead if "input" in body else "missing required field 'messages'")
    for name in ("context", "custom_inputs"):
        if not isinstance(body.get(name) or {}, dict):
            raise bad_request(f"field '{name}' must be an object, got {json_type(body[name])}")
    if not isinstance(body.get("stream") or False, bool):
        raise bad_request(f"field 'stream' must be true or false, got {json_type(body['stream'])}")
    read = messages
    if isinstance(messages, list):
        read = [
            {name: one[name] for name in MESSAGE_FIELDS if one.get(name) is not None} if isinstance(one, dict) else one
            for one in messages
        ]
    followed = {name: custom_inputs[name] for name in FOLLOWED if name in custom_inputs} if custom_inputs else {}
    chat: Json = {"messages": read, "stream": body.get("stream") or False, **followed}
    return ChatAgentRequest(read_chat(chat), custom_inputs)


def _chat_usage(made: Accumulator) -> Json:
    """Without the details, which ChatUsage does not have."""
    return {name: count for name, count in made.usage().items() if name.endswith("_tokens")}
