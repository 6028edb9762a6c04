"""The launches of a definition: the model, and the request to Kumo for one partition of its assets."""

from __future__ import annotations

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoNotFoundError
from dagster_kumo.api.records import CANCELLED, FAILED, TrainingJobResource
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.held_run import CONTINUES_TAG, HOLD_TAG
from dagster_kumo.execution.launch.notes import job_tag
from dagster_kumo.execution.launch.prediction import PredictionLaunch, TableLaunch
from dagster_kumo.execution.prediction_tables import GeneratedTable, table_request
from dagster_kumo.execution.selection import RunDefinition
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.trained_model import trained_model


def model_for_run(
    context: dg.AssetExecutionContext, client: KumoClient, prediction: BatchPrediction
) -> TrainingJobResource:
    """The trained model that predicts in a run.

    Raises:
        KumoModelError: There is none as asked for.
    """
    launched = None if prediction.training_job_id else _model_of_launched_job(context, client)
    return launched or trained_model(client, prediction)


def _model_of_launched_job(
    context: dg.AssetExecutionContext, client: KumoClient
) -> TrainingJobResource | None:
    """The model of the job that was launched while the run was held, or by the run that it continues.

    None if there is no such job. The newest model with some tags may be another one by now.
    """
    run = context.run
    job_id = run.tags.get(job_tag(PredictionLaunch.run_tag, context.assets_def.node_def.name))
    if job_id is None or run.tags.keys().isdisjoint((HOLD_TAG, CONTINUES_TAG)):
        return None
    try:
        job = client.get_prediction_job(job_id)
        is_over = job.job_status_report.status in (FAILED, CANCELLED)
        if is_over and run.parent_run_id is not None:  # a retry launches again
            return None
        return client.get_training_job(job.config.model_training_job_id)
    except KumoNotFoundError:
        return None


def table_launch(
    client: KumoClient,
    definition: RunDefinition,
    model: TrainingJobResource,
    attempt: Attempt,
    asset_key: dg.AssetKey,
    partition_key: str | None,
) -> TableLaunch:
    """The launch of the job that makes the prediction table."""
    return TableLaunch(
        client,
        table_request(definition.prediction, model, definition.anchor_time(partition_key)),
        definition.prediction.job_tags,
        attempt,
        partition_key,
        table=asset_key,
        outputs=list(definition.outputs.values()),
    )


def prediction_launch(
    client: KumoClient,
    definition: RunDefinition,
    model: TrainingJobResource,
    attempt: Attempt,
    table: GeneratedTable | None,
    partition_key: str | None,
) -> PredictionLaunch:
    """The launch of the prediction job."""
    request = definition.prediction.request(
        training_job_id=model.job_id,
        outputs=list(definition.outputs),
        prediction_time=definition.anchor_time(partition_key),
        prediction_table_job_id=table.job_id if table else None,
    )
    outputs = list(definition.outputs.values())
    return PredictionLaunch(client, request, attempt, partition_key, outputs)
