"""Records for what the API takes and returns.

Unknown fields are ignored, and unknown statuses are kept as they are, so that a newer server does not
break an older client.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from dagster_kumo.api.errors import KumoAPIError, ValidationIssue, without_query, without_signature

T = TypeVar("T")

OutputType = Literal["predictions", "embeddings"]
OUTPUT_TYPES: tuple[OutputType, ...] = ("predictions", "embeddings")

RUNNING = "RUNNING"
DONE = "DONE"
FAILED = "FAILED"
CANCELLED = "CANCELLED"
MISSING = "MISSING"  # of an export that the service has forgotten
TERMINAL_STATUSES = frozenset({DONE, FAILED, CANCELLED})
LIVE_STATUSES = frozenset({"NOT_STARTED", "QUEUED", RUNNING})


def parse_answer(kind: Any, answer: object, *, source: str) -> Any:
    """Read a JSON answer as `kind` (a record, or a type made of records).

    Raises:
        KumoAPIError: The answer has another shape; `source` says which call gave it.
    """
    try:
        return TypeAdapter(kind).validate_python(answer)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:3]
        )
    raise KumoAPIError(
        f"{source} answered with something that Kumo's API does not return ({problems}). "
        "Is the url that of a Kumo deployment's API, and is dagster-kumo new enough for it?",
        status_code=200,
        detail=problems,
    )


def in_utc(value: datetime) -> datetime:
    """A time in UTC. A time without a zone is taken as UTC."""
    if value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("the time lies outside the calendar") from None


UTCDatetime = Annotated[datetime, AfterValidator(in_utc)]


def table_path(path: str) -> str:
    """The path of a user's prediction table as the SDK sends it: on S3 without a slash at the end.

    >>> table_path("s3://bucket/entities/")
    's3://bucket/entities'
    """
    return path.removesuffix("/") if path.startswith("s3://") else path


Count = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # other systems may take it for a number

TablePath = Annotated[str, AfterValidator(table_path)]


# A message of the server may quote a presigned url, which is a secret.
SaidText = Annotated[str, AfterValidator(without_query)]
PageUrl = Annotated[str, AfterValidator(without_signature)]


class Record(BaseModel):
    """The base of all records: immutable. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ValidationResponse(Record):
    """What the server reports about a request or a job."""

    warnings: Sequence[ValidationIssue] = ()
    errors: Sequence[ValidationIssue] = ()


class JobEvent(Record):
    """One entry of a job's event log: a stage and its time."""

    stage_name: SaidText
    last_updated_at: UTCDatetime | None = None
    detail: SaidText | None = None


class JobStatusReport(Record):
    """Where a job stands.

    `status` is NOT_STARTED, QUEUED, RUNNING, DONE, FAILED or CANCELLED. Another status, from a newer
    server, is kept and counts as not ended. `tracking_url` is as the server gave it. Its host may be
    known only inside the service.
    """

    status: SaidText
    tracking_url: PageUrl = ""
    start_time: UTCDatetime | None = None
    end_time: UTCDatetime | None = None
    event_log: Sequence[JobEvent] = ()
    validation_response: ValidationResponse | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended, successfully or not."""
        return self.status in TERMINAL_STATUSES

    @property
    def stage(self) -> str | None:
        """The stage that the job is in or ended in, for example `Predicting`."""
        return self.event_log[-1].stage_name if self.event_log else None

    @property
    def reason(self) -> str:
        """Why the job failed, in the server's words; empty if it gave no reason."""
        said = [str(e) for e in self.validation_response.errors] if self.validation_response else []
        if not said and self.event_log and self.event_log[-1].detail:
            said = [self.event_log[-1].detail]
        return "; ".join(said)


class Progress(Record):
    """How far a running job is."""

    start_time: UTCDatetime | None = None

    @property
    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """How many parts are done, and how many there are; 0 if the server cannot tell yet."""

    @property
    @abstractmethod
    def times(self) -> tuple[timedelta, timedelta | None]:
        """The elapsed time, and the server's estimate."""

    @property
    def fraction(self) -> float | None:
        """The share that is done, 0 to 1; None if the server cannot tell yet."""
        done, total = self.counts
        return min(1.0, done / total) if total > 0 else None

    @property
    def remaining(self) -> float | None:
        """How many seconds the job will still take; None if the server does not say.

        Inferred: the server's estimate is for the whole job, like the elapsed time beside it. If it is
        for the rest, the result is too short rather than too long.
        """
        elapsed, estimated = self.times
        seconds = elapsed.total_seconds()
        if estimated is not None:
            return max(0.0, estimated.total_seconds() - seconds)
        if self.fraction is None or self.fraction <= 0:
            return None
        return max(0.0, seconds / self.fraction - seconds)


class JobProgress(Progress):
    """How far a running prediction job is."""

    total_iterations: Count = 0
    completed_iterations: Count = 0
    elapsed_prediction_time: timedelta = timedelta(0)
    estimated_prediction_time: timedelta | None = None

    @property
    def counts(self) -> tuple[int, int]:
        return self.completed_iterations, self.total_iterations

    @property
    def times(self) -> tuple[timedelta, timedelta | None]:
        return self.elapsed_prediction_time, self.estimated_prediction_time


class TrainingTrial(Record):
    """How far a trial of a training job is: one of the models that are tried."""

    final_validation_metrics: dict[str, float | None] | None = None


class TrainingProgress(Progress):
    """How far a running training job is. It tries several models, and keeps the best."""

    total_trials: Count = 0
    completed_trials: Count = 0
    elapsed_training_time: timedelta = timedelta(0)
    estimated_training_time: timedelta | None = None
    trial_progress: dict[str, TrainingTrial] = Field(default_factory=dict[str, TrainingTrial])

    @property
    def counts(self) -> tuple[int, int]:
        return self.completed_trials, self.total_trials

    @property
    def times(self) -> tuple[timedelta, timedelta | None]:
        """The elapsed time, and the server's estimate, which is an upper bound."""
        return self.elapsed_training_time, self.estimated_training_time

    @property
    def said(self) -> str:
        """How many trials are done, and how good the last one of them is; empty before the first is counted."""
        if self.total_trials <= 0:
            return ""
        text = f"{self.completed_trials} of {self.total_trials} trials done"
        ended = [trial.final_validation_metrics for trial in self.trial_progress.values()]
        measured = [metrics for metrics in ended if metrics]
        if measured:
            values = (
                f"{name} {value:.4g}" for name, value in measured[-1].items() if value is not None
            )
            text += f" (the last one: {', '.join(values)})"
        return text


class PredictOptions(Record):
    """Options of a prediction run; see `BatchPrediction` for what they mean."""

    binary_classification_threshold: float | None = None
    num_classes_to_return: Count | None = None
    num_workers: Count = 1


class BatchPredictionRequest(Record):
    """The request for a prediction job: the body of a launch, which the job echoes.

    `outputs` are `PredictionOutputConfig` as `connectors` describes them. Of `pred_table_path` and
    `pred_table_source`, the server's generation knows one; the latter comes in echoes only.
    """

    job_tags: dict[str, str] = Field(default_factory=dict)
    model_training_job_id: str = ""
    predict_options: PredictOptions = PredictOptions()
    outputs: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    graph_snapshot_id: str | None = None
    pred_table_job_id: str | None = None
    pred_table_path: TablePath | None = None
    pred_table_source: dict[str, Any] | None = None
    prediction_time: UTCDatetime | None = None
    explanations: bool = False

    def to_json(self) -> dict[str, Any]:
        """The request as JSON, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True)


class BatchPredictionJobSummary(Record):
    """Summary statistics of a prediction job that is done."""

    num_entities_predicted: Count


class JobResource(Record):
    """A job as the server keeps it."""

    job_id: str
    job_status_report: JobStatusReport
    created_at: UTCDatetime | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class BatchPredictionJobResource(JobResource):
    """A prediction job as the server keeps it."""

    project_id: str | None = None
    config: BatchPredictionRequest = BatchPredictionRequest()
    result: BatchPredictionJobSummary | None = None


class PredictionUrls(Record):
    """The urls of the predictions' files."""

    urls: list[str] = Field(alias="prediction_partitions")


class EmbeddingUrls(Record):
    """The urls of the embeddings' files."""

    urls: list[str] = Field(alias="embedding_partitions")


class CreatedJob(Record):
    """The answer to a request that creates a job, a graph or a snapshot."""

    id: str


class CreatedExport(Record):
    """The answer to a request that starts an export."""

    job_id: str


class Cancelled(Record):
    """The answer to a request that cancels a job."""

    is_cancelled: bool = False


class Updated(Record):
    """The answer to a request that changes a job's tags."""

    resource_updated: bool = False


class ErrorItem(Record):
    """One of the reasons why a prediction table job failed."""

    title: SaidText | None = None
    description: SaidText | None = None

    def __str__(self) -> str:
        return ": ".join(text for text in (self.title, self.description) if text)


class ErrorItems(Record):
    """Why a prediction table job failed."""

    items: Sequence[ErrorItem] = ()


class Group(Record):
    """A group of users that shares projects."""

    id: str = Field(validation_alias=AliasChoices("group_id", "id"))
    display_name: str = ""


class Project(Record):
    """A project of a group."""

    id: str
    display_name: str = ""


class NamedProject(Project):
    """A project as 3.0 describes it: it also has a slug."""

    slug: str


class Metric(Record):
    """One metric of a model."""

    name: str
    value: float | None = None


class EvaluationMetrics(Record):
    """A model's metrics on its holdout, validation and training data."""

    test_metrics: Sequence[Metric] = ()
    validation_metrics: Sequence[Metric] = ()
    training_metrics: Sequence[Metric] = ()


class TrainingJobSummary(Record):
    """The result of a training job."""

    eval_metrics: EvaluationMetrics = EvaluationMetrics()
    total_elapsed_time: timedelta | None = None


class TrainingJobConfig(Record):
    """The request for a training job, as far as it is read here."""

    pquery_id: str | None = None
    model_plan: Any = None
    """The plan as the server echoes it, with whatever fields it has."""


class TrainingJobResource(JobResource):
    """A training job. Its id also names the model that it trained."""

    config: TrainingJobConfig = TrainingJobConfig()
    result: TrainingJobSummary | None = None


class PredictionTableConfig(Record):
    """The request for a prediction table job."""

    pquery_id: str | None = None
    plan: dict[str, Any] = Field(default_factory=dict)


class PredictionTableJobResource(JobResource):
    """A prediction table job as the server keeps it."""

    config: PredictionTableConfig = PredictionTableConfig()


class PredictiveQuery(Record):
    """A predictive query: its text, and the graph that it reads."""

    query_string: str
    name: str | None = None
    graph: dict[str, Any] = Field(default_factory=dict)

    @property
    def tables(self) -> list[str]:
        """The names of the tables in the query's graph."""
        tables = self.graph.get("tables")
        return sorted(str(name) for name in tables) if isinstance(tables, dict) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - a graph is free-form JSON here


class SuggestedPlan(Record):
    """The plan that the server suggests for a query."""

    model_plan: dict[str, Any]
