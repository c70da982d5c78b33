"""Who has a credential: the owner's token, personal access tokens of others, and service principals.

A local API makes them (`/api/local/principals` and `/api/local/tokens`, for admins only; it is none of Databricks').
Of a token or secret only its SHA-256 is kept; its text is in the one answer that made it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Callable
from typing import cast

from dbllm.local.access.permissions import Caller, only_admins
from dbllm.local.errors import expired_token, invalid, missing, taken
from dbllm.local.http.operations import TEXT, ApiCall, Operation, object_schema
from dbllm.local.json_values import Json
from dbllm.local.storage.store import Change, Store

PRINCIPALS = "/api/local/principals"
TOKENS = "/api/local/tokens"


class Principals:
    """The users and service principals beside the owner.

    Args:
        store: remembers them.
        owner: who the workspace's own token belongs to.
        token: that token.
        now: seconds since 1970.
    """

    def __init__(self, store: Store, owner: Caller, token: str, now: Callable[[], float]) -> None:
        self._store = store
        self._owner = owner
        self._token = _digest(token)
        self._now = now
        self._principals = cast("dict[str, Json]", store.load("principal"))
        self._tokens = cast("dict[str, Json]", store.load("token"))
        self._by_digest = {str(record["digest"]): name for name, record in self._tokens.items()}

    def caller(self, token: str) -> Caller | None:
        """Whose token it is. Safe to call from any thread.

        Raises:
            Problem: 403, it has ended.
        """
        digest = _digest(token)
        if hmac.compare_digest(digest, self._token):
            return self._owner
        record = self._tokens.get(self._by_digest.get(digest, ""))
        if record is None:
            return None
        ends = record["ends"]
        if isinstance(ends, (int, float)) and self._now() >= ends:
            raise expired_token()
        return self._named(str(record["principal"]))

    def service(self, client_id: str, secret: str) -> Caller | None:
        """The service principal that id and secret belong to."""
        record = self._principals.get(client_id)
        if record is None or not hmac.compare_digest(str(record["digest"]), _digest(secret)):
            return None
        return self._named(client_id)

    def operations(self) -> list[Operation]:
        """The local API."""
        flag: Json = {"type": "boolean"}
        make = object_schema(name=TEXT, service={**flag, "default": True}, admin=flag)
        token = object_schema("principal", principal=TEXT, comment=TEXT, lifetime_seconds={"type": "number"})
        return [
            Operation("GET", PRINCIPALS, self._list, "List users and service principals"),
            Operation("POST", PRINCIPALS, self._add, "Add a service principal, or a user", make),
            Operation("DELETE", f"{PRINCIPALS}/{{name}}", self._remove, "Remove one, with its tokens"),
            Operation("GET", TOKENS, self._list_tokens, "List personal access tokens"),
            Operation("POST", TOKENS, self._add_token, "Make a personal access token", token),
            Operation("DELETE", f"{TOKENS}/{{token_id}}", self._remove_token, "End a personal access token"),
        ]

    def _list(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        public = [{"name": name, **_without_digest(record)} for name, record in self._principals.items()]
        return {"principals": public}

    def _add(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        service, admin = _flag(call.body, "service", default=True), _flag(call.body, "admin", default=False)
        name = call.body.get("name", str(uuid.uuid4()) if service else None)
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= 128
            or not name.isprintable()
            or ":" in name
            or "/" in name
        ):
            raise invalid("name must be up to 128 printable characters without colons and slashes")
        if name in self._principals or name == self._owner.name:
            raise taken(f"The principal '{name}' already exists")
        secret = f"dose{secrets.token_hex(16)}" if service else ""
        record: Json = {"service": service, "admin": admin, "digest": _digest(secret) if service else ""}
        self._store.commit(Change("principal", name, record))
        self._principals[name] = record
        public: Json = {"name": name, "service": service, "admin": admin}
        return {**public, "client_id": name, "client_secret": secret} if service else public

    def _remove(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        name = self._known(call.path["name"])
        tokens = [token for token, record in self._tokens.items() if record["principal"] == name]
        self._store.commit(Change("principal", name, None), *(Change("token", token, None) for token in tokens))
        del self._principals[name]
        for token in tokens:
            self._forget_token(token)
        return {}

    def _list_tokens(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        return {"tokens": [{"token_id": one, **_without_digest(record)} for one, record in self._tokens.items()]}

    def _add_token(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        name = self._known(str(call.body.get("principal")))
        life, comment = call.body.get("lifetime_seconds"), call.body.get("comment", "")
        if isinstance(life, bool) or not (life is None or (isinstance(life, (int, float)) and 0 < life < 1e10)):
            raise invalid("lifetime_seconds must be a positive number")
        if not isinstance(comment, str):
            raise invalid("comment must be text")
        token, token_id = f"dapi{secrets.token_hex(16)}", secrets.token_hex(16)
        ends = self._now() + life if life is not None else None
        record: Json = {"principal": name, "comment": comment, "ends": ends, "digest": _digest(token)}
        self._store.commit(Change("token", token_id, record))
        self._tokens[token_id] = record
        self._by_digest[str(record["digest"])] = token_id
        return {"token_id": token_id, "token_value": token, **_without_digest(record)}

    def _remove_token(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        one = call.path["token_id"]
        if one not in self._tokens:
            raise missing(f"No token has the id '{one}'")
        self._store.commit(Change("token", one, None))
        self._forget_token(one)
        return {}

    def _forget_token(self, one: str) -> None:
        self._by_digest.pop(str(self._tokens.pop(one)["digest"]), None)

    def _known(self, name: str) -> str:
        if name not in self._principals:
            raise missing(f"The principal '{name}' does not exist")
        return name

    def _named(self, name: str) -> Caller | None:
        record = self._principals.get(name)
        return Caller(name, service=bool(record["service"]), admin=bool(record["admin"])) if record else None


def _digest(secret: str) -> str:
    # Made by this workspace from 128 random bits, so that nobody can guess what a digest was made from.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _without_digest(record: Json) -> Json:
    return {name: value for name, value in record.items() if name != "digest"}


def _flag(given: Json, name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value
