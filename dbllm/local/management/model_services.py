"""Model services: names under which the AI gateway answers, and the destinations that their calls are routed to.

A destination is one of the workspace's own models, a serving endpoint with provisioned throughput, or an external model
of a provider service. Calls are split between the destinations by their traffic; after a failure the fallback
destinations are called in their order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from dbllm.local.access.permissions import Caller, need
from dbllm.local.errors import Problem, bad_request, invalid, missing
from dbllm.local.json_values import Json
from dbllm.local.management import catalog, endpoint_record, provider_services, service_record
from dbllm.local.management.catalog import Endpoint
from dbllm.local.management.endpoint_config import read_object
from dbllm.local.management.endpoint_record import FOUNDATION, EndpointSettings, Record
from dbllm.local.management.served_entity import Entity, Kind, order, stable_id
from dbllm.local.management.service_limits import read_service_limits
from dbllm.local.management.service_record import ServiceRecord, need_privilege, sum_of
from dbllm.local.management.services import Services

MAX_DESTINATIONS = 10
MAX_FALLBACKS = 5
LABEL = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
OWN = "DESTINATION_TYPE_PAY_PER_TOKEN_FOUNDATION_MODEL"
ENDPOINT = "DESTINATION_TYPE_PROVISIONED_THROUGHPUT_FOUNDATION_MODEL"
EXTERNAL = "DESTINATION_TYPE_EXTERNAL_FOUNDATION_MODEL"
FORMS: Mapping[str, str] = {
    OWN: "pay_per_token_config",
    ENDPOINT: "provisioned_throughput_config",
    EXTERNAL: "external_model_config",
}
"""Type of a destination → the field that says which one."""
API_TYPES: Mapping[str | None, Sequence[str]] = {
    "llm/v1/chat": (
        "mlflow/v1/chat/completions", "mlflow/v1/responses", "openai/v1/chat/completions", "openai/v1/responses",
        "anthropic/v1/messages",
    ),
    "llm/v1/embeddings": ("mlflow/v1/embeddings", "openai/v1/embeddings"),
}  # fmt: skip
"""Task of one of the workspace's own models → the API types by which the gateway answers with it."""


def ready_services(own: Iterable[Endpoint], created_ms: int) -> list[ServiceRecord]:
    """The model services of a new workspace: its own models in `system.ai`, which every user may call."""
    return [
        ServiceRecord(
            name=service_name(one.name),
            config={"routing": {"destinations": [_own_destination(one)]}},
            owner=catalog.CREATOR,
            created_ms=created_ms,
            updated_ms=created_ms,
            updated_by=catalog.CREATOR,
            comment=one.description,
            fixed=True,
            grants={service_record.EVERYBODY[0]: ["EXECUTE"]},
        )
        for one in own
        if one.kind == FOUNDATION and one.task in API_TYPES
    ]


def _own_destination(one: Endpoint) -> Json:
    return {"name": one.served, "destination_type": OWN, FORMS[OWN]: {"model": f"models/{one.entity_name}"}}


def service_name(endpoint: str) -> str:
    """The model service that an endpoint's name stands for: `databricks-X` and `X` are `system.ai.X` (Databricks docs).

    A name with two dots or more is a model service's already.
    """
    if endpoint.count(".") >= 2:
        return endpoint
    return f"system.ai.{endpoint.removeprefix('databricks-')}"


class ModelServiceRules:
    """What model services have of their own.

    Args:
        own: the workspace's own models, by entity name.
        providers: the provider services.
        endpoint: finds a serving endpoint, or raises a Problem.
    """

    kind = "model-services"
    securable = "model_service"
    masks: Mapping[str, Sequence[str]] = {
        name: (name,)
        for name in (
            "comment", "config", "config.routing.destinations", "config.routing.fallback.destinations",
            "config.rate_limits", "config.inference_table",
        )
    }  # fmt: skip
    example: Json = {
        "routing": {
            "destinations": [
                {"name": "own", "destination_type": OWN, FORMS[OWN]: {"model": "models/system.ai.smollm2-chat"}}
            ]
        }
    }

    def __init__(self, own: Mapping[str, Endpoint], providers: Services, endpoint: Callable[[str], Record]) -> None:
        self._own = {**own, **{service_name(one.name): one for one in own.values() if one.kind == FOUNDATION}}
        self._providers = providers
        self._endpoint = endpoint

    # -- the control plane

    def check(self, config: object, caller: Caller, before: Json | None) -> Json:
        """A config that can be kept."""
        fields = {name: value for name, value in read_object(config, "config").items() if value is not None}
        for name in fields:
            if name not in ("routing", "rate_limits", "inference_table"):
                raise invalid(f"config has no field '{name[:60]}'; it has routing, rate_limits, inference_table")
        routing = read_object(fields.get("routing") or {}, "config.routing")
        fallback = read_object(routing.get("fallback") or {}, "config.routing.fallback").get("destinations") or []
        primary = self._checked(routing.get("destinations"), "config.routing.destinations", caller, MAX_DESTINATIONS)
        if not primary:
            raise invalid("config.routing.destinations must name at least one destination")
        others = self._checked(fallback, "config.routing.fallback.destinations", caller, MAX_FALLBACKS)
        names = [one["name"] for one in (*primary, *others)]
        if len(set(names)) < len(names):
            raise invalid("The names of the destinations must differ")
        _check_traffic(primary)
        read_service_limits(fields.get("rate_limits") or [])
        table = fields.get("inference_table")
        if table is not None:
            service_record.schema_of(read_object(table, "config.inference_table").get("parent"))
        return fields

    def _checked(self, listed: object, where: str, caller: Caller, most: int) -> list[Json]:
        if listed is not None and not isinstance(listed, list):
            raise invalid(f"{where} must be a list")
        destinations = [read_object(one, f"{where}[]") for one in listed or ()]
        if len(destinations) > most:
            raise invalid(f"{where} has at most {most} destinations, not {len(destinations)}")
        for one in destinations:
            kind = one.get("destination_type")
            name = one.get("name")
            if not isinstance(name, str) or not LABEL.fullmatch(name):  # it is sent back in a header
                raise invalid(f"{where}[].name must be 1 to 255 printable ASCII characters")
            if kind not in FORMS:
                raise invalid(f"{where}[].destination_type must be one of {', '.join(FORMS)}")
            if [form for form in FORMS.values() if one.get(form) is not None] != [FORMS[str(kind)]]:
                raise invalid(f"A destination of the type {kind} needs '{FORMS[str(kind)]}' and no other config")
            self._check_destination(one, caller)
        return destinations

    def _check_destination(self, one: Json, caller: Caller) -> None:
        kind, place = str(one["destination_type"]), self._place(one)
        if kind == OWN and place not in self._own:
            known = ", ".join(f"models/{name}" for name in self._own)
            raise missing(f"The model of the destination '{one['name']}' does not exist; there are {known}")
        if kind == ENDPOINT:
            record = self._endpoint(place)
            need(record.settings.acl, caller, "CAN_MANAGE", place)
            if record.kind != FOUNDATION or record.task not in API_TYPES:
                raise invalid(f"The endpoint '{place}' serves no foundation model for chat or embeddings")
        if kind == EXTERNAL:
            provider = self._providers.find(place)
            need_privilege(provider, caller, "EXECUTE", self._providers.securable)
            if not provider_services.types_of(provider.config, _provider_model(one)):
                raise invalid(f"The model provider service '{place}' has no target '{_provider_model(one)[:100]}'")

    def _place(self, destination: Json) -> str:
        """The name of what a destination routes to."""
        kind = str(destination["destination_type"])
        settings = read_object(destination[FORMS[kind]], FORMS[kind])
        field, prefix = {
            OWN: ("model", "models"),
            ENDPOINT: ("model_serving_endpoint", "serving-endpoints"),
            EXTERNAL: ("model_provider_service", "model-provider-services"),
        }[kind]
        place = service_record.resource_id(settings.get(field), prefix)
        if place is None:
            raise invalid(f"{FORMS[kind]}.{field} must be the resource name {prefix}/...")
        return place

    def show(self, service: ServiceRecord, *, full: bool) -> Json:
        """The service as JSON."""
        hidden = () if full else ("routing.destinations", "routing.fallback", "inference_table")
        config = service_record.without(service.config, *hidden)
        if full:
            for one in (*_primary(config), *_fallback(config)):
                if not self._types(one):
                    one["is_deleted"] = True
        types = dict.fromkeys(
            kind for one in (*_primary(service.config), *_fallback(service.config)) for kind in self._types(one)
        )
        return {**service_record.resource(service, self.kind, config), "supported_api_types": list(types)}

    def _types(self, destination: Json) -> Sequence[str]:
        """The API types of a destination; none if what it routes to is gone."""
        kind, place = destination["destination_type"], self._place(destination)
        if kind == OWN:
            return API_TYPES[self._own[place].task] if place in self._own else ()
        if kind == EXTERNAL:
            provider = self._providers.get(place)
            return provider_services.types_of(provider.config, _provider_model(destination)) if provider else ()
        record = self._record(place)
        return API_TYPES.get(record.task, ()) if record else ()

    def _record(self, name: str) -> Record | None:
        try:
            return self._endpoint(name)
        except Problem:
            return None

    # -- calls

    def routed(self, service: ServiceRecord, api_type: str, task: str, draw: random.Random) -> list[Entity]:
        """Whom to call, in order: one destination by its share of the traffic, then the fallbacks.

        Raises:
            Problem: 400, the service does not speak the API type; 404, none of its destinations is left.
        """
        primary, fallback = _primary(service.config), _fallback(service.config)
        supported = dict.fromkeys(kind for one in (*primary, *fallback) for kind in self._types(one))
        if not supported:
            raise missing(f"All destinations of the model service '{service.name}' were deleted")
        if api_type not in supported:
            raise bad_request(
                f"model service '{service.name}' does not support the API type {api_type}; "
                f"it supports {', '.join(supported)}"
            )
        able = [
            [self._entity(one, task, draw) for one in some if api_type in self._types(one)]
            for some in (primary, fallback)
        ]
        return [*(order(able[0], draw, fallback=False) if able[0] else ()), *able[1]]

    def _entity(self, destination: Json, task: str, draw: random.Random) -> Entity:
        kind, place, name = destination["destination_type"], self._place(destination), str(destination["name"])
        share = destination.get("traffic_percentage", 100)
        traffic = share if isinstance(share, int) else 100
        if kind == OWN:
            own = self._own[place]
            return Entity(name, Kind.FOUNDATION, task, own.entity_name, "1", own.model, {}, traffic)
        if kind == ENDPOINT:
            behind = order(endpoint_record.entities(self._endpoint(place)), draw, fallback=False)[0]
            return replace(behind, name=name, task=task, traffic=traffic)
        model = _provider_model(destination)
        external = provider_services.external_model(self._providers.find(place).config, model, task)
        return Entity(name, Kind.EXTERNAL, task, model, "", model, {"external_model": external}, traffic)


def as_endpoint(service: ServiceRecord, task: str) -> Record:
    """A model service as what calls are counted against: limits, metrics and faults go by its name."""
    return Record(
        name=service.name,
        id=stable_id(service.name),
        kind=FOUNDATION,
        task=task,
        creator=service.owner,
        created_ms=service.created_ms,
        updated_ms=service.updated_ms,
        settings=EndpointSettings(rate_limits=read_service_limits(service.config.get("rate_limits") or [])),
    )


def _check_traffic(destinations: Sequence[Json]) -> None:
    shares = [one.get("traffic_percentage") for one in destinations]
    if shares == [None]:
        return
    if not all(type(share) is int and 0 <= share <= 100 for share in shares) or sum_of(shares) != 100:
        raise invalid("traffic_percentage of the destinations must be integers from 0 to 100 that add up to 100")


def _provider_model(destination: Json) -> str:
    settings = read_object(destination[FORMS[EXTERNAL]], FORMS[EXTERNAL])
    model = read_object(settings.get("target") or {}, f"{FORMS[EXTERNAL]}.target").get("model")
    if not isinstance(model, str) or not model:
        raise invalid(f"{FORMS[EXTERNAL]}.target.model must be the provider's name of a model")
    return model


def _primary(config: Json) -> list[Json]:
    return (config.get("routing") or {}).get("destinations") or []  # type: ignore[attr-defined]


def _fallback(config: Json) -> list[Json]:
    return ((config.get("routing") or {}).get("fallback") or {}).get("destinations") or []  # type: ignore[attr-defined]
