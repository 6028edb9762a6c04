"""What the parts of the service share: the data folder, jobs, files and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dagster_kumo.local.faults import Faults
from dagster_kumo.local.folder import DataFolder
from dagster_kumo.local.model.data import NUM_DAYS, Calendar
from dagster_kumo.local.model.model import Model, load_model
from dagster_kumo.local.model.tasks import Query, Recipe
from dagster_kumo.local.service.files import FileServer
from dagster_kumo.local.service.jobs import Job, JobFailed, JobRunner, JobStore, Kind
from dagster_kumo.local.service.outputs import part_files

# How far past the end of the data an anchor may lie.
_DAYS_PAST_THE_END = 35
# Query parameters of a list call that are not tags.
_NOT_TAGS = {"pquery_name", "pquery_id", "job_status", "limit", "group_id", "project_id"}


class ApiError(Exception):
    """Makes the call answer with this status and `{"detail": ...}`."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Call:
    """One call of the API."""

    method: str
    path: str
    ids: dict[str, str]
    query: dict[str, str]
    json: Any
    # Scheme and host that the caller used, for urls in the answer.
    base: str

    @property
    def id(self) -> str:
        return self.ids["id"]

    @property
    def project_id(self) -> str | None:
        """The project that the call is for, when RBAC is on."""
        return self.query.get("project_id")

    def body(self) -> dict[str, Any]:
        """The JSON object that was sent."""
        if not isinstance(self.json, dict):
            raise ApiError(422, [problem([], "Input should be a valid JSON object")])
        body: dict[str, Any] = self.json
        return body

    def parse(self, model: type[BaseModel], *, takes_nulls: bool = True) -> dict[str, Any]:
        """All fields of the request, or a refusal that names those that cannot be.

        If the model takes no nulls, one counts as not sent.
        """
        sent = self.body()
        if not takes_nulls:
            sent = {name: value for name, value in sent.items() if value is not None}
        try:
            return model.model_validate(sent).model_dump(mode="json")
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            raise ApiError(
                422, [{**one, "loc": ["body", *one["loc"]]} for one in details]
            ) from None


def problem(where: list[str], message: str) -> dict[str, Any]:
    """One entry of the detail of a 422."""
    return {"loc": ["body", *where], "msg": message, "type": "value_error"}


@dataclass(frozen=True)
class Service:
    """What every kind of job needs."""

    folder: DataFolder
    store: JobStore
    runner: JobRunner
    files: FileServer
    faults: Faults
    # How many files an output has; None: one for each worker.
    files_per_output: int | None

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.folder.last_day)

    def model(self, query: Query, recipe: Recipe) -> Model:
        return load_model(query.task, recipe, self.folder.models)

    def kept_tags(self, call: Call, tags: Mapping[str, str]) -> dict[str, str]:
        """Those of the tags given at a launch that the service keeps: all of them, but for a fault."""
        return {} if self.faults.take("forget_tags", call.method, call.path) else dict(tags)

    def find(self, kind: Kind, call: Call) -> Job:
        """The job that the call names."""
        job = self.store.get(kind, call.id)
        late = self.faults.take("show_late", call.method, call.path)
        if job is None or (late and job.age_seconds < late.options["seconds"]):
            raise ApiError(404, f"Job {call.id} was not found.")
        return job

    def output(self, job: Job, name: str) -> Path:
        """The folder of one of the outputs of a job."""
        return self.folder.files / job.id / name.lower()

    def urls(self, call: Call, job: Job, name: str) -> list[str]:
        """Fresh presigned urls of an output's files, or their paths if the call asks for those."""
        files = part_files(self.output(job, name))
        if call.query.get("presigned", "true").lower() != "true":
            return [str(file) for file in files]
        return [self.files.url(call.base, file) for file in files]

    def cancel(self, kind: Kind, call: Call) -> dict[str, bool]:
        return {"is_cancelled": self.runner.cancel(self.find(kind, call))}

    def list(self, kind: Kind, call: Call) -> list[Job]:
        """The jobs that the call asks for, newest first."""
        jobs = self.store.all(kind)[::-1]
        if late := self.faults.take("list_late", call.method, call.path):
            jobs = [job for job in jobs if job.age_seconds >= late.options["seconds"]]
        query = call.query
        ignore_tags = self.faults.take("ignore_tag_filters", call.method, call.path)
        for name, value in query.items():
            if name in ("pquery_name", "pquery_id") or (name not in _NOT_TAGS and not ignore_tags):
                jobs = [job for job in jobs if job.tags.get(name) == value]
        if "job_status" in query:
            jobs = [job for job in jobs if job.status == query["job_status"]]
        if call.project_id is not None:
            jobs = [job for job in jobs if job.project_id in (None, call.project_id)]
        if "limit" in query:
            if not query["limit"].isdigit():
                raise ApiError(422, "limit should be a whole number")
            jobs = jobs[: int(query["limit"])]
        return jobs

    def update_tags(self, kind: Kind, call: Call) -> dict[str, bool]:
        """Set the tags that the call names; the value `none` removes one."""
        job = self.find(kind, call)
        changes = {k: v for k, v in call.query.items() if k not in ("group_id", "project_id")}
        for error in tag_errors(changes):
            raise ApiError(400, error["message"])
        with self.store.lock:
            tags = {name: value for name, value in job.tags.items() if name not in changes}
            tags |= {k: v for k, v in changes.items() if v.lower() != "none"}
            updated = tags != job.tags
            # Replaced, never changed: another thread may be reading them.
            job.tags = tags
            self.store.save(job)
        return {"resource_updated": updated}

    def check_anchor(self, anchor: datetime, cutoff_day: int) -> int:
        """The day of the data that the anchor lies in, if predictions can be made for it."""
        calendar = self.calendar
        day = calendar.day(anchor)
        if day < cutoff_day:
            raise JobFailed(
                "Anchor time too early",
                f"The anchor time {anchor:%Y-%m-%d %H:%M} lies before "
                f"{calendar.at(cutoff_day):%Y-%m-%d}: the model was trained on data up to that "
                "day, so a prediction for an earlier time would know its own future. Choose a "
                "later anchor time.",
            )
        if day > NUM_DAYS - 1 + _DAYS_PAST_THE_END:
            raise JobFailed(
                "Anchor time too late",
                f"The anchor time {anchor:%Y-%m-%d %H:%M} lies more than {_DAYS_PAST_THE_END} days "
                f"past the end of the data ({calendar.last_day:%Y-%m-%d}). Choose an earlier "
                "anchor time, or begin with a new data folder, whose data end yesterday.",
            )
        return int(day)


def tag_errors(tags: Mapping[str, Any]) -> list[dict[str, str]]:
    """The errors in the tags, as in a ValidationResponse."""
    errors: list[dict[str, str]] = []
    for name, value in tags.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            message = (
                f"The key {name!r} of a job tag may have at most 64 characters, all of them "
                "letters, digits, dots, underscores or dashes."
            )
            errors.append({"title": "Invalid job tag", "message": message})
        if len(str(value)) > 256:
            message = f"The value of the job tag {name!r} has more than 256 characters."
            errors.append({"title": "Invalid job tag", "message": message})
    return errors


def parse_time(value: Any, where: list[str]) -> datetime:
    """An ISO datetime, in UTC; one without a zone is taken as UTC."""
    try:
        time = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        raise ApiError(422, [problem(where, "Input should be a valid datetime")]) from None
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)
