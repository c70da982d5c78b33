"""Secrets: what `/api/2.0/secrets` does. Values are kept sealed (see store) and shown to nobody without READ.

Databricks REST: values travel as base64; a scope's access control list names principals without their kind; a value
has at most 128 kB, a scope 1000 secrets.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import cast

from dbllm.local.access.permissions import SCOPE_LEVELS, Caller, need_scope, scope_level
from dbllm.local.errors import Problem, invalid, malformed, missing, taken
from dbllm.local.http.operations import TEXT, ApiCall, Operation, object_schema, text_schema
from dbllm.local.json_values import Json
from dbllm.local.storage.store import Change, Store

SECRETS = "/api/2.0/secrets"
SECRET_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,128}", re.ASCII)
MAX_BYTES = 128 * 1024
MAX_SECRETS = 1000
MAX_SCOPES = 1000


class Scopes:
    """All secret scopes of a workspace.

    Args:
        store: remembers them.
        now: seconds since 1970.
    """

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._acls: dict[str, dict[str, str]] = cast("dict[str, dict[str, str]]", store.load("scope"))
        self._secrets: dict[str, dict[str, tuple[str, int]]] = {scope: {} for scope in self._acls}
        for place, stored in store.load("secret").items():
            scope, _, key = place.partition("/")
            value, changed_ms = cast("list[object]", stored)
            self._secrets[scope][key] = (str(value), int(str(changed_ms)))

    def value(self, scope: str, key: str) -> str | None:
        """A secret as text, for the workspace's own use: None if there is none. Safe to call from any thread.

        Raises:
            Problem: 400, it is not text.
        """
        entry = self._secrets.get(scope, {}).get(key)
        if entry is None:
            return None
        try:
            return base64.b64decode(entry[0]).decode()
        except UnicodeError:
            raise invalid(f"The secret with scope: {scope} and key: {key} is not text in UTF-8") from None

    def may_read(self, caller: Caller, scope: str, key: str) -> None:
        """Raises Problem unless the secret exists and the caller may read it."""
        self._permitted(scope, caller, "READ")
        self._stored_secret(scope, key)

    def operations(self) -> list[Operation]:
        """The REST operations."""
        a_scope, a_key, a_principal = text_schema("s"), text_schema("k"), text_schema("users")
        create = object_schema("scope", scope=a_scope, initial_manage_principal=TEXT, scope_backend_type=TEXT)
        put = object_schema("scope", "key", scope=a_scope, key=a_key, string_value=TEXT, bytes_value=TEXT)
        scope, one = object_schema("scope", scope=a_scope), object_schema("scope", "key", scope=a_scope, key=a_key)
        who = object_schema("scope", "principal", scope=a_scope, principal=a_principal)
        level: Json = {"type": "string", "enum": list(SCOPE_LEVELS)}
        grant = object_schema(
            "scope", "principal", "permission", scope=a_scope, principal=a_principal, permission=level
        )
        return [
            Operation("POST", f"{SECRETS}/scopes/create", self._create_scope, "Create a scope", create),
            Operation("GET", f"{SECRETS}/scopes/list", self._list_scopes, "List scopes"),
            Operation("POST", f"{SECRETS}/scopes/delete", self._delete_scope, "Delete a scope with its secrets", scope),
            Operation("POST", f"{SECRETS}/put", self._put, "Set a secret", put),
            Operation("GET", f"{SECRETS}/get", self._get, "Read a secret, as base64", query=("scope", "key")),
            Operation("GET", f"{SECRETS}/list", self._list, "List the keys of a scope", query=("scope",)),
            Operation("POST", f"{SECRETS}/delete", self._delete, "Delete a secret", one),
            Operation("POST", f"{SECRETS}/acls/put", self._put_acl, "Permit a principal", grant),
            Operation("GET", f"{SECRETS}/acls/get", self._get_acl, "What one may", query=("scope", "principal")),
            Operation("GET", f"{SECRETS}/acls/list", self._list_acls, "Who may what", query=("scope",)),
            Operation("POST", f"{SECRETS}/acls/delete", self._delete_acl, "Forbid a principal", who),
        ]

    # -- scopes

    def _create_scope(self, call: ApiCall) -> Json:
        scope = _body_name(call.body, "scope")
        if call.body.get("scope_backend_type") not in (None, "", "DATABRICKS"):
            raise Problem(400, "BAD_REQUEST", "A local workspace has no Azure Key Vault: use the DATABRICKS backend.")
        initial = call.body.get("initial_manage_principal")
        if initial not in (None, "", "users"):
            raise invalid("initial_manage_principal must be users, or left out")
        if scope in self._acls:
            raise taken(f"Scope {scope} already exists", 400)
        if len(self._acls) >= MAX_SCOPES:
            raise _limit(f"A workspace has at most {MAX_SCOPES} scopes")
        acl = {initial if isinstance(initial, str) and initial else call.caller.name: "MANAGE"}
        self._store.commit(Change("scope", scope, acl))
        self._acls[scope] = acl
        self._secrets[scope] = {}
        return {}

    def _list_scopes(self, call: ApiCall) -> Json:
        visible = [scope for scope, acl in self._acls.items() if scope_level(acl, call.caller)]
        return {"scopes": [{"name": scope, "backend_type": "DATABRICKS"} for scope in visible]}

    def _delete_scope(self, call: ApiCall) -> Json:
        scope = self._permitted(_body_name(call.body, "scope"), call.caller, "MANAGE")
        gone = [Change("secret", f"{scope}/{key}", None) for key in self._secrets[scope]]
        self._store.commit(Change("scope", scope, None), *gone)
        del self._acls[scope], self._secrets[scope]
        return {}

    # -- secrets

    def _put(self, call: ApiCall) -> Json:
        scope, key = _body_name(call.body, "scope"), _body_name(call.body, "key")
        self._permitted(scope, call.caller, "WRITE")
        value = _value(call.body)
        entries = self._secrets[scope]
        if key not in entries and len(entries) >= MAX_SECRETS:
            raise _limit(f"A scope has at most {MAX_SECRETS} secrets")
        stored = (base64.b64encode(value).decode(), int(self._now() * 1000))
        self._store.commit(Change("secret", f"{scope}/{key}", stored))
        entries[key] = stored
        return {}

    def _get(self, call: ApiCall) -> Json:
        scope, key = _body_name(call.query, "scope"), _body_name(call.query, "key")
        self._permitted(scope, call.caller, "READ")
        return {"key": key, "value": self._stored_secret(scope, key)[0]}

    def _list(self, call: ApiCall) -> Json:
        scope = self._permitted(_body_name(call.query, "scope"), call.caller, "READ")
        listed = self._secrets[scope].items()
        return {"secrets": [{"key": key, "last_updated_timestamp": changed_ms} for key, (_, changed_ms) in listed]}

    def _delete(self, call: ApiCall) -> Json:
        scope, key = _body_name(call.body, "scope"), _body_name(call.body, "key")
        self._permitted(scope, call.caller, "WRITE")
        self._stored_secret(scope, key)
        self._store.commit(Change("secret", f"{scope}/{key}", None))
        del self._secrets[scope][key]
        return {}

    # -- who may

    def _put_acl(self, call: ApiCall) -> Json:
        wanted = call.body.get("permission")
        if wanted not in SCOPE_LEVELS:
            raise invalid(f"permission must be one of {', '.join(SCOPE_LEVELS)}")
        scope, principal = self._acl_of(call, call.body)
        self._set_acl(scope, {**self._acls[scope], principal: str(wanted)})
        return {}

    def _get_acl(self, call: ApiCall) -> Json:
        scope, principal = self._acl_of(call, call.query)
        return {"principal": principal, "permission": self._entry(scope, principal)}

    def _list_acls(self, call: ApiCall) -> Json:
        scope = self._permitted(_body_name(call.query, "scope"), call.caller, "MANAGE")
        return {
            "items": [{"principal": who, "permission": permission} for who, permission in self._acls[scope].items()]
        }

    def _delete_acl(self, call: ApiCall) -> Json:
        scope, principal = self._acl_of(call, call.body)
        self._entry(scope, principal)
        self._set_acl(scope, {who: permission for who, permission in self._acls[scope].items() if who != principal})
        return {}

    def _acl_of(self, call: ApiCall, fields: Mapping[str, object]) -> tuple[str, str]:
        principal = fields.get("principal")
        if not isinstance(principal, str) or not 0 < len(principal) <= 255:
            raise invalid("principal must be the name of a user, a group or a service principal")
        return self._permitted(_body_name(fields, "scope"), call.caller, "MANAGE"), principal

    def _entry(self, scope: str, principal: str) -> str:
        if principal not in self._acls[scope]:
            raise missing(f"Failed to get secret acl for principal {principal} for scope {scope}")
        return self._acls[scope][principal]

    def _set_acl(self, scope: str, acl: dict[str, str]) -> None:
        self._store.commit(Change("scope", scope, acl))
        self._acls[scope] = acl

    # -- common to them

    def _permitted(self, scope: str, caller: Caller, wanted: str) -> str:
        if scope not in self._acls:
            raise missing(f"Scope {scope} does not exist")
        need_scope(self._acls[scope], caller, wanted, scope)
        return scope

    def _stored_secret(self, scope: str, key: str) -> tuple[str, int]:
        entry = self._secrets[scope].get(key)
        if entry is None:
            raise Problem(404, "RESOURCE_DOES_NOT_EXIST", f"Secret does not exist with scope: {scope} and key: {key}")
        return entry


def _body_name(fields: Mapping[str, object], field: str) -> str:
    name = fields.get(field)
    if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
        raise invalid(f"{field} must be 1 to 128 letters, digits, dashes, underscores, @ and periods")
    return name


def _value(fields: Mapping[str, object]) -> bytes:
    text, encoded = fields.get("string_value"), fields.get("bytes_value")
    if (text is None) == (encoded is None):
        raise malformed("A secret has exactly one of string_value and bytes_value")
    try:
        if isinstance(text, str):
            value = text.encode()
        elif isinstance(encoded, str):
            value = base64.b64decode(encoded, validate=True)
        else:
            raise malformed("string_value is text, bytes_value is text in base64")
    except (binascii.Error, ValueError):
        raise malformed("The value is not base64, or not text in UTF-8") from None
    if len(value) > MAX_BYTES:
        raise invalid(f"A secret has at most {MAX_BYTES} bytes, not {len(value)}")
    return value


def _limit(reason: str) -> Problem:
    return Problem(400, "RESOURCE_LIMIT_EXCEEDED", f"{reason}.")
