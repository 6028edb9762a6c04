"""Training jobs (`/v1/training_jobs`): those of `tasks.py`, and copies of them that users launch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dagster_kumo.local.model.model import entities_at, features_at, labels_after
from dagster_kumo.local.model.tasks import (
    BANDS,
    CURRENT,
    EARLIER,
    QUERIES,
    TRAINING_JOBS,
    Query,
    Split,
)
from dagster_kumo.local.service.jobs import Job, Stage, now
from dagster_kumo.local.service.outputs import table_of, time_column, write_parts
from dagster_kumo.local.service.service import ApiError, Call, Service, problem

_SPLITS = {split.cutoff: split for split in (CURRENT, EARLIER)}


@dataclass(frozen=True)
class Trained:
    """A training job with what it was trained for."""

    job: Job
    query: Query
    split: Split


class TrainingJobs:
    """The calls for training jobs. Metrics are measured when they are first asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        for spec in TRAINING_JOBS:
            if service.store.get("training_jobs", spec.id) is None:
                self._add(spec.id, spec.query, spec.split, spec.status, spec.tags)
        # In order of launch: the older job, the current ones, then the failed and the running one.
        for spec in TRAINING_JOBS:
            job = service.store.get("training_jobs", spec.id)
            assert job is not None
            launched = service.calendar.at(spec.split.cutoff + spec.launched_after)
            if spec.status == "RUNNING":
                launched = service.folder.created_at
            job.created_at = job.start_time = launched
            if job.has_ended:
                job.end_time = job.start_time + timedelta(minutes=42)

    def _add(self, id: str, query: Query, split: Split, status: str, tags: dict[str, str]) -> None:
        job = Job(
            kind="training_jobs",
            id=id,
            created_at=now(),
            config=_config(query.id, tags),
            tags={**tags, "pquery_id": query.id, "pquery_name": query.name},
            status=status,
            private={"pquery_id": query.id, "cutoff": split.cutoff},
        )
        job.log("Training", f"cut-off {self._service.calendar.at(split.cutoff):%Y-%m-%d}")
        if status == "FAILED":
            message = "The training table had no rows left after the split. (A stand-in's example.)"
            job.errors = [{"title": "Training failed", "message": message}]
        if job.has_ended:
            job.log(status.capitalize())
        self._service.store.add(job)

    def find_or_none(self, id: str) -> Trained | None:
        """The training job of this id, if there is one."""
        job = self._service.store.get("training_jobs", id)
        if job is None:
            return None
        return Trained(job, QUERIES[job.private["pquery_id"]], _SPLITS[job.private["cutoff"]])

    def get(self, id: str) -> Trained:
        """The training job of this id."""
        trained = self.find_or_none(id)
        if trained is None:
            raise ApiError(404, f"Training job {id} was not found.")
        return trained

    def done_ids(self) -> list[str]:
        """The ids of the training jobs that can predict."""
        jobs = self._service.store.all("training_jobs")
        return [job.id for job in jobs if job.status == "DONE"]

    # Calls #################################################################################

    def create(self, call: Call) -> dict[str, str]:
        """Train again on the same data: a new job for one of the stand-in's queries."""
        body = call.body()
        query = QUERIES.get(str(body.get("pquery_id")))
        if query is None:
            known = ", ".join(QUERIES)
            detail = f"The stand-in trains these queries only: {known}."
            raise ApiError(422, [problem(["pquery_id"], detail)])
        tags = {str(k): str(v) for k, v in dict(body.get("job_tags") or {}).items()}
        config = _config(query.id, tags)
        if body.get("model_plan"):
            config["model_plan"] = body["model_plan"]
        job = self._service.store.new(
            "training_jobs",
            config,
            tags={**tags, "pquery_id": query.id, "pquery_name": query.name},
            project_id=call.project_id,
            private={"pquery_id": query.id, "cutoff": CURRENT.cutoff},
        )
        self.resume(job)
        self._service.runner.wait_briefly(job)
        return {"id": job.id}

    def resume(self, job: Job) -> None:
        """Run a training job. Those that every data folder has stay as they are."""
        if job.id not in {spec.id for spec in TRAINING_JOBS}:
            self._service.start(job, Stage("Training", 1.0, self._train))

    def _train(self, job: Job) -> None:
        trained = self.get(job.id)
        self._service.model(trained.query, trained.split)

    def read(self, call: Call) -> dict[str, Any]:
        """A training job."""
        return self._resource(self.get(call.id))

    def list(self, call: Call) -> list[dict[str, Any]]:
        """Training jobs, newest first."""
        jobs = self._service.list("training_jobs", call)
        return [self._resource(self.get(job.id)) for job in jobs]

    def _resource(self, trained: Trained) -> dict[str, Any]:
        resource = trained.job.resource()
        if trained.job.status == "DONE":
            measured = self._service.model(trained.query, trained.split).metrics
            resource["result"] = {
                "eval_metrics": {
                    stage: [{"name": name, "value": value} for name, value in values.items()]
                    for stage, values in measured.items()
                },
                "total_elapsed_time": "PT42M",
                "automl_experiments_completed": 1,
            }
        return resource

    def progress(self, call: Call) -> dict[str, Any]:
        """The progress of a training job."""
        job = self.get(call.id).job
        start = job.start_time or job.created_at
        elapsed = ((job.end_time or now()) - start).total_seconds()
        return {
            "start_time": start.isoformat(),
            "total_trials": 1,
            "completed_trials": int(job.status == "DONE"),
            "elapsed_training_time": elapsed,
            "estimated_training_time": None if job.has_ended else elapsed + 60.0,
            "trial_progress": {},
        }

    def cancel(self, call: Call) -> dict[str, bool]:
        """Cancel a training job."""
        return {"is_cancelled": self._service.runner.cancel(self.get(call.id).job)}

    def holdout(self, call: Call) -> str:
        """A url of the holdout data: predictions and outcomes."""
        trained = self.get(call.id)
        if trained.job.status != "DONE":
            raise ApiError(409, f"Training job {call.id} is {trained.job.status}, not DONE.")
        folder = self._service.folder.files / trained.job.id / "holdout"
        file = folder / "part-00000.parquet"
        if not file.exists():
            write_parts(folder, [self._holdout_table(trained)])
        if call.query.get("presigned", "true").lower() != "true":
            return str(file)
        return self._service.files.url(call.base, file)

    def _holdout_table(self, trained: Trained) -> Any:
        day, task = trained.split.holdout, trained.query.task
        entities = entities_at(day)
        guess = self._service.model(trained.query, trained.split).predict(
            features_at(day, entities)
        )
        anchor = self._service.calendar.at(day)
        target, predicted = labels_after(day, entities, task), guess
        if guess.ndim == 2:  # classes, by their names
            target = [BANDS[band] for band in target]
            predicted = [BANDS[band] for band in guess.argmax(axis=1)]
        return table_of(
            {
                "ENTITY": entities,
                "ANCHOR_TIMESTAMP": time_column(anchor, len(entities)),
                "TARGET": target,
                "TARGET_PRED": predicted,
            }
        )


def _config(pquery_id: str, tags: dict[str, str]) -> dict[str, Any]:
    return {
        "job_tags": tags,
        "pquery_id": pquery_id,
        "model_plan": {
            "training_job": {"num_experiments": 1},
            "model_architecture": {"channels": [16]},
        },
        "graph_snapshot_id": None,
        "train_table_job_id": None,
        "train_table_override": None,
        "enable_baselines": False,
        "custom_train_table": None,
        "warm_start_job_id": None,
        "data_backend_session_id": None,
    }
