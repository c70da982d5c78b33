"""What is behind a serving endpoint: its served entities, and who answers for each kind. All pure."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response


class Kind(str, Enum):
    """Who answers for a served entity."""

    FOUNDATION = "foundation"
    EXTERNAL = "external"
    CUSTOM = "custom"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Entity:
    """A served entity, as stored.

    Attributes:
        name: unique in its endpoint; the `served-model-name` of its answers.
        kind: who answers.
        task: llm/v1/chat, llm/v1/completions, llm/v1/embeddings, agent/v1/responses; None for a custom model.
        entity_name: a registered model's name; the external model's name; the foundation model's name.
        entity_version: of the registered model; "" where there are no versions.
        model: what the answers name as their model.
        config: the served entity's JSON as it was given at create, plaintext keys included: never shown, never logged.
        traffic: percentage of the calls that it gets, 0 to 100.
    """

    name: str
    kind: Kind
    task: str | None
    entity_name: str
    entity_version: str
    model: str
    config: Mapping[str, object] = field(repr=False, default_factory=dict)
    traffic: int = 100


class CustomModels(Protocol):
    """Custom models: answers one invocation whose body has been read."""

    async def call(self, request: Request, entity: Entity, body: bytes) -> Response:
        """The answer of a custom model.

        Raises:
            Problem: for whatever goes wrong before the first byte of the answer.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class ExternalModels(Protocol):
    """The gateway to external models."""

    async def call(self, request: Request, entity: Entity, task: str, body: bytes) -> Response:
        """The answer of an external model.

        Raises:
            Problem: for whatever goes wrong before the first byte of the answer.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


def order(entities: Sequence[Entity], draw: random.Random, *, fallback: bool) -> list[Entity]:
    """Whom to ask: one entity by weight, then, with fallback, the others in the order of the list."""
    weights = [entity.traffic for entity in entities]
    first = draw.choices(entities, weights)[0] if any(weights) else entities[0]
    rest = [entity for entity in entities if entity is not first]
    return [first, *rest] if fallback else [first]


def slug(model: str) -> str:
    """A model's name as a served entity's name: lower case, dashes."""
    return re.sub(r"[^a-z0-9_]+", "-", model.lower()).strip("-") or "model"


def stable_id(name: str) -> str:
    """32 hex digits, the same at every start."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]
