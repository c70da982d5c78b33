"""External models: what each provider takes, and what is said about what it does not take."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from dbllm import ConfigError
from dbllm._management.external_models import PROVIDERS, checked_config, checked_model

LITERAL = "sk-live-4f9a1c77e0"
REFERENCE = "{{secrets/scope/key}}"
AZURE = {"openai_api_base": "https://x.openai.azure.com", "openai_api_version": "2024-06-01"}
AZURE["openai_deployment_name"] = "gpt-4"
AWS = {"aws_region": "eu-west-1", "bedrock_provider": "Anthropic"}

# (provider, its fields without secrets, the fields that are secrets, the object that these are in)
WAYS: list[tuple[str, dict[str, str], tuple[str, ...], str]] = [
    ("openai", {}, ("openai_api_key",), ""),
    ("openai", {"openai_api_type": "openai", "openai_organization": "org"}, ("openai_api_key",), ""),
    ("openai", {"openai_api_type": "azure", **AZURE}, ("openai_api_key",), ""),
    (
        "openai",
        {"openai_api_type": "azuread", **AZURE, "microsoft_entra_tenant_id": "t", "microsoft_entra_client_id": "c"},
        ("microsoft_entra_client_secret",),
        "",
    ),
    ("anthropic", {}, ("anthropic_api_key",), ""),
    ("cohere", {}, ("cohere_api_key",), ""),
    ("cohere", {"cohere_api_base": "https://api.cohere.example"}, ("cohere_api_key",), ""),
    ("ai21labs", {}, ("ai21labs_api_key",), ""),
    ("amazon-bedrock", AWS, ("aws_access_key_id", "aws_secret_access_key"), ""),
    ("amazon-bedrock", {**AWS, "instance_profile_arn": "arn:aws:iam::1:instance-profile/p"}, (), ""),
    ("amazon-bedrock", {**AWS, "uc_service_credential_name": "credential"}, (), ""),
    ("google-cloud-vertex-ai", {"project_id": "p", "region": "us-east1"}, ("private_key",), ""),
    ("palm", {}, ("palm_api_key",), ""),
    (
        "databricks-model-serving",
        {"databricks_workspace_url": "https://w.cloud.databricks.com"},
        ("databricks_api_token",),
        "",
    ),
    ("custom", {"custom_provider_url": "https://models.example.com/v1"}, ("token",), "bearer_token_auth"),
    ("custom", {"custom_provider_url": "http://127.0.0.1:9/v1"}, ("value",), "api_key_auth"),
]
OTHERS = [(way, other) for way, row in enumerate(WAYS) for other in PROVIDERS if other != row[0]]
KINDS = list(itertools.product(range(len(WAYS)), ("reference", "plain")))
PAIRS = [(way, kind, field) for way, kind in KINDS for field in WAYS[way][2]]


def model(way: int, kind: str = "reference", task: str = "llm/v1/chat") -> dict[str, Any]:
    """An external model whose secrets are all references, or all plain."""
    provider, fields, secrets, inside = WAYS[way]
    given = dict.fromkeys(secrets, REFERENCE)
    if kind == "plain":
        given = {f"{name}_plaintext": LITERAL for name in secrets}
    if inside == "api_key_auth":
        given["key"] = "x-api-key"
    block = {**fields, **({inside: given} if inside else given)}
    return {"provider": provider, "name": "m", "task": task, PROVIDERS[provider].key: block}


def block_of(made: dict[str, Any]) -> dict[str, Any]:
    return made[PROVIDERS[made["provider"]].key]


def holder(made: dict[str, Any], way: int) -> dict[str, Any]:
    """The object that has the secrets."""
    inside = WAYS[way][3]
    return block_of(made)[inside] if inside else block_of(made)


def said(made: object) -> str:
    """What is said against it; never a key."""
    with pytest.raises(ConfigError) as caught:
        checked_model(made)
    assert LITERAL not in str(caught.value)
    assert LITERAL not in repr(caught.value)
    return str(caught.value)


def test_the_table_has_all_nine_providers_and_this_one_too() -> None:
    assert len(PROVIDERS) == 9
    assert {way[0] for way in WAYS} == set(PROVIDERS)


@pytest.mark.parametrize("task", ["llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"])
@pytest.mark.parametrize(("way", "kind"), KINDS)
def test_a_whole_config_passes_and_is_left_as_it_was(way: int, kind: str, task: str) -> None:
    made = model(way, kind, task)
    before = copy.deepcopy(made)
    checked_model(made)
    assert made == before


@pytest.mark.parametrize(("way", "kind", "field"), PAIRS)
def test_a_reference_and_plain_text_together_are_one_too_many(way: int, kind: str, field: str) -> None:
    made = model(way, kind)
    holder(made, way).update({field: REFERENCE, f"{field}_plaintext": LITERAL})
    words = said(made)
    assert "both" in words
    assert f"{field}_plaintext" in words


@pytest.mark.parametrize(("way", "kind", "field"), PAIRS)
def test_neither_of_the_two_is_too_little(way: int, kind: str, field: str) -> None:
    made = model(way, kind)
    for name in (field, f"{field}_plaintext"):
        holder(made, way).pop(name, None)
    words = said(made)
    assert field in words
    assert f"{field}_plaintext" in words


@pytest.mark.parametrize(("way", "kind", "field"), [pair for pair in PAIRS if pair[1] == "reference"])
@pytest.mark.parametrize(
    "literal", [LITERAL, f"{{{{{LITERAL}}}}}", f"{{{{ secrets/{LITERAL}/k }}}}", f"secrets/{LITERAL}/k"]
)
def test_a_literal_where_a_reference_is_meant_is_told_where_it_goes(
    way: int, kind: str, field: str, literal: str
) -> None:
    made = model(way, kind)
    holder(made, way)[field] = literal
    words = said(made)
    assert "{{secrets/scope/key}}" in words
    assert f"{field}_plaintext" in words


@pytest.mark.parametrize(("way", "kind", "field"), [pair for pair in PAIRS if pair[1] == "plain"])
def test_a_reference_where_plain_text_is_meant_is_told_where_it_goes(way: int, kind: str, field: str) -> None:
    made = model(way, kind)
    holder(made, way)[f"{field}_plaintext"] = REFERENCE
    assert said(made).rstrip(".").endswith(field)


@pytest.mark.parametrize(("way", "kind", "field"), PAIRS)
@pytest.mark.parametrize("value", ["", "  ", 7, None, ["x"]])
def test_a_secret_is_a_text_that_is_not_empty(way: int, kind: str, field: str, value: object) -> None:
    made = model(way, kind)
    holder(made, way)[field + "_plaintext" * (kind == "plain")] = value
    assert field in said(made)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_typing_error_in_a_field_names_the_field_that_was_meant(way: int) -> None:
    made = model(way)
    block = block_of(made)
    for field in list(block):
        typed = copy.deepcopy(made)
        changed = block_of(typed)
        changed[field[:-2] + field[-1] + field[-2]] = changed.pop(field)
        assert f"Did you mean {field!r}?" in said(typed)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_field_of_another_world_gets_the_list_of_those_there_are(way: int) -> None:
    made = model(way)
    block_of(made)["zzz"] = LITERAL
    words = said(made)
    assert "'zzz'" in words
    assert "It takes" in words


@pytest.mark.parametrize(("way", "other"), OTHERS)
def test_the_config_of_another_provider_beside_it_is_refused(way: int, other: str) -> None:
    made = model(way)
    made[PROVIDERS[other].key] = {}
    assert repr(other) in said(made)


@pytest.mark.parametrize(("way", "other"), OTHERS)
def test_the_config_of_another_provider_alone_is_refused(way: int, other: str) -> None:
    assert PROVIDERS[other].key in said({**model(way), "provider": other})


@pytest.mark.parametrize("way", range(len(WAYS)))
@pytest.mark.parametrize("field", ["provider", "name", "task"])
def test_provider_name_and_task_are_needed(way: int, field: str) -> None:
    made = model(way)
    del made[field]
    assert f"needs {field}" in said(made)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_the_fields_that_a_provider_needs_are_needed(way: int) -> None:
    for field in PROVIDERS[WAYS[way][0]].needed.split():
        made = model(way)
        del block_of(made)[field]
        assert f"needs {field}" in said(made)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_without_its_config_a_provider_is_incomplete(way: int) -> None:
    made = model(way)
    key = PROVIDERS[made["provider"]].key
    del made[key]
    assert f"{key} is missing" in said(made)
    assert "must be a dict, got str" in said({**made, key: LITERAL})


def test_two_ways_to_prove_who_calls_are_one_too_many() -> None:
    made = model(8)
    block_of(made)["instance_profile_arn"] = "arn"
    assert "more than one" in said(made)
    made = model(14)
    block_of(made)["api_key_auth"] = {"key": "x", "value": REFERENCE}
    assert "more than one" in said(made)


def test_half_a_way_to_prove_who_calls_is_not_enough() -> None:
    made = model(8)
    del block_of(made)["aws_secret_access_key"]
    assert "neither aws_secret_access_key" in said(made)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("provider", "open-ai", "'openai'"),
        ("provider", "Anthropic", "'anthropic'"),
        ("task", "chat", "llm/v1/chat"),
        ("task", "llm/v1/embedding", "'llm/v1/embeddings'"),
        ("task", "llm/v2/chat", "'llm/v1/chat'"),
        ("providr", "x", "'provider'"),
    ],
)
def test_a_word_that_is_none_of_the_choices_gets_the_nearest(field: str, value: str, word: str) -> None:
    assert word in said({**model(0), field: value})


def test_azure_needs_its_base_version_and_deployment() -> None:
    for field in AZURE:
        made = model(2)
        del block_of(made)[field]
        assert f"needs {field}" in said(made)


def test_entra_fields_and_the_type_azuread_go_together() -> None:
    made = model(3)
    block_of(made)["openai_api_type"] = "azure"
    assert "azuread" in said(made)
    made = model(2)
    block_of(made)["openai_api_type"] = "azuread"
    assert "azuread" in said(made)


@pytest.mark.parametrize("address", ["http://models.example.com", "ftp://x", "models.example.com", "https://"])
def test_a_provider_outside_is_reached_by_https_only(address: str) -> None:
    made = model(14)
    block_of(made)["custom_provider_url"] = address
    assert "https://" in said(made)


@pytest.mark.parametrize("thing", [None, "openai", 3, ["openai"]])
def test_a_model_is_a_dict(thing: object) -> None:
    expected = "is missing" if thing is None else f"must be a dict, got {type(thing).__name__}"
    assert f"external_model {expected}" in said(thing)


def config(*models: dict[str, Any]) -> dict[str, Any]:
    return {"served_entities": [{"name": f"e{place}", "external_model": made} for place, made in enumerate(models)]}


def refused(given: object) -> str:
    with pytest.raises(ConfigError) as caught:
        checked_config(given)
    assert LITERAL not in str(caught.value)
    return str(caught.value)


def test_what_is_no_external_model_is_the_workspaces_to_judge() -> None:
    checked_config({})
    checked_config({"served_entities": [], "traffic_config": {"routes": []}, "new_field": 1})
    checked_config(
        {"served_entities": [{"entity_name": "a.b.c", "entity_version": "1", "environment_vars": {"K": "v"}}]}
    )
    checked_config({"served_models": [{"model_name": "m", "model_version": "1"}]})


def test_the_message_says_which_entity_it_is() -> None:
    bad = model(4)
    bad["anthropic_config"]["anthropic_api_key"] = LITERAL
    assert "served_entities[1].external_model.anthropic_config.anthropic_api_key" in refused(config(model(0), bad))


def test_the_models_of_one_endpoint_share_one_task() -> None:
    checked_config(config(model(0), model(4)))
    assert "one task" in refused(config(model(0), model(4, task="llm/v1/completions")))


def test_an_entity_is_an_external_model_or_a_registered_one() -> None:
    both = {"served_entities": [{"external_model": model(0), "entity_name": "a.b.c"}]}
    assert "give one of them" in refused(both)


def test_a_typing_error_in_external_model_is_named() -> None:
    assert "Did you mean 'external_model'?" in refused({"served_entities": [{"external_modle": model(0)}]})


@pytest.mark.parametrize(
    "given", [None, [], "x", {"served_entities": {}}, {"served_entities": ["x"]}, {"served_entities": "x"}]
)
def test_a_config_of_another_shape_is_refused(given: object) -> None:
    assert "dict" in refused(given) or "missing" in refused(given)


def test_a_null_is_as_good_as_nothing() -> None:
    made = model(0)
    made["openai_config"] |= {"openai_api_key_plaintext": None, "openai_api_type": None}
    checked_model({**made, "cohere_config": None})
