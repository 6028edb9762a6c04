"""The API of SDK 3.0 over the parts of the service, which speak that of 2.x.

A body is checked and brought into the form of 2.x. The job keeps what was sent, and shows that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from dagster_kumo.local.service.catalog import Catalog
from dagster_kumo.local.service.exports import Exports
from dagster_kumo.local.service.jobs import Job, Kind
from dagster_kumo.local.service.prediction_jobs import PredictionJobs
from dagster_kumo.local.service.prediction_tables import PredictionTables
from dagster_kumo.local.service.projects import DEFAULT, Projects
from dagster_kumo.local.service.requests3 import Export, Launch, TableJob, TrainingJob
from dagster_kumo.local.service.service import ApiError, Call, Service
from dagster_kumo.local.service.training_jobs import TrainingJobs

Answer = Callable[[Call], Any]
Table = list[tuple[str, str, Answer]]

_KINDS: tuple[Kind, ...] = ("prediction_jobs", "genpredtable_jobs", "training_jobs", "artifact")
_GONE = ("/connectors", "/source_tables", "/groups", "/projects")
_NOT_IN_CONFIGS = {"data_backend_session_id", "enable_baselines", "pred_table_path"}


@dataclass
class Generation3:
    """Makes the calls of 3.0 from those of 2.x."""

    service: Service
    predictions: PredictionJobs
    tables: PredictionTables
    training: TrainingJobs
    exports: Exports
    catalog: Catalog

    def __post_init__(self) -> None:
        self._projects = Projects(self.service)
        self._exporting = threading.Lock()

    def calls(self, table: Table) -> Table:
        """The calls of 3.0: those of 2.x, with what is otherwise."""
        projects = self._projects
        one = "/projects/{project}"
        own: Table = [
            ("GET", "/authentication", lambda _: {}),
            ("GET", "/groups", projects.groups),
            ("GET", "/projects", projects.list),
            ("GET", "/projects/by-slug/{project}", projects.by_slug),
            ("GET", one, projects.get),
            ("GET", one + "/connectors", projects.connectors),
            ("POST", one + "/connectors", projects.create_connector),
            ("GET", one + "/connectors/uploads/connector", projects.upload_connector),
            ("GET", one + "/connectors/{id}", projects.connector),
        ]

        def checked(model: type[BaseModel], answer: Answer) -> Answer:
            return lambda call: answer(replace(call, json=call.parse(model)))

        changed: dict[tuple[str, str], Answer] = {
            ("POST", "/prediction_jobs"): self._launch,
            ("POST", "/genpredtable_jobs"): checked(TableJob, self.tables.create),
            ("POST", "/training_jobs"): checked(TrainingJob, self.training.create),
            ("POST", "/artifact"): self._export,
            ("GET", "/predictive_queries/{id}"): self._query,
        }
        kept = [
            (method, path, self._in_project(path, changed.get((method, path), answer)))
            for method, path, answer in table
            if not path.startswith(_GONE)
        ]
        return [*own, *kept]

    def _in_project(self, path: str, answer: Answer) -> Answer:
        """The call for one project: by default the default one. A job of another is not there."""
        kind: Kind | None = next((k for k in _KINDS if path.startswith(f"/{k}")), None)

        def in_project(call: Call) -> Any:
            project_id = call.query.get("project_id", DEFAULT)
            self._projects.find("id", project_id)
            call = replace(call, query={**call.query, "project_id": project_id})
            if kind is not None and "id" in call.ids:
                job = self.service.store.get(kind, call.id)
                if job is not None and job.project_id not in (None, project_id):
                    raise ApiError(404, f"Job {call.id} was not found in project {project_id}.")
            return self._shown(kind, answer(call), project_id)

        return in_project

    # Requests ##############################################################################

    def _launch(self, call: Call) -> Any:
        sent = call.parse(Launch)
        source = sent.pop("pred_table_source")
        body = {
            **sent,
            "outputs": [self._output_of_2(call, output) for output in sent["outputs"]],
            "pred_table_path": self._path_of(call, source) if source else None,
        }
        answer = self.predictions.create(replace(call, json=body))
        if answer[0] is not None:
            self._keep("prediction_jobs", answer[0], {**sent, "pred_table_source": source})
        return answer

    def _export(self, call: Call) -> Any:
        sent = call.parse(Export)
        with self._exporting:  # two requests with one id may come at once
            for there in self.service.store.all("artifact"):
                if there.private.get("sent", {}).get("request_id") == sent["request_id"]:
                    if there.private["sent"] != sent or there.project_id != call.project_id:
                        raise ApiError(409, "The request_id was used for another export.")
                    return {"job_id": there.id}
            output = sent["prediction_output"]
            body = {**sent, "prediction_output": output and self._output_of_2(call, output)}
            answer = self.exports.create(replace(call, json=body))
            self._keep("artifact", answer["job_id"], sent)
        return answer

    def _keep(self, kind: Kind, id: str, sent: dict[str, Any]) -> None:
        job = self.service.store.get(kind, id)
        assert job is not None
        job.private["sent"] = sent
        self.service.store.save(job)

    def _output_of_2(self, call: Call, output: dict[str, Any]) -> dict[str, Any]:
        storage, project_id = output["storage_type"], str(call.project_id)
        if storage == "LOCAL":
            return output
        connector_id = output["connector_id"]
        if "file_path" in output:
            url = self._projects.url_of(project_id, connector_id, storage, output["file_path"])
            return {**output, "file_path": url}
        name = self._projects.name_of(project_id, connector_id, storage)
        return {**output, "connector_id": name}

    def _path_of(self, call: Call, source: dict[str, Any]) -> str:
        if source["storage_type"] == "DATABRICKS":
            raise ApiError(501, "The stand-in reads prediction tables from buckets only.")
        place = source["source"]
        path = place["uri"] if place["mode"] == "uri" else place["path"]
        return self._projects.url_of(
            str(call.project_id), source["connector_id"], source["storage_type"], path
        )

    # Answers ###############################################################################

    def _query(self, call: Call) -> Any:
        """A query whose tables lie behind the project's connector to S3."""
        query = self.catalog.query(call)
        for table in query["graph"]["tables"].values():
            source = table["source_table"]
            if "s3_path" in source:
                table["source_table"] = {
                    "data_source_type": "S3",
                    "connector_id": self._projects.any_s3(str(call.project_id)),
                    "file_type": source["file_type"],
                    "source": {"mode": "uri", "uri": source["s3_path"]},
                }
        return query

    def _shown(self, kind: Kind | None, answer: Any, project_id: str) -> Any:
        """An answer with every job in it as 3.0 shows it."""
        if isinstance(answer, list):
            return [self._shown(kind, one, project_id) for one in answer]
        if kind is None or not isinstance(answer, dict) or "job_status_report" not in answer:
            return answer
        resource: dict[str, Any] = answer
        job = self.service.store.get(kind, resource["job_id"])
        assert job is not None
        config = _config(job, resource["config"])
        shown = {**resource, "config": config, "project_id": job.project_id or project_id}
        if kind == "prediction_jobs" and self.predictions.artifacts(job) == {"EMBEDDINGS"}:
            shown["result"] = None
        return shown


def _config(job: Job, config: dict[str, Any]) -> dict[str, Any]:
    """What a job was asked for. Once its table is made, the table stands in the place of the time."""
    sent: dict[str, Any] = job.private.get("sent") or config
    shown = {name: value for name, value in sent.items() if name not in _NOT_IN_CONFIGS}
    if job.kind == "prediction_jobs" and config["pred_table_job_id"] is not None:
        shown |= {"pred_table_job_id": config["pred_table_job_id"], "prediction_time": None}
    return shown
