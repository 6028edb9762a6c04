"""Prediction tables (`/v1/genpredtable_jobs`): for whom to predict, and as of when."""

# The types of pyarrow are partly unknown:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from dagster_kumo.local.model.model import entities_at
from dagster_kumo.local.model.tasks import CURRENT, QUERIES
from dagster_kumo.local.service.jobs import Job, JobFailed, Stage
from dagster_kumo.local.service.outputs import entities_table, part_files, write_parts
from dagster_kumo.local.service.service import ApiError, Call, Service, parse_time, problem

# What clients send to leave a value to the server.
_MISSING = "???"
_PLAN: dict[str, Any] = {
    "anchor_time": "inferred",
    "lag_timesteps": _MISSING,
    "forecast_length": _MISSING,
    "year_over_year": _MISSING,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class PredictionTables:
    """Makes prediction tables, on request or as a child of a prediction job."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def create(self, call: Call) -> dict[str, str]:
        """Launch a job that makes a prediction table."""
        body = call.body()
        if not isinstance(body.get("pquery_id"), str):
            raise ApiError(422, [problem(["pquery_id"], "Field required")])
        plan = {**_PLAN, **(body.get("plan") or {})}
        config = {
            "job_tags": dict(body.get("job_tags") or {}),
            "pquery_id": body["pquery_id"],
            "plan": plan,
            "graph_snapshot_id": body.get("graph_snapshot_id"),
            "data_backend_session_id": body.get("data_backend_session_id"),
        }
        job = self._new(config, self._anchor(plan["anchor_time"]), CURRENT.cutoff, call.project_id)
        self.resume(job)
        self._service.runner.wait_briefly(job)
        return {"id": job.id}

    def create_inline(self, parent: Job) -> Job:
        """Create the table job of a prediction job that has no table, as its child."""
        anchor = datetime.fromisoformat(parent.private["anchor"])
        config = {
            "job_tags": {"parent_job_id": parent.id},
            "pquery_id": parent.private["pquery_id"],
            "plan": {**_PLAN, "anchor_time": (anchor - _EPOCH) // timedelta(microseconds=1) * 1000},
            "graph_snapshot_id": parent.config["graph_snapshot_id"],
            "data_backend_session_id": None,
        }
        return self._new(config, anchor, parent.private["cutoff"], parent.project_id)

    def resume(self, job: Job) -> None:
        """Run a table's job."""
        self._service.start(job, Stage("Generating prediction table", 1.0, self.generate))

    def generate(self, job: Job) -> None:
        """Write the table."""
        anchor = datetime.fromisoformat(job.private["anchor"])
        day = self._service.check_anchor(anchor, job.private["cutoff"])
        write_parts(self.folder(job), [entities_table(entities_at(day), anchor)])

    def folder(self, job: Job) -> Path:
        """Where the table's files are."""
        return self._service.folder.files / job.id / "table"

    def anchor_time(self, call: Call) -> str | None:
        """The anchor time of a table that is DONE."""
        job = self._service.find("genpredtable_jobs", call)
        return job.private["anchor"] if job.status == "DONE" else None

    def data_urls(self, call: Call) -> list[str]:
        """Presigned urls of the table's files."""
        job = self._service.find("genpredtable_jobs", call)
        if job.status != "DONE":
            raise ApiError(409, f"Prediction table {job.id} is not there: its job is {job.status}.")
        files = part_files(self.folder(job))
        if call.query.get("presigned", "true").lower() != "true":
            return [str(file) for file in files]
        return [self._service.files.url(call.base, file) for file in files]

    def errors(self, call: Call) -> dict[str, Any]:
        """Why a job failed, in Kumo's ErrorDetails."""
        job = self._service.find("genpredtable_jobs", call)
        items = [
            {"type": 0, "title": error["title"], "description": error["message"], "cta": None}
            for error in job.errors
        ]
        return {"items": items}

    def cancel(self, call: Call) -> dict[str, bool]:
        """Cancel a job."""
        job = self._service.find("genpredtable_jobs", call)
        return {"is_cancelled": self._service.runner.cancel(job)}

    def _new(
        self, config: dict[str, Any], anchor: datetime, cutoff: int, project_id: str | None
    ) -> Job:
        tags = {"pquery_id": config["pquery_id"]}
        if query := QUERIES.get(config["pquery_id"]):
            tags["pquery_name"] = query.name
        return self._service.store.new(
            "genpredtable_jobs",
            config,
            tags=self._service.kept_tags(config["job_tags"]) | tags,
            project_id=project_id,
            private={"anchor": anchor.isoformat(), "cutoff": cutoff},
        )

    def _anchor(self, value: Any) -> datetime:
        if value in ("inferred", _MISSING, None):
            return self._service.calendar.latest
        if isinstance(value, int):
            try:
                return _EPOCH + timedelta(microseconds=value // 1000)
            except OverflowError:
                detail = "anchor_time must be nanoseconds since 1970-01-01"
                raise ApiError(422, [problem(["plan", "anchor_time"], detail)]) from None
        return parse_time(value, ["plan", "anchor_time"])


def read_custom_table(folder: Path, path: str, latest: datetime) -> tuple[Any, datetime]:
    """The entities and the anchor time of a prediction table that the user wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder)
    names = table.column_names
    entities = table.column("ENTITY" if "ENTITY" in names else names[0])
    if "ANCHOR_TIMESTAMP" not in names:
        return entities.to_numpy(), latest
    anchors = table.column("ANCHOR_TIMESTAMP").unique().to_pylist()
    if len(anchors) != 1:
        raise JobFailed(
            "Unsupported prediction table",
            f"The prediction table {path} has {len(anchors)} anchor times; "
            "the stand-in takes tables with one.",
        )
    return entities.to_numpy(), parse_time(anchors[0], [])
