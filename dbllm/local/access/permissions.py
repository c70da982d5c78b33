"""Who calls, and what they may do with a serving endpoint or a secret scope. All pure.

Databricks: an endpoint's access control list gives users, service principals and groups CAN_VIEW, CAN_QUERY or
CAN_MANAGE, each of which includes the ones before it; a secret scope's gives READ, WRITE or MANAGE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbllm.local.errors import denied, invalid
from dbllm.local.json_values import Json

Acl = Mapping[str, str]
"""Principal, as `<field>:<name>`, to level."""

LEVELS = ("CAN_VIEW", "CAN_QUERY", "CAN_MANAGE")
SCOPE_LEVELS = ("READ", "WRITE", "MANAGE")
FIELDS = ("user_name", "group_name", "service_principal_name")
USERS = "group_name:users"
ADMINS = "group_name:admins"
ABOUT = {
    "CAN_VIEW": "Can view the endpoint",
    "CAN_QUERY": "Can query the endpoint",
    "CAN_MANAGE": "Can manage the endpoint",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a credential belongs to.

    Attributes:
        name: a user's name, or a service principal's application id.
        service: whether it is a service principal.
        admin: may do everything.
    """

    name: str
    service: bool = False
    admin: bool = False

    @property
    def principal(self) -> str:
        """How an endpoint's access control list names it."""
        return f"{'service_principal_name' if self.service else 'user_name'}:{self.name}"


def level(acl: Acl, caller: Caller, levels: Sequence[str] = LEVELS) -> str | None:
    """The highest level of `caller` on an endpoint, or on what else has `levels`."""
    if caller.admin:
        return levels[-1]
    granted = [acl[who] for who in (caller.principal, USERS) if who in acl]
    return max(granted, key=levels.index, default=None)


def need(acl: Acl, caller: Caller, wanted: str, name: str) -> None:
    """Raises Problem 403 unless `caller` has `wanted` on the endpoint `name`."""
    current = level(acl, caller)
    if current is None or LEVELS.index(current) < LEVELS.index(wanted):
        raise denied(f"'{caller.name}' does not have {wanted} on the serving endpoint '{name}'")


def scope_level(acl: Acl, caller: Caller) -> str | None:
    """The highest level of `caller` on a secret scope, whose list names principals without their kind."""
    if caller.admin:
        return SCOPE_LEVELS[-1]
    levels = [acl[who] for who in (caller.name, "users") if who in acl]
    return max(levels, key=SCOPE_LEVELS.index, default=None)


def need_scope(acl: Acl, caller: Caller, wanted: str, scope: str) -> None:
    """Raises Problem 403 unless `caller` has `wanted` on the secret scope."""
    current = scope_level(acl, caller)
    if current is None or SCOPE_LEVELS.index(current) < SCOPE_LEVELS.index(wanted):
        raise denied(f"'{caller.name}' does not have {wanted} permission on scope {scope}")


def read_acl(body: Mapping[str, object], levels: Sequence[str] = LEVELS) -> dict[str, str]:
    """The `access_control_list` of a request.

    Raises:
        Problem: 400 with the reason.
    """
    listed = body.get("access_control_list", [])
    if not isinstance(listed, list):
        raise invalid("access_control_list must be a list")
    return dict(_read_entry(entry, levels) for entry in listed)


def _read_entry(entry: object, levels: Sequence[str]) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise invalid("each entry of access_control_list must be an object")
    named = [(field, entry[field]) for field in FIELDS if entry.get(field) is not None]
    if len(named) != 1 or not isinstance(named[0][1], str) or not named[0][1]:
        raise invalid(f"each entry of access_control_list needs exactly one of {', '.join(FIELDS)}")
    wanted = entry.get("permission_level")
    if wanted not in levels:
        raise invalid(f"permission_level must be one of {', '.join(levels)}")
    return f"{named[0][0]}:{named[0][1]}", str(wanted)


def described(object_id: str, acl: Acl, kind: str = "serving-endpoint", levels: Sequence[str] = LEVELS) -> Json:
    """An access control list as the permissions API shows it. Admins may manage everything, by inheritance."""
    return {
        "object_id": f"/{kind}s/{object_id}",
        "object_type": kind,
        "access_control_list": [
            *(_entry(who, permission) for who, permission in acl.items() if who != ADMINS),
            _entry(ADMINS, levels[-1], inherited_from=f"/{kind}s/"),
        ],
    }


def _entry(who: str, permission: str, *, inherited_from: str = "") -> Json:
    field, _, name = who.partition(":")
    one: Json = {"permission_level": permission, "inherited": bool(inherited_from)}
    if inherited_from:
        one["inherited_from_object"] = [inherited_from]
    return {field: name, "display_name": name, "all_permissions": [one]}


def only_admins(caller: Caller) -> None:
    """Raises Problem 403 unless the caller is an admin."""
    if not caller.admin:
        raise denied(f"'{caller.name}' is not an admin of this workspace")
