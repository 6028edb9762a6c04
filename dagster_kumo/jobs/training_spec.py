"""`TrainingSpec`: what to train, as it is written where the assets are defined, and the request for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoModelError, KumoNotFoundError
from dagster_kumo.api.records import PredictiveQuery, TrainingJobResource
from dagster_kumo.jobs.prediction_spec import BatchPrediction, changed_fields, check_job_tags
from dagster_kumo.jobs.trained_model import done_training_job, trained_model

RunMode = Literal["fast", "normal", "best", "debug"]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """What to train: a predictive query, or an earlier training job once more.

    `KumoTraining` explains the fields.

    Raises:
        ValueError: An argument is invalid; the message says what to write instead.

    Examples:
        >>> TrainingSpec(like={"use_case": "churn"}, warm_start=True).said
        'again like the newest training job with the tags use_case=churn'
    """

    query: str | None = None
    like: str | Mapping[str, str] | None = None
    warm_start: bool = False
    model_plan: Mapping[str, Any] | None = None
    run_mode: RunMode | None = None
    job_tags: Mapping[str, str] = field(default_factory=dict[str, str])
    refresh_snapshot: bool = True
    max_per_week: int | None = None

    def __post_init__(self) -> None:
        if bool(self.query) == bool(self.like):
            raise ValueError(
                "What is trained is a query, or an earlier training job again: give query= or like=, "
                "one of the two."
            )
        if self.warm_start and not self.like:
            raise ValueError(
                "warm_start begins with the weights of an earlier training job: name it with like=."
            )
        if self.model_plan is not None and self.run_mode is not None:
            raise ValueError(
                "The plan is given, or suggested by the server: give model_plan= or run_mode=, not both."
            )
        if self.run_mode is not None and self.run_mode not in get_args(RunMode):
            modes = ", ".join(map(repr, get_args(RunMode)))
            raise ValueError(f"run_mode is one of {modes}, not {self.run_mode!r}.")
        if self.max_per_week is not None and self.max_per_week < 1:
            raise ValueError(f"max_per_week is at least 1, not {self.max_per_week}.")
        check_job_tags(self.job_tags)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as JSON. `TrainingSpec(**json)` asks for the same."""
        return changed_fields(self, TrainingSpec)

    def asked(self) -> dict[str, Any]:
        """What is trained, as JSON: all but how often."""
        return {name: value for name, value in self.to_json().items() if name != "max_per_week"}

    @property
    def said(self) -> str:
        """What is trained, in words."""
        if self.query:
            return f"for the query {self.query}"
        if isinstance(self.like, str):
            return f"again like {self.like}"
        tags = ", ".join(f"{key}={value}" for key, value in (self.like or {}).items())
        return f"again like the newest training job with the tags {tags}"

    def request(self, client: KumoClient, refresh: Callable[[str], str]) -> dict[str, Any]:
        """The request for the job, without tags. `refresh` takes a snapshot of a graph, and returns its id.

        Raises:
            KumoModelError: There is no such query, or no such training job to train again.
        """
        earlier = self._earlier(client)
        pquery_id = self.query or _query_of(earlier)
        request: dict[str, Any] = {"pquery_id": pquery_id}
        plan = self.model_plan
        if plan is None and earlier is not None and self.run_mode is None:
            plan = earlier.config.model_plan
        if self.run_mode is not None or self.refresh_snapshot:
            query = _query(client, pquery_id)
            graph_id = client.create_graph(query.graph)
            if self.run_mode is not None:
                plan = client.suggest_model_plan(query.query_string, graph_id, self.run_mode)
            if self.refresh_snapshot:
                request["graph_snapshot_id"] = refresh(graph_id)
        if plan is not None:
            request["model_plan"] = plan
        if self.warm_start and earlier is not None:
            request["warm_start_job_id"] = earlier.job_id
        return request

    def check_query(self, client: KumoClient, job: TrainingJobResource) -> None:
        """Raise a `KumoModelError` if a training job was trained for another query, or names none."""
        wanted, found = self.query or _query_of(self._earlier(client)), _query_of(job)
        if wanted == found:
            return
        queries = _query(client, wanted), _query(client, found)  # by an id and by a name
        if queries[0].query_string != queries[1].query_string:
            raise KumoModelError(
                f"Training job {job.job_id} was trained for the query {found}, and candidates are trained for "
                f"{wanted}. Name a training job of that query."
            )

    def _earlier(self, client: KumoClient) -> TrainingJobResource | None:
        """The training job that `like` names."""
        if self.like is None:
            return None
        if isinstance(self.like, str):
            return done_training_job(client, self.like)
        return trained_model(client, BatchPrediction(training_job_tags=self.like))


def _query_of(job: TrainingJobResource | None) -> str:
    pquery_id = job.config.pquery_id if job else None
    if not pquery_id:
        raise KumoModelError(
            f"Training job {job.job_id if job else ''} does not name its query, so it cannot be trained again. "
            "Name the query with query=."
        )
    return pquery_id


def _query(client: KumoClient, pquery_id: str) -> PredictiveQuery:
    try:
        return client.get_predictive_query(pquery_id)
    except KumoNotFoundError as error:
        raise KumoModelError(
            f"There is no predictive query {pquery_id} in this deployment: {error.detail}\n"
            "Name one by its id or name, or train again like a training job, with like=."
        ) from None
