"""Model services and model provider services as the workspace keeps them: rights, versions, pages, masks. All pure.

They are objects of Unity Catalog, named catalog.schema.name (databricks-sdk: `WorkspaceClient.ai_gateway`). Who may do
what with one is said by grants of privileges to principals, beside its owner and the admins, who may do everything.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

from dbllm.local.access.permissions import Caller
from dbllm.local.errors import Problem, invalid
from dbllm.local.json_values import Json

PRIVILEGES = ("EXECUTE", "MANAGE", "READ_METADATA", "APPLY_TAG", "ALL_PRIVILEGES")
EVERYBODY = ("account users", "users")
"""Groups that every caller is in."""
PAGE_SIZE = 100
"""Services of one page, unless fewer are asked for."""
COMPONENT = re.compile(r"[^\s./\x00-\x1f\x7f]{1,255}")

Grants = Mapping[str, Sequence[str]]
"""Principal to privileges."""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A model service or a model provider service.

    Attributes:
        name: catalog.schema.name.
        config: checked; a secret in it is a reference.
        version: counts the changes.
        fixed: ready-made, so it can be neither changed nor deleted.
        grants: kept apart from the rest, because those of a ready-made one can be changed, too.
    """

    name: str
    config: Json
    owner: str
    created_ms: int
    updated_ms: int
    updated_by: str
    comment: str = ""
    version: int = 1
    fixed: bool = False
    grants: Grants = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """Names this version, in base64."""
        return base64.b64encode(f"{self.version}/{self.updated_ms}".encode()).decode()


def without_grants(service: ServiceRecord) -> Json:
    """A service without its grants, to be kept."""
    stored = asdict(service)
    del stored["grants"]
    return stored


def with_grants(stored: Mapping[str, object], grants: Grants) -> ServiceRecord:
    """What `without_grants` made, with its grants."""
    return ServiceRecord(**stored, grants=grants)  # type: ignore[arg-type]


# --- who may


def may(service: ServiceRecord, caller: Caller, *privileges: str) -> bool:
    """Whether a caller has one of some privileges. ALL_PRIVILEGES has all but MANAGE in it (Databricks docs)."""
    if caller.admin or caller.name == service.owner:
        return True
    given = {privilege for who in (caller.name, *EVERYBODY) for privilege in service.grants.get(who, ())}
    if "ALL_PRIVILEGES" in given and set(privileges) - {"MANAGE"}:
        return True
    return not given.isdisjoint(privileges)


def need_privilege(service: ServiceRecord, caller: Caller, privilege: str, securable: str) -> None:
    """Raises Problem 403 unless the caller has the privilege, in Unity Catalog's words."""
    if not may(service, caller, privilege):
        what = f"{securable.upper()} '{service.name}'"
        raise Problem(403, "PERMISSION_DENIED", f"User does not have {privilege} on {what}.")


def changed_grants(grants: Grants, changes: object) -> dict[str, list[str]]:
    """Grants after the `changes` of a request, each of which adds to and removes from those of a principal.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(changes, list):
        raise invalid('changes must be a list such as [{"principal": "users", "add": ["EXECUTE"]}]')
    after = {who: list(privileges) for who, privileges in grants.items()}
    for change in changes:
        who = change.get("principal") if isinstance(change, dict) else None
        if not isinstance(change, dict) or not isinstance(who, str) or not who:
            raise invalid("each of changes must be an object that names a principal")
        for verb in ("add", "remove"):
            listed = change.get(verb) or []
            if not isinstance(listed, list) or not all(one in PRIVILEGES for one in listed):
                raise invalid(f"{verb} must be a list of privileges; those of a service are {', '.join(PRIVILEGES)}")
        privileges = [one for one in after.get(who, []) if one not in (change.get("remove") or [])]
        after[who] = list(dict.fromkeys([*privileges, *(change.get("add") or [])]))
    return {who: privileges for who, privileges in after.items() if privileges}


def assignments(grants: Grants, principal: str | None) -> list[Json]:
    """Grants as Unity Catalog shows them."""
    shown = grants.items() if principal is None else [(principal, grants.get(principal, ()))]
    return [{"principal": who, "privileges": list(privileges)} for who, privileges in shown if privileges]


# --- names, pages and changes


def full_name(parent: object, identifier: object, parameter: str) -> str:
    """The name of a service from `schemas/catalog.schema` and its own name.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(identifier, str) or not COMPONENT.fullmatch(identifier):
        raise invalid(f"{parameter} must be 1 to 255 characters without spaces, dots and slashes")
    return f"{schema_of(parent)}.{identifier}"


def schema_of(parent: object) -> str:
    """`catalog.schema` of `schemas/catalog.schema`.

    Raises:
        Problem: 400, it has another form.
    """
    kind, _, schema = str(parent or "").partition("/")
    parts = schema.split(".")
    if kind != "schemas" or len(parts) != 2 or not all(COMPONENT.fullmatch(part) for part in parts):
        raise invalid("parent must name a schema as schemas/catalog.schema, such as schemas/main.default")
    return schema


def page(services: Sequence[ServiceRecord], query: Mapping[str, str]) -> tuple[Sequence[ServiceRecord], str]:
    """One page of services in the order of their names, and the token of the next one ("" behind the last).

    A token names the last service of its page, so that nothing is left out or comes twice while others are made.

    Raises:
        Problem: 400 with the reason.
    """
    size, token = query.get("page_size") or "0", query.get("page_token") or ""
    if not size.isascii() or not size.isdecimal() or len(size) > 9:
        raise invalid("page_size must be a number, 0 or more")
    try:
        after = base64.b64decode(token, b"-_", validate=True).decode()
    except ValueError:  # also binascii.Error
        raise invalid("page_token must be a next_page_token that this list gave") from None
    left = sorted((one for one in services if one.name > after), key=lambda one: one.name)
    shown = left[: min(int(size) or PAGE_SIZE, PAGE_SIZE)]
    more = len(left) > len(shown)
    return shown, base64.urlsafe_b64encode(shown[-1].name.encode()).decode() if more else ""


def masked(before: Json, body: Mapping[str, object], paths: Mapping[str, Sequence[str]], mask: str) -> Json:
    """A service's `comment` and `config` after an update: what the mask names comes from the body, or is cleared.

    Args:
        before: as it is now.
        body: of the request.
        paths: what can be named in a mask, and which fields each name stands for.
        mask: names, with commas between them.

    Raises:
        Problem: 400 with the reason.
    """
    names = [name.strip() for name in mask.split(",") if name.strip()]
    unknown = [name for name in names if name not in paths]
    if not names or unknown:
        reason = f"it has '{unknown[0][:100]}'" if unknown else "it is missing"
        raise invalid(f"update_mask must name fields to change, of {', '.join(paths)}; {reason}")
    after = copy.deepcopy(before)
    for path in (path for name in names for path in paths[name]):
        *above, last = path.split(".")
        place, source = after, body
        for key in above:
            source, inner = _as_mapping(source.get(key)), place.get(key)
            if not isinstance(inner, dict):
                inner = place[key] = {}
            place = inner
        if source.get(last) is None:
            place.pop(last, None)
        else:
            place[last] = source[last]
    return after


def _as_mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def check_etag(service: ServiceRecord, etag: object) -> None:
    """Raises Problem 409 if a request names another version than the one there is."""
    if etag and etag != service.etag:
        reason = f"'{service.name}' was changed since it was read: the etag is another one now. Read it again"
        raise Problem(409, "ABORTED", f"{reason}.")


def resource(service: ServiceRecord, kind: str, shown_config: Json) -> Json:
    """What both kinds of services show; `kind` is the first part of the resource name."""
    return {
        "name": f"{kind}/{service.name}",
        **({"comment": service.comment} if service.comment else {}),
        "config": shown_config,
        "create_time": _time(service.created_ms),
        "created_by": service.owner,
        "effective_owner": service.owner,
        "etag": service.etag,
        "update_time": _time(service.updated_ms),
        "updated_by": service.updated_by,
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without(config: Json, *paths: str) -> Json:
    """A copy of a config without some fields."""
    shown = copy.deepcopy(config)
    for path in paths:
        *above, last = path.split(".")
        place: object = shown
        for key in above:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return shown


def resource_id(name: object, kind: str) -> str | None:
    """What stands behind `kind/` in a resource name; None if it has another form."""
    found, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    return rest if found == kind and rest else None


def sum_of(values: Iterable[object]) -> int:
    """The sum of what are integers."""
    return sum(value for value in values if type(value) is int)
