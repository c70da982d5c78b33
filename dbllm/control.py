"""What the rooms of the control plane share: a REST call, and its answer as a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .prompt import Options, ReplyT, reply_of
from .schema import Reply
from .transport import JSON, Answer, Transport

FOREVER = float("inf")


class Control:
    """One area of the workspace's REST interface. Making one sends nothing; its calls have the client's options."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self._transport = transport
        self._options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.host!r})"

    async def _ask(
        self, method: str, path: str, body: object = None, *, accept: str = JSON, deadline: float = FOREVER
    ) -> Answer:
        """One call, over before `deadline` on the leaf's clock."""
        call = self._options.call(self._transport, method, path, body, accept)
        return await self._transport.call(replace(call, deadline=min(call.deadline, deadline)))

    async def _reply(
        self, model: type[ReplyT], method: str, path: str, body: object = None, *, deadline: float = FOREVER
    ) -> ReplyT:
        """What one call is answered with, as a model."""
        return reply_of(model, await self._ask(method, path, body, deadline=deadline))


def content_of(reply: Reply) -> dict[str, Any]:
    """The whole JSON object of an answer."""
    return reply.model_dump(mode="json", exclude_unset=True)
