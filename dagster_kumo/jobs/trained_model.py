"""Finds the trained model: by the id or the tags of its training job, or by the champion's mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoModelError, KumoNotFoundError
from dagster_kumo.api.records import DONE, TrainingJobResource, in_utc
from dagster_kumo.jobs.outputs import read_files
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.tags import CHAMPION_TAG, PROMOTED_AT_TAG

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions

_MANY_JOBS = 1000
"""How many jobs are read for a mark, in case the server ignores the filter by tags."""
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def trained_model(client: KumoClient, prediction: BatchPrediction) -> TrainingJobResource:
    """The training job whose model predicts. It is DONE, so it can predict.

    Raises:
        KumoModelError: There is none as requested; the message lists those that there are.
    """
    if prediction.training_job_id:
        return done_training_job(client, prediction.training_job_id)
    if prediction.champion_of:
        return _champion(client, prediction.champion_of)
    return _newest(client, prediction.training_job_tags or {})


def done_training_job(client: KumoClient, job_id: str) -> TrainingJobResource:
    """The training job of this id, which is DONE.

    Raises:
        KumoModelError: There is none, or it is not DONE.
    """
    try:
        job = client.get_training_job(job_id)
    except KumoNotFoundError as error:
        raise KumoModelError(
            f"There is no training job {job_id} in this deployment: {error.detail}\n"
            "Check the id in Kumo, or name the model by training_job_tags."
        ) from None
    report = job.job_status_report
    if report.status != DONE:
        way_out = (
            "Name another one."
            if report.is_terminal
            else "Wait until it is DONE, or name another one."
        )
        why = f" ({report.reason})" if report.is_terminal and report.reason else ""
        raise KumoModelError(
            f"Training job {job.job_id} is {report.status}{why}, so there is no model to predict with. "
            f"{way_out}"
        )
    return job


def _champion(client: KumoClient, name: str) -> TrainingJobResource:
    if (champion := find_champion(client, name)) is not None:
        return champion
    raise KumoModelError(
        f"No model has been promoted as the champion of {name} yet. Promote a training job that is DONE:\n"
        f"dagster-kumo models promote TRAINING_JOB_ID --name {name}\n"
        f"Or train a candidate, and materialize {name}/model."
    )


def find_champion(client: KumoClient, name: str) -> TrainingJobResource | None:
    """The champion of a name; None if nothing has been promoted."""
    return next(iter(marked_champions(client, name)), None)


def marked_champions(client: KumoClient, name: str) -> Sequence[TrainingJobResource]:
    """The training jobs that carry the champion's mark; the first one is the champion.

    There are several while the mark moves, or after a process that moved it was killed. The one that was
    promoted last is the champion. A mark without a time, which a person has set, counts as the oldest.
    """
    marked = training_jobs_with_tags(client, {CHAMPION_TAG: name}, limit=_MANY_JOBS)
    done = [job for job in marked if job.job_status_report.status == DONE]
    return sorted(done, key=lambda job: promoted_at(job) or _LONG_AGO, reverse=True)


def promoted_at(job: TrainingJobResource) -> datetime | None:
    """When a training job was promoted last; None if its tags do not say."""
    try:
        said = datetime.fromisoformat(job.tags.get(PROMOTED_AT_TAG, "").replace("Z", "+00:00"))
        return in_utc(said)
    except ValueError:
        return None


def _newest(client: KumoClient, tags: Mapping[str, str]) -> TrainingJobResource:
    # With the status as a filter, since a list is cut off at its limit.
    for job in training_jobs_with_tags(client, tags, status=DONE):
        if job.job_status_report.status == DONE:
            return job
    there = ", ".join(
        f"{job.job_id} ({job.job_status_report.status})"
        for job in training_jobs_with_tags(client, tags)
    )
    wanted = ", ".join(f"{key}={value}" for key, value in tags.items())
    raise KumoModelError(
        f"No training job with the tags {wanted} is DONE; there are: {there or 'none'}.\n"
        "Tag a trained model in Kumo, or name one by training_job_id."
    )


def holdout_data(client: KumoClient, training_job_id: str) -> Predictions:
    """A model's predictions for its holdout data, beside the actual outcomes.

    Raises:
        KumoAPIError: There is none.
        KumoDataError: It is not where it can be read from here.
    """
    return read_files(
        client,
        lambda: [client.get_holdout_url(training_job_id)],
        what=f"The holdout of training job {training_job_id}",
    )


def training_jobs_with_tags(
    client: KumoClient,
    tags: Mapping[str, str],
    *,
    status: str | None = None,
    limit: int = LIST_LIMIT,
) -> Sequence[TrainingJobResource]:
    """The training jobs with these tags, newest first.

    Tags and order are checked again: a server may ignore a filter that it does not know, and the
    order of its lists is not documented.
    """
    found = [
        job
        for job in client.list_training_jobs(tags, status=status, limit=limit)
        if all(job.tags.get(key) == value for key, value in tags.items())
    ]
    return sorted(found, key=lambda job: job.created_at or _LONG_AGO, reverse=True)
