"""Where each provider is called, with what credential, and what is refused before anything is sent. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from dbllm.local.errors import LocalError, Problem
from dbllm.local.gateway.providers import PROVIDERS, check, check_upstreams, target

LITERAL = "sk-literal-canary"
REFERENCE = "{{secrets/scope/key}}"
FULL: dict[str, dict[str, Any]] = {
    "openai": {"openai_api_key": REFERENCE},
    "anthropic": {"anthropic_api_key": REFERENCE},
    "cohere": {"cohere_api_key": REFERENCE},
    "ai21labs": {"ai21labs_api_key": REFERENCE},
    "amazon-bedrock": {
        "aws_region": "eu-west-1",
        "bedrock_provider": "anthropic",
        "aws_access_key_id": REFERENCE,
        "aws_secret_access_key": REFERENCE,
    },
    "google-cloud-vertex-ai": {"project_id": "p", "region": "r", "private_key": REFERENCE},
    "palm": {"palm_api_key": REFERENCE},
    "databricks-model-serving": {
        "databricks_workspace_url": "https://x.example.com",
        "databricks_api_token": REFERENCE,
    },
    "custom": {"custom_provider_url": "https://x.example.com", "bearer_token_auth": {"token": REFERENCE}},
}


def model(provider: str, **changes: object) -> dict[str, Any]:
    settings = {name: value for name, value in (FULL[provider] | changes).items() if value is not None}
    return {"provider": provider, "name": "m", "task": "llm/v1/chat", PROVIDERS[provider].config: settings}


def refused(external: object) -> str:
    with pytest.raises(Problem) as caught:
        check(external)
    assert (caught.value.status, caught.value.error_code) == (400, "INVALID_PARAMETER_VALUE")
    assert LITERAL not in caught.value.message
    return caught.value.message


def test_the_table_of_the_tests_has_every_provider() -> None:
    assert FULL.keys() == PROVIDERS.keys()


@pytest.mark.parametrize("provider", FULL)
def test_a_reference_is_enough_for_every_provider(provider: str) -> None:
    check(model(provider))


@pytest.mark.parametrize(
    ("provider", "name"), [(provider, name) for provider, known in PROVIDERS.items() for name in known.credentials[:1]]
)
def test_of_a_credential_and_its_plaintext_twin_exactly_one_is_given(provider: str, name: str) -> None:
    check(model(provider, **{name: None, f"{name}_plaintext": LITERAL}))
    assert "are both given" in refused(model(provider, **{f"{name}_plaintext": LITERAL}))
    assert f"'{name}' is missing" in refused(model(provider, **{name: None}))
    assert "a literal goes into" in refused(model(provider, **{name: LITERAL}))


@pytest.mark.parametrize("provider", FULL)
def test_a_setting_that_the_provider_does_not_have_is_named(provider: str) -> None:
    assert "has no setting 'api_key'" in refused(model(provider, api_key=LITERAL))


def test_a_role_stands_for_the_keys_of_bedrock() -> None:
    check(model("amazon-bedrock", aws_access_key_id=None, aws_secret_access_key=None, instance_profile_arn="arn"))


@pytest.mark.parametrize(
    ("external", "reason"),
    [
        (None, "must be an object"),
        ({"provider": "opnai"}, "must be one of ai21labs"),
        ({"provider": ["openai"]}, "must be one of ai21labs"),
        ({"provider": "openai"}, "needs the object 'openai_config'"),
        (model("openai") | {"task": "llm/v1/poetry"}, "'external_model.task' must be"),
        (model("openai") | {"name": ""}, "'external_model.name' must be"),
        (model("openai", openai_api_base="http://10.0.0.1/v1"), "plain http is for this machine only"),
        (model("openai", openai_api_base="ftp://x"), "must be https"),
        (model("openai", openai_api_base=f"https://u:{LITERAL}@x.example.com"), "must be https"),
        (model("openai", openai_api_type="azure"), "Azure OpenAI needs openai_api_base"),
        (model("databricks-model-serving", databricks_workspace_url=None), "needs 'databricks_workspace_url'"),
        (model("custom", custom_provider_url=None), "needs 'custom_provider_url'"),
        (model("custom", bearer_token_auth=None), "either 'bearer_token_auth' or 'api_key_auth'"),
        (model("custom", api_key_auth={"key": "k", "value": REFERENCE}), "either 'bearer_token_auth' or"),
        (model("custom", bearer_token_auth=None, api_key_auth={"key": "a b", "value": REFERENCE}), "name of a header"),
        (model("custom", bearer_token_auth={"token": LITERAL}), "must refer to a secret"),
        (model("openai", openai_api_key=None, openai_api_key_plaintext=f"{LITERAL}\n"), "printable ASCII"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(external: object, reason: str) -> None:
    assert reason in refused(external)


def aim(external: dict[str, Any], **upstreams: str) -> str:
    return target(external, external["task"], lambda _scope, _key: "secret-text", upstreams).url


def test_the_endpoints_own_base_wins_over_the_upstream_and_that_over_the_providers() -> None:
    assert aim(model("openai")) == "https://api.openai.com/v1/chat/completions"
    assert aim(model("anthropic")) == "https://api.anthropic.com/v1/messages"
    assert aim(model("cohere")) == "https://api.cohere.com/v2/chat"
    assert aim(model("openai"), openai="http://127.0.0.1:1/v1/") == "http://127.0.0.1:1/v1/chat/completions"
    own = model("openai", openai_api_base="https://own.example.com/v1")
    assert aim(own, openai="http://127.0.0.1:1/v1") == "https://own.example.com/v1/chat/completions"


def test_neither_a_target_nor_its_parts_show_the_credential() -> None:
    external = model("openai")
    assert "secret-text" not in repr(target(external, external["task"], lambda _scope, _key: "secret-text", {}))


def test_a_token_of_entra_would_have_to_be_fetched_which_is_not_done_here() -> None:
    entra = model("openai", openai_api_key=None, microsoft_entra_client_secret=REFERENCE, microsoft_entra_tenant_id="t")
    check(entra)
    with pytest.raises(Problem, match="Microsoft Entra"):
        aim(entra)


def test_anthropic_has_no_embeddings() -> None:
    with pytest.raises(Problem, match="no embedding models"):
        aim(model("anthropic") | {"task": "llm/v1/embeddings"})


@pytest.mark.parametrize(
    ("upstreams", "reason"),
    [
        ({"opnai": "local"}, "in place of anthropic, cohere, openai; there is no such 'opnai'"),
        ({"anthropic": "local"}, "must be https"),
        ({"openai": "http://10.0.0.1/v1"}, "plain http is for this machine only"),
    ],
)
def test_an_upstream_that_could_never_be_called_is_refused_at_the_start(upstreams: dict[str, str], reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        check_upstreams(upstreams)
    check_upstreams({"openai": "local", "cohere": "http://127.0.0.1:1"})
