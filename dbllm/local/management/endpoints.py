"""The control plane of serving endpoints: what `/api/2.0/serving-endpoints` and its permissions do.

Records are kept in memory and in the store; the store is changed first.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from dbllm.local.access import permissions
from dbllm.local.access.permissions import Caller, need
from dbllm.local.errors import Problem, invalid, missing, no_such_endpoint, taken
from dbllm.local.http.operations import NUMBER, OBJECT, TEXT, TEXTS, ApiCall, Operation, object_schema, text_schema
from dbllm.local.json_values import Json
from dbllm.local.management import endpoint_config, endpoint_record
from dbllm.local.management.catalog import Endpoint, foundation_model
from dbllm.local.management.endpoint_record import FOUNDATION, EndpointSettings, Record
from dbllm.local.management.served_entity import Entity, Kind
from dbllm.local.storage.store import Change, Store

MAX_ENDPOINTS = 1000
ENDPOINTS = "/api/2.0/serving-endpoints"
PERMISSIONS = "/api/2.0/permissions/serving-endpoints/{endpoint_id}"
DEPLOY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ManagementHooks:
    """What the endpoints' API needs from other parts of the workspace.

    Attributes:
        may_read: raises a Problem unless the caller may read a secret, by scope and key.
        check_external: raises a Problem for an external model's config that no provider takes.
        custom: names of the custom models that can be loaded.
        metrics: an endpoint's metrics as Prometheus text.
        logs: what a served entity logged, as text.
        forget: an endpoint is gone.
        data_plane: what an endpoint's description says about its own URL.
        route_optimization: whether endpoints can have one.
    """

    may_read: Callable[[Caller, str, str], None]
    check_external: Callable[[Mapping[str, object]], object]
    custom: frozenset[str]
    metrics: Callable[[str], str]
    logs: Callable[[str, str], str]
    forget: Callable[[str], Iterable[Change]]
    data_plane: Callable[[Record], Json]
    route_optimization: bool


class Endpoints:
    """All serving endpoints of a workspace.

    Args:
        store: remembers them.
        ready: those that are there from the start.
        models: registered models of the workspace itself, by entity name.
        hooks: the other parts of the workspace.
        now: seconds since 1970.
        deploy_seconds: how long a deployment takes.
    """

    def __init__(
        self,
        store: Store,
        ready: Iterable[Record],
        models: Mapping[str, Endpoint],
        hooks: ManagementHooks,
        now: Callable[[], float],
        deploy_seconds: float = DEPLOY_SECONDS,
    ) -> None:
        self._store = store
        self._models = models
        self._hooks = hooks
        self._now = now
        self._takes_ms = round(deploy_seconds * 1000)
        settings = store.load("settings")
        self._records = {record.name: _with_kept_settings(record, settings) for record in ready}
        for name, stored in store.load("endpoint").items():
            if name not in self._records:
                self._records[name] = endpoint_record.from_json(_mapping(stored), _mapping(settings[name]))

    def find(self, name: str) -> Record:
        """The endpoint, as it is at this moment. Safe to call from any thread.

        Raises:
            Problem: 404, there is none.
        """
        record = self._records.get(name)
        if record is None:
            raise no_such_endpoint(name)
        return endpoint_record.settled(record, self._now_ms())

    def operations(self) -> list[Operation]:
        """The REST operations."""
        external = object_schema(
            "provider", "name", "task", provider=text_schema("openai"), name=TEXT, task=text_schema("llm/v1/chat")
        )
        entity = object_schema(
            name=TEXT,
            entity_name=text_schema("local.default.dolly"),
            entity_version=text_schema("1"),
            external_model=external,
        )
        entities: Json = {"type": "array", "items": entity}
        config = object_schema(served_entities=entities, traffic_config=OBJECT, auto_capture_config=OBJECT)
        limit = object_schema(
            calls=NUMBER, tokens=NUMBER, key=text_schema("user"), renewal_period=text_schema("minute")
        )
        limits: Json = {"type": "array", "items": limit}
        tag: Json = {"type": "array", "items": object_schema("key", key=TEXT, value=TEXT)}
        create = object_schema(
            "name",
            "config",
            name=TEXT,
            config=config,
            tags=tag,
            rate_limits=limits,
            ai_gateway=OBJECT,
            route_optimized={"type": "boolean"},
        )
        gateway = object_schema(fallback_config=OBJECT, rate_limits=limits, guardrails=OBJECT)
        one, served = f"{ENDPOINTS}/{{name}}", f"{ENDPOINTS}/{{name}}/served-models/{{served}}"
        grant = object_schema(
            "permission_level", user_name=TEXT, permission_level={"type": "string", "enum": list(permissions.LEVELS)}
        )
        acl = object_schema(access_control_list={"type": "array", "items": grant})
        return [
            Operation("GET", ENDPOINTS, self._list, "List the endpoints that the caller may see"),
            Operation("POST", ENDPOINTS, self._create, "Create an endpoint", create),
            Operation(
                "POST", f"{ENDPOINTS}/pt", self._create, "Create an endpoint with provisioned throughput", create
            ),
            Operation("GET", one, self._get, "Describe an endpoint"),
            Operation("DELETE", one, self._delete, "Delete an endpoint", None),
            Operation("PUT", f"{one}/config", self._update, "Deploy another config", config),
            Operation(
                "PUT",
                f"{ENDPOINTS}/pt/{{name}}/config",
                self._update,
                "The same",
                object_schema("config", config=config),
            ),
            Operation("PATCH", f"{one}/tags", self._tag, "Change tags", object_schema(add_tags=tag, delete_tags=TEXTS)),
            Operation("PUT", f"{one}/rate-limits", self._limit, "Set rate limits", object_schema(rate_limits=limits)),
            Operation("PUT", f"{one}/ai-gateway", self._gateway, "Set the AI gateway", gateway),
            Operation("PATCH", f"{one}/notifications", self._notify, "Set e-mail notifications", OBJECT),
            Operation("PATCH", f"{one}/telemetry-config", self._telemetry, "Set telemetry", OBJECT),
            Operation("GET", f"{one}/metrics", self._metrics, "Metrics for Prometheus", text=True),
            Operation("GET", f"{one}/openapi", self._openapi, "The endpoint's own OpenAPI document", text=True),
            Operation("GET", f"{served}/build-logs", self._build_logs, "How a served entity was deployed"),
            Operation("GET", f"{served}/logs", self._logs, "What a served entity logged"),
            Operation("GET", PERMISSIONS, self._permissions, "Who may do what"),
            Operation("PUT", PERMISSIONS, self._set_permissions, "Replace who may do what", acl),
            Operation("PATCH", PERMISSIONS, self._add_permissions, "Add who may do what", acl),
            Operation("GET", f"{PERMISSIONS}/permissionLevels", self._levels, "The levels there are"),
        ]

    # -- what exists

    def _list(self, call: ApiCall) -> Json:
        now = self._now_ms()
        visible = [one for one in self._records.values() if permissions.level(one.settings.acl, call.caller)]
        return {"endpoints": [endpoint_record.summary(endpoint_record.settled(one, now), now) for one in visible]}

    def _get(self, call: ApiCall) -> Json:
        return self._show(self._may(call, "CAN_VIEW"), call)

    def _create(self, call: ApiCall) -> Json:
        name = endpoint_config.read_name(call.body.get("name"))
        if name in self._records:
            raise taken(f"Endpoint with name '{name}' already exists")
        if len(self._records) >= MAX_ENDPOINTS:
            raise Problem(400, "RESOURCE_LIMIT_EXCEEDED", f"A workspace has at most {MAX_ENDPOINTS} endpoints.")
        if call.body.get("config") is None:
            raise invalid("config is missing")
        optimized = call.body.get("route_optimized") or False
        if not isinstance(optimized, bool):
            raise invalid("route_optimized must be true or false")
        if optimized and not self._hooks.route_optimization:
            raise invalid("This workspace runs without a second port, so it has no route optimization")
        config, kind, task = self._checked(call.body["config"], call.caller)
        now = self._now_ms()
        description = call.body.get("description") or ""
        if not isinstance(description, str):
            raise invalid("description must be text")
        blank = Record(
            name=name,
            id=secrets.token_hex(16),
            kind=kind,
            task=task,
            creator=call.caller.name,
            created_ms=now,
            updated_ms=now,
            description=description,
            route_optimized=optimized,
            settings=_first_settings(call),
        )
        return self._deploy(blank, config, call)

    def _update(self, call: ApiCall) -> Json:
        record = self._changeable(call, "updated")
        if endpoint_record.update_state(record, self._now_ms()) == "IN_PROGRESS":
            reason = f"Endpoint '{record.name}' is being updated already. Wait until it is NOT_UPDATING."
            raise Problem(409, "RESOURCE_CONFLICT", reason)
        config, kind, task = self._checked(call.body.get("config", call.body), call.caller)
        if kind != record.kind:
            raise invalid(f"An endpoint of the type {record.kind} cannot become one of the type {kind}")
        return self._deploy(replace(record, task=task), config, call)

    def _deploy(self, record: Record, config: Json, call: ApiCall) -> Json:
        entities = endpoint_record.entities_of(config, record.task)
        failures = {entity.name: reason for entity in entities if (reason := self._cannot_load(entity))}
        record = endpoint_record.deploying(record, config, failures, self._now_ms(), self._takes_ms)
        change = Change("endpoint", record.name, endpoint_record.to_json(record))
        self._store.commit(change, Change("settings", record.name, asdict(record.settings)))
        self._records[record.name] = record
        return self._show(record, call)

    def _delete(self, call: ApiCall) -> Json:
        record = self._changeable(call, "deleted")
        gone = [Change(kind, record.name, None) for kind in ("endpoint", "settings")]
        self._store.commit(*gone, *self._hooks.forget(record.name))
        del self._records[record.name]
        return {}

    def _checked(self, raw: object, caller: Caller) -> tuple[Json, str, str | None]:
        """A config that can be deployed, with the endpoint's type and task."""
        config = endpoint_config.read_config(raw)
        entities = endpoint_record.entities_of(config, None)
        for entity in entities:
            if entity.kind is Kind.EXTERNAL:
                self._hooks.check_external(_mapping(entity.config["external_model"]))
            for scope, key in endpoint_config.references(entity.config):
                self._hooks.may_read(caller, scope, key)
        kinds = {(self._kind(entity), self._task(entity)) for entity in entities}
        if len(kinds) > 1:
            raise invalid("All served entities of an endpoint must have the same type and task")
        kind, task = kinds.pop()
        for raw in endpoint_record.raw_entities(config):
            if kind == FOUNDATION:
                raw["foundation_model"] = foundation_model(self._models[str(raw["entity_name"])])
        return config, kind, task

    def _kind(self, entity: Entity) -> str:
        own = self._models.get(entity.entity_name) if entity.kind is not Kind.EXTERNAL else None
        return own.kind if own else endpoint_record.entity_type(entity.config)

    def _task(self, entity: Entity) -> str | None:
        if entity.kind is Kind.EXTERNAL:
            return entity.task
        own = self._models.get(entity.entity_name)
        return own.task if own else None

    def _cannot_load(self, entity: Entity) -> str:
        known = self._hooks.custom
        if entity.kind is Kind.EXTERNAL or entity.entity_name in self._models:
            return ""
        if entity.entity_name in known or entity.name in known:
            return ""
        name, version = entity.entity_name, entity.entity_version
        return (
            f"Failed to load the model {name}, version {version}: this workspace does not have it. "
            f"Start it with `dbllm up --custom {name}=module:function` (or =URL), "
            f"or use one of its own: {', '.join(self._models)}."
        )

    # -- what can be set

    def _tag(self, call: ApiCall) -> Json:
        record = self._may(call, "CAN_MANAGE")
        gone = call.body.get("delete_tags") or []
        if not isinstance(gone, list) or not all(isinstance(key, str) for key in gone):
            raise invalid("delete_tags is a list of keys")
        tags = {key: value for key, value in record.settings.tags.items() if key not in gone}
        tags |= endpoint_config.read_tags(call.body.get("add_tags") or [], "add_tags")
        self._set(record, replace(record.settings, tags=tags))
        return {"tags": endpoint_record.tag_list(tags)}

    def _limit(self, call: ApiCall) -> Json:
        record = self._may(call, "CAN_MANAGE")
        limits = endpoint_config.read_rate_limits(call.body.get("rate_limits") or [])
        self._set(record, replace(record.settings, rate_limits=limits))
        return {"rate_limits": limits}

    def _gateway(self, call: ApiCall) -> Json:
        record = self._may(call, "CAN_MANAGE")
        gateway = endpoint_config.read_gateway(call.body)
        self._set(record, replace(record.settings, ai_gateway=gateway))
        return gateway

    def _notify(self, call: ApiCall) -> Json:
        record = self._may(call, "CAN_MANAGE")
        wanted = endpoint_config.read_object(call.body.get("email_notifications") or {}, "email_notifications")
        self._set(record, replace(record.settings, email_notifications=wanted))
        return {"name": record.name, "email_notifications": wanted}

    def _telemetry(self, call: ApiCall) -> Json:
        record = self._may(call, "CAN_MANAGE")
        wanted = endpoint_config.read_object(call.body.get("telemetry_config") or {}, "telemetry_config")
        return self._show(self._set(record, replace(record.settings, telemetry_config=wanted)), call)

    # -- what can be read about one

    def _metrics(self, call: ApiCall) -> str:
        return self._hooks.metrics(self._may(call, "CAN_VIEW").name)

    def _openapi(self, call: ApiCall) -> str:
        return endpoint_record.openapi_document(self._may(call, "CAN_VIEW"))

    def _build_logs(self, call: ApiCall) -> Json:
        record, served = self._served(call)
        return {"logs": endpoint_record.build_log(record, served)}

    def _logs(self, call: ApiCall) -> Json:
        record, served = self._served(call)
        return {"logs": self._hooks.logs(record.name, served)}

    def _served(self, call: ApiCall) -> tuple[Record, str]:
        record, served = self._may(call, "CAN_VIEW"), call.path["served"]
        if served not in endpoint_record.names(record):
            raise no_such_served(served, record.name)
        return record, served

    # -- who may

    def _permissions(self, call: ApiCall) -> Json:
        record = self._by_id(call, "CAN_VIEW")
        return permissions.described(record.id, record.settings.acl)

    def _set_permissions(self, call: ApiCall) -> Json:
        return self._replace_acl(call, keep=False)

    def _add_permissions(self, call: ApiCall) -> Json:
        return self._replace_acl(call, keep=True)

    def _replace_acl(self, call: ApiCall, *, keep: bool) -> Json:
        record = self._by_id(call, "CAN_MANAGE")
        acl = {**(record.settings.acl if keep else {}), **permissions.read_acl(call.body)}
        self._set(record, replace(record.settings, acl=acl))
        return permissions.described(record.id, acl)

    def _levels(self, call: ApiCall) -> Json:
        self._by_id(call, "CAN_VIEW")
        about = permissions.ABOUT.items()
        return {"permission_levels": [{"permission_level": one, "description": text} for one, text in about]}

    def _by_id(self, call: ApiCall, wanted: str) -> Record:
        wanted_id = call.path["endpoint_id"]
        for record in self._records.values():
            if record.id == wanted_id:
                need(record.settings.acl, call.caller, wanted, record.name)
                return record
        raise missing(f"No serving endpoint has the id '{wanted_id}'. Permissions go by id, not by name")

    # -- common to them

    def _may(self, call: ApiCall, wanted: str) -> Record:
        record = self.find(call.path["name"])
        need(record.settings.acl, call.caller, wanted, record.name)
        return record

    def _changeable(self, call: ApiCall, done: str) -> Record:
        record = self._may(call, "CAN_MANAGE")
        if record.fixed:
            raise invalid(f"Endpoint '{record.name}' was made by the workspace itself and cannot be {done}")
        return record

    def _set(self, record: Record, settings: EndpointSettings) -> Record:
        record = replace(record, settings=settings)
        self._store.commit(Change("settings", record.name, asdict(settings)))
        self._records[record.name] = record
        return record

    def _show(self, record: Record, call: ApiCall) -> Json:
        now = self._now_ms()
        level = permissions.level(record.settings.acl, call.caller) or ""
        shown = endpoint_record.detailed(endpoint_record.settled(record, now), now, level)
        return {**shown, **self._hooks.data_plane(record)}

    def _now_ms(self) -> int:
        return int(self._now() * 1000)


def no_such_served(served: str, name: str) -> Problem:
    """404 for a served entity that the endpoint does not have."""
    return missing(f"Served model with name '{served}' does not exist in endpoint '{name}'")


def _first_settings(call: ApiCall) -> EndpointSettings:
    gateway = call.body.get("ai_gateway")
    return EndpointSettings(
        tags=endpoint_config.read_tags(call.body.get("tags") or []),
        rate_limits=endpoint_config.read_rate_limits(call.body.get("rate_limits") or []),
        ai_gateway=endpoint_config.read_gateway(gateway) if gateway is not None else None,
        email_notifications=_optional(call.body, "email_notifications"),
        telemetry_config=_optional(call.body, "telemetry_config"),
        acl={call.caller.principal: "CAN_MANAGE"},
    )


def _optional(fields: Json, name: str) -> Json | None:
    return endpoint_config.read_object(fields[name], name) if fields.get(name) is not None else None


def _with_kept_settings(record: Record, stored: Mapping[str, object]) -> Record:
    if record.name not in stored:
        return record
    return replace(record, settings=EndpointSettings(**_mapping(stored[record.name])))  # type: ignore[arg-type]


def _mapping(value: object) -> Json:
    assert isinstance(value, dict)  # noqa: S101 - written by this file
    return value
