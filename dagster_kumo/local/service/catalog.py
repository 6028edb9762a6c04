"""Connectors, groups, graphs, tables and predictive queries: everything but jobs.

Enough of each for the official SDK to load a query from a training job, take a snapshot of its graph
and launch predictions. Tables and graphs are accepted as they are sent: the stand-in's data never
change.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from dagster_kumo.local.folder import read_json, write_json
from dagster_kumo.local.model.tasks import QUERIES, find_query, graph_of
from dagster_kumo.local.service.jobs import now, validation
from dagster_kumo.local.service.service import ApiError, Call, Service

GROUPS = {"group-analytics": "Analytics", "group-marketing": "Marketing"}
PROJECTS = {
    "group-analytics": {"project-churn": "Churn", "project-spend": "Spend"},
    "group-marketing": {"project-campaigns": "Campaigns"},
}
# The SDK reads these before it knows its group.
_WITHOUT_GROUP = ("/v1/groups", "/v1/connectors")


def check_group(call: Call, path: str) -> None:
    """Refuse a call that names no group, or one that is not the caller's (RBAC)."""
    if path in _WITHOUT_GROUP:
        return
    group, project = call.query.get("group_id"), call.project_id
    if group not in GROUPS:
        known = ", ".join(GROUPS)
        raise ApiError(403, f"RBAC is on: the call needs a group_id of yours ({known}).")
    if project is not None and project not in PROJECTS[group]:
        known = ", ".join(PROJECTS[group])
        raise ApiError(403, f"Project {project} is not in group {group}; it has {known}.")


class Catalog:
    """The calls that are not about jobs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._path = service.folder.path / "catalog.json"
        stored = read_json(self._path) or {}
        # {kind: {id: definition}}, of what was sent
        self._stored: dict[str, dict[str, Any]] = {
            kind: stored.get(kind, {}) for kind in ("connectors", "graphs", "tables", "queries")
        }

    def _keep(self, kind: str, id: str, value: Any) -> None:
        with self._service.store.lock:
            self._stored[kind][id] = value
            write_json(self._path, self._stored)

    # Groups ################################################################################

    def groups(self, _: Call) -> list[dict[str, str]]:
        return [{"group_id": id, "display_name": name} for id, name in GROUPS.items()]

    def projects(self, call: Call) -> list[dict[str, str]]:
        projects = PROJECTS.get(call.query.get("group_id", ""), {})
        return [{"id": id, "display_name": name} for id, name in projects.items()]

    def group_connectors(self, _: Call) -> list[dict[str, Any]]:
        return [
            {"id": id, "display_name": id, "connector_type": kind, "scope": None}
            for id, kind in (("group-warehouse", "databricks"), ("group-bucket", "file"))
        ]

    # Connectors ############################################################################

    def connectors(self, call: Call) -> list[Any]:
        """The connectors that users created."""
        wanted = call.query.get("data_source_type", "").lower()
        wanted = {"s3": "file", "gcs": "file", "adls": "file"}.get(wanted, wanted)
        connectors = self._stored["connectors"].values()
        return [c for c in connectors if not wanted or c["config"]["type"] == wanted]

    def create_connector(self, call: Call) -> dict[str, str]:
        """Store a connector, without its credentials."""
        config = call.body().get("config")
        if not isinstance(config, dict) or "name" not in config or "type" not in config:
            raise ApiError(422, "config with a name and a type is required")
        name, time = str(config["name"]), now().isoformat()
        value = {
            "id": name,
            "timestamps": {"created_at": time, "updated_at": time},
            "config": config,
        }
        self._keep("connectors", name, value)
        return {"id": name}

    def connector(self, call: Call) -> Any:
        return self._find("connectors", call.id)

    def delete_connector(self, call: Call) -> dict[str, str]:
        self._find("connectors", call.id)
        with self._service.store.lock:
            del self._stored["connectors"][call.id]
            write_json(self._path, self._stored)
        return {"id": call.id}

    # Tables and graphs #####################################################################

    def accept(self, _: Call) -> Any:
        """Accept any definition."""
        return validation()

    def define(self, kind: Literal["table", "graph"], call: Call) -> dict[str, str]:
        definition = call.body()
        id = f"{kind}-{_fingerprint(definition)}"
        self._keep(f"{kind}s", id, definition)
        if name := call.query.get("name_alias"):
            self._keep(f"{kind}s", name, definition)
        return {"id": id}

    def definition(self, kind: Literal["table", "graph"], call: Call) -> dict[str, Any]:
        return {"id": call.id, kind: self._find(f"{kind}s", call.id), "name_alias": None}

    def create_table_snapshot(self, call: Call) -> dict[str, str]:
        """A snapshot of a table, as of the last day of the data."""
        return {"id": f"{self.define('table', call)['id']}@{self._version}"}

    def table_snapshot(self, call: Call) -> dict[str, Any]:
        """A table's snapshot, which is ready at once."""
        id = call.id.rpartition("@")[0]
        return {
            "id": call.id,
            "table_definition": self._stored["tables"].get(id),
            "column_stats": [],
            "stages": self._stages("INGEST", "MIN_COL_STATS", "FULL_COL_STATS"),
        }

    def create_graph_snapshot(self, call: Call) -> dict[str, str]:
        """A snapshot of a graph, as of the last day of the data."""
        id = call.query.get("graph_id", "")
        self._find("graphs", id)
        return {"id": f"{id}@{self._version}"}

    def graph_snapshot(self, call: Call) -> dict[str, Any]:
        """A graph's snapshot, which is ready at once."""
        graph = self._find("graphs", call.id.rpartition("@")[0])
        tables = {
            name: f"table-{_fingerprint(table)}@{self._version}"
            for name, table in graph["tables"].items()
        }
        return {
            "id": call.id,
            "table_ids": tables,
            "stages": self._stages("INGEST", "MATERIALIZE"),
            "graph_name": None,
        }

    def edge_health(self, _: Call) -> dict[str, Any]:
        """Edge statistics: there are none."""
        return {"is_ready": True, "statistics": {}}

    @property
    def _version(self) -> str:
        return self._service.calendar.last_day.strftime("%Y%m%d")

    def _stages(self, *names: str) -> dict[str, Any]:
        time = self._service.folder.created_at.isoformat()
        state = {"status": "DONE", "start_time": time, "end_time": time}
        return {name: state | {"warnings": [], "error": None} for name in names}

    # Predictive queries ####################################################################

    def query(self, call: Call) -> dict[str, Any]:
        """A predictive query by its id or name."""
        query = find_query(call.id)
        if query is None:
            return self._find("queries", call.id)
        return {
            "query_string": query.text,
            "graph": graph_of(query),
            "name": query.name,
            "desc": query.description,
        }

    def queries(self, call: Call) -> list[dict[str, Any]]:
        ids = [*QUERIES, *self._stored["queries"]]
        return [self.query(Call(call.method, call.path, {"id": i}, {}, None, "")) for i in ids]

    def create_query(self, call: Call) -> dict[str, str]:
        """Store a query. If its text is that of one of the stand-in's queries, return the id of that one."""
        definition = call.body()
        if name := definition.get("name"):
            self._keep("queries", name, definition)
            return {"id": name}
        own = find_query(definition.get("query_string", ""))
        if own is not None:
            return {"id": own.id}
        id = f"pquery-{_fingerprint(definition)}"
        self._keep("queries", id, definition)
        return {"id": id}

    def task_type(self, call: Call) -> list[str]:
        """The task of a query, and whether it is temporal."""
        query = find_query(call.query.get("pquery_string", ""))
        if query is None:
            texts = "; ".join(query.text for query in QUERIES.values())
            raise ApiError(422, f"The stand-in knows these queries only: {texts}.")
        return [query.task, "temporal"]

    def _find(self, kind: str, id: str) -> Any:
        try:
            return self._stored[kind][id]
        except KeyError:
            raise ApiError(404, f"There is nothing called {id} among the {kind}.") from None


def _fingerprint(definition: Any) -> str:
    text = json.dumps(definition, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
