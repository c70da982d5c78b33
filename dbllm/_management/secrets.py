"""`client.secrets`: secret scopes, the secrets in them, and who may use them (Databricks REST 2.0)."""

from __future__ import annotations

import base64
import builtins
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from .._backends.sync_facade import sync_method
from .._protocol.display import Listing
from .._protocol.reply import CallInfo, Reply, WireModel
from .._transport.options import RedactedMapping
from ..errors import APIError, Raw
from .resource import Resource, SyncResource, redact_error

SECRETS = "/api/2.0/secrets"


class SecretScope(WireModel):
    """A scope: `backend_type` is DATABRICKS or AZURE_KEYVAULT."""

    name: str
    backend_type: str | None = None


class SecretMetadata(WireModel):
    """A secret in a list: its key, and when it was last written, in epoch milliseconds. Never its value."""

    key: str
    last_updated_timestamp: int | None = None


class SecretAcl(Reply):
    """The permission of a principal (a user, a group, a service principal) in a scope: READ, WRITE or MANAGE."""

    principal: str
    permission: str


class _SecretFields(Reply):
    """The fields of all responses; the workspace may leave out empty lists."""

    scopes: list[SecretScope] = []
    secrets: list[SecretMetadata] = []
    items: list[SecretAcl] = []
    value: Any = None


class AsyncSecrets(Resource):
    """The secrets of a workspace. Every method raises an APIError if the workspace refuses or does not answer.

    Databricks allows names of 1 to 128 characters (letters, digits, `_ . -`), 128 KB a value and 1,000 secrets a scope.
    """

    async def create_scope(
        self,
        scope: str,
        *,
        initial_manage_principal: str | None = None,
        azure_keyvault: Mapping[str, str] | None = None,
    ) -> None:
        """Create a scope.

        Args:
            scope: the scope's name.
            initial_manage_principal: "users" lets all users manage it; default: only its creator.
            azure_keyvault: `{"resource_id": …, "dns_name": …}` of the vault that holds its secrets.
        """
        body: dict[str, object] = {"scope": scope}
        if initial_manage_principal is not None:
            body["initial_manage_principal"] = initial_manage_principal
        if azure_keyvault is not None:
            body |= {"scope_backend_type": "AZURE_KEYVAULT", "backend_azure_keyvault": azure_keyvault}
        await self._invoke("POST", f"{SECRETS}/scopes/create", body)

    async def list_scopes(self) -> builtins.list[SecretScope]:
        """The scopes that the caller may see."""
        return Listing((await self._reply(_SecretFields, "GET", f"{SECRETS}/scopes/list")).scopes)

    async def delete_scope(self, scope: str) -> None:
        """Delete a scope and its secrets."""
        await self._invoke("POST", f"{SECRETS}/scopes/delete", {"scope": scope})

    async def put(self, scope: str, key: str, value: str | bytes) -> None:
        """Write a secret, or replace it.

        Raises:
            TypeError: the value is neither str nor bytes.
        """
        kind = type(value).__name__
        if isinstance(value, str):
            held = RedactedMapping({"string_value": value})
        elif isinstance(value, bytes):
            held = RedactedMapping({"bytes_value": base64.b64encode(value).decode()})
        else:
            held = RedactedMapping({})
        del value  # a traceback may show local variables
        if not held:
            raise TypeError(f"a secret must be a str or bytes, got {kind}.")
        try:
            await self._invoke("POST", f"{SECRETS}/put", RedactedMapping({"scope": scope, "key": key}, held))
        except APIError as error:
            redact_error(error, held.values())
            raise

    async def get(self, scope: str, key: str) -> str:
        """The value of a secret, as text; `get_bytes` returns any value.

        Raises:
            APIResponseError: the value is not UTF-8.
        """
        value, info = await self._value(scope, key)
        try:
            return value.decode()
        except UnicodeDecodeError:
            del value  # the error is raised below, because its context here would show the secret
        raise info.unexpected(f"the secret {key!r} in {scope!r} is not text in UTF-8", "Read it with get_bytes().")

    async def get_bytes(self, scope: str, key: str) -> bytes:
        """The value of a secret, as bytes. The workspace sends every value in base64."""
        return (await self._value(scope, key))[0]

    async def list(self, scope: str) -> builtins.list[SecretMetadata]:
        """The secrets of a scope, without their values."""
        return Listing((await self._reply(_SecretFields, "GET", _secrets_path("list", {"scope": scope}))).secrets)

    async def delete(self, scope: str, key: str) -> None:
        """Delete a secret."""
        await self._invoke("POST", f"{SECRETS}/delete", {"scope": scope, "key": key})

    async def put_acl(self, scope: str, principal: str, permission: str) -> None:
        """Let a principal READ, WRITE or MANAGE a scope; this replaces its earlier permission."""
        body = {"scope": scope, "principal": principal, "permission": permission}
        await self._invoke("POST", f"{SECRETS}/acls/put", body)

    async def get_acl(self, scope: str, principal: str) -> SecretAcl:
        """The permission of a principal in a scope."""
        return await self._reply(SecretAcl, "GET", _secrets_path("acls/get", {"scope": scope, "principal": principal}))

    async def list_acls(self, scope: str) -> builtins.list[SecretAcl]:
        """The permissions of all principals in a scope."""
        return Listing((await self._reply(_SecretFields, "GET", _secrets_path("acls/list", {"scope": scope}))).items)

    async def delete_acl(self, scope: str, principal: str) -> None:
        """Remove the permission of a principal in a scope."""
        await self._invoke("POST", f"{SECRETS}/acls/delete", {"scope": scope, "principal": principal})

    async def _value(self, scope: str, key: str) -> tuple[bytes, CallInfo]:
        answer = await self._reply(_SecretFields, "GET", _secrets_path("get", {"scope": scope, "key": key}))
        raw = answer._call.raw  # its body is the secret, so nothing below is raised while `answer` is there
        info = CallInfo(Raw(raw.status, raw.headers), answer.attempts)  # without the body, which may be the secret
        try:
            return base64.b64decode(answer.value, validate=True), info
        except (TypeError, ValueError):
            del answer
        raise info.unexpected(f"the value sent for the secret {key!r} in {scope!r} is not base64")


def _secrets_path(path: str, query: Mapping[str, str]) -> str:
    return f"{SECRETS}/{path}?{urlencode(query)}"


class Secrets(SyncResource[AsyncSecrets]):
    """The secrets of a workspace in plain code; see `AsyncSecrets`."""

    create_scope = sync_method(AsyncSecrets.create_scope)
    list_scopes = sync_method(AsyncSecrets.list_scopes)
    delete_scope = sync_method(AsyncSecrets.delete_scope)
    put = sync_method(AsyncSecrets.put)
    get = sync_method(AsyncSecrets.get)
    get_bytes = sync_method(AsyncSecrets.get_bytes)
    list = sync_method(AsyncSecrets.list)
    delete = sync_method(AsyncSecrets.delete)
    put_acl = sync_method(AsyncSecrets.put_acl)
    get_acl = sync_method(AsyncSecrets.get_acl)
    list_acls = sync_method(AsyncSecrets.list_acls)
    delete_acl = sync_method(AsyncSecrets.delete_acl)
