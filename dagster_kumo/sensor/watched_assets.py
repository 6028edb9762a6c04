"""Prediction jobs that were launched outside Dagster: whose they are, and what they predicted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoDataError
from dagster_kumo.api.records import BatchPredictionJobResource, OutputType
from dagster_kumo.execution.launch.base import LAUNCH_KEY_TAG, RUN_ID_TAG
from dagster_kumo.execution.metadata import OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import partition_at, said_time
from dagster_kumo.execution.selection import prediction_of
from dagster_kumo.jobs.prediction_spec import BatchPrediction


@dataclass(frozen=True)
class ModelAssets:
    """The outputs of one model, as their definition has them."""

    prediction: BatchPrediction
    outputs: Mapping[OutputType, dg.AssetKey]
    partitions_def: dg.PartitionsDefinition | None

    @classmethod
    def of(cls, assets_def: dg.AssetsDefinition) -> ModelAssets | None:
        """The outputs among some assets; None where `@kumo_assets` did not make them."""
        prediction = prediction_of(assets_def)
        if prediction is None:
            return None
        outputs: dict[OutputType, dg.AssetKey] = {
            metadata[OUTPUT_TYPE]: key
            for key, metadata in assets_def.metadata_by_key.items()
            if OUTPUT_TYPE in metadata
        }
        return cls(prediction, outputs, assets_def.partitions_def)

    @property
    def have_times(self) -> bool:
        """Whether each partition has an anchor time of its own, from which it can be told."""
        has_windows = isinstance(self.partitions_def, dg.TimeWindowPartitionsDefinition)
        return has_windows and self.prediction.anchor is not None

    def partition_of(self, predicted_for: datetime | None) -> str | None:
        """The partition that predictions for a time belong to; None for assets without partitions.

        Raises:
            KumoDataError: they belong to none.
        """
        if self.partitions_def is None:
            return None
        anchor = self.prediction.anchor
        if anchor is None or not isinstance(self.partitions_def, dg.TimeWindowPartitionsDefinition):
            raise KumoDataError("which partition it is for does not follow from a time alone")
        if predicted_for is None:
            raise KumoDataError("it does not say which time it predicted for")
        key = partition_at(self.partitions_def, anchor, predicted_for)
        if key is None:
            raise KumoDataError(
                f"it predicted for {said_time(predicted_for)}, and no partition {anchor}s there"
            )
        return key


def is_launched_by_dagster(job: BatchPredictionJobResource) -> bool:
    """Whether a run launched the job, of this Dagster or of another one."""
    return LAUNCH_KEY_TAG in job.tags or RUN_ID_TAG in job.tags


def model_of(job: BatchPredictionJobResource) -> str:
    """The training job whose model a prediction job used."""
    return job.config.model_training_job_id or job.tags.get("model_id", "")


def is_meant(prediction: BatchPrediction, training_job_id: str, tags: Mapping[str, str]) -> bool:
    """Whether a definition means a model, by its id or by its tags.

    By tags it means the newest one that carries them; a job may well have used the newest of its day.
    """
    if prediction.training_job_id:
        return prediction.training_job_id == training_job_id
    wanted = prediction.training_job_tags or {}
    return all(tags.get(key) == value for key, value in wanted.items())


def check_entities(job: BatchPredictionJobResource, prediction: BatchPrediction) -> None:
    """Refuse a job whose entities are others than those that the definition asks for.

    Raises:
        KumoDataError: the job took them from another table.
    """
    other_path = job.config.pred_table_path != prediction.prediction_table_path
    table = prediction.prediction_table_job_id
    if other_path or (table is not None and job.config.pred_table_job_id != table):
        raise KumoDataError("it predicted for the entities of another prediction table")


def predicted_for(client: KumoClient, job: BatchPredictionJobResource) -> datetime | None:
    """The anchor time of a job: the one that it was asked for, or else that of its prediction table.

    None where neither is known.
    """
    config = job.config
    if config.prediction_time is not None or config.pred_table_job_id is None:
        return config.prediction_time
    try:
        return client.get_prediction_table_anchor_time(config.pred_table_job_id)
    except KumoAPIError as error:
        if error.status_code != 404:
            raise
        return None


def outputs_of(
    client: KumoClient, job: BatchPredictionJobResource, wanted: Sequence[OutputType]
) -> list[OutputType]:
    """Those of the wanted outputs that a job has. That it was asked for embeddings does not mean that
    the server has kept them, so Kumo is asked."""
    named = {str(output.get("artifact_type", "")).lower() for output in job.config.outputs}
    has: list[OutputType] = [
        output_type for output_type in wanted if output_type in (named or {"predictions"})
    ]
    if "embeddings" in has and not _has_embeddings(client, job.job_id):
        has.remove("embeddings")
    return has


def _has_embeddings(client: KumoClient, job_id: str) -> bool:
    try:
        return bool(client.get_output_urls(job_id, "embeddings"))
    except KumoAPIError as error:
        if error.status_code != 404:  # a server older than the call
            raise
        return False


def seconds_of(job: BatchPredictionJobResource) -> float | None:
    """How long a job took; None where the server does not say."""
    report = job.job_status_report
    if report.start_time is None or report.end_time is None:
        return None
    return (report.end_time - report.start_time).total_seconds()
