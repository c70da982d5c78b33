"""Model services and provider services as a client describes them."""

from __future__ import annotations

from typing import Any

from support.plane import SECRETS, Plane

UC = "/api/2.1/unity-catalog"
PREFIX = "DESTINATION_TYPE_"


def own_to(name: str = "own", model: str = "models/system.ai.smollm2-chat", **more: Any) -> dict[str, Any]:
    """A destination on one of the workspace's own models."""
    kind = f"{PREFIX}PAY_PER_TOKEN_FOUNDATION_MODEL"
    return {"name": name, "destination_type": kind, "pay_per_token_config": {"model": model}, **more}


def endpoint_to(endpoint: str, name: str = "endpoint", **more: Any) -> dict[str, Any]:
    """A destination on a serving endpoint."""
    config = {"model_serving_endpoint": f"serving-endpoints/{endpoint}"}
    kind = f"{PREFIX}PROVISIONED_THROUGHPUT_FOUNDATION_MODEL"
    return {"name": name, "destination_type": kind, "provisioned_throughput_config": config, **more}


def external_to(provider: str, model: str = "gpt-5", name: str = "external", **more: Any) -> dict[str, Any]:
    """A destination on a model of a provider service."""
    config = {"model_provider_service": f"model-provider-services/{provider}", "target": {"model": model}}
    kind = f"{PREFIX}EXTERNAL_FOUNDATION_MODEL"
    return {"name": name, "destination_type": kind, "external_model_config": config, **more}


def service(*destinations: dict[str, Any], fallback: Any = None, comment: str = "", **config: Any) -> dict[str, Any]:
    """The body of a model service."""
    routing: dict[str, Any] = {"destinations": list(destinations)}
    if fallback is not None:
        routing["fallback"] = {"destinations": fallback}
    return {"comment": comment, "config": {"routing": routing, **config}}


def provider(base_url: str = "https://a.example/v1", **config: Any) -> dict[str, Any]:
    """The body of a provider service of OpenAI's kind, whose key is the secret `openai` of the scope `main.default`."""
    key = {"secret_reference": {"name": "secrets/main.default.openai"}}
    types = [f"openai/v1/{path}" for path in ("chat/completions", "responses", "embeddings")]
    made = {
        "provider_type": "EXTERNAL_MODEL_PROVIDER_TYPE_OPENAI",
        "openai": {"direct": {"api_key": key, "base_url": base_url}},
        "targets": [{"model": "gpt-5", "native_api_types": types}],
    }
    return {"config": {**made, **config}}


def make_provider(plane: Plane, name: str = "up", base_url: str = "https://a.example/v1", key: str = "sk-1") -> None:
    """A provider service main.default.{name} with its scope and secret."""
    plane.answer("POST", f"{SECRETS}/scopes/create", {"scope": "main.default"})
    plane.do("POST", f"{SECRETS}/put", {"scope": "main.default", "key": "openai", "string_value": key})
    path = f"{UC}/model-provider-services?parent=schemas/main.default&model_provider_service_id={name}"
    plane.do("POST", path, provider(base_url))
