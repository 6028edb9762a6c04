"""A run that delivers a job that is already done, instead of launching one.

A tag of the run names the job. The job must have used the assets' model, and must have predicted for the time of
the run's partition. The I/O manager checks and stores its data as usual.
"""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoDataError, KumoModelError
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.execution.anchor_check import check_adopted_job
from dagster_kumo.execution.prediction_tables import GeneratedTable
from dagster_kumo.execution.selection import RunDefinition
from dagster_kumo.jobs.batch_prediction import BatchPredictionJobResult
from dagster_kumo.jobs.job_matching import (
    check_entities,
    is_meant,
    model_of,
    predicted_for,
    seconds_of,
)

DELIVER_JOB_TAG = "dagster-kumo/deliver_job"
"""The tag of a run that names the prediction job whose result is to be delivered."""


@dataclass(frozen=True)
class FinishedJob:
    """A prediction job that is done, for the assets and one partition of a run."""

    result: BatchPredictionJobResult
    model: TrainingJobResource
    table: GeneratedTable | None
    """Its prediction table, if the table states the time that the job predicted for."""
    seconds: float


def adopted_job(
    context: dg.AssetExecutionContext, client: KumoClient, definition: RunDefinition
) -> FinishedJob | None:
    """The job that the run must deliver; None for a run that launches its own.

    Raises:
        ValueError: The run is for more than one job can have made.
        KumoJobFailedError: The job is not DONE.
        KumoModelError: It used another model than the assets'.
        KumoDataError: It predicted for another time than the partition's, or for other entities.
    """
    job_id = definition.config.deliver_job or context.run.tags.get(DELIVER_JOB_TAG)
    if job_id is None:
        return None
    if definition.several_partitions or definition.makes_table:
        what = "several partitions" if definition.several_partitions else "a prediction table"
        raise ValueError(
            f"The run is to deliver one prediction job, {job_id}, but it is for {what}.\n"
            f"Materialize the predictions or embeddings of one partition, or leave deliver_job out."
        )
    result = BatchPredictionJobResult(job_id, client)
    job = result.done_job()
    model = client.get_training_job(model_of(job))
    if not is_meant(definition.prediction, model.job_id, model.tags):
        raise KumoModelError(
            f"Prediction job {job_id} used the model {model.job_id}, which is not that of "
            f"{context.assets_def.node_def.name}. Nothing is stored."
        )
    try:
        check_entities(client, job, definition.prediction)
    except KumoDataError as error:
        raise KumoDataError(
            f"Prediction job {job_id} is not what the assets ask for: {error}. Nothing is stored."
        ) from None
    time = predicted_for(client, job)
    asked = definition.anchor_time(definition.partition_keys[0])
    check_adopted_job(job_id, stated=time, asked=asked)
    table = None
    if job.config.prediction_time is None and job.config.pred_table_job_id is not None:
        table = GeneratedTable(job.config.pred_table_job_id, time)
    return FinishedJob(result, model, table, seconds_of(job) or 0.0)
