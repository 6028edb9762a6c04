"""Projects, groups and the connectors of projects, as the API of SDK 3.0 has them."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

from dagster_kumo.local.folder import read_json, write_json
from dagster_kumo.local.service.jobs import now
from dagster_kumo.local.service.requests3 import SCHEMES, Connector
from dagster_kumo.local.service.service import ApiError, Call, Service

DEFAULT = "default"


def _id(kind: str, name: str) -> str:
    return f"{kind}_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


GROUPS = [
    {"id": DEFAULT, "slug": DEFAULT, "display_name": "Default"},
    {"id": _id("group", "analytics"), "slug": "analytics", "display_name": "Analytics"},
]
PROJECTS = [
    {"id": DEFAULT, "slug": DEFAULT, "display_name": "Default", "group_id": DEFAULT},
    *(
        {
            "id": _id("project", name.lower()),
            "slug": name.lower(),
            "display_name": name,
            "group_id": GROUPS[1]["id"],
        }
        for name in ("Churn", "Spend")
    ),
]
# Every project has a connector to each storage. Those to buckets take any url.
CONNECTORS: dict[str, dict[str, Any]] = {
    "warehouse": {
        "type": "snowflake",
        "warehouse": "COMPUTE",
        "database": "STANDIN",
        "schema_name": "PUBLIC",
    },
    "analytics": {
        "type": "bigquery",
        "project_id": "stand-in-project",
        "dataset_id": "predictions",
        "location": "US",
    },
    "lakehouse": {
        "type": "databricks",
        "catalog": "main",
        "schema_name": "predictions",
        "warehouse_id": "w-1",
    },
    "any-s3": {"type": "s3", "target": {"mode": "any_uri"}},
    "any-gcs": {"type": "gcs", "target": {"mode": "any_uri"}},
    "any-adls": {"type": "adls", "target": {"mode": "any_uri"}},
}


class Projects:
    """The calls for projects, groups and connectors."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._path = service.folder.path / "connectors.json"
        # What users made, by the id.
        self._made: dict[str, dict[str, Any]] = read_json(self._path) or {}

    def groups(self, _: Call) -> list[dict[str, str]]:
        return GROUPS

    def list(self, call: Call) -> list[dict[str, str]]:
        """The caller's projects, or those of a group."""
        group = call.query.get("group_id")
        return [one for one in PROJECTS if group in (None, one["group_id"])]

    def get(self, call: Call) -> dict[str, str]:
        return self.find("id", call.ids["project"])

    def by_slug(self, call: Call) -> dict[str, str]:
        return self.find("slug", call.ids["project"])

    def find(self, field: str, value: str) -> dict[str, str]:
        """The project whose field has this value, or a refusal."""
        for project in PROJECTS:
            if project[field] == value:
                return project
        raise ApiError(404, f"There is no project {value}.")

    # Connectors ############################################################################

    def connectors(self, call: Call) -> list[dict[str, Any]]:
        return self._connectors_of(self.get(call)["id"])

    def _connectors_of(self, project_id: str) -> list[dict[str, Any]]:
        made = [one for one in self._made.values() if one["project_id"] == project_id]
        time = self._service.folder.created_at.isoformat()
        return [_shown(project_id, name, c, time) for name, c in CONNECTORS.items()] + made

    def connector(self, call: Call) -> dict[str, Any]:
        return self._connector(self.get(call)["id"], call.id)

    def _connector(self, project_id: str, id: str) -> dict[str, Any]:
        for connector in self._connectors_of(project_id):
            if connector["id"] == id:
                return connector
        raise ApiError(404, f"There is no connector {id} in the project {project_id}.")

    def create_connector(self, call: Call) -> dict[str, Any]:
        """Make a connector, or return the one that is the same."""
        asked = call.parse(Connector)
        project_id = self.get(call)["id"]
        for there in self._connectors_of(project_id):
            if _plain(there["name"]) == _plain(asked["name"]):
                if there["config"] != _without_nulls(asked["config"]):
                    raise ApiError(409, f"The connector {there['name']} leads somewhere else.")
                return there
        config = _without_nulls(asked["config"])
        made = _shown(project_id, asked["name"], config, now().isoformat())
        with self._service.store.lock:
            self._made[made["id"]] = made
            write_json(self._path, self._made)
        return made

    def upload_connector(self, call: Call) -> dict[str, str]:
        """The connector of what users upload."""
        return {"connector_id": _id("connector", f"{self.get(call)['id']}/uploads")}

    # Places ################################################################################

    def url_of(self, project_id: str, connector_id: str, storage: str, path: str) -> str:
        """The full url of a file that is named to a connector."""
        connector = self._of_storage(project_id, connector_id, storage)
        target = connector["config"]["target"]
        is_rooted = target["mode"] == "rooted"
        if is_rooted == ("://" in path):
            wanted = "a path below its root" if is_rooted else "a full url"
            raise ApiError(422, f"The connector {connector['name']} takes {wanted}, not {path}.")
        if not is_rooted:
            return path
        bucket = target.get("bucket") or (
            f"{target['filesystem']}@{target['storage_account']}."
            f"{target.get('endpoint_suffix', 'dfs.core.windows.net')}"
        )
        root = f"{SCHEMES[storage]}://{bucket}/{target.get('prefix', '')}".rstrip("/")
        return f"{root}/{path}"

    def any_s3(self, project_id: str) -> str:
        """The id of the connector that takes any url on S3."""
        return _id("connector", f"{project_id}/any-s3")

    def name_of(self, project_id: str, connector_id: str, storage: str) -> str:
        """The name of a warehouse's connector."""
        return self._of_storage(project_id, connector_id, storage)["name"]

    def _of_storage(self, project_id: str, connector_id: str, storage: str) -> dict[str, Any]:
        connector = self._connector(project_id, connector_id)
        if connector["config"]["type"] != storage.lower():
            raise ApiError(422, f"The connector {connector['name']} does not lead to {storage}.")
        return connector


def _shown(project_id: str, name: str, config: dict[str, Any], time: str) -> dict[str, Any]:
    return {
        "id": _id("connector", f"{project_id}/{_plain(name)}"),
        "project_id": project_id,
        "identity_id": _id("identity", "stand-in"),
        "name": name,
        "timestamps": {"created_at": time, "updated_at": time},
        "config": config,
        "description": "",
        "created_by": None,
    }


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name.strip()).casefold()


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items: dict[str, Any] = value
    return {key: _without_nulls(inner) for key, inner in items.items() if inner is not None}
