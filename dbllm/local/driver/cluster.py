"""The workspace's one cluster: who may attach to it, and which ports of its driver node the proxy reaches.

Databricks: the driver proxy takes who has "Can attach to" on the cluster; admins may manage every cluster. There, all
that listens on the driver node is the cluster's. Here the driver node is the owner's machine, on which much else
listens; so the proxy reaches only ports that an admin has registered (`dbllm serve` and `dbllm up --driver` do that
with the owner's credential), and never the workspace's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from dbllm.local.access import permissions
from dbllm.local.access.permissions import Acl, Caller, only_admins
from dbllm.local.errors import bad_request, denied, missing
from dbllm.local.http.operations import TEXT, ApiCall, Operation, object_schema
from dbllm.local.json_values import Json
from dbllm.local.storage.store import Change, Store

PORTS = range(3000, 8001)
LEVELS = ("CAN_ATTACH_TO", "CAN_RESTART", "CAN_MANAGE")
PERMISSIONS = "/api/2.0/permissions/clusters/{cluster_id}"
DRIVER_APPS = "/api/local/driver-apps"


class Cluster:
    """The cluster.

    Args:
        store: remembers who may attach.
        cluster_id: its id.
        ports: ports of driver apps that are registered from the start.

    Attributes:
        ports: the registered ports.
    """

    def __init__(self, store: Store, cluster_id: str, ports: Iterable[int] = ()) -> None:
        self.id = cluster_id
        self.ports = set(ports)
        self._store = store
        self._acl: Acl = cast("dict[str, str]", store.load("cluster").get("acl", {}))

    def need(self, caller: Caller, wanted: str) -> None:
        """Raises Problem 403 unless `caller` has `wanted` on the cluster."""
        current = permissions.level(self._acl, caller, LEVELS)
        if current is None or LEVELS.index(current) < LEVELS.index(wanted):
            raise denied(f"'{caller.name}' does not have {wanted} on the cluster '{self.id}'")

    def operations(self) -> list[Operation]:
        """The permissions API of Databricks, and the local one of ports."""
        port = object_schema("port", port={"type": "integer", "minimum": PORTS[0], "maximum": PORTS[-1]})
        entry = object_schema(
            "permission_level", user_name=TEXT, permission_level={"type": "string", "enum": [*LEVELS]}
        )
        acl = object_schema(access_control_list={"type": "array", "items": entry})
        return [
            Operation("GET", PERMISSIONS, self._permissions, "Who may use the cluster"),
            Operation("PUT", PERMISSIONS, self._set_permissions, "Replace who may use the cluster", acl),
            Operation("PATCH", PERMISSIONS, self._add_permissions, "Add who may use the cluster", acl),
            Operation("GET", DRIVER_APPS, self._apps, "Ports the driver proxy may reach"),
            Operation("POST", DRIVER_APPS, self._add_app, "Let it reach one more", port),
            Operation("DELETE", DRIVER_APPS, self._remove_app, "Let it reach one less", port),
        ]

    def _permissions(self, call: ApiCall) -> Json:
        self._known(call, "CAN_ATTACH_TO")
        return permissions.described(self.id, self._acl, "cluster", LEVELS)

    def _set_permissions(self, call: ApiCall) -> Json:
        return self._replace_acl(call, {})

    def _add_permissions(self, call: ApiCall) -> Json:
        return self._replace_acl(call, self._acl)

    def _replace_acl(self, call: ApiCall, kept: Acl) -> Json:
        self._known(call, "CAN_MANAGE")
        acl = {**kept, **permissions.read_acl(call.body, LEVELS)}
        self._store.commit(Change("cluster", "acl", acl))
        self._acl = acl
        return permissions.described(self.id, acl, "cluster", LEVELS)

    def _known(self, call: ApiCall, wanted: str) -> None:
        if call.path["cluster_id"] != self.id:
            raise missing(f"Cluster {call.path['cluster_id']} does not exist")
        self.need(call.caller, wanted)

    def _apps(self, call: ApiCall) -> Json:
        """Local only, not a Databricks API."""
        self.need(call.caller, "CAN_ATTACH_TO")
        return {"cluster_id": self.id, "ports": sorted(self.ports)}

    def _add_app(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        self.ports.add(_port(call))
        return self._apps(call)

    def _remove_app(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        self.ports.discard(_port(call))
        return self._apps(call)


def _port(call: ApiCall) -> int:
    port = call.body.get("port")
    if type(port) is not int or port not in PORTS:
        raise bad_request(f"'port' must be an integer from {PORTS[0]} to {PORTS[-1]}")
    return port
