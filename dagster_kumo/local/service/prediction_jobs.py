"""Batch prediction jobs (`/v1/prediction_jobs`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from pydantic import BaseModel

from dagster_kumo.local.model.model import entities_at, features_at
from dagster_kumo.local.service.exports import Exports, bucket_folder
from dagster_kumo.local.service.jobs import Job, JobFailed, Stage, duration, now, validation
from dagster_kumo.local.service.outputs import embeddings_table, predictions_table, write_parts
from dagster_kumo.local.service.prediction_tables import PredictionTables, read_custom_table
from dagster_kumo.local.service.service import (
    ApiError,
    Call,
    Service,
    parse_time,
    problem,
    tag_errors,
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


@dataclass
class PredictionJobs:
    """The calls for prediction jobs, and the work of the jobs."""

    service: Service
    training: TrainingJobs
    tables: PredictionTables
    exports: Exports

    # Launch ################################################################################

    def create(self, call: Call) -> list[Any]:
        """Launch a job: `[job id or null, ValidationResponse]`."""
        config = call.parse(_Request, takes_nulls=False)
        if config["pred_table_job_id"] and config["pred_table_path"]:
            message = (
                'Only one of "pred_table_job_id" or "pred_table_path" fields can be set, not both.'
            )
            raise ApiError(422, [problem([], message)])
        if config["prediction_time"] is not None:
            parse_time(config["prediction_time"], ["prediction_time"])
        errors, warnings = self._check(config)
        if fault := self.service.faults.take("refuse_launch", call.method, call.path):
            refused = {"title": fault.options["title"], "message": fault.options["message"]}
            errors.append(refused)
        if errors:
            return [None, validation(*errors, warnings=warnings)]

        if self.service.faults.take("ignore_prediction_time", call.method, call.path):
            del config["prediction_time"]
        training = self.training.get(config["model_training_job_id"])
        assert training is not None
        private: dict[str, Any] = {
            "pquery_id": training.query.id,
            "cutoff": training.split.cutoff,
            "anchor": self._anchor(config).isoformat(),
            # Kept apart from the config, which also gets the id of an inline table once it is made.
            "table_job_id": config["pred_table_job_id"],
        }
        if fault := self.service.faults.take("fail_job", call.method, call.path):
            private["fail"] = fault.options
        if fault := self.service.faults.take("overcount", call.method, call.path):
            private["overcount"] = fault.options["extra"]
        tags = self.service.kept_tags(call, config["job_tags"])
        tags |= {
            "model_id": config["model_training_job_id"],
            "pquery_id": training.query.id,
            "pquery_name": training.query.name,
        }
        job = self.service.store.new(
            "prediction_jobs", config, tags=tags, project_id=call.project_id, private=private
        )
        self.resume(job)
        self.service.runner.wait_briefly(job)
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
        training = self.training.get(id)
        if training is None:
            jobs = self.service.store.all("training_jobs")
            known = ", ".join(job.id for job in jobs if job.status == "DONE")
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
        if table_id and self.service.store.get("genpredtable_jobs", table_id) is None:
            error("Prediction table not found", f"There is no prediction table job {table_id}.")
        if path:
            try:
                folder = bucket_folder(self.service.folder.exports, path)
            except ValueError as refusal:
                error("Prediction table not found", str(refusal))
            else:
                if not folder.exists():
                    error(
                        "Prediction table not found",
                        f"There is nothing at {path}; the stand-in looks for it in {folder}.",
                    )
        errors += self.exports.output_errors(config["outputs"])
        return errors, warnings

    def _anchor(self, config: dict[str, Any]) -> datetime:
        if id := config["pred_table_job_id"]:
            table = self.service.store.get("genpredtable_jobs", id)
            assert table is not None
            return datetime.fromisoformat(table.private["anchor"])
        # The time in the config counts only when the table is made inline.
        time = config.get("prediction_time")
        if time is None or config["pred_table_path"]:
            return self.service.calendar.latest
        return parse_time(time, ["prediction_time"])

    # Work ##################################################################################

    def resume(self, job: Job) -> None:
        table_id = job.private["table_job_id"]
        upstream = self.service.store.get("genpredtable_jobs", table_id) if table_id else None
        self.service.runner.start(
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
        store = self.service.store
        if id := job.private["table_job_id"]:
            table = store.get("genpredtable_jobs", id)
            if table is None or table.status != "DONE":
                status = table.status if table else "MISSING"
                raise JobFailed(
                    "No prediction table", f"The prediction table job {id} ended {status}."
                )
            return
        table = self.tables.create_inline(job)
        with store.lock:
            job.config["pred_table_job_id"] = table.id
            store.save(job)
            table.status, table.start_time = "RUNNING", now()
            table.log("Generating prediction table")
        try:
            self.tables.generate(table)
        except JobFailed as failure:
            table.end("FAILED", failure)
            raise
        else:
            table.end("DONE")
        finally:
            store.save(table)

    def _predict(self, job: Job) -> None:
        training = self.training.get(job.config["model_training_job_id"])
        assert training is not None
        anchor = datetime.fromisoformat(job.private["anchor"])
        entities: Any = None
        if path := job.config["pred_table_path"]:
            folder = bucket_folder(self.service.folder.exports, path)
            entities, anchor = read_custom_table(folder, path, anchor)
            job.private["anchor"] = anchor.isoformat()
        day = self.service.check_anchor(anchor, training.split.cutoff)
        if entities is None:
            entities = entities_at(day)
        options = job.config["predict_options"]
        with self.service.store.lock:
            job.private["entities"] = len(entities)
            self.service.store.save(job)

        model = self.service.model(training.query, training.recipe)
        features = features_at(day, entities)
        count = self.service.files_per_output or options["num_workers"]
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
            write_parts(self.service.output(job, "predictions"), tables)
        if "EMBEDDINGS" in wanted:
            tables = [embeddings_table(model, features[rows], entities[rows]) for rows in slices]
            write_parts(self.service.output(job, "embeddings"), tables)

    def _write_outputs(self, job: Job) -> None:
        for output in job.config["outputs"]:
            self.exports.write(job, output)
        extra = job.private.get("overcount", 0)
        job.result = {"num_entities_predicted": job.private["entities"] + extra}

    @staticmethod
    def artifacts(job: Job) -> set[str]:
        """The types of output that a job makes: predictions unless it names others."""
        named = {output["artifact_type"] for output in job.config["outputs"]}
        return named or {"PREDICTIONS"}

    # Calls #################################################################################

    def get(self, call: Call) -> dict[str, Any]:
        resource = self.service.find("prediction_jobs", call).resource()
        if fault := self.service.faults.take("unknown_status", call.method, call.path):
            resource["job_status_report"]["status"] = fault.options["status"]
        return resource

    def progress(self, call: Call) -> dict[str, Any]:
        job = self.service.find("prediction_jobs", call)
        runner = self.service.runner
        done = runner.fraction_done(job)
        total = -(-job.private.get("entities", 0) // _BATCH)
        estimate = runner.run_seconds if job.status == "RUNNING" else None
        # The table is made first. Only then are batches predicted.
        part = min(max((done - _TABLE) / _PREDICT, 0.0), 1.0)
        return {
            "start_time": job.start_time.isoformat() if job.start_time else None,
            "total_iterations": total,
            "completed_iterations": int(total * part),
            "elapsed_prediction_time": duration(job.seconds),
            "estimated_prediction_time": duration(estimate) if estimate else None,
        }

    def urls(self, call: Call, artifact: str) -> list[str]:
        """Fresh presigned urls of an output's files; none if the job does not make it."""
        job = self.service.find("prediction_jobs", call)
        if job.status != "DONE":
            raise ApiError(409, f"Prediction job {job.id} has no outputs yet: it is {job.status}.")
        return self.service.urls(call, job, artifact)
