"""Checks the parts of a serving endpoint that a request brings, and gives them one form. All pure.

What comes out is JSON as Databricks REST shows it. No message repeats a value that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dbllm.local.errors import invalid
from dbllm.local.json_values import Json

ENDPOINT_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
ANY_REFERENCE = re.compile(r"\{\{secrets/([^/{}]+)/([^/{}]+)\}\}")
MAX_ENTITIES = 15
MAX_VARIABLES = 30
WORKLOAD_SIZES = ("Small", "Medium", "Large")
WORKLOAD_TYPES = (
    "CPU", "CPU_MEDIUM", "CPU_LARGE", "GPU_SMALL", "GPU_MEDIUM", "GPU_LARGE", "GPU_XLARGE", "GPU_XLARGE_8",
    "MULTIGPU_MEDIUM",
)  # fmt: skip
EXTERNAL_TASKS = ("llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings")
RATE_KEYS = ("user", "endpoint")
GATEWAY_KEYS = ("user", "endpoint", "user_group", "service_principal")
GATEWAY_PARTS = ("usage_tracking_config", "inference_table_config", "guardrails", "fallback_config")


def read_name(name: object) -> str:
    """A serving endpoint's name.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(name, str) or not ENDPOINT_NAME.fullmatch(name):
        raise invalid("An endpoint name is 1 to 63 alphanumeric characters, dashes and underscores")
    return name


def read_config(raw: object) -> Json:
    """A core config: `served_entities` with their names, and `traffic_config` with the routes to all of them.

    Unknown keys are left out, as Databricks leaves them out (mlflow and databricks-sdk send some).

    Raises:
        Problem: 400 with the reason.
    """
    config = read_object(raw, "config")
    entities = _read_entities(config)
    names = [str(entity["name"]) for entity in entities]
    read: Json = {"served_entities": entities, "traffic_config": {"routes": _read_routes(config, names)}}
    if config.get("auto_capture_config") is not None:
        read["auto_capture_config"] = read_object(config["auto_capture_config"], "auto_capture_config")
    return read


def _read_entities(config: Json) -> list[Json]:
    listed = config.get("served_entities")
    if listed is None and isinstance(config.get("served_models"), list):
        listed = [_modern(one) for one in _list(config["served_models"], "served_models")]
    if listed is None:
        raise invalid("config.served_entities is missing")
    entities = [_read_entity(one) for one in _list(listed, "served_entities")]
    if not 1 <= len(entities) <= MAX_ENTITIES:
        raise invalid(f"An endpoint has 1 to {MAX_ENTITIES} served entities, not {len(entities)}")
    names = [entity["name"] for entity in entities]
    if len(set(names)) < len(names):
        raise invalid("The names of the served entities must differ")
    if len({"external_model" in entity for entity in entities}) > 1:
        raise invalid("An endpoint serves either external models or other models, not both")
    if len({_task(entity) for entity in entities}) > 1:
        raise invalid("All external models of an endpoint must have the same task")
    return entities


def _modern(served_model: object) -> Json:
    """A served entity in today's form, from the deprecated one."""
    one = dict(read_object(served_model, "served_models[]"))
    for before, now in (("model_name", "entity_name"), ("model_version", "entity_version")):
        if before in one:
            one[now] = one.pop(before)
    return one


def _read_entity(raw: object) -> Json:
    fields = {key: value for key, value in read_object(raw, "served_entities[]").items() if value is not None}
    if ("external_model" in fields) == ("entity_name" in fields):
        raise invalid("A served entity has exactly one of external_model and entity_name")
    entity = _read_external(fields) if "external_model" in fields else _read_model(fields)
    name = fields.get("name", _default_name(entity))
    if not isinstance(name, str) or not ENDPOINT_NAME.fullmatch(name):
        raise invalid("A served entity's name is 1 to 63 alphanumeric characters, dashes and underscores")
    return {"name": name, **entity}


def _read_external(fields: Json) -> Json:
    model = dict(read_object(fields["external_model"], "external_model"))
    for field in ("provider", "name", "task"):
        if not isinstance(model.get(field), str) or not model[field]:
            raise invalid(f"external_model.{field} is missing")
    if model["task"] not in EXTERNAL_TASKS:
        raise invalid(f"external_model.task must be one of {', '.join(EXTERNAL_TASKS)}")
    return {"external_model": model}


def _read_model(fields: Json) -> Json:
    if not isinstance(fields["entity_name"], str) or not 0 < len(fields["entity_name"]) <= 255:
        raise invalid("entity_name must be a model's name, such as catalog.schema.model")
    entity: Json = {"entity_name": fields["entity_name"]}
    version = fields.get("entity_version", "1")
    if not isinstance(version, str) or not version.isascii() or not version.isdigit() or len(version) > 9:
        raise invalid("entity_version must be a number, as text")
    entity["entity_version"] = version
    for field, known in (("workload_size", WORKLOAD_SIZES), ("workload_type", WORKLOAD_TYPES)):
        if field in fields:
            if fields[field] not in known:
                raise invalid(f"{field} must be one of {', '.join(known)}")
            entity[field] = fields[field]
    for field in ("scale_to_zero_enabled", "burst_scaling_enabled"):
        if field in fields:
            if not isinstance(fields[field], bool):
                raise invalid(f"{field} must be true or false")
            entity[field] = fields[field]
    for field in (
        "min_provisioned_throughput", "max_provisioned_throughput", "min_provisioned_concurrency",
        "max_provisioned_concurrency", "provisioned_model_units",
    ):  # fmt: skip
        if field in fields:
            entity[field] = _natural_number(fields[field], field)
    if "environment_vars" in fields:
        entity["environment_vars"] = _read_variables(fields["environment_vars"])
    if isinstance(fields.get("instance_profile_arn"), str):
        entity["instance_profile_arn"] = fields["instance_profile_arn"]
    return entity


def _read_variables(raw: object) -> Json:
    variables = read_object(raw, "environment_vars")
    if len(variables) > MAX_VARIABLES:
        raise invalid(f"A served entity has at most {MAX_VARIABLES} environment variables")
    if not all(isinstance(value, str) for value in variables.values()):
        raise invalid("The values of environment_vars must be text")
    return variables


def _default_name(entity: Json) -> str:
    if "external_model" in entity:
        text = str(read_object(entity["external_model"], "external_model")["name"])
    else:
        text = f"{entity['entity_name']}-{entity['entity_version']}"
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)[:63]


def _read_routes(config: Json, names: Sequence[str]) -> list[Json]:
    traffic = config.get("traffic_config")
    routes = read_object(traffic, "traffic_config").get("routes") if traffic is not None else None
    if routes is None:
        if len(names) > 1:
            raise invalid("traffic_config.routes is missing: say how the calls are split between the served entities")
        return [_route(names[0], 100)]
    read = [_read_route(route, names) for route in _list(routes, "traffic_config.routes")]
    if len({name for name, _ in read}) < len(read):
        raise invalid("traffic_config.routes names a served entity twice")
    if sum(share for _, share in read) != 100:
        raise invalid("The traffic percentages must add up to 100")
    return [_route(name, share) for name, share in read]


def _read_route(raw: object, names: Sequence[str]) -> tuple[str, int]:
    route = read_object(raw, "traffic_config.routes[]")
    name = route.get("served_entity_name") or route.get("served_model_name")
    if not isinstance(name, str) or name not in names:
        raise invalid("A route of traffic_config names no served entity of this config")
    share = _natural_number(route.get("traffic_percentage"), "traffic_percentage")
    if share > 100:
        raise invalid("traffic_percentage must be 0 to 100")
    return name, share


def _route(name: str, share: int) -> Json:
    return {"served_model_name": name, "served_entity_name": name, "traffic_percentage": share}


def _task(entity: Json) -> object:
    model = entity.get("external_model")
    return model.get("task") if isinstance(model, dict) else None


def read_rate_limits(raw: object) -> list[Json]:
    """The `rate_limits` beside a config: calls per minute of the endpoint or of each user.

    Raises:
        Problem: 400 with the reason.
    """
    return [_read_limit(one, RATE_KEYS, ("calls",)) for one in _list(raw, "rate_limits")]


def read_gateway(raw: object) -> Json:
    """An `ai_gateway` config.

    Raises:
        Problem: 400 with the reason.
    """
    fields = read_object(raw, "ai_gateway")
    read: Json = {part: read_object(fields[part], part) for part in GATEWAY_PARTS if fields.get(part) is not None}
    fallback = read.get("fallback_config")
    if isinstance(fallback, dict) and not isinstance(fallback.get("enabled"), bool):
        raise invalid("fallback_config.enabled must be true or false")
    if fields.get("rate_limits") is not None:
        limits = _list(fields["rate_limits"], "rate_limits")
        read["rate_limits"] = [_read_limit(one, GATEWAY_KEYS, ("calls", "tokens")) for one in limits]
    return read


def _read_limit(raw: object, keys: Sequence[str], units: Sequence[str]) -> Json:
    fields = {name: value for name, value in read_object(raw, "rate_limits[]").items() if value is not None}
    if fields.get("renewal_period", "minute") != "minute":
        raise invalid("renewal_period must be minute")
    key = fields.get("key", "endpoint")
    if key not in keys:
        raise invalid(f"The key of a rate limit must be one of {', '.join(keys)}")
    read: Json = {"renewal_period": "minute", "key": key}
    read.update({unit: _natural_number(fields[unit], unit) for unit in units if unit in fields})
    if not any(unit in read for unit in units):
        raise invalid(f"A rate limit needs {' or '.join(units)}")
    if key in ("user_group", "service_principal"):
        if not isinstance(fields.get("principal"), str):
            raise invalid(f"A rate limit with the key {key} needs a principal")
        read["principal"] = fields["principal"]
    return read


def read_tags(raw: object, what: str = "tags") -> dict[str, str | None]:
    """Tags by key; the value may be missing.

    Raises:
        Problem: 400 with the reason.
    """
    tags: dict[str, str | None] = {}
    for one in _list(raw, what):
        tag = read_object(one, f"{what}[]")
        key, value = tag.get("key"), tag.get("value")
        if not isinstance(key, str) or not key or not (value is None or isinstance(value, str)):
            raise invalid(f"{what} is a list of objects with a key and a value, which are text")
        tags[key] = value
    return tags


def references(value: object) -> Iterator[tuple[str, str]]:
    """Every secret, as (scope, key), that a JSON value refers to as `{{secrets/scope/key}}`."""
    if isinstance(value, str):
        yield from ANY_REFERENCE.findall(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def without_plaintext(value: object) -> object:
    """A JSON value as it may be shown: no `*_plaintext` in it."""
    if isinstance(value, Mapping):
        pairs = ((key, inner) for key, inner in value.items() if not str(key).endswith("_plaintext"))
        return {key: without_plaintext(inner) for key, inner in pairs}
    if isinstance(value, list):
        return [without_plaintext(inner) for inner in value]
    return value


def read_object(value: object, what: str) -> Json:
    """A JSON object.

    Raises:
        Problem: 400, it is something else.
    """
    if not isinstance(value, dict):
        raise invalid(f"{what} must be an object")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise invalid(f"{what} must be a list")
    return value


def _natural_number(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise invalid(f"{what} must be an integer that is not negative")
    return value
