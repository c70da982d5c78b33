"""`client.model_services` and `client.model_providers`: models and providers in Unity Catalog (Databricks REST 2.1)."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import urlencode

from .._backends.sync_facade import sync_method
from .._protocol.display import Listing
from .._protocol.paths import MODEL_SERVICES, endpoint_name, is_service_name, quoted, service_hint
from .._protocol.reply import CallInfo, Reply
from .._transport.pages import PAGE_SIZE, read_pages
from .._transport.replies import reply_of
from ..errors import APIError, ConfigError, NotFoundError
from .provider_secrets import check_secrets
from .resource import Resource, SyncResource

CATALOG = "/api/2.1/unity-catalog"
SCHEMA = "system.ai"
EXECUTE = ("EXECUTE",)

Grants = dict[str, list[str]]
"""Principals and the privileges of each."""


class ModelService(Reply):
    """A model service, as the workspace describes it. Lists have fewer fields than `get`."""

    name: str
    comment: str | None = None
    config: dict[str, Any] | None = None
    supported_api_types: list[str] = []
    effective_owner: str | None = None
    create_time: str | None = None
    update_time: str | None = None
    etag: str | None = None

    _shown = ("full_name", "comment", "supported_api_types", "effective_owner")

    @property
    def full_name(self) -> str:
        """The name that `client.endpoint` takes: `catalog.schema.name`."""
        return self.name.partition("/")[2] or self.name


class ModelProvider(Reply):
    """A model provider service: how a provider outside of Databricks is reached, and which of its models serve."""

    name: str
    comment: str | None = None
    config: dict[str, Any] | None = None
    effective_owner: str | None = None
    create_time: str | None = None
    update_time: str | None = None
    etag: str | None = None

    _shown = ("full_name", "comment", "effective_owner")

    @property
    def full_name(self) -> str:
        """Its name in Unity Catalog: `catalog.schema.name`."""
        return self.name.partition("/")[2] or self.name


class _Grants(Reply):
    privilege_assignments: list[dict[str, Any]] = []

    @property
    def by_principal(self) -> Grants:
        found = self.privilege_assignments
        return {str(each.get("principal")): [str(one) for one in each.get("privileges") or ()] for each in found}


ServiceT = TypeVar("ServiceT", ModelService, ModelProvider)


class _Services(Resource, Generic[ServiceT]):
    """What model services and provider services have in common. Methods raise an APIError if the workspace refuses."""

    _model: type[ServiceT]
    _kind: ClassVar[str]  # its name in paths; with underscores it is that of fields

    async def list(self, schema: str = SCHEMA, *, view: str | None = None) -> builtins.list[ServiceT]:
        """All in a schema that the caller may see.

        Args:
            schema: `catalog.schema`.
            view: "FULL" for their destinations too, or "BASIC" (the default).
        """
        query = {"parent": _parent(schema), "page_size": str(PAGE_SIZE), **({"view": view} if view else {})}

        async def get(path: str) -> CallInfo:
            return await self._invoke("GET", path)

        items = await read_pages(get, f"{CATALOG}/{self._kind}s", query, f"{self._field}s")
        return Listing(self._model.model_validate(item) for item in items)

    async def get(self, name: str) -> ServiceT:
        """One, by its name `catalog.schema.name`."""
        return reply_of(self._model, await self._invoke("GET", self._path(name, {})))

    async def delete(self, name: str, *, etag: str | None = None) -> None:
        """Delete it; with the `etag` of the last `get` only if nobody has changed it since."""
        await self._invoke("DELETE", self._path(name, {"etag": etag}))

    async def grants(self, name: str) -> Grants:
        """The principals that have privileges on it, and which."""
        return (await self._reply(_Grants, "GET", self._grants_path(name))).by_principal

    async def grant(self, name: str, principal: str, privileges: str | Sequence[str] = EXECUTE) -> Grants:
        """Give a user, group or service principal privileges; EXECUTE lets it call a model. Returns all grants."""
        return await self._change_grants(name, {"principal": principal, "add": _several(privileges)})

    async def revoke(self, name: str, principal: str, privileges: str | Sequence[str] = EXECUTE) -> Grants:
        """Take privileges away from a principal. Returns all grants."""
        return await self._change_grants(name, {"principal": principal, "remove": _several(privileges)})

    async def create(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        comment: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> ServiceT:
        """Create one.

        Args:
            name: `catalog.schema.name`.
            config: as on the wire; the class says what is in it.
            comment: a description.
            extra_body: further fields, as on the wire.

        Raises:
            ConfigError: the name is another kind's, or the config holds a provider's key itself.
        """
        check_secrets(config, extra_body)
        schema, _, own = self._own_name(name).rpartition(".")
        query = urlencode({"parent": _parent(schema), f"{self._field}_id": own})
        body = {"config": config, **({} if comment is None else {"comment": comment}), **(extra_body or {})}
        return reply_of(self._model, await self._invoke("POST", f"{CATALOG}/{self._kind}s?{query}", body))

    async def update(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        comment: str | None = None,
        update_mask: str | Sequence[str] | None = None,
        etag: str | None = None,
    ) -> ServiceT:
        """Change one.

        Args:
            name: `catalog.schema.name`.
            config, comment: the new values.
            update_mask: the fields to change ("config.rate_limits", "comment" …), one or several; a field that is
                named and not given is cleared. Default: those that are given, as a whole.
            etag: that of the last `get`: then the change fails if somebody else has made one since.

        Raises:
            ConfigError: there is nothing to change, or the config holds a provider's key itself.
            ConflictError: it has another `etag` by now.
        """
        check_secrets(config)
        body: dict[str, Any] = {"config": config, "comment": comment}
        body = {key: value for key, value in body.items() if value is not None}
        mask = _several(body if update_mask is None else update_mask)
        if not mask:
            raise ConfigError("nothing to update: pass config= or comment=, or name what to clear in update_mask=.")
        body["name"] = f"{self._kind}s/{self._own_name(name)}"
        path = self._path(name, {"update_mask": ",".join(mask), "etag": etag})
        return reply_of(self._model, await self._invoke("PATCH", path, body))

    async def _change_grants(self, name: str, change: Mapping[str, Any]) -> Grants:
        body = {"changes": [change]}
        return (await self._reply(_Grants, "PATCH", self._grants_path(name), body)).by_principal

    @property
    def _field(self) -> str:
        return self._kind.replace("-", "_")

    def _own_name(self, name: str) -> str:
        own = endpoint_name(name.removeprefix(f"{self._kind}s/") if isinstance(name, str) else name)
        if not is_service_name(own):
            raise ConfigError(f"a {self._kind.replace('-', ' ')} is named catalog.schema.name, got {name!r}.")
        return own

    def _path(self, name: str, query: Mapping[str, str | None]) -> str:
        said = urlencode({key: value for key, value in query.items() if value is not None})
        return f"{CATALOG}/{self._kind}s/{quoted(self._own_name(name))}" + (f"?{said}" if said else "")

    def _grants_path(self, name: str) -> str:
        return f"{CATALOG}/permissions/{self._field}/{quoted(self._own_name(name))}"


class AsyncModelServices(_Services[ModelService]):
    """The model services of a workspace: what `client.endpoint("catalog.schema.name")` calls.

    A config is `{"routing": {"destinations": […], "fallback"?: {"destinations": […]}}, "rate_limits"?: […],
    "inference_table"?: {…}}`. A destination has a name of your choice, a type, and that type's own field:

        {"name": "claude", "destination_type": "DESTINATION_TYPE_PAY_PER_TOKEN_FOUNDATION_MODEL",
         "pay_per_token_config": {"model": "models/system.ai.claude-sonnet-4-5"}}
        {"name": "mine", "destination_type": "DESTINATION_TYPE_PROVISIONED_THROUGHPUT_FOUNDATION_MODEL",
         "provisioned_throughput_config": {"model_serving_endpoint": "serving-endpoints/my-endpoint"}}
        {"name": "gpt", "destination_type": "DESTINATION_TYPE_EXTERNAL_FOUNDATION_MODEL",
         "external_model_config": {"model_provider_service": "model-provider-services/main.default.openai",
                                   "target": {"model": "gpt-5"}}}

    Methods raise an APIError if the workspace refuses or does not answer.
    """

    _model, _kind = ModelService, "model-service"

    async def _invoke(self, method: str, path: str, body: object = None, **options: Any) -> CallInfo:
        try:
            return await super()._invoke(method, path, body, **options)
        except NotFoundError as error:
            if path.startswith(f"{MODEL_SERVICES}/") and error.error_code != "FEATURE_DISABLED":
                name = path.removeprefix(f"{MODEL_SERVICES}/").partition("?")[0]
                try:
                    names = sorted(service.full_name for service in await self.list(name.rpartition(".")[0]))
                except APIError:
                    raise error from None
                error.hint = service_hint(name, None, names)
            raise


class AsyncModelProviders(_Services[ModelProvider]):
    """The model provider services of a workspace: providers that model services send requests to.

    A config names its provider's type, EXTERNAL_MODEL_PROVIDER_TYPE_ with one of openai, azure_openai, anthropic,
    amazon_bedrock, bedrock_mantle, gemini_enterprise, microsoft_foundry and custom in capitals, and has the field of
    that name; the provider's key is there by reference only:

        {"provider_type": "EXTERNAL_MODEL_PROVIDER_TYPE_OPENAI",
         "openai": {"direct": {"api_key": {"secret_reference": {"name": "secrets/main.default.openai"}}}},
         "targets": [{"model": "gpt-5", "native_api_types": ["openai/v1/chat/completions"]}]}

    Further fields: "allow_all_targets", "rate_limits". Methods raise an APIError if the workspace refuses or does not
    answer.
    """

    _model, _kind = ModelProvider, "model-provider-service"


def _several(names: str | Iterable[str]) -> builtins.list[str]:
    return [names] if isinstance(names, str) else [*names]


def _parent(schema: str) -> str:
    parts = schema.removeprefix("schemas/").split(".") if isinstance(schema, str) else []
    if len(parts) < 2 or not all(part.strip() for part in parts):
        raise ConfigError(f"a schema is named catalog.schema (system.ai, for example), got {schema!r}.")
    return f"schemas/{'.'.join(parts)}"


class ModelServices(SyncResource[AsyncModelServices]):
    """The model services of a workspace in plain code; see `AsyncModelServices`."""

    list = sync_method(AsyncModelServices.list)
    get = sync_method(AsyncModelServices.get)
    create = sync_method(AsyncModelServices.create)
    update = sync_method(AsyncModelServices.update)
    delete = sync_method(AsyncModelServices.delete)
    grants = sync_method(AsyncModelServices.grants)
    grant = sync_method(AsyncModelServices.grant)
    revoke = sync_method(AsyncModelServices.revoke)


class ModelProviders(SyncResource[AsyncModelProviders]):
    """The model provider services of a workspace in plain code; see `AsyncModelProviders`."""

    list = sync_method(AsyncModelProviders.list)
    get = sync_method(AsyncModelProviders.get)
    create = sync_method(AsyncModelProviders.create)
    update = sync_method(AsyncModelProviders.update)
    delete = sync_method(AsyncModelProviders.delete)
    grants = sync_method(AsyncModelProviders.grants)
    grant = sync_method(AsyncModelProviders.grant)
    revoke = sync_method(AsyncModelProviders.revoke)
