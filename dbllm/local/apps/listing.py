"""`/api/2.0/apps`: which apps there are, and where."""

from __future__ import annotations

from datetime import datetime, timezone

from dbllm.local.errors import missing
from dbllm.local.http.operations import ApiCall, Operation
from dbllm.local.json_values import Json
from dbllm.local.management.catalog import CREATOR
from dbllm.local.management.served_entity import stable_id

APPS = "/api/2.0/apps"


class AppsApi:
    """The apps of a workspace: the agent's.

    Args:
        name: the app's name.
        url: where it is; "" if it has no origin of its own.
        created_ms: when it was made, milliseconds since 1970.
    """

    def __init__(self, name: str, url: str, created_ms: int) -> None:
        running = bool(url)
        created = datetime.fromtimestamp(created_ms / 1000, timezone.utc).isoformat(timespec="seconds")
        self._app: Json = {
            "name": name,
            "id": stable_id(f"apps/{name}"),
            "description": "The workspace's own model as an agent.",
            "creator": CREATOR,
            "create_time": created.replace("+00:00", "Z"),
            "app_status": {"state": "RUNNING" if running else "UNAVAILABLE", "message": "App is running." * running},
            "compute_status": {"state": "ACTIVE" if running else "STOPPED", "message": ""},
            **({"url": url} if running else {}),
        }

    def operations(self) -> list[Operation]:
        """The REST operations."""
        return [
            Operation("GET", APPS, self._list, "List the apps", options=("page_size", "page_token")),
            Operation("GET", f"{APPS}/{{app_name}}", self._get, "Describe an app, with its URL"),
        ]

    def _list(self, _call: ApiCall) -> Json:
        return {"apps": [self._app]}

    def _get(self, call: ApiCall) -> Json:
        name = call.path["app_name"]
        if name != self._app["name"]:
            raise missing(f"App with name {name} does not exist or is deleted")
        return self._app
