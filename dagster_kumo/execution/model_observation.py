"""The trained model that predicts: which one it is, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

import dagster as dg

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoError, KumoModelError
from dagster_kumo.api.records import DONE, PredictiveQuery, TrainingJobResource
from dagster_kumo.execution.metadata import model_metadata
from dagster_kumo.jobs.prediction_spec import BatchPrediction

_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def trained_model(client: KumoClient, prediction: BatchPrediction) -> TrainingJobResource:
    """The training job whose model predicts, checked to be done before anything is launched.

    Raises:
        KumoModelError: there is none as asked for; says which there are.
    """
    if prediction.training_job_id:
        return _by_id(client, prediction.training_job_id)
    return _newest(client, prediction.training_job_tags or {})


def _by_id(client: KumoClient, job_id: str) -> TrainingJobResource:
    try:
        job = client.get_training_job(job_id)
    except KumoAPIError as error:
        if error.status_code != 404:
            raise
        raise KumoModelError(
            f"There is no training job {job_id} in this deployment: {error.detail}\n"
            "Check the id in Kumo, or name the model by training_job_tags."
        ) from None
    if job.job_status_report.status != DONE:
        raise KumoModelError(
            f"Training job {job.job_id} is {job.job_status_report.status}, so there is no model "
            "to predict with. Wait until it is DONE, or name another one."
        )
    return job


def _newest(client: KumoClient, tags: Mapping[str, str]) -> TrainingJobResource:
    # Only those that are DONE are asked for, since a list is cut off at its limit.
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


def training_jobs_with_tags(
    client: KumoClient,
    tags: Mapping[str, str],
    *,
    status: str | None = None,
    limit: int = LIST_LIMIT,
) -> Sequence[TrainingJobResource]:
    """The training jobs with these tags, newest first.

    Tags and order are looked at again: a server may ignore a filter that it does not know, and
    nothing but habit says in which order it lists.
    """
    found = [
        job
        for job in client.list_training_jobs(tags, status=status, limit=limit)
        if all(job.tags.get(key) == value for key, value in tags.items())
    ]
    return sorted(found, key=lambda job: job.created_at or _LONG_AGO, reverse=True)


def observe_model(
    context: dg.AssetExecutionContext,
    client: KumoClient,
    model: TrainingJobResource,
    asset_key: dg.AssetKey,
) -> None:
    """Show what is known of a model on the asset that stands for it. Nothing here fails the run.

    It is an observation, not a materialization: nothing was made, and what is downstream is not to
    run for it. It has no data version: Dagster takes the versions of a step's inputs when the step
    begins, so that predictions would count as out of date by the news that they brought themselves.
    """
    try:
        metadata = model_metadata(
            model,
            _query_of(context, client, model),
            tracking_url=client.public_url(model.job_status_report.tracking_url),
            now=datetime.now(timezone.utc),
        )
        context.log_event(dg.AssetObservation(asset_key, metadata=metadata))
    except Exception as error:  # noqa: BLE001 - whatever it is, the model predicts
        context.log.warning(f"What is known of the model {model.job_id} is not shown: {error}")


def _query_of(
    context: dg.AssetExecutionContext, client: KumoClient, model: TrainingJobResource
) -> PredictiveQuery | None:
    if not model.config.pquery_id:
        return None
    try:
        return client.get_predictive_query(model.config.pquery_id)
    except KumoError as error:
        context.log.warning(f"The query of the model {model.job_id} is not shown: {error}")
        return None
