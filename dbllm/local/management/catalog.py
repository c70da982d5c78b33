"""Which serving endpoints a workspace has from the start, and which registered models it knows. All pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dbllm.local.access.permissions import USERS
from dbllm.local.json_values import Json
from dbllm.local.management.endpoint_record import CUSTOM as CUSTOM
from dbllm.local.management.endpoint_record import FOUNDATION as FOUNDATION
from dbllm.local.management.endpoint_record import EndpointSettings, Record
from dbllm.local.management.served_entity import slug, stable_id
from dbllm.local.model.embeddings import DIMENSIONS
from dbllm.local.model.embeddings import VECTORS_NAME as VECTORS_NAME

CREATOR = "local@dbllm.invalid"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A serving endpoint with one served entity.

    Attributes:
        name: the endpoint's name.
        task: llm/v1/chat, llm/v1/completions, llm/v1/embeddings, agent/v1/responses, agent/v2/chat; None for a custom
            model.
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
        return stable_id(self.name)

    @property
    def entity_name(self) -> str:
        """The registered model behind it, which other endpoints can serve, too."""
        return f"{'system.ai' if self.kind == FOUNDATION else 'local.default'}.{self.name}"


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
        Endpoint("smollm2-agent", "agent/v1/responses", CUSTOM, "smollm2-agent-1", model, f"{about}, as an agent."),
        Endpoint(
            "smollm2-chat-agent", "agent/v2/chat", CUSTOM, "smollm2-chat-agent-1", model, f"{about}, as an agent."
        ),
        Endpoint("dolly", None, CUSTOM, "dolly-1", model, f"{about}, behind the signature prompt/stop."),
    )
    return {endpoint.name: endpoint for endpoint in endpoints}


def custom_endpoint(name: str) -> Endpoint:
    """The endpoint of a custom model that the workspace was started with."""
    return Endpoint(name, None, CUSTOM, f"{name}-1", name, f"The custom model {name}.")


def ready_record(endpoint: Endpoint, entity_name: str, created_ms: int) -> Record:
    """A ready-made endpoint, which every user may query."""
    entity: Json = {"name": endpoint.served, "entity_name": entity_name, "entity_version": "1"}
    if endpoint.kind == FOUNDATION:
        entity["foundation_model"] = foundation_model(endpoint)
    else:
        entity |= {"workload_size": "Small", "workload_type": "CPU", "scale_to_zero_enabled": False}
    route = {"served_model_name": endpoint.served, "served_entity_name": endpoint.served, "traffic_percentage": 100}
    return Record(
        name=endpoint.name,
        id=endpoint.id,
        kind=endpoint.kind,
        task=endpoint.task,
        creator=CREATOR,
        created_ms=created_ms,
        updated_ms=created_ms,
        description=endpoint.description,
        config={"config_version": 1, "served_entities": [entity], "traffic_config": {"routes": [route]}},
        fixed=True,
        settings=EndpointSettings(acl={USERS: "CAN_QUERY"}),
    )


def foundation_model(endpoint: Endpoint) -> Json:
    """What the served entity of a foundation model says about it."""
    return {"name": endpoint.model, "display_name": endpoint.model, "description": endpoint.description}
