"""Training jobs and their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagster_kumo.api.records import EvaluationMetrics, TrainingJobResource, TrainingProgress
from dagster_kumo.jobs.progressing_job import Handle, ProgressingJob
from dagster_kumo.jobs.trained_model import done_training_job, holdout_data

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions


class TrainingJob(ProgressingJob[TrainingProgress, "TrainingJobResult"]):
    """A training job, running or ended.

    Examples:
        >>> job = TrainingJob("trainingjob-1", client)               # doctest: +SKIP
        >>> job.result().metrics().test_metrics                      # doctest: +SKIP
        [Metric(name='auroc', value=0.79)]
    """

    _kind = "training job"

    def get(self) -> TrainingJobResource:
        """The job as the server keeps it: status, tags, config and metrics."""
        return self._client.get_training_job(self.id)

    def progress(self, *, repeat: bool = True) -> TrainingProgress:
        """How far the job is. With `repeat=False` the request is not retried."""
        return self._client.get_training_progress(self.id, repeat=repeat)

    def cancel(self) -> bool:
        """Cancel the job. True if it is cancelled now."""
        return self._client.cancel_training_job(self.id)

    def _result(self) -> TrainingJobResult:
        return TrainingJobResult(self.id, self._client)


class TrainingJobResult(Handle):
    """The result of a training job: its model's metrics, plan and holdout data.

    Examples:
        >>> result = TrainingJobResult("trainingjob-1", client)      # doctest: +SKIP
        >>> result.holdout().to_pandas()                             # doctest: +SKIP
    """

    _done: TrainingJobResource | None = None

    def get(self) -> TrainingJobResource:
        """The job as the server keeps it.

        Raises:
            KumoModelError: The job is not DONE.
        """
        if self._done is None:
            self._done = done_training_job(self._client, self.id)
        return self._done

    @property
    def tracking_url(self) -> str:
        """The job's page in Kumo."""
        return self._client.public_url(self.get().job_status_report.tracking_url)

    def metrics(self) -> EvaluationMetrics:
        """The model's metrics on its training, validation and holdout data."""
        result = self.get().result
        return result.eval_metrics if result else EvaluationMetrics()

    @property
    def model_plan(self) -> Any:
        """The plan that the model was trained by, as the server echoes it."""
        return self.get().config.model_plan

    def holdout(self) -> Predictions:
        """The model's predictions for its holdout data, beside the actual outcomes."""
        return holdout_data(self._client, self.id)
