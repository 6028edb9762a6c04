"""Batch prediction jobs (`/v1/prediction_jobs`)."""

# numpy's types are partly unknown:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from dagster_kumo.local.model.model import entities_at, features_at
from dagster_kumo.local.service.exports import Exports, bucket_folder
from dagster_kumo.local.service.jobs import Job, JobFailed, Stage, duration, now
from dagster_kumo.local.service.outputs import (
    embeddings_table,
    part_files,
    predictions_table,
    write_parts,
)
from dagster_kumo.local.service.prediction_tables import PredictionTables, read_custom_table
from dagster_kumo.local.service.service import (
    ApiError,
    Call,
    Service,
    parse_time,
    problem,
    tag_errors,
    validation,
)
from dagster_kumo.local.service.training_jobs import TrainingJobs

_BATCH = 512
# The shares of a job's running time.
_TABLE, _PREDICT, _WRITE = 0.3, 0.6, 0.1


class _Options(BaseModel, strict=True):
    binary_classification_threshold: float | None = None
    num_classes_to_return: int | None = None
    num_workers: int = 1


class _Request(BaseModel, strict=True, protected_namespaces=()):
    """The request for a job, which echoes it with all its fields."""

    job_tags: dict[str, str]
    model_training_job_id: str
    predict_options: _Options
    outputs: list[dict[str, Any]] = []
    graph_snapshot_id: str | None = None
    pred_table_job_id: str | None = None
    pred_table_path: str | None = None
    prediction_time: str | None = None
    explanations: bool = False
    data_backend_session_id: str | None = None


class PredictionJobs:
    """The calls for prediction jobs, and the work of the jobs."""

    def __init__(
        self, service: Service, training: TrainingJobs, tables: PredictionTables, exports: Exports
    ) -> None:
        self._service = service
        self._training = training
        self._tables = tables
        self._exports = exports

    # Launch ################################################################################

    def create(self, call: Call) -> list[Any]:
        """Launch a job: `[job id or null, ValidationResponse]`."""
        config = call.parse(_Request)
        if config["pred_table_job_id"] and config["pred_table_path"]:
            message = (
                'Only one of "pred_table_job_id" or "pred_table_path" fields can be set, not both.'
            )
            raise ApiError(422, [problem([], message)])
        if config["prediction_time"] is not None:
            parse_time(config["prediction_time"], ["prediction_time"])
        errors, warnings = self._check(config)
        if fault := self._service.faults.take("refuse_launch", call.method, call.path):
            refused = {"title": fault.options["title"], "message": fault.options["message"]}
            errors.append(refused)
        if errors:
            return [None, validation(*errors, warnings=warnings)]

        if self._service.faults.take("ignore_prediction_time", call.method, call.path):
            del config["prediction_time"]
        training = self._training.get(config["model_training_job_id"])
        private: dict[str, Any] = {
            "pquery_id": training.query.id,
            "cutoff": training.split.cutoff,
            "anchor": self._anchor(config).isoformat(),
            # Kept apart from the config, which also gets the id of an inline table once it is made.
            "table_job_id": config["pred_table_job_id"],
        }
        if fault := self._service.faults.take("fail_job", call.method, call.path):
            private["fail"] = fault.options
        if fault := self._service.faults.take("overcount", call.method, call.path):
            private["overcount"] = fault.options["extra"]
        tags = self._service.kept_tags(config["job_tags"])
        tags |= {
            "model_id": config["model_training_job_id"],
            "pquery_id": training.query.id,
            "pquery_name": training.query.name,
        }
        job = self._service.store.new(
            "prediction_jobs", config, tags=tags, project_id=call.project_id, private=private
        )
        self.resume(job)
        self._service.runner.wait_briefly(job)
        return [job.id, validation(warnings=warnings)]

    def _check(self, config: dict[str, Any]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        errors, warnings = tag_errors(config["job_tags"]), list[dict[str, str]]()

        def error(title: str, message: str) -> None:
            errors.append({"title": title, "message": message})

        options = config["predict_options"]
        workers, classes = options["num_workers"], options["num_classes_to_return"]
        threshold = options["binary_classification_threshold"]
        if not 1 <= workers <= 4:
            error("Invalid number of workers", f"num_workers must be 1 to 4, not {workers}.")
        if threshold is not None and not 0 <= threshold <= 1:
            error(
                "Invalid threshold",
                f"binary_classification_threshold must lie between 0 and 1, not {threshold}.",
            )
        if classes is not None and classes < 1:
            error("Invalid number of classes", "num_classes_to_return must be 1 or more.")

        id = config["model_training_job_id"]
        training = self._training.find_or_none(id)
        if training is None:
            known = ", ".join(self._training.done_ids())
            error(
                "Training job not found",
                f"There is no training job {id}. The stand-in has these: {known}.",
            )
        elif training.job.status != "DONE":
            error(
                "Training job not done",
                f"Training job {id} is {training.job.status}; predictions need one that is DONE.",
            )
        elif threshold is not None and training.query.task != "binary_classification":
            message = "binary_classification_threshold has no effect on a " + training.query.task
            warnings.append({"title": "Option ignored", "message": message + " task."})

        table_id, path = config["pred_table_job_id"], config["pred_table_path"]
        if table_id and self._service.store.get("genpredtable_jobs", table_id) is None:
            error("Prediction table not found", f"There is no prediction table job {table_id}.")
        if path:
            try:
                folder = bucket_folder(self._service.folder.exports, path)
            except ValueError as refusal:
                error("Prediction table not found", str(refusal))
            else:
                if not folder.exists():
                    error(
                        "Prediction table not found",
                        f"There is nothing at {path}; the stand-in looks for it in {folder}.",
                    )
        errors += self._exports.output_errors(config["outputs"])
        return errors, warnings

    def _anchor(self, config: dict[str, Any]) -> datetime:
        if id := config["pred_table_job_id"]:
            table = self._service.store.get("genpredtable_jobs", id)
            assert table is not None
            return datetime.fromisoformat(table.private["anchor"])
        # The time in the config counts only when the table is made inline.
        time = config.get("prediction_time")
        if time is None or config["pred_table_path"]:
            return self._service.calendar.latest
        return parse_time(time, ["prediction_time"])

    # Work ##################################################################################

    def resume(self, job: Job) -> None:
        """Run a job."""
        table_id = job.private["table_job_id"]
        upstream = self._service.store.get("genpredtable_jobs", table_id) if table_id else None
        self._service.start(
            job,
            Stage("Generating prediction table", _TABLE, self._make_table),
            Stage("Predicting", _PREDICT, self._predict),
            Stage("Writing outputs", _WRITE, self._write_outputs),
            upstream=upstream,
        )

    def _make_table(self, job: Job) -> None:
        if "fail" in job.private:
            raise JobFailed(job.private["fail"]["title"], job.private["fail"]["reason"])
        if job.config["pred_table_path"]:
            return
        store = self._service.store
        if id := job.private["table_job_id"]:
            table = store.get("genpredtable_jobs", id)
            if table is None or table.status != "DONE":
                status = table.status if table else "MISSING"
                raise JobFailed(
                    "No prediction table", f"The prediction table job {id} ended {status}."
                )
            return
        table = self._tables.create_inline(job)
        with store.lock:
            job.config["pred_table_job_id"] = table.id
            store.save(job)
            table.status, table.start_time = "RUNNING", now()
            table.log("Generating prediction table")
        try:
            self._tables.generate(table)
        except JobFailed as failure:
            table.status = "FAILED"
            table.errors = [{"title": failure.title, "message": failure.message}]
            raise
        else:
            table.status = "DONE"
        finally:
            table.end_time = now()
            table.log(table.status.capitalize())
            store.save(table)

    def _predict(self, job: Job) -> None:
        training = self._training.get(job.config["model_training_job_id"])
        anchor = datetime.fromisoformat(job.private["anchor"])
        entities: Any = None
        if path := job.config["pred_table_path"]:
            folder = bucket_folder(self._service.folder.exports, path)
            entities, anchor = read_custom_table(folder, path, anchor)
            job.private["anchor"] = anchor.isoformat()
        day = self._service.check_anchor(anchor, training.split.cutoff)
        if entities is None:
            entities = entities_at(day)
        options = job.config["predict_options"]
        with self._service.store.lock:
            job.private["entities"] = len(entities)
            self._service.store.save(job)

        model = self._service.model(training.query, training.recipe)
        features = features_at(day, entities)
        count = self._service.files_per_output or options["num_workers"]
        slices = np.array_split(np.arange(len(entities)), count)
        threshold = options["binary_classification_threshold"]
        wanted = self.artifacts(job)
        if "PREDICTIONS" in wanted:
            tables = [
                predictions_table(
                    model,
                    features[rows],
                    entities[rows],
                    anchor,
                    threshold=0.5 if threshold is None else threshold,
                    num_classes=options["num_classes_to_return"],
                )
                for rows in slices
            ]
            write_parts(self.folder(job, "PREDICTIONS"), tables)
        if "EMBEDDINGS" in wanted:
            tables = [embeddings_table(model, features[rows], entities[rows]) for rows in slices]
            write_parts(self.folder(job, "EMBEDDINGS"), tables)

    def _write_outputs(self, job: Job) -> None:
        for output in job.config["outputs"]:
            files = part_files(self.folder(job, output["artifact_type"]))
            self._exports.write(job, output, files)
        extra = job.private.get("overcount", 0)
        job.result = {"num_entities_predicted": job.private["entities"] + extra}

    @staticmethod
    def artifacts(job: Job) -> set[str]:
        """The types of output that a job makes: predictions unless it names others."""
        named = {output["artifact_type"] for output in job.config["outputs"]}
        return named or {"PREDICTIONS"}

    def folder(self, job: Job, artifact: str) -> Path:
        """Where the files of an output are."""
        return self._service.folder.files / job.id / artifact.lower()

    # Calls #################################################################################

    def get(self, call: Call) -> dict[str, Any]:
        """A job."""
        resource = self._service.find("prediction_jobs", call).resource()
        if fault := self._service.faults.take("unknown_status", call.method, call.path):
            resource["job_status_report"]["status"] = fault.options["status"]
        return resource

    def list(self, call: Call) -> list[dict[str, Any]]:
        """Jobs, newest first."""
        return [job.resource() for job in self._service.list("prediction_jobs", call)]

    def progress(self, call: Call) -> dict[str, Any]:
        """The progress of a job."""
        job = self._service.find("prediction_jobs", call)
        runner = self._service.runner
        done = runner.fraction_done(job)
        total = -(-job.private.get("entities", 0) // _BATCH)
        elapsed = 0.0
        if job.start_time is not None:
            elapsed = ((job.end_time or now()) - job.start_time).total_seconds()
        estimate = runner.run_seconds if job.status == "RUNNING" else None
        # The table is made first. Only then are batches predicted.
        part = min(max((done - _TABLE) / _PREDICT, 0.0), 1.0)
        return {
            "start_time": job.start_time.isoformat() if job.start_time else None,
            "total_iterations": total,
            "completed_iterations": int(total * part),
            "elapsed_prediction_time": duration(elapsed),
            "estimated_prediction_time": duration(estimate) if estimate else None,
        }

    def cancel(self, call: Call) -> dict[str, bool]:
        """Cancel a job."""
        job = self._service.find("prediction_jobs", call)
        return {"is_cancelled": self._service.runner.cancel(job)}

    def urls(self, call: Call, artifact: str) -> list[str]:
        """Fresh presigned urls of an output's files; none if the job does not make it."""
        job = self._service.find("prediction_jobs", call)
        if job.status != "DONE":
            raise ApiError(409, f"Prediction job {job.id} has no outputs yet: it is {job.status}.")
        files = part_files(self.folder(job, artifact))
        return [self._service.files.url(call.base, file) for file in files]
