"""Training jobs (`/v1/training_jobs`): those of `tasks.py`, and those that users launch.

A job that a user launches really trains: a model for each trial of its plan, on newer data than those of
`tasks.py`. The model that is best on the validation month is kept, and measured on a holdout month.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import Any

from pydantic import BaseModel, TypeAdapter

from dagster_kumo.local.model.model import entities_at, features_at, labels_after
from dagster_kumo.local.model.tasks import (
    BANDS,
    CURRENT,
    EARLIER,
    NEWEST,
    QUERIES,
    TRAINING_JOBS,
    Query,
    Recipe,
    Split,
    TrainingJob,
    find_query,
)
from dagster_kumo.local.service.jobs import Job, JobFailed, Stage, duration, now
from dagster_kumo.local.service.outputs import part_files, rows_of, write_parts
from dagster_kumo.local.service.service import (
    ApiError,
    Call,
    Service,
    problem,
    tag_errors,
)

_SPLITS = {split.cutoff: split for split in (CURRENT, EARLIER, NEWEST)}
_RECIPE = TypeAdapter(Recipe)
# By task: what decides between trials, and whether more of it is better.
_TUNED_BY = {
    "binary_classification": ("auroc", True),
    "regression": ("mae", False),
    "multiclass_classification": ("acc", True),
}
_MOST_TRIALS = 8
# By run mode: trials, epochs, and the lists of values that the trials are made of.
_PLANS: dict[str, tuple[int, int, list[int], list[float]]] = {
    "debug": (1, 1, [4], [0.0005]),
    "fast": (1, 6, [16], [0.005]),
    "normal": (2, 6, [16, 32], [0.005]),
    "best": (4, 10, [16, 32], [0.005, 0.01]),
}


class _Request(BaseModel, protected_namespaces=()):
    """The request for a job, which echoes it with all its fields."""

    job_tags: dict[str, str] = {}
    pquery_id: str
    model_plan: dict[str, Any] = {}
    graph_snapshot_id: str | None = None
    train_table_job_id: str | None = None
    train_table_override: dict[str, Any] | None = None
    enable_baselines: bool = False
    custom_train_table: dict[str, Any] | None = None
    warm_start_job_id: str | None = None
    data_backend_session_id: str | None = None


@dataclass(frozen=True)
class Trained:
    """A training job with what it was trained for."""

    job: Job
    query: Query
    recipe: Recipe

    @classmethod
    def of(cls, job: Job) -> Trained:
        recipe = Recipe(_SPLITS[job.private["cutoff"]])
        if "recipe" in job.private:
            recipe = _RECIPE.validate_python(job.private["recipe"])
        return cls(job, QUERIES[job.private["pquery_id"]], recipe)

    @property
    def split(self) -> Split:
        """The data that it was trained and measured on."""
        return self.recipe.split


class TrainingJobs:
    """The calls for training jobs. Metrics are measured when they are first asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        for spec in TRAINING_JOBS:
            job = service.store.get("training_jobs", spec.id)
            if job is None or job.start_time is None:  # an earlier version did not keep the times
                service.store.add(self._made_of(spec))

    def _made_of(self, spec: TrainingJob) -> Job:
        """A job that every data folder has."""
        query, calendar = spec.query, self._service.calendar
        plan = {
            "training_job": {"num_experiments": 1},
            "model_architecture": {"channels": [16]},
        }
        launched = calendar.at(spec.split.cutoff + spec.launched_after)
        if spec.status == "RUNNING":
            launched = self._service.folder.created_at
        job = Job(
            kind="training_jobs",
            id=spec.id,
            created_at=launched,
            config=_Request(job_tags=spec.tags, pquery_id=query.id, model_plan=plan).model_dump(),
            tags={**spec.tags, "pquery_id": query.id, "pquery_name": query.name},
            start_time=launched,
            private={"pquery_id": query.id, "cutoff": spec.split.cutoff},
            status="RUNNING",
        )
        job.log("Training", f"cut-off {calendar.at(spec.split.cutoff):%Y-%m-%d}")
        if spec.status != "RUNNING":
            message = "The training table had no rows left after the split. (A stand-in's example.)"
            failure = JobFailed("Training failed", message) if spec.status == "FAILED" else None
            job.end(spec.status, failure)
            job.end_time = launched + timedelta(minutes=42)
        return job

    def get(self, id: str) -> Trained | None:
        """The training job of this id, if there is one."""
        job = self._service.store.get("training_jobs", id)
        return None if job is None else Trained.of(job)

    # Calls #################################################################################

    def suggest_plan(self, call: Call) -> dict[str, Any]:
        """A plan for one of the stand-in's queries."""
        body = call.body()
        query = find_query(body.get("query_string", ""))
        if query is None:
            texts = "; ".join(query.text for query in QUERIES.values())
            raise ApiError(
                422, [problem(["query_string"], f"The stand-in knows these only: {texts}.")]
            )
        run_mode = body.get("run_mode")
        if run_mode not in _PLANS:
            raise ApiError(422, [problem(["run_mode"], f"Input should be one of {list(_PLANS)}")])
        return {
            "model_plan": _plan(query, run_mode),
            "task_type": query.task,
            "query_type": "temporal",
            "has_train_table_weight_col": False,
        }

    def create(self, call: Call) -> dict[str, str]:
        """Train a model for one of the stand-in's queries."""
        config = call.parse(_Request, takes_nulls=False)
        query = find_query(config["pquery_id"])
        if query is None:
            known = ", ".join(QUERIES)
            detail = f"The stand-in trains these queries only: {known}."
            raise ApiError(422, [problem(["pquery_id"], detail)])
        for error in tag_errors(config["job_tags"]):
            raise ApiError(422, [problem(["job_tags"], error["message"])])
        if config["train_table_job_id"] or config["custom_train_table"]:
            raise ApiError(501, "The stand-in makes training tables itself.")
        base = None
        if id := config["warm_start_job_id"]:
            earlier = self.get(id)
            if earlier is None or earlier.job.status != "DONE" or earlier.query is not query:
                detail = f"There is no training job {id} that is DONE for {query.id}."
                raise ApiError(422, [problem(["warm_start_job_id"], detail)])
            base = earlier.recipe
        plan = _merged(_plan(query, "fast"), config["model_plan"])
        private: dict[str, Any] = {
            "pquery_id": query.id,
            "cutoff": NEWEST.cutoff,
            "recipes": [_RECIPE.dump_python(r, mode="json") for r in _recipes(plan, base)],
            "trials": [],
        }
        if fault := self._service.faults.take("fail_job", call.method, call.path):
            private["fail"] = fault.options
        tags = self._service.kept_tags(call, config["job_tags"])
        job = self._service.store.new(
            "training_jobs",
            {**config, "pquery_id": query.id, "model_plan": plan},
            tags={**tags, "pquery_id": query.id, "pquery_name": query.name},
            project_id=call.project_id,
            private=private,
        )
        self.resume(job)
        self._service.runner.wait_briefly(job)
        return {"id": job.id}

    def resume(self, job: Job) -> None:
        """Run a training job. Those that every data folder has stay as they are."""
        if "recipes" in job.private:
            job.private["trials"] = []
            recipes = job.private["recipes"]
            stage = Stage("Training", 1 / len(recipes), self._try)
            self._service.runner.start(job, *[stage] * len(recipes))

    def _try(self, job: Job) -> None:
        """Train the model of the next trial. The best one of all is the job's."""
        if "fail" in job.private:
            raise JobFailed(job.private["fail"]["title"], job.private["fail"]["reason"])
        query = QUERIES[job.private["pquery_id"]]
        trials: list[dict[str, Any]] = job.private["trials"]
        started = now()
        recipes = [_RECIPE.validate_python(recipe) for recipe in job.private["recipes"]]
        model = self._service.model(query, recipes[len(trials)])
        trial: dict[str, Any] = {
            "start_time": started.isoformat(),
            "elapsed_time": (now() - started).total_seconds(),
            "losses": model.losses,
            "final_validation_metrics": model.metrics["validation_metrics"],
        }
        metric, more_is_better = _TUNED_BY[query.task]
        with self._service.store.lock:
            # Replaced, never changed: another thread may be reading them.
            job.private["trials"] = trials = [*trials, trial]
            values = [one["final_validation_metrics"][metric] for one in trials]
            best = values.index(max(values) if more_is_better else min(values))
            job.private["recipe"] = job.private["recipes"][best]
            self._service.store.save(job)

    def read(self, call: Call) -> dict[str, Any]:
        return self._resource(self._service.find("training_jobs", call))

    def list(self, call: Call) -> list[dict[str, Any]]:
        jobs = self._service.list("training_jobs", call)
        return [self._resource(job) for job in jobs]

    def _resource(self, job: Job) -> dict[str, Any]:
        resource = job.resource()
        if job.status == "DONE":
            trained = Trained.of(job)
            measured = self._service.model(trained.query, trained.recipe).metrics
            resource["result"] = {
                "eval_metrics": {
                    stage: [{"name": name, "value": value} for name, value in values.items()]
                    for stage, values in measured.items()
                },
                "total_elapsed_time": duration(job.seconds),
                "automl_experiments_completed": len(job.private.get("trials", [None])),
            }
        return resource

    def progress(self, call: Call) -> dict[str, Any]:
        job = self._service.find("training_jobs", call)
        trials = job.private.get("trials", [])
        estimate = max(job.seconds, self._service.runner.run_seconds)
        if "recipes" not in job.private:
            estimate = job.seconds + 60.0  # the example of a running job, which never ends
        return {
            "start_time": (job.start_time or job.created_at).isoformat(),
            "total_trials": len(job.private.get("recipes", [None])),
            "completed_trials": len(trials) or int(job.status == "DONE"),
            "elapsed_training_time": job.seconds,
            "estimated_training_time": None if job.has_ended else estimate,
            "trial_progress": {str(i): _progress(trial) for i, trial in enumerate(trials)},
        }

    def holdout(self, call: Call) -> str:
        """A url of the holdout data: predictions and outcomes."""
        job = self._service.find("training_jobs", call)
        if job.status != "DONE":
            raise ApiError(409, f"Training job {job.id} is {job.status}, not DONE.")
        folder = self._service.output(job, "holdout")
        if not part_files(folder):
            write_parts(folder, [self._holdout_table(Trained.of(job))])
        return self._service.urls(call, job, "holdout")[0]

    def _holdout_table(self, trained: Trained) -> Any:
        day, task = trained.split.holdout, trained.query.task
        entities = entities_at(day)
        guess = self._service.model(trained.query, trained.recipe).predict(
            features_at(day, entities)
        )
        anchor = self._service.calendar.at(day)
        target, predicted = labels_after(day, entities, task), guess
        if guess.ndim == 2:  # classes, by their names
            target = [BANDS[band] for band in target]
            predicted = [BANDS[band] for band in guess.argmax(axis=1)]
        return rows_of(entities, anchor, TARGET=target, TARGET_PRED=predicted)


def _plan(query: Query, run_mode: str) -> dict[str, Any]:
    trials, epochs, channels, rates = _PLANS[run_mode]
    metric, _ = _TUNED_BY[query.task]
    return {
        "training_job": {"num_experiments": trials, "metrics": [metric], "tune_metric": metric},
        "optimization": {"max_epochs": epochs, "base_lr": rates},
        "model_architecture": {"channels": channels},
    }


def _merged(plan: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The plan with what was asked for. `"???"` leaves a value to the server."""
    sections = {**plan}
    for name, section in asked.items():
        if isinstance(section, dict):
            told = {field: value for field, value in section.items() if value != "???"}
            sections[name] = {**plan.get(name, {}), **told}
        elif section != "???":
            sections[name] = section
    return sections


def _recipes(plan: dict[str, Any], base: Recipe | None) -> list[Recipe]:
    """The trials of a plan: combinations of its values."""
    training, optimization = plan["training_job"], plan["optimization"]
    try:
        first = Recipe(NEWEST, epochs=int(optimization["max_epochs"]), base=base)
        values = product(plan["model_architecture"]["channels"], optimization["base_lr"])
        tried = [replace(first, channels=int(c), learning_rate=float(rate)) for c, rate in values]
        count = min(int(training["num_experiments"]), _MOST_TRIALS)
    except (TypeError, ValueError) as error:
        raise ApiError(422, [problem(["model_plan"], str(error))]) from None
    if count < 1 or not tried or first.epochs < 1:
        raise ApiError(422, [problem(["model_plan"], "The plan has no trial, or no epoch.")])
    return tried[:count]


def _progress(trial: dict[str, Any]) -> dict[str, Any]:
    """How far a trial is, as the API shows it. The stand-in measures the validation data at the end only."""
    epochs = {
        str(i): {"time_taken": None, "train_metrics": {"loss": loss}, "validation_metrics": {}}
        for i, loss in enumerate(trial["losses"])
    }
    return {
        "start_time": trial["start_time"],
        "num_epochs_completed": len(epochs),
        "elapsed_time": trial["elapsed_time"],
        "estimated_train_time": None,
        "metrics": epochs,
        "final_validation_metrics": trial["final_validation_metrics"],
    }
