"""`client.endpoints`: create, update, watch and delete serving endpoints (Databricks REST 2.0)."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pydantic import Field

from .._backends.sync_facade import sync_method
from .._deadline import FOREVER
from .._lazy import WholeImport
from .._protocol.display import Listing
from .._protocol.paths import ENDPOINTS, endpoint_names, not_found_hint, quoted
from .._protocol.reply import CallInfo, Reply, WireModel
from .._transport.call import JSON
from .._transport.options import EXPLAIN_SECONDS, RedactedMapping, hide_frames
from .._transport.replies import read_json, reply_of
from .._transport.retry import Retry, Timeout
from ..errors import APIError, APITimeoutError, ConfigError, NotFoundError
from .resource import Resource, SyncResource, redact_error

PERMISSIONS = "/api/2.0/permissions/serving-endpoints"

READY_SECONDS = 1200.0  # deploying a custom model may take as long; external models take seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two polls of an endpoint
LAST_LOOK = 0.5  # seconds of the timeout that are kept for the last poll
FAILED = ("UPDATE_FAILED", "UPDATE_CANCELED")

Records = list[dict[str, Any]]
"""JSON objects, as on the wire."""


class EndpointState(WireModel):
    """`ready` (READY, NOT_READY) says whether it can be queried. `config_update` is NOT_UPDATING, IN_PROGRESS,
    UPDATE_FAILED or UPDATE_CANCELED; during an update the endpoint serves its old config."""

    ready: str | None = None
    config_update: str | None = None


class ServingEndpoint(Reply):
    """A serving endpoint, as the workspace describes it. Times are in epoch milliseconds.

    Lists have fewer fields than `get`. `pending_config` is set during an update.
    """

    name: str
    id: str | None = None
    creator: str | None = None
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None
    task: str | None = None
    endpoint_type: str | None = None
    state: EndpointState = Field(default_factory=EndpointState)
    config: dict[str, Any] | None = None
    pending_config: dict[str, Any] | None = None
    tags: Records | None = None
    ai_gateway: dict[str, Any] | None = None
    permission_level: str | None = None

    _shown = ("name", "state_summary", "task", "_models", "creator")

    @property
    def _models(self) -> list[str]:
        models = [entity.get("external_model") or entity.get("foundation_model") or {} for entity in self.entities]
        return [str(model["name"]) for model in models if model.get("name")]

    @property
    def is_ready(self) -> bool:
        """Whether it can be queried and no update is running."""
        return self.state.ready == "READY" and self.state.config_update in (None, "NOT_UPDATING")

    @property
    def entities(self) -> Records:
        """The served entities of the current config, then those of a pending one."""
        configs = (self.config or {}, self.pending_config or {})
        found = (config.get("served_entities") or config.get("served_models") or () for config in configs)
        return [entity for entities in found for entity in entities]

    @property
    def state_summary(self) -> str:
        """The state, with the messages of served entities that are not ready; one line."""
        said = [f"{self.state.ready or 'of unknown state'}/{self.state.config_update or 'NOT_UPDATING'}"]
        for entity in self.entities:
            state = entity.get("state") or {}
            deployment, message = state.get("deployment"), state.get("deployment_state_message")
            if message or deployment not in (None, "DEPLOYMENT_READY"):
                said.append(f"{entity.get('name')!r} is {deployment}" + (f" ({message})" if message else ""))
        return "; ".join(said)


class _Fields(Reply):
    """The fields of all responses; the workspace may leave out empty lists."""

    endpoints: list[ServingEndpoint] = []
    tags: Records = []
    rate_limits: Records = []
    access_control_list: Records = []
    permission_levels: Records = []
    logs: str = ""


class AsyncEndpoints(Resource):
    """The serving endpoints of a workspace. Methods raise an APIError if the workspace refuses or does not answer."""

    async def create(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        tags: Mapping[str, str] | None = None,
        ai_gateway: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> ServingEndpoint:
        """Create an endpoint.

        Args:
            name: letters, digits, dashes and underscores.
            config: `{"served_entities": [{…}], "traffic_config"?: {…}}`, as on the wire. External models in it are
                checked first; a provider's key is a reference `{{secrets/scope/key}}`, or plain in `…_plaintext`.
            tags: names and values.
            ai_gateway: rate limits, guardrails, fallbacks, usage tracking.
            extra_body: further fields, as on the wire (route_optimized, description, …).
            wait: return when the endpoint is ready.
            timeout: seconds for all of it; default: the client's timeout, or 1200 with `wait`.

        Raises:
            ConfigError: an external model in the config cannot work.
            ConflictError, BadRequestError: the name is taken, or the workspace does not accept the config.
            APIError: the workspace refused for another reason, or the deployment failed; see `wait_until_ready`.
        """
        config = _checked_models(config)
        more = {"tags": None if tags is None else _tags(tags), "ai_gateway": ai_gateway}
        given = {field: value for field, value in more.items() if value is not None}
        body = RedactedMapping({"name": name, "config": config}, extra_body or {}, given)
        return await self._change("POST", ENDPOINTS, body, wait, timeout)

    async def get(self, name: str) -> ServingEndpoint:
        """An endpoint."""
        return await self._get(name, FOREVER)

    async def list(self) -> builtins.list[ServingEndpoint]:
        """All endpoints that the caller may see."""
        return Listing((await self._reply(_Fields, "GET", ENDPOINTS)).endpoints)

    async def update_config(
        self, name: str, config: Mapping[str, Any], *, wait: bool = False, timeout: float | None = None
    ) -> ServingEndpoint:
        """Replace an endpoint's config; the old one serves until the new one is ready. Arguments as for `create`."""
        config = _checked_models(config)
        return await self._change("PUT", f"{_path(name)}/config", config, wait, timeout)

    async def update_tags(
        self, name: str, add: Mapping[str, str] | None = None, delete: Sequence[str] = ()
    ) -> dict[str, str]:
        """Add (or change) tags and delete others; returns all tags."""
        body = {"add_tags": _tags(add or {}), "delete_tags": [*delete]}
        answer = await self._reply(_Fields, "PATCH", f"{_path(name)}/tags", body)
        return {str(tag.get("key")): tag.get("value") or "" for tag in answer.tags}

    async def set_rate_limits(self, name: str, rate_limits: Sequence[Mapping[str, Any]]) -> Records:
        """Replace the rate limits, `{"calls": 10, "key": "user" | "endpoint", "renewal_period": "minute"}` each.

        Databricks prefers those of `set_ai_gateway`, which also count tokens.
        """
        body = {"rate_limits": [*rate_limits]}
        return (await self._reply(_Fields, "PUT", f"{_path(name)}/rate-limits", body)).rate_limits

    async def set_ai_gateway(self, name: str, ai_gateway: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the AI gateway's config: rate_limits, guardrails, fallback_config, usage_tracking_config, …"""
        return (await self._reply(Reply, "PUT", f"{_path(name)}/ai-gateway", ai_gateway)).model_extra or {}

    async def permissions(self, name: str) -> Records:
        """The permissions: for each principal its name and `all_permissions`."""
        return await self._permissions(name, "GET")

    async def set_permissions(self, name: str, access: Sequence[Mapping[str, str]]) -> Records:
        """Replace all direct permissions; returns the permissions afterwards.

        Args:
            name: the endpoint.
            access: for each principal `{"user_name" | "group_name" | "service_principal_name": …, "permission_level":
                "CAN_VIEW" | "CAN_QUERY" | "CAN_MANAGE"}`.
        """
        return await self._permissions(name, "PUT", access)

    async def update_permissions(self, name: str, access: Sequence[Mapping[str, str]]) -> Records:
        """Change the permissions of some principals, as for `set_permissions`; the others keep theirs."""
        return await self._permissions(name, "PATCH", access)

    async def permission_levels(self, name: str) -> Records:
        """The permission levels, with descriptions."""
        path = f"{await self._permissions_path(name)}/permissionLevels"
        return (await self._reply(_Fields, "GET", path)).permission_levels

    async def logs(self, name: str, served_entity: str | None = None) -> str:
        """The newest log lines of a served entity's server; `served_entity` may be left out if there is only one."""
        return await self._logs(name, served_entity, "logs")

    async def build_logs(self, name: str, served_entity: str | None = None) -> str:
        """The log of building a served entity's container; arguments as for `logs`."""
        return await self._logs(name, served_entity, "build-logs")

    async def metrics(self, name: str) -> str:
        """Requests, latencies and load, as Prometheus text."""
        return (await self._invoke("GET", f"{_path(name)}/metrics", accept="text/plain")).raw.text

    async def openapi(self, name: str) -> dict[str, Any]:
        """The OpenAPI document of the endpoint's requests and responses."""
        return (
            reply_of(Reply, await self._invoke("GET", f"{_path(name)}/openapi", accept="text/plain")).model_extra or {}
        )

    async def delete(self, name: str) -> None:
        """Delete an endpoint."""
        await self._invoke("DELETE", _path(name))

    async def wait_until_ready(self, name: str, *, timeout: float = READY_SECONDS) -> ServingEndpoint:
        """Wait until an endpoint can be queried and no update is running.

        Args:
            name: the endpoint.
            timeout: seconds for all of it.

        Raises:
            APITimeoutError: it is not ready yet; the message has its state.
            APIError: its update failed or was cancelled (`error_code` says which; the message says which entity, and
                why); or polling it failed.
        """
        deadline = self._deadline(timeout)
        return await self._wait_until_ready(await self._get(name, deadline), deadline)

    async def _wait_until_ready(self, endpoint: ServingEndpoint, deadline: float) -> ServingEndpoint:
        backend, pause = self._transport.backend, FIRST_PAUSE
        while not endpoint.is_ready:
            said, code = f"endpoint {endpoint.name!r}: {endpoint.state_summary}", endpoint.state.config_update or ""
            if code in FAILED:
                hint = "It still serves its old config. " if endpoint.state.ready == "READY" else ""
                hint += "Correct the config and update it; endpoints.build_logs() and logs() may say more."
                raise APIError(said, hint=hint, error_code=code, request_id=endpoint.request_id)
            pause = min(pause, deadline - LAST_LOOK - backend.clock())
            if pause <= 0:
                hint = "Wait longer with timeout= (seconds); endpoints.build_logs() may say what it is doing."
                raise APITimeoutError(f"not ready in time: {said}", hint=hint, request_id=endpoint.request_id)
            await backend.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            endpoint = await self._get(endpoint.name, deadline)
        return endpoint

    async def _change(self, method: str, path: str, body: object, wait: bool, timeout: float | None) -> ServingEndpoint:
        deadline = self._deadline(READY_SECONDS if timeout is None and wait else timeout)
        try:
            endpoint = await self._reply(ServingEndpoint, method, path, body, deadline=deadline)
        except APIError as error:
            if any(_plain_keys(body)):  # in no local variable: a traceback may show those
                redact_error(error, _plain_keys(body))
            raise
        return await self._wait_until_ready(endpoint, deadline) if wait else endpoint

    async def _invoke(
        self, method: str, path: str, body: object = None, *, accept: str = JSON, deadline: float = FOREVER
    ) -> CallInfo:
        try:
            return await super()._invoke(method, path, body, accept=accept, deadline=deadline)
        except NotFoundError as error:
            if path.startswith(f"{ENDPOINTS}/"):
                name = unquote(path.removeprefix(f"{ENDPOINTS}/").split("/")[0])
                error.hint = await self._not_found_hint(name, deadline) or error.hint
            raise

    async def _not_found_hint(self, name: str, deadline: float) -> str:
        """A hint with the names of existing endpoints; "" if they cannot be listed."""
        briefly = AsyncEndpoints(self._transport, self._options.merged_with(EXPLAIN_SECONDS, Retry(attempts=1)))
        try:
            listed = read_json(await briefly._invoke("GET", ENDPOINTS, deadline=deadline))
            return not_found_hint(name, endpoint_names(listed))
        except APIError:
            return ""

    async def _get(self, name: str, deadline: float) -> ServingEndpoint:
        return await self._reply(ServingEndpoint, "GET", _path(name), deadline=deadline)

    async def _logs(self, name: str, served_entity: str | None, which: str) -> str:
        if served_entity is None:
            names = sorted({str(entity.get("name")) for entity in (await self.get(name)).entities})
            if len(names) != 1:
                raise ConfigError(f"endpoint {name!r} serves {' and '.join(names) or 'nothing'}: pass served_entity=.")
            served_entity = names[0]
        path = f"{_path(name)}/served-models/{quoted(served_entity, 'a served entity')}/{which}"
        return (await self._reply(_Fields, "GET", path)).logs

    async def _permissions(self, name: str, method: str, access: Sequence[Mapping[str, str]] | None = None) -> Records:
        body = None if access is None else {"access_control_list": [*access]}
        return (await self._reply(_Fields, method, await self._permissions_path(name), body)).access_control_list

    async def _permissions_path(self, name: str) -> str:
        """The path of the permissions, which has the endpoint's id in place of its name."""
        return f"{PERMISSIONS}/{quoted((await self.get(name)).id or name)}"

    def _deadline(self, timeout: float | None) -> float:
        return self._transport.backend.clock() + (Timeout(total=timeout).total or FOREVER)


class Endpoints(SyncResource[AsyncEndpoints]):
    """The serving endpoints of a workspace in plain code; see `AsyncEndpoints`."""

    create = sync_method(AsyncEndpoints.create)
    get = sync_method(AsyncEndpoints.get)
    list = sync_method(AsyncEndpoints.list)
    update_config = sync_method(AsyncEndpoints.update_config)
    update_tags = sync_method(AsyncEndpoints.update_tags)
    set_rate_limits = sync_method(AsyncEndpoints.set_rate_limits)
    set_ai_gateway = sync_method(AsyncEndpoints.set_ai_gateway)
    permissions = sync_method(AsyncEndpoints.permissions)
    set_permissions = sync_method(AsyncEndpoints.set_permissions)
    update_permissions = sync_method(AsyncEndpoints.update_permissions)
    permission_levels = sync_method(AsyncEndpoints.permission_levels)
    logs = sync_method(AsyncEndpoints.logs)
    build_logs = sync_method(AsyncEndpoints.build_logs)
    metrics = sync_method(AsyncEndpoints.metrics)
    openapi = sync_method(AsyncEndpoints.openapi)
    delete = sync_method(AsyncEndpoints.delete)
    wait_until_ready = sync_method(AsyncEndpoints.wait_until_ready)


def _path(name: str) -> str:
    return f"{ENDPOINTS}/{quoted(name)}"


def _plain_keys(value: object, name: str = "") -> Iterator[str]:
    """The provider keys that a config has in plain text: the values of its `…_plaintext` fields."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _plain_keys(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _plain_keys(item)
    elif isinstance(value, str) and name.endswith("_plaintext"):
        yield value


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _checked_models(given: Mapping[str, Any]) -> RedactedMapping:
    if not isinstance(given, Mapping):
        raise TypeError(f'the config must be a dict such as {{"served_entities": […]}}, got {type(given).__name__}.')
    config = RedactedMapping(given)
    with WholeImport():
        from .external_models import checked_config  # imported here: only changes need its tables

    try:
        checked_config(config)
    except Exception as error:
        hide_frames(error)  # their local variables hold the providers' keys
        raise
    return config
