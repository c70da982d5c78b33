"""Model provider services: where external models are, and with which secret they are called. All pure.

A provider service is the successor of the settings in `external_model` of a served entity, and is turned into them when
it is called. Its key is a reference to a secret: `{"secret_reference": {"name": "secrets/main.default.openai"}}` is the
secret `openai` of the scope `main.default`, for the workspace keeps Unity Catalog's secrets as scopes that are named
catalog.schema; `{{secrets/scope/key}}` names one of any scope.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from dbllm.local.access.permissions import Caller
from dbllm.local.errors import Problem, invalid
from dbllm.local.json_values import Json
from dbllm.local.management import service_record
from dbllm.local.management.endpoint_config import read_object, references
from dbllm.local.management.service_limits import read_service_limits
from dbllm.local.management.service_record import ServiceRecord

PREFIX = "EXTERNAL_MODEL_PROVIDER_TYPE_"
FORMS: Mapping[str, str] = {
    f"{PREFIX}{field.upper()}": field
    for field in (
        "amazon_bedrock", "anthropic", "azure_openai", "bedrock_mantle", "custom", "gemini_enterprise",
        "microsoft_foundry", "openai",
    )
}  # fmt: skip
"""Provider type → the field with its settings."""
CALLED = ("anthropic", "azure_openai", "custom", "openai")
"""Those that the local workspace can call; of the others it keeps the settings."""
UNIFIED = ("chat/completions", "responses", "embeddings")
NATIVE_TYPES: Mapping[str, Sequence[str]] = {
    **{f"openai/v1/{path}": (f"mlflow/v1/{path}", f"openai/v1/{path}") for path in UNIFIED},
    **{f"mlflow/v1/{path}": (f"mlflow/v1/{path}",) for path in UNIFIED},
    "anthropic/v1/messages": ("anthropic/v1/messages", "mlflow/v1/chat/completions", "openai/v1/chat/completions"),
}
"""API type of a provider → the API types of the gateway that are translated to it."""
FIELDS = ("provider_type", "targets", "allow_all_targets", "rate_limits", "inference_table", "pricing")
FLAGS = ("allow_all_targets", "forward_headers", "forward_query_parameters", "forward_unmanaged_paths")
REFERENCE = re.compile(r"\{\{secrets/[\w.@-]{1,128}/[\w.@-]{1,128}\}\}", re.ASCII)
API_VERSION = "2024-10-21"
"""Of Azure OpenAI, which model provider services do not name."""


class ProviderServiceRules:
    """What model provider services have of their own.

    Args:
        may_read: raises a Problem unless the caller may read a secret, by scope and key.
        check_external: raises a Problem for settings that cannot be used.
    """

    kind = "model-provider-services"
    securable = "model_provider_service"
    masks: Mapping[str, Sequence[str]] = {
        "comment": ("comment",),
        "config": ("config",),
        "config.provider": tuple(f"config.{field}" for field in FORMS.values()),
        **{f"config.{name}": (f"config.{name}",) for name in ("targets", "rate_limits", "inference_table", *FLAGS)},
        "config.pricing.default_discount_basis_points": ("config.pricing.default_discount_basis_points",),
    }
    example: Json = {
        "provider_type": f"{PREFIX}OPENAI",
        "openai": {"direct": {"api_key": {"secret_reference": {"name": "{{secrets/s/k}}"}}}},
        "targets": [{"model": "gpt-5", "native_api_types": ["openai/v1/chat/completions"]}],
    }

    def __init__(
        self, may_read: Callable[[Caller, str, str], None], check_external: Callable[[Mapping[str, object]], object]
    ) -> None:
        self._may_read = may_read
        self._check_external = check_external

    def check(self, config: object, caller: Caller, before: Json | None) -> Json:
        """A config that can be kept."""
        fields = {name: value for name, value in read_object(config, "config").items() if value is not None}
        known = {*FIELDS, *FLAGS, *FORMS.values()}
        for name in fields:
            if name not in known:
                raise invalid(f"config has no field '{name[:60]}'; it has {', '.join(sorted(known))}")
        kind = fields.get("provider_type")
        if kind not in FORMS:
            raise invalid(f"config.provider_type must be one of {', '.join(FORMS)}")
        if before is not None and before["provider_type"] != kind:
            raise invalid(f"config.provider_type cannot be changed; it is {before['provider_type']}")
        if [name for name in FORMS.values() if name in fields] != [FORMS[str(kind)]]:
            raise invalid(f"config of the provider type {kind} needs '{FORMS[str(kind)]}' and none of another provider")
        for flag in FLAGS:
            if not isinstance(fields.get(flag, False), bool):
                raise invalid(f"config.{flag} must be true or false")
        if "pricing" in fields:
            read_object(fields["pricing"], "config.pricing")
        fields["targets"] = _targets(fields)
        read_service_limits(fields.get("rate_limits") or [])
        settings = read_object(fields[FORMS[str(kind)]], f"config.{FORMS[str(kind)]}")
        _refuse_plaintext(settings, f"config.{FORMS[str(kind)]}")
        if FORMS[str(kind)] in CALLED:
            self._check_external(external_model(fields, "model", "llm/v1/chat"))
        for scope, key in references(_with_references(settings)):
            self._may_read(caller, scope, key)
        return fields

    def show(self, service: ServiceRecord, *, full: bool) -> Json:
        """The service as JSON."""
        hidden = () if full else ("inference_table",)
        return service_record.resource(service, self.kind, service_record.without(service.config, *hidden))


def _targets(fields: Json) -> list[Json]:
    listed = fields.get("targets") or []
    if not isinstance(listed, list) or (not listed and not fields.get("allow_all_targets")):
        raise invalid("config.targets must list the models that can be called, or config.allow_all_targets be true")
    if fields["provider_type"] == f"{PREFIX}CUSTOM" and fields.get("allow_all_targets"):
        raise invalid(
            "A custom provider has no catalog of models: leave config.allow_all_targets out, and list targets"
        )
    for target in listed:
        types = read_object(target, "config.targets[]").get("native_api_types")
        if not isinstance(target.get("model"), str) or not target["model"]:
            raise invalid("config.targets[].model must be the provider's name of a model")
        if not isinstance(types, list) or not types or not all(isinstance(one, str) for one in types):
            raise invalid(f"config.targets[].native_api_types must list API types, such as {', '.join(NATIVE_TYPES)}")
        route = target.get("endpoint_route") or ""
        if not isinstance(route, str) or (route and fields["provider_type"] != f"{PREFIX}CUSTOM"):
            raise invalid("config.targets[].endpoint_route is for custom providers, and is a path")
        if not re.fullmatch(r"[\w./~-]*", route, re.ASCII):
            raise invalid("config.targets[].endpoint_route must be a path without templates, query and fragment")
    return listed


def _refuse_plaintext(value: object, where: str) -> None:
    """The workspace keeps no keys outside of its secrets, so that every reading can be seen and revoked there."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if name == "plaintext":
            hint = '{"secret_reference": {"name": "secrets/catalog.schema.key"}}'
            raise invalid(f"{where} must refer to a secret instead of a plaintext: {hint}")
        _refuse_plaintext(inner, f"{where}.{name}")


def types_of(config: Json, model: str) -> Sequence[str]:
    """The API types of the gateway that a provider's model can be called by; none if it has no such model."""
    for target in config["targets"]:  # type: ignore[attr-defined]
        if target["model"] == model:
            listed = [ours for native in target["native_api_types"] for ours in NATIVE_TYPES.get(native, ())]
            return list(dict.fromkeys(listed))
    if not config.get("allow_all_targets"):
        return ()
    native = "anthropic/v1/messages" if "anthropic" in config else "openai/v1/chat/completions"
    return NATIVE_TYPES[native]


def external_model(config: Json, model: str, task: str) -> Json:
    """The settings of a provider service as the `external_model` of a served entity.

    Raises:
        Problem: 501, a provider that the workspace cannot call.
    """
    field = FORMS[str(config["provider_type"])]
    direct = read_object(
        _with_references(read_object(config[field], field)).get("direct") or {}, f"config.{field}.direct"
    )
    named: Json = {"name": model, "task": task}
    key = direct.get("api_key")
    if field == "anthropic":
        return {**named, "provider": "anthropic", "anthropic_config": {"anthropic_api_key": key}}
    if field == "custom":
        header = direct.get("header_auth")
        auth: Json = {"bearer_token_auth": {"token": key}}
        if isinstance(header, Mapping):
            auth = {"api_key_auth": {"key": header.get("api_key_name"), "value": header.get("api_key_value")}}
        base, route = str(direct.get("base_url") or "").rstrip("/"), _endpoint_route(config, model)
        return {
            **named,
            "provider": "custom",
            "custom_provider_config": {"custom_provider_url": f"{base}/{route}" if route else base, **auth},
        }
    if field in ("openai", "azure_openai"):
        settings: Json = {"openai_api_key": key, "openai_api_base": direct.get("base_url") or ""}
        if organization := direct.get("organization"):
            settings["openai_organization"] = organization
        if field == "azure_openai":
            settings |= {"openai_api_type": "azure", "openai_deployment_name": model, "openai_api_version": API_VERSION}
        return {**named, "provider": "openai", "openai_config": settings}
    raise Problem(
        501,
        "NOT_IMPLEMENTED",
        f"The local workspace keeps provider services of '{field}', but cannot call it. It calls {', '.join(CALLED)}.",
    )


def _endpoint_route(config: Json, model: str) -> str:
    targets = config.get("targets") or ()
    found = (one.get("endpoint_route") for one in targets if one["model"] == model)  # type: ignore[attr-defined]
    return str(next(found, None) or "").strip("/")


def _with_references(settings: Json) -> Json:
    """Settings whose references to secrets have the form `{{secrets/scope/key}}`."""
    return {
        name: _reference(inner) if isinstance(inner, Mapping) and "secret_reference" in inner
        else _with_references(dict(inner)) if isinstance(inner, Mapping)
        else inner
        for name, inner in settings.items()
    }  # fmt: skip


def _reference(secret: Mapping[str, object]) -> str:
    reference = secret["secret_reference"]
    name = reference.get("name") if isinstance(reference, Mapping) else reference
    if isinstance(name, str) and REFERENCE.fullmatch(name):
        return name
    path = service_record.resource_id(name, "secrets") or ""
    scope, dot, key = path.rpartition("/") if "/" in path else path.rpartition(".")
    reference_text = f"{{{{secrets/{scope}/{key}}}}}"
    if not dot or not REFERENCE.fullmatch(reference_text):
        raise invalid("secret_reference.name must be secrets/catalog.schema.key, or {{secrets/scope/key}}")
    return reference_text
