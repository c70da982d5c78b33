"""The control plane of model services and model provider services, and their grants.

`/api/2.1/unity-catalog/{model-services, model-provider-services, permissions/…}` (databricks-sdk: `AiGatewayAPI`,
`GrantsAPI`). Records are kept in memory and in the store; the store is changed first. The workspace has no catalogs and
schemas of its own making: every parent but those of `system` takes services, and whoever may call makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

from dbllm.local.access.permissions import Caller
from dbllm.local.errors import Problem, invalid, missing, taken
from dbllm.local.http.operations import OBJECTS, TEXT, ApiCall, Operation, object_schema, text_schema
from dbllm.local.json_values import Json
from dbllm.local.management import service_record
from dbllm.local.management.service_record import Grants, ServiceRecord, may, need_privilege
from dbllm.local.storage.store import Change, Store

UNITY_CATALOG = "/api/2.1/unity-catalog"
VIEWS = ("BASIC", "FULL")
SEES = ("EXECUTE", "READ_METADATA", "MANAGE")
"""Privileges with which a service is listed and described."""


class ServiceRules(Protocol):
    """What one kind of services has of its own.

    Attributes:
        kind: the first part of its resource names, and the end of its path.
        securable: its name among the types of Unity Catalog's securables.
        masks: what an update mask can name → the fields that it stands for.
        example: a config that can be made, for the document.
    """

    kind: str
    securable: str
    masks: Mapping[str, Sequence[str]]
    example: Json

    def check(self, config: object, caller: Caller, before: Json | None) -> Json:
        """A config that can be kept; Problem for what is wrong with it, or not the caller's to use."""
        ...

    def show(self, service: ServiceRecord, *, full: bool) -> Json:
        """The service as JSON."""
        ...


class Services:
    """All services of one kind.

    Args:
        store: remembers them.
        rules: of the kind.
        now: seconds since 1970.
        ready: those that are there from the start.
        forget: says what else ends with a service, by its name.
    """

    def __init__(
        self,
        store: Store,
        rules: ServiceRules,
        now: Callable[[], float],
        ready: Iterable[ServiceRecord] = (),
        forget: Callable[[str], Iterable[Change]] = lambda _name: (),
    ) -> None:
        self._store = store
        self._rules = rules
        self._now = now
        self._forget = forget
        grants = cast("Mapping[str, Grants]", store.load(self._grants_kind))
        self._services = {one.name: replace(one, grants=grants.get(one.name, one.grants)) for one in ready}
        for name, stored in store.load(rules.kind).items():
            self._services[name] = service_record.with_grants(cast("Json", stored), grants.get(name, {}))

    @property
    def securable(self) -> str:
        """The type of these securables."""
        return self._rules.securable

    @property
    def _grants_kind(self) -> str:
        return f"{self._rules.kind}/grants"

    def get(self, name: str) -> ServiceRecord | None:
        """The service, or None. Safe to call from any thread."""
        return self._services.get(name)

    def find(self, name: str) -> ServiceRecord:
        """The service.

        Raises:
            Problem: 404, there is none.
        """
        service = self._services.get(name)
        if service is None:
            raise missing(f"{self.securable.replace('_', ' ').capitalize()} '{name}' does not exist")
        return service

    def operations(self) -> list[Operation]:
        """The REST operations."""
        path, one = f"{UNITY_CATALOG}/{self._rules.kind}", f"{UNITY_CATALOG}/{self._rules.kind}/{{full_name}}"
        body = object_schema("config", comment=TEXT, config={"type": "object", "examples": [self._rules.example]})
        changed = object_schema(comment=TEXT, config={"type": "object"}, etag=TEXT)
        what = self.securable.replace("_", " ")
        return [
            Operation("GET", path, self._list, f"List {what}s", options=("parent", "page_size", "page_token", "view")),
            Operation("POST", path, self._create, f"Create a {what}", body, query=("parent", self._id_parameter)),
            Operation("GET", one, self._get, f"Describe a {what}"),
            Operation(
                "PATCH", one, self._update, f"Change a {what}", changed, query=("update_mask",), options=("etag",)
            ),
            Operation("DELETE", one, self._delete, f"Delete a {what}", options=("etag",)),
        ]

    @property
    def _id_parameter(self) -> str:
        return f"{self.securable}_id"

    def _list(self, call: ApiCall) -> Json:
        view = call.query.get("view") or "BASIC"
        if view not in VIEWS:
            raise invalid(f"view must be one of {', '.join(VIEWS)}")
        services: Sequence[ServiceRecord] = list(self._services.values())
        if parent := call.query.get("parent"):
            schema = service_record.schema_of(parent)
            services = [one for one in services if one.name.rpartition(".")[0] == schema]
        # Of the whole page, so that one whose services the caller may not see is empty and still names the next.
        shown, token = service_record.page(services, call.query)
        visible = [self._rules.show(one, full=view == "FULL") for one in shown if may(one, call.caller, *SEES)]
        listed: Json = {self._rules.kind.replace("-", "_"): visible}
        return {**listed, "next_page_token": token} if token else listed

    def _get(self, call: ApiCall) -> Json:
        service = self.find(call.path["full_name"])
        if not may(service, call.caller, *SEES):
            need_privilege(service, call.caller, SEES[0], self.securable)
        return self._rules.show(service, full=True)

    def _create(self, call: ApiCall) -> Json:
        parent, identifier = call.query.get("parent"), call.query.get(self._id_parameter)
        name = service_record.full_name(parent, identifier, self._id_parameter)
        if name.startswith("system."):
            raise Problem(403, "PERMISSION_DENIED", f"User does not have CREATE SERVICE on Schema '{parent}'.")
        if name in self._services:
            raise taken(f"{self.securable.replace('_', ' ').capitalize()} '{name}' already exists")
        if call.body.get("config") is None:
            raise invalid("config is missing")
        config = self._rules.check(call.body["config"], call.caller, None)
        now_ms = int(self._now() * 1000)
        comment = _comment(call.body)
        return self._keep(ServiceRecord(name, config, call.caller.name, now_ms, now_ms, call.caller.name, comment))

    def _update(self, call: ApiCall) -> Json:
        service = self._changeable(call)
        before: Json = {"comment": service.comment, "config": service.config}
        after = service_record.masked(before, call.body, self._rules.masks, call.query.get("update_mask", ""))
        config = after.get("config")
        # What it refers to may be gone, or not the caller's: that hinders none of the other changes.
        if config != service.config:
            config = self._rules.check(config, call.caller, service.config)
        changed = replace(
            service,
            comment=_comment(after),
            config=cast("Json", config),
            updated_ms=int(self._now() * 1000),
            updated_by=call.caller.name,
            version=service.version + 1,
        )
        return self._keep(changed)

    def _keep(self, service: ServiceRecord) -> Json:
        self._store.commit(Change(self._rules.kind, service.name, service_record.without_grants(service)))
        self._services[service.name] = service
        return self._rules.show(service, full=True)

    def _delete(self, call: ApiCall) -> Json:
        service = self._changeable(call)
        gone = [Change(kind, service.name, None) for kind in (self._rules.kind, self._grants_kind)]
        self._store.commit(*gone, *self._forget(service.name))
        del self._services[service.name]
        return {}

    def _changeable(self, call: ApiCall) -> ServiceRecord:
        service = self.find(call.path["full_name"])
        need_privilege(service, call.caller, "MANAGE", self.securable)
        if service.fixed:
            raise invalid(f"'{service.name}' was made by the workspace itself and can be neither changed nor deleted")
        service_record.check_etag(service, call.query.get("etag") or call.body.get("etag"))
        return service

    def set_grants(self, service: ServiceRecord, grants: Grants) -> None:
        """Replace the grants of a service."""
        self._store.commit(Change(self._grants_kind, service.name, grants))
        self._services[service.name] = replace(service, grants=grants)


class GrantsApi:
    """Who may do what with services, whatever their kind.

    Args:
        services: of every kind.
    """

    def __init__(self, *services: Services) -> None:
        self._services = {one.securable: one for one in services}

    def operations(self) -> list[Operation]:
        """The REST operations."""
        one = "{securable_type}/{full_name}"
        privileges: Json = {"type": "array", "items": text_schema("EXECUTE")}
        change = object_schema("principal", principal=text_schema("users"), add=privileges, remove=privileges)
        body = object_schema("changes", changes={**OBJECTS, "items": change})
        paged = ("principal", "page_token")
        return [
            Operation("GET", f"{UNITY_CATALOG}/permissions/{one}", self._list, "Who may do what", options=paged),
            Operation(
                "GET", f"{UNITY_CATALOG}/privilege-assignments/{one}", self._list, "The same, by pages", options=paged
            ),
            Operation("PATCH", f"{UNITY_CATALOG}/permissions/{one}", self._change, "Grant and revoke", body),
        ]

    def _list(self, call: ApiCall) -> Json:
        _, service = self._service(call, *SEES)
        return {"privilege_assignments": service_record.assignments(service.grants, call.query.get("principal"))}

    def _change(self, call: ApiCall) -> Json:
        services, service = self._service(call, "MANAGE")
        grants = service_record.changed_grants(service.grants, call.body.get("changes"))
        services.set_grants(service, grants)
        return {"privilege_assignments": service_record.assignments(grants, None)}

    def _service(self, call: ApiCall, *privileges: str) -> tuple[Services, ServiceRecord]:
        kind = call.path["securable_type"].lower()
        if kind not in self._services:
            known = " and ".join(self._services)
            raise invalid(f"A local workspace keeps grants of {known}; securable_type is '{kind[:60]}'")
        service = self._services[kind].find(call.path["full_name"])
        if not may(service, call.caller, *privileges):
            need_privilege(service, call.caller, privileges[0], kind)
        return self._services[kind], service


def _comment(fields: Mapping[str, object]) -> str:
    comment = fields.get("comment") or ""
    if not isinstance(comment, str):
        raise invalid("comment must be text")
    return comment
