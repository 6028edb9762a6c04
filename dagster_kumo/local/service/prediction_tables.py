"""Prediction tables (`/v1/genpredtable_jobs`): for whom to predict, and as of when."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dagster_kumo.local.model.model import entities_at
from dagster_kumo.local.model.tasks import CURRENT, QUERIES
from dagster_kumo.local.service.jobs import Job, JobFailed, Stage
from dagster_kumo.local.service.outputs import rows_of, write_parts
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


class _Request(BaseModel):
    """The request for a job, which echoes it with all its fields."""

    job_tags: dict[str, str] = {}
    pquery_id: str
    plan: dict[str, Any] = {}
    graph_snapshot_id: str | None = None
    data_backend_session_id: str | None = None


class PredictionTables:
    """Makes prediction tables, on request or as a child of a prediction job."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def create(self, call: Call) -> dict[str, str]:
        config = call.parse(_Request, takes_nulls=False)
        anchor = self._anchor(config["plan"].get("anchor_time"))
        tags = self._service.kept_tags(call, config["job_tags"])
        job = self._new(config, tags, anchor, CURRENT.cutoff, call.project_id)
        self.resume(job)
        self._service.runner.wait_briefly(job)
        return {"id": job.id}

    def create_inline(self, parent: Job) -> Job:
        """Create the table job of a prediction job that has no table, as its child."""
        anchor, tags = (
            datetime.fromisoformat(parent.private["anchor"]),
            {"parent_job_id": parent.id},
        )
        request = _Request(
            job_tags=tags,
            pquery_id=parent.private["pquery_id"],
            plan={"anchor_time": (anchor - _EPOCH) // timedelta(microseconds=1) * 1000},
            graph_snapshot_id=parent.config["graph_snapshot_id"],
        )
        cutoff = parent.private["cutoff"]
        return self._new(request.model_dump(), tags, anchor, cutoff, parent.project_id)

    def resume(self, job: Job) -> None:
        self._service.runner.start(job, Stage("Generating prediction table", 1.0, self.generate))

    def generate(self, job: Job) -> None:
        anchor = datetime.fromisoformat(job.private["anchor"])
        day = self._service.check_anchor(anchor, job.private["cutoff"])
        write_parts(self._service.output(job, "table"), [rows_of(entities_at(day), anchor)])

    def anchor_time(self, call: Call) -> str | None:
        """The anchor time of a table that is DONE."""
        job = self._service.find("genpredtable_jobs", call)
        return job.private["anchor"] if job.status == "DONE" else None

    def data_urls(self, call: Call) -> list[str]:
        job = self._service.find("genpredtable_jobs", call)
        if job.status != "DONE":
            raise ApiError(409, f"Prediction table {job.id} is not there: its job is {job.status}.")
        return self._service.urls(call, job, "table")

    def errors(self, call: Call) -> dict[str, Any]:
        """Why a job failed, in Kumo's ErrorDetails."""
        job = self._service.find("genpredtable_jobs", call)
        items = [
            {"type": 0, "title": error["title"], "description": error["message"], "cta": None}
            for error in job.errors
        ]
        return {"items": items}

    def _new(
        self,
        config: dict[str, Any],
        tags: dict[str, str],
        anchor: datetime,
        cutoff: int,
        project_id: str | None,
    ) -> Job:
        tags = {**tags, "pquery_id": config["pquery_id"]}
        if query := QUERIES.get(config["pquery_id"]):
            tags["pquery_name"] = query.name
        return self._service.store.new(
            "genpredtable_jobs",
            {**config, "plan": {**_PLAN, **config["plan"]}},
            tags=tags,
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
