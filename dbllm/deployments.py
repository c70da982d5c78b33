"""MLflow's deployments client for Databricks, without MLflow: `from dbllm.deployments import get_deploy_client`.

Names, arguments and results are MLflow's, with four differences. Errors are dbllm's own: a `dbllm.APIError` has the
real status, where MLflow turns an unknown one into HTTP 500. The old form of `create_endpoint` gives no warning. An
external model that cannot work is refused before anything is sent. One client serves all calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from dbllm import Client, ConfigError, ModelService, ServingEndpoint

ENDPOINTS = "/api/2.0/serving-endpoints"


class DatabricksEndpoint(dict[str, Any]):
    """An answer: a dict whose keys are attributes too, in the dicts inside it as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"the answer has no {name!r}; it has {', '.join(self) or 'nothing'}.") from None
        return DatabricksEndpoint(value) if isinstance(value, dict) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


def get_deploy_client(target_uri: str | None = None, *, client: Client | None = None) -> DatabricksDeploymentClient:
    """A deployments client. Making one sends nothing; it looks for the workspace when it is first used.

    Args:
        target_uri: "databricks", or "databricks://PROFILE" for a profile of ~/.databrickscfg; default:
            MLFLOW_DEPLOYMENTS_TARGET, else "databricks".
        client: your own `dbllm.Client` to call with, in place of one for `target_uri`.

    Raises:
        ConfigError: another target.
    """
    return DatabricksDeploymentClient(target_uri or os.environ.get("MLFLOW_DEPLOYMENTS_TARGET") or "databricks", client)


class DatabricksDeploymentClient:
    """MLflow's deployments client for serving endpoints. Threads may share it, and it can be pickled.

    Every method raises `dbllm.APIError` if the workspace refuses or does not answer.
    """

    def __init__(self, target_uri: str = "databricks", client: Client | None = None) -> None:
        scheme, sign, profile = target_uri.partition("://")
        if scheme != "databricks" or ":" in profile or (sign and not profile):
            raise ConfigError(f"target must be 'databricks' or 'databricks://PROFILE', got {target_uri!r}.")
        self.target_uri = target_uri
        self._profile = profile or None
        if client is not None:
            self._client = client

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target_uri,)  # without the client, which holds connections and credentials

    @cached_property
    def _client(self) -> Client:
        return Client(profile=self._profile)

    def create_endpoint(
        self, name: str | None = None, config: Mapping[str, Any] | None = None, route_optimized: bool = False
    ) -> DatabricksEndpoint:
        """Create an endpoint.

        Args:
            name: its name, unless `config` has it.
            config: the whole request, `{"name": …, "config": {"served_entities": […]}, …}`; or, in the old form, only
                the value of "config" there, with "tags" and "rate_limits" added.
            route_optimized: the same field of the request.

        Raises:
            ValueError: there is no name, or there are two different ones.
            ConfigError: an external model in the config cannot work.
        """
        request = dict(config or {})
        if "config" not in request:
            beside: dict[str, Any] = {key: request.pop(key) for key in ("tags", "rate_limits") if key in request}
            request = {"config": request, "route_optimized": route_optimized, **beside}
        elif route_optimized:
            request.setdefault("route_optimized", True)
        names = {given for given in (name, request.pop("name", None)) if given is not None}
        if len(names) != 1:
            raise ValueError(f"an endpoint needs one name, got {' and '.join(sorted(names)) or 'none'}.")
        inner = request.pop("config")
        return _endpoint_answer(self._client.endpoints.create(names.pop(), inner, extra_body=request))

    def get_endpoint(self, endpoint: str) -> DatabricksEndpoint:
        """An endpoint, or a model service (by a name with two dots)."""
        if _is_service(endpoint):
            return _endpoint_answer(self._client.model_services.get(endpoint))
        return _endpoint_answer(self._client.endpoints.get(endpoint))

    def list_endpoints(self) -> list[DatabricksEndpoint]:
        """All endpoints that the caller may see."""
        answer = self._request("GET", "")
        return [DatabricksEndpoint(item) for item in answer.get("endpoints") or ()]

    def update_endpoint(self, endpoint: str, config: Mapping[str, Any]) -> DatabricksEndpoint:
        """Replace an endpoint's config; or its rate limits, if `config` has only "rate_limits"."""
        if list(config) == ["rate_limits"]:
            return self.update_endpoint_rate_limits(endpoint, config)
        return self.update_endpoint_config(endpoint, config)

    def update_endpoint_config(self, endpoint: str, config: Mapping[str, Any]) -> DatabricksEndpoint:
        """Replace an endpoint's config; the old one serves until the new one is ready."""
        return _endpoint_answer(self._client.endpoints.update_config(endpoint, config))

    def update_endpoint_tags(self, endpoint: str, config: Mapping[str, Any]) -> DatabricksEndpoint:
        """Change tags: `{"add_tags": [{"key": …, "value": …}], "delete_tags": [key, …]}`."""
        return self._request("PATCH", f"/{self._quoted(endpoint)}/tags", config)

    def update_endpoint_rate_limits(self, endpoint: str, config: Mapping[str, Any]) -> DatabricksEndpoint:
        """Replace the rate limits: `{"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}`."""
        return self._request("PUT", f"/{self._quoted(endpoint)}/rate-limits", config)

    def update_endpoint_ai_gateway(self, endpoint: str, config: Mapping[str, Any]) -> DatabricksEndpoint:
        """Replace the AI gateway's config."""
        return self._request("PUT", f"/{self._quoted(endpoint)}/ai-gateway", config)

    def delete_endpoint(self, endpoint: str) -> DatabricksEndpoint:
        """Delete an endpoint; the answer is empty."""
        return self._request("DELETE", f"/{self._quoted(endpoint)}")

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> Any:
        """Call an endpoint.

        Args:
            deployment_name: not used; MLflow has it.
            inputs: the whole request, as on the wire: `{"messages": […]}`, `{"prompt": …}`, `{"dataframe_records": …}`
            endpoint: its name, or that of a model service (two dots), which takes messages or input.

        Returns:
            The response as a `DatabricksEndpoint`; if it is not a JSON object, the response itself.

        Raises:
            ValueError: a model service, and neither messages nor input.
        """
        name = self._name(endpoint)
        if _is_service(name):
            path, inputs = _gateway_path(inputs), {**(inputs or {}), "model": name}
        else:
            path = f"/serving-endpoints/{quote(name, safe='')}/invocations"
        return _as_endpoint(self._client.request("POST", path, json=inputs or {}))

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> Iterator[Any]:
        """Call an endpoint that streams, chunk by chunk. Arguments as for `predict`; the chunks are as on the wire.

        The call is made when the first chunk is requested; closing the iterator ends it.
        """
        whole = dict(inputs or {})
        task = "completions" if "prompt" in whole else "custom"  # neither wraps the request, nor minds what a piece is
        if _is_service(endpoint):
            task = "responses" if _gateway_path(whole).endswith("responses") else "chat"
        handle = self._client.endpoint(_require_name(endpoint), task=task, transform_input=lambda **_: whole)
        with handle.stream_complete("") as stream:
            for _ in stream:
                yield stream.last_received

    def _name(self, endpoint: str | None) -> str:
        """The name; a ConfigError where it is none, as for `Client.endpoint`."""
        return self._client.endpoint(_require_name(endpoint)).name

    def _quoted(self, endpoint: str | None) -> str:
        return quote(self._name(endpoint), safe="")

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> DatabricksEndpoint:
        return DatabricksEndpoint(self._client.request(method, ENDPOINTS + path, json=body) or {})


def _endpoint_answer(endpoint: ServingEndpoint | ModelService) -> DatabricksEndpoint:
    return DatabricksEndpoint(json.loads(endpoint.raw.body) if endpoint.raw else endpoint.model_dump(mode="json"))


def _as_endpoint(answer: Any) -> Any:
    return DatabricksEndpoint(answer) if isinstance(answer, dict) else answer


def _require_name(endpoint: str | None) -> str:
    if not endpoint:
        raise ValueError("no endpoint was given: pass endpoint='name'.")
    return endpoint


def _is_service(endpoint: str | None) -> bool:
    return isinstance(endpoint, str) and endpoint.count(".") > 1


def _gateway_path(inputs: Any) -> str:
    """The path of the AI Gateway for a whole request, by its fields."""
    whole = inputs if isinstance(inputs, Mapping) else {}
    if "messages" in whole:
        wire = "chat/completions"
    elif "input" in whole:
        texts = [whole["input"]] if isinstance(whole["input"], str) else whole["input"]
        wire = "embeddings" if texts and all(isinstance(text, str) for text in texts) else "responses"
    else:
        raise ValueError("a model service takes 'messages' (chat) or 'input' (embeddings, responses) in inputs.")
    return f"/ai-gateway/mlflow/v1/{wire}"
