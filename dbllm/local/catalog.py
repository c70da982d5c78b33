"""Which serving endpoints there are, and how the workspace describes them. All pure.

The shape is Databricks REST `GET /api/2.0/serving-endpoints/{name}`: timestamps are milliseconds, a custom model
has no `task`, and `endpoint_type` (not in the SDK's types) is what clients tell the kinds apart by.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dbllm.local.vectors import DIMENSIONS
from dbllm.local.vectors import NAME as VECTORS_NAME

Json = dict[str, object]

FOUNDATION = "FOUNDATION_MODEL_API"
CUSTOM = "CUSTOM_MODEL"
CREATOR = "local@dbllm.invalid"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A serving endpoint with one served entity.

    Attributes:
        name: the endpoint's name.
        task: llm/v1/chat, llm/v1/completions, llm/v1/embeddings, or None for a custom model.
        kind: `endpoint_type` on the wire.
        served: the served entity's name, the `served-model-name` of its answers.
        model: the model that really answers.
        description: the same in a sentence.
    """

    name: str
    task: str | None
    kind: str
    served: str
    model: str
    description: str

    @property
    def id(self) -> str:
        """32 hex digits, the same at every start."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:32]


def ready_endpoints(model: str) -> Mapping[str, Endpoint]:
    """The endpoints of a new workspace, by name. `model` is the name of the GGUF that answers."""
    served = slug(model)
    about = f"{model} on this machine's CPU through llama.cpp"
    vectors = (
        f"wordllama ({DIMENSIONS} dimensions) on this machine's CPU. It stands in for BGE large under BGE's name: "
        "its vectors are real, but they are not BGE's"
    )
    endpoints = (
        Endpoint("smollm2-chat", "llm/v1/chat", FOUNDATION, served, model, f"{about}."),
        Endpoint("smollm2-completions", "llm/v1/completions", FOUNDATION, served, model, f"{about}."),
        Endpoint("databricks-bge-large-en", "llm/v1/embeddings", FOUNDATION, VECTORS_NAME, VECTORS_NAME, f"{vectors}."),
        Endpoint("dolly", None, CUSTOM, "dolly-1", model, f"{about}, behind the signature prompt/stop."),
    )
    return {endpoint.name: endpoint for endpoint in endpoints}


def slug(model: str) -> str:
    """A model's name as a served entity's name: lower case, dashes."""
    return re.sub(r"[^a-z0-9_]+", "-", model.lower()).strip("-") or "model"


def summary(endpoint: Endpoint, created_ms: int) -> Json:
    """An endpoint as the list shows it."""
    return {**_about(endpoint, created_ms), "config": {"served_entities": [_entity(endpoint)]}}


def detailed(endpoint: Endpoint, created_ms: int) -> Json:
    """An endpoint as `get` shows it."""
    entity = {
        **_entity(endpoint),
        "creator": CREATOR,
        "creation_timestamp": created_ms,
        "state": {"deployment": "DEPLOYMENT_READY", "deployment_state_message": ""},
    }
    route = {"served_model_name": endpoint.served, "served_entity_name": endpoint.served, "traffic_percentage": 100}
    return {
        **_about(endpoint, created_ms),
        "permission_level": "CAN_MANAGE",
        "route_optimized": False,
        "config": {
            "config_version": 1,
            "served_entities": [entity],
            "served_models": [],
            "traffic_config": {"routes": [route]},
        },
    }


def _about(endpoint: Endpoint, created_ms: int) -> Json:
    return {
        "name": endpoint.name,
        "id": endpoint.id,
        "creator": CREATOR,
        "creator_display_name": "dbllm",
        "creator_kind": "User",
        "creation_timestamp": created_ms,
        "last_updated_timestamp": created_ms,
        **({"task": endpoint.task} if endpoint.task else {}),
        "endpoint_type": endpoint.kind,
        "description": endpoint.description,
        "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
        "tags": [],
    }


def _entity(endpoint: Endpoint) -> Json:
    if endpoint.kind == FOUNDATION:
        return {
            "name": endpoint.served,
            "type": FOUNDATION,
            "foundation_model": {
                "name": endpoint.model,
                "display_name": endpoint.model,
                "description": endpoint.description,
            },
        }
    return {
        "name": endpoint.served,
        "type": CUSTOM,
        "entity_name": f"local.default.{endpoint.name}",
        "entity_version": "1",
        "workload_size": "Small",
        "workload_type": "CPU",
        "scale_to_zero_enabled": False,
    }
