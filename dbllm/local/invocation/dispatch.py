"""One invocation of an endpoint: when its turn comes, whom to ask, whom next, and what is counted."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dbllm.local.errors import Problem
from dbllm.local.http.asgi import until_gone
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.own_models import invoke
from dbllm.local.management import endpoint_record, rate_limits
from dbllm.local.management.catalog import Endpoint
from dbllm.local.management.endpoint_record import Record
from dbllm.local.management.metrics import Metrics
from dbllm.local.management.served_entity import CustomModels, Entity, ExternalModels, Kind, order

AT_ONCE = 256
"""Invocations that are worked on at the same time. Further ones wait."""


class Dispatch:
    """Sends invocations to whoever answers for a served entity.

    Args:
        models: answer for the workspace's own models.
        own: these models, by entity name.
        gateway: answers for external models.
        customs: answers for custom models.
        metrics: counts the answers.
        spend: counts tokens of an answer against counters.
        remember: keeps the counters.
        seed: makes the split of the traffic repeatable.
        at_once: how many invocations are worked on at the same time.
    """

    def __init__(
        self,
        models: LocalModels,
        own: Mapping[str, Endpoint],
        gateway: ExternalModels,
        customs: CustomModels,
        metrics: Metrics,
        spend: Callable[[Sequence[str], int], None],
        remember: Callable[[Sequence[str]], Awaitable[None]],
        seed: int | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._models = models
        self._own = own
        self._gateway = gateway
        self._customs = customs
        self.draw = random.Random(seed)
        self.metrics = metrics
        self.spend = spend
        self.remember = remember
        self.slots = asyncio.Semaphore(at_once)

    def chosen(self, record: Record, served: str | None) -> list[Entity]:
        """The served entities of an endpoint to ask, in order; with `served` that one, whatever its share."""
        entities = endpoint_record.entities(record)
        if served is not None:
            return [entity for entity in entities if entity.name == served]
        fallback = (record.settings.ai_gateway or {}).get("fallback_config")
        falls_back = isinstance(fallback, dict) and fallback.get("enabled") is True
        return order(entities, self.draw, fallback=falls_back)

    def answer(
        self, request: Request, record: Record, chosen: Sequence[Entity], body: bytes, counters: Sequence[str]
    ) -> Response:
        """The answer of an endpoint, made when it is sent.

        Args:
            request: its body has been read.
            record: the endpoint, which is ready.
            chosen: the served entities to ask, in order.
            body: of the request.
            counters: against which tokens count.
        """
        return _Invocation(self, Invocation(request, record, tuple(chosen), body, tuple(counters)))

    async def ask(self, invocation: Invocation, entity: Entity) -> Response:
        """The answer of one served entity.

        Raises:
            Problem: it has none.
        """
        own = self._own.get(entity.entity_name) if entity.kind is not Kind.EXTERNAL else None
        if own is not None:
            endpoint = replace(own, name=invocation.record.name, served=entity.name, task=entity.task)
            return await invoke(invocation.request, endpoint, self._models, invocation.body)
        if entity.kind is Kind.EXTERNAL:
            return await self._gateway.call(invocation.request, entity, entity.task or "", invocation.body)
        return await self._customs.call(invocation.request, entity, invocation.body)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A request, and the served entities to try in order."""

    request: Request
    record: Record
    entities: tuple[Entity, ...]
    body: bytes
    counters: tuple[str, ...]


class _Invocation(Response):
    """An answer that is made while it is sent, so that another entity can be asked until its first byte is out."""

    def __init__(self, dispatch: Dispatch, invocation: Invocation) -> None:
        super().__init__()
        self._dispatch = dispatch
        self._invocation = invocation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        slots = self._dispatch.slots
        if slots.locked():
            await until_gone(receive, slots.acquire())
        else:
            await slots.acquire()
        try:
            await self._answered(scope, receive, send)
        finally:
            slots.release()

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        usage = _Usage() if self._invocation.counters and rate_limits.counts_tokens(self._invocation.record) else None
        status, begun, served = 0, time.monotonic(), ""

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif usage is not None:
                # Counted before it is sent: the next call may come as soon as this answer is there.
                tokens = usage.read(message.get("body", b""), last=not message.get("more_body", False))
                self._dispatch.spend(self._invocation.counters, tokens)
            await send(message)

        try:
            for left, entity in zip(
                range(len(self._invocation.entities) - 1, -1, -1), self._invocation.entities, strict=True
            ):
                served = entity.name
                try:
                    response = await self._dispatch.ask(self._invocation, entity)
                    await response(scope, receive, send_counted)
                    break
                except Problem as problem:
                    if status or not left or not falls_back(problem):
                        status = status or problem.status
                        raise
        finally:
            self._dispatch.metrics.answered(
                self._invocation.record.name, served, status or 499, time.monotonic() - begun
            )
            if usage is not None:
                await self._dispatch.remember(self._invocation.counters)


def falls_back(problem: Problem) -> bool:
    """Whether another served entity may do better (Databricks: AI Gateway fallbacks)."""
    return problem.status == 429 or problem.status >= 500


class _Usage:
    """Counts the tokens of an answer while it is sent: from its JSON, or from the events of its stream."""

    def __init__(self) -> None:
        self._unread = b""
        self._tokens = 0

    def read(self, part: bytes, *, last: bool) -> int:
        """How many tokens are known of since the part before."""
        before = self._tokens
        self._unread += part
        if self._unread.startswith(b"data:"):
            *events, self._unread = self._unread.split(b"\n\n")
            for event in events:
                self._take(event.removeprefix(b"data:"))
        elif last:
            self._take(self._unread)
        return self._tokens - before

    def _take(self, text: bytes) -> None:
        if b'"usage"' not in text:
            return
        try:
            answer_json = json.loads(text)
            # The events of agents hold it inside `response`.
            total = answer_json.get("response", answer_json)["usage"]["total_tokens"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return
        if isinstance(total, int):
            self._tokens = total
