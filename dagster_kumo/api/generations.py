"""What differs between the two generations of Kumo's API: that of SDK 2.x and that of SDK 3.0.

`find_generation` asks the server, once for a connection. All that depends on the answer is here.
Elsewhere requests are written in one form, that of `records` and `connectors`, and this module brings
them into the form that the server takes.

When no deployment speaks the older one any more, delete `Generation2` and what uses it.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote

from dagster_kumo.api.connectors import kept_by_kumo
from dagster_kumo.api.errors import KumoAPIError, KumoError, KumoNotFoundError
from dagster_kumo.api.project_connectors import (
    ProjectConnector,
    find_connector,
    same_name,
    storage_of,
)
from dagster_kumo.api.records import (
    BatchPredictionRequest,
    Group,
    NamedProject,
    Project,
    parse_answer,
)

Get = Callable[[str, Mapping[str, str] | None], Any]
"""Asks for a path, which begins with a slash, with parameters: the JSON that answers it."""

DEFAULT_PROJECT = "default"
# Fields of a training request and its plan that 3.0 refuses.
_NOT_IN_TRAINING = ("enable_baselines", "data_backend_session_id")
# The SDK of 3.0 names a file `churn_predictions.parquet`, where that of 2.x has
# `churn.parquet_predictions`.
_ENDING_BEFORE_TYPE = re.compile(r"\.(csv|parquet)_(predictions|embeddings)$", re.IGNORECASE)


class Generation(ABC):
    """How to call one generation of the API."""

    version: str
    """The SDK that speaks it."""
    knows_repeated_exports: bool
    """Whether the server tells a repeated request for an export by its `request_id`."""
    names_table_for_time: bool
    """Whether a job may name the table that was made for its time instead of the time."""
    files_query: Mapping[str, str]
    """How the files of a prediction table, and the holdout data, are asked for."""

    def __init__(self, get: Get) -> None:
        self._get = get

    @abstractmethod
    def check(self) -> None:
        """Ask whether the key is accepted."""

    @abstractmethod
    def scope(self) -> Mapping[str, str]:
        """The query parameters that every call about jobs carries."""

    @abstractmethod
    def groups(self) -> list[Group] | None:
        """The groups that the key belongs to; None if there are none."""

    def projects(self, group_id: str) -> list[Project]:
        """The projects of a group."""
        answer = self._get("/v1/projects", {"group_id": group_id})
        return parse_answer(list[Project], answer, source="The list of projects")

    @abstractmethod
    def launch(self, request: BatchPredictionRequest) -> dict[str, Any]:
        """The body that launches a prediction job."""

    def training(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The body that launches a training job. Fields that are not known here stay as they are."""
        return dict(request)

    @abstractmethod
    def own_table(self, path: str | None) -> dict[str, Any]:
        """The field of a launch that names the user's own prediction table."""

    @abstractmethod
    def output(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """An output as it is asked for, in a launch or an export."""

    def written_to(self, output: Mapping[str, Any]) -> str | None:
        """The full name of what an output is written to, if the server knows more than the request."""
        del output
        return None


def find_generation(get: Get, *, group: str | None, project: str | None) -> Generation:
    """The generation that the server speaks. Only an answer that says so counts.

    Raises:
        KumoAPIError: The key is not accepted, or the server cannot tell now.
        ValueError: There is no such group or project.
    """
    try:
        get("/v1/authentication", None)
    except KumoAPIError as error:
        if error.status_code in (404, 405):
            return Generation2(get, group, project)
        if not _is_success(error):
            raise
    try:
        found = _find_project(get, group, project)
    except KumoAPIError as error:
        # A proxy in front of an older deployment may answer unknown paths with a page.
        if error.status_code != 404 and not _is_success(error):
            raise
        return Generation2(get, group, project)
    return Generation3(get, found)


def _is_success(error: KumoAPIError) -> bool:
    """Whether the server answered well, only not with the JSON that was expected."""
    return 200 <= error.status_code < 300


class Generation2(Generation):
    """SDK 2.x: groups are optional (RBAC), connectors go by name, files by their full url."""

    version = "2.x"
    knows_repeated_exports = False
    names_table_for_time = False
    files_query: Mapping[str, str] = {"presigned": "True"}

    def __init__(self, get: Get, group: str | None, project: str | None) -> None:
        super().__init__(get)
        self._group = group
        self._project = project
        self._scope: Mapping[str, str] | None = None

    def check(self) -> None:
        self._get("/v1/connectors", self.scope())

    def scope(self) -> Mapping[str, str]:
        if self._scope is None:
            groups = self.groups()
            self._scope = {} if groups is None else self._scope_in(groups)
        return self._scope

    def groups(self) -> list[Group] | None:
        return _groups(self._get) if self._has_groups() else None

    def launch(self, request: BatchPredictionRequest) -> dict[str, Any]:
        return {**request.to_json(), "outputs": [self.output(o) for o in request.outputs]}

    def own_table(self, path: str | None) -> dict[str, Any]:
        return {} if path is None else {"pred_table_path": path}

    def output(self, output: Mapping[str, Any]) -> dict[str, Any]:
        asked = {name: value for name, value in output.items() if value is not None}
        if asked.get("storage_type") == "DATABRICKS" and asked.pop("write_mode", None) == "APPEND":
            raise KumoError(
                "This deployment speaks the API of SDK 2.x, which always overwrites a table in Databricks. "
                'Leave out write_mode="APPEND"; to keep every export, put the time into table_name.'
            )
        return asked

    def _has_groups(self) -> bool:
        if (setting := os.getenv("RBAC_ENABLED")) is not None:  # comes first, as in the SDK
            return setting.lower() == "true"
        try:
            flags = self._get("/config", None)
        except KumoNotFoundError:  # an older server has no feature flags
            return False
        return isinstance(flags, dict) and bool(cast("dict[str, object]", flags).get("rbac"))

    def _scope_in(self, groups: Sequence[Group]) -> dict[str, str]:
        if self._group is not None:
            group_id = _pick("group", self._group, groups)
        elif len(groups) == 1:
            group_id = groups[0].id
        else:
            belongs = f"several groups ({_names(groups)}): name one with group=" if groups else ""
            raise ValueError(f"The key belongs to {belongs or 'no group: ask for one in Kumo'}.")
        if self._project is None:
            return {"group_id": group_id}
        projects = self.projects(group_id)
        return {"group_id": group_id, "project_id": _pick("project", self._project, projects)}


class Generation3(Generation):
    """SDK 3.0: all work is in a project, connectors go by id, and bodies hold no unknown fields."""

    version = "3.0"
    knows_repeated_exports = True
    names_table_for_time = True
    files_query: Mapping[str, str] = {}

    def __init__(self, get: Get, project: NamedProject) -> None:
        super().__init__(get)
        self.project = project

    def check(self) -> None:
        try:
            self._get("/v1/authentication", None)
        except KumoAPIError as error:
            if not _is_success(error):  # nothing is said of its body
                raise

    def scope(self) -> Mapping[str, str]:
        return {"project_id": self.project.id}

    def groups(self) -> list[Group] | None:
        return _groups(self._get)

    def launch(self, request: BatchPredictionRequest) -> dict[str, Any]:
        body = request.to_json()
        body.update(self.own_table(body.pop("pred_table_path", None)))
        if "pred_table_job_id" in body or "pred_table_source" in body:
            body.pop("prediction_time", None)  # the time is the table's
        # How a server treats an empty list is not known: the SDK never sends one.
        outputs = request.outputs or [kept_by_kumo("predictions")]
        return {**body, "outputs": [self.output(output) for output in outputs]}

    def training(self, request: Mapping[str, Any]) -> dict[str, Any]:
        # A plan that a person keeps, or that an older server gave, may have the field.
        body = {name: value for name, value in request.items() if name not in _NOT_IN_TRAINING}
        plan = body.get("model_plan")
        if isinstance(plan, Mapping) and isinstance(plan.get("training_job"), Mapping):
            kept = {k: v for k, v in plan["training_job"].items() if k not in _NOT_IN_TRAINING}
            body["model_plan"] = {**plan, "training_job": kept}
        return body

    def own_table(self, path: str | None) -> dict[str, Any]:
        if path is None:
            return {}
        storage = storage_of(path)
        if storage is None:
            raise KumoError(
                f"The prediction table {path} cannot be read: this deployment speaks the API of SDK "
                "3.0, which reads a table by its path from S3, GCS or ADLS only. "
                "Copy the table to a bucket, or make one with prediction_table_job_id."
            )
        connector = self._connector(storage, url=path)
        place = connector.place_of(path)
        source = (
            {"mode": "uri", "uri": place}
            if connector.root is None
            else {"mode": "relative", "path": place}
        )
        return {
            "pred_table_source": {
                "storage_type": storage,
                "connector_id": connector.id,
                "source": source,
            }
        }

    def output(self, output: Mapping[str, Any]) -> dict[str, Any]:
        asked = {name: value for name, value in output.items() if value is not None}
        if asked.get("storage_type", "LOCAL") == "LOCAL":
            return asked
        connector, url = self._destination(asked)
        asked["connector_id"] = connector.id
        if url is not None:
            asked["file_path"] = connector.place_of(url)
        return asked

    def written_to(self, output: Mapping[str, Any]) -> str | None:
        connector, url = self._destination(output)
        return connector.full_name(output["table_name"]) if url is None else url

    def _destination(self, output: Mapping[str, Any]) -> tuple[ProjectConnector, str | None]:
        """The connector that an output goes through, and the url of its file; None for a table."""
        path = output.get("file_path")
        url = None if path is None else _ENDING_BEFORE_TYPE.sub(r"_\2.\1", path)
        return self._connector(output["storage_type"], output.get("connector_id"), url=url), url

    def _connector(
        self, storage: str, wanted: str | None = None, *, url: str | None
    ) -> ProjectConnector:
        path = f"/v1/projects/{quote(self.project.id, safe='')}/connectors"
        answer = self._get(path, None)
        there = parse_answer(list[ProjectConnector], answer, source="The list of connectors")
        return find_connector(there, storage, wanted, url)


def _find_project(get: Get, group: str | None, project: str | None) -> NamedProject:
    """The project to work in (3.0).

    A group is no scope there. It narrows the choice, and so a resource that names a group alone, as
    it did on 2.x, means the group's only project, or the default one.
    """
    if group is None and project is None:
        with suppress(KumoNotFoundError):
            answer = get(f"/v1/projects/{DEFAULT_PROJECT}", None)
            return parse_answer(NamedProject, answer, source="The default project")
    params = None if group is None else {"group_id": _pick("group", group, _groups(get))}
    source = "The list of projects"
    there: list[NamedProject] = parse_answer(
        list[NamedProject], get("/v1/projects", params), source=source
    )
    if project is not None:
        return _named_project(project, there)
    meant = [one for one in there if one.id == DEFAULT_PROJECT] or there
    if group is not None and len(meant) == 1:
        return meant[0]
    raise ValueError(
        f"It is not clear which project is meant. There are: {_names(there) or 'none'}. "
        "Name one with project=."
    )


def _named_project(name: str, there: Sequence[NamedProject]) -> NamedProject:
    """The project with this id, or else with this slug or display name."""
    found = [one for one in there if one.id == name] or [
        one for one in there if name == one.slug or same_name(name, one.display_name)
    ]
    if not found:
        raise ValueError(f"There is no project {name!r}; there are: {_names(there) or 'none'}.")
    if len(found) > 1:
        ids = ", ".join(one.id for one in found)
        raise ValueError(f"Several projects are called {name!r}. Name one by its id: {ids}.")
    return found[0]


def _groups(get: Get) -> list[Group]:
    return parse_answer(list[Group], get("/v1/groups", None), source="The list of groups")


def _pick(kind: str, wanted: str, there: Sequence[Group | Project | NamedProject]) -> str:
    """The id of the one whose id or name is `wanted`."""
    for item in there:
        if wanted in (item.id, item.display_name):
            return item.id
    raise ValueError(f"There is no {kind} {wanted!r}; there are: {_names(there) or 'none'}.")


def _names(items: Sequence[Group | Project | NamedProject]) -> str:
    return ", ".join(item.display_name or item.id for item in items)
