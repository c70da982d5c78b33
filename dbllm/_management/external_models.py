"""External models in an endpoint's config: what each provider needs, checked before anything is sent. Pure.

Providers and fields are those of Databricks' REST interface (`served_entities[].external_model`). No message shows a
value that could be a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .._lazy import WholeImport
from .._urls import is_loopback
from ..errors import ConfigError


class Block(NamedTuple):
    """The fields of one config block, separated by spaces.

    `name*` is a secret: a reference `{{secrets/scope/key}}` as `name`, or the secret itself as `name_plaintext`.

    Attributes:
        key: the field that holds the block.
        proof: the fields with credentials; of several ways, separated by `|`, exactly one is given.
        needed, optional: the other fields.
    """

    key: str
    proof: str
    needed: str = ""
    optional: str = ""


_ENTRA = "microsoft_entra_tenant_id microsoft_entra_client_id microsoft_entra_client_secret*"
_AZURE = "openai_api_base openai_api_version openai_deployment_name"
_AWS = "aws_access_key_id* aws_secret_access_key* | instance_profile_arn | uc_service_credential_name"

PROVIDERS: dict[str, Block] = {
    "openai": Block(
        "openai_config", f"openai_api_key* | {_ENTRA}", "", f"openai_api_type openai_organization {_AZURE}"
    ),
    "anthropic": Block("anthropic_config", "anthropic_api_key*"),
    "cohere": Block("cohere_config", "cohere_api_key*", "", "cohere_api_base"),
    "ai21labs": Block("ai21labs_config", "ai21labs_api_key*"),
    "amazon-bedrock": Block("amazon_bedrock_config", _AWS, "aws_region bedrock_provider"),
    "google-cloud-vertex-ai": Block("google_cloud_vertex_ai_config", "private_key*", "project_id region"),
    "palm": Block("palm_config", "palm_api_key*"),
    "databricks-model-serving": Block(
        "databricks_model_serving_config", "databricks_api_token*", "databricks_workspace_url"
    ),
    "custom": Block("custom_provider_config", "bearer_token_auth | api_key_auth", "custom_provider_url"),
}
NESTED = {
    "bearer_token_auth": Block("bearer_token_auth", "token*"),
    "api_key_auth": Block("api_key_auth", "value*", "key"),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "provider": tuple(PROVIDERS),
    "task": ("llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"),
    "openai_api_type": ("openai", "azure", "azuread"),
    "bedrock_provider": ("anthropic", "cohere", "ai21labs", "amazon"),
}
_ADDRESSES = ("custom_provider_url", "databricks_workspace_url", "openai_api_base", "cohere_api_base")
_REFERENCE = re.compile(r"\{\{secrets/[^/{}\s]+/[^/{}\s]+\}\}")


def checked_config(config: object) -> None:
    """Check the external models in an endpoint's config; the workspace checks everything else.

    Raises:
        ConfigError: one of them cannot work; the message says where, and what to write instead.
    """
    entities = _require_mapping(config, "config").get("served_entities")
    if not isinstance(entities, (list, tuple, type(None))):
        raise ConfigError(f"served_entities must be a list of dicts, got {type(entities).__name__}.")
    tasks = set()
    for place, entity in enumerate(entities or ()):
        where = f"served_entities[{place}]"
        for key in _require_mapping(entity, where):
            if key != "external_model" and (near := _near(key, ("external_model",))):
                raise ConfigError(f"{where} does not take {key!r}.{near}")
        if "external_model" in entity:
            if both := {"entity_name", "entity_version"} & entity.keys():
                raise ConfigError(f"{where} has both external_model and {min(both)}: give one of them.")
            checked_model(entity["external_model"], f"{where}.external_model")
            tasks.add(entity["external_model"]["task"])
    if len(tasks) > 1:
        raise ConfigError(f"all external models of an endpoint must have one task, got {', '.join(sorted(tasks))}.")


def checked_model(model: object, where: str = "external_model") -> None:
    """Check one external model: provider, name, task and the provider's own config.

    Raises:
        ConfigError: as `checked_config`.
    """
    model = _require_mapping(model, where)
    owners = {block.key: provider for provider, block in PROVIDERS.items()}
    _refuse_unknown(model, ("provider", "name", "task", *owners), where)
    for field in ("provider", "name", "task"):
        _require_text(model, field, where)
    block = PROVIDERS[model["provider"]]
    for key in owners.keys() & model.keys() - {block.key}:
        raise ConfigError(f"{where} has {key}, which is for {owners[key]!r}; {model['provider']!r} needs {block.key}.")
    inside = f"{where}.{block.key}"
    fields = _require_mapping(model.get(block.key), inside)
    _check_block(fields, block, inside)
    kind = fields.get("openai_api_type")
    if (kind == "azuread") != ("microsoft_entra_tenant_id" in fields):
        raise ConfigError(
            f"{inside}: openai_api_type 'azuread' needs the microsoft_entra_… fields, and 'azure' (or no type, for "
            "OpenAI's own service) needs openai_api_key."
        )
    for field in _AZURE.split() if kind in ("azure", "azuread") else ():
        _require_text(fields, field, inside)


def _check_block(given: Mapping[str, Any], block: Block, where: str) -> None:
    ways = [way.split() for way in block.proof.split("|")]
    named = [*block.needed.split(), *block.optional.split(), *(field for way in ways for field in way)]
    _refuse_unknown(given, [name for field in named for name in _spellings(field)], where)
    begun = [way for way in ways if any(name in given for field in way for name in _spellings(field))]
    if len(begun) != 1:
        choice = "; or ".join(" and ".join(" or ".join(_spellings(field)) for field in way) for way in ways)
        has = "has no credentials" if not begun else "has more than one kind of credentials"
        raise ConfigError(f"{where} {has}. It takes {choice}.")
    optional = (field for field in block.optional.split() if field in given)
    for field in (*block.needed.split(), *begun[0], *optional):
        if field.endswith("*"):
            _check_secret(given, field[:-1], where)
        elif field in NESTED:
            _check_block(_require_mapping(given[field], f"{where}.{field}"), NESTED[field], f"{where}.{field}")
        else:
            _require_text(given, field, where)


def _spellings(field: str) -> tuple[str, ...]:
    return (field[:-1], field[:-1] + "_plaintext") if field.endswith("*") else (field,)


def _check_secret(given: Mapping[str, Any], name: str, where: str) -> None:
    plain = f"{name}_plaintext"
    if (name in given) == (plain in given):
        raise ConfigError(f"{where} has {'both' if name in given else 'neither'} {name} and {plain}: give one of them.")
    value = _require_text(given, name if name in given else plain, where)
    if name in given and not _REFERENCE.fullmatch(value):
        raise ConfigError(
            f"{where}.{name} must have the form {{{{secrets/scope/key}}}}. Put the key into a secret and refer to it, "
            f"or give the key itself as {plain}."
        )
    if plain in given and value.strip().startswith("{{"):
        raise ConfigError(f"{where}.{plain} must be the key itself; give a reference to a secret as {name}.")


def _require_mapping(value: object, where: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None}  # null means the same as no field
    raise ConfigError(f"{where} {'is missing' if value is None else f'must be a dict, got {type(value).__name__}'}.")


def _require_text(given: Mapping[str, Any], field: str, where: str) -> str:
    value = given.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} needs {field}, a str that is not empty.")
    choices = CHOICES.get(field, ())
    if choices and value not in choices and not (field == "bedrock_provider" and value.lower() in choices):
        raise ConfigError(f"{where}.{field} must be one of {', '.join(choices)}, got {value!r}.{_near(value, choices)}")
    if field in _ADDRESSES:
        parts = urlsplit(value)
        local = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if not parts.hostname or not (local or parts.scheme == "https"):
            raise ConfigError(f"{where}.{field} must be an https:// address (http:// only on this machine).")
    return value


def _refuse_unknown(given: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in given:
        if key not in names:
            raise ConfigError(f"{where} does not take {key!r}.{_near(key, names) or ' It takes: ' + ', '.join(names)}")


def _near(name: object, choices: Sequence[str]) -> str:
    with WholeImport():
        from difflib import get_close_matches  # rarely needed, and slow to import

    near = get_close_matches(str(name), choices, 1, 0.75)
    return f" Did you mean {near[0]!r}?" if near else ""
