"""The providers of external models: which settings each has, and where and with what credential it is called. All pure.

The names of providers and settings are those of Databricks REST (`external_model` of a served entity). A credential is
a reference to a secret, `{{secrets/scope/key}}`, or stands in the setting's twin that ends in `_plaintext`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from dbllm.local.errors import LocalError, Problem
from dbllm.local.gateway.anthropic import API_VERSION, Anthropic
from dbllm.local.gateway.cohere import Cohere
from dbllm.local.gateway.dialect import CHAT, COMPLETIONS, EMBEDDINGS, Dialect, OpenAI
from dbllm.local.gateway.reach import PUBLIC, Reach
from dbllm.local.http.client import is_loopback

ProviderSettings = Mapping[str, object]
Secrets = Callable[[str, str], "str | None"]
"""The text of a secret by scope and key; None when there is none."""

SECRET_REFERENCE = re.compile(r"\{\{secrets/([\w.@-]{1,128})/([\w.@-]{1,128})\}\}")


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider.

    Attributes:
        config: the key of its settings in `external_model`.
        settings: the plain settings it knows.
        credentials: the settings that are secrets.
        base: where it is called when nothing else is said; None when its settings must say it.
        dialect: its wire format; None when this workspace does not speak it.
    """

    config: str
    settings: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    base: str | None = None
    dialect: Dialect | None = None


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider(
        "openai_config",
        (
            "openai_api_type",
            "openai_api_base",
            "openai_api_version",
            "openai_deployment_name",
            "openai_organization",
            "microsoft_entra_tenant_id",
            "microsoft_entra_client_id",
        ),
        ("openai_api_key", "microsoft_entra_client_secret"),
        "https://api.openai.com/v1",
        OpenAI(),
    ),
    "anthropic": Provider("anthropic_config", (), ("anthropic_api_key",), "https://api.anthropic.com/v1", Anthropic()),
    "cohere": Provider("cohere_config", ("cohere_api_base",), ("cohere_api_key",), "https://api.cohere.com", Cohere()),
    "databricks-model-serving": Provider(
        "databricks_model_serving_config", ("databricks_workspace_url",), ("databricks_api_token",), None, OpenAI()
    ),
    "custom": Provider(
        "custom_provider_config", ("custom_provider_url", "bearer_token_auth", "api_key_auth"), (), None, OpenAI()
    ),
    "ai21labs": Provider("ai21labs_config", (), ("ai21labs_api_key",)),
    "amazon-bedrock": Provider(
        "amazon_bedrock_config",
        ("aws_region", "bedrock_provider", "instance_profile_arn", "uc_service_credential_name"),
        ("aws_access_key_id", "aws_secret_access_key"),
    ),
    "google-cloud-vertex-ai": Provider("google_cloud_vertex_ai_config", ("project_id", "region"), ("private_key",)),
    "palm": Provider("palm_config", (), ("palm_api_key",)),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where one request goes.

    Attributes:
        url: the whole URL.
        headers: with the credential in them.
        credential: the credential alone, so that it can be taken out of what is shown.
        dialect: the provider's wire format.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    credential: str = field(repr=False)
    dialect: Dialect


def check(external: object, *, reach: Reach = PUBLIC) -> None:
    """Look at the `external_model` of a served entity, as far as that goes without calling anyone.

    Raises:
        Problem: 400 with what is wrong; it never shows a credential.
    """
    if not isinstance(external, Mapping):
        raise _invalid("'external_model' must be an object")
    provider, settings = _provider(external)
    if external.get("task") not in (CHAT, COMPLETIONS, EMBEDDINGS):
        raise _invalid(f"'external_model.task' must be {CHAT}, {COMPLETIONS} or {EMBEDDINGS}")
    if not isinstance(external.get("name"), str) or not external["name"]:
        raise _invalid("'external_model.name' must be the provider's name of the model")
    known = {*provider.settings, *provider.credentials, *(f"{name}_plaintext" for name in provider.credentials)}
    for name in settings:
        if name not in known:
            raise _invalid(f"'{provider.config}' has no setting '{name}'; it has {', '.join(sorted(known))}")
    for name in _needed(external, settings):
        _form(settings, name)
    if provider.dialect is not None:
        _place(external, {}, reach)


OWN_UPSTREAM = "local"
"""In place of a URL: the workspace's own upstream, for `openai`."""


def check_upstreams(upstreams: Mapping[str, str]) -> None:
    """Look at base URLs that are to stand in place of providers' own.

    Raises:
        LocalError: nobody has that name, or the URL cannot be called.
    """
    known = sorted(name for name, provider in PROVIDERS.items() if provider.base is not None)
    for name, url in upstreams.items():
        if name not in known:
            raise LocalError(f"An upstream can stand in place of {', '.join(known)}; there is no such '{name}'.")
        if name == "openai" and url == OWN_UPSTREAM:
            continue
        try:
            _checked(url)
        except Problem as problem:
            raise LocalError(f"The upstream of {name} cannot be used: {problem.message}") from problem


def target(
    external: ProviderSettings, task: str, secrets: Secrets, upstreams: Mapping[str, str], reach: Reach = PUBLIC
) -> Target:
    """Where and how to ask an external model.

    Args:
        external: the `external_model` of the served entity.
        task: the task of the request.
        secrets: looks up a secret.
        upstreams: base URLs by provider, in place of the providers' own.
        reach: which servers the endpoint's own settings may name.

    Raises:
        Problem: 501 for a provider whose wire format is not spoken here, 400 for settings that cannot work.
    """
    provider, settings = _provider(external)
    if provider.dialect is None:
        raise Problem(
            501,
            "NOT_IMPLEMENTED",
            f"The local workspace keeps endpoints of the provider '{external['provider']}', but cannot call it. "
            f"It calls {', '.join(sorted(name for name, known in PROVIDERS.items() if known.dialect))}.",
        )
    place = _place(external, upstreams, reach)
    path = provider.dialect.path(task)
    if external["provider"] == "databricks-model-serving":
        path = f"/serving-endpoints/{quote(str(external['name']), safe='')}/invocations"
    elif _azure(settings):
        deployment = quote(str(settings.get("openai_deployment_name", "")), safe="")
        path = f"/openai/deployments/{deployment}{path}?{urlencode({'api-version': settings['openai_api_version']})}"
    # The custom provider's URL is the whole one, or its base.
    url = place if external["provider"] == "custom" and place.endswith(path) else place + path
    name, words, credential = _credential(external, settings, secrets)
    headers = {"content-type": "application/json", name: f"{words}{credential}"}
    if external["provider"] == "anthropic":
        headers["anthropic-version"] = API_VERSION
    if organization := settings.get("openai_organization"):
        headers["openai-organization"] = str(organization)
    return Target(url, headers, credential, provider.dialect)


def _provider(external: ProviderSettings) -> tuple[Provider, ProviderSettings]:
    name = external.get("provider")
    provider = PROVIDERS.get(name) if isinstance(name, str) else None
    if provider is None:
        raise _invalid(f"'external_model.provider' must be one of {', '.join(sorted(PROVIDERS))}")
    settings = external.get(provider.config)
    if not isinstance(settings, Mapping):
        raise _invalid(f"the provider '{name}' needs the object '{provider.config}'")
    return provider, settings


def _azure(settings: ProviderSettings) -> bool:
    return str(settings.get("openai_api_type", "")).lower() in ("azure", "azuread", "azure_ad")


def _place(external: ProviderSettings, upstreams: Mapping[str, str], reach: Reach) -> str:
    """The base URL: the endpoint's own setting, or what stands for the provider."""
    provider, settings = _provider(external)
    own = next(
        (settings[name] for name in provider.settings if name.endswith(("_api_base", "_url")) and settings.get(name)),
        None,
    )
    if _azure(settings) and not (own and settings.get("openai_api_version") and settings.get("openai_deployment_name")):
        raise _invalid("Azure OpenAI needs openai_api_base, openai_api_version and openai_deployment_name")
    place = str(own or upstreams.get(str(external["provider"])) or provider.base or "").rstrip("/")
    if not place:
        needed = next(name for name in provider.settings if name.endswith("_url"))
        raise _invalid(f"'{provider.config}' needs '{needed}'")
    place = _checked(place)
    if own:
        reach.check_url(place)
    return place


def _checked(place: str) -> str:
    """`place`, if it can be called with a credential."""
    parts = urlsplit(place)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise _invalid(f"the provider's URL must be https://host/..., got '{parts.scheme}://{parts.hostname or ''}'")
    if parts.scheme == "http" and not is_loopback(place):
        raise _invalid(f"the provider at {parts.hostname} must be called by https: plain http is for this machine only")
    return place


def _needed(external: ProviderSettings, settings: ProviderSettings) -> tuple[str, ...]:
    """The credentials that this endpoint must have; those of `custom` are looked at where they stand."""
    provider = PROVIDERS[str(external["provider"])]
    if external["provider"] == "openai" and _entra(settings):
        return ("microsoft_entra_client_secret",)
    if external["provider"] == "openai":
        return ("openai_api_key",)
    if external["provider"] == "amazon-bedrock":
        roles = ("instance_profile_arn", "uc_service_credential_name")
        return () if any(settings.get(name) for name in roles) else provider.credentials
    if external["provider"] == "custom":
        _custom(settings)
        return ()
    return provider.credentials


def _entra(settings: ProviderSettings) -> bool:
    return any(name.startswith("microsoft_entra_") and settings[name] for name in settings)


def _credential(external: ProviderSettings, settings: ProviderSettings, secrets: Secrets) -> tuple[str, str, str]:
    """The header's name, what stands before the credential in it, and the credential."""
    match external["provider"]:
        case "anthropic":
            return "x-api-key", "", _resolved(settings, "anthropic_api_key", secrets)
        case "cohere":
            return "authorization", "Bearer ", _resolved(settings, "cohere_api_key", secrets)
        case "databricks-model-serving":
            return "authorization", "Bearer ", _resolved(settings, "databricks_api_token", secrets)
        case "custom":
            header, words, auth, name = _custom(settings)
            return header, words, _resolved(auth, name, secrets)
    if _entra(settings):
        raise Problem(
            501,
            "NOT_IMPLEMENTED",
            "The local workspace does not fetch tokens from Microsoft Entra. Put a token into openai_api_key instead, "
            "with openai_api_type azuread.",
        )
    key = _resolved(settings, "openai_api_key", secrets)
    plain_azure = str(settings.get("openai_api_type", "")).lower() == "azure"
    return ("api-key", "", key) if plain_azure else ("authorization", "Bearer ", key)


def _custom(settings: ProviderSettings) -> tuple[str, str, ProviderSettings, str]:
    """The header, the words before the credential, and where in the settings it stands."""
    bearer, key = settings.get("bearer_token_auth"), settings.get("api_key_auth")
    if isinstance(bearer, Mapping) and key is None:
        _form(bearer, "token")
        return "authorization", "Bearer ", bearer, "token"
    if isinstance(key, Mapping) and bearer is None:
        header = key.get("key")
        if not isinstance(header, str) or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", header, re.ASCII):
            raise _invalid("'api_key_auth.key' must be the name of a header")
        _form(key, "value")
        return header.lower(), "", key, "value"
    raise _invalid("'custom_provider_config' needs either 'bearer_token_auth' or 'api_key_auth'")


def _form(settings: ProviderSettings, name: str) -> re.Match[str] | str:
    """A credential as it stands in the settings: the reference, or the text of the plaintext twin."""
    reference, plain = settings.get(name), settings.get(f"{name}_plaintext")
    if reference and plain:
        raise _invalid(f"'{name}' and '{name}_plaintext' are both given: one is enough")
    if plain:
        if not isinstance(plain, str) or not plain.isascii() or not plain.isprintable():
            raise _invalid(f"'{name}_plaintext' must be a text of printable ASCII characters")
        return plain
    if not reference:
        raise _invalid(f"'{name}' is missing: give {{{{secrets/scope/key}}}}, or '{name}_plaintext'")
    match = SECRET_REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if match is None:
        raise _invalid(
            f"'{name}' must refer to a secret as {{{{secrets/scope/key}}}}; a literal goes into '{name}_plaintext'"
        )
    return match


def _resolved(settings: ProviderSettings, name: str, secrets: Secrets) -> str:
    form = _form(settings, name)
    if isinstance(form, str):
        return form
    secret = secrets(form[1], form[2])
    if secret is None:
        raise _invalid(f"Secret does not exist with scope: {form[1]} and key: {form[2]}")
    secret = secret.strip()  # many are put from a file that ends with a line break
    if not secret or not secret.isascii() or not secret.isprintable():
        raise _invalid(
            f"the secret {form[2]} of the scope {form[1]} cannot stand in a header: it is not printable ASCII"
        )
    return secret


def _invalid(reason: str) -> Problem:
    return Problem(
        400, "INVALID_PARAMETER_VALUE", f"{reason[0].upper()}{reason[1:]}." if reason[0] != "'" else f"{reason}."
    )
