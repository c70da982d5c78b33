"""Serving endpoints as the workspace keeps them, their state machine, and how Databricks REST shows them. All pure.

An endpoint has a config that serves and, for a time, one that is to come. When its time has come the pending one
takes over; one that cannot be loaded fails instead and stays beside the old one, which goes on serving. Nothing waits
for that: the state follows from the clock whenever it is looked at. Times are milliseconds since 1970.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from dbllm.local.json_values import Json
from dbllm.local.management.endpoint_config import without_plaintext
from dbllm.local.management.served_entity import Entity, Kind

FOUNDATION = "FOUNDATION_MODEL_API"
EXTERNAL = "EXTERNAL_MODEL"
CUSTOM = "CUSTOM_MODEL"


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What can be set on every endpoint, without deploying it anew."""

    tags: Mapping[str, str | None] = field(default_factory=dict)
    rate_limits: list[Json] = field(default_factory=list)
    ai_gateway: Json | None = None
    email_notifications: Json | None = None
    telemetry_config: Json | None = None
    acl: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """A serving endpoint.

    Attributes:
        name, id: id is 32 hex digits.
        kind: `endpoint_type` on the wire.
        task: of all its entities; None for a custom model.
        creator: who made it.
        config: what serves; None until the first deployment.
        pending: what is to serve from `due_ms` on, or what failed then.
        failures: served entity to deployment message, for what cannot be loaded: `pending` will fail.
        fixed: ready-made, so it cannot be reconfigured or deleted.
        route_optimized: it answers at a URL of its own, and nowhere else.
    """

    name: str
    id: str
    kind: str
    task: str | None
    creator: str
    created_ms: int
    updated_ms: int
    description: str = ""
    config: Json | None = field(default=None, repr=False)
    pending: Json | None = field(default=None, repr=False)
    started_ms: int = 0
    due_ms: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    route_optimized: bool = False
    settings: EndpointSettings = field(default_factory=EndpointSettings)


def to_json(record: Record) -> Json:
    """A record without its settings, to be kept."""
    stored = asdict(record)
    del stored["settings"]
    return stored


def from_json(stored: Mapping[str, object], settings: Mapping[str, object]) -> Record:
    """What `to_json` and `asdict` of the settings made."""
    return Record(**stored, settings=EndpointSettings(**settings))  # type: ignore[arg-type]


def deploying(record: Record, config: Json, failures: Mapping[str, str], now_ms: int, takes_ms: int) -> Record:
    """The record with a further version of its config on the way."""
    version = int(str(record.config["config_version"])) + 1 if record.config else 1
    return replace(
        record,
        pending={"config_version": version, **config},
        started_ms=now_ms,
        due_ms=now_ms + takes_ms,
        updated_ms=now_ms,
        failures=dict(failures),
    )


def settled(record: Record, now_ms: int) -> Record:
    """The record as of now: a pending config whose time has come is in force."""
    if record.pending is None or record.failures or now_ms < record.due_ms:
        return record
    return replace(record, config=record.pending, pending=None, updated_ms=record.due_ms)


def update_state(record: Record, now_ms: int) -> str:
    """`state.config_update` of a settled record."""
    if record.pending is None:
        return "NOT_UPDATING"
    return "IN_PROGRESS" if now_ms < record.due_ms else "UPDATE_FAILED"


def entities(record: Record) -> list[Entity]:
    """The served entities of the config in force."""
    return entities_of(record.config, record.task) if record.config else []


def entities_of(config: Json, task: str | None) -> list[Entity]:
    """The served entities of a config; `task` is the endpoint's."""
    shares = {route["served_entity_name"]: route["traffic_percentage"] for route in _routes(config)}
    return [_entity(raw, task, int(str(shares.get(raw["name"], 0)))) for raw in raw_entities(config)]


def _entity(raw: Json, task: str | None, traffic: int) -> Entity:
    external = raw.get("external_model")
    if isinstance(external, dict):
        name = str(external["name"])
        return Entity(str(raw["name"]), Kind.EXTERNAL, str(external["task"]), name, "", name, raw, traffic)
    kind = Kind.CUSTOM if task is None else Kind.AGENT if task.startswith("agent/") else Kind.FOUNDATION
    model, version = str(raw["entity_name"]), str(raw["entity_version"])
    return Entity(str(raw["name"]), kind, task, model, version, model, raw, traffic)


def raw_entities(config: Json) -> list[Json]:
    """The served entities of a config, as they are kept."""
    return config["served_entities"]  # type: ignore[return-value]


def _routes(config: Json) -> list[Json]:
    return config["traffic_config"]["routes"]  # type: ignore[index, no-any-return]


def summary(record: Record, now_ms: int) -> Json:
    """An endpoint as the list shows it."""
    config = record.config or record.pending or {"served_entities": []}
    return {**_about(record, now_ms), "config": {"served_entities": [_brief(raw) for raw in raw_entities(config)]}}


def detailed(record: Record, now_ms: int, level: str) -> Json:
    """An endpoint as `get` shows it; `level` is the caller's permission."""
    state = update_state(record, now_ms)
    public: Json = {**_about(record, now_ms), "permission_level": level}
    if record.config:
        public["config"] = _config(record, record.config, "NOT_UPDATING")
    if record.pending:
        pending = {**_config(record, record.pending, state), "start_time": record.started_ms}
        public["pending_config"] = pending
        if not record.config and state == "UPDATE_FAILED":  # clients look for the reason here
            public["config"] = _config(record, record.pending, state)
    for name in ("email_notifications", "telemetry_config"):
        if value := getattr(record.settings, name):
            public[name] = value
    return public


def _about(record: Record, now_ms: int) -> Json:
    settings = record.settings
    return {
        "name": record.name,
        "id": record.id,
        "creator": record.creator,
        "creator_display_name": record.creator,
        "creator_kind": "User",
        "creation_timestamp": record.created_ms,
        "last_updated_timestamp": record.updated_ms,
        **({"task": record.task} if record.task else {}),
        "endpoint_type": record.kind,
        "description": record.description,
        "state": {"ready": "READY" if record.config else "NOT_READY", "config_update": update_state(record, now_ms)},
        "tags": tag_list(settings.tags),
        **({"ai_gateway": settings.ai_gateway} if settings.ai_gateway is not None else {}),
        **({"rate_limits": settings.rate_limits} if settings.rate_limits else {}),
    }


def tag_list(values: Mapping[str, str | None]) -> list[Json]:
    """Tags as a list of key and value."""
    return [{"key": key, **({"value": value} if value is not None else {})} for key, value in values.items()]


def _config(record: Record, config: Json, state: str) -> Json:
    public = {**config, "served_models": []}
    public["served_entities"] = [
        {
            **_deployed_json(raw),
            "type": entity_type(raw),
            "creator": record.creator,
            "creation_timestamp": record.started_ms or record.created_ms,
            "state": _deployment(record, str(raw["name"]), state),
        }
        for raw in raw_entities(config)
    ]
    return public


def _deployment(record: Record, name: str, state: str) -> Json:
    if state == "IN_PROGRESS":
        return {"deployment": "DEPLOYMENT_CREATING", "deployment_state_message": "Deploying."}
    if state == "UPDATE_FAILED":
        if name in record.failures:
            return {"deployment": "DEPLOYMENT_FAILED", "deployment_state_message": record.failures[name]}
        return {"deployment": "DEPLOYMENT_ABORTED", "deployment_state_message": "Another served entity failed."}
    return {"deployment": "DEPLOYMENT_READY", "deployment_state_message": ""}


def _deployed_json(raw: Json) -> Json:
    return without_plaintext(raw)  # type: ignore[return-value]


def _brief(raw: Json) -> Json:
    """Without the provider's config, which the list leaves out."""
    public = {**_deployed_json(raw), "type": entity_type(raw)}
    if isinstance(external := raw.get("external_model"), dict):
        public["external_model"] = {key: external[key] for key in ("provider", "name", "task")}
    return public


def entity_type(raw: Mapping[str, object]) -> str:
    """`type` of a served entity; of all entities of an endpoint, so its `endpoint_type`, too."""
    if "external_model" in raw:
        return EXTERNAL
    return FOUNDATION if "foundation_model" in raw else CUSTOM


def build_log(record: Record, served: str) -> str:
    """What happened when a served entity was deployed."""
    if served in record.failures:
        return f"Deploying {served} failed: {record.failures[served]}\n"
    return f"Deployed {served}.\n"


def names(record: Record) -> set[str]:
    """The served entities that serve, and those that are to."""
    return {str(raw["name"]) for config in (record.config, record.pending) if config for raw in raw_entities(config)}


def openapi_document(record: Record) -> str:
    """The OpenAPI document of one endpoint."""
    entity_json = {
        "summary": f"Call the endpoint ({record.task or 'a custom model'})",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {"200": {"description": "The answer.", "content": {"application/json": {}}}},
    }
    paths = {f"/serving-endpoints/{record.name}/invocations": {"post": entity_json}}
    return json.dumps({"openapi": "3.1.0", "info": {"title": record.name, "version": "1"}, "paths": paths})
